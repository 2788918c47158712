import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

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
 * The arguments with which a runtime runs an ES module, before those of the program. Bun and Deno do
 * not know the flag `--input-type`, with which Node would take it from the command line, so it is in
 * a file that is removed when the test has finished.
 */
export async function temporaryProgram(source: string): Promise<string[]> {
  const file = join(await temporaryDirectory(), 'program.mjs')
  await writeFile(file, source)
  return [fileURLToPath(new URL('run-program.js', import.meta.url)), file]
}
