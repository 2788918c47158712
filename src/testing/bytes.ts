/**
 * The content of one file: bytes that grow, shrink and fork.
 *
 * A fork shares its memory with the original until one of them is written. A crash state therefore
 * costs as much as its names, not as much as its bytes.
 */
export class Bytes {
  #memory: Buffer
  #length: number
  #isShared: boolean

  /** Takes over the memory. The caller must not write to it again. */
  constructor(memory: Buffer = Buffer.alloc(0)) {
    this.#memory = memory
    this.#length = memory.length
    this.#isShared = false
  }

  get length(): number {
    return this.#length
  }

  /** Copies bytes from `position` on into `target`. Returns how many were copied, 0 at the end. */
  read(target: Uint8Array, position: number): number {
    if (position >= this.#length) return 0
    const end = Math.min(this.#length, position + target.length)
    target.set(this.#memory.subarray(position, end))
    return end - position
  }

  /** Writes at `position`. A gap between the old end and `position` reads as NUL. */
  write(bytes: Uint8Array, position: number): void {
    if (bytes.length === 0) return
    this.extend(position)
    const end = Math.max(this.#length, position + bytes.length)
    this.#own(end)
    this.#memory.set(bytes, position)
    this.#length = end
  }

  /** Extends the content with NUL if it is shorter than `length` bytes. */
  extend(length: number): void {
    if (length <= this.#length) return
    this.#own(length)
    this.#memory.fill(0, this.#length, length)
    this.#length = length
  }

  /** Sets the length to exactly `length` bytes. */
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

  /** Returns the bytes themselves, not a copy. Read-only, and valid only until the next change. */
  view(): Buffer {
    return this.#memory.subarray(0, this.#length)
  }

  /** Ensures that the memory is not shared and holds `capacity` bytes. */
  #own(capacity: number): void {
    if (!this.#isShared && capacity <= this.#memory.length) return
    const grown = capacity <= this.#memory.length ? this.#length : 2 * this.#length
    const memory = Buffer.alloc(Math.max(capacity, grown))
    memory.set(this.view())
    this.#memory = memory
    this.#isShared = false
  }
}
