/**
 * Reads the bytes of a segment: counts, checksums, and the torn tail.
 *
 * **Invariant.** Only the last line of a segment can be torn, because a crash can damage only the
 * last write. An unclean line before it is damage, and damage is never taken for a torn tail. No
 * record is parsed, and nothing is changed.
 */
import { crc32 } from 'node:zlib'

import type { MiniStoreError } from '../errors.ts'
import { readFully, readRange } from '../fs/bytes.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import {
  countLines, extendCheckpoint, formatHeader, formatSeal, headerCheckpoint, type JournalFiles, isSameCheckpoint,
  type Checkpoint,
} from './format.ts'
import { describeUncleanLine, isCleanBlock, isCleanLine, LineBlocks, linesOf } from './lines.ts'
import { damaged, type Segment } from './segments.ts'

/**
 * What a scan of a segment's bytes found. Only the last line of a segment can be torn. An unclean
 * line before it is damage. No record is parsed: with another codec, or none, an intact record may
 * not parse, and would then be cut off as torn.
 */
export interface SegmentScan {
  /** All whole, clean lines before the first line that is not. Includes the header. */
  readonly prefix: Checkpoint
  /** The first `checkpoint` bytes; undefined if fewer bytes are whole, clean lines. */
  readonly atCheckpoint: Checkpoint | undefined
  /** Bytes after {@link prefix} that are not a whole, clean line and reach to the end. */
  readonly torn: { readonly bytes: number; readonly reason: string } | undefined
  /** An unclean line with more bytes after it. It is the first line after {@link prefix}. */
  readonly damage: { readonly reason: string } | undefined
}

/**
 * Reads a segment from its first byte to `end`. Checks and counts the lines and computes their
 * checksum.
 *
 * **Invariant.** Only the last line can be torn, because a crash can damage only the last write. An
 * unclean line at the end is torn, whether or not it ends in `\n`. An unclean line with bytes after
 * it is damage. A line is clean if it is not blank, holds no NUL byte and is UTF-8. No writer writes
 * an unclean line. Left at the end, it would become damage with the next append.
 *
 * Changes nothing. A torn end of more than {@link longLineBytes} is read in pieces, so it does not
 * have to fit into memory.
 *
 * @param options.end Offset at which to stop, usually the size of the file.
 * @param options.checkpoint Number of bytes to report as `atCheckpoint`.
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
    // The long torn end follows this line, so this line is not the last one and is damage.
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
  const pass = new CheckpointPass(checkpoint)
  let unclean: { offset: number; bytes: number; reason: string } | undefined
  for (let block; (block = await blocks.next(end)) !== undefined; ) {
    if (unclean !== undefined) break
    const clean = isCleanBlock(block) ? block : block.subarray(0, cleanLength(block))
    pass.add(clean)
    if (clean.length < block.length) {
      const line = block.subarray(clean.length, block.indexOf(0x0a, clean.length))
      unclean = { offset: pass.prefix.bytes, bytes: line.length + 1, reason: describeUncleanLine(line) }
      if (unclean.offset + unclean.bytes < blocks.offset) break
    }
  }
  const { prefix, atCheckpoint } = pass
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

/**
 * Bytes at the end of an active segment that are not a whole, clean line. The next open would cut
 * them off.
 */
export interface TornEnd {
  /** Byte offset in the segment at which they begin. */
  readonly offset: number
  readonly bytes: number
  readonly reason: string
  /** Whether they end in a line feed, and so count as a line. */
  readonly isEnded: boolean
}

/**
 * The limit in bytes, 1 MiB, above which a possibly torn line is read in pieces. A crash may leave
 * a sparse file that ends in gigabytes of NUL bytes.
 */
export const longLineBytes: number = 1024 * 1024

/**
 * Finds the torn end of an active segment by reading only its last line. Undefined if there is
 * none. While a writer has the journal open, the torn end may be an append in progress.
 *
 * Reads the line in pieces, so memory use is bounded however long the line is.
 *
 * @param part The range to search: from the end of the header to the size of the file when it was
 *   inspected.
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

/** Finds a torn end that is longer than {@link longLineBytes}. Undefined if there is none. */
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

