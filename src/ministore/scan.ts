import type { MiniStoreError } from '../errors.ts'
import { readFully, readRange } from '../fs/bytes.ts'
import type { File } from '../fs/file-system.ts'
import {
  countLines, extendPrefix, formatHeader, formatSeal, headerPrefix, type JournalFiles, samePrefix,
  type SegmentPrefix,
} from './format.ts'
import { describeUncleanLine, isCleanBlock, isCleanLine, LineBlocks, linesOf } from './lines.ts'
import { damaged, type Segment } from './segments.ts'

/** What the bytes of a segment say, without parsing them. */
export interface SegmentScan {
  /** All whole, clean lines up to the first that is not. */
  readonly prefix: SegmentPrefix
  /** What the first `checkpoint` bytes hold; undefined when there are fewer. */
  readonly atCheckpoint: SegmentPrefix | undefined
  /** Bytes after {@link prefix} that are no whole, clean line, and nothing after them. */
  readonly torn: { readonly bytes: number; readonly reason: string } | undefined
  /** An unclean line with something after it. It is the first line after {@link prefix}. */
  readonly damage: { readonly reason: string } | undefined
}

/**
 * Reads a segment from its first byte to `end`, counting lines, checking them and taking their checksum.
 *
 * An unclean line is torn when nothing follows it, whether or not it ends in `\n`: a crash leaves
 * its mark on the last write only. With something behind it, it is damage.
 */
export async function scanSegment(
  file: File,
  options: { readonly end: number; readonly checkpoint?: number | undefined },
): Promise<SegmentScan> {
  const { end, checkpoint } = options
  const long = await findLongTornEnd(file, { from: 0, end })
  const blocks = new LineBlocks(file)
  try {
    const scan = await scanBlocks(blocks, { end: long?.offset ?? end, checkpoint })
    if (long === undefined || scan.damage !== undefined) return scan
    // With the long end behind it, no other line is the last one.
    if (scan.torn !== undefined) return { ...scan, torn: undefined, damage: { reason: scan.torn.reason } }
    return { ...scan, torn: { bytes: long.bytes, reason: long.reason } }
  } finally {
    await blocks.release()
  }
}

async function scanBlocks(
  blocks: LineBlocks,
  { end, checkpoint }: { readonly end: number; readonly checkpoint?: number | undefined },
): Promise<SegmentScan> {
  // The header is a line and no record, hence -1.
  let prefix: SegmentPrefix = { bytes: 0, records: -1, crc32: 0 }
  let atCheckpoint: SegmentPrefix | undefined
  let unclean: { offset: number; bytes: number; reason: string } | undefined
  for (let block; (block = await blocks.next(end)) !== undefined; ) {
    if (unclean !== undefined) break
    const clean = isCleanBlock(block) ? block : block.subarray(0, cleanLength(block))
    if (checkpoint !== undefined && checkpoint > prefix.bytes && checkpoint <= prefix.bytes + clean.length) {
      const upTo = clean.subarray(0, checkpoint - prefix.bytes)
      atCheckpoint = extendPrefix(prefix, upTo, countLines(upTo))
    }
    prefix = extendPrefix(prefix, clean, countLines(clean))
    if (clean.length < block.length) {
      const line = block.subarray(clean.length, block.indexOf(0x0a, clean.length))
      unclean = { offset: prefix.bytes, bytes: line.length + 1, reason: describeUncleanLine(line) }
      if (prefix.bytes + unclean.bytes < blocks.offset) break
    }
  }
  if (unclean !== undefined && unclean.offset + unclean.bytes < end) {
    return { prefix, atCheckpoint, torn: undefined, damage: { reason: unclean.reason } }
  }
  const bytes = end - prefix.bytes
  const reason = unclean?.reason ?? 'the line has no line feed'
  return { prefix, atCheckpoint, torn: bytes === 0 ? undefined : { bytes, reason }, damage: undefined }
}

function cleanLength(block: Buffer): number {
  for (const { offset, line } of linesOf(block)) if (!isCleanLine(line)) return offset
  return block.length
}

/** Bytes at the end of an active segment that are no whole, clean line: what the next open would cut off. */
export interface TornEnd {
  /** Where in the segment they begin. */
  readonly offset: number
  readonly bytes: number
  readonly reason: string
  /** Whether they end in a line feed, so that counting lines counts them. */
  readonly isEnded: boolean
}

/** A line longer than this is looked at piece by piece where it may be a torn one: a sparse file may end in gigabytes of NULs. */
export const longLineBytes: number = 1024 * 1024

/**
 * The torn end of an active segment, if it has one, by its last line alone. While a writer is at work it may
 * be an append that is under way. Holds a small part of the line at a time, however long it is.
 *
 * @param part the bytes behind the header, up to where the segment was looked at.
 */
export async function findTornEnd(
  file: File,
  part: { readonly from: number; readonly end: number },
): Promise<TornEnd | undefined> {
  const { from, end } = part
  if (end <= from) return undefined
  const { offset, isEnded } = await findLastLine(file, from, end)
  const bytes = end - offset
  if (!isEnded) return { offset, bytes, isEnded, reason: 'the line has no line feed' }
  const reason = await describeIfUnclean(file, { offset, bytes: bytes - 1 })
  return reason === undefined ? undefined : { offset, bytes, isEnded, reason }
}

