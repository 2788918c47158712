import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Readable, type Writable } from 'node:stream'
import { text } from 'node:stream/consumers'

import { onTestFinished } from 'vitest'

import type { Io } from '../../src/cli/io.ts'
import { Output } from '../../src/cli/output.ts'
import { run } from '../../src/cli/run.ts'
import { editFile, numbers, writeJournal } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** The path of the built command, as a user starts it. */
export const main: string = join(import.meta.dirname, '../../dist/cli/main.js')

/** A journal of three segments, with records 1 to 3, 4 to 6, and 7 and 8. */
export async function journal(): Promise<string> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  await writeJournal(path, [numbers(1, 3), numbers(4, 6), numbers(7, 8)])
  return path
}

/** Replaces text in a file. */
export function replaceIn(path: string, old: string, by: string): Promise<void> {
  return editFile(path, (bytes) => Buffer.from(bytes.toString().replace(old, by)))
}

/** The output and exit code of a process. */
export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export type Running = ChildProcessByStdio<Writable, Readable, Readable>

/** Starts the command in a child process. The process is killed if it outlives the test. */
export function start(args: readonly string[], options: { readonly env?: NodeJS.ProcessEnv } = {}): Running {
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...process.env, NO_COLOR: '', ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  // The command may end before it has read its input, which makes a write to it fail.
  child.stdin.on('error', () => {})
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}

/** Runs the command to its end in a child process, for behaviour that needs a real process. */
export async function ministoreProcess(args: readonly string[], input: string | Uint8Array = ''): Promise<Outcome> {
  const child = start(args)
  child.stdin.end(input)
  return outcomeOf(child)
}

/** Options of a command that runs in this process. */
export interface Surroundings {
  readonly input?: string | Uint8Array
  /** Makes both outputs a terminal of this many columns. */
  readonly columns?: number
  readonly env?: Io['env']
  readonly signal?: AbortSignal
  /** The error of every write to standard output. */
  readonly stdoutFailure?: Error
}

/** Runs the command to its end in this process, as `main` would. */
export async function ministore(
  args: readonly string[],
  given: string | Uint8Array | Surroundings = {},
): Promise<Outcome> {
  const surroundings = typeof given === 'string' || given instanceof Uint8Array ? { input: given } : given
  const { input = '', columns, env = {}, signal = new AbortController().signal } = surroundings
  const printed = { stdout: '', stderr: '' }
  const output = (name: keyof typeof printed): Output => {
    const failure = name === 'stdout' ? surroundings.stdoutFailure : undefined
    const write = (piece: string | Uint8Array, done: (error?: Error) => void): boolean => {
      // Bytes are whole lines, so no character is cut.
      if (failure === undefined) printed[name] += typeof piece === 'string' ? piece : Buffer.from(piece).toString()
      done(failure)
      return true
    }
    const terminal = columns === undefined ? {} : { isTTY: true, columns }
    return new Output({ write, on: () => {}, ...terminal }, signal)
  }
  const io = {
    openStdin: () => Readable.from([Buffer.from(input)], { objectMode: false }),
    stdout: output('stdout'),
    stderr: output('stderr'),
    env,
    signal,
  }
  const code = await run(args, io)
  return { code, ...printed }
}

export async function outcomeOf(child: Running): Promise<Outcome> {
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { code, stdout, stderr }
}

/** Resolves with the output of a stream so far, as soon as it contains this text. */
export async function textUntil(stream: Readable, wanted: string): Promise<string> {
  let seen = ''
  stream.setEncoding('utf8')
  for await (const piece of stream.iterator({ destroyOnReturn: false })) {
    seen += piece as string
    if (seen.includes(wanted)) return seen
  }
  throw new Error(`Expected ${JSON.stringify(wanted)}, got ${JSON.stringify(seen)} and the end`)
}
