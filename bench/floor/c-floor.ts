import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { benchFolder, compiledFolder } from '../folders.ts'
import { firstLine } from '../packages.ts'

const run = promisify(execFile)

/** The compiled floor of an append, or why there is none. */
export type CFloor = { readonly program: string } | { readonly missing: string }

/** Compiles bench/floor/append-floor.c with the first C compiler that is there. */
export async function compileFloor(): Promise<CFloor> {
  const source = join(benchFolder, 'floor/append-floor.c')
  const program = join(compiledFolder, 'append-floor')
  const failures: string[] = []
  for (const compiler of [process.env['CC'] ?? 'cc', 'gcc', 'clang']) {
    try {
      await run(compiler, ['-std=c99', '-O2', '-o', program, source])
      return { program }
    } catch (error) {
      failures.push(firstLine(error))
    }
  }
  return { missing: `not compiled: ${failures.join('; ')}` }
}

/**
 * How long each append of the compiled floor took, in nanoseconds, one after another for so many
 * milliseconds.
 */
export async function runFloor(
  program: string,
  options: { readonly path: string; readonly bytes: number; readonly milliseconds: number },
): Promise<number[]> {
  const given = [options.path, String(options.bytes), String(options.milliseconds)]
  const { stdout } = await run(program, given, { maxBuffer: 2 ** 28 })
  return stdout.trimEnd().split('\n').map(Number)
}
