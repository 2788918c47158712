import { hasCode, MiniStoreError } from '../errors.ts'
import { listIfPresent } from '../fs/durable.ts'
import type { File, FileStat, FileSystem } from '../fs/file-system.ts'
import {
  countLines, type Header, isPartialHeader, type JournalFiles, maxHeaderBytes, maxSequence, parseHeader,
  type SegmentPrefix,
} from './format.ts'
import { LineBlocks } from './lines.ts'

/** A segment file as it was found: its name, its header and its size. */
export interface SegmentFile {
  /** Number of a sealed segment; undefined for the active one. */
  readonly number: number | undefined
  readonly name: string
  readonly path: string
  readonly header: Header
  /** Size of the file. */
  readonly bytes: number
  /** Together with the header, distinguishes the file from another file of the same name. */
  readonly inode: FileStat['inode']
  /** When the file was last changed, as in {@link FileStat}. */
  readonly changedMs: number | undefined
}

/** A segment with its place in the journal. */
export interface Segment extends SegmentFile {
  /** Sequence number of its first record, or of its next record while it is empty. */
  readonly firstSequence: number
}

/** The active file if it is empty or holds only part of a header, as a crash may leave it. */
export interface UnfinishedFile {
  readonly name: string
  readonly bytes: number
  readonly inode: FileStat['inode']
  readonly changedMs: number | undefined
}

/** The result of {@link surveySegments}. */
export interface Survey {
  /** Oldest first. The active segment, if there is one, comes last. */
  readonly segments: readonly Segment[]
  /** Every name in the directory. */
  readonly names: readonly string[]
}

/** Receives damage. If it returns, the caller continues without the damaged part. */
export type ReportDamage = (damage: MiniStoreError) => void

/** Reports damage by throwing it. */
export const throwDamage: ReportDamage = (damage) => {
  throw damage
}

