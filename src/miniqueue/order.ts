import { type QueuedMessage, type QueueMutation, type QueueState, weightOf, weightOfKept } from './state.ts'
import type { Outcome } from './transitions.ts'

/**
 * Finds in a queue's state what comes next: the messages that are ready, in the order of delivery, those that
 * are delayed, by their time, and how much of everything there is. A message in flight is in neither order.
 */
export class MessageIndex {
  readonly #state: QueueState
  readonly #ready: Heap<number>
  readonly #delayed: Heap<number>
  /**
   * Messages whose last attempt is written, though nobody was given them: the next delivery is that attempt.
   */
  readonly #counted = new Set<number>()
  #depth = 0
  #dead = 0
  #bytes = 0
  /** No message has a lower id. */
  #oldest = 1

  /**
   * @param options.wallMs what is due by then is ready.
   * @param options.except messages that are in flight.
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

  /** About how many bytes of JSON all that is kept is. */
  get bytes(): number {
    return this.#bytes
  }

  /** When the next delayed message is due, on the wall clock; undefined when none is delayed. */
  get nextDueAt(): number | undefined {
    const id = this.#delayed.first
    return id === undefined ? undefined : dueAtOf(this.#message(id))
  }

  /** The message that was enqueued first of all that are there. */
  get oldest(): QueuedMessage | undefined {
    const { messages, nextId } = this.#state
    while (this.#oldest < nextId && messages[this.#oldest] === undefined) this.#oldest++
    return messages[this.#oldest]
  }

  /**
   * Follows what a mutation has done to the state.
   *
   * @param isLeased tells of messages in flight.
   */
  follow(mutation: QueueMutation, outcome: Outcome, isLeased: (id: number) => boolean): void {
    this.#depth += outcome.depth
    this.#dead += outcome.dead
    this.#bytes += outcome.bytes
    for (const id of outcome.left) this.#counted.delete(id)
    if (mutation.op === 'purge') {
      this.#delayed.refill([])
      // Some of what was in flight when it was written down may have come back since.
      const back = mutation.except.filter((id) => this.#state.messages[id] !== undefined && !isLeased(id))
      this.#ready.refill(back)
    }
    for (const id of outcome.waiting) this.#wait(id)
  }

  /** Makes ready what is due. A clock that goes back makes nothing delayed again. */
  promote(wallMs: number): void {
    for (let dueAt = this.nextDueAt; dueAt !== undefined && dueAt <= wallMs; dueAt = this.nextDueAt) {
      this.#ready.push(this.#delayed.pop() as number)
    }
  }

  /** Takes out the next ready messages, so many at most. Whoever does gives each back, or leases it. */
  take(max: number): number[] {
    const ids: number[] = []
    while (ids.length < max) {
      const id = this.#ready.pop()
      if (id === undefined) break
      ids.push(id)
    }
    return ids
  }

  /** Messages whose last attempt is written, though nobody was given them. */
  get counted(): number[] {
    return [...this.#counted]
  }

  /** Messages of which the next attempt is not written yet. */
  uncounted(ids: readonly number[]): number[] {
    return ids.filter((id) => !this.#counted.has(id))
  }

  /** The attempts of these messages are made now: the next ones are others. */
  use(ids: readonly number[]): void {
    for (const id of ids) this.#counted.delete(id)
  }

  /**
   * Puts messages back into their old places, as ready.
   *
   * @param isCounted whether the next attempt is written already; without it, as it was.
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
    // One that was redriven may be older than all others.
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

/** A binary heap: gives the first of its items, by an order that must not change while they are in it. */
export class Heap<T> {
  readonly #isBefore: (left: T, right: T) => boolean
  readonly #moved: (item: T, position: number) => void
  #items: T[] = []

  /** @param moved is told where an item lies now, for {@link remove}; -1 when it has left. */
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

  /** The first item; undefined when there is none. */
  get first(): T | undefined {
    return this.#items[0]
  }

  push(item: T): void {
    this.#items.push(item)
    this.#rise(item, this.#items.length - 1)
  }

  /** Takes the first item out; undefined when there is none. */
  pop(): T | undefined {
    const first = this.#items[0]
    if (first !== undefined) this.remove(0)
    return first
  }

  /** Takes out the item that lies there. */
  remove(position: number): void {
    const removed = this.#items[position] as T
    const last = this.#items.pop() as T
    if (position < this.#items.length) {
      this.#sink(last, position)
      if (this.#items[position] === last) this.#rise(last, position)
    }
    this.#moved(removed, -1)
  }

  /** Holds these items in place of all others; quicker than to push each. */
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
