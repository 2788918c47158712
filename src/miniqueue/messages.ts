import {
  type Outcome, type QueuedMessage, type QueueMutation, type QueueState, weightOf, weightOfKept,
} from './state.ts'

/**
 * The lease of a message in flight. Its phase is `held` at first, and `writing` while an ack or
 * nack is written. It ends as `done` when that is durable, or as `lost` when its time runs out or
 * the message goes back to the queue.
 */
export class Lease {
  /** Id of the message. */
  readonly id: number
  /** Number of this delivery; 1 for the first. */
  readonly attempt: number
  phase: 'held' | 'writing' | 'done' | 'lost' = 'held'
  /**
   * Whether a receiver got the message. A prefetched message may never reach one.
   *
   * The lease of a prefetched message begins again when the message is handed out, so a slow
   * consumer loses nothing in its own buffer. It has a lease before that too, so a consumer that
   * hangs does not hold the message forever.
   */
  isHanded: boolean
  /**
   * Whether a handler of `process` has the message. Such a lease does not end by itself, unless the
   * handler has a time limit, and a closing queue waits for it.
   */
  isHandled = false
  /**
   * Whether its signal fired because its receiver was stopped. A nack after that is no failure, so
   * it uses up no attempt.
   */
  isStopped = false
  /** Whether the message becomes a dead letter if this attempt fails. */
  readonly isLast: boolean
  /** When the receiver got the message, or the stream prefetched it, on the monotonic clock. */
  beganAt: number
  /** When the lease ends, on the monotonic clock; `Infinity` if it does not end by itself. */
  endsAt: number
  /** Milliseconds that were left when the writing of an ack or nack began. */
  leftMs = 0
  /** Position in the heap of ends; -1 if it is not in the heap. */
  position = -1
  #controller: AbortController | undefined
  #abort: { readonly reason: unknown } | undefined

  constructor(parts: Pick<Lease, 'id' | 'attempt' | 'isHanded' | 'isLast' | 'beganAt' | 'endsAt'>) {
    this.id = parts.id
    this.attempt = parts.attempt
    this.isHanded = parts.isHanded
    this.isLast = parts.isLast
    this.beganAt = parts.beganAt
    this.endsAt = parts.endsAt
  }

  /** Created on first use, because few handlers use it. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#abort !== undefined) this.#controller.abort(this.#abort.reason)
    }
    return this.#controller.signal
  }

  /** Aborts the signal; only the first call counts. The phase of the lease does not change. */
  abort(reason: unknown): void {
    if (this.#abort !== undefined) return
    this.#abort = { reason }
    this.#controller?.abort(reason)
  }

  /** Aborts the signal because the receiver was stopped. */
  stop(reason: unknown): void {
    if (this.#abort === undefined) this.isStopped = true
    this.abort(reason)
  }
}

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

  /**
   * @param options.wallMs the time now; messages due by then are ready.
   * @param options.maxAttempts messages with this many attempts are in flight on lost leases, until
   *   they are buried. Default: none are.
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
    this.#ready = new Heap((left, right) => comesBefore(this.#message(left), this.#message(right)))
    this.#delayed = new Heap((left, right) => dueAtOf(this.#message(left)) < dueAtOf(this.#message(right)))
    const ready: number[] = []
    const delayed: number[] = []
    for (const id of Object.keys(state.messages).map(Number)) {
      const message = this.#message(id)
      if (message.attempts >= maxAttempts) this.lease(id, { isHanded: true, beganAt: endsAt, endsAt }).phase = 'lost'
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

  /** Follows a mutation that has changed the state. */
  follow(mutation: QueueMutation, outcome: Outcome): void {
    this.#depth += outcome.depth
    this.#dead += outcome.dead
    this.#bytes += outcome.bytes
    for (const id of outcome.left) {
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
    const { attempts: attempt } = this.#message(id)
    const lease = new Lease({ id, attempt, isHanded, isLast: attempt >= this.#maxAttempts, beganAt, endsAt })
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
