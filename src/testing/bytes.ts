/**
 * The content of one file: bytes that grow, shrink and fork.
 *
 * A fork shares its memory with the original until either is written, which makes a crash state cost as
 * much as its names and not as much as its bytes.
 */
export class Bytes {
  #memory: Buffer
  #length: number
  #isShared: boolean

  /** Takes the memory over: the caller must not write to it again. */
  constructor(memory: Buffer = Buffer.alloc(0)) {
    this.#memory = memory
    this.#length = memory.length
    this.#isShared = false
  }

  get length(): number {
    return this.#length
  }

  /** Copies bytes from `position` on into `target`; gives how many, 0 at the end. */
  read(target: Uint8Array, position: number): number {
    if (position >= this.#length) return 0
    const end = Math.min(this.#length, position + target.length)
    target.set(this.#memory.subarray(position, end))
    return end - position
  }

  /** Writes at `position`; a gap between the old end and `position` reads as NUL. */
  write(bytes: Uint8Array, position: number): void {
    if (bytes.length === 0) return
    this.extend(position)
    const end = Math.max(this.#length, position + bytes.length)
    this.#own(end)
    this.#memory.set(bytes, position)
    this.#length = end
  }

  /** Makes the length at least `length`, with NUL. */
  extend(length: number): void {
    if (length <= this.#length) return
    this.#own(length)
    this.#memory.fill(0, this.#length, length)
    this.#length = length
  }

  /** Makes the length exactly `length`. */
  truncate(length: number): void {
    this.extend(length)
    this.#length = length
  }

  fork(): Bytes {
    const copy = new Bytes(this.#memory)
    copy.#length = this.#length
    copy.#isShared = true
    this.#isShared = true
    return copy
  }

  /** The bytes themselves, not a copy: for reading, and only until the next change. */
  view(): Buffer {
    return this.#memory.subarray(0, this.#length)
  }

  /** Makes sure that the memory is ours alone and holds `capacity` bytes. */
  #own(capacity: number): void {
    if (!this.#isShared && capacity <= this.#memory.length) return
    const grown = capacity <= this.#memory.length ? this.#length : 2 * this.#length
    const memory = Buffer.alloc(Math.max(capacity, grown))
    memory.set(this.view())
    this.#memory = memory
    this.#isShared = false
  }
}
