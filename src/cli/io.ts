import { fstatSync } from 'node:fs'
import type { Readable } from 'node:stream'

import { Interrupted, UsageError } from './errors.ts'
import { Output } from './output.ts'

/** The parts of its process that a command uses. */
export interface Io {
  /**
   * Returns standard input, a stream of bytes.
   *
   * @throws {UsageError} if standard input is a directory, which would read like empty input.
   */
  openStdin(): Readable
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted with an {@link Interrupted} when the process is asked to end. */
  readonly signal: AbortSignal
}

/**
 * Returns the Io of this process. From now on the first SIGINT (Ctrl-C) or SIGTERM only aborts
 * `signal`. A second signal of the same kind ends the process.
 */
export function processIo(): Io {
  const stop = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => stop.abort(new Interrupted(name)))
  return {
    openStdin,
    stdout: new Output(process.stdout, stop.signal),
    stderr: new Output(process.stderr, stop.signal),
    env: process.env,
    signal: stop.signal,
  }
}

function openStdin(): Readable {
  if (isDirectory(stdinDescriptor)) throw new UsageError('Expected standard input to be lines of text, got a directory')
  return process.stdin
}

function isDirectory(descriptor: number): boolean {
  try {
    return fstatSync(descriptor).isDirectory()
  } catch {
    // Not every console can be queried, and no console is a directory.
    return false
  }
}

const stdinDescriptor = 0
