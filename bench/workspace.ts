import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Creates a new directory for journals in `parent`, which must exist. The directory and its
 * contents are removed when the process exits. SIGINT, SIGTERM and SIGHUP make the process exit, so
 * the directory is removed then too.
 */
export function makeWorkspace(parent: string): string {
  const directory = mkdtempSync(join(parent, 'work-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  for (const [signal, exitCode] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]] as const) {
    process.once(signal, () => process.exit(exitCode))
  }
  return directory
}
