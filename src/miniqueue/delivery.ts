import { hasCode, messageOf, MiniStoreError } from '../errors.ts'
import { isThenable } from '../async.ts'
import { integer, maxMs } from '../options.ts'
import { validated } from '../schema.ts'
import { type Dispatcher, leaseLost, queueClosed } from './dispatcher.ts'
import { copyPayload, reasonThatFits } from './enqueueing.ts'
import type { QueueLog } from './log.ts'
import type { Lease, LeaseRequest } from './leases.ts'
import { cutReason, type NackOptions, nackSettings, type NackSettings, type QueueSettings } from './settings.ts'
import { mutationOf, type QueuedMessage, type QueueStep } from './state.ts'

/**
 * A delivered message with its lease. Until the lease ends, no other receiver gets the message. The
 * lease ends one visibility timeout after the message was handed out, unless {@link extend} moves
 * its end.
 */
export interface Message<T = unknown> {
  /** The id that `enqueue` gave; the same in every delivery, and never reused. */
  readonly id: number
  /** A copy, or the output of the schema; changes to it do not affect the queue. */
  readonly payload: T
  /** Number of this delivery; 1 for the first. */
  readonly attempt: number
  /** When the message was enqueued, by the wall clock. */
  readonly enqueuedAt: Date
  /** The `headers` of `enqueue`; empty without any. A copy. */
  readonly headers: Readonly<Record<string, string>>
  /**
   * Fires when the lease is lost and when the queue is closed. In a handler, it fires when the
   * lease is lost, and when `process` or the queue is stopped and its `drainMs` have passed.
   *
   * A nack after a stop has fired it uses up no attempt.
   */
  readonly signal: AbortSignal
  /**
   * Milliseconds until the lease ends, by the monotonic clock; `Infinity` in a handler without
   * `handlerTimeoutMs`. 0 once the message is acked or nacked, or the lease is lost.
   */
  readonly leaseEndsInMs: number
  /**
   * Acknowledges the message, which removes it for good. The removal is durable when it resolves.
   *
   * The lease cannot end during the write. If the write fails, the lease goes on and the caller may
   * repeat the call. If the process dies before it resolves, the message may be delivered again.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_MESSAGE_SETTLED` if an ack or nack was written or is
   *   being written; `…_LEASE_LOST`, `…_CLOSED`, and the errors of `StateManager.apply`.
   */
  ack(): Promise<void>
  /**
   * Returns the message to the queue, to be delivered again in its old place after a delay. After
   * `maxAttempts` deliveries, with `dead`, or if `backoff` says so, it becomes a dead letter
   * instead. The change is durable when it resolves. Lease, failures and crashes are as for
   * {@link ack}.
   *
   * If a stop has fired the {@link signal}, the attempt is refunded with the same write, and
   * without `delayMs` the message is ready at once.
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

/** An ack or nack. Until it is written, the time of the lease stands still. */
export interface Acknowledgement {
  readonly lease: Lease
  /** Decides what to write; called when the turn to write has come. */
  readonly steps: () => readonly QueueStep[]
}

/** Marks failures of every copy of this library, in every realm. */
const permanentMark = Symbol.for('@mini-ts/ministore.PermanentFailure')

/**
 * Thrown by a handler of `process`, makes its message a dead letter at once: further attempts would
 * fail too. Its message is the reason of the dead letter, cut to 1000 characters.
 *
 * ```ts
 * if (!isAddress(mail.to)) throw new PermanentFailure(`no such address: ${mail.to}`)
 * ```
 */
export class PermanentFailure extends Error {
  static {
    Object.defineProperty(this.prototype, 'name', { value: 'PermanentFailure' })
    Object.defineProperty(this.prototype, permanentMark, { value: true })
  }
}

/** Whether a thrown value is a {@link PermanentFailure}. Never throws. */
export function isPermanent(thrown: unknown): boolean {
  try {
    return (thrown as { readonly [mark: symbol]: unknown } | null | undefined)?.[permanentMark] === true
  } catch {
    // A revoked Proxy, or a trap that throws.
    return false
  }
}

/**
 * Hands out messages in flight, and writes their acks and nacks. A nack after the last attempt
 * buries the message.
 */
export class Delivery<T> {
  readonly #log: QueueLog
  readonly #dispatcher: Dispatcher
  readonly #settings: QueueSettings

  constructor(log: QueueLog, dispatcher: Dispatcher, settings: QueueSettings) {
    this.#log = log
    this.#dispatcher = dispatcher
    this.#settings = settings
  }

