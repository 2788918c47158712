import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/**
 * A fresh directory for journals below `parent`, removed with all that is in it when the process ends, also
 * when it is interrupted.
 */
export function makeWorkspace(parent: string): string {
  const directory = mkdtempSync(join(parent, 'work-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  for (const [signal, exitCode] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]] as const) {
    process.once(signal, () => process.exit(exitCode))
  }
  return directory
}
