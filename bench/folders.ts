import { join } from 'node:path'

/** The folder `bench`, seen from the compiled files in `bench/dist`. */
export const benchFolder: string = join(import.meta.dirname, '..')

/** What was compiled: JavaScript, and the C floor. */
export const compiledFolder: string = import.meta.dirname
