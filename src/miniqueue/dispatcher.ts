import { whenAborted } from '../async.ts'
import type { MiniStoreError } from '../errors.ts'
import type { Clock } from './clock.ts'
import { bytesOf } from './enqueueing.ts'
import type { Lease } from './leases.ts'
import { publishDelivery, type QueueLog } from './log.ts'
import { Heap, type MessageIndex } from './order.ts'
import { type EnqueueStep, mutationOf, type NewMessage, type QueueStep } from './state.ts'
import type { Outcome } from './transitions.ts'

/** More bytes of messages are delivered with a write of their own: theirs takes its time anyway. */
const maxHandOverBytes = 1024 * 1024

/** Who is to have messages, once it is written that they were delivered. */
export interface LeaseRequest {
  /** Messages at most; asked for when there are some. */
  readonly max: () => number
  /** Whether they are still to be had. */
  readonly isWanted: () => boolean
  /** Whether they are handed on at once. */
  readonly isHanded: boolean
  /** Is given them in the very step in which they are leased; none when they are not wanted any more. */
  readonly give: (leases: Lease[]) => void
}

/** What a dispatcher asks of whoever keeps the leases. */
export interface LeaseOffice {
  /** Whether messages are delivered. */
  readonly isOpen: boolean
  grant(ids: readonly number[], options: { readonly isHanded: boolean }): Lease[]
  /** Messages are ready or in flight that were not. */
  changed(): void
  /** Messages are ready again of which an attempt is written that nobody has made. */
  returnLater(): void
  /** Other times are waited for than before. */
  rearm(): void
}

/** Brings ready messages to those who want them: decides who gets which, writes it down, and gives. */
export class Dispatcher {
  readonly #log: QueueLog
  readonly #index: MessageIndex
  readonly #clock: Clock
  readonly #office: LeaseOffice
  readonly #receivers = new Receivers()
  /** Whether a turn for those who wait is under way. */
  #isWaking = false
  /** Whether a turn for those whose time is over is under way. */
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

  /** Whether somebody waits. */
  get isAwaited(): boolean {
    return this.#receivers.size > 0
  }

  /** When the next wait is to be ended, on the monotonic clock; undefined when none is. */
  get nextEnd(): number | undefined {
    return this.#isEnding ? undefined : this.#receivers.nextEnd
  }

  /** Leases messages, once there are some. None when the wait is over, or the queue closes. */
  receive(request: ReceiveRequest): Promise<Lease[]> {
    const receiver = new Receiver(request, this.#clock.monotonicMs() + request.waitMs)
    this.#serveInTurn(receiver)
    return receiver.leases
  }

  /**
   * Writes new messages. Those who wait get them with the same write: they need not wait for one more. Only in
   * a turn.
   */
  async enqueue(step: EnqueueStep): Promise<Outcome> {
    const ids = this.#awaited(step.messages)
    const steps: QueueStep[] = ids.length === 0 ? [step] : [step, { op: 'deliver', ids }]
    const outcome = await this.#log.commit(mutationOf(steps))
    if (ids.length > 0) this.#giveToWaiting(ids)
    return outcome
  }

  /**
   * Writes these steps and, with the same write, delivers what is ready, unless others have waited for it or
   * one that comes back with these steps may be first. Only in a turn.
   */
  async deliverWith(steps: readonly QueueStep[], request: LeaseRequest): Promise<void> {
    const isToWait = this.isAwaited || steps.some((step) => step.op === 'nack' && step.dueAt === undefined)
    await this.#lease({ ...request, max: isToWait ? () => 0 : request.max }, steps)
  }

  /** Serves those who wait, if there is something for them. */
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

  /** Ends the waits whose time is over. */
  endOverdue(): void {
    const { nextEnd } = this
    if (nextEnd === undefined || nextEnd > this.#clock.monotonicMs()) return
    this.#isEnding = true
    const turn = this.#log.inTurn(async () => {
      const now = this.#clock.monotonicMs()
      // A last look: what is ready at this very moment is still in time.
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

  /** Ends all waits, with nothing. */
  stop(): void {
    for (const receiver of this.#receivers.takeAll()) receiver.resolve([])
  }

  /** Ends all waits, with an error. */
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
      // The others have waited longer.
      await this.#serveWaiting()
      if (receiver.isAnswered) return
      if (receiver.endsAt <= this.#clock.monotonicMs()) receiver.resolve([])
      else this.#office.rearm()
    })
    turn.catch((error: unknown) => receiver.reject(error))
  }

  /** Gives what is ready to those who wait, first come first. Only in a turn. */
  async #serveWaiting(): Promise<void> {
    for (let next = this.#nextToServe(); next !== undefined; next = this.#nextToServe()) await this.#serve(next)
  }

  /** Who is to have what is ready; undefined when nothing is, or nobody waits. */
  #nextToServe(): Receiver | undefined {
    this.#index.promote(this.#clock.wallMs())
    return this.#index.hasReady ? this.#receivers.first : undefined
  }

  /** Gives somebody who waits what is ready. Only in a turn. */
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

  /** When it cannot be written it rejects, and what was ready is so again. */
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
      // Whoever listens may abort: only now can that lose nothing.
      if (ids.length > 0) publishDelivery(this.#log.directory, ids)
    } else {
      // Whoever asked is gone.
      this.#giveBackCounted(ids)
      give([])
    }
    this.#office.changed()
  }

