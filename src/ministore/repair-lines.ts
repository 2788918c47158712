import { messageOf } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import type { File } from '../fs/file-system.ts'
import { describeUncleanLine, isCleanBlock, isCleanLine, LineBlocks, linesOf, offsetAfterLines } from './lines.ts'
import { findLongTornEnd } from './scan.ts'

/** Lines of a segment one behind the other, and the bad one that ends them, if one does. */
export interface LineRun {
  /** The good lines with their line feeds; valid until the next run is asked for. */
  readonly good: Buffer
  readonly lines: number
  readonly bad: BadLine | undefined
}

/** A line that is to go. */
export interface BadLine {
  /** Counted from 0, which is the segment's first record. */
  readonly index: number
  readonly offset: number
  /** Its line feed included. */
  readonly bytes: number
  readonly reason: string
  /**
   * Whether no writer writes such a line: at the very end of the active segment it is torn, and recovery's
   * affair.
   */
  readonly isUnclean: boolean
}

/** Throws unless a line is one that can be read as a record. */
export type CheckLine = (line: Buffer) => void

/** What a record is unless the journal has another codec. */
export const checkJson: CheckLine = (line) => {
  JSON.parse(line.toString())
}

/**
 * Reads the lines behind the header of a segment, good ones in runs. What is read twice with the same check
 * gives the same twice, so that a plan and its execution agree.
 *
 * @param part.from where the header ends; `part.end` what of the file is read.
 * @param part.onBytes is given every byte, in order.
 */
export async function* readLineRuns(
  file: File,
  part: {
    readonly from: number
    readonly end: number
    readonly check: CheckLine
    readonly onBytes?: (bytes: Buffer) => void
  },
): AsyncGenerator<LineRun> {
  const { from, end, check } = part
  const long = await findLongTornEnd(file, { from, end })
  const blocks = new LineBlocks(file)
  let index = 0
  try {
    for (let block; (block = await blocks.next(long?.offset ?? end)) !== undefined;) {
      part.onBytes?.(block)
      const start = blocks.offset - block.length
      // The header is in the first block.
      const lines = start < from ? block.subarray(from - start) : block
      const offset = Math.max(start, from)
      for (const run of runsOf(lines, { index, offset, check })) {
        index += run.lines + (run.bad === undefined ? 0 : 1)
        yield run
      }
    }
    if (long !== undefined) {
      const { offset, bytes, reason } = long
      if (part.onBytes !== undefined) for await (const chunk of readRange(file, long)) part.onBytes(chunk.bytes)
      yield { good: Buffer.alloc(0), lines: 0, bad: { index, offset, bytes, reason, isUnclean: true } }
      return
    }
    const { rest } = blocks
    if (rest.length === 0) return
    part.onBytes?.(rest)
    const { offset } = blocks
    if (offset < from) return
    const bad = { index, offset, bytes: rest.length, reason: 'the line has no line feed', isUnclean: true }
    yield { good: rest.subarray(0, 0), lines: 0, bad }
  } finally {
    await blocks.release()
  }
}

function* runsOf(
  block: Buffer,
  start: { readonly index: number; readonly offset: number; readonly check: CheckLine },
): Generator<LineRun> {
  const isClean = isCleanBlock(block)
  let from = 0
  let lines = 0
  let index = start.index
  for (const { line, offset } of linesOf(block)) {
    const isUnclean = !isClean && !isCleanLine(line)
    const reason = isUnclean ? describeUncleanLine(line) : problemOf(line, start.check)
    if (reason === undefined) {
      lines++
    } else {
      const bytes = line.length + 1
      const bad = { index, offset: start.offset + offset, bytes, reason, isUnclean }
      yield { good: block.subarray(from, offset), lines, bad }
      from = offset + bytes
      lines = 0
    }
    index++
  }
  if (lines > 0) yield { good: block.subarray(from), lines, bad: undefined }
}

function problemOf(line: Buffer, check: CheckLine): string | undefined {
  try {
    check(line)
    return undefined
  } catch (error) {
    return `the line is not JSON: ${messageOf(error)}`
  }
}

/** A run without the lines from `count` on; a bad line is no longer part of it. */
export function upToLine(run: LineRun, count: number): LineRun {
  if (count >= run.lines) return { ...run, bad: undefined }
  const lines = Math.max(count, 0)
  return { good: run.good.subarray(0, offsetAfterLines(run.good, lines)), lines, bad: undefined }
}
