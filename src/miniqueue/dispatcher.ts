import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import { Alarm, type Clock } from './clock.ts'
import { bytesOf, reasonThatFits } from './enqueueing.ts'
import { type Lease, type LeaseRequest, type ReceiveRequest, Receiver, WaitingReceivers } from './leases.ts'
import { publishDelivery, type QueueLog } from './log.ts'
import type { Messages } from './messages.ts'
import type { QueueSettings } from './settings.ts'
import { type EnqueueStep, mutationOf, type NewMessage, type QueueStep } from './state.ts'

/**
 * An enqueue of more bytes than this is not delivered in the same write. Such a write takes long
 * anyway, so a second one costs little.
 */
const maxHandOverBytes = 1024 * 1024
/** The wall clock may be set at any time, so it is read at least this often during a wait. */
const longestLookMs = 30_000
/** Time until a failed burial is retried. Its message stays in flight: it has had its last attempt. */
const buryAgainMs = 30_000

/**
 * Assigns ready messages to receivers, and ends leases and waits whose time is over.
 *
 * Invariant: a lease is granted only after the attempt is durable. A delivery decides which
 * receiver gets which message, writes that, and then grants the leases.
 */
export class Dispatcher {
  readonly #log: QueueLog
  readonly #messages: Messages
  readonly #clock: Clock
  readonly #visibilityTimeoutMs: number
  readonly #alarm: Alarm
  readonly #waiting = new WaitingReceivers()
  /** While the queue is `closing`, messages in flight may still be acked or nacked. */
  #phase: 'open' | 'closing' | 'closed' = 'open'
  #isPaused = false
  /** Whether a turn that serves waiting receivers is queued. */
  #isWaking = false
  /** Whether a turn that ends overdue waits is queued or running. */
  #isEnding = false
  /** Whether a turn that refunds attempts is queued. */
  #isRefunding = false

  constructor(log: QueueLog, settings: QueueSettings) {
    this.#log = log
    this.#messages = log.messages
    this.#clock = settings.clock
    this.#visibilityTimeoutMs = settings.visibilityTimeoutMs
    this.#alarm = new Alarm(settings.clock, () => this.#ring())
    log.onChange = () => this.changed()
    log.onFailure = (error) => this.#fail(error)
  }

  /** Whether messages are delivered. */
  get isOpen(): boolean {
    return this.#phase === 'open'
  }

  /** Whether deliveries are suspended. */
  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Suspends all deliveries, or goes on with them. */
  set isPaused(isPaused: boolean) {
    this.#isPaused = isPaused
    this.changed()
  }

  /** Whether messages in flight can no longer be acked or nacked. */
  get isClosed(): boolean {
    return this.#phase === 'closed'
  }

  /**
   * Leases messages as soon as some are ready. Resolves with an empty array if the wait ends first
   * or the queue closes.
   */
  receive(request: ReceiveRequest): Promise<Lease[]> {
    const receiver = new Receiver(request, this.#clock.monotonicMs() + request.waitMs)
    if (receiver.isWanted()) this.#serveInTurn(receiver)
    return receiver.leases
  }

  /**
   * Writes new messages and delivers them to waiting receivers with the same write, which saves one
   * fsync. Must be called in a turn.
   *
   * @param text the step as JSON.
   */
  async enqueue(step: EnqueueStep, text: string): Promise<void> {
    const ids = this.#awaited(step.messages)
    if (ids.length === 0) {
      await this.#log.commit(step, text)
      return
    }
    const deliver: QueueStep = { op: 'deliver', ids }
    const batchText = `{"op":"batch","steps":[${text},${JSON.stringify(deliver)}]}`
    await this.#log.commit({ op: 'batch', steps: [step, deliver] }, batchText)
    this.#giveToWaiting(ids)
  }

  /**
   * Writes these steps and delivers ready messages with the same write. It delivers none if other
   * receivers wait, because they come first. It also delivers none if a nack without delay is among
   * the steps, because its message may precede the ready ones. Must be called in a turn.
   */
  async deliverWith(steps: readonly QueueStep[], request: LeaseRequest): Promise<void> {
    const isToWait = this.#waiting.size > 0 || steps.some((step) => step.op === 'nack' && step.dueAt === undefined)
    await this.#deliver(request, isToWait ? 0 : request.max(), steps)
  }

  /** Makes messages that no receiver got ready again, and refunds their attempts. */
  requeue(leases: readonly Lease[]): void {
    const held = leases.filter(({ phase }) => phase === 'held')
    for (const lease of held) lease.isHanded = false
    if (held.length === 0) return
    this.#requeue(held)
    this.changed()
  }

  /**
   * Refunds attempts of messages delivered to a receiver that was gone and, while closing, of
   * prefetched messages. If the write fails, `onError` is called and the next delivery of each
   * message is that attempt. Once the process has ended, the attempt counts.
   */
  async refundAttempts(): Promise<void> {
    // This rejects only after a fatal error, which every caller of the queue is told of.
    await this.#log.inTurn(() => this.#refundAttempts()).catch(() => {})
  }

  /** Ends leases whose time is over. A message in its last attempt is buried. */
  endLeases(): void {
    const ended = this.#messages.takeEnded(this.#clock.monotonicMs())
    const dying = ended.filter(isDying)
    for (const lease of dying) lease.phase = 'lost'
    this.#requeue(ended.filter((lease) => !isDying(lease)))
    this.#log.counts.failed += ended.filter((lease) => lease.isHanded && !isDying(lease)).length
    for (const lease of ended) lease.abort(leaseLost(lease.id))
    this.#bury(dying, 'its lease ended in the last attempt').catch((error: unknown) => {
      // After a fatal error, every call rejects with it, so it needs no report.
      if (!this.#log.hasFailed) this.#log.tell(error)
    })
    this.changed()
  }

