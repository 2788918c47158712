import { type Channel, channel, type TracingChannel, tracingChannel } from 'node:diagnostics_channel'

import type { MiniStoreError } from '../errors.ts'
import type { RecoveryReport } from './recovery.ts'

/** Context of the tracing channel `ministore:append`: one append or one `appendAll`. */
export interface AppendTrace {
  readonly path: string
  /** Bytes written, line feeds included. */
  readonly bytes: number
  readonly records: number
  /** Sequence number of the last record; set when the append is durable. */
  sequence?: number
}

/** Context of the tracing channel `ministore:rotate`. */
export interface RotateTrace {
  readonly path: string
  /** Name of the segment that is sealed. */
  readonly segment: string
  /** Sequence number of the first record of the next segment. */
  readonly sequence: number
}

/** Context of the tracing channel `ministore:recover`. */
export interface RecoverTrace {
  readonly path: string
  /** Set when recovery has succeeded. */
  report?: RecoveryReport
}

/** Message of the channel `ministore:poison`. */
export interface PoisonMessage {
  readonly path: string
  readonly error: MiniStoreError
}

export const appendChannel: TracingChannel<unknown, AppendTrace> = tracingChannel('ministore:append')
export const rotateChannel: TracingChannel<unknown, RotateTrace> = tracingChannel('ministore:rotate')
export const recoverChannel: TracingChannel<unknown, RecoverTrace> = tracingChannel('ministore:recover')
export const poisonChannel: Channel<unknown, PoisonMessage> =
  channel('ministore:poison') as Channel<unknown, PoisonMessage>

/**
 * Runs a task on a tracing channel; without subscribers it is a plain call.
 *
 * What the task gives becomes part of the message, so it is a number or nothing: at anything that `JSON.stringify` throws at,
 * a subscriber that logs would end the process, since Node makes an uncaught exception of what a subscriber throws.
 */
export function traced<T extends number | void, Context extends object>(
  tracing: TracingChannel<unknown, Context>,
  context: Context,
  task: () => Promise<T>,
): Promise<T> {
  return tracing.hasSubscribers ? tracing.tracePromise(task, context) : task()
}
