import { constants, isAscii, isUtf8, transcode } from 'node:buffer'

import type { File } from '../fs/file-system.ts'

/** What is given out at a time: the text of 64 KiB stays in the processor's cache while it is parsed. */
export const blockBytes: number = 64 * 1024
/** What is read at a time once a file has shown to be longer than a block: a trip to the disk and back for four blocks. */
const readBytes = 4 * blockBytes
const newline = 0x0a
const nothing = Buffer.alloc(0)

/**
 * Buffers that nobody uses now. Readers of one file after another share them: buffers live long enough to be
 * freed late, and new ones for each segment would add up to megabytes over a long journal.
 */
export type SpareBuffers = Buffer[]

/**
 * Reads a file front to back in blocks of whole lines, so that whoever frames or checks them never meets
 * half a line or half a character.
 *
 * While some blocks are worked on the next are read, which saves a fifth of a replay's time: so it holds two
 * buffers of 256 KiB, or one as long as the longest line; for a file of up to 64 KiB one of that size.
 */
export class LineBlocks {
  readonly #file: File
  readonly #spareBuffers: SpareBuffers
  #buffer: Buffer = nothing
  /** What is read ahead, after a copy of {@link rest}. */
  #spare: Buffer = nothing
  /** What is being read into the spare buffer. */
  #ahead: { readonly wanted: number; readonly read: Promise<number> } | undefined
  /** Bytes at the front of the buffer that were given out. */
  #given = 0
  /** Bytes at the front of the buffer that are whole lines. */
  #whole = 0
  /** Bytes at the front of the buffer that hold something. */
  #filled = 0
  /** Offset in the file of the buffer's first byte. */
  #offset = 0
  /** Whether the last read gave less than was asked for, as it does at the end of a file. */
  #wasShort = false

