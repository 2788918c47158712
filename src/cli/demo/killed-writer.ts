import { fork } from 'node:child_process'
import { once } from 'node:events'
import { statSync } from 'node:fs'

import { type WriterMessage, writerArgument } from './writer-process.ts'

/** When to kill the writer. */
export interface Kill {
  /** Once it began to append the record with this sequence number… */
  readonly sequence: number
  /** …and this has returned. It blocks: timers are coarser than the moments that matter. */
  readonly wait: () => void
}

/** What the parent heard of a writer. */
export interface WriterRun {
  /** Sequence numbers of its acknowledged appends, in the order of their messages. */
  readonly acknowledged: readonly number[]
  /** The append that it had begun and not acknowledged when it ended. */
  readonly inFlight: number | undefined
  /** False when it came to the end of the records. */
  readonly wasKilled: boolean
}

/**
 * Runs a writer to its end, which is that of the records or its kill.
 *
 * @param program the demo's own file, started anew as the writer.
 * @throws {Error} when the writer failed by itself.
 */
export async function runWriter(program: string, path: string, kill?: Kill): Promise<WriterRun> {
  const child = fork(program, [writerArgument, path], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const acknowledged: number[] = []
  let inFlight: number | undefined
  let failure: Error | undefined
  child.on('message', (message: WriterMessage) => {
    if (message.kind === 'begin') {
      inFlight = message.sequence
      if (message.sequence !== kill?.sequence) return
      kill.wait()
      child.kill('SIGKILL')
    } else if (message.kind === 'acknowledged') {
      inFlight = undefined
      acknowledged.push(message.sequence)
    } else {
      failure = Object.assign(new Error(`The writer failed: ${message.message}`), { code: message.code })
    }
  })
  // What the writer said just before it died is still in the pipe: all is heard when the channel has ended.
  const [[exitCode, signal]] = (await Promise.all([once(child, 'exit'), once(child, 'disconnect')])) as [
    [number | null, string | null],
    unknown,
  ]
  if (failure !== undefined) throw failure
  const wasKilled = kill !== undefined && signal === 'SIGKILL'
  if (exitCode !== 0 && !wasKilled) throw new Error(`The writer ended by itself, with ${signal ?? `exit code ${exitCode}`}`)
  return { acknowledged, inFlight, wasKilled }
}

/** Blocks for some time. */
export function waitFor(milliseconds: number): void {
  const end = performance.now() + milliseconds
  while (performance.now() < end);
}

/** Blocks until a file, which may be made and renamed meanwhile, holds so many bytes; gives up after a second. */
export function waitForBytes(path: string, bytes: number): void {
  const end = performance.now() + 1000
  while (performance.now() < end) {
    if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) >= bytes) return
  }
}
