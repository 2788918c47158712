import { join } from 'node:path'

/** The folder `bench`. This module runs compiled, in `bench/dist`. */
export const benchFolder: string = join(import.meta.dirname, '..')

/** The folder of the compiled JavaScript and of the compiled C floor. */
export const compiledFolder: string = import.meta.dirname
