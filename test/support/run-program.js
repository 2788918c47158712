// Runs a program from outside of the checkout as if it had been started itself. Deno finds the packages
// that the library imports from the place of the first module.
import { pathToFileURL } from 'node:url'

process.argv.splice(1, 1)
await import(pathToFileURL(process.argv[1]).href)
