import { whenAborted } from '../async.ts'
import type { MiniStoreError } from '../errors.ts'
import type { Clock } from './clock.ts'
import { bytesOf } from './enqueueing.ts'
import type { Lease } from './leases.ts'
import { publishDelivery, type QueueLog } from './log.ts'
import { Heap, type MessageIndex } from './order.ts'
import { type EnqueueStep, mutationOf, type NewMessage, type QueueStep } from './state.ts'
import type { Outcome } from './transitions.ts'

/**
 * An enqueue of more bytes than this is not delivered in the same write. Such a write takes long
 * anyway, so a second one costs little.
 */
const maxHandOverBytes = 1024 * 1024

/** A request for messages, which are leased once their delivery is written. */
export interface LeaseRequest {
  /** Maximum number of messages; called when there are some. */
  readonly max: () => number
  /** Whether the messages are still wanted. */
  readonly isWanted: () => boolean
  /** Whether the receiver gets the messages at once; false if they are prefetched. */
  readonly isHanded: boolean
  /**
   * Receives the leases synchronously when they are granted; an empty array if the messages are no
   * longer wanted.
   */
  readonly give: (leases: Lease[]) => void
}

/** The operations of the delivery that the dispatcher calls. */
export interface LeaseOffice {
  /** Whether messages are delivered. */
  readonly isOpen: boolean
  grant(ids: readonly number[], options: { readonly isHanded: boolean }): Lease[]
  /** Called when messages become ready or in flight. */
  changed(): void
  /**
   * Called when messages go back whose attempt is written but was never made.
   *
   * The attempt is taken back at once, not when the queue closes. A program that a signal ends may
   * never close its queue, and with few attempts its messages would become dead letters unseen. The
   * price is one write for each `break` or abort.
   */
  returnLater(): void
  /** Called when the ends of waits have changed. */
  rearm(): void
}

/**
 * Assigns ready messages to receivers. It decides which receiver gets which message, writes the
 * delivery, and only then grants the leases.
 */
export class Dispatcher {
  readonly #log: QueueLog
  readonly #index: MessageIndex
  readonly #clock: Clock
  readonly #office: LeaseOffice
  readonly #receivers = new Receivers()
  /** Whether a turn that serves waiting receivers is queued. */
  #isWaking = false
  /** Whether a turn that ends overdue waits is queued or running. */
  #isEnding = false

  constructor(parts: {
    readonly log: QueueLog
    readonly index: MessageIndex
    readonly clock: Clock
    readonly office: LeaseOffice
  }) {
    this.#log = parts.log
    this.#index = parts.index
    this.#clock = parts.clock
    this.#office = parts.office
  }

  /** Whether a receiver waits. */
  get isAwaited(): boolean {
    return this.#receivers.size > 0
  }

  /**
   * When the next wait must be ended, on the monotonic clock. Undefined if no receiver waits, or
   * while {@link endOverdue} is at work.
   */
  get nextEnd(): number | undefined {
    return this.#isEnding ? undefined : this.#receivers.nextEnd
  }

  /**
   * Leases messages as soon as some are ready. Resolves with an empty array if the wait ends first
   * or the queue closes.
   */
  receive(request: ReceiveRequest): Promise<Lease[]> {
    const receiver = new Receiver(request, this.#clock.monotonicMs() + request.waitMs)
    this.#serveInTurn(receiver)
    return receiver.leases
  }

  /**
   * Writes new messages and delivers them to waiting receivers with the same write, which saves one
   * fsync. Must be called in a turn.
   */
  async enqueue(step: EnqueueStep): Promise<Outcome> {
    const ids = this.#awaited(step.messages)
    const steps: QueueStep[] = ids.length === 0 ? [step] : [step, { op: 'deliver', ids }]
    const outcome = await this.#log.commit(mutationOf(steps))
    if (ids.length > 0) this.#giveToWaiting(ids)
    return outcome
  }

  /**
   * Writes these steps and delivers ready messages with the same write. It delivers none if other
   * receivers wait, because they come first. It also delivers none if a nack without delay is among
   * the steps, because its message may precede the ready ones. Must be called in a turn.
   */
  async deliverWith(steps: readonly QueueStep[], request: LeaseRequest): Promise<void> {
    const isToWait = this.isAwaited || steps.some((step) => step.op === 'nack' && step.dueAt === undefined)
    await this.#lease({ ...request, max: isToWait ? () => 0 : request.max }, steps)
  }

  /** Serves waiting receivers in a later turn, if a message is ready. */
  wake(): void {
    if (this.#isWaking || !this.isAwaited || !this.#index.hasReady) return
    this.#isWaking = true
    const turn = this.#log.inTurn(async () => {
      this.#isWaking = false
      const next = this.#nextToServe()
      if (next !== undefined) await this.#serve(next)
      this.wake()
    })
    turn.catch((error: unknown) => {
      this.#isWaking = false
      this.fail(error as MiniStoreError)
    })
  }

