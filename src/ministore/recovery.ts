import type { MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import { isOutOfSpace, removeIfPresent, writeFully } from '../fs/durable.ts'
import { saveTornTail } from '../fs/evidence.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import { type JournalFiles, readSeal, samePrefix, type SegmentPrefix } from './format.ts'
import {
  type ActiveSegment, type HeldFiles, holdJournal, prepareNextSegment, releaseHeld, stillMoving,
} from './rotation.ts'
import { missingActiveDamage, scanSegment, sealDamage, type SegmentScan } from './scan.ts'
import { damaged, inspectActive, numbersProblem, type Segment, surveySegments } from './segments.ts'

/** What opening a journal found and did, besides reading it. */
export interface RecoveryReport {
  /** No journal was there; an empty one was made. */
  readonly isNew: boolean
  /** There were sealed segments but no whole active one (a crash in rotation); an empty one was made. */
  readonly isActiveRestored: boolean
  /** The unacknowledged last write that was removed, if there was one. */
  readonly torn: TornTail | undefined
  /** Names of half-made files that were removed. */
  readonly removedFiles: readonly string[]
  /** Bytes of the active segment that were read and checked. */
  readonly scannedBytes: number
}

/** Bytes that recovery took off the end of the active segment. */
export interface TornTail {
  /** Sequence number the record would have had. */
  readonly sequence: number
  /** Where in the segment it began. */
  readonly offset: number
  readonly bytes: number
  readonly reason: string
  /** Path of the file that holds the bytes now; undefined when there was no room for a copy. */
  readonly savedAs: string | undefined
}

/** A journal ready for its writer. */
export interface RecoveredJournal {
  readonly sealed: readonly Segment[]
  readonly active: ActiveSegment
  /** What the seal on disk says, if there is one. */
  readonly seal: SegmentPrefix | undefined
  readonly report: RecoveryReport
}

/**
 * Locks the segments of a journal and brings it into the state its writer needs. The directory exists.
 *
 * **Why it is right.** A crash can interrupt an append, a rotation, a deletion, the writing of a seal or an earlier
 * recovery. An append changes only what follows the acknowledged bytes, and one append is one line, so what it
 * leaves is at most one line that is not whole at the very end: that is saved, durably, and cut, and nothing else ever is. A
 * rotation renames after all bytes of both segments are durable and makes each rename durable before the next, so it
 * leaves either the old active segment, or none, or the new one. Deletions go oldest first, one durable before the
 * next, so they leave a shorter journal without a gap. Seals and evidence appear whole, by rename. Every step
 * here is of one of these kinds, so a crash in recovery leaves what recovery can start from.
 *
 * Checks come first: when anything is damaged it rejects and has changed nothing.
 *
 * Before it resolves, what it found is made durable: a writer that was killed may have left bytes and names that only
 * the page cache knows.
 */
export async function recoverJournal(files: JournalFiles, lock: WriterLock): Promise<RecoveredJournal> {
  const held = await holdJournal(lock.fileSystem, files, lock)
  try {
    return await recoverHeld(files, lock, held)
  } catch (error) {
    await releaseHeld(lock.fileSystem, files, lock, held)
    throw error
  }
}

async function recoverHeld(files: JournalFiles, lock: WriterLock, held: HeldFiles): Promise<RecoveredJournal> {
  const fs = lock.fileSystem
  const survey = await surveySegments(fs, files, await inspectActive(fs, files))
  const seal = await readSeal(fs, files.seal)
  const isOurs = (name: string): boolean => held.isNextNew && files.at(name) === files.next
  const leftovers = survey.names.filter((name) => files.isLeftover(name) && !isOurs(name))
  const last = survey.segments.at(-1)
  if (last === undefined || last.number !== undefined) {
    const active = await restoreActive(files, lock, { last, seal, leftovers, held })
    const isNew = last === undefined
    const report = { isNew, isActiveRestored: !isNew, torn: undefined, removedFiles: leftovers, scannedBytes: 0 }
    return { sealed: survey.segments, active, seal: undefined, report }
  }
  if (held.active === undefined) throw stillMoving(files)
  const sealed = survey.segments.slice(0, -1)
  const found = { sealed, last, seal, leftovers, file: held.active }
  const { active, torn, isSealKept } = await recoverActive(fs, files, found)
  return {
    sealed,
    active,
    seal: isSealKept ? seal : undefined,
    report: { isNew: false, isActiveRestored: false, torn, removedFiles: leftovers, scannedBytes: last.bytes },
  }
}

/** Makes an active segment where there is none, or only the beginning of a header. */
async function restoreActive(
  files: JournalFiles,
  lock: WriterLock,
  found: {
    readonly last: Segment | undefined
    readonly seal: SegmentPrefix | undefined
    readonly leftovers: readonly string[]
    readonly held: HeldFiles
  },
): Promise<ActiveSegment> {
  const { last, seal, held } = found
  const fs = lock.fileSystem
  const before = last === undefined ? undefined : await scanSealed(fs, files, last, seal)
  const damage = missingActiveDamage(files, seal, last === undefined ? undefined : { atSeal: before?.atCheckpoint })
  if (damage !== undefined) throw damage
  // One more, since the header made here says the number of the next record.
  if (last !== undefined && before !== undefined) assertNumbered(files, last, before.prefix.records + 1)
  for (const name of found.leftovers) {
    // A held `.next` is written anew instead: while it is away, another writer could make one.
    if (held.next === undefined || files.at(name) !== files.next) await removeIfPresent(fs, files.at(name))
  }
  // The seal of another active segment would contradict the one made here.
  await removeIfPresent(fs, files.seal)
  // A process killed in a rotation may have left a rename that is not durable yet. It must be before the active name is
  // given to another file: else a crash could keep the second rename alone, which then replaces the segment.
  await fs.syncDirectory(files.directory)
  const sequence = last === undefined ? 1 : last.firstSequence + (before?.prefix.records ?? 0)
  const start = { sequence, previousCrc32: before?.prefix.crc32, access: lock.access }
  const active = await prepareNextSegment(fs, files, start, { lock, held })
  try {
    await fs.rename(files.next, files.path)
    await fs.syncDirectory(files.directory)
    await lock.assertInPlace()
  } catch (error) {
    if (active.file !== held.next) await active.file.close().catch(() => {})
    throw error
  }
  // The newest sealed segment, or the unfinished active one, whose name the new one has now.
  if (held.newest !== undefined) lock.letGo(held.newest.path)
  for (const file of [held.active, held.newest?.file]) await file?.close().catch(() => {})
  return active
}

async function scanSealed(
  fs: FileSystem,
  files: JournalFiles,
  segment: Segment,
  seal: SegmentPrefix | undefined,
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
  found: {
    readonly sealed: readonly Segment[]
    readonly last: Segment
    readonly seal: SegmentPrefix | undefined
    readonly leftovers: readonly string[]
    readonly file: File
  },
): Promise<{ active: ActiveSegment; torn: TornTail | undefined; isSealKept: boolean }> {
  const { sealed, last, seal, leftovers, file } = found
  const scan = await scanSegment(file, { end: last.bytes, checkpoint: seal?.bytes })
  const { prefix } = scan
  if (scan.damage !== undefined) throw lineDamage(files, last, prefix, scan.damage.reason)
  assertNumbered(files, last, prefix.records)
  const mismatch = seal === undefined ? undefined : sealDamage(files, last, seal, scan)
  const isForeign = mismatch !== undefined && (await isSealOfSealed(fs, files, { sealed, last, seal }))
  if (mismatch !== undefined && !isForeign) throw mismatch
  await removeLeftovers(fs, files, leftovers)
  if (isForeign && (await removeIfPresent(fs, files.seal))) await fs.syncDirectory(files.directory)
  const torn = scan.torn === undefined ? undefined : { ...scan.torn, offset: prefix.bytes, sequence: nextOf(last, prefix) }
  const savedAs = torn === undefined ? undefined : await saveTornTail(fs, files, file, torn)
  await cut(file, prefix.bytes, { isNeeded: torn !== undefined })
  await writeAgain(file, { from: seal === undefined || isForeign ? 0 : seal.bytes, to: prefix.bytes })
  await file.sync()
  await fs.syncDirectory(files.directory)
  return {
    active: { segment: { ...last, bytes: prefix.bytes }, file, prefix },
    torn: torn && { ...torn, savedAs: savedAs === undefined ? undefined : files.at(savedAs) },
    isSealKept: !isForeign,
  }
}

/**
 * Cuts the active segment to its whole lines, also when it already ends there.
 *
 * If the fsync behind an earlier cut failed (a rollback, a recovery), the file looks cut and the disk may still hold the
 * old tail. A crash would then bring that tail back behind the records that are appended now. Cut once more, the next
 * fsync makes the cut durable.
 */
async function cut(file: File, bytes: number, { isNeeded }: { readonly isNeeded: boolean }): Promise<void> {
  try {
    await file.truncate(bytes)
  } catch (error) {
    // A file system that never writes in place may have no room for it, and a full disk must be openable all the same.
    if (isNeeded || !isOutOfSpace(error)) throw error
  }
}

/**
 * Writes the bytes behind the seal again, as they are, in their place.
 *
 * If the fsync of an append failed and its process died before it could cut the record off, these bytes may be in the
 * page cache and nowhere else, and the kernel takes their pages for clean: an fsync would succeed without writing them
 * (https://lwn.net/Articles/752063/). Written again they are dirty, and the fsync means what it says.
 *
 * A crash in the middle changes nothing, since a sector holds the same before and after; every append that begins within
 * a sector relies on that too.
 */
async function writeAgain(file: File, range: { readonly from: number; readonly to: number }): Promise<void> {
  const { from, to } = range
  try {
    for await (const { bytes, position } of readRange(file, { offset: from, bytes: to - from })) {
      await writeFully(file, bytes, from + position)
    }
  } catch (error) {
    // As above.
    if (!isOutOfSpace(error)) throw error
  }
}

/**
 * Whether a seal that does not fit the active segment fits a sealed one. That happens when another program rotated, the
 * Rust crate for one: it writes headers without a sequence number and knows of no seals. So it can be one of the
 * segments before headers like that, up to the last of ours.
 */
async function isSealOfSealed(
  fs: FileSystem,
  files: JournalFiles,
  found: { readonly sealed: readonly Segment[]; readonly last: Segment; readonly seal: SegmentPrefix | undefined },
): Promise<boolean> {
  let after = found.last
  for (const segment of found.sealed.toReversed()) {
    if (after.header.sequence !== undefined || found.seal === undefined) return false
    const { atCheckpoint } = await scanSealed(fs, files, segment, found.seal)
    if (atCheckpoint !== undefined && samePrefix(atCheckpoint, found.seal)) return true
    after = segment
  }
  return false
}

async function removeLeftovers(fs: FileSystem, files: JournalFiles, names: readonly string[]): Promise<void> {
  for (const name of names) await removeIfPresent(fs, files.at(name))
  if (names.length > 0) await fs.syncDirectory(files.directory)
}

function nextOf(segment: Segment, prefix: SegmentPrefix): number {
  return segment.firstSequence + prefix.records
}

function assertNumbered(files: JournalFiles, segment: Segment, records: number): void {
  const problem = numbersProblem(segment, records)
  if (problem !== undefined) throw damaged(files.path, segment.name, problem, { sequence: segment.firstSequence })
}

function lineDamage(files: JournalFiles, segment: Segment, before: SegmentPrefix, reason: string): MiniStoreError {
  // The line after the header and the records before it.
  const line = before.records + 2
  const sequence = nextOf(segment, before)
  const problem = `${reason} (line ${line}, offset ${before.bytes})`
  return damaged(files.path, segment.name, problem, { line, offset: before.bytes, sequence })
}
