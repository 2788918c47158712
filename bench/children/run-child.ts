import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

import { compiledFolder } from '../folders.ts'

/**
 * Runs one of the programs in this folder in a process of its own, with `gc` exposed, and resolves with the
 * one message that it sends.
 *
 * @throws {Error} when it ends without a message.
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
