import type { MiniStoreError } from '../errors.ts'
import { Alarm } from './alarm.ts'
import { publishDelivery } from './channels.ts'
import type { Clock } from './clock.ts'
import { type Lease, Leases } from './leases.ts'
import { LeasedMessage, type Message } from './message.ts'
import { MessageIndex } from './message-index.ts'
import { copyPayload } from './payload.ts'
import { queueClosed } from './queue-errors.ts'
import type { QueueListener, QueueLog } from './queue-log.ts'
import type { QueuedMessage, QueueMutation } from './queue-state.ts'
import { Receiver, type ReceiveRequest, Receivers } from './receivers.ts'
import type { QueueSettings } from './settings.ts'
import { type LeaseOwner, Settlement } from './settlement.ts'
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
export class Delivery<T> implements QueueListener, LeaseOwner {
  readonly settlement: Settlement
  readonly #log: QueueLog
  readonly #visibilityTimeoutMs: number
  readonly #clock: Clock
  readonly #index: MessageIndex
  readonly #leases = new Leases()
  readonly #receivers = new Receivers()
  readonly #alarm: Alarm
  /** While it is closing, what is in flight may still be settled. */
  #phase: 'open' | 'closing' | 'closed' = 'open'
  /** Whether a turn for those who wait is under way. */
  #isWaking = false