  /** Ids of those of the messages to be written next that are for somebody who waits. */
  #awaited(messages: readonly NewMessage[]): number[] {
    if (!this.isAwaited || !this.#office.isOpen) return []
    if (bytesOf(messages) > maxHandOverBytes) return []
    this.#index.promote(this.#clock.wallMs())
    // What is ready comes first, and those who wait get it in a turn of their own.
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

  /** Gives messages whose delivery is written to those who still wait. */
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

  /** Until its attempt is taken back, the next delivery of a message is the one that is written. */
  #giveBackCounted(ids: readonly number[]): void {
    if (ids.length === 0) return
    this.#index.giveBack(ids, { isCounted: true })
    this.#office.returnLater()
  }
}

/** Who wants messages, and how long they wait for the first. */
export interface ReceiveRequest {
  /** Messages at most; asked for when there are some. */
  readonly max: () => number
  /** Milliseconds; 0 takes what is there. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  /** Whether the messages are handed on at once. */
  readonly isHanded: boolean
}

/** One who wants messages, until it is answered. */
export class Receiver {
  readonly request: ReceiveRequest
  /** When the wait is over, on the monotonic clock. */
  readonly endsAt: number
  readonly leases: Promise<Lease[]>
  /** Where it lies in the heap of those who wait; -1 when it does not. */
  position = -1
  /** How many have waited before it. */
  ordinal = 0
  isAnswered = false
  /** Is told when it is answered. */
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

/** Those who wait for messages because there are none, first come first. */
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

  /** Those who wait, who has waited longest first. */
  get all(): Iterable<Receiver> {
    return this.#waiting
  }

  /** The one that has waited longest. */
  get first(): Receiver | undefined {
    const [first] = this.#waiting
    return first
  }

  /** When the next wait is over, on the monotonic clock; undefined when nobody waits. */
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

  /** Takes out those whose time is over. */
  takeOverdue(now: number): Receiver[] {
    const overdue: Receiver[] = []
    for (let next = this.#byEnd.first; next !== undefined && next.endsAt <= now; next = this.#byEnd.first) {
      this.remove(next)
      overdue.push(next)
    }
    return overdue
  }

  /** Takes out all. */
  takeAll(): Receiver[] {
    const all = [...this.#waiting]
    for (const receiver of all) this.remove(receiver)
    return all
  }
}