/** Inspects the active file. Undefined if it is missing. Changes nothing. */
export async function inspectActive(
  fs: FileSystem,
  files: JournalFiles,
  report: ReportDamage = throwDamage,
): Promise<SegmentFile | UnfinishedFile | undefined> {
  try {
    return await inspect(fs, files, files.name, undefined, report)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

/**
 * Finds the sealed segments before an active one, reads their headers and determines the first
 * sequence number of every segment. Changes nothing.
 *
 * The caller must inspect the active segment before this call. If another process rotates between
 * the two, the result is then the complete journal as it was before the rotation.
 *
 * Costs one directory listing and one short read per segment. Segments of version 0.1, whose
 * headers hold no sequence number, may be read whole to count their records.
 *
 * Reports as damage: a gap or a duplicate in segment numbers, sequence numbers that contradict each
 * other, and a header that is invalid or lacks the checksum of the segment before it.
 *
 * @param active The result of {@link inspectActive}.
 */
export async function surveySegments(
  fs: FileSystem,
  files: JournalFiles,
  active: SegmentFile | UnfinishedFile | undefined,
  report: ReportDamage = throwDamage,
): Promise<Survey> {
  const names = await listIfPresent(fs, files.directory)
  const sealed = sealedNames(files, names, report)
  const found: SegmentFile[] = []
  // Opens a limited number at a time. A journal may have more segments than the limit of open
  // files.
  for (let at = 0; at < sealed.length; at += openAtOnce) {
    const group = sealed.slice(at, at + openAtOnce)
    const inspected = await Promise.all(group.map(({ name, number }) => inspect(fs, files, name, number, report)))
    for (const segment of inspected) {
      if ('header' in segment) found.push(segment)
      else report(damaged(files.path, segment.name, 'a sealed segment has no whole header'))
    }
  }
  if (active !== undefined && 'header' in active) {
    const rotatedTo = found.findIndex((segment) => isSameSegment(segment, active))
    if (rotatedTo !== -1) found.length = rotatedTo
    found.push(active)
  }
  const firsts = await numberRecords(found, (segment) => countRecords(fs, segment))
  const segments = found.map((segment, index) => ({ ...segment, firstSequence: firsts[index] as number }))
  reportDisorder(files, segments, report)
  return { segments, names }
}

/** Whether two inspections found the same file, possibly under different names. */
export function isSameSegment(
  one: Pick<SegmentFile, 'inode' | 'header'>,
  other: Pick<SegmentFile, 'inode' | 'header'>,
): boolean {
  return one.inode === other.inode && one.header.text === other.header.text
}

const openAtOnce = 64
const newline = 0x0a

/** The sealed segments in the order of their numbers. Reports gaps and duplicates. */
function sealedNames(
  files: JournalFiles,
  names: readonly string[],
  report: ReportDamage,
): Array<{ name: string; number: number }> {
  const sealed = names
    .flatMap((name) => {
      const number = files.sealedNumber(name)
      return number === undefined ? [] : [{ name, number }]
    })
    .toSorted((left, right) => left.number - right.number)
  for (const [index, { name, number }] of sealed.entries()) {
    const before = sealed[index - 1]
    if (before === undefined || before.number + 1 === number) continue
    const problem =
      before.number === number
        ? `two segments have number ${number}: ${before.name} and ${name}`
        : `segments ${before.number + 1} to ${number - 1} are missing between ${before.name} and ${name}`
    report(damaged(files.path, name, problem))
  }
  return sealed.filter(({ number }, index) => sealed[index - 1]?.number !== number)
}

async function inspect(
  fs: FileSystem,
  files: JournalFiles,
  name: string,
  number: number | undefined,
  report: ReportDamage,
): Promise<SegmentFile | UnfinishedFile> {
  const path = files.at(name)
  const file = await fs.open(path, 'read')
  try {
    const { size, inode, changedMs } = await file.stat()
    const header = await readHeader(file, { path: files.path, segment: name }, report)
    const found = { name, bytes: size, inode, changedMs }
    return header === undefined ? found : { ...found, number, path, header }
  } finally {
    await file.close()
  }
}

/**
 * Reads the header of an open segment. Undefined if the file is empty, holds only NUL bytes or
 * holds only part of a header.
 *
 * A damaged header is reported. If `report` returns, the result is a header without a sequence
 * number and checksum, or undefined if the first line has no line feed within the longest header.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_UNSUPPORTED_VERSION` if the header has a newer major
 *   version.
 */
export async function readHeader(
  file: File,
  where: { readonly path: string; readonly segment: string },
  report: ReportDamage = throwDamage,
): Promise<Header | undefined> {
  const buffer = Buffer.alloc(maxHeaderBytes + 1)
  let filled = 0
  let end = -1
  while (end === -1 && filled < buffer.length) {
    const read = await file.read(buffer.subarray(filled), filled)
    if (read === 0) break
    filled += read
    end = buffer.subarray(0, filled).indexOf(newline)
  }
  if (end === -1 && isPartialHeader(buffer.subarray(0, filled))) return undefined
  const text = buffer.toString('utf8', 0, end === -1 ? filled : end)
  try {
    return parseHeader(text, where)
  } catch (error) {
    if (!hasCode(error, 'ERR_MINISTORE_CORRUPT')) throw error
    report(error)
    // Without a line feed, the position of the first record is unknown.
    return end === -1 ? undefined : { text, bytes: end + 1, version: '', sequence: undefined, previousCrc32: undefined }
  }
}

/**
 * Determines the sequence number of the first record of each segment. If a header does not hold it
 * (version 0.1), it is counted forwards or backwards from a segment whose header does. If no header
 * holds one, the first record has the number 1.
 */
async function numberRecords(
  segments: readonly SegmentFile[],
  count: (segment: SegmentFile) => Promise<number>,
): Promise<number[]> {
  const firsts = segments.map(({ header }) => header.sequence)
  const anchor = firsts.findIndex((first) => first !== undefined)
  if (anchor === -1 && segments.length > 0) firsts[0] = 1
  for (let at = anchor - 1; at >= 0; at--) {
    firsts[at] = (firsts[at + 1] as number) - (await count(segments[at] as SegmentFile))
  }
  for (let at = 1; at < segments.length; at++) {
    firsts[at] ??= (firsts[at - 1] as number) + (await count(segments[at - 1] as SegmentFile))
  }
  return firsts as number[]
}

/**
 * Reports every segment whose sequence numbers or header cannot follow those of the segment before
 * it.
 */
function reportDisorder(files: JournalFiles, segments: readonly Segment[], report: ReportDamage): void {
  for (const [at, segment] of segments.entries()) {
    const problem = disorder(segment, segments[at - 1])
    if (problem !== undefined) report(damaged(files.path, segment.name, problem, { sequence: segment.firstSequence }))
  }
}

function disorder({ firstSequence, header }: Segment, before: Segment | undefined): string | undefined {
  if (firstSequence > maxSequence) return beyondLastSequence
  if (before === undefined) {
    return firstSequence < 1 ? 'it holds more records than the sequence of the segment after it allows' : undefined
  }
  // This library never seals an empty segment, so the next segment begins with a higher number. A
  // segment of version 0.1 may be empty.
  const isLater = firstSequence > before.firstSequence || before.header.sequence === undefined
  if (!isLater || firstSequence < before.firstSequence) {
    return `it begins with sequence ${firstSequence}, but ${before.name} before it with ${before.firstSequence}`
  }
  const isUnchained = header.sequence !== undefined && header.previousCrc32 === undefined
  return isUnchained ? `its header has no prev, though ${before.name} is before it` : undefined
}

/** Describes the problem if the records of a segment go beyond {@link maxSequence}. */
export function numbersProblem(segment: Pick<Segment, 'firstSequence'>, records: number): string | undefined {
  // Compares with a difference, because a sum beyond `maxSequence` would be rounded.
  return records - 1 > maxSequence - segment.firstSequence ? beyondLastSequence : undefined
}

const beyondLastSequence = `it has records beyond ${maxSequence}, the last sequence number that there can be`

async function countRecords(fs: FileSystem, segment: SegmentFile): Promise<number> {
  const file = await fs.open(segment.path, 'read')
  const blocks = new LineBlocks(file)
  try {
    let lines = 0
    for (let block; (block = await blocks.next(segment.bytes)) !== undefined; ) lines += countLines(block)
    return lines - 1
  } finally {
    await blocks.release()
    await file.close()
  }
}

/**
 * Creates the error `ERR_MINISTORE_CORRUPT` for a damaged segment.
 *
 * @param at The position of the damage in the segment, as far as it is known.
 */
export function damaged(
  path: string,
  segment: string,
  problem: string,
  at: { readonly line?: number; readonly offset?: number; readonly sequence?: number } = {},
): MiniStoreError {
  const message = `The journal ${path} is damaged at ${segment}: ${problem}`
  return new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path, segment, reason: problem, ...at })
}