  /**
   * Makes the message for a receiver. The lease of a prefetched message begins again here. A message
   * whose payload does not fit the schema is buried; the result is then undefined. A promise only
   * for such a message, or if the schema is asynchronous.
   *
   * @param options.leaseMs how long that lease lasts. Default: the visibility timeout.
   */
  handOut(lease: Lease, { leaseMs = this.#settings.visibilityTimeoutMs }: { readonly leaseMs?: number } = {}): HandedOut<T> {
    if (!lease.isHanded) {
      lease.isHanded = true
      lease.beganAt = this.#now
      this.#log.messages.restart(lease, lease.beganAt + leaseMs)
      this.#dispatcher.rearm()
    }
    const stored = this.#log.state.messages[lease.id] as QueuedMessage
    const message = (payload: unknown): Message<T> => new LeasedMessage<T>(this, lease, { ...stored, payload })
    const { schema } = this.#settings
    const payload = copyPayload(stored.payload)
    if (schema === undefined) return message(payload)
    try {
      const valid = validated(schema, payload, () => ({ subject: 'The stored payload', context: {} }))
      if (!isThenable(valid)) return message(valid)
      return Promise.resolve(valid).then(message, (error: unknown) => this.#refuse(lease, error))
    } catch (error) {
      return this.#refuse(lease, error)
    }
  }

  /** Like {@link handOut}, for several messages. A promise only if one of them is one. */
  handOutAll(leases: readonly Lease[]): Array<Message<T>> | Promise<Array<Message<T>>> {
    const handed = leases.map((lease) => this.handOut(lease))
    const fitting = (messages: ReadonlyArray<Message<T> | undefined>): Array<Message<T>> =>
      messages.filter((message) => message !== undefined)
    return handed.some(isThenable) ? Promise.all(handed.map(async (each) => await each)).then(fitting) : fitting(handed as Array<Message<T>>)
  }

  /** Buries a message whose payload does not fit. If that cannot be written, its lease goes on. */
  async #refuse(lease: Lease, error: unknown): Promise<undefined> {
    try {
      await this.write(this.nack(lease, { dead: true, reason: cutReason(messageOf(error)) }))
    } catch (failure) {
      if (!hasCode(failure, 'ERR_MINISTORE_LEASE_LOST')) this.#log.tell(failure)
    }
  }

  /**
   * Called when the handler of a message has ended, or its run no longer waits for it. Without a
   * limit from here on, a message whose ack fails would never come again.
   */
  handlerEnded(lease: Lease): void {
    lease.isHandled = false
    if (lease.phase === 'done' || lease.phase === 'lost') return
    this.#log.messages.limit(lease, this.#now, this.#settings.visibilityTimeoutMs)
  }

  remainingMs({ phase, endsAt, leftMs }: Lease): number {
    if (this.#dispatcher.isClosed) return 0
    if (phase === 'writing') return Math.max(0, leftMs)
    return phase === 'held' ? Math.max(0, endsAt - this.#now) : 0
  }

  /** See {@link Message.extend}. */
  extend(lease: Lease, ms: number): void {
    const endsAt = this.#now + integer('ms', ms, { max: maxMs })
    this.#assertHeld(lease)
    this.#log.messages.restart(lease, Math.max(lease.endsAt, endsAt))
    this.#dispatcher.changed()
  }

  /**
   * Stops the time of the lease. The caller must {@link write} or {@link exchange} the result.
   *
   * @throws {MiniStoreError} if the lease has ended, or an ack or nack is being written.
   */
  ack(lease: Lease): Acknowledgement {
    const { dedupeWindowMs, clock } = this.#settings
    return this.#begin(lease, () => {
      const isKept = dedupeWindowMs > 0 && this.#log.state.messages[lease.id]?.key !== undefined
      return [{ op: 'ack', ids: [lease.id], ...(isKept && { keysUntil: clock.wallMs() + dedupeWindowMs }) }]
    })
  }

  /** Like {@link ack}, for a nack. */
  nack(lease: Lease, { delayMs, reason, dead = false }: NackSettings): Acknowledgement {
    this.#assertHeld(lease)
    const { id, attempt, isLast, isStopped } = lease
    const { backoff, clock } = this.#settings
    const waitMs = dead ? 'dead' : (delayMs ?? (isStopped ? 0 : backoff(attempt)))
    const fitting = (text: string): string => reasonThatFits(text, { liveBytes: this.#log.messages.bytes, messages: 1 })
    return this.#begin(lease, () => {
      const at = clock.wallMs()
      if (waitMs === 'dead' || (isLast && !isStopped)) {
        return [{ op: 'bury', ids: [id], reason: fitting(reason ?? 'nacked without a reason'), at }]
      }
      const due = waitMs > 0 && { dueAt: at + waitMs }
      const nack: QueueStep = { op: 'nack', id, ...due, ...(reason !== undefined && { reason: fitting(reason) }) }
      return isStopped ? [{ op: 'return', ids: [id] }, nack] : [nack]
    })
  }

  /** Writes an ack or nack. If the write fails, it rejects and the lease goes on. */
  async write(acknowledgement: Acknowledgement): Promise<void> {
    try {
      await this.#log.inTurn(() => this.#log.commit(mutationOf(acknowledgement.steps())))
    } catch (error) {
      this.#resume([acknowledgement])
      throw error
    }
  }

  /**
   * Writes acks and nacks and, with the same write, leases up to `request.max()` other messages. If
   * the write fails, it rejects and the leases go on.
   *
   * @param take called once, when the turn to write has come.
   */
  async exchange(take: () => readonly Acknowledgement[], request: LeaseRequest): Promise<void> {
    let taken: readonly Acknowledgement[] | undefined
    try {
      await this.#log.inTurn(async () => {
        taken = take()
        await this.#dispatcher.deliverWith(stepsOf(taken), request)
      })
    } catch (error) {
      this.#resume(taken ?? take())
      throw error
    }
  }

