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