/** The state of a journal at one moment. */
export interface JournalView {
  /** Oldest first. */
  readonly segments: readonly Segment[]
  /** The last segment and how far it may be read; undefined if there are no segments. */
  readonly tail: JournalTail | undefined
}

/** The end of a journal at one moment. A replay that does not follow ends there. */
export interface JournalTail {
  /** The last segment. */
  readonly segment: Segment
  /** Number of bytes of the segment that may be read. */
  readonly bytes: number
  /** Prefixes of the segment that are known from its seal or from its writer; shortest first. */
  readonly checkpoints: readonly SegmentPrefix[]
  /**
   * Whether every byte that may be read is known to be acknowledged. If not, the last line may be
   * torn or not yet complete.
   */
  readonly isAcknowledged: boolean
}

/** Gives readers the current state of a journal and tells them when it changes. */
export interface JournalSource {
  /** Absolute path of the journal. */
  readonly path: string
  /**
   * Resolves with the current state of the journal.
   *
   * @param options.since An earlier view. Its sealed segments may be reused, even if they no longer
   *   exist.
   * @param options.report Receives damage to whole segments, each damage once. Without it, the
   *   first damage is thrown.
   */
  look(options?: { readonly since?: JournalView | undefined; readonly report?: ReportDamage | undefined }): Promise<JournalView>
  /**
   * Resolves with `true` when the journal may have changed since the view, and with `false` if it
   * will never change again. Rejects with the signal's reason if the signal is aborted.
   *
   * @param options.isRestless Whether to resolve after some time even without a change. Needed if
   *   the last line was incomplete, because a line of the same length may replace it.
   */
  changedSince(view: JournalView, options: { readonly signal: AbortSignal; readonly isRestless: boolean }): Promise<boolean>
  /** Frees the resources used for waiting, such as a directory watch. */
  close(): void
}