/** Finds where the last line in a range of a file begins and whether it ends in a line feed. */
async function findLastLine(file: File, from: number, end: number): Promise<{ offset: number; isEnded: boolean }> {
  let isEnded = false
  let space = Buffer.allocUnsafe(firstStepBytes)
  for (let to = end; to > from; ) {
    const start = Math.max(from, to - space.length)
    const buffer = space.subarray(0, to - start)
    await readFully(file, buffer, start)
    if (to === end) isEnded = buffer.at(-1) === newline
    // Searches for the line feed before the last line, so the one that ends the last line is left
    // out.
    const lines = to === end && isEnded ? buffer.subarray(0, -1) : buffer
    const before = lines.lastIndexOf(newline)
    if (before !== -1) return { offset: start + before + 1, isEnded }
    to = start
    // Most lines fit into the first step. Longer ones are read in larger steps.
    if (space.length < longLineBytes) space = Buffer.allocUnsafe(longLineBytes)
  }
  return { offset: from, isEnded }
}

/**
 * Describes what is wrong with a line. Undefined if the line is clean.
 *
 * @param line The range of the line in the file, without its line feed.
 */
async function describeIfUnclean(
  file: File,
  line: { readonly offset: number; readonly bytes: number },
): Promise<string | undefined> {
  if (line.bytes === 0) return describeUncleanLine(Buffer.alloc(0))
  let problem: string | undefined
  // A character may begin in one chunk and end in the next.
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

/**
 * Offset of the last character. In UTF-8 up to three continuation bytes, whose high bits are 10,
 * follow the first byte of a character.
 */
function startOfLastCharacter(bytes: Buffer): number {
  let at = bytes.length - 1
  while (at > 0 && at > bytes.length - 4 && ((bytes[at] as number) & 0xc0) === 0x80) at--
  return at
}

/** The CRC-32 of all bytes of a sealed segment, whatever they are. */
export async function checksumOf(fs: FileSystem, { path, bytes: end }: Pick<Segment, 'path' | 'bytes'>): Promise<number> {
  const file = await fs.open(path, 'read')
  try {
    let checksum = 0
    for await (const { bytes } of readRange(file, { offset: 0, bytes: end })) checksum = crc32(bytes, checksum)
    return checksum
  } finally {
    await file.close()
  }
}

/** Compares the active segment with its seal. Returns the damage, or undefined if they match. */
export function sealDamage(
  files: JournalFiles,
  active: { readonly name: string },
  seal: Checkpoint,
  scan: Pick<SegmentScan, 'atCheckpoint' | 'prefix'>,
): MiniStoreError | undefined {
  const { atCheckpoint } = scan
  if (atCheckpoint !== undefined && isSameCheckpoint(atCheckpoint, seal)) return undefined
  const problem =
    atCheckpoint === undefined
      ? `the seal covers ${seal.bytes} bytes, but only the first ${scan.prefix.bytes} are there in whole lines`
      : `a byte among the first ${seal.bytes} has changed: the seal says ${formatSeal(seal).trim()}, ` +
        `the segment has ${formatSeal(atCheckpoint).trim()}`
  return damaged(files.path, active.name, problem)
}

/**
 * Returns the damage if the active segment is missing although a seal shows that it held
 * information that is in no other file. Without sealed segments, that is any seal except that of a
 * journal that never held a record, because the header also told the sequence number. Otherwise it
 * is a seal that counts records.
 *
 * A crash never causes this, because a rotation removes the seal durably before it renames the
 * segment. The seal is harmless if it matches the newest sealed segment: then another program
 * rotated.
 *
 * @param lastSealed The newest sealed segment up to the seal's number of bytes; undefined if no
 *   segment is sealed.
 */
export function missingActiveDamage(
  files: JournalFiles,
  seal: Checkpoint | undefined,
  lastSealed: { readonly atSeal: Checkpoint | undefined } | undefined,
): MiniStoreError | undefined {
  const isHarmless =
    seal === undefined ||
    (lastSealed === undefined ? isOfNewJournal(seal) : seal.records === 0) ||
    (lastSealed?.atSeal !== undefined && isSameCheckpoint(lastSealed.atSeal, seal))
  if (isHarmless) return undefined
  const problem =
    `the active segment is gone, and its seal ${files.seal} says that it held ${seal.records} record(s) in ` +
    `${seal.bytes} bytes. Put the file back; or, to go on without it, remove the seal`
  return damaged(files.path, files.name, problem)
}

/**
 * Whether a seal is that of a journal that never held a record. The seal does not tell the identity
 * in its header, but every such header is equally long, and shorter than that of a later segment.
 */
function isOfNewJournal(seal: Checkpoint): boolean {
  return seal.records === 0 && (seal.bytes === newHeader.length || isSameCheckpoint(seal, newJournalOfVersion02))
}

const newHeader = formatHeader({ sequence: 1, id: '0'.repeat(16), previousCrc32: undefined })
const newJournalOfVersion02 = headerCheckpoint(Buffer.from('// MINISTORE JOURNAL v0.2.0 seq=1\n'))

/** Counts and checksums the bytes of a segment. They are added in order, from the first one. */
export class CheckpointPass {
  readonly #checkpoint: number
  /** What was added so far. The header is a line but not a record, so the count begins at -1. */
  #prefix: Checkpoint
  #atCheckpoint: Checkpoint | undefined

  /**
   * @param checkpoint number of bytes to report as {@link atCheckpoint}.
   * @param start what counts as added already. By default nothing.
   */
  constructor(checkpoint = 0, start: Checkpoint = { bytes: 0, records: -1, crc32: 0 }) {
    this.#checkpoint = checkpoint
    this.#prefix = start
    this.#atCheckpoint = checkpoint === start.bytes && checkpoint > 0 ? start : undefined
  }

  get prefix(): Checkpoint {
    return this.#prefix
  }

  /** The first `checkpoint` bytes; undefined until they were added. */
  get atCheckpoint(): Checkpoint | undefined {
    return this.#atCheckpoint
  }

  add(bytes: Buffer): void {
    const left = this.#checkpoint - this.#prefix.bytes
    if (left > 0 && left <= bytes.length) {
      const upTo = bytes.subarray(0, left)
      this.#atCheckpoint = extendCheckpoint(this.#prefix, upTo, countLines(upTo))
    }
    this.#prefix = extendCheckpoint(this.#prefix, bytes, countLines(bytes))
  }
}

/** The end of the last whole line of a segment, and the number of records up to there. */
export interface Counted {
  readonly segment: Segment | undefined
  readonly bytes: number
  readonly records: number
  /** The bytes before the end. Undefined if they are acknowledged, because such lines are never rolled back. */
  readonly end: Buffer | undefined
}

export const noLines: Counted = { segment: undefined, bytes: 0, records: 0, end: undefined }

/** Counts the whole lines of a segment up to `to`, from where a count ended. */
export async function countOn(file: File, to: number, from: Counted & { readonly end: Buffer }): Promise<Counted> {
  let { bytes: end, records, end: endBytes } = from
  let read = endBytes
  for await (const block of readRange(file, { offset: from.bytes, bytes: to - from.bytes })) {
    // A line with a NUL is torn, even if it ends in a line feed; after it there is only padding.
    const nul = block.bytes.indexOf(0)
    const whole = nul === -1 ? block.bytes : block.bytes.subarray(0, nul)
    for (let at = whole.indexOf(newline); at !== -1; at = whole.indexOf(newline, at + 1)) records++
    const lines = whole.subarray(0, whole.lastIndexOf(newline) + 1)
    if (lines.length > 0) {
      end = from.bytes + block.position + lines.length
      endBytes = lastOf(read, lines)
    }
    if (nul !== -1) break
    read = lastOf(read, whole)
  }
  return { segment: from.segment, bytes: end, records, end: endBytes }
}

/** How many bytes before the end of a count are kept. */
const keptBytes = 4096

/** The last bytes before an offset of a file. */
export async function endBefore(file: File, offset: number): Promise<Buffer> {
  const bytes = Math.min(offset, keptBytes)
  let end: Buffer = Buffer.alloc(0)
  for await (const block of readRange(file, { offset: offset - bytes, bytes })) end = Buffer.from(block.bytes)
  return end
}

function lastOf(before: Buffer, after: Buffer): Buffer {
  return Buffer.concat([before, after.subarray(-keptBytes)]).subarray(-keptBytes)
}