  /**
   * Ends leases now, whatever time is left: those of handlers that a stopped run no longer waits
   * for. A lease whose ack or nack is being written goes on.
   */
  abandon(leases: readonly Lease[]): void {
    const now = this.#clock.monotonicMs()
    for (const lease of leases) if (lease.phase === 'held') this.#messages.restart(lease, now)
    this.endLeases()
  }

  /** Buries messages whose process ended in their last attempt. If it rejects, `end` was called. */
  async buryExhausted(): Promise<void> {
    try {
      await this.#bury([...this.#messages.inFlight.values()], 'its process ended in the last attempt')
    } catch (error) {
      // With a full disk, the queue must still open, so that it can be emptied.
      if (isMiniStoreError(error) && !this.#log.hasFailed) return this.#log.tell(error)
      this.end()
      throw error
    }
  }

  /** Called when messages become ready or in flight. */
  changed(): void {
    this.#wake()
    this.rearm()
  }

  /** Sets the alarm for the next end of a lease or wait, or the next due message. */
  rearm(): void {
    if (this.isClosed) return
    const now = this.#clock.monotonicMs()
    const { nextLeaseEnd, nextDueAt } = this.#messages
    const waits = nextLeaseEnd === undefined ? [] : [nextLeaseEnd - now]
    const isAwaited = this.#waiting.size > 0
    if (isAwaited && !this.#isEnding) {
      waits.push(this.#waiting.nextEnd - now)
      // While no receiver waits, a message that becomes due changes nothing.
      if (nextDueAt !== undefined) waits.push(Math.min(nextDueAt - this.#clock.wallMs(), longestLookMs))
    }
    if (waits.length === 0) this.#alarm.clear()
    else this.#alarm.set(Math.min(...waits), { keepsAlive: isAwaited })
  }

  /**
   * Ends all waits and fires the signals of messages in flight, which may still be acked. Those that
   * handlers of `process` have are left to their runs.
   */
  stop(): void {
    this.#phase = 'closing'
    const closed = queueClosed()
    for (const lease of this.#messages.inFlight.values()) if (!lease.isHandled) lease.stop(closed)
    for (const receiver of this.#waiting.take()) receiver.give([])
    this.rearm()
  }

  /** Clears the alarm and refuses all further acks and nacks. */
  end(): void {
    this.#phase = 'closed'
    this.#alarm.clear()
  }

  #serveInTurn(receiver: Receiver): void {
    const turn = this.#log.inTurn(async () => {
      if (!receiver.isWanted()) return
      if (!this.isOpen) return receiver.give([])
      this.#waiting.add(receiver)
      receiver.onAnswer = () => {
        this.#waiting.delete(receiver)
        this.rearm()
      }
      // This serves receivers in order, so those that have waited longer come first.
      await this.#serveWaiting()
      if (!receiver.isWanted()) return
      if (receiver.endsAt <= this.#clock.monotonicMs()) receiver.give([])
      else this.rearm()
    })
    turn.catch((error: unknown) => receiver.reject(error))
  }

  /** Serves waiting receivers in a later turn, if a message is ready. */
  #wake(): void {
    if (this.#isWaking || this.#waiting.size === 0 || !this.#hasDeliverable) return
    this.#isWaking = true
    const turn = this.#log.inTurn(async () => {
      this.#isWaking = false
      // One receiver a turn, so that other calls get theirs in between.
      const next = this.#nextToServe()
      if (next !== undefined) await this.#serve(next)
      this.#wake()
    })
    turn.catch((error: unknown) => {
      this.#isWaking = false
      this.#fail(error as MiniStoreError)
    })
  }

  #ring(): void {
    this.#messages.promote(this.#clock.wallMs())
    this.endLeases()
    this.#endWaits()
    this.rearm()
  }

  /** Ends, in a later turn, the waits whose time is over. */
  #endWaits(): void {
    if (this.#isEnding || this.#waiting.nextEnd > this.#clock.monotonicMs()) return
    this.#isEnding = true
    const turn = this.#log.inTurn(async () => {
      const now = this.#clock.monotonicMs()
      // Messages that are ready at this moment are still in time for the waits that end.
      await this.#serveWaiting()
      this.#isEnding = false
      for (const receiver of this.#waiting.take(now)) receiver.give([])
      this.rearm()
    })
    turn.catch((error: unknown) => {
      this.#isEnding = false
      this.#fail(error as MiniStoreError)
    })
  }

