import { constants, isAscii, isUtf8, transcode } from 'node:buffer'

import type { MiniStoreError, MiniStoreErrorContext } from '../errors.ts'
import type { File } from '../fs/file-system.ts'
import { countLines } from './format.ts'
import type { LineCheck } from '../journal/record-codec.ts'

/**
 * Largest block in bytes, unless one line is longer. The text of 64 KiB stays in the CPU cache;
 * smaller blocks cost more calls.
 */
export const blockBytes: number = 64 * 1024
/**
 * Bytes per read once a file has proved longer than one block, so that one read serves four blocks.
 */
const readBytes = 4 * blockBytes
const newline = 0x0a
const nothing = Buffer.alloc(0)

/**
 * Buffers that are not in use, shared by the readers of successive files. Buffers are garbage
 * collected late, so new buffers for each segment would add up to megabytes over a long journal.
 */
export type SpareBuffers = Buffer[]

/** What {@link LineBlocks} reads. */
export interface LineSource extends Pick<File, 'read'> {
  /** Returns up to `most` bytes that are still in memory, for reading only. Undefined if they are not. */
  readonly readRecent?: (position: number, most: number) => Buffer | undefined
}

/**
 * Reads a file from front to back in blocks of whole lines, so that a parser never gets half a line
 * or half a character.
 *
 * The next blocks are read while the current ones are processed, which saves a fifth of the time of
 * a replay: each read wakes two threads. This takes two buffers of 256 KiB, or one as long as the
 * longest line. A file of up to 64 KiB takes one buffer of that size.
 */
export class LineBlocks {
  readonly #file: LineSource
  readonly #spareBuffers: SpareBuffers
  #buffer: Buffer = nothing
  /** The buffer for reading ahead. It begins with a copy of {@link rest}. */
  #spare: Buffer = nothing
  /** The read into the spare buffer that is under way. */
  #ahead: { readonly wanted: number; readonly read: Promise<number> } | undefined
  /** Number of bytes at the front of the buffer that were returned in blocks. */
  #given = 0
  /** Number of bytes at the front of the buffer that form whole lines. */
  #whole = 0
  /** Number of bytes at the front of the buffer that hold data. */
  #filled = 0
  /** Offset in the file of the first byte of the buffer. */
  #offset = 0
  /** Whether the last read returned fewer bytes than wanted, as it does at the end of a file. */
  #wasShort = false

  constructor(file: LineSource, spareBuffers: SpareBuffers = []) {
    this.#file = file
    this.#spareBuffers = spareBuffers
  }

  /** Offset in the file of the first byte that was not yet returned in a block. */
  get offset(): number {
    return this.#offset + this.#given
  }

