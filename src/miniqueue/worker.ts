import { AsyncResource } from 'node:async_hooks'

import { isThenable, whenAborted } from '../async.ts'
import { hasCode, messageOf } from '../errors.ts'
import { Alarm, type Clock, RateLimit } from './clock.ts'
import { type Acknowledgement, type Delivery, isPermanent, type Message } from './delivery.ts'
import type { Dispatcher } from './dispatcher.ts'
import type { QueueLog } from './log.ts'
import type { Lease } from './leases.ts'
import { cutReason, type ProcessSettings } from './settings.ts'

/** Most acks and nacks in one write. Without a limit, many long reasons could exceed one record. */
const maxTogether = 1000
/** How long a stopped run waits for handlers whose signals have fired. */
const leaveAfterMs = 5000

/**
 * Processes one message for `process`. If it returns or resolves, the message is acked; if it
 * throws or rejects, the message is nacked. Its result is ignored.
 */
export type Handler<T> = (payload: T, message: Message<T>) => unknown

/** The parts of a queue that a worker or a stream uses. */
export interface QueueParts<T> {
  readonly log: QueueLog
  readonly dispatcher: Dispatcher
  readonly delivery: Delivery<T>
  readonly clock: Clock
}

/** Acks and nacks of handlers that have ended, to be written together. */
interface Endings {
  readonly acknowledgements: Acknowledgement[]
  readonly written: Promise<void>
}

/**
 * One run of `process`. It receives as many messages as it has free handlers, and acks or nacks
 * each message according to how its handler ends.
 *
 * A handler that ends makes room for another message. The ack or nack of the old message and the
 * delivery of the new one are one write. If other handlers end while this write waits for its turn,
 * they join it. Their next messages may then come before those of a `receive` that was called in
 * between.
 *
 * A user's own call of `ack` or `nack` never joins another, so nothing is batched behind a caller's
 * back. Here no caller waits for the acks. Joining makes one handler at a time nearly twice as
 * fast, and 32 of them more than ten times.
 */
export class Worker<T> {
  readonly #queue: QueueParts<T>
  readonly #handler: Handler<T>
  readonly #settings: ProcessSettings
  readonly #rateLimit: RateLimit | undefined
  /** For the next message that the rate allows, the end of the drain, and the end of the wait after it. */
  readonly #alarm: Alarm
  /** The next write of acks and nacks, as long as more of them can join it. */
  #endings: Endings | undefined
  /** Leases whose handlers are running or have not started. */
  readonly #running = new Set<Lease>()
  /** Leases whose handlers are pending. */
  readonly #pending = new Set<Lease>()
  /** The asynchronous context in which `process` was called. */
  readonly #scope = new AsyncResource('miniqueue.process')
  readonly #stop = new AbortController()
  /** When the signals of the messages fire, on the monotonic clock; `Infinity` before a stop. */
  #signalsAt = Number.POSITIVE_INFINITY
  /** When the run no longer waits for its handlers; `Infinity` before the signals have fired. */
  #leavesAt = Number.POSITIVE_INFINITY
  #failure: { readonly reason: unknown } | undefined
  /** Wakes `run` when a handler has ended. */
  #slotFreed: () => void = () => {}