  /** Ends all waits with an error. */
  #fail(error: MiniStoreError): void {
    for (const receiver of this.#waiting.take()) receiver.reject(error)
  }

  /** Delivers ready messages to waiting receivers, first come first. Must be called in a turn. */
  async #serveWaiting(): Promise<void> {
    for (let next = this.#nextToServe(); next !== undefined; next = this.#nextToServe()) await this.#serve(next)
  }

  /** The receiver to serve next; undefined if no message is ready or no receiver waits. */
  #nextToServe(): Receiver | undefined {
    this.#messages.promote(this.#clock.wallMs())
    return this.#hasDeliverable ? this.#waiting.first : undefined
  }

  get #hasDeliverable(): boolean {
    return this.#messages.hasReady && !this.#isPaused
  }

  /** Delivers ready messages to one receiver. Must be called in a turn. */
  async #serve(receiver: Receiver): Promise<void> {
    const max = receiver.max()
    if (max === 0) return receiver.give([])
    this.#waiting.delete(receiver)
    try {
      await this.#deliver(receiver, max, [])
    } catch (error) {
      receiver.reject(error)
    }
  }

  /**
   * Writes the other steps and the delivery of up to `max` ready messages, then grants the leases.
   * If the write fails, it rejects and the messages are ready again.
   */
  async #deliver(request: LeaseRequest, max: number, others: readonly QueueStep[]): Promise<void> {
    this.#messages.promote(this.#clock.wallMs())
    const ids = this.isOpen && !this.#isPaused && request.isWanted() ? this.#messages.take(max) : []
    const attempts = ids.filter((id) => !this.#messages.hasUnusedAttempt(id))
    const steps: QueueStep[] = attempts.length === 0 ? [...others] : [...others, { op: 'deliver', ids: attempts }]
    try {
      if (steps.length > 0) await this.#log.commit(mutationOf(steps))
    } catch (error) {
      this.#messages.requeue(ids)
      throw error
    }
    if (this.isOpen && request.isWanted()) {
      request.give(this.#grant(ids, request))
      // A subscriber may abort a signal, so publishing comes after the leases are granted. Before
      // that, an abort could lose messages.
      if (ids.length > 0) publishDelivery(this.#log.directory, ids)
    } else {
      this.#requeueUnused(ids)
      request.give([])
    }
    this.changed()
  }

  /** Ids, highest priority first, of the new messages that waiting receivers will get. */
  #awaited(messages: readonly NewMessage[]): number[] {
    if (this.#waiting.size === 0 || !this.isOpen || this.#isPaused || bytesOf(messages) > maxHandOverBytes) return []
    this.#messages.promote(this.#clock.wallMs())
    // Ready messages come before new ones, and waiting receivers get them in a turn of their own.
    if (this.#messages.hasReady) return []
    const { nextId } = this.#log.state
    let wanted = 0
    for (const receiver of this.#waiting) {
      wanted += receiver.max()
      if (wanted >= messages.length) break
    }
    return messages
      .map(({ priority = 0, dueAt }, place) => ({ id: nextId + place, priority, dueAt }))
      .filter(({ dueAt }) => dueAt === undefined)
      .toSorted((left, right) => right.priority - left.priority)
      .slice(0, wanted)
      .map(({ id }) => id)
  }

  /** Gives messages whose delivery is written to the receivers that still wait. */
  #giveToWaiting(ids: readonly number[]): void {
    let given = 0
    for (const receiver of this.#waiting) {
      if (given === ids.length) break
      const own = ids.slice(given, given + receiver.max())
      given += own.length
      receiver.give(this.#grant(own, receiver))
    }
    this.#requeueUnused(ids.slice(given))
    if (given > 0) publishDelivery(this.#log.directory, ids.slice(0, given))
    this.changed()
  }

  #grant(ids: readonly number[], { isHanded }: { readonly isHanded: boolean }): Lease[] {
    const beganAt = this.#clock.monotonicMs()
    const endsAt = beganAt + this.#visibilityTimeoutMs
    return ids.map((id) => this.#messages.lease(id, { isHanded, beganAt, endsAt }))
  }

  #requeue(leases: readonly Lease[]): void {
    for (const { id, isHanded } of leases) this.#messages.requeue([id], { isUnused: !isHanded })
    if (leases.some(({ isHanded }) => !isHanded)) this.#refundSoon()
  }

  /**
   * Makes messages ready again whose delivery is written and that no receiver got. The next
   * delivery uses the written attempt, unless a refund is written first.
   */
  #requeueUnused(ids: readonly number[]): void {
    if (ids.length === 0) return
    this.#messages.requeue(ids, { isUnused: true })
    this.#refundSoon()
  }

  /**
   * Refunds attempts in the next turn, not when the queue closes. A program that a signal ends may
   * never close its queue, and with few attempts its messages would become dead letters without
   * ever being seen. The price is one write for each `break` or abort.
   */
  #refundSoon(): void {
    if (this.#isRefunding) return
    this.#isRefunding = true
    this.refundAttempts().catch((error: unknown) => this.#log.tell(error))
  }

  async #refundAttempts(): Promise<void> {
    this.#isRefunding = false
    if (this.isClosed) return
    // While the queue is open, prefetched messages may still be handed out.
    const prefetched = this.isOpen ? [] : [...this.#messages.inFlight.values()].filter(({ isHanded }) => !isHanded)
    this.#messages.requeue(prefetched.map(({ id }) => id), { isUnused: true })
    const ids = this.#messages.unusedAttempts
    if (ids.length === 0) return
    try {
      await this.#log.commit({ op: 'return', ids })
      this.#messages.refunded(ids)
    } catch (error) {
      this.#log.tell(error)
    }
  }

  /** Turns messages in flight into dead letters. If the write fails, it is retried later. */
  async #bury(dying: readonly Lease[], reason: string): Promise<void> {
    if (dying.length === 0) return
    const ids = dying.map(({ id }) => id)
    const at = this.#clock.wallMs()
    try {
      await this.#log.inTurn(() => {
        const fitting = reasonThatFits(reason, { liveBytes: this.#messages.bytes, messages: ids.length })
        return this.#log.commit({ op: 'bury', ids, reason: fitting, at })
      })
    } catch (error) {
      const again = this.#clock.monotonicMs() + buryAgainMs
      for (const lease of dying) this.#messages.restart(lease, again)
      this.changed()
      throw error
    }
  }
}

/** Whether a message becomes a dead letter when this lease ends. */
function isDying({ isHanded, isLast }: Lease): boolean {
  return isHanded && isLast
}

export function queueClosed(): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_CLOSED', 'The queue is closed')
}

export function leaseLost(id: number): MiniStoreError {
  const message = `The lease of message ${id} has ended, so another receiver may have the message`
  return new MiniStoreError('ERR_MINISTORE_LEASE_LOST', message)
}
