/**
 * A durable queue of messages in a directory, with leases, attempts, delays, priorities and dead
 * letters.
 *
 * @module
 */
export type { KeptByJson, NotKeptByJson } from '../schema.ts'
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
export type { CompactionReport, StateRecovery } from '../ministate/index.ts'
export type { DeadEvent, NackEvent, QueueEvent } from './log.ts'
export { type Backoff, type BackoffFunction, type Clock, systemClock } from './clock.ts'
export type { MessageToEnqueue } from './enqueueing.ts'
export { type Message, PermanentFailure } from './delivery.ts'
export type { MessageStream } from './stream.ts'
export { MiniQueue } from './miniqueue.ts'
export type { DeadLetter, ListedMessage, QueueStats } from './contents.ts'
export type {
  CloseOptions, ConsumeOptions, EnqueueOptions, MessagesOptions, MessageState, NackOptions, ProcessOptions,
  QueueCompactionOptions, QueueJournalOptions, QueueOptions, RateLimitOptions, ReceiveOptions,
} from './settings.ts'
export type { Handler } from './worker.ts'
