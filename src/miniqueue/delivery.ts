import { isMiniStoreError, type MiniStoreError } from '../errors.ts'
import { integer, maxMs } from '../options.ts'
import { Alarm, type Clock } from './clock.ts'
import { Dispatcher, type LeaseOffice, type LeaseRequest, type ReceiveRequest } from './dispatcher.ts'
import { reasonThatFits } from './enqueueing.ts'
import { type Lease, Leases } from './leases.ts'
import type { QueueListener, QueueLog } from './log.ts'
import { alreadySettled, type LeaseDesk, LeasedMessage, leaseLost, type Message, queueClosed } from './message.ts'
import { MessageIndex } from './order.ts'
import { copyPayload } from './shape.ts'
import type { NackSettings, QueueSettings } from './settings.ts'
import type { EnqueueStep, QueuedMessage, QueueMutation, QueueStep } from './state.ts'
import type { Outcome } from './transitions.ts'

/** The wall clock may be set at any time, so it is read at least this often during a wait. */
const longestLookMs = 30_000

/** Message counts by state. */
export interface DeliveryCounts {
  readonly ready: number
  readonly delayed: number
  readonly inFlight: number
  readonly dead: number
  /** The message that was enqueued first, dead letters excluded. */
  readonly oldest: QueuedMessage | undefined
}

/**
 * The part of a queue that ends with its process: leases, waiting receivers and the alarm.
 *
 * A message is ready, delayed, or in flight on a lease. It changes between these when a mutation
 * says so (in {@link follow}), when its delay or lease ends, or when it goes back untaken.
 */
export class Delivery<T> implements QueueListener, LeaseOwner, LeaseOffice {
  readonly settlement: Settlement
  readonly #log: QueueLog
  readonly #visibilityTimeoutMs: number
  readonly #clock: Clock
  readonly #index: MessageIndex
  readonly #leases = new Leases()
  readonly #dispatcher: Dispatcher
  readonly #alarm: Alarm
  /** While the queue is `closing`, messages in flight may still be settled. */
  #phase: 'open' | 'closing' | 'closed' = 'open'
  /** Whether a turn that takes attempts back is queued. */
  #isReturning = false