  /** Ends, in a later turn, the waits whose time is over. */
  endOverdue(): void {
    const { nextEnd } = this
    if (nextEnd === undefined || nextEnd > this.#clock.monotonicMs()) return
    this.#isEnding = true
    const turn = this.#log.inTurn(async () => {
      const now = this.#clock.monotonicMs()
      // Messages that are ready at this moment are still in time for the waits that end.
      await this.#serveWaiting()
      this.#isEnding = false
      for (const receiver of this.#receivers.takeOverdue(now)) receiver.resolve([])
      this.#office.rearm()
    })
    turn.catch((error: unknown) => {
      this.#isEnding = false
      this.fail(error as MiniStoreError)
    })
  }

  /** Ends all waits with an empty array. */
  stop(): void {
    for (const receiver of this.#receivers.takeAll()) receiver.resolve([])
  }

  /** Ends all waits with an error. */
  fail(error: MiniStoreError): void {
    for (const receiver of this.#receivers.takeAll()) receiver.reject(error)
  }

  #serveInTurn(receiver: Receiver): void {
    if (receiver.isAnswered) return
    const turn = this.#log.inTurn(async () => {
      if (receiver.isAnswered) return
      if (!this.#office.isOpen) return receiver.resolve([])
      this.#receivers.add(receiver)
      receiver.onAnswer = () => {
        this.#receivers.remove(receiver)
        this.#office.rearm()
      }
      // This serves receivers in order, so those that have waited longer come first.
      await this.#serveWaiting()
      if (receiver.isAnswered) return
      if (receiver.endsAt <= this.#clock.monotonicMs()) receiver.resolve([])
      else this.#office.rearm()
    })
    turn.catch((error: unknown) => receiver.reject(error))
  }

  /** Delivers ready messages to waiting receivers, first come first. Must be called in a turn. */
  async #serveWaiting(): Promise<void> {
    for (let next = this.#nextToServe(); next !== undefined; next = this.#nextToServe()) await this.#serve(next)
  }

  /** The receiver to serve next; undefined if no message is ready or no receiver waits. */
  #nextToServe(): Receiver | undefined {
    this.#index.promote(this.#clock.wallMs())
    return this.#index.hasReady ? this.#receivers.first : undefined
  }