  /**
   * Resolves with the next block of whole lines below offset `end`. Undefined if there is none;
   * then {@link rest} holds the remaining bytes.
   *
   * A block is valid until the next call. `next` may be called again after the file has grown.
   */
  async next(end: number): Promise<Buffer | undefined> {
    while (this.#given === this.#whole) {
      const read = await (this.#ahead === undefined ? this.#read(end) : this.#takeAhead(this.#ahead))
      if (read === 0) return undefined
      const fresh = this.#filled - read
      const last = this.#buffer.lastIndexOf(newline, this.#filled - 1)
      if (last < fresh) continue
      this.#whole = last + 1
      this.#readAhead(end)
    }
    return this.#give()
  }

  /** The next block, without a promise, if all of it is still in memory. If not, {@link next} gives it. */
  nextRecent(end: number): Buffer | undefined {
    const { offset } = this
    if (offset >= end || this.#given < this.#filled || this.#ahead !== undefined) return undefined
    const recent = this.#file.readRecent?.(offset, Math.min(blockBytes, end - offset))
    if (recent === undefined) return undefined
    const whole = recent.lastIndexOf(newline) + 1
    if (whole === 0) return undefined
    // The buffer is empty, and goes on behind this block.
    this.#offset = offset + whole
    this.#given = this.#whole = this.#filled = 0
    return whole === recent.length ? recent : recent.subarray(0, whole)
  }

  /** Whether bytes were read after the last whole line. */
  get hasRest(): boolean {
    return this.#filled > this.#whole
  }

  /** The bytes read after the last whole line. */
  get rest(): Buffer {
    return this.#buffer.subarray(this.#whole, this.#filled)
  }

  /**
   * Discards {@link rest}, so that it is read again. A reader that waits must not keep half a line,
   * because the writer may roll it back and write another line in its place. Call it only after
   * {@link next} has found no block.
   */
  forgetRest(): void {
    this.#filled = this.#whole
  }

  /**
   * Takes back the last bytes of the last block, which become part of {@link rest}. Call it only
   * after the last block before `end`.
   */
  takeBack(bytes: number): void {
    this.#given -= bytes
    this.#whole = this.#given
  }

  /**
   * Waits for the read that is under way, so that the file may be closed, and frees the buffers. No
   * other call may follow.
   */
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
    // The buffer is no larger than the bytes left to read, because many files are small.
    const useful = Math.min(blockBytes, Math.max(end - this.#offset, 1))
    if (this.#buffer.length < useful) this.#resize(useful)
    else if (this.#filled === this.#buffer.length) this.#grow()
    const at = this.#offset + this.#filled
    // Each step of a long line is as long as the part already read, so there are few steps.
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
    if (this.#whole - from <= blockBytes) {
      this.#given = this.#whole
      return this.#buffer.subarray(from, this.#given)
    }
    const near = from + blockBytes
    const last = this.#buffer.subarray(from, near).lastIndexOf(newline)
    const end = last === -1 ? this.#buffer.indexOf(newline, near) : from + last
    this.#given = end + 1
    return this.#buffer.subarray(from, this.#given)
  }

  #readAhead(end: number): void {
    const at = this.#offset + this.#filled
    if (at >= end || this.#wasShort) return
    const { rest } = this
    // In the middle of a long line the spare buffer has too little room. After a short read there
    // is usually nothing left to read.
    if (rest.length > readBytes / 2) return
    if (this.#spare.length < readBytes) this.#spare = this.#spareBuffers.pop() ?? Buffer.allocUnsafeSlow(readBytes)
    rest.copy(this.#spare)
    const wanted = Math.min(readBytes - rest.length, end - at)
    const read = this.#file.read(this.#spare.subarray(rest.length, rest.length + wanted), at)
    // next() awaits this read and throws its error. Until then it must not count as unhandled.
    read.catch(() => {})
    this.#ahead = { wanted, read }
  }

  async #takeAhead(ahead: { readonly wanted: number; readonly read: Promise<number> }): Promise<number> {
    this.#ahead = undefined
    const read = await ahead.read
    const { rest, offset } = this
    const used = this.#buffer
    this.#buffer = this.#spare
    // A buffer that has grown for a long line is released.
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
    // A line of this length cannot become a string, so reading more of it would only fill memory.
    if (this.#filled > constants.MAX_STRING_LENGTH) throw new LineTooLongError(this.#offset, this.#filled)
    this.#resize(this.#buffer.length * 2)
  }

  #resize(bytes: number): void {
    const larger = (bytes <= readBytes ? this.#spareBuffers.pop() : undefined) ?? Buffer.allocUnsafeSlow(bytes)
    this.#buffer.copy(larger, 0, 0, this.#filled)
    this.#buffer = larger
  }
}

/** A line that is longer than the longest string of the platform. */
export class LineTooLongError extends Error {
  override readonly name = 'LineTooLongError'
  readonly offset: number

  constructor(offset: number, bytes: number) {
    super(`a line of more than ${bytes} bytes is longer than the longest string`)
    this.offset = offset
  }
}

const emptyLine = Buffer.from('\n\n')

export const blankLine = 'the line is blank'

/**
 * Whether a block of whole lines is free of everything that no writer writes: blank lines, NUL
 * bytes, and bytes that are not UTF-8. Checks the block as a whole, which is fast.
 */
export function isCleanBlock(block: Buffer): boolean {
  return isUtf8(block) && !block.includes(0) && block[0] !== newline && !block.includes(emptyLine)
}

/** The text of a block. Undefined if the block contains a NUL byte or is not UTF-8. */
export function textOf(block: Buffer): string | undefined {
  if (block.includes(0)) return undefined
  // Most journals are ASCII, which latin1 decodes without conversion.
  if (isAscii(block)) return block.toString('latin1')
  return isUtf8(block) ? decodeUtf8(block) : undefined
}

/** Before version 24, `toString` of Node decodes character by character, in two to ten times the time. */
const isToStringSlow = Number.parseInt(process.versions.node, 10) < 24

/** Same result as `toString('utf8')`, as fast as this version of Node can. */
function decodeUtf8(block: Buffer): string {
  // The type says that `transcode` exists, but a Node built without ICU does not have it.
  if (!isToStringSlow || typeof transcode !== 'function') return block.toString('utf8')
  return transcode(block, 'utf8', 'utf16le').toString('utf16le')
}

/** Like {@link isCleanBlock}, for one line without its line feed. */
export function isCleanLine(line: Buffer): boolean {
  return line.length > 0 && !line.includes(0) && isUtf8(line)
}

/** Describes, for an error message, what is wrong with a line that is not clean. */
export function describeUncleanLine(line: Buffer): string {
  if (line.length === 0) return blankLine
  return line.includes(0) ? `the line holds a NUL byte` : 'the line is not UTF-8'
}

/**
 * Offset in a block of whole lines after `count` lines, beginning with the line at offset `from`.
 */
export function offsetAfterLines(block: Buffer, count: number, from = 0): number {
  let offset = from
  for (let line = 0; line < count; line++) offset = block.indexOf(newline, offset) + 1
  return offset
}

/** The first `count` lines of a block of whole lines, or all of them if it has fewer. */
export function firstLines(block: Buffer, count: number): Buffer {
  // A line has at least one byte, so few blocks need counting.
  if (count >= block.length) return block
  let end = 0
  for (let line = 0; line < count && end < block.length; line++) end = block.indexOf(newline, end) + 1
  return block.subarray(0, end)
}

/** Gives the lines of a block of whole lines one by one, without their line feeds. */
export function* linesOf(block: Buffer): Generator<{ readonly index: number; readonly offset: number; readonly line: Buffer }> {
  for (let index = 0, offset = 0; offset < block.length; index++) {
    const end = block.indexOf(newline, offset)
    yield { index, offset, line: block.subarray(offset, end) }
    offset = end + 1
  }
}

/** The position of a line in its segment. */
export interface LinePosition {
  readonly sequence: number
  readonly line: number
  readonly offset: number
}

/** Turns blocks of whole lines into batches of what a replay gives. */
export interface BlockParser<T> {
  /**
   * Parses a block whose first line is at `start`. Afterwards {@link lines} tells its length.
   *
   * @param how.covered Number of bytes of the block that a checksum covers, with which the replay
   *   compares them. May be negative, or more than the block has.
   */
  parse(
    block: Buffer,
    start: LinePosition,
    how: { readonly covered: number; readonly signal: AbortSignal },
  ): Batch<T> | Promise<Batch<T>>
  /** Number of lines in the last block. */
  readonly lines: number
  /** The position of the line that is being parsed. */
  position(): LinePosition
  close(): void
}

/**
 * Makes the parser of one segment.
 *
 * @param where Returns the position of the line that is being parsed.
 * @param unclean Creates the error for a line that no writer writes: blank, with a NUL byte, or not
 *   UTF-8.
 */
export type ParserOf<T> = (
  where: () => MiniStoreErrorContext,
  unclean: (reason: string) => MiniStoreError,
) => BlockParser<T>

/** Consecutive records. A damaged line takes the place of its record. */
export interface Batch<T> {
  /** Sequence number of the first record. */
  readonly firstSequence: number
  readonly records: T[]
  /** The places in `records` that hold no record but damage, in ascending order. */
  readonly damages: Array<{ readonly index: number; readonly damage: MiniStoreError }>
}

export function addDamage<T>({ records, damages }: Batch<T>, damage: MiniStoreError): void {
  damages.push({ index: records.length, damage })
  records.push(undefined as T)
}

/**
 * Copies blocks as they are.
 *
 * @param check Checks a line that no checksum covers, and throws if it is damaged.
 */
export function blocksWith(check: LineCheck | undefined): ParserOf<Uint8Array> {
  return (where, unclean) => new BlockCopier(check && ((line) => check(line, where)), unclean)
}

/**
 * Checks blocks and copies them, one copy a block. A checksum tells whether the bytes that it covers
 * are as they were written, so the lines in them are only counted. Other lines are checked one by
 * one. A block with damage is cut before it.
 */
class BlockCopier implements BlockParser<Uint8Array> {
  readonly #check: ((line: string) => void) | undefined
  readonly #unclean: (reason: string) => MiniStoreError
  #block: Buffer = Buffer.alloc(0)
  #start: LinePosition = { sequence: 0, line: 0, offset: 0 }
  /** Number of good lines at the beginning of the block. */
  #lines = 0

  constructor(check: ((line: string) => void) | undefined, unclean: (reason: string) => MiniStoreError) {
    this.#check = check
    this.#unclean = unclean
  }

  parse(block: Buffer, start: LinePosition, { covered }: { readonly covered: number }): Batch<Uint8Array> {
    this.#block = block
    this.#start = start
    const batch: Batch<Uint8Array> = { firstSequence: start.sequence, records: [], damages: [] }
    const damage = isCleanBlock(block) ? this.#checkFrom(covered) : this.#checkEach(covered)
    const good = damage === undefined ? block : block.subarray(0, offsetAfterLines(block, this.#lines))
    // A copy, because the reader fills its buffer again, and a consumer may keep, change or transfer
    // what it gets.
    if (good.length > 0) batch.records.push(new Uint8Array(good))
    if (damage !== undefined) addDamage(batch, damage)
    return batch
  }

  get lines(): number {
    return this.#lines
  }

  position(): LinePosition {
    const { sequence, line, offset } = this.#start
    const lines = this.#lines
    return { sequence: sequence + lines, line: line + lines, offset: offset + offsetAfterLines(this.#block, lines) }
  }

  close(): void {}

  /** Counts the covered lines of a clean block and checks those behind them. */
  #checkFrom(covered: number): MiniStoreError | undefined {
    const block = this.#block
    const isCovered = this.#check === undefined || covered >= block.length
    const from = isCovered ? block.length : block.subarray(0, Math.max(covered, 0)).lastIndexOf(newline) + 1
    this.#lines = countLines(block.subarray(0, from))
    if (isCovered) return undefined
    const lines = (textOf(block.subarray(from)) as string).split('\n')
    lines.pop()
    for (const line of lines) {
      const damage = this.#damageOf(line)
      if (damage !== undefined) return damage
      this.#lines++
    }
    return undefined
  }

  /** Checks the lines of a block that is not clean, up to the first damage. */
  #checkEach(covered: number): MiniStoreError | undefined {
    this.#lines = 0
    for (const { offset, line } of linesOf(this.#block)) {
      if (!isCleanLine(line)) return this.#unclean(describeUncleanLine(line))
      const damage = offset + line.length < covered ? undefined : this.#damageOf(line.toString())
      if (damage !== undefined) return damage
      this.#lines++
    }
    return undefined
  }

  #damageOf(line: string): MiniStoreError | undefined {
    try {
      this.#check?.(line)
      return undefined
    } catch (error) {
      return error as MiniStoreError
    }
  }
}
