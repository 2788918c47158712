import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

import { compiledFolder } from '../folders.ts'

/**
 * Runs a program of this folder in its own process, with `gc` exposed. Resolves with the first
 * message that the program sent, once the process has ended.
 *
 * @throws {Error} if the program ends without a message or with an exit code other than 0.
 */
export async function runChild<Report>(program: string, given: readonly string[]): Promise<Report> {
  const child = fork(join(compiledFolder, 'children', program), given, { execArgv: ['--expose-gc'] })
  const reports: Report[] = []
  child.on('message', (message) => reports.push(message as Report))
  const [exitCode] = (await once(child, 'close')) as [number | null]
  const [report] = reports
  if (exitCode !== 0 || report === undefined) throw new Error(`${program} ended with exit code ${exitCode}`)
  return report
}
