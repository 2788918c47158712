import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { benchFolder, compiledFolder } from '../folders.ts'
import { firstLine } from '../packages.ts'

const run = promisify(execFile)

/** The compiled C program that measures the floor of an append, or why it is missing. */
export type CFloor = { readonly program: string } | { readonly missing: string }

/**
 * Compiles bench/floor/append-floor.c with the first compiler that succeeds: `$CC` (default: `cc`),
 * then `gcc`, then `clang`. If all fail, resolves with the reasons.
 */
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
 * Runs the compiled floor for `milliseconds` and resolves with the duration of each append, in
 * nanoseconds and in order.
 */
export async function runFloor(
  program: string,
  options: { readonly path: string; readonly bytes: number; readonly milliseconds: number },
): Promise<number[]> {
  const given = [options.path, String(options.bytes), String(options.milliseconds)]
  const { stdout } = await run(program, given, { maxBuffer: 2 ** 28 })
  return stdout.trimEnd().split('\n').map(Number)
}