  /** Delivers ready messages to one receiver. Must be called in a turn. */
  async #serve(receiver: Receiver): Promise<void> {
    if (receiver.request.max() === 0) return receiver.resolve([])
    this.#receivers.remove(receiver)
    const { max, isHanded } = receiver.request
    const give = (leases: Lease[]): void => receiver.resolve(leases)
    try {
      await this.#lease({ max, isHanded, isWanted: () => !receiver.isAnswered, give }, [])
    } catch (error) {
      receiver.reject(error)
    }
  }

  /**
   * Writes the other steps and the delivery of ready messages, then grants the leases. If the write
   * fails, it rejects and the messages are ready again.
   */
  async #lease(request: LeaseRequest, others: readonly QueueStep[]): Promise<void> {
    const { max, isWanted, isHanded, give } = request
    const isToBeHad = (): boolean => this.#office.isOpen && isWanted()
    this.#index.promote(this.#clock.wallMs())
    const ids = isToBeHad() ? this.#index.take(max()) : []
    const uncounted = this.#index.uncounted(ids)
    const steps = [...others]
    if (uncounted.length > 0) steps.push({ op: 'deliver', ids: uncounted })
    try {
      if (steps.length > 0) await this.#log.commit(mutationOf(steps))
    } catch (error) {
      this.#index.giveBack(ids)
      throw error
    }
    if (isToBeHad()) {
      this.#index.use(ids)
      give(this.#office.grant(ids, { isHanded }))
      // A subscriber may abort a signal, so publishing comes after the leases are granted. Before
      // that, an abort could lose messages.
      if (ids.length > 0) publishDelivery(this.#log.directory, ids)
    } else {
      // The messages are no longer wanted, so the attempts that were written are taken back.
      this.#giveBackCounted(ids)
      give([])
    }
    this.#office.changed()
  }

  /** Ids, highest priority first, of the new messages that waiting receivers will get. */
  #awaited(messages: readonly NewMessage[]): number[] {
    if (!this.isAwaited || !this.#office.isOpen) return []
    if (bytesOf(messages) > maxHandOverBytes) return []
    this.#index.promote(this.#clock.wallMs())
    // Ready messages come before new ones, and waiting receivers get them in a turn of their own.
    if (this.#index.hasReady) return []
    const { nextId } = this.#log.state
    let wanted = 0
    for (const { request } of this.#receivers.all) {
      wanted += request.max()
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
    let rest = ids
    for (const receiver of this.#receivers.all) {
      if (rest.length === 0) break
      const own = rest.slice(0, receiver.request.max())
      rest = rest.slice(own.length)
      receiver.resolve(this.#office.grant(own, { isHanded: receiver.request.isHanded }))
    }
    this.#giveBackCounted(rest)
    const given = ids.slice(0, ids.length - rest.length)
    if (given.length > 0) publishDelivery(this.#log.directory, given)
    this.#office.changed()
  }

  /**
   * Gives messages back whose delivery is written. Until a `return` takes the attempt back, the
   * next delivery of such a message uses that attempt and writes nothing.
   */
  #giveBackCounted(ids: readonly number[]): void {
    if (ids.length === 0) return
    this.#index.giveBack(ids, { isCounted: true })
    this.#office.returnLater()
  }
}

/** A request for messages, and how long to wait for the first of them. */
export interface ReceiveRequest {
  /** Maximum number of messages; called when there are some. */
  readonly max: () => number
  /** Milliseconds to wait; with 0, only messages that are ready now are delivered. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  /** Whether the receiver gets the messages at once; false if they are prefetched. */
  readonly isHanded: boolean
}

/** A pending request for messages, until it is answered. */
export class Receiver {
  readonly request: ReceiveRequest
  /** When the wait ends, on the monotonic clock. */
  readonly endsAt: number
  readonly leases: Promise<Lease[]>
  /** Position in the heap of waiting receivers; -1 if it is not in the heap. */
  position = -1
  /** Number of receivers that were added before this one. */
  ordinal = 0
  isAnswered = false
  /** Called when the request is answered. */
  onAnswer: () => void = () => {}
  readonly #forgetSignal: () => void = () => {}
  #resolve: (leases: Lease[]) => void = () => {}
  #reject: (reason: unknown) => void = () => {}

  constructor(request: ReceiveRequest, endsAt: number) {
    this.request = request
    this.endsAt = endsAt
    this.leases = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    const { signal } = request
    if (signal !== undefined) this.#forgetSignal = whenAborted(signal, () => this.reject(signal.reason))
  }

  resolve(leases: Lease[]): void {
    this.#answer()
    this.#resolve(leases)
  }

  reject(reason: unknown): void {
    this.#answer()
    this.#reject(reason)
  }

  #answer(): void {
    this.isAnswered = true
    this.#forgetSignal()
    this.onAnswer()
  }
}

/** The receivers that wait because no message is ready, first come first. */
export class Receivers {
  readonly #waiting = new Set<Receiver>()
  #ordinal = 0
  readonly #byEnd = new Heap<Receiver>(
    (left, right) => (left.endsAt === right.endsAt ? left.ordinal < right.ordinal : left.endsAt < right.endsAt),
    (receiver, position) => {
      receiver.position = position
    },
  )

  get size(): number {
    return this.#waiting.size
  }

  /** Waiting receivers; the one that has waited longest comes first. */
  get all(): Iterable<Receiver> {
    return this.#waiting
  }

  /** The receiver that has waited longest. */
  get first(): Receiver | undefined {
    const [first] = this.#waiting
    return first
  }

  /** When the next wait ends, on the monotonic clock; undefined if no receiver waits. */
  get nextEnd(): number | undefined {
    return this.#byEnd.first?.endsAt
  }

  add(receiver: Receiver): void {
    receiver.ordinal = this.#ordinal++
    this.#waiting.add(receiver)
    this.#byEnd.push(receiver)
  }

  remove(receiver: Receiver): void {
    if (!this.#waiting.delete(receiver)) return
    this.#byEnd.remove(receiver.position)
  }

  /** Removes and returns the receivers whose wait is over. */
  takeOverdue(now: number): Receiver[] {
    const overdue: Receiver[] = []
    for (let next = this.#byEnd.first; next !== undefined && next.endsAt <= now; next = this.#byEnd.first) {
      this.remove(next)
      overdue.push(next)
    }
    return overdue
  }

  /** Removes and returns all receivers. */
  takeAll(): Receiver[] {
    const all = [...this.#waiting]
    for (const receiver of all) this.remove(receiver)
    return all
  }
}
