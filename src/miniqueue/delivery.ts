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

/** A wall clock may be set at any time, so nobody waits longer for it than this before another look. */
const longestLookMs = 30_000

/** How many there are of what. */
export interface DeliveryCounts {
  readonly ready: number
  readonly delayed: number
  readonly inFlight: number
  readonly dead: number
  /** The message that was enqueued first of all that are no dead letters. */
  readonly oldest: QueuedMessage | undefined
}

/**
 * Who has which message and who waits for one: all of a queue that ends with its process.
 *
 * A message is ready, delayed, or in flight on a lease. It goes from one to the other when a mutation says so
 * (in {@link follow}), when its time has come, or when it was fetched ahead and not handed out.
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
  /** While it is closing, what is in flight may still be settled. */
  #phase: 'open' | 'closing' | 'closed' = 'open'
  /** Whether a turn to take back attempts is to come. */
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
    // Until they are buried they are in flight, with nobody who has them.
    for (const lease of this.grant(exhausted, { isHanded: true })) lease.phase = 'lost'
    log.listen(this)
  }

  get isOpen(): boolean {
    return this.#phase === 'open'
  }

  get liveBytes(): number {
    return this.#index.bytes
  }

  /** Messages that wait or are in flight. */
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

  /** Makes dead letters of those whose process has ended in their last attempt. When it rejects this is over. */
  async buryExhausted(): Promise<void> {
    try {
      await this.settlement.bury([...this.#leases.all], 'its process ended in the last attempt')
    } catch (error) {
      // A full disk must not keep anybody from emptying the queue.
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

  /** As `Dispatcher.receive`. */
  receive(request: ReceiveRequest): Promise<Lease[]> {
    return this.#dispatcher.receive(request)
  }

  /** As `Dispatcher.enqueue`. */
  enqueue(step: EnqueueStep): Promise<Outcome> {
    return this.#dispatcher.enqueue(step)
  }

  /**
   * Settles messages and, with the same write, leases as many others as are wanted then. When that cannot be
   * written it rejects, and the leases go on.
   *
   * @param settlings asked for once, when the turn to write has come.
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
   * Takes back the attempts that nobody has made: of messages that were delivered to somebody who was gone, and
   * when it is closing of those that were fetched ahead. When that cannot be written it is told, and the next
   * delivery of each is that attempt; in another process it counts.
   */
  async returnUntaken(): Promise<void> {
    // It rejects when nothing can be written any more, which whoever calls is told of.
    await this.#log.inTurn(() => this.#returnUntaken()).catch(() => {})
  }

  returnLater(): void {
    if (this.#isReturning) return
    this.#isReturning = true
    this.returnUntaken().catch((error: unknown) => this.#log.tell(error))
  }

  /** Gives a leased message to whoever it is for. Its lease begins here, when it was fetched ahead. */
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

  /** Takes back messages that were not handed out. */
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

  /** Sets the alarm for whatever comes next. */
  rearm(): void {
    if (this.#phase === 'closed') return
    const now = this.#clock.monotonicMs()
    const { nextEnd } = this.#leases
    const { nextDueAt } = this.#index
    const { isAwaited, nextEnd: nextWaitEnd } = this.#dispatcher
    const waits = nextEnd === undefined ? [] : [nextEnd - now]
    if (nextWaitEnd !== undefined) {
      waits.push(nextWaitEnd - now)
      // What is due makes no difference while nobody waits for it.
      if (nextDueAt !== undefined) waits.push(Math.min(nextDueAt - this.#clock.wallMs(), longestLookMs))
    }
    if (waits.length === 0) this.#alarm.clear()
    else this.#alarm.set(Math.min(...waits), { keepsAlive: isAwaited })
  }

  /** Ends all waiting and tells those who have messages; they may still settle them. */
  stop(): void {
    this.#phase = 'closing'
    const closed = queueClosed()
    for (const lease of this.#leases.all) lease.abort(closed)
    this.#dispatcher.stop()
    this.rearm()
  }

  /** From here on nothing happens any more. */
  end(): void {
    this.#phase = 'closed'
    this.settlement.close()
    this.#alarm.clear()
  }

  async #returnUntaken(): Promise<void> {
    this.#isReturning = false
    if (this.#phase === 'closed') return
    // While it is open these may still be handed out.
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

/** A burial that failed, for want of space perhaps, is tried again after this time. */
const buryAgainMs = 30_000

/** What the settlement of leases asks of whoever delivers. */
export interface LeaseOwner {
  /** About how many bytes all that is kept is. */
  readonly liveBytes: number
  /** The messages of leases that are over are ready again. */
  takeBack(leases: readonly Lease[]): void
  /** Leases end at other times than before, or messages are ready that were not. */
  changed(): void
}

/** A lease whose time stands still until what becomes of its message is written. */
export interface Settling {
  readonly lease: Lease
  /** What is to be written; called when the turn to write has come. */
  readonly step: () => QueueStep
}

/** What is to be written for all of them, the plain acks as one. */
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

/** The ways out of a lease: acked, nacked, extended, ended, and, after too many attempts, buried. */
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
   * Stops the time of a lease whose message is done. To be written, or undone.
   *
   * @throws {MiniStoreError} when the lease is no more.
   */
  beginAck(lease: Lease): Settling {
    const { dedupeWindowMs, clock } = this.#settings
    return this.#begin(lease, () => {
      const isKept = dedupeWindowMs > 0 && this.#log.state.messages[lease.id]?.key !== undefined
      return { op: 'ack', ids: [lease.id], ...(isKept && { keysUntil: clock.wallMs() + dedupeWindowMs }) }
    })
  }

  /** As {@link beginAck}, of one that is not done. */
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
    const endsAt = this.#now + integer('ms', ms, { most: maxMs })
    this.#assertHeld(lease)
    this.#leases.restart(lease, Math.max(lease.endsAt, endsAt))
    this.#owner.changed()
  }

  /** Ends the leases whose time is over. */
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
      // After a fatal one everybody who calls is told.
      if (!this.#log.hasFailed) this.#log.tell(error)
    })
    this.#owner.changed()
  }

  /** Makes dead letters of messages in flight. When that fails, it is tried again later. */
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

  /** It could not be written: the leases go on with what was left of their time. */
  undo(settlings: readonly Settling[]): void {
    const now = this.#now
    for (const { lease } of settlings) this.#leases.thaw(lease, now)
    this.#owner.changed()
  }

  /** From here on no lease is valid. */
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
    // The alarm may be late, for example when something has held up the event loop.
    if (lease.phase === 'held' && lease.endsAt <= this.#now) this.endOverdue()
    // The phase may be another one now.
    const { id, phase }: Pick<Lease, 'id' | 'phase'> = lease
    if (phase === 'lost') throw leaseLost(id)
    if (phase !== 'held') throw alreadySettled(id)
  }
}
