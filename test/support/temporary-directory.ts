import { mkdtemp, rm } from 'node:fs/promises'
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
