import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import { listIfPresent } from '../fs/durable.ts'
import { type File, type FileStat, type FileSystem, isNotFound } from '../fs/file-system.ts'
import {
  countLines, type Header, isPartialHeader, type JournalFiles, maxHeaderBytes, maxSequence, parseHeader,
  type SegmentPrefix,
} from './format.ts'
import { LineBlocks } from './lines.ts'

/** One segment file as it was found: whose it is, what its header says, how long it is. */
export interface SegmentFile {
  /** Sealed segments have a number, the active one has none. */
  readonly number: number | undefined
  readonly name: string
  readonly path: string
  readonly header: Header
  readonly bytes: number
  /** With the header it tells a file from another that took its name. */
  readonly inode: FileStat['inode']
  readonly changedMs: number | undefined
}

/** A segment with its place in the journal. */
export interface Segment extends SegmentFile {
  /** Sequence number of its first record, or the one it would have. */
  readonly firstSequence: number
}

/** The active file when it holds nothing or only part of a header, as a crash may leave it. */
export interface UnfinishedFile {
  readonly name: string
  readonly bytes: number
  readonly inode: FileStat['inode']
  readonly changedMs: number | undefined
}

/** What a look at the directory found. */
export interface Survey {
  /** Oldest first; the active one, when there is one, is the last. */
  readonly segments: readonly Segment[]
  /** Every name in the directory. */
  readonly names: readonly string[]
}

/** Is told of damage; what returns from it goes on without what is damaged. */
export type ReportDamage = (damage: MiniStoreError) => void

/** Reports damage by throwing it. */
export const throwDamage: ReportDamage = (damage) => {
  throw damage
}

/** The active segment's file as it is now, if it is there. Changes nothing. */
export async function inspectActive(
  fs: FileSystem,
  files: JournalFiles,
  report: ReportDamage = throwDamage,
): Promise<SegmentFile | UnfinishedFile | undefined> {
  try {
    return await inspect(fs, files, files.name, undefined, report)
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

/**
 * Finds the sealed segments that come before an active one, reads their headers and numbers all records.
 * Changes nothing.
 *
 * The active segment is inspected before the directory is listed, so that a rotation in between, by another process,
 * leaves a whole picture of how the journal stood before it.
 *
 * Costs one directory listing and one short read a segment; only segments of version 0.1, whose headers carry
 * no sequence number, are read whole to be counted.
 *
 * Damage is a gap or a duplicate in numbers or sequence, or a header that is not one.
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
  // A few at a time: a journal may have more segments than a process may have open files.
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

/** Whether two looks saw the same file, perhaps under another name. */
export function isSameSegment(
  one: Pick<SegmentFile, 'inode' | 'header'>,
  other: Pick<SegmentFile, 'inode' | 'header'>,
): boolean {
  return one.inode === other.inode && one.header.text === other.header.text
}

const openAtOnce = 64
const newline = 0x0a

/** The sealed segments by number. */
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
 * The header of an open segment; undefined when the file holds only part of one, or nothing. One that is
 * damaged is reported and then stands for one that says nothing.
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
    if (!isMiniStoreError(error, 'ERR_MINISTORE_CORRUPT')) throw error
    report(error)
    // Unless it ends in a line feed nothing tells where the records begin.
    return end === -1 ? undefined : { text, bytes: end + 1, version: '', sequence: undefined, previousCrc32: undefined }
  }
}

/**
 * Sequence number of each segment's first record. Where headers do not say it (version 0.1), it is counted
 * from a segment that does, forwards or backwards; a journal in which none does begins with 1.
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

/** Reports every segment that cannot follow the one before it. */
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
  // No segment of ours is sealed while it is empty, so the next begins later. One of version 0.1 may be empty.
  const isLater = firstSequence > before.firstSequence || before.header.sequence === undefined
  if (!isLater || firstSequence < before.firstSequence) {
    return `it begins with sequence ${firstSequence}, but ${before.name} before it with ${before.firstSequence}`
  }
  const isUnchained = header.sequence !== undefined && header.previousCrc32 === undefined
  return isUnchained ? `its header has no prev, though ${before.name} is before it` : undefined
}

/** What is wrong with a segment whose records have numbers that there cannot be; undefined when nothing is. */
export function numbersProblem(segment: Pick<Segment, 'firstSequence'>, records: number): string | undefined {
  // Not their sum, which would be rounded.
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

/** The error for damage to a segment; `at` says where in it, as far as that is known. */
export function damaged(
  path: string,
  segment: string,
  problem: string,
  at: { readonly line?: number; readonly offset?: number; readonly sequence?: number } = {},
): MiniStoreError {
  const message = `The journal ${path} is damaged at ${segment}: ${problem}`
  return new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path, segment, ...at })
}

/** How a journal stood at one moment. */
export interface JournalView {
  /** Oldest first. */
  readonly segments: readonly Segment[]
  /** The last of them, and how far it may be read; undefined when there is none. */
  readonly tail: JournalTail | undefined
}

/** The end of a journal as it stood at one moment: where a replay that does not follow ends. */
export interface JournalTail {
  readonly segment: Segment
  /** Bytes of it that may be read. */
  readonly bytes: number
  /** Its prefixes that are known, by its seal or by its writer; shortest first. */
  readonly checkpoints: readonly SegmentPrefix[]
  /** Whether every byte of it is known to be acknowledged; if not, its last line may be torn, or not yet whole. */
  readonly isAcknowledged: boolean
}

/** Where a reader learns how the journal stands, and that it has changed. */
export interface JournalSource {
  readonly path: string
  /**
   * How the journal stands now.
   *
   * @param options.since a view of before: segments that were sealed then may be taken from it, even if they are gone
   *   by now.
   * @param options.report is told of damage to segments as such, once of each; without it the damage is thrown.
   */
  look(options?: { readonly since?: JournalView | undefined; readonly report?: ReportDamage | undefined }): Promise<JournalView>
  /**
   * Resolves with true when the journal may have changed since the view was taken, with false when it never will
   * again. Rejects when the signal is aborted.
   *
   * @param options.isRestless answers after a while in any case: the last line was not whole, and it may
   *   become another of the same length.
   */
  changedSince(view: JournalView, options: { readonly signal: AbortSignal; readonly isRestless: boolean }): Promise<boolean>
  /** Frees what waiting has taken. */
  close(): void
}