  #begin(lease: Lease, steps: () => readonly QueueStep[]): Acknowledgement {
    this.#assertHeld(lease)
    this.#log.messages.pause(lease, this.#now)
    this.#dispatcher.changed()
    return { lease, steps }
  }

  /** After a failed write, lets the leases go on with the time that was left. */
  #resume(acknowledgements: readonly Acknowledgement[]): void {
    const now = this.#now
    for (const { lease } of acknowledgements) this.#log.messages.resume(lease, now)
    this.#dispatcher.changed()
  }

  get #now(): number {
    return this.#settings.clock.monotonicMs()
  }

  #assertHeld(lease: Lease): void {
    const { isClosed } = this.#dispatcher
    // The alarm may be late, for example because the event loop was blocked.
    if (!isClosed && lease.phase === 'held' && lease.endsAt <= this.#now) this.#dispatcher.endLeases()
    // Read again, because endLeases() may have changed the phase.
    const { id, phase }: Pick<Lease, 'id' | 'phase'> = lease
    if (phase === 'lost') throw leaseLost(id)
    if (isClosed) throw queueClosed()
    if (phase === 'held') return
    const message = `An ack or nack of message ${id} was written before, or is being written`
    throw new MiniStoreError('ERR_MINISTORE_MESSAGE_SETTLED', message)
  }
}

/** Collects the steps of acks and nacks, with the acks that keep no key merged into one step. */
function stepsOf(acknowledgements: readonly Acknowledgement[]): QueueStep[] {
  const steps: QueueStep[] = []
  const done: number[] = []
  for (const step of acknowledgements.flatMap((acknowledgement) => acknowledgement.steps())) {
    if (step.op === 'ack' && step.keysUntil === undefined) done.push(...step.ids)
    else steps.push(step)
  }
  return done.length === 0 ? steps : [{ op: 'ack', ids: done }, ...steps]
}

/** A message for a receiver; undefined if it was buried instead. */
type HandedOut<T> = Message<T> | undefined | Promise<Message<T> | undefined>

class LeasedMessage<T> implements Message<T> {
  readonly id: number
  readonly payload: T
  readonly attempt: number
  readonly enqueuedAt: Date
  readonly headers: Readonly<Record<string, string>>
  readonly #lease: Lease
  readonly #delivery: Delivery<T>

  /** @param message the message; the payload is the receiver's own. */
  constructor(delivery: Delivery<T>, lease: Lease, { payload, enqueuedAt, headers }: QueuedMessage) {
    this.id = lease.id
    this.payload = payload as T
    this.headers = { ...headers }
    this.attempt = lease.attempt
    this.enqueuedAt = new Date(enqueuedAt)
    this.#lease = lease
    this.#delivery = delivery
  }

  get signal(): AbortSignal {
    return this.#lease.signal
  }

  get leaseEndsInMs(): number {
    return this.#delivery.remainingMs(this.#lease)
  }

  async ack(): Promise<void> {
    await this.#delivery.write(this.#delivery.ack(this.#lease))
  }

  async nack(options?: NackOptions): Promise<void> {
    await this.#delivery.write(this.#delivery.nack(this.#lease, nackSettings(options)))
  }

  extend(ms: number): void {
    this.#delivery.extend(this.#lease, ms)
  }
}
