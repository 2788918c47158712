/**
 * Brings a journal back into order when it is opened.
 *
 * **Invariant.** Recovery keeps every acknowledged record. It removes only bytes that were never
 * acknowledged: a torn last line, an unfinished header and unfinished files. It checks before it
 * changes: if it finds damage, it rejects and leaves the journal unchanged.
 */
import { type TracingChannel, tracingChannel } from 'node:diagnostics_channel'

import type { MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import { isOutOfSpace, removeIfPresent, writeFully } from '../fs/durable.ts'
import { saveTornTail } from '../fs/evidence.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import { ActiveSegment } from './active-segment.ts'
import {
  type Checkpoint, idOf, isSameCheckpoint, type JournalFiles, maxSegmentNumber, maxSequence, readSeal,
} from './format.ts'
import {
  type HeldFiles, holdJournal, newJournalId, prepareNextSegment, releaseHeld, replaceEmptySegment,
  rotateSegment, stillMoving,
} from './rotation.ts'
import { checksumOf, missingActiveDamage, scanSegment, sealDamage, type SegmentScan } from './scan.ts'
import { damaged, findSegments, inspectActive, numbersProblem, type Segment } from './segments.ts'

/**
 * What opening a journal found and changed. Opening keeps every acknowledged record and removes
 * only bytes that were never acknowledged.
 */
export interface RecoveryReport {
  /** Whether there was no journal and an empty one was created. */
  readonly isNew: boolean
  /**
   * Whether a crash during a rotation had left sealed segments but no complete active one. An empty
   * active segment was then created.
   */
  readonly isActiveRestored: boolean
  /** The unacknowledged last write that was removed; undefined if there was none. */
  readonly torn: TornTail | undefined
  /** File names of the unfinished files that were removed. */
  readonly removedFiles: readonly string[]
  /** Number of bytes of the active segment that were read and checked. */
  readonly scannedBytes: number
}

/** Context of the tracing channel `ministore:recover`. */
export interface RecoverTrace {
  /** Absolute path of the journal. */
  readonly path: string
  /** Result of the recovery. Set once it has succeeded. */
  report?: RecoveryReport
}

export const recoverChannel: TracingChannel<unknown, RecoverTrace> = tracingChannel('ministore:recover')

/** The bytes that recovery removed from the end of the active segment. */
export interface TornTail {
  /** Sequence number that the record would have had. */
  readonly sequence: number
  /** Byte offset in the segment at which the removed bytes began. */
  readonly offset: number
  /** Number of bytes removed. */
  readonly bytes: number
  /** What was wrong with the line, for people to read. */
  readonly reason: string
  /** Path of the file that now holds the bytes; undefined if there was no space for a copy. */
  readonly savedAs: string | undefined
}

/** A recovered journal, ready for its writer. */
export interface RecoveredJournal {
  readonly sealed: readonly Segment[]
  readonly active: ActiveSegment
  /** The contents of the seal on disk; undefined if there is no seal. */
  readonly seal: Checkpoint | undefined
  readonly report: RecoveryReport
}

/**
 * Locks the segments of a journal and brings the journal into the state that its writer needs. The
 * directory must exist.
 *
 * **Why the invariant holds.** A crash can interrupt an append, a rotation, a deletion, the writing of
 * a seal or an earlier recovery:
 *
 * - An append changes only bytes after the acknowledged ones. An interrupted append leaves at most
 *   one incomplete line, at the very end. Recovery saves that line durably, unless the disk is
 *   full, and then cuts it off. (If the middle of an `appendAll` is lost and its end is on disk,
 *   recovery reports damage.)
 * - A rotation renames only after all bytes of both segments are durable, and makes each rename
 *   durable before the next. It leaves the old active segment, none, or the new one.
 * - Deletions go oldest first, and each is durable before the next. They leave a shorter journal
 *   without a gap.
 * - Seals and saved lines are put in place by rename, so they appear whole or not at all.
 * - The header of an active segment without records is replaced by rename too, to give an old
 *   journal its identity.
 *
 * Every step of recovery is of one of these kinds, so recovery can start again after a crash in
 * recovery.
 *
 * When it resolves, everything that it found is durable. A killed writer may have left bytes and
 * names that existed only in the page cache.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` if another writer has the journal open,
 *   `ERR_MINISTORE_CORRUPT` if it is damaged, `ERR_MINISTORE_UNSUPPORTED_VERSION` if a header has a
 *   newer major version. An error of the system is passed on.
 */
export async function recoverJournal(files: JournalFiles, lock: WriterLock): Promise<RecoveredJournal> {
  const held = await holdJournal(lock.fileSystem, files, lock)
  try {
    return await identify(files, lock, await recoverHeld(files, lock, held))
  } catch (error) {
    await releaseHeld(lock.fileSystem, files, lock, held)
    throw error
  }
}

async function recoverHeld(files: JournalFiles, lock: WriterLock, held: HeldFiles): Promise<RecoveredJournal> {
  const fs = lock.fileSystem
  const { segments, names } = await findSegments(fs, files, await inspectActive(fs, files))
  const seal = await readSeal(fs, files.seal)
  const isOurs = (name: string): boolean => held.isNextNew && files.at(name) === files.next
  const leftovers = names.filter((name) => files.isLeftover(name) && !isOurs(name))
  const last = segments.at(-1)
  const isNew = last === undefined
  const report = { isNew, isActiveRestored: false, torn: undefined, removedFiles: leftovers, scannedBytes: 0 }
  if (last === undefined || last.number !== undefined) {
    const id = idOf(segments) ?? newJournalId()
    const active = await restoreActive(files, lock, { last, id, seal, leftovers, held })
    return { sealed: segments, active, seal: undefined, report: { ...report, isActiveRestored: !isNew } }
  }
  if (held.active === undefined) throw stillMoving(files)
  const sealed = segments.slice(0, -1)
  const found = { sealed, last, seal, leftovers, file: held.active }
  const { active, torn, isSealKept } = await recoverActive(fs, files, found)
  return { sealed, active, seal: isSealKept ? seal : undefined, report: { ...report, torn, scannedBytes: last.bytes } }
}

/**
 * Gives a journal of an old format version its identity, by a rotation or, if the active segment has
 * no records, by another header. Uses the identity of older segments if a program that knows no
 * identities has rotated since. Deletes no segment.
 *
 * Leaves the header as it is if the disk is full or all numbers are used up, because such a journal
 * must still open.
 */
async function identify(files: JournalFiles, lock: WriterLock, journal: RecoveredJournal): Promise<RecoveredJournal> {
  const { sealed, active: from } = journal
  const { segment, acknowledged } = from
  const fs = lock.fileSystem
  const before = sealed.at(-1)
  const number = (before?.number ?? 0) + 1
  const sequence = nextOf(segment, acknowledged)
  const id = idOf(sealed) ?? newJournalId()
  if (segment.header.id !== undefined || sequence > maxSequence || number > maxSegmentNumber) return journal
  let changed: Pick<RecoveredJournal, 'sealed' | 'active'> = journal
  try {
    await from.cutPadding()
    if (acknowledged.records > 0) {
      const rotated = await rotateSegment(fs, files, { from, number, id, lock })
      changed = { sealed: [...sealed, rotated.sealed], active: rotated.active }
    } else {
      // The header of an empty segment of version 0.1 has no checksum that a new one could repeat.
      const isKnown = before === undefined || segment.header.sequence !== undefined
      const previousCrc32 = isKnown ? segment.header.previousCrc32 : await checksumOf(fs, before)
      changed = { sealed, active: await replaceEmptySegment(fs, files, from, { sequence, id, previousCrc32, lock }) }
    }
    // Every byte of the file is durable, so an error on closing it changes nothing.
    await from.file.close().catch(() => {})
  } catch (error) {
    if (!isOutOfSpace(error)) throw error
  }
  // The seal of the former active segment was removed first.
  return { ...journal, ...changed, seal: undefined }
}

/** What recovery found before it changed anything. */
interface Found {
  /** The segments before the last. */
  readonly sealed: readonly Segment[]
  /** The active segment or, if there is none, the newest sealed one. */
  readonly last: Segment
  readonly seal: Checkpoint | undefined
  readonly leftovers: readonly string[]
}

/** Creates the active segment if it is missing or holds only part of a header. */
async function restoreActive(
  files: JournalFiles,
  lock: WriterLock,
  found: Pick<Found, 'seal' | 'leftovers'> & {
    readonly last: Segment | undefined
    readonly id: string
    readonly held: HeldFiles
  },
): Promise<ActiveSegment> {
  const { last, id, seal, held } = found
  const fs = lock.fileSystem
  const before = last === undefined ? undefined : await scanSealed(fs, files, last, seal)
  const damage = missingActiveDamage(files, seal, last === undefined ? undefined : { atSeal: before?.atCheckpoint })
  if (damage !== undefined) throw damage
  // One more than the records, because the new header holds the sequence number of the next record.
  if (last !== undefined && before !== undefined) assertNumbered(files, last, before.prefix.records + 1)
  for (const name of found.leftovers) {
    // A held `.next` is overwritten instead. If it were removed, another writer could create one.
    if (held.next === undefined || files.at(name) !== files.next) await removeIfPresent(fs, files.at(name))
  }
  // A seal of the previous active segment would contradict the one created here.
  await removeIfPresent(fs, files.seal)
  // A process killed during a rotation may have left a rename that is not yet durable. It must
  // become durable before another file gets the active name. Otherwise a crash could keep only the
  // second rename, which would then replace the segment.
  await fs.syncDirectory(files.directory)
  const sequence = last === undefined ? 1 : last.firstSequence + (before?.prefix.records ?? 0)
  const start = { sequence, id, previousCrc32: before?.prefix.crc32, access: lock.access }
  const active = await prepareNextSegment(fs, files, start, { lock, held })
  try {
    await fs.rename(files.next, files.path)
    await fs.syncDirectory(files.directory)
    await lock.assertInPlace()
  } catch (error) {
    if (active.file !== held.next) await active.file.close().catch(() => {})
    throw error
  }
  // Either the newest sealed segment or the unfinished active one, whose name the new one now has.
  if (held.newest !== undefined) lock.letGo(held.newest.path)
  for (const file of [held.active, held.newest?.file]) await file?.close().catch(() => {})
  return active
}

async function scanSealed(
  fs: FileSystem,
  files: JournalFiles,
  segment: Segment,
  seal: Checkpoint | undefined,
): Promise<SegmentScan> {
  const file = await fs.open(segment.path, 'read')
  try {
    const scan = await scanSegment(file, { end: segment.bytes, checkpoint: seal?.bytes })
    const reason = scan.damage?.reason ?? scan.torn?.reason
    if (reason !== undefined) throw lineDamage(files, segment, scan.prefix, reason)
    return scan
  } finally {
    await file.close()
  }
}

async function recoverActive(
  fs: FileSystem,
  files: JournalFiles,
  found: Found & { readonly file: File },
): Promise<{ active: ActiveSegment; torn: TornTail | undefined; isSealKept: boolean }> {
  const { last, seal, leftovers, file } = found
  const scan = await scanSegment(file, { end: last.bytes, checkpoint: seal?.bytes })
  const { prefix } = scan
  if (scan.damage !== undefined) throw lineDamage(files, last, prefix, scan.damage.reason)
  assertNumbered(files, last, prefix.records)
  const mismatch = seal === undefined ? undefined : sealDamage(files, last, seal, scan)
  const isForeign = mismatch !== undefined && (await isSealOfSealed(fs, files, found))
  if (mismatch !== undefined && !isForeign) throw mismatch
  await removeLeftovers(fs, files, leftovers)
  if (isForeign && (await removeIfPresent(fs, files.seal))) await fs.syncDirectory(files.directory)
  const torn = scan.torn === undefined ? undefined : { ...scan.torn, offset: prefix.bytes, sequence: nextOf(last, prefix) }
  const place = {
    directory: files.directory,
    nameOf: (copy: number): string => files.tornName(nextOf(last, prefix), copy),
  }
  const savedAs = torn === undefined ? undefined : await saveTornTail(fs, file, torn, place)
  const isCut = await cut(file, prefix.bytes, { isNeeded: torn !== undefined })
  await writeAgain(file, { from: seal === undefined || isForeign ? 0 : seal.bytes, to: prefix.bytes })
  await file.sync()
  await fs.syncDirectory(files.directory)
  return {
    active: new ActiveSegment({ ...last, bytes: prefix.bytes, padding: isCut ? 0 : last.padding }, file, prefix),
    torn: torn && { ...torn, savedAs: savedAs === undefined ? undefined : files.at(savedAs) },
    isSealKept: !isForeign,
  }
}

/**
 * Cuts the active segment to its whole lines, even if it already ends there.
 *
 * If the fsync after an earlier cut failed, in a rollback or a recovery, the file looks cut while
 * the disk may still hold the old tail. A later crash could bring that tail back after newly
 * appended records. After another cut, the next fsync makes the cut durable.
 *
 * @param isNeeded Whether there is more than padding to cut off. If not, a full disk is not an error.
 * @returns whether the file was cut.
 */
async function cut(file: File, bytes: number, { isNeeded }: { readonly isNeeded: boolean }): Promise<boolean> {
  try {
    await file.truncate(bytes)
    return true
  } catch (error) {
    // A file system that never writes in place may need free space even for this. A journal on a
    // full disk must still open.
    if (isNeeded || !isOutOfSpace(error)) throw error
    return false
  }
}

/**
 * Writes the bytes after the seal again, unchanged and in place.
 *
 * If the fsync of an append failed and the process died before it cut the record off, these bytes
 * may exist only in the page cache. The kernel treats their pages as clean, so an fsync would
 * succeed without writing them (https://lwn.net/Articles/752063/). Writing them again makes the
 * pages dirty, so that the next fsync writes them.
 *
 * A crash during this changes nothing, because each sector holds the same bytes before and after.
 * Every append that begins within a sector relies on the same property.
 */
async function writeAgain(file: File, range: { readonly from: number; readonly to: number }): Promise<void> {
  const { from, to } = range
  try {
    for await (const { bytes, position } of readRange(file, { offset: from, bytes: to - from })) {
      await writeFully(file, bytes, from + position)
    }
  } catch (error) {
    // As in `cut`: a journal on a full disk must still open.
    if (!isOutOfSpace(error)) throw error
  }
}

/**
 * Whether a seal that does not match the active segment matches a sealed one. This happens if
 * another program, such as the Rust crate, has rotated: it writes headers without a sequence number
 * and does not know seals.
 *
 * Searches backwards from the active segment and stops at the first segment whose header has a
 * sequence number, because this library removes the seal before it creates such a segment.
 */
async function isSealOfSealed(fs: FileSystem, files: JournalFiles, { sealed, last, seal }: Found): Promise<boolean> {
  let after = last
  for (const segment of sealed.toReversed()) {
    if (after.header.sequence !== undefined || seal === undefined) return false
    const { atCheckpoint } = await scanSealed(fs, files, segment, seal)
    if (atCheckpoint !== undefined && isSameCheckpoint(atCheckpoint, seal)) return true
    after = segment
  }
  return false
}

async function removeLeftovers(fs: FileSystem, files: JournalFiles, names: readonly string[]): Promise<void> {
  for (const name of names) await removeIfPresent(fs, files.at(name))
  if (names.length > 0) await fs.syncDirectory(files.directory)
}

function nextOf(segment: Segment, prefix: Checkpoint): number {
  return segment.firstSequence + prefix.records
}

function assertNumbered(files: JournalFiles, segment: Segment, records: number): void {
  const problem = numbersProblem(segment, records)
  if (problem !== undefined) throw damaged(files.path, segment.name, problem, { sequence: segment.firstSequence })
}

function lineDamage(files: JournalFiles, segment: Segment, before: Checkpoint, reason: string): MiniStoreError {
  // Lines count from 1. The header and the whole records come before the damaged line.
  const line = before.records + 2
  const at = { line, offset: before.bytes, sequence: nextOf(segment, before) }
  return damaged(files.path, segment.name, reason, at)
}
