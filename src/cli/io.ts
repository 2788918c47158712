import type { Readable } from 'node:stream'

import { Interrupted } from './exit-codes.ts'
import { Output } from './output.ts'

/** Everything a command has to do with the process it runs in. */
export interface Io {
  /** Of bytes. */
  readonly stdin: Readable
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted, with an {@link Interrupted}, when the process is asked to end. */
  readonly signal: AbortSignal
}

/** That of this process. From here on Ctrl-C ends nothing by itself: the signal tells. A second one does. */
export function processIo(): Io {
  const stop = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => stop.abort(new Interrupted(name)))
  return {
    stdin: process.stdin,
    stdout: new Output(process.stdout, stop.signal),
    stderr: new Output(process.stderr, stop.signal),
    env: process.env,
    signal: stop.signal,
  }
}
