import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'

import { onTestFinished } from 'vitest'

/** The built command, as a user starts it. */
export const main: string = join(import.meta.dirname, '../../dist/cli/main.js')

/** What a process printed, and how it ended. */
export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export type Running = ChildProcessByStdio<Writable, Readable, Readable>

/** Starts it; killed when the test has finished, if it is still there. */
export function start(args: readonly string[], options: { readonly env?: NodeJS.ProcessEnv } = {}): Running {
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...process.env, NO_COLOR: '', ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  // A command may end before it has read its input.
  child.stdin.on('error', () => {})
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}

/** Runs it to its end. */
export async function ministore(args: readonly string[], input: string | Uint8Array = ''): Promise<Outcome> {
  const child = start(args)
  child.stdin.end(input)
  return outcomeOf(child)
}

export async function outcomeOf(child: Running): Promise<Outcome> {
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { code, stdout, stderr }
}

/** Resolves with what a stream has given as soon as that holds a text. */
export async function textUntil(stream: Readable, wanted: string): Promise<string> {
  let seen = ''
  stream.setEncoding('utf8')
  for await (const piece of stream.iterator({ destroyOnReturn: false })) {
    seen += piece as string
    if (seen.includes(wanted)) return seen
  }
  throw new Error(`Expected ${JSON.stringify(wanted)}, got ${JSON.stringify(seen)} and the end`)
}
