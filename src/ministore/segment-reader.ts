import { setImmediate as turn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'

import split2 from 'split2'

import { ignoreOutcome, isThenable, settledOrAborted, throwIfAborted } from '../async.ts'
import { isInstance, type MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { countLines, type Checkpoint } from './format.ts'
import {
  addDamage, type Batch, blankLine, blockBytes, type BlockParser, describeUncleanLine, firstLines, isCleanLine,
  LineBlocks, type LinePosition, type LineSource, linesOf, LineTooLongError, offsetAfterLines, type ParserOf,
  type SpareBuffers, textOf,
} from './lines.ts'
import type { LineCodec } from '../journal/record-codec.ts'
import { findLongTornEnd, type TornEnd } from './scan.ts'
import { damaged, isSameSegment, numbersProblem, readHeader, type Segment } from './segments.ts'
import type { JournalViews } from './view.ts'

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
  /**
   * Number of bytes at the beginning of the segment that a checksum covers, and that the replay
   * compares with it before it ends.
   */
  readonly covered: number
  /** When aborted, ends a wait for the event loop or for an asynchronous schema. */
  readonly signal: AbortSignal
}

/** What the segment readers of one replay share. */
export interface ReplayParts<T> {
  readonly fs: FileSystem
  /** Path of the journal. */
  readonly path: string
  readonly parser: ParserOf<T>
  /** Gives bytes that the writer in this thread still has in memory. */
  readonly views: Pick<JournalViews, 'readRecent'>
  readonly spareBuffers: SpareBuffers
  /** Bytes read since the event loop last ran. */
  readonly sinceTurn: { bytes: number }
}

/**
 * Reads one segment from front to back, block by block. Holds one open file and two buffers of
 * lines: one that is being parsed and one that is read ahead.
 */
export class SegmentReader<T> {
  readonly segment: Segment
  readonly #replay: ReplayParts<T>
  readonly #file: File
  readonly #blocks: LineBlocks
  readonly #parser: BlockParser<T>
  /** A torn end that is too long to be read as one line. */
  #longEnd: TornEnd | undefined
  #isEndUnknown = true
  /** Bytes and lines read so far, and the checksum of these bytes. */
  #bytes = 0
  #lines = 0
  #crc32 = 0

  private constructor(segment: Segment, file: File, replay: ReplayParts<T>) {
    this.segment = segment
    this.#replay = replay
    this.#file = file
    const source: LineSource = {
      read: (buffer, position) => file.read(buffer, position),
      readRecent: (position, most) => replay.views.readRecent(segment, position, most),
    }
    this.#blocks = new LineBlocks(source, replay.spareBuffers)
    const { path } = replay
    const where = (): MiniStoreErrorContext => ({ path, segment: segment.name, ...this.#parser.position() })
    this.#parser = replay.parser(where, (reason) => damaged(path, segment.name, reason, where()))
  }

  /**
   * Opens a segment. Undefined if its name now belongs to another file.
   *
   * @throws the system's error if no file has the name.
   */
  static async open<T>(segment: Segment, replay: ReplayParts<T>): Promise<SegmentReader<T> | undefined> {
    const file = await replay.fs.open(segment.path, 'read')
    let isSame = false
    try {
      const { inode } = await file.stat()
      // Damage to the header was reported with the view. Here only the identity of the file counts.
      const header = await readHeader(file, { path: replay.path, segment: segment.name }, () => {})
      isSame = header !== undefined && isSameSegment(segment, { inode, header })
      return isSame ? new SegmentReader(segment, file, replay) : undefined
    } finally {
      // Nothing was read or written, so an error on closing it changes nothing.
      if (!isSame) await file.close().catch(() => {})
    }
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
    return this.#blocks.hasRest || this.#longEnd !== undefined
  }

  /** Discards the bytes after the last whole line, so that later reads see what replaced them. */
  forgetRest(): void {
    this.#longEnd = undefined
    this.#isEndUnknown = true
    this.#blocks.forgetRest()
  }

  /**
   * Resolves with the records of the next block, which may be none. Undefined once the end is
   * reached. Blocks after the last record wanted have no records, but they count for the checksum.
   */
  async next(bounds: ReadBounds): Promise<Batch<T> | undefined> {
    const block = this.#blocks.nextRecent(bounds.end) ?? (await this.#nextBlock(bounds))
    if (block === undefined) return undefined
    this.#replay.sinceTurn.bytes += block.length
    if (this.#replay.sinceTurn.bytes > blockBytes) await this.#giveTurn(block.length, bounds.signal)
    return this.#take(block, bounds)
  }

  /**
   * As {@link next}, for a block that is still in memory. A promise only if the schema is
   * asynchronous. Undefined if `next` has to give the block.
   */
  nextRecent(bounds: ReadBounds): Batch<T> | Promise<Batch<T>> | undefined {
    const { sinceTurn } = this.#replay
    const block = sinceTurn.bytes > blockBytes ? undefined : this.#blocks.nextRecent(bounds.end)
    if (block === undefined) return undefined
    sinceTurn.bytes += block.length
    return this.#take(block, bounds)
  }

  #take(block: Buffer, bounds: ReadBounds): Batch<T> | Promise<Batch<T>> {
    const after = crc32(block, this.#crc32)
    const damage = this.#checkAgainst(bounds.checkpoints, block, after)
    const isFirst = this.#bytes === 0
    this.#bytes += block.length
    this.#crc32 = after
    if (isFirst) this.#lines = 1
    const lines = isFirst ? block.subarray(this.segment.header.bytes) : block
    this.#assertNumbered(lines, bounds.end)
    const batch = this.#parse(lines, bounds)
    if (damage === undefined) return batch
    return isThenable(batch) ? batch.then((settled) => withDamage(settled, damage)) : withDamage(batch, damage)
  }

  /**
   * Lets the event loop run before a block, unless it ran less than one block ago. Otherwise blocks
   * that are already in memory would delay timers and signals for the whole replay.
   */
  async #giveTurn(bytes: number, signal: AbortSignal): Promise<void> {
    await turn()
    throwIfAborted(signal)
    this.#replay.sinceTurn.bytes = bytes
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
      throw this.#damaged(`${error.message} (offset ${error.offset})`)
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
    if (problem !== undefined) throw this.#damaged(problem)
  }

  /** Parses the lines at the end of the bytes read so far, except those outside the bounds. */
  #parse(lines: Buffer, { from, to, covered, signal }: ReadBounds): Batch<T> | Promise<Batch<T>> {
    const before = from - this.nextSequence
    const passedOver = before > 0 ? Math.min(before, countLines(lines)) : 0
    this.#lines += passedOver
    const rest = passedOver === 0 ? lines : lines.subarray(offsetAfterLines(lines, passedOver))
    const start = { sequence: this.nextSequence, line: this.#lines + 1, offset: this.#bytes - rest.length }
    const block = firstLines(rest, to - start.sequence + 1)
    let batch: Batch<T> | Promise<Batch<T>> = { firstSequence: start.sequence, records: [], damages: [] }
    if (block.length > 0) {
      batch = this.#parser.parse(block, start, { covered: covered - start.offset, signal })
      this.#lines += this.#parser.lines
    }
    if (block.length < rest.length) this.#lines += countLines(rest.subarray(block.length))
    return batch
  }

  #damaged(problem: string): MiniStoreError {
    return damaged(this.#replay.path, this.segment.name, problem, { sequence: this.nextSequence })
  }

  /** The damage that a checkpoint shows in this block or before it, if it ends in this block. */
  #checkAgainst(checkpoints: readonly Checkpoint[], block: Buffer, after: number): MiniStoreError | undefined {
    for (const { bytes, crc32: expected } of checkpoints) {
      const within = bytes - this.#bytes
      if (within <= 0 || within > block.length) continue
      const found = within === block.length ? after : crc32(block.subarray(0, within), this.#crc32)
      if (found !== expected) {
        return damaged(this.#replay.path, this.segment.name, `a byte among the first ${bytes} has changed (wrong checksum)`)
      }
    }
    return undefined
  }
}

/** Parses lines to records. */
export function recordsWith<T>(codec: LineCodec<T>): ParserOf<T> {
  return (where, unclean) => new LineParser((line) => codec.decode(line, where), unclean)
}

/**
 * Turns blocks of whole lines into batches of records. A class of its own, because the calls for
 * each line cost a tenth of a replay more in a class with as many fields as {@link SegmentReader}.
 *
 * split2 splits the lines. They are written to it directly, and its mapper keeps the records, so
 * nothing passes through its readable side and a record costs no stream event. split2 gets whole
 * lines, because it would treat an unterminated end as a line. It gets text, because it would
 * silently replace bytes that are not UTF-8 with U+FFFD, and decodes them slowly. Only a block with
 * an unclean line is passed as bytes, and only its lines that are clean.
 */
class LineParser<T> implements BlockParser<T> {
  readonly #decode: (line: string) => T | Promise<T>
  readonly #unclean: (reason: string) => MiniStoreError
  readonly #splitter = split2('\n', (line: string) => this.#takeLine(line), { decodeStrings: false })
  #batch: Batch<T> = emptyBatch
  #block: Buffer = Buffer.alloc(0)
  #start: LinePosition = { sequence: 0, line: 0, offset: 0 }
  #index = 0
  /** The last line whose position was asked for. The next position is counted from its offset. */
  #counted = { index: 0, offset: 0 }
  #isAsync = false

  /** @param decode Decodes a line, or throws. Returns a promise only for an asynchronous schema. */
  constructor(decode: (line: string) => T | Promise<T>, unclean: (reason: string) => MiniStoreError) {
    this.#decode = decode
    this.#unclean = unclean
  }

  parse(
    block: Buffer, start: LinePosition, { signal }: { readonly signal: AbortSignal },
  ): Batch<T> | Promise<Batch<T>> {
    const batch: Batch<T> = { firstSequence: start.sequence, records: [], damages: [] }
    this.#batch = batch
    this.#block = block
    this.#start = start
    this.#index = 0
    this.#counted = { index: 0, offset: 0 }
    this.#isAsync = false
    const text = textOf(block)
    if (text === undefined) this.#parseLineByLine(block)
    // A block of one line needs no splitting. Followers get many.
    else if (text.indexOf('\n') === text.length - 1) this.#takeLine(text.slice(0, -1))
    else this.#splitter.write(text)
    // The batch is released now. If it was held until the next block, every garbage collection in
    // between would copy its records, and V8 would take twice the memory.
    this.#batch = emptyBatch
    return this.#isAsync ? settledOrAborted(settle(batch), signal) : batch
  }

  get lines(): number {
    return this.#index
  }

  position(): LinePosition {
    const index = this.#index
    // Offsets are counted on demand, because tracking them would cost time for every line.
    const offset = offsetAfterLines(this.#block, index - this.#counted.index, this.#counted.offset)
    this.#counted = { index, offset }
    const { sequence, line, offset: first } = this.#start
    return { sequence: sequence + index, line: line + index, offset: first + offset }
  }

  close(): void {
    this.#splitter.destroy()
  }

  /** Never throws, because an error would destroy the stream of split2. */
  #takeLine(line: string): undefined {
    try {
      if (line === '') throw this.#unclean(blankLine)
      const record = this.#decode(line)
      if (isThenable(record)) {
        this.#isAsync = true
        // settle() awaits it later. Until then a rejection must not count as unhandled.
        ignoreOutcome(record)
      }
      this.#batch.records.push(record as T)
    } catch (error) {
      addDamage(this.#batch, error as MiniStoreError)
    }
    this.#index++
    return undefined
  }

  #parseLineByLine(block: Buffer): void {
    for (const { line, offset } of linesOf(block)) {
      if (isCleanLine(line)) {
        this.#splitter.write(block.subarray(offset, offset + line.length + 1))
      } else {
        addDamage(this.#batch, this.#unclean(describeUncleanLine(line)))
        this.#index++
      }
    }
  }
}

function withDamage<T>(batch: Batch<T>, damage: MiniStoreError): Batch<T> {
  addDamage(batch, damage)
  return batch
}

export const emptyBatch: Batch<never> = { firstSequence: 0, records: [], damages: [] }

/** Awaits the results of an asynchronous schema. A record that fails it becomes damage. */
async function settle<T>(batch: Batch<T | Promise<T>>): Promise<Batch<T>> {
  const settled: Batch<T> = { firstSequence: batch.firstSequence, records: [], damages: [] }
  let passed = 0
  for (const [index, record] of batch.records.entries()) {
    const known = batch.damages[passed]
    if (known?.index === index) {
      passed++
      addDamage(settled, known.damage)
      continue
    }
    try {
      settled.records.push(await record)
    } catch (error) {
      addDamage(settled, error as MiniStoreError)
    }
  }
  return settled
}
