import { constants } from 'node:buffer'

import type { File } from '../fs/file-system.ts'

/** Reads of 64 KiB: smaller and larger ones were slower. */
const blockBytes = 64 * 1024
const newline = 0x0a

/**
 * Reads a file front to back in blocks of whole lines, so that whoever frames or checks them never meets
 * half a line or half a character. Holds one block: about 64 KiB, or the longest line.
 */
export class LineBlocks {
  readonly #file: File
  #buffer: Buffer = Buffer.allocUnsafeSlow(blockBytes)
  /** Bytes at the front of the buffer that were given out as the last block. */
  #given = 0
  /** Bytes at the front of the buffer that hold something. */
  #filled = 0
  /** Offset in the file of the buffer's first byte. */
  #offset = 0

  constructor(file: File) {
    this.#file = file
  }

  /** Offset in the file of the first byte that was not given out yet. */
  get offset(): number {
    return this.#offset + this.#given
  }

  /**
   * The next block of whole lines below offset `end`, or undefined when there is none. Then {@link rest} holds what
   * is left. The block is valid until the next call. May be called again after the file has grown.
   */
  async next(end: number): Promise<Buffer | undefined> {
    this.#discardGiven()
    for (;;) {
      const room = this.#makeRoom()
      const at = this.#offset + this.#filled
      // A long line is read in steps as long as what there is of it, so the steps are few.
      const wanted = Math.min(room.length, end - at, Math.max(blockBytes - this.#filled, this.#filled))
      const read = wanted > 0 ? await this.#file.read(room.subarray(0, wanted), at) : 0
      if (read === 0) return undefined
      const last = room.subarray(0, read).lastIndexOf(newline)
      this.#filled += read
      if (last !== -1) return this.#give(this.#filled - read + last + 1)
    }
  }

  /** The bytes after the last whole line, as far as they were read. */
  get rest(): Buffer {
    return this.#buffer.subarray(this.#given, this.#filled)
  }

  /**
   * Forgets {@link rest}, so that it is read again. Half a line may be rolled back by its writer and become
   * another line: it must not be kept over a wait.
   */
  forgetRest(): void {
    this.#filled = this.#given
  }

  /** Takes back the last bytes of the last block: they become part of {@link rest}. */
  takeBack(bytes: number): void {
    this.#given -= bytes
  }

  #give(bytes: number): Buffer {
    this.#given = bytes
    return this.#buffer.subarray(0, bytes)
  }

  #discardGiven(): void {
    this.#buffer.copyWithin(0, this.#given, this.#filled)
    this.#offset += this.#given
    this.#filled -= this.#given
    this.#given = 0
    const isOversized = this.#buffer.length > 16 * blockBytes && this.#filled < blockBytes
    if (isOversized) this.#resize(blockBytes)
  }

  #makeRoom(): Buffer {
    if (this.#filled === this.#buffer.length) this.#resize(this.#buffer.length * 2)
    return this.#buffer.subarray(this.#filled)
  }

  #resize(bytes: number): void {
    // No line that long can become a string; reading on would only fill the memory.
    if (this.#filled > constants.MAX_STRING_LENGTH) throw new LineTooLongError(this.#offset, this.#filled)
    const larger = Buffer.allocUnsafeSlow(bytes)
    this.#buffer.copy(larger, 0, 0, this.#filled)
    this.#buffer = larger
  }
}

/** A line longer than the longest string there can be. */
export class LineTooLongError extends Error {
  override readonly name = 'LineTooLongError'
  readonly offset: number

  constructor(offset: number, bytes: number) {
    super(`A line of more than ${bytes} bytes, longer than a string can be`)
    this.offset = offset
  }
}
