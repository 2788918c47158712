#!/usr/bin/env node
import { processIo } from './io.ts'
import { run } from './run.ts'

const code = await run(process.argv.slice(2), processIo())
// Standard input may still be open and would keep the process running.
process.exit(code)
