import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

import type { Arguments } from '../arguments.ts'
import type { Command } from '../command.ts'
import { CommandFailure, exitCodeOfSignal } from '../exit-codes.ts'
import type { Io } from '../io.ts'

/** Real records for it, which only those who try it out need. */
const examplesPackage = '@octokit/webhooks-examples'

export const demo: Command = {
  name: 'demo',
  summary: 'shows what it is about: real records, a killed writer, recovery, replay',
  positionals: [],
  options: {},
  details: [`It needs the package ${examplesPackage}, which is there in a checkout.`],
  examples: ['ministore demo'],
  run: runDemo,
}

/** In a process of its own: it kills its writers, and its output goes straight to ours. */
async function runDemo(_args: Arguments, { signal: stop }: Io): Promise<number> {
  try {
    createRequire(import.meta.url).resolve(examplesPackage)
  } catch (error) {
    const message = `The demo needs ${examplesPackage}, which is not there: npm install ${examplesPackage}`
    throw new CommandFailure(message, { cause: error })
  }
  const child = spawn(process.execPath, [fileURLToPath(new URL('../demo.js', import.meta.url))], {
    stdio: 'inherit',
  })
  // Its writers end when it does.
  stop.addEventListener('abort', () => child.kill(), { once: true })
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
  stop.throwIfAborted()
  return code ?? exitCodeOfSignal(signal === 'SIGTERM' ? signal : 'SIGINT')
}
