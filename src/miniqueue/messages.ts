import { Lease } from './leases.ts'
import {
  type Outcome, type QueuedMessage, type QueueMutation, type QueueState, weightOf, weightOfKept,
} from './state.ts'

/**
 * Where each message of a queue is: ready, in the order of delivery; delayed, in the order of due
 * times; or in flight, on a lease.
 *
 * Invariant: a message is in exactly one of these places, except between `take` and `lease`.
 */
export class Messages {
  readonly #state: QueueState
  readonly #maxAttempts: number
  readonly #ready: Heap<number>
  readonly #delayed: Heap<number>
  readonly #leases = new Map<number, Lease>()
  readonly #leaseEnds = new Heap<Lease>(
    (left, right) => left.endsAt < right.endsAt,
    (lease, position) => {
      lease.position = position
    },
  )
  /**
   * Messages whose last attempt is written although no receiver got them. Their next delivery uses
   * that attempt.
   */
  readonly #unused = new Set<number>()
  #depth = 0
  #dead = 0
  #bytes = 0
  /** A lower bound: no message has a lower id. */
  #oldest: number
  /** A lower bound: no message that waits has a lower id. */
  #oldestWaiting: number

  /**
   * @param options.wallMs the time now; messages due by then are ready.
   * @param options.maxAttempts messages with this many attempts, or as many as they may have
   *   themselves, are in flight on lost leases, until they are buried. Default: `Infinity`.
   * @param options.endsAt when these leases end, on the monotonic clock.
   */
  constructor(
    state: QueueState,
    { wallMs, maxAttempts = Number.POSITIVE_INFINITY, endsAt = 0 }:
      { readonly wallMs: number; readonly maxAttempts?: number; readonly endsAt?: number },
  ) {
    this.#state = state
    this.#maxAttempts = maxAttempts
    this.#oldest = state.nextId
    this.#oldestWaiting = 1
    this.#ready = new Heap((left, right) => comesBefore(this.#message(left), this.#message(right)))
    this.#delayed = new Heap((left, right) => dueAtOf(this.#message(left)) < dueAtOf(this.#message(right)))
    const ready: number[] = []
    const delayed: number[] = []
    for (const id of Object.keys(state.messages).map(Number)) {
      const message = this.#message(id)
      if (message.attempts >= (message.maxAttempts ?? maxAttempts)) this.lease(id, { isHanded: true, beganAt: endsAt, endsAt }).phase = 'lost'
      else (dueAtOf(message) > wallMs ? delayed : ready).push(id)
      this.#oldest = Math.min(this.#oldest, id)
      this.#depth++
      this.#bytes += weightOf(message)
    }
    this.#ready.refill(ready)
    this.#delayed.refill(delayed)
    for (const letter of Object.values(state.dead)) {
      this.#dead++
      this.#bytes += weightOf(letter)
    }
    for (const { key } of state.expiring) this.#bytes += weightOfKept(key)
  }

  /** Number of messages: ready, delayed and in flight. */
  get depth(): number {
    return this.#depth
  }

  /** Number of dead letters. */
  get dead(): number {
    return this.#dead
  }

  get delayed(): number {
    return this.#delayed.size
  }

  /** The leases of the messages in flight, by id. */
  get inFlight(): ReadonlyMap<number, Lease> {
    return this.#leases
  }

  get hasReady(): boolean {
    return this.#ready.size > 0
  }

  /** Approximate size of messages, dead letters and kept keys in a snapshot, in bytes of JSON. */
  get bytes(): number {
    return this.#bytes
  }

  /** When the next delayed message is due, on the wall clock; undefined if none is delayed. */
  get nextDueAt(): number | undefined {
    const id = this.#delayed.first
    return id === undefined ? undefined : dueAtOf(this.#message(id))
  }

  /** When the next lease ends, on the monotonic clock; undefined if none ends by itself. */
  get nextLeaseEnd(): number | undefined {
    const endsAt = this.#leaseEnds.first?.endsAt
    return endsAt === Number.POSITIVE_INFINITY ? undefined : endsAt
  }

  /** When the oldest lease began, on the monotonic clock; undefined if no message is in flight. */
  get oldestLease(): number | undefined {
    let began: number | undefined
    for (const { beganAt } of this.#leases.values()) began = Math.min(began ?? beganAt, beganAt)
    return began
  }

  /** The message that was enqueued first; undefined if there is no message. */
  get oldest(): QueuedMessage | undefined {
    const { messages, nextId } = this.#state
    while (this.#oldest < nextId && messages[this.#oldest] === undefined) this.#oldest++
    return messages[this.#oldest]
  }

  /** The message that was enqueued first of those that are not in flight; undefined if there is none. */
  get oldestWaiting(): QueuedMessage | undefined {
    const { messages, nextId } = this.#state
    const waits = (id: number): boolean => messages[id] !== undefined && !this.#leases.has(id)
    while (this.#oldestWaiting < nextId && !waits(this.#oldestWaiting)) this.#oldestWaiting++
    return messages[this.#oldestWaiting]
  }

  /** Ids of delayed messages, in no order. */
  get delayedIds(): readonly number[] {
    return this.#delayed.items
  }

  /** Follows a mutation that has changed the state. */
  follow(mutation: QueueMutation, outcome: Outcome): void {
    this.#depth += outcome.depth
    this.#dead += outcome.dead
    this.#bytes += outcome.bytes
    for (const id of outcome.left) {
      // All others that leave are in flight, or are purged.
      if (mutation.op === 'cancel' && !this.#ready.delete(id)) this.#delayed.delete(id)
      this.#unused.delete(id)
      this.#endLease(id)
    }
    for (const id of outcome.waiting) this.#endLease(id)
    if (mutation.op === 'purge') {
      this.#delayed.refill([])
      // Leases may have ended since the purge was decided, so some of the excepted messages may be
      // ready again.
      const { messages } = this.#state
      this.#ready.refill(mutation.except.filter((id) => messages[id] !== undefined && !this.#leases.has(id)))
    }
    for (const id of outcome.waiting) {
      // A redriven message may be older than all others.
      this.#oldest = Math.min(this.#oldest, id)
      this.#oldestWaiting = Math.min(this.#oldestWaiting, id)
      if (this.#message(id).dueAt === undefined) this.#ready.push(id)
      else this.#delayed.push(id)
    }
  }

  /** Makes due messages ready. If the clock goes back, ready messages stay ready. */
  promote(wallMs: number): void {
    for (let dueAt = this.nextDueAt; dueAt !== undefined && dueAt <= wallMs; dueAt = this.nextDueAt) {
      this.#ready.push(this.#delayed.pop() as number)
    }
  }

  /** Removes and returns up to `max` ready messages. The caller must lease or requeue each. */
  take(max: number): number[] {
    const ids: number[] = []
    while (ids.length < max) {
      const id = this.#ready.pop()
      if (id === undefined) break
      ids.push(id)
    }
    return ids
  }

  /** Puts a message whose attempt is written in flight. */
  lease(id: number, { isHanded, beganAt, endsAt }: Pick<Lease, 'isHanded' | 'beganAt' | 'endsAt'>): Lease {
    const { attempts: attempt, maxAttempts = this.#maxAttempts } = this.#message(id)
    const lease = new Lease({ id, attempt, isHanded, isLast: attempt >= maxAttempts, beganAt, endsAt })
    this.#unused.delete(id)
    this.#leases.set(id, lease)
    this.#leaseEnds.push(lease)
    return lease
  }

  /**
   * Puts messages back into their old places, as ready, and ends their leases.
   *
   * @param options.isUnused if true, their last attempt is written and no receiver got them; if
   *   false, that remains as it was.
   */
  requeue(ids: readonly number[], { isUnused = false }: { readonly isUnused?: boolean } = {}): void {
    for (const id of ids) {
      this.#endLease(id)
      if (isUnused) this.#unused.add(id)
      this.#oldestWaiting = Math.min(this.#oldestWaiting, id)
      this.#ready.push(id)
    }
  }

  /** Messages whose last attempt is written although no receiver got them. */
  get unusedAttempts(): number[] {
    return [...this.#unused]
  }

  /** Whether the attempt that the next delivery of a message makes is written already. */
  hasUnusedAttempt(id: number): boolean {
    return this.#unused.has(id)
  }

  /** Called when the attempts are no longer written, so that the next delivery writes its own. */
  refunded(ids: readonly number[]): void {
    for (const id of ids) this.#unused.delete(id)
  }

  /** Gives a lease another end. */
  restart(lease: Lease, endsAt: number): void {
    this.#stop(lease)
    lease.endsAt = endsAt
    this.#leaseEnds.push(lease)
  }

  /**
   * Stops the time of a lease while an ack or nack is written. An ack may wait for seconds, for
   * example for a compaction. The lease must not end because of that.
   */
  pause(lease: Lease, now: number): void {
    this.#stop(lease)
    lease.leftMs = lease.endsAt - now
    lease.phase = 'writing'
  }

  /** Gives a lease that has no end, or a late one, an end at most `ms` milliseconds from now. */
  limit(lease: Lease, now: number, ms: number): void {
    if (lease.phase === 'held') this.restart(lease, Math.min(lease.endsAt, now + ms))
    else lease.leftMs = Math.min(lease.leftMs, ms)
  }

  /** Lets a paused lease go on with the time that was left. */
  resume(lease: Lease, now: number): void {
    lease.phase = 'held'
    this.restart(lease, now + lease.leftMs)
  }

  /** Stops and returns the leases whose time is over. Their messages stay in flight. */
  takeEnded(now: number): Lease[] {
    const ended: Lease[] = []
    while ((this.nextLeaseEnd ?? Number.POSITIVE_INFINITY) <= now) ended.push(this.#leaseEnds.pop() as Lease)
    return ended
  }

  #endLease(id: number): void {
    const lease = this.#leases.get(id)
    if (lease === undefined) return
    this.#stop(lease)
    this.#leases.delete(id)
    lease.phase = lease.phase === 'writing' ? 'done' : 'lost'
  }

  #stop(lease: Lease): void {
    if (lease.position >= 0) this.#leaseEnds.remove(lease.position)
  }

  #message(id: number): QueuedMessage {
    return this.#state.messages[id] as QueuedMessage
  }
}

function comesBefore(left: QueuedMessage, right: QueuedMessage): boolean {
  return left.priority === right.priority ? left.order < right.order : left.priority > right.priority
}

function dueAtOf({ dueAt = Number.NEGATIVE_INFINITY }: QueuedMessage): number {
  return dueAt
}

/** A binary heap. The order of two items must not change while they are in the heap. */
export class Heap<T> {
  readonly #isBefore: (left: T, right: T) => boolean
  readonly #moved: (item: T, position: number) => void
  #items: T[] = []

  /** @param moved called with each new position of an item, for {@link remove}; -1 if it left. */
  constructor(isBefore: (left: T, right: T) => boolean, moved: (item: T, position: number) => void = () => {}) {
    this.#isBefore = isBefore
    this.#moved = moved
  }

  get size(): number {
    return this.#items.length
  }

  /** All items, in no order. */
  get items(): readonly T[] {
    return this.#items
  }

  /** The first item; undefined if the heap is empty. */
  get first(): T | undefined {
    return this.#items[0]
  }

  push(item: T): void {
    this.#items.push(item)
    this.#rise(item, this.#items.length - 1)
  }

  /** Removes and returns the first item; undefined if the heap is empty. */
  pop(): T | undefined {
    const first = this.#items[0]
    if (first !== undefined) this.remove(0)
    return first
  }

  /** Removes the item at a position. */
  remove(position: number): void {
    const removed = this.#items[position] as T
    const last = this.#items.pop() as T
    if (position < this.#items.length) {
      this.#sink(last, position)
      if (this.#items[position] === last) this.#rise(last, position)
    }
    this.#moved(removed, -1)
  }

  /**
   * Removes an item, in linear time, and returns whether it was there. Does not compare the item
   * with others, so its order need not be known any more.
   */
  delete(item: T): boolean {
    const position = this.#items.indexOf(item)
    if (position >= 0) this.remove(position)
    return position >= 0
  }

  /** Replaces all items, in linear time. Keeps the given array, which the caller must not use. */
  refill(items: T[]): void {
    const removed = this.#items
    this.#items = items
    for (const item of removed) this.#moved(item, -1)
    items.forEach((item, position) => this.#moved(item, position))
    for (let position = (items.length >> 1) - 1; position >= 0; position--) {
      this.#sink(items[position] as T, position)
    }
  }

  #rise(item: T, from: number): void {
    let position = from
    while (position > 0) {
      const above = (position - 1) >> 1
      const other = this.#items[above] as T
      if (!this.#isBefore(item, other)) break
      this.#put(other, position)
      position = above
    }
    this.#put(item, position)
  }

  #sink(item: T, from: number): void {
    const { length } = this.#items
    let position = from
    for (;;) {
      let below = 2 * position + 1
      if (below >= length) break
      const right = below + 1
      if (right < length && this.#isBefore(this.#items[right] as T, this.#items[below] as T)) below = right
      const other = this.#items[below] as T
      if (!this.#isBefore(other, item)) break
      this.#put(other, position)
      position = below
    }
    this.#put(item, position)
  }

  #put(item: T, position: number): void {
    this.#items[position] = item
    this.#moved(item, position)
  }
}
