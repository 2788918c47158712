import { hasCode, MiniStoreError, poisonedBy } from '../errors.ts'
import type { Lease } from './leases.ts'
import { type NackOptions, nackSettings, type NackSettings } from './settings.ts'

/**
 * A delivered message with its lease. Until the lease ends, no other receiver gets the message. The
 * lease ends one visibility timeout after the message was handed out, unless {@link extend} moves
 * its end.
 */
export interface Message<T = unknown> {
  /** The id that `enqueue` gave; the same in every delivery, and never reused. */
  readonly id: number
  /** A copy; changes to it do not affect the queue. */
  readonly payload: T
  /** Number of this delivery; 1 for the first. */
  readonly attempt: number
  /** When the message was enqueued, by the wall clock. */
  readonly enqueuedAt: Date
  /**
   * Fires when the lease is lost and when the queue is closed. In a handler, it also fires when
   * `process` is stopped.
   */
  readonly signal: AbortSignal
  /**
   * Milliseconds until the lease ends, by the monotonic clock; 0 once the message is settled or the
   * lease is lost.
   */
  readonly leaseEndsInMs: number
  /**
   * Acknowledges the message, which removes it for good. The removal is durable when it resolves.
   *
   * The lease cannot end during the write. If the write fails, the lease goes on and the caller may
   * settle the message again. If the process dies before it resolves, the message may be delivered
   * again.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_MESSAGE_SETTLED` if the message is settled or being
   *   settled already; `…_LEASE_LOST`, `…_CLOSED`, and the errors of `StateManager.apply`.
   */
  ack(): Promise<void>
  /**
   * Returns the message to the queue, to be delivered again in its old place after a delay. After
   * `maxAttempts` deliveries it becomes a dead letter instead. The change is durable when it
   * resolves. Lease, failures and crashes are as for {@link ack}.
   *
   * @throws {MiniStoreError} the errors of {@link ack}.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  nack(options?: NackOptions): Promise<void>
  /**
   * Sets the end of the lease to `ms` milliseconds from now, unless the lease ends later already.
   * It takes effect at once and is kept in memory only.
   *
   * @param ms a whole number from 1 to 10^13.
   * @throws {MiniStoreError} `ERR_MINISTORE_MESSAGE_SETTLED`, `…_LEASE_LOST` or `…_CLOSED`.
   * @throws {TypeError | RangeError} if `ms` is invalid.
   */
  extend(ms: number): void
}

/** The operations of the queue that a message calls. */
export interface LeaseDesk {
  remainingMs(lease: Lease): number
  ack(lease: Lease): Promise<void>
  nack(lease: Lease, options: NackSettings): Promise<void>
  extend(lease: Lease, ms: number): void
}

/** A message that settles and extends its lease through the queue. */
export class LeasedMessage<T> implements Message<T> {
  readonly id: number
  readonly payload: T
  readonly attempt: number
  readonly enqueuedAt: Date
  readonly #lease: Lease
  readonly #desk: LeaseDesk

  constructor(lease: Lease, desk: LeaseDesk, parts: { readonly payload: T; readonly enqueuedAt: number }) {
    this.id = lease.id
    this.payload = parts.payload
    this.attempt = lease.attempt
    this.enqueuedAt = new Date(parts.enqueuedAt)
    this.#lease = lease
    this.#desk = desk
  }

  get signal(): AbortSignal {
    return this.#lease.signal
  }

  get leaseEndsInMs(): number {
    return this.#desk.remainingMs(this.#lease)
  }

  ack(): Promise<void> {
    return this.#desk.ack(this.#lease)
  }

  async nack(options?: NackOptions): Promise<void> {
    await this.#desk.nack(this.#lease, nackSettings(options))
  }

  extend(ms: number): void {
    this.#desk.extend(this.#lease, ms)
  }
}

export function queueClosed(): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_CLOSED', 'The queue is closed')
}

export function alreadySettled(id: number): MiniStoreError {
  const message = `Message ${id} has been acked or nacked already, or is being so`
  return new MiniStoreError('ERR_MINISTORE_MESSAGE_SETTLED', message)
}

export function leaseLost(id: number): MiniStoreError {
  const message = `The lease of message ${id} is over: somebody else may have it by now`
  return new MiniStoreError('ERR_MINISTORE_LEASE_LOST', message)
}

export function noSuchMessage(id: number): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_NO_SUCH_MESSAGE', `There is no dead letter ${id}`)
}

/** @param more says what does not fit, and the limit. */
export function queueFull(more: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_QUEUE_FULL', `The queue is full: ${more}; nothing is written`)
}

/**
 * The error for waiting and later calls once the queue no longer knows the contents of the disk.
 */
export function queuePoisoned(cause: MiniStoreError): MiniStoreError {
  return hasCode(cause, 'ERR_MINISTORE_POISONED') ? cause : poisonedBy(cause)
}
