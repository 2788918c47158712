import { MiniStoreError } from '../errors.ts'
import type { Lease } from './leases.ts'
import { type NackOptions, nackSettings, type NackSettings } from './settings.ts'

/**
 * A message that was delivered, on a lease: it is this receiver's alone until the lease ends, the visibility
 * timeout after it was handed out unless {@link extend} says otherwise.
 */
export interface Message<T = unknown> {
  /** The same in every delivery; given once. */
  readonly id: number
  /** A copy, the receiver's own. */
  readonly payload: T
  /** 1 for the first delivery. */
  readonly attempt: number
  /** By the wall clock. */
  readonly enqueuedAt: Date
  /** Fires when the lease is lost, when the queue is closed, and in a handler when `process` is stopped. */
  readonly signal: AbortSignal
  /** Milliseconds left, by the monotonic clock; 0 once it is settled or lost. */
  readonly leaseEndsInMs: number
  /**
   * Done: removes the message for good, durably when it resolves. The lease cannot end meanwhile. When
   * writing fails the lease goes on, and it may be called again. If the process dies before it resolves, the
   * message may come again.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_MESSAGE_SETTLED` the second time, `…_LEASE_LOST`, `…_CLOSED`, and
   *   what `StateManager.apply` does.
   */
  ack(): Promise<void>
  /**
   * Not done: the message comes again in its old place after a while, or, after `maxAttempts` deliveries,
   * becomes a dead letter. Durable when it resolves. Everything else as with {@link ack}.
   */
  nack(options?: NackOptions): Promise<void>
  /**
   * Makes the lease end so many milliseconds from now, unless it ends later anyway. In memory only, at once.
   *
   * @throws {MiniStoreError} as {@link ack}.
   */
  extend(ms: number): void
}

/** What a message asks of its queue. */
export interface LeaseDesk {
  remainingMs(lease: Lease): number
  ack(lease: Lease): Promise<void>
  nack(lease: Lease, options: NackSettings): Promise<void>
  extend(lease: Lease, ms: number): void
}

/** The message of a lease. */
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

/** @param more what does not fit, and the limit. */
export function queueFull(more: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_QUEUE_FULL', `The queue is full: ${more}; nothing is written`)
}

/** The error for whoever comes after, or waits, when the queue cannot know any more what is on the disk. */
export function queuePoisoned(cause: MiniStoreError): MiniStoreError {
  if (cause.code === 'ERR_MINISTORE_POISONED') return cause
  return new MiniStoreError('ERR_MINISTORE_POISONED', `Only close() works: ${cause.message}`, { cause })
}
