import { type QueuedMessage, type QueueMutation, type QueueState, weightOf, weightOfKept } from './state.ts'
import type { Outcome } from './transitions.ts'

/**
 * An index of a queue's state: the ready messages in the order of delivery, the delayed messages in
 * the order of their due times, and counts.
 *
 * Invariant: a message is in at most one of the two heaps, and a message in flight is in neither.
 */
export class MessageIndex {
  readonly #state: QueueState
  readonly #ready: Heap<number>
  readonly #delayed: Heap<number>
  /**
   * Messages whose last attempt is written although no receiver got them. Their next delivery uses
   * that attempt.
   */
  readonly #counted = new Set<number>()
  #depth = 0
  #dead = 0
  #bytes = 0
  /** A lower bound: no message has a lower id. */
  #oldest = 1

  /**
   * @param options.wallMs the time now; messages due by then are ready.
   * @param options.except ids of messages in flight.
   */
  constructor(state: QueueState, options: { readonly wallMs: number; readonly except: readonly number[] }) {
    this.#state = state
    this.#ready = new Heap((left, right) => comesBefore(this.#message(left), this.#message(right)))
    this.#delayed = new Heap((left, right) => dueAtOf(this.#message(left)) < dueAtOf(this.#message(right)))
    this.#fill(options.wallMs, new Set(options.except))
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

  /** The message that was enqueued first; undefined if there is no message. */
  get oldest(): QueuedMessage | undefined {
    const { messages, nextId } = this.#state
    while (this.#oldest < nextId && messages[this.#oldest] === undefined) this.#oldest++
    return messages[this.#oldest]
  }

  /**
   * Updates the index after a mutation has changed the state.
   *
   * @param isLeased whether a message is in flight.
   */
  follow(mutation: QueueMutation, outcome: Outcome, isLeased: (id: number) => boolean): void {
    this.#depth += outcome.depth
    this.#dead += outcome.dead
    this.#bytes += outcome.bytes
    for (const id of outcome.left) this.#counted.delete(id)
    if (mutation.op === 'purge') {
      this.#delayed.refill([])
      // Leases may have ended since the purge was decided, so some of the excepted messages may be
      // ready again.
      const back = mutation.except.filter((id) => this.#state.messages[id] !== undefined && !isLeased(id))
      this.#ready.refill(back)
    }
    for (const id of outcome.waiting) this.#wait(id)
  }

  /** Makes due messages ready. If the clock goes back, ready messages stay ready. */
  promote(wallMs: number): void {
    for (let dueAt = this.nextDueAt; dueAt !== undefined && dueAt <= wallMs; dueAt = this.nextDueAt) {
      this.#ready.push(this.#delayed.pop() as number)
    }
  }

  /** Removes and returns up to `max` ready messages. The caller must lease each or give it back. */
  take(max: number): number[] {
    const ids: number[] = []
    while (ids.length < max) {
      const id = this.#ready.pop()
      if (id === undefined) break
      ids.push(id)
    }
    return ids
  }

  /** Messages whose last attempt is written although no receiver got them. */
  get counted(): number[] {
    return [...this.#counted]
  }

  /** Those of the messages whose next attempt is not written yet. */
  uncounted(ids: readonly number[]): number[] {
    return ids.filter((id) => !this.#counted.has(id))
  }

  /** Marks the written attempts of these messages as used. Their next delivery is a new attempt. */
  use(ids: readonly number[]): void {
    for (const id of ids) this.#counted.delete(id)
  }

  /**
   * Puts messages back into their old places, as ready.
   *
   * @param options.isCounted if true, their next attempt is written already; if false, that remains
   *   as it was.
   */
  giveBack(ids: readonly number[], { isCounted = false }: { readonly isCounted?: boolean } = {}): void {
    for (const id of ids) {
      if (isCounted) this.#counted.add(id)
      this.#ready.push(id)
    }
  }

  #fill(wallMs: number, except: ReadonlySet<number>): void {
    const { messages, dead, expiring, nextId } = this.#state
    const ready: number[] = []
    const delayed: number[] = []
    let oldest = nextId
    for (const id of Object.keys(messages).map(Number)) {
      const message = this.#message(id)
      if (!except.has(id)) (dueAtOf(message) > wallMs ? delayed : ready).push(id)
      oldest = Math.min(oldest, id)
      this.#depth++
      this.#bytes += weightOf(message)
    }
    this.#ready.refill(ready)
    this.#delayed.refill(delayed)
    this.#oldest = oldest
    for (const letter of Object.values(dead)) {
      this.#dead++
      this.#bytes += weightOf(letter)
    }
    for (const { key } of expiring) this.#bytes += weightOfKept(key)
  }

  #wait(id: number): void {
    // A redriven message may be older than all others.
    this.#oldest = Math.min(this.#oldest, id)
    if (this.#message(id).dueAt === undefined) this.#ready.push(id)
    else this.#delayed.push(id)
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
  constructor(
    isBefore: (left: T, right: T) => boolean,
    moved: (item: T, position: number) => void = () => {},
  ) {
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