/** A torn end that is too long to be read as a line. */
export async function findLongTornEnd(
  file: File,
  part: { readonly from: number; readonly end: number },
): Promise<TornEnd | undefined> {
  if (part.end - part.from <= longLineBytes) return undefined
  const torn = await findTornEnd(file, part)
  return torn !== undefined && torn.bytes > longLineBytes ? torn : undefined
}

const newline = 0x0a
const firstStepBytes = 4096

/** Where the last line of a part of a file begins, and whether it has a line feed. */
async function findLastLine(file: File, from: number, end: number): Promise<{ offset: number; isEnded: boolean }> {
  let isEnded = false
  let space = Buffer.allocUnsafe(firstStepBytes)
  for (let to = end; to > from; ) {
    const start = Math.max(from, to - space.length)
    const buffer = space.subarray(0, to - start)
    await readFully(file, buffer, start)
    if (to === end) isEnded = buffer.at(-1) === newline
    // The line feed that ends the line before; that of the last line itself does not count.
    const lines = to === end && isEnded ? buffer.subarray(0, -1) : buffer
    const before = lines.lastIndexOf(newline)
    if (before !== -1) return { offset: start + before + 1, isEnded }
    to = start
    // Most lines end here. What is longer is read in larger steps.
    if (space.length < longLineBytes) space = Buffer.allocUnsafe(longLineBytes)
  }
  return { offset: from, isEnded }
}

/** What is wrong with a line, given without its line feed. */
async function describeIfUnclean(
  file: File,
  line: { readonly offset: number; readonly bytes: number },
): Promise<string | undefined> {
  if (line.bytes === 0) return describeUncleanLine(Buffer.alloc(0))
  let problem: string | undefined
  // The last character of a chunk may end in the next one.
  let carried = Buffer.alloc(0)
  for await (const { bytes, position } of readRange(file, line)) {
    const isLast = position + bytes.length === line.bytes
    const chunk = carried.length === 0 ? bytes : Buffer.concat([carried, bytes])
    const cut = isLast ? chunk.length : startOfLastCharacter(chunk)
    const text = chunk.subarray(0, cut)
    if (text.includes(0)) return describeUncleanLine(text)
    if (text.length > 0 && !isCleanLine(text)) problem ??= describeUncleanLine(text)
    carried = Buffer.from(chunk.subarray(cut))
  }
  return problem
}

/** Where the last character begins: UTF-8 has up to three bytes behind the first, which begin with the bits 10. */
function startOfLastCharacter(bytes: Buffer): number {
  let at = bytes.length - 1
  while (at > 0 && at > bytes.length - 4 && ((bytes[at] as number) & 0xc0) === 0x80) at--
  return at
}

/** The damage a seal shows in the active segment, if it does. */
export function sealDamage(
  files: JournalFiles,
  active: Segment,
  seal: SegmentPrefix,
  scan: Pick<SegmentScan, 'atCheckpoint' | 'prefix'>,
): MiniStoreError | undefined {
  const { atCheckpoint } = scan
  if (atCheckpoint !== undefined && samePrefix(atCheckpoint, seal)) return undefined
  const problem =
    atCheckpoint === undefined
      ? `the seal covers ${seal.bytes} bytes, but only the first ${scan.prefix.bytes} are there in whole lines`
      : `a byte among the first ${seal.bytes} has changed: the seal says ${formatSeal(seal).trim()}, ` +
        `the segment has ${formatSeal(atCheckpoint).trim()}`
  return damaged(files.path, active.name, problem)
}

/**
 * The damage when there is no active segment but a seal that says there was one, with records or with a place in the
 * sequence that nothing else tells. A crash never leaves that: a rotation removes the seal, durably, before it renames
 * the segment. It may be the seal of the segment sealed last, when another program rotated.
 *
 * @param lastSealed what the segment sealed last holds up to the seal's bytes; undefined when none is sealed.
 */
export function missingActiveDamage(
  files: JournalFiles,
  seal: SegmentPrefix | undefined,
  lastSealed: { readonly atSeal: SegmentPrefix | undefined } | undefined,
): MiniStoreError | undefined {
  const isHarmless =
    seal === undefined ||
    (lastSealed === undefined ? samePrefix(seal, newJournal) : seal.records === 0) ||
    (lastSealed?.atSeal !== undefined && samePrefix(lastSealed.atSeal, seal))
  if (isHarmless) return undefined
  const problem =
    `the active segment is gone, and its seal ${files.seal} says that it held ${seal.records} record(s) in ` +
    `${seal.bytes} bytes. Put the file back; or, to go on without it, remove the seal`
  return damaged(files.path, files.name, problem)
}

/** An empty journal that never held a record. */
const newJournal = headerPrefix(Buffer.from(formatHeader({ sequence: 1, previousCrc32: undefined })))