  constructor(log: QueueLog, settings: QueueSettings) {
    this.#log = log
    this.#visibilityTimeoutMs = settings.visibilityTimeoutMs
    this.#clock = settings.clock
    this.#alarm = new Alarm(settings.clock, () => this.#ring())
    this.settlement = new Settlement({ log, settings, leases: this.#leases, owner: this })
    const exhausted = this.#exhausted(settings.maxAttempts)
    this.#index = new MessageIndex(log.state, { wallMs: this.#clock.wallMs(), except: exhausted })
    this.#dispatcher = new Dispatcher({ log, index: this.#index, clock: this.#clock, office: this })
    // Until they are buried, exhausted messages stay in flight on leases that no receiver holds.
    for (const lease of this.grant(exhausted, { isHanded: true })) lease.phase = 'lost'
    log.listen(this)
  }

  get isOpen(): boolean {
    return this.#phase === 'open'
  }

  get liveBytes(): number {
    return this.#index.bytes
  }

  /** Number of messages that wait or are in flight. */
  get depth(): number {
    return this.#index.depth
  }

  /** Ids of the messages in flight. */
  get leased(): number[] {
    return this.#leases.ids
  }

  count(): DeliveryCounts {
    this.#index.promote(this.#clock.wallMs())
    this.changed()
    const { depth, delayed, dead, oldest } = this.#index
    const inFlight = this.#leases.size
    return { ready: depth - delayed - inFlight, delayed, inFlight, dead, oldest }
  }

  /** Buries messages whose process ended in their last attempt. If it rejects, `end` was called. */
  async buryExhausted(): Promise<void> {
    try {
      await this.settlement.bury([...this.#leases.all], 'its process ended in the last attempt')
    } catch (error) {
      // With a full disk, the queue must still open, so that it can be emptied.
      if (isMiniStoreError(error) && !this.#log.hasFailed) return this.#log.tell(error)
      this.end()
      throw error
    }
  }

  follow(mutation: QueueMutation, outcome: Outcome): void {
    for (const id of outcome.left) this.#leases.release(id)
    for (const id of outcome.waiting) this.#leases.release(id)
    this.#index.follow(mutation, outcome, (id) => this.#leases.has(id))
    this.changed()
  }

  fail(error: MiniStoreError): void {
    this.#dispatcher.fail(error)
  }

  /** See `Dispatcher.receive`. */
  receive(request: ReceiveRequest): Promise<Lease[]> {
    return this.#dispatcher.receive(request)
  }

  /** See `Dispatcher.enqueue`. */
  enqueue(step: EnqueueStep): Promise<Outcome> {
    return this.#dispatcher.enqueue(step)
  }

  /**
   * Settles messages and, with the same write, leases up to `request.max()` others. If the write
   * fails, it rejects and the leases go on.
   *
   * @param settlings called once, when the turn to write has come.
   */
  async exchange(settlings: () => readonly Settling[], request: LeaseRequest): Promise<void> {
    let settled: readonly Settling[] | undefined
    try {
      await this.#log.inTurn(async () => {
        settled = settlings()
        await this.#dispatcher.deliverWith(stepsToSettle(settled), request)
      })
    } catch (error) {
      this.settlement.undo(settled ?? settlings())
      throw error
    }
  }

  /**
   * Takes back attempts of messages delivered to a receiver that was gone and, while closing, of
   * prefetched messages. If the write fails, `onError` is called and the next delivery of each
   * message is that attempt. Once the process has ended, the attempt counts.
   */
  async returnUntaken(): Promise<void> {
    // This rejects only after a fatal error, which every caller of the queue is told of.
    await this.#log.inTurn(() => this.#returnUntaken()).catch(() => {})
  }

  returnLater(): void {
    if (this.#isReturning) return
    this.#isReturning = true
    this.returnUntaken().catch((error: unknown) => this.#log.tell(error))
  }

  /** Makes the message for a receiver. The lease of a prefetched message begins again here. */
  handOut(lease: Lease): Message<T> {
    if (!lease.isHanded) {
      lease.isHanded = true
      this.#leases.restart(lease, this.#leaseEnd())
      this.rearm()
    }
    const { payload, enqueuedAt } = this.#message(lease.id)
    return new LeasedMessage<T>(lease, this.settlement, { payload: copyPayload(payload) as T, enqueuedAt })
  }

  grant(ids: readonly number[], { isHanded }: { readonly isHanded: boolean }): Lease[] {
    const endsAt = this.#leaseEnd()
    return ids.map((id) => this.#leases.grant({ id, attempt: this.#message(id).attempts, isHanded, endsAt }))
  }

  /** Makes messages that were not handed out ready again. */
  giveBack(leases: readonly Lease[]): void {
    const held = leases.filter(({ phase }) => phase === 'held')
    if (held.length === 0) return
    this.takeBack(held)
    this.changed()
  }

  takeBack(leases: readonly Lease[]): void {
    this.#takeBack(leases)
    if (leases.some(({ isHanded }) => !isHanded)) this.returnLater()
  }

  changed(): void {
    this.#dispatcher.wake()
    this.rearm()
  }

  /** Sets the alarm for the next end of a lease or wait, or the next due message. */
  rearm(): void {
    if (this.#phase === 'closed') return
    const now = this.#clock.monotonicMs()
    const { nextEnd } = this.#leases
    const { nextDueAt } = this.#index
    const { isAwaited, nextEnd: nextWaitEnd } = this.#dispatcher
    const waits = nextEnd === undefined ? [] : [nextEnd - now]
    if (nextWaitEnd !== undefined) {
      waits.push(nextWaitEnd - now)
      // While no receiver waits, a message that becomes due changes nothing.
      if (nextDueAt !== undefined) waits.push(Math.min(nextDueAt - this.#clock.wallMs(), longestLookMs))
    }
    if (waits.length === 0) this.#alarm.clear()
    else this.#alarm.set(Math.min(...waits), { keepsAlive: isAwaited })
  }

  /** Ends all waits and fires the signals of messages in flight, which may still be settled. */
  stop(): void {
    this.#phase = 'closing'
    const closed = queueClosed()
    for (const lease of this.#leases.all) lease.abort(closed)
    this.#dispatcher.stop()
    this.rearm()
  }

  /** Clears the alarm and refuses all further settling. */
  end(): void {
    this.#phase = 'closed'
    this.settlement.close()
    this.#alarm.clear()
  }

  async #returnUntaken(): Promise<void> {
    this.#isReturning = false
    if (this.#phase === 'closed') return
    // While the queue is open, prefetched messages may still be handed out.
    if (!this.isOpen) this.#takeBack([...this.#leases.all].filter(({ isHanded }) => !isHanded))
    const ids = this.#index.counted
    if (ids.length === 0) return
    try {
      await this.#log.commit({ op: 'return', ids })
      this.#index.use(ids)
    } catch (error) {
      this.#log.tell(error)
    }
  }

  #takeBack(leases: readonly Lease[]): void {
    for (const { id, isHanded } of leases) {
      this.#leases.release(id)
      this.#index.giveBack([id], { isCounted: !isHanded })
    }
  }

  #leaseEnd(): number {
    return this.#clock.monotonicMs() + this.#visibilityTimeoutMs
  }

  #ring(): void {
    this.#index.promote(this.#clock.wallMs())
    this.settlement.endOverdue()
    this.#dispatcher.endOverdue()
    this.rearm()
  }

  #exhausted(maxAttempts: number): number[] {
    const ids = Object.keys(this.#log.state.messages).map(Number)
    return ids.filter((id) => this.#message(id).attempts >= maxAttempts)
  }

  #message(id: number): QueuedMessage {
    return this.#log.state.messages[id] as QueuedMessage
  }
}

/** Time until a failed burial is retried. Its message stays in flight: it has had its last attempt. */
const buryAgainMs = 30_000

/** The operations of the delivery that the settlement calls. */
export interface LeaseOwner {
  /** Approximate size of messages, dead letters and keys in a snapshot, in bytes. */
  readonly liveBytes: number
  /** Makes the messages of ended leases ready again. */
  takeBack(leases: readonly Lease[]): void
  /** Called when a lease gets another end, or when messages become ready. */
  changed(): void
}

/** A lease whose time stands still until the ack or nack of its message is written. */
export interface Settling {
  readonly lease: Lease
  /** Decides what to write; called when the turn to write has come. */
  readonly step: () => QueueStep
}

/** Collects the steps of all settlings, with the acks that keep no key merged into one step. */
export function stepsToSettle(settlings: readonly Settling[]): QueueStep[] {
  const steps: QueueStep[] = []
  const done: number[] = []
  for (const { step: decide } of settlings) {
    const step = decide()
    if (step.op === 'ack' && step.keysUntil === undefined) done.push(...step.ids)
    else steps.push(step)
  }
  return done.length === 0 ? steps : [{ op: 'ack', ids: done }, ...steps]
}

/** Settles, extends and ends leases. After the last attempt, it buries the message. */
export class Settlement implements LeaseDesk {
  readonly #log: QueueLog
  readonly #settings: QueueSettings
  readonly #leases: Leases
  readonly #owner: LeaseOwner
  #isClosed = false

  constructor(parts: {
    readonly log: QueueLog
    readonly settings: QueueSettings
    readonly leases: Leases
    readonly owner: LeaseOwner
  }) {
    this.#log = parts.log
    this.#settings = parts.settings
    this.#leases = parts.leases
    this.#owner = parts.owner
  }

  remainingMs(lease: Lease): number {
    if (this.#isClosed) return 0
    if (lease.phase === 'settling') return Math.max(0, lease.frozenMs)
    return lease.phase === 'held' ? Math.max(0, lease.endsAt - this.#now) : 0
  }

  async ack(lease: Lease): Promise<void> {
    await this.#write(this.beginAck(lease))
  }

  async nack(lease: Lease, options: NackSettings): Promise<void> {
    await this.#write(this.beginNack(lease, options))
  }

  /**
   * Stops the time of a lease whose message is acked. The caller must write or {@link undo} it.
   *
   * @throws {MiniStoreError} if the lease is over, or its message is settled or being settled.
   */
  beginAck(lease: Lease): Settling {
    const { dedupeWindowMs, clock } = this.#settings
    return this.#begin(lease, () => {
      const isKept = dedupeWindowMs > 0 && this.#log.state.messages[lease.id]?.key !== undefined
      return { op: 'ack', ids: [lease.id], ...(isKept && { keysUntil: clock.wallMs() + dedupeWindowMs }) }
    })
  }

  /** Like {@link beginAck}, for a message that is nacked. */
  beginNack(lease: Lease, { delayMs, reason }: NackSettings): Settling {
    this.#assertHeld(lease)
    const wait = delayMs ?? this.#settings.backoff(lease.attempt)
    return this.#begin(lease, () => {
      const { id } = lease
      const at = this.#settings.clock.wallMs()
      if (lease.attempt >= this.#settings.maxAttempts) {
        return { op: 'bury', ids: [id], reason: this.#fitting(reason ?? 'nacked without a reason', 1), at }
      }
      const why = reason === undefined ? {} : { reason: this.#fitting(reason, 1) }
      return { op: 'nack', id, ...(wait > 0 && { dueAt: at + wait }), ...why }
    })
  }

  extend(lease: Lease, ms: number): void {
    const endsAt = this.#now + integer('ms', ms, { max: maxMs })
    this.#assertHeld(lease)
    this.#leases.restart(lease, Math.max(lease.endsAt, endsAt))
    this.#owner.changed()
  }

  /** Ends leases whose time is over. A message in its last attempt is buried. */
  endOverdue(): void {
    const dying: Lease[] = []
    const ended: Lease[] = []
    const now = this.#now
    for (let lease = this.#leases.popEnded(now); lease !== undefined; lease = this.#leases.popEnded(now)) {
      if (lease.isHanded && lease.attempt >= this.#settings.maxAttempts) {
        lease.phase = 'lost'
        dying.push(lease)
      } else {
        ended.push(lease)
      }
    }
    this.#owner.takeBack(ended)
    for (const lease of [...ended, ...dying]) lease.abort(leaseLost(lease.id))
    this.bury(dying, 'its lease ended in the last attempt').catch((error: unknown) => {
      // After a fatal error, every call rejects with it, so it needs no report.
      if (!this.#log.hasFailed) this.#log.tell(error)
    })
    this.#owner.changed()
  }

  /** Turns messages in flight into dead letters. If the write fails, it is retried later. */
  async bury(dying: readonly Lease[], reason: string): Promise<void> {
    if (dying.length === 0) return
    const ids = dying.map(({ id }) => id)
    const at = this.#settings.clock.wallMs()
    try {
      await this.#log.inTurn(() => this.#log.commit({ op: 'bury', ids, reason: this.#fitting(reason, ids.length), at }))
    } catch (error) {
      const again = this.#now + buryAgainMs
      for (const lease of dying) this.#leases.restart(lease, again)
      this.#owner.changed()
      throw error
    }
  }

  /** After a failed write, lets the leases go on with the time that was left. */
  undo(settlings: readonly Settling[]): void {
    const now = this.#now
    for (const { lease } of settlings) this.#leases.thaw(lease, now)
    this.#owner.changed()
  }

  /** Makes every lease invalid: settling and extending fail with `ERR_MINISTORE_CLOSED`. */
  close(): void {
    this.#isClosed = true
  }

  #fitting(reason: string, messages: number): string {
    return reasonThatFits(reason, { liveBytes: this.#owner.liveBytes, messages })
  }

  get #now(): number {
    return this.#settings.clock.monotonicMs()
  }

  #begin(lease: Lease, step: () => QueueStep): Settling {
    this.#assertHeld(lease)
    this.#leases.freeze(lease, this.#now)
    this.#owner.changed()
    return { lease, step }
  }

  async #write(settling: Settling): Promise<void> {
    try {
      await this.#log.inTurn(() => this.#log.commit(settling.step()))
    } catch (error) {
      this.undo([settling])
      throw error
    }
  }

  #assertHeld(lease: Lease): void {
    if (this.#isClosed) throw queueClosed()
    // The alarm may be late, for example because the event loop was blocked.
    if (lease.phase === 'held' && lease.endsAt <= this.#now) this.endOverdue()
    // Read again, because endOverdue() may have changed the phase.
    const { id, phase }: Pick<Lease, 'id' | 'phase'> = lease
    if (phase === 'lost') throw leaseLost(id)
    if (phase !== 'held') throw alreadySettled(id)
  }
}