  constructor(log: QueueLog, settings: QueueSettings) {
    this.#log = log
    this.#visibilityTimeoutMs = settings.visibilityTimeoutMs
    this.#clock = settings.clock
    this.#alarm = new Alarm(settings.clock, () => this.#ring())
    this.settlement = new Settlement({ log, settings, leases: this.#leases, owner: this })
    const exhausted = this.#exhausted(settings.maxAttempts)
    this.#index = new MessageIndex(log.state, { wallMs: this.#clock.wallMs(), except: exhausted })
    // Until they are buried they are in flight, with nobody who has them.
    for (const id of exhausted) this.#grant(id, { isHanded: true }).phase = 'lost'
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

  /** Makes dead letters of those whose process has ended in their last attempt. */
  async buryExhausted(): Promise<void> {
    await this.settlement.bury([...this.#leases.all], 'its process ended in the last attempt')
  }

  follow(mutation: QueueMutation, outcome: Outcome): void {
    for (const id of outcome.left) this.#leases.release(id)
    for (const id of outcome.waiting) this.#leases.release(id)
    this.#index.follow(mutation, outcome, (id) => this.#leases.has(id))
    this.changed()
  }

  fail(error: MiniStoreError): void {
    for (const receiver of this.#receivers.takeAll()) receiver.reject(error)
  }

  /** Leases messages, once there are some. None when the wait is over, or the queue closes. */
  receive(request: ReceiveRequest): Promise<Lease[]> {
    const receiver = new Receiver(request, this.#clock.monotonicMs() + request.waitMs)
    this.#serveInTurn(receiver)
    return receiver.leases
  }

  /** Gives a leased message to whoever it is for. Its lease begins here, when it was fetched ahead. */
  handOut(lease: Lease): Message<T> {
    if (!lease.isHanded) {
      lease.isHanded = true
      this.#leases.restart(lease, this.#leaseEnd())
      this.#rearm()
    }
    const { payload, enqueuedAt } = this.#message(lease.id)
    return new LeasedMessage<T>(lease, this.settlement, { payload: copyPayload(payload) as T, enqueuedAt })
  }

  /** Takes back messages that were fetched ahead and not handed out. Writes nothing. */
  giveBack(leases: readonly Lease[]): void {
    for (const lease of leases) if (lease.phase === 'held') this.takeBack(lease)
    this.changed()
  }

  takeBack(lease: Lease): void {
    this.#leases.release(lease.id)
    this.#index.giveBack([lease.id], { isCounted: !lease.isHanded })
  }

  changed(): void {
    this.#wake()
    this.#rearm()
  }

  /** Ends all waiting and tells those who have messages; they may still settle them. */
  stop(): void {
    this.#phase = 'closing'
    const closed = queueClosed()
    for (const lease of this.#leases.all) lease.abort(closed)
    for (const receiver of this.#receivers.takeAll()) receiver.resolve([])
    this.#rearm()
  }

  /** From here on nothing happens any more. */
  end(): void {
    this.#phase = 'closed'
    this.settlement.close()
    this.#alarm.clear()
  }

  #serveInTurn(receiver: Receiver): void {
    if (receiver.isAnswered) return
    this.#log.inTurn(() => this.#serve(receiver)).catch((error: unknown) => receiver.reject(error))
  }

  /** Gives somebody what is ready; makes them wait, if they will, when nothing is. Only in a turn. */
  async #serve(receiver: Receiver): Promise<void> {
    this.#receivers.remove(receiver)
    if (receiver.isAnswered) return
    this.#index.promote(this.#clock.wallMs())
    if (!this.isOpen) receiver.resolve([])
    else if (this.#index.hasReady) await this.#deliver(receiver)
    else if (receiver.endsAt <= this.#clock.monotonicMs()) receiver.resolve([])
    else this.#park(receiver)
  }

  #park(receiver: Receiver): void {
    this.#receivers.add(receiver)
    receiver.onAnswer = () => {
      this.#receivers.remove(receiver)
      this.#rearm()
    }
    this.#rearm()
  }

  async #deliver(receiver: Receiver): Promise<void> {
    const { max, isHanded } = receiver.request
    const ids = this.#index.take(max())
    try {
      const uncounted = this.#index.uncounted(ids)
      if (uncounted.length > 0) await this.#log.commit({ op: 'deliver', ids: uncounted })
    } catch (error) {
      this.#index.giveBack(ids)
      receiver.reject(error)
      return
    }
    if (receiver.isAnswered || !this.isOpen) {
      // Whoever asked is gone. That the attempts are written is not undone, and need not be done again.
      this.#index.giveBack(ids, { isCounted: true })
      receiver.resolve([])
    } else {
      this.#index.use(ids)
      receiver.resolve(ids.map((id) => this.#grant(id, { isHanded })))
      // Whoever listens may abort: only now can that lose nothing.
      publishDelivery(this.#log.directory, ids)
    }
    this.changed()
  }

  #grant(id: number, { isHanded }: { readonly isHanded: boolean }): Lease {
    const { attempts } = this.#message(id)
    return this.#leases.grant({ id, attempt: attempts, isHanded, endsAt: this.#leaseEnd() })
  }

  #leaseEnd(): number {
    return this.#clock.monotonicMs() + this.#visibilityTimeoutMs
  }

  #ring(): void {
    this.#index.promote(this.#clock.wallMs())
    this.settlement.endOverdue()
    // A last look: what is ready at this very moment is still in time.
    for (const receiver of this.#receivers.takeOverdue(this.#clock.monotonicMs())) this.#serveInTurn(receiver)
    this.#rearm()
  }

  /** Serves those who wait, if there is something for them. */
  #wake(): void {
    if (this.#isWaking || this.#receivers.size === 0 || !this.#index.hasReady) return
    this.#isWaking = true
    const turn = this.#log.inTurn(async () => {
      this.#isWaking = false
      const { first } = this.#receivers
      if (first !== undefined) await this.#serve(first)
      this.#wake()
    })
    turn.catch((error: unknown) => {
      this.#isWaking = false
      for (const receiver of this.#receivers.takeAll()) receiver.reject(error)
    })
  }

  /** Sets the alarm for whatever comes next. */
  #rearm(): void {
    if (this.#phase === 'closed') return
    const now = this.#clock.monotonicMs()
    const { nextEnd } = this.#leases
    const { nextDueAt } = this.#index
    const isAwaited = this.#receivers.size > 0
    const waits = nextEnd === undefined ? [] : [nextEnd - now]
    if (isAwaited) {
      waits.push((this.#receivers.nextEnd ?? now) - now)
      // What is due makes no difference while nobody waits for it.
      if (nextDueAt !== undefined) waits.push(Math.min(nextDueAt - this.#clock.wallMs(), longestLookMs))
    }
    if (waits.length === 0) this.#alarm.clear()
    else this.#alarm.set(Math.min(...waits), { keepsAlive: isAwaited })
  }

  #exhausted(maxAttempts: number): number[] {
    const ids = Object.keys(this.#log.state.messages).map(Number)
    return ids.filter((id) => this.#message(id).attempts >= maxAttempts)
  }

  #message(id: number): QueuedMessage {
    return this.#log.state.messages[id] as QueuedMessage
  }
}
