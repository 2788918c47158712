import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { onTestFinished } from 'vitest'

/**
 * A fresh, empty directory on the real disk, removed with its content when the test has finished.
 */
export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'ministore-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/**
 * A file with an ES module, removed when the test has finished. Bun and Deno do not know the flag
 * `--input-type`, with which Node would take such a program from the command line.
 */
export async function temporaryProgram(source: string): Promise<string> {
  const file = join(await temporaryDirectory(), 'program.mjs')
  await writeFile(file, source)
  return file
}
