import split2 from 'split2'

import { ignoreOutcome, isThenable, settledOrAborted } from '../async.ts'
import type { MiniStoreError } from '../errors.ts'
import { blankLine, describeUncleanLine, isCleanLine, linesOf, offsetAfterLines, textOf } from './line-checks.ts'

/** Records one after another, and what is wrong with the line after them, if they end for that reason. */
export interface Batch<T> {
  /** Sequence number of the first record, or of the damaged line when there is no record. */
  readonly firstSequence: number
  readonly records: T[]
  damage?: MiniStoreError
}

/** Where the first line of a block stands. */
export interface LinePosition {
  readonly sequence: number
  readonly line: number
  readonly offset: number
}

/** Makes a record of a line, or throws. A promise only for an asynchronous schema. */
export type DecodeLine<T> = (line: string) => T | Promise<T>

/** Makes the error for a line that no writer writes. */
export type UncleanLine = (reason: string, at: LinePosition) => MiniStoreError

/**
 * Turns blocks of whole lines into batches of records. split2 does the framing.
 *
 * split2 is written to directly and its mapper keeps what it makes, so nothing passes through the readable
 * side: a record costs no stream event. It is fed whole lines, since it takes an unterminated end for
 * a line, and text, since it turns bytes that are not UTF-8 into U+FFFD without a word.
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
  /** The last line whose position was asked for, and its offset in the block: the next is counted from there. */
  #counted = { index: 0, offset: 0 }
  #isAsync = false

  constructor(decode: DecodeLine<T>, unclean: UncleanLine) {
    this.#decode = decode
    this.#unclean = unclean
  }

  /**
   * Parses a block whose first line stands at `start`. The count of its lines is {@link lines} afterwards. Rejects when
   * the signal is aborted while it waits for an asynchronous schema.
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
    // Not held until the next block: its records would be copied by every garbage collection between the two, which makes
    // V8 take twice the memory.
    this.#batches = []
    this.#batch = { firstSequence: 0, records: [] }
    return this.#isAsync ? settledOrAborted(settle(batches), signal) : batches
  }

  /** How many lines the last block had. */
  get lines(): number {
    return this.#index
  }

  /** Where the line that is being parsed stands. */
  position(): LinePosition {
    const index = this.#index
    // Only counted when asked for: keeping count would cost every line.
    const offset = offsetAfterLines(this.#block, index - this.#counted.index, this.#counted.offset)
    this.#counted = { index, offset }
    return { sequence: this.#start.sequence + index, line: this.#start.line + index, offset: this.#start.offset + offset }
  }

  close(): void {
    this.#splitter.destroy()
  }

  /** Never throws: split2 would not survive it. */
  #takeLine(line: string): undefined {
    try {
      if (line === '') throw this.#unclean(blankLine, this.position())
      const record = this.#decode(line)
      if (isThenable(record)) {
        this.#isAsync = true
        // Awaited later, and not unhandled until then.
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

/** Waits for an asynchronous schema, record by record, and ends a batch where it finds fault. */
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