  constructor(file: File, spareBuffers: SpareBuffers = []) {
    this.#file = file
    this.#spareBuffers = spareBuffers
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
    while (this.#given === this.#whole) {
      const read = await (this.#ahead === undefined ? this.#read(end) : this.#takeAhead(this.#ahead))
      if (read === 0) return undefined
      const fresh = this.#filled - read
      const last = this.#buffer.subarray(fresh, this.#filled).lastIndexOf(newline)
      if (last === -1) continue
      this.#whole = fresh + last + 1
      this.#readAhead(end)
    }
    return this.#give()
  }

  /** The bytes after the last whole line, as far as they were read. */
  get rest(): Buffer {
    return this.#buffer.subarray(this.#whole, this.#filled)
  }

  /**
   * Forgets {@link rest}, so that it is read again. Half a line may be rolled back by its writer and become
   * another line: it must not be kept over a wait. Only after {@link next} has found nothing.
   */
  forgetRest(): void {
    this.#filled = this.#whole
  }

  /** Takes back the last bytes of the last block: they become part of {@link rest}. Only at the end of what may be read. */
  takeBack(bytes: number): void {
    this.#given -= bytes
    this.#whole = this.#given
  }

  /** Waits for what is being read ahead, so that the file may be closed, and frees the buffers: the last call. */
  async release(): Promise<void> {
    await this.#ahead?.read.catch(() => 0)
    for (const buffer of [this.#buffer, this.#spare]) {
      if (buffer.length === readBytes) this.#spareBuffers.push(buffer)
    }
    this.#buffer = nothing
    this.#spare = nothing
  }

  async #read(end: number): Promise<number> {
    this.#discardGiven()
    // No more than there can be to read: most files of a test, and many of a device, are small.
    const useful = Math.min(blockBytes, Math.max(end - this.#offset, 1))
    if (this.#buffer.length < useful) this.#resize(useful)
    else if (this.#filled === this.#buffer.length) this.#grow()
    const at = this.#offset + this.#filled
    // A long line is read in steps as long as what there is of it, so the steps are few.
    const wanted = Math.min(
      this.#buffer.length - this.#filled,
      end - at,
      Math.max(readBytes - this.#filled, this.#filled),
    )
    const read = wanted > 0 ? await this.#file.read(this.#buffer.subarray(this.#filled, this.#filled + wanted), at) : 0
    this.#wasShort = read < wanted
    this.#filled += read
    return read
  }

  #give(): Buffer {
    const from = this.#given
    const near = Math.min(from + blockBytes, this.#whole)
    const last = this.#buffer.subarray(from, near).lastIndexOf(newline)
    const end = last === -1 ? this.#buffer.indexOf(newline, near) : from + last
    this.#given = end + 1
    return this.#buffer.subarray(from, this.#given)
  }

  #readAhead(end: number): void {
    const { rest } = this
    const at = this.#offset + this.#filled
    // In the midst of a long line there is no room behind what is there of it; behind a short read there is mostly nothing.
    if (at >= end || this.#wasShort || rest.length > readBytes / 2) return
    if (this.#spare.length < readBytes) this.#spare = this.#spareBuffers.pop() ?? Buffer.allocUnsafeSlow(readBytes)
    rest.copy(this.#spare)
    const wanted = Math.min(readBytes - rest.length, end - at)
    const read = this.#file.read(this.#spare.subarray(rest.length, rest.length + wanted), at)
    // Thrown when the block is asked for, and not unhandled until then.
    read.catch(() => {})
    this.#ahead = { wanted, read }
  }

  async #takeAhead(ahead: { readonly wanted: number; readonly read: Promise<number> }): Promise<number> {
    this.#ahead = undefined
    const read = await ahead.read
    const { rest, offset } = this
    const used = this.#buffer
    this.#buffer = this.#spare
    // One that has grown for a long line is let go.
    this.#spare = used.length > readBytes ? nothing : used
    this.#offset = offset
    this.#given = 0
    this.#whole = 0
    this.#filled = rest.length + read
    this.#wasShort = read < ahead.wanted
    return read
  }

  #discardGiven(): void {
    this.#buffer.copyWithin(0, this.#given, this.#filled)
    this.#offset += this.#given
    this.#filled -= this.#given
    this.#given = 0
    this.#whole = 0
  }

  #grow(): void {
    // No line that long can become a string; reading on would only fill the memory.
    if (this.#filled > constants.MAX_STRING_LENGTH) throw new LineTooLongError(this.#offset, this.#filled)
    this.#resize(this.#buffer.length * 2)
  }

  #resize(bytes: number): void {
    const larger = (bytes <= readBytes ? this.#spareBuffers.pop() : undefined) ?? Buffer.allocUnsafeSlow(bytes)
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

const emptyLine = Buffer.from('\n\n')

export const blankLine = 'the line is blank'

/**
 * Whether a block of whole lines holds nothing that no writer writes: a blank line, a NUL, bytes that are not
 * UTF-8. Fast, for the case that it does not.
 */
export function isCleanBlock(block: Buffer): boolean {
  return isUtf8(block) && !block.includes(0) && block[0] !== newline && !block.includes(emptyLine)
}

/** The text of a block, or undefined when it holds a NUL or is not UTF-8. */
export function textOf(block: Buffer): string | undefined {
  if (block.includes(0)) return undefined
  // Most journals are ASCII, whose bytes are the text.
  if (isAscii(block)) return block.toString('latin1')
  return isUtf8(block) ? decodeUtf8(block) : undefined
}

/** `toString('utf8')` in a third of its time where Node goes character by character (20 does). */
function decodeUtf8(block: Buffer): string {
  // A Node built without ICU has no `transcode`, whatever its type says.
  if (typeof transcode !== 'function') return block.toString('utf8')
  return transcode(block, 'utf8', 'utf16le').toString('utf16le')
}

/** Whether one line, given without its `\n`, is such. */
export function isCleanLine(line: Buffer): boolean {
  return line.length > 0 && !line.includes(0) && isUtf8(line)
}

/** What is wrong with a line that is not clean, for an error message. */
export function describeUncleanLine(line: Buffer): string {
  if (line.length === 0) return blankLine
  return line.includes(0) ? `the line holds a NUL byte` : 'the line is not UTF-8'
}

/** Offset in a block of whole lines after `count` lines, counted from the line that begins at `from`. */
export function offsetAfterLines(block: Buffer, count: number, from = 0): number {
  let offset = from
  for (let line = 0; line < count; line++) offset = block.indexOf(newline, offset) + 1
  return offset
}

/** The whole lines of a block, one by one, without their `\n`. */
export function* linesOf(block: Buffer): Generator<{ readonly index: number; readonly offset: number; readonly line: Buffer }> {
  for (let index = 0, offset = 0; offset < block.length; index++) {
    const end = block.indexOf(newline, offset)
    yield { index, offset, line: block.subarray(offset, end) }
    offset = end + 1
  }
}