  constructor(queue: QueueParts<T>, handler: Handler<T>, settings: ProcessSettings) {
    this.#queue = queue
    this.#handler = handler
    this.#settings = settings
    this.#rateLimit = settings.rateLimit && new RateLimit(settings.rateLimit.perSecond)
    this.#alarm = new Alarm(queue.clock, () => {
      this.#drain()
      this.#slotFreed()
    })
  }

  /**
   * Receives and handles messages until the run is stopped. Resolves once all handlers have ended,
   * or are no longer waited for; rejects then if messages could no longer be received or written.
   */
  async run(): Promise<void> {
    const { signal } = this.#settings
    const forgetSignal = signal && whenAborted(signal, () => this.stop(signal.reason))
    try {
      while (!this.#isStopped) {
        if (this.#free() > 0) await this.#receive()
        else await this.#nextFree()
      }
      while (this.#running.size > 0) await this.#nextFree()
      // Messages may have been delivered to this run while it was being stopped.
      await this.#queue.dispatcher.refundAttempts()
    } finally {
      forgetSignal?.()
      this.#alarm.clear()
    }
    if (this.#failure !== undefined) throw this.#failure.reason
  }

  /** Resolves when a handler has ended, or the rate allows another one. */
  #nextFree(): Promise<void> {
    const isRateFull = !this.#isStopped && this.#running.size < this.#settings.concurrency
    if (isRateFull && this.#rateLimit !== undefined) {
      this.#alarm.set(this.#rateLimit.nextAt - this.#queue.clock.monotonicMs(), { keepsAlive: true })
    }
    return new Promise((resolve) => (this.#slotFreed = resolve))
  }

  /**
   * Stops the run: no handler starts any more. Handlers that are pending may go on for `drainMs`,
   * then the signals of their messages fire, with the reason of the first stop. A later call may
   * shorten the drain.
   */
  stop(reason: unknown, drainMs: number = this.#settings.drainMs): void {
    this.#signalsAt = Math.min(this.#signalsAt, this.#queue.clock.monotonicMs() + drainMs)
    this.#stop.abort(reason)
    this.#drain()
    this.#slotFreed()
  }

  /** Does what is due in a stopped run, and sets the alarm for what is due next. */
  #drain(): void {
    const now = this.#queue.clock.monotonicMs()
    if (this.#signalsAt <= now && this.#leavesAt === Number.POSITIVE_INFINITY) {
      this.#leavesAt = now + leaveAfterMs
      for (const lease of this.#running) lease.stop(this.#stop.signal.reason)
    }
    if (this.#leavesAt <= now) {
      for (const lease of this.#pending) {
        this.#running.delete(lease)
        this.#queue.delivery.handlerEnded(lease)
      }
      // Their acks must fail from here on, because the messages may be delivered again.
      this.#queue.dispatcher.abandon([...this.#pending])
      this.#slotFreed()
      return
    }
    const next = this.#signalsAt <= now ? this.#leavesAt : this.#signalsAt
    const isAwaited = this.#pending.size > 0 && next > now && next < Number.POSITIVE_INFINITY
    if (isAwaited) this.#alarm.set(next - now, { keepsAlive: true })
  }

  get #isStopped(): boolean {
    return this.#stop.signal.aborted || !this.#queue.dispatcher.isOpen
  }

  /** Number of free handlers, counting `leaving` of the running ones as free. */
  #free(leaving = 0): number {
    const slots = Math.max(0, this.#settings.concurrency - this.#running.size + leaving)
    return Math.min(slots, this.#rateLimit?.free(this.#queue.clock.monotonicMs()) ?? slots)
  }

  async #receive(): Promise<void> {
    const { signal } = this.#stop
    const request = { max: () => this.#free(), waitMs: Number.POSITIVE_INFINITY, signal, isHanded: false }
    try {
      this.#start(await this.#queue.dispatcher.receive(request))
    } catch (error) {
      if (!this.#isStopped) this.#fail(error)
    }
  }

  #start(leases: readonly Lease[]): void {
    for (const lease of leases) this.#running.add(lease)
    this.#rateLimit?.note(leases.length, this.#queue.clock.monotonicMs())
    // Without this scope, the handler would run in the asynchronous context of the call that
    // brought the message, for example an `enqueue`.
    this.#scope.runInAsyncScope(() => {
      for (const lease of leases) this.#handle(lease).catch((error: unknown) => this.#fail(error))
    })
  }

  async #handle(lease: Lease): Promise<void> {
    try {
      // An earlier handler may have stopped the run.
      if (this.#isStopped) return this.#queue.dispatcher.requeue([lease])
      // The lease may have ended before the handler could start.
      if (lease.phase !== 'held') return
      const acknowledgement = await this.#run(lease)
      if (acknowledgement !== undefined) await this.#write(acknowledgement)
    } catch (error) {
      // The nack may have failed before it began, for example in `backoff`. The lease goes on.
      this.#queue.dispatcher.rearm()
      this.#report(error)
    } finally {
      this.#running.delete(lease)
      this.#slotFreed()
    }
  }

  /**
   * Runs the handler and begins the ack or nack of its message. Undefined if the lease has ended, or
   * the handler has acked or nacked the message itself.
   */
  async #run(lease: Lease): Promise<Acknowledgement | undefined> {
    const { delivery } = this.#queue
    const handed = delivery.handOut(lease, { leaseMs: this.#settings.handlerTimeoutMs })
    const message = isThenable(handed) ? await handed : handed
    if (message === undefined) {
      // Its payload does not fit the schema. If it could not be buried, its lease goes on.
      delivery.handlerEnded(lease)
      this.#queue.dispatcher.rearm()
      return undefined
    }
    if (lease.phase !== 'held' || this.#isStopped) {
      // The lease has ended, or the run was stopped, while an asynchronous schema ran.
      this.#queue.dispatcher.requeue([lease])
      return undefined
    }
    lease.isHandled = true
    this.#pending.add(lease)
    let failure: { readonly thrown: unknown } | undefined
    try {
      // Each handler has a scope of its own, so that a context that it enters does not leak into
      // the code that runs after it.
      const scope = new AsyncResource('miniqueue.handler')
      await scope.runInAsyncScope(this.#handler, undefined, message.payload, message)
    } catch (thrown) {
      failure = { thrown }
    }
    this.#pending.delete(lease)
    delivery.handlerEnded(lease)
    if (lease.phase !== 'held') return undefined
    if (failure === undefined) return delivery.ack(lease)
    const { thrown } = failure
    return delivery.nack(lease, { reason: cutReason(messageOf(thrown)), dead: isPermanent(thrown) })
  }

  /** Resolves when the ack or nack is written, or when the write has failed and was reported. */
  #write(acknowledgement: Acknowledgement): Promise<void> {
    if (this.#endings === undefined) {
      const acknowledgements: Acknowledgement[] = []
      this.#endings = { acknowledgements, written: this.#writeAll(acknowledgements) }
    }
    const { acknowledgements, written } = this.#endings
    acknowledgements.push(acknowledgement)
    if (acknowledgements.length === maxTogether) this.#endings = undefined
    return written
  }

  async #writeAll(acknowledgements: readonly Acknowledgement[]): Promise<void> {
    // Handlers that end in the same tick join this write.
    await new Promise<void>((resolve) => process.nextTick(resolve))
    const take = (): readonly Acknowledgement[] => {
      if (this.#endings?.acknowledgements === acknowledgements) this.#endings = undefined
      return acknowledgements
    }
    try {
      await this.#queue.delivery.exchange(take, {
        isHanded: false,
        max: () => this.#free(acknowledgements.length),
        isWanted: () => !this.#isStopped,
        give: (leases) => {
          // The acks are durable, but #handle removes these leases only later. The next write
          // counts the running handlers before that.
          for (const { lease } of acknowledgements) this.#running.delete(lease)
          this.#start(leases)
        },
      })
    } catch (error) {
      this.#report(error)
    }
  }

  /** Reports a failed ack or nack. The message is delivered again when its lease ends. */
  #report(error: unknown): void {
    if (this.#queue.log.hasFailed) this.#fail(error)
    // A lease that ended just before the ack is not worth a report.
    else if (!hasCode(error, 'ERR_MINISTORE_LEASE_LOST')) this.#queue.log.tell(error)
  }

  #fail(reason: unknown): void {
    this.#failure ??= { reason }
    this.stop(reason, 0)
  }
}
