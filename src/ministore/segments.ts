/**
 * Where a journal lies, which segments it has, and in what order.
 *
 * **Invariant.** The segments found are the whole journal at one moment: without a gap or duplicate
 * in their names, ordered by number, chained by their headers. Anything else is damage. Nothing
 * here changes a file.
 */
import { basename, dirname, join, resolve } from 'node:path'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'

import { hasCode, MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'
import { type ByteRange, endOfData, readRange } from '../fs/bytes.ts'
import { exists, ifPresent, listIfPresent } from '../fs/durable.ts'
import { type File, type FileAccess, type FileStat, type FileSystem, irregularFile } from '../fs/file-system.ts'
import {
  type Checkpoint, countLines, type Header, isPartialHeader, JournalFiles, maxHeaderBytes, maxSequence, parseHeader,
} from './format.ts'

/** A segment file as it was found: its name, its header and its size. */
export interface SegmentFile {
  /** Number of a sealed segment; undefined for the active one. */
  readonly number: number | undefined
  readonly name: string
  readonly path: string
  readonly header: Header
  /** Size of the file, without {@link padding}. */
  readonly bytes: number
  /** Number of NUL bytes that `preallocate` has written ahead. 0 if sealed: there, they are damage. */
  readonly padding: number
  /** Together with the header, distinguishes the file from another file of the same name. */
  readonly inode: FileStat['inode']
  /** When the file was last changed, as in {@link FileStat}. */
  readonly changedMs: number | undefined
}

type SegmentIdentity = Pick<SegmentFile, 'inode' | 'header'>

/** A segment with its place in the journal. */
export interface Segment extends SegmentFile {
  /** Sequence number of its first record, or of its next record while it is empty. */
  readonly firstSequence: number
}

/** The active file if it is empty or holds only part of a header, as a crash may leave it. */
export type UnfinishedFile = Pick<SegmentFile, 'name' | 'bytes' | 'padding' | 'inode' | 'changedMs'>

/** The state of a journal at one moment. */
export interface JournalView {
  /** Oldest first. Views share this array, so it never changes. */
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
  /** Checkpoints known from the seal or from the writer; shortest first. */
  readonly checkpoints: readonly Checkpoint[]
  /**
   * Whether every byte that may be read is known to be acknowledged. If not, the last line may be
   * torn or not yet complete.
   */
  readonly isAcknowledged: boolean
}

/** Receives damage. If it returns, the caller continues without the damaged part. */
export type ReportDamage = (damage: MiniStoreError) => void

/** Reports damage by throwing it. */
export const throwDamage: ReportDamage = (damage) => {
  throw damage
}

/**
 * Finds where the files of the journal at a path belong. Changes nothing; the journal need not
 * exist.
 *
 * If the path is a symbolic link, the journal is located at the target of the link. Its segments
 * belong beside the target, and a rotation must not rename the link.
 *
 * Call this before creating any file beside the journal. For a path such as `/dev/null`, not even a
 * lock file may be created.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the path leads to something other than a regular
 *   file, or is a symbolic link without a target. A journal created in place of the link would hide
 *   the target when it exists again.
 */
export async function locateJournal(fs: FileSystem, path: string): Promise<JournalFiles> {
  const files = await followLink(fs, path)
  const found = await ifPresent(fs.stat(files.path))
  const irregular = found && irregularFile(files.path, found)
  if (irregular !== undefined) throw irregular
  return files
}

/**
 * Permissions and owner for new files of a journal. They are taken from the active segment, or from
 * the newest sealed segment if a crash has left no active one. Undefined for a new journal.
 */
export async function accessOf(fs: FileSystem, files: JournalFiles): Promise<FileAccess | undefined> {
  const active = await ifPresent(fs.stat(files.path))
  if (active !== undefined) return active
  const newest = files.sealedNames(await listIfPresent(fs, files.directory)).at(-1)
  const access = newest && (await ifPresent(fs.stat(files.at(newest.name))))
  // Sealed segments may be read-only, but the owner must be able to write the new files.
  return access?.mode === undefined ? access : { ...access, mode: access.mode | 0o600 }
}

/**
 * Checks that every file of a journal can have its name. Call this before the writer's lock file is
 * created. Changes nothing.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_NAME_TAKEN` if a file would belong to two journals,
 *   `ERR_MINISTORE_IO` if a name would be too long.
 */
export async function assertNamesUsable(fs: FileSystem, files: JournalFiles): Promise<void> {
  await assertNamesFit(fs, files)
  await assertNamesFree(fs, files)
}

/**
 * Checks that the longest name of a file of the journal fits into the directory.
 *
 * The name of the journal may fit while that of a file for a torn line does not, which would only
 * show when one must be saved. The limit depends on the directory (usually 255 bytes, 143 with
 * eCryptfs), so the file system is asked about the longest name.
 */
async function assertNamesFit(fs: FileSystem, files: JournalFiles): Promise<void> {
  const { longestName } = files
  // Windows reports the same error for a name that is too long and for a missing file. Its limit
  // counts UTF-16 code units.
  if (process.platform === 'win32' && longestName.length > 255) throw nameTooLong(files)
  for (let { directory } = files; ; directory = dirname(directory)) {
    try {
      await fs.stat(join(directory, longestName))
      return
    } catch (error) {
      if (hasCode(error, 'ENAMETOOLONG')) throw nameTooLong(files, error)
      if (!hasCode(error, 'ENOENT')) throw error
      // The limit of a missing directory is unknown, so its parent is asked instead.
      if (directory === dirname(directory) || (await exists(fs, directory))) return
    }
  }
}

function nameTooLong(files: JournalFiles, cause?: unknown): MiniStoreError {
  const more = Buffer.byteLength(files.longestName) - Buffer.byteLength(files.name)
  const message =
    `The name of the journal ${files.path} is too long: files beside it have names of up to ${more} bytes more, ` +
    'which do not fit into its directory. Give it a shorter name or path'
  return new MiniStoreError('ERR_MINISTORE_IO', message, { path: files.path, cause })
}

/**
 * Checks that no file would belong to two journals. For example, `events.2024` is a valid name for
 * a journal, but also the name of a sealed segment of the journal `events`. The journal
 * `events` would adopt the records of `events.2024` and delete them some day.
 *
 * Another journal is recognized by its lock file, which is never removed and so survives every
 * crash. A journal of the Rust crate has no lock file and is recognized by its active segment. This
 * check must come before the writer's own lock file is created.
 */
async function assertNamesFree(fs: FileSystem, files: JournalFiles): Promise<void> {
  const names = new Set(await listIfPresent(fs, files.directory))
  const refuse = (owned: string, owner: string, known: string): never => {
    const message =
      `${owned} is the name of a file of the journal ${owner}, so it cannot be another journal beside it ` +
      `(${known} exists). Give one of them another name or directory; if ${known} is left over, remove it`
    throw new MiniStoreError('ERR_MINISTORE_NAME_TAKEN', message, { path: files.path })
  }
  for (const name of names) {
    const lock = basename(new JournalFiles(name).lock)
    if (files.isOwn(name) && names.has(lock)) refuse(name, files.name, lock)
  }
  for (const owner of possibleOwners(files)) {
    const lock = basename(owner.lock)
    if (names.has(lock)) refuse(files.name, owner.name, lock)
    if (names.has(owner.name) && (await isJournal(fs, owner))) refuse(files.name, owner.name, owner.name)
  }
}

/** The possible journals in the same directory to which this journal's name would belong. */
function possibleOwners(files: JournalFiles): JournalFiles[] {
  // Skips a dot at the start of the name, because the name before it would be empty.
  return [...files.name.matchAll(/(?!^)\./g)]
    .map(({ index }) => new JournalFiles(files.at(files.name.slice(0, index))))
    .filter((owner) => owner.isOwn(files.name))
}

async function isJournal(fs: FileSystem, files: JournalFiles): Promise<boolean> {
  try {
    const active = await inspectActive(fs, files)
    return active !== undefined && 'header' in active
  } catch (error) {
    // A newer format version is still a journal. A directory, an unreadable file and other content are not.
    return hasCode(error, 'ERR_MINISTORE_UNSUPPORTED_VERSION')
  }
}

async function followLink(fs: FileSystem, path: string): Promise<JournalFiles> {
  const absolute = resolve(path)
  const name = basename(absolute)
  const directory = await ifPresent(fs.realPath(dirname(absolute)))
  if (directory === undefined) return new JournalFiles(absolute)
  const located = await retryWhileMoving(async () => {
    const real = await ifPresent(fs.realPath(absolute))
    if (real === join(directory, name)) return new JournalFiles(absolute)
    // Bun gives the new name of a file that is renamed meanwhile, so a target must be found twice.
    if (real !== undefined) return (await ifPresent(fs.realPath(absolute))) === real ? new JournalFiles(real) : undefined
    // A listed name without a real path is a link that leads nowhere, or it was renamed meanwhile.
    return (await fs.list(directory)).includes(name) ? undefined : new JournalFiles(absolute)
  }, { attempts: 10 })
  if (located !== undefined) return located
  throw new MiniStoreError('ERR_MINISTORE_IO', `${absolute} is a symbolic link that leads nowhere`, { path: absolute })
}

/**
 * Repeats an attempt to find files that another process may be renaming or removing. An attempt
 * resolves with undefined if a file moved meanwhile. Undefined if all attempts did.
 *
 * A rename has usually finished by the second attempt, so only later ones wait, for 1 ms each.
 */
export async function retryWhileMoving<T>(
  attempt: () => Promise<T | undefined>, { attempts = 100 }: { readonly attempts?: number } = {},
): Promise<T | undefined> {
  for (let moves = 0; moves < attempts; moves++) {
    if (moves > 1) await delay(1)
    const found = await attempt()
    if (found !== undefined) return found
  }
  return undefined
}

/** Inspects the active file. Undefined if it is missing. Changes nothing. */
export function inspectActive(
  fs: FileSystem, files: JournalFiles, report: ReportDamage = throwDamage,
): Promise<SegmentFile | UnfinishedFile | undefined> {
  return ifPresent(inspect(fs, files, { name: files.name, number: undefined }, report))
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
 * @param active The result of {@link inspectActive}.
 * @returns the segments, oldest first, with the active one last, and every name in the directory.
 */
export async function findSegments(
  fs: FileSystem,
  files: JournalFiles,
  active: SegmentFile | UnfinishedFile | undefined,
  report: ReportDamage = throwDamage,
): Promise<{ readonly segments: readonly Segment[]; readonly names: readonly string[] }> {
  const names = await listIfPresent(fs, files.directory)
  const sealed = inSequence(files, files.sealedNames(names), report)
  const found: SegmentFile[] = []
  // Few at a time, for the limit of open files. The file system may answer without the event loop.
  for (let at = 0; at < sealed.length; at += openAtOnce) {
    await turn()
    const group = sealed.slice(at, at + openAtOnce).map((named) => inspect(fs, files, named, report))
    for (const segment of await Promise.all(group)) {
      if ('header' in segment) found.push(segment)
      else report(damaged(files.path, segment.name, 'it is sealed but has no complete header'))
    }
  }
  if (active !== undefined && 'header' in active) {
    const rotatedTo = found.findIndex((segment) => isSameSegment(segment, active))
    if (rotatedTo !== -1) found.length = rotatedTo
    found.push(active)
  }
  const segments = await numbered(fs, found)
  let identified: Segment | undefined
  for (const [at, segment] of segments.entries()) {
    const problem = disorder(segment, segments[at - 1]) ?? foreignness(segment, identified)
    if (problem !== undefined) report(damaged(files.path, segment.name, problem, { sequence: segment.firstSequence }))
    if (segment.header.id !== undefined) identified = segment
  }
  return { segments, names }
}

/** Whether two inspections found the same file, possibly under different names. */
export function isSameSegment(one: SegmentIdentity, other: SegmentIdentity): boolean {
  return one.inode === other.inode && one.header.text === other.header.text
}

const openAtOnce = 64

/** Reports gaps and duplicates in the numbers of sealed segments, and leaves duplicates out. */
function inSequence(
  files: JournalFiles,
  sealed: ReturnType<JournalFiles['sealedNames']>,
  report: ReportDamage,
): typeof sealed {
  return sealed.filter(({ name, number }, index) => {
    const before = sealed[index - 1]
    if (before === undefined || before.number + 1 === number) return true
    const problem =
      before.number === number
        ? `two segments have number ${number}: ${before.name} and ${name}`
        : `segments ${before.number + 1} to ${number - 1} are missing between ${before.name} and ${name}`
    report(damaged(files.path, name, problem))
    return before.number !== number
  })
}

async function inspect(
  fs: FileSystem,
  files: JournalFiles,
  { name, number }: Pick<SegmentFile, 'name' | 'number'>,
  report: ReportDamage,
): Promise<SegmentFile | UnfinishedFile> {
  const path = files.at(name)
  const file = await fs.open(path, 'read')
  try {
    const { size, inode, changedMs } = await file.stat()
    const header = await readHeader(file, { path: files.path, segment: name }, report)
    if (header === undefined) return { name, bytes: size, padding: 0, inode, changedMs }
    const bytes = number === undefined ? await endOfData(file, { from: header.bytes, size }) : size
    return { name, bytes, padding: size - bytes, inode, changedMs, number, path, header }
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
  const buffer = Buffer.allocUnsafe(maxHeaderBytes + 1)
  let filled = 0
  let end = -1
  while (end === -1 && filled < buffer.length) {
    const read = await file.read(buffer.subarray(filled), filled)
    if (read === 0) break
    filled += read
    end = buffer.subarray(0, filled).indexOf(0x0a)
  }
  if (end === -1 && isPartialHeader(buffer.subarray(0, filled))) return undefined
  const text = buffer.toString('utf8', 0, end === -1 ? filled : end)
  try {
    return parseHeader(text, where)
  } catch (error) {
    if (!hasCode(error, 'ERR_MINISTORE_CORRUPT')) throw error
    report(error)
    // Without a line feed, the position of the first record is unknown.
    return end === -1 ? undefined : { text, bytes: end + 1, version: '', sequence: undefined, id: undefined, previousCrc32: undefined }
  }
}

/**
 * Determines the sequence number of the first record of each segment. If a header does not hold it
 * (version 0.1), it is counted forwards or backwards from a segment whose header does. If no header
 * holds one, the first record has the number 1.
 */
async function numbered(fs: FileSystem, segments: readonly SegmentFile[]): Promise<Segment[]> {
  const firsts = segments.map(({ header }) => header.sequence)
  const anchor = firsts.findIndex((first) => first !== undefined)
  if (anchor === -1 && segments.length > 0) firsts[0] = 1
  for (let at = anchor - 1; at >= 0; at--) {
    firsts[at] = (firsts[at + 1] as number) - (await countRecords(fs, segments[at] as SegmentFile))
  }
  for (let at = 1; at < segments.length; at++) {
    firsts[at] ??= (firsts[at - 1] as number) + (await countRecords(fs, segments[at - 1] as SegmentFile))
  }
  return segments.map((segment, index) => ({ ...segment, firstSequence: firsts[index] as number }))
}

/** Describes why a segment cannot follow the one before it. */
function disorder({ firstSequence, header }: Segment, before: Segment | undefined): string | undefined {
  if (firstSequence > maxSequence) return beyondLastSequence
  if (before === undefined) {
    return firstSequence < 1 ? 'it holds more records than the sequence number of the next segment allows' : undefined
  }
  // This library never seals an empty segment, so the next segment begins with a higher number. A
  // segment of version 0.1 may be empty.
  const isLater = firstSequence > before.firstSequence || before.header.sequence === undefined
  if (!isLater || firstSequence < before.firstSequence) {
    return `it begins with sequence ${firstSequence}, but ${before.name} before it with ${before.firstSequence}`
  }
  const isUnchained = header.sequence !== undefined && header.previousCrc32 === undefined
  return isUnchained ? `its header has no prev, although ${before.name} comes before it` : undefined
}

/** Describes why a segment belongs to another journal than the last one before it that has an id. */
function foreignness({ header }: Segment, before: Segment | undefined): string | undefined {
  if (header.id === undefined || before === undefined || header.id === before.header.id) return undefined
  return `its header has the id ${header.id}, but that of ${before.name} has ${before.header.id}`
}

/** Describes the problem if the records of a segment go beyond {@link maxSequence}. */
export function numbersProblem(segment: Pick<Segment, 'firstSequence'>, records: number): string | undefined {
  // Compares a difference, because a sum beyond `maxSequence` would be rounded.
  return records - 1 > maxSequence - segment.firstSequence ? beyondLastSequence : undefined
}

const beyondLastSequence = `it has records beyond ${maxSequence}, the greatest sequence number`

async function countRecords(fs: FileSystem, segment: SegmentFile): Promise<number> {
  const file = await fs.open(segment.path, 'read')
  try {
    const { bytes: from } = segment.header
    return await countLinesIn(file, { offset: from, bytes: segment.bytes - from })
  } finally {
    await file.close()
  }
}

export async function countLinesIn(file: File, range: ByteRange): Promise<number> {
  let lines = 0
  for await (const { bytes } of readRange(file, range)) lines += countLines(bytes)
  return lines
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
  at: Pick<MiniStoreErrorContext, 'line' | 'offset' | 'sequence'> = {},
): MiniStoreError {
  const { line, offset, sequence } = at
  const place = line === undefined ? segment : `${segment}, line ${line}, offset ${offset}`
  const message = `The journal ${path} is damaged at ${place}: ${problem}`
  return new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path, segment, line, offset, sequence, reason: problem })
}
