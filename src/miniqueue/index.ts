/**
 * A durable queue of messages in a directory: leases, attempts, delays, priorities, dead letters.
 *
 * @module
 */
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
export type { CompactionReport, StateRecovery } from '../ministate/index.ts'
export type { Backoff, BackoffFunction } from './backoff.ts'
export type { DeadEvent, NackEvent, QueueEvent } from './channels.ts'
export { type Clock, systemClock } from './clock.ts'
export type { DeadLetter } from './dead-letters.ts'
export type { MessageToEnqueue } from './enqueueing.ts'
export type { Message } from './message.ts'
export type { MessageStream } from './message-stream.ts'
export { MiniQueue } from './miniqueue.ts'
export type { QueueStats } from './queue-stats.ts'
export type {
  ConsumeOptions, EnqueueOptions, NackOptions, ProcessOptions, QueueCompactionOptions, QueueJournalOptions,
  QueueOptions, ReceiveOptions,
} from './settings.ts'
export type { Handler } from './worker.ts'
