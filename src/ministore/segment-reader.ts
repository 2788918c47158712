import { setImmediate as turn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'

import split2 from 'split2'

import { ignoreOutcome, isThenable, settledOrAborted, throwIfAborted } from '../async.ts'
import { isInstance, MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { countLines, type Checkpoint } from './format.ts'
import {
  blankLine, blockBytes, describeUncleanLine, isCleanLine, LineBlocks, linesOf, LineTooLongError, offsetAfterLines,
  type SpareBuffers, textOf,
} from './lines.ts'
import type { RecordCodec } from './record-codec.ts'
import { findLongTornEnd, type TornEnd } from './scan.ts'
import { damaged, isSameSegment, numbersProblem, readHeader, type Segment } from './segments.ts'

const newline = 0x0a

/** The bounds of a read. */
export interface ReadBounds {
  /** Sequence number of the first record wanted. Earlier records are skipped without parsing. */
  readonly from: number
  /** Sequence number of the last record wanted. */
  readonly to: number
  /** Number of bytes of the segment that may be read, from its beginning. */
  readonly end: number
  /** Whether the last line before the end may be torn by a crash. */
  readonly mayBeTorn: boolean
  /** Known lengths and checksums of the beginning of the segment. */
  readonly checkpoints: readonly Checkpoint[]
  /** When aborted, ends a wait for the event loop or for an asynchronous schema. */
  readonly signal: AbortSignal
}

/** What the segment readers of one replay share. */
export interface ReplayParts<T> {
  readonly fs: FileSystem
  /** Path of the journal. */
  readonly path: string
  readonly codec: RecordCodec<T, never>
  readonly spareBuffers: SpareBuffers
  /** Bytes read since the event loop last ran. */
  readonly sinceTurn: { bytes: number }
}

/**
 * Reads one segment from front to back. Holds one open file and two buffers of lines: one that is
 * being parsed and one that is read ahead.
 */
export class SegmentReader<T> {
  readonly segment: Segment
  readonly #path: string
  readonly #file: File
  readonly #blocks: LineBlocks
  readonly #parser: LineParser<T>
  /** A torn end that is too long to be read as one line. */
  #longEnd: TornEnd | undefined
  #isEndUnknown = true
  readonly #sinceTurn: { bytes: number }
  /** Bytes and lines read so far, and the checksum of these bytes. */
  #bytes = 0
  #lines = 0
  #crc32 = 0

  private constructor(segment: Segment, file: File, { path, codec, spareBuffers, sinceTurn }: ReplayParts<T>) {
    this.segment = segment
    this.#sinceTurn = sinceTurn
    this.#path = path
    this.#file = file
    this.#blocks = new LineBlocks(file, spareBuffers)
    // One function for all lines, because creating one for each line would slow down a replay.
    const where = (): MiniStoreErrorContext => ({ path, segment: segment.name, ...this.#parser.position() })
    this.#parser = new LineParser<T>(
      (line) => codec.decode(line, where),
      (reason, { line, offset }) =>
        new MiniStoreError(
          'ERR_MINISTORE_CORRUPT',
          `The journal ${path} is damaged at ${segment.name}, line ${line}, offset ${offset}: ${reason}`,
          where(),
        ),
    )
  }

  /**
   * Opens a segment. Undefined if its name now belongs to another file.
   *
   * @throws the system's error if no file has the name.
   */
  static async open<T>(segment: Segment, source: ReplayParts<T>): Promise<SegmentReader<T> | undefined> {
    const { path } = source
    const file = await source.fs.open(segment.path, 'read')
    try {
      const { inode } = await file.stat()
      // Damage to the header was reported by the survey. Here only the identity of the file counts.
      const header = await readHeader(file, { path, segment: segment.name }, () => {})
      const isSame = header !== undefined && isSameSegment(segment, { inode, header })
      if (isSame) return new SegmentReader(segment, file, source)
    } catch (error) {
      await file.close().catch(() => {})
      throw error
    }
    await file.close()
    return undefined
  }

  /** Sequence number of the record on the next line. */
  get nextSequence(): number {
    // The first line is the header.
    return this.segment.firstSequence + Math.max(this.#lines - 1, 0)
  }

  get bytes(): number {
    return this.#bytes
  }

  get crc32(): number {
    return this.#crc32
  }

  /** Whether the last read found bytes after the last whole line. */
  get hasRest(): boolean {
    return this.#blocks.rest.length > 0 || this.#longEnd !== undefined
  }

  /** Discards the bytes after the last whole line, so that later reads see what replaced them. */
  forgetRest(): void {
    this.#longEnd = undefined
    this.#isEndUnknown = true
    this.#blocks.forgetRest()
  }

  /**
   * Resolves with the records of the next block, which may be none. Undefined once the bounds are
   * reached.
   */
  async next(bounds: ReadBounds): Promise<Array<Batch<T>> | undefined> {
    const block = await this.#nextBlock(bounds)
    if (block === undefined) return undefined
    await this.#giveTurn(block.length, bounds.signal)
    const start = this.#bytes
    const damage = this.#checkAgainst(bounds.checkpoints, block)
    this.#bytes += block.length
    this.#crc32 = crc32(block, this.#crc32)
    const lines = start === 0 ? block.subarray(this.segment.header.bytes) : block
    if (start === 0) this.#lines = 1
    this.#assertNumbered(lines, bounds.end)
    const batches = await this.#parse(lines, this.#bytes - lines.length, bounds)
    if (damage !== undefined) batches.push({ firstSequence: this.nextSequence, records: [], damage })
    return batches
  }

  /**
   * Lets the event loop run before a block, unless it ran less than one block ago. Otherwise blocks
   * that are already in memory would delay timers and signals for the whole replay.
   */
  async #giveTurn(bytes: number, signal: AbortSignal): Promise<void> {
    if (this.#sinceTurn.bytes + bytes > blockBytes) {
      await turn()
      throwIfAborted(signal)
      this.#sinceTurn.bytes = 0
    }
    this.#sinceTurn.bytes += bytes
  }

  async close(): Promise<void> {
    this.#parser.close()
    await this.#blocks.release()
    await this.#file.close()
  }

  async #nextBlock(bounds: ReadBounds): Promise<Buffer | undefined> {
    // This happens only while nothing is read ahead, because calls on one file must not overlap.
    if (bounds.mayBeTorn && this.#isEndUnknown) {
      this.#isEndUnknown = false
      this.#longEnd = await findLongTornEnd(this.#file, { from: this.#bytes, end: bounds.end })
    }
    let block: Buffer | undefined
    try {
      block = await this.#blocks.next(this.#longEnd?.offset ?? bounds.end)
    } catch (error) {
      if (!isInstance(error, LineTooLongError)) throw error
      throw damaged(this.#path, this.segment.name, `${error.message} (offset ${error.offset})`, { sequence: this.nextSequence })
    }
    const isLast = block !== undefined && this.#blocks.offset === bounds.end
    if (block === undefined || !isLast || !bounds.mayBeTorn) return block
    const lastLine = block.lastIndexOf(newline, block.length - 2) + 1
    if (isCleanLine(block.subarray(lastLine, -1))) return block
    this.#blocks.takeBack(block.length - lastLine)
    return lastLine === 0 ? undefined : block.subarray(0, lastLine)
  }

  /**
   * Checks that the sequence numbers of these lines are within the maximum. Lines are counted only
   * in a segment that is long enough to exceed it.
   */
  #assertNumbered(lines: Buffer, end: number): void {
    if (numbersProblem(this.segment, Number.isFinite(end) ? end : this.segment.bytes) === undefined) return
    const problem = numbersProblem(this.segment, this.#lines - 1 + countLines(lines))
    if (problem !== undefined) throw damaged(this.#path, this.segment.name, problem, { sequence: this.nextSequence })
  }

  async #parse(lines: Buffer, offset: number, bounds: ReadBounds): Promise<Array<Batch<T>>> {
    if (lines.length === 0) return []
    const start = { sequence: this.nextSequence, line: this.#lines + 1, offset }
    let wanted = lines
    const passedOver = bounds.from - start.sequence
    if (passedOver > 0) {
      const count = countLines(lines)
      if (count <= passedOver) {
        this.#lines += count
        return []
      }
      wanted = lines.subarray(offsetAfterLines(lines, passedOver))
      start.sequence += passedOver
      start.line += passedOver
      start.offset += lines.length - wanted.length
    }
    const batches = await this.#parser.parse(wanted, start, bounds.signal)
    this.#lines = start.line - 1 + this.#parser.lines
    return this.nextSequence - 1 > bounds.to ? batches.flatMap((batch) => upTo(batch, bounds.to)) : batches
  }

  /** The damage that a checkpoint shows in this block or before it, if it ends in this block. */
  #checkAgainst(checkpoints: readonly Checkpoint[], block: Buffer): MiniStoreError | undefined {
    for (const { bytes, crc32: expected } of checkpoints) {
      if (bytes <= this.#bytes || bytes > this.#bytes + block.length) continue
      const found = crc32(block.subarray(0, bytes - this.#bytes), this.#crc32)
      if (found !== expected) {
        return damaged(this.#path, this.segment.name, `a byte among the first ${bytes} has changed (wrong checksum)`)
      }
    }
    return undefined
  }
}

/** The part of a batch up to the sequence number `to`. */
function upTo<T>(batch: Batch<T>, to: number): Array<Batch<T>> {
  const wanted = to - batch.firstSequence + 1
  if (wanted > batch.records.length) return [batch]
  return wanted <= 0 ? [] : [{ firstSequence: batch.firstSequence, records: batch.records.slice(0, wanted) }]
}

/** Consecutive records and, if a damaged line ends them, the damage. */
export interface Batch<T> {
  /** Sequence number of the first record, or of the damaged line if there is no record. */
  readonly firstSequence: number
  readonly records: T[]
  damage?: MiniStoreError
}

/** The position of a line in its segment. */
export interface LinePosition {
  readonly sequence: number
  readonly line: number
  readonly offset: number
}

/** Decodes a line to a record, or throws. Returns a promise only for an asynchronous schema. */
export type DecodeLine<T> = (line: string) => T | Promise<T>

/** Creates the error for a line that no writer writes: blank, with a NUL byte, or not UTF-8. */
export type UncleanLine = (reason: string, at: LinePosition) => MiniStoreError

/**
 * Turns blocks of whole lines into batches of records. split2 splits the lines.
 *
 * The parser writes to split2 directly, and the mapper keeps the records. Nothing passes through
 * the readable side of split2, so a record costs no stream event.
 *
 * split2 gets whole lines, because it would treat an unterminated end as a line. It gets text,
 * because it would silently replace bytes that are not UTF-8 with U+FFFD, and decodes them slowly.
 * Only a block with an unclean line is passed as bytes, and only its lines that are clean.
 */
export class LineParser<T> {
  readonly #decode: DecodeLine<T>
  readonly #unclean: UncleanLine
  readonly #splitter = split2('\n', (line: string) => this.#takeLine(line), { decodeStrings: false })
  #batches: Array<Batch<T>> = []
  #batch: Batch<T> = { firstSequence: 0, records: [] }
  #block: Buffer = Buffer.alloc(0)
  #start: LinePosition = { sequence: 0, line: 0, offset: 0 }
  #index = 0
  /** The last line whose position was asked for. The next position is counted from its offset. */
  #counted = { index: 0, offset: 0 }
  #isAsync = false

  constructor(decode: DecodeLine<T>, unclean: UncleanLine) {
    this.#decode = decode
    this.#unclean = unclean
  }

  /**
   * Parses a block whose first line is at `start`. Afterwards {@link lines} is the number of lines
   * in the block. Rejects if the signal is aborted during a wait for an asynchronous schema.
   */
  async parse(block: Buffer, start: LinePosition, signal: AbortSignal): Promise<Array<Batch<T>>> {
    this.#block = block
    this.#start = start
    this.#index = 0
    this.#counted = { index: 0, offset: 0 }
    this.#isAsync = false
    this.#batches = []
    this.#begin(0)
    const text = textOf(block)
    if (text === undefined) this.#parseLineByLine(block)
    else this.#splitter.write(text)
    const batches = this.#batches
    // The batches are released now. If they were held until the next block, every garbage
    // collection in between would copy their records, and V8 would take twice the memory.
    this.#batches = []
    this.#batch = { firstSequence: 0, records: [] }
    return this.#isAsync ? settledOrAborted(settle(batches), signal) : batches
  }

  /** Number of lines in the last block. */
  get lines(): number {
    return this.#index
  }

  /** The position of the line that is being parsed. */
  position(): LinePosition {
    const index = this.#index
    // Offsets are counted on demand, because tracking them would cost time for every line.
    const offset = offsetAfterLines(this.#block, index - this.#counted.index, this.#counted.offset)
    this.#counted = { index, offset }
    return { sequence: this.#start.sequence + index, line: this.#start.line + index, offset: this.#start.offset + offset }
  }

  close(): void {
    this.#splitter.destroy()
  }

  /** Never throws, because an error would destroy the stream of split2. */
  #takeLine(line: string): undefined {
    try {
      if (line === '') throw this.#unclean(blankLine, this.position())
      const record = this.#decode(line)
      if (isThenable(record)) {
        this.#isAsync = true
        // settle() awaits it later. Until then a rejection must not count as unhandled.
        ignoreOutcome(record)
      }
      this.#batch.records.push(record as T)
    } catch (error) {
      this.#endBatch(error as MiniStoreError)
    }
    this.#index++
    return undefined
  }

  #parseLineByLine(block: Buffer): void {
    for (const { line, offset } of linesOf(block)) {
      if (isCleanLine(line)) {
        this.#splitter.write(block.subarray(offset, offset + line.length + 1))
      } else {
        this.#endBatch(this.#unclean(describeUncleanLine(line), this.position()))
        this.#index++
      }
    }
  }

  #begin(index: number): void {
    this.#batch = { firstSequence: this.#start.sequence + index, records: [] }
    this.#batches.push(this.#batch)
  }

  #endBatch(damage: MiniStoreError): void {
    this.#batch.damage = damage
    this.#begin(this.#index + 1)
  }
}

/** Awaits the results of an asynchronous schema. Each record that fails it ends a batch. */
async function settle<T>(batches: ReadonlyArray<Batch<T | Promise<T>>>): Promise<Array<Batch<T>>> {
  const settled: Array<Batch<T>> = []
  for (const { firstSequence, records, damage } of batches) {
    let batch: Batch<T> = { firstSequence, records: [] }
    settled.push(batch)
    for (const [index, record] of records.entries()) {
      try {
        batch.records.push(await record)
      } catch (error) {
        batch.damage = error as MiniStoreError
        batch = { firstSequence: firstSequence + index + 1, records: [] }
        settled.push(batch)
      }
    }
    if (damage !== undefined) batch.damage = damage
  }
  return settled
}
