/**
 * Begins and locks segments: the active segment of an open, and the next one of a rotation.
 *
 * **Invariant.** A crash at any point leaves every acknowledged record in a segment, and no rename
 * ever replaces a segment that has records. At every moment one writer holds the lock of the active
 * segment or, while there is none, of the file that will become it.
 */
import { randomBytes } from 'node:crypto'
import { type Channel, channel, type TracingChannel, tracingChannel } from 'node:diagnostics_channel'

import { hasCode, MiniStoreError } from '../errors.ts'
import { exists, ifPresent, removeIfPresent, writeFully } from '../fs/durable.ts'
import type { File, FileAccess, FileSystem } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import { ActiveSegment, orPoison, PoisoningError } from './active-segment.ts'
import {
  formatHeader, type Header, headerCheckpoint, type JournalFiles, parseHeader,
} from './format.ts'
import { retryWhileMoving, type Segment } from './segments.ts'

/** Context of the tracing channel `ministore:rotate`. */
export interface RotateTrace {
  /** Absolute path of the journal. */
  readonly path: string
  /** File name that the sealed segment gets. */
  readonly segment: string
  /** Sequence number of the first record of the next segment. */
  readonly sequence: number
}

export const rotateChannel: TracingChannel<unknown, RotateTrace> = tracingChannel('ministore:rotate')

/**
 * Seals the active segment and begins the next one. The steps are:
 *
 * 1. Remove the seal, durably. It describes the active segment, which is about to change.
 * 2. Create the next segment under the name `.next`, durably. Its header holds the checksum of all
 *    bytes of the current segment.
 * 3. Rename the active segment to its numbered name, durably. A crash between this step and step 4
 *    leaves no active segment.
 * 4. Rename the next segment to the active name, durably.
 *
 * Step 3 is durable before step 4 begins. Otherwise a crash could keep only the second rename,
 * which would have replaced the segment.
 *
 * If a step fails before or at the rename of step 3, the records are as they were and this rejects
 * with the error of the system. If the system refuses the rename of step 4 without changing
 * anything, step 3 is undone and the same applies. Every other failure after the rename of step 3,
 * and every failed fsync, rejects with a {@link PoisoningError}.
 *
 * On success, the caller closes the file of the sealed segment. Calls must not overlap.
 *
 * @throws {PoisoningError} if the state on disk is unknown.
 */
export async function rotateSegment(
  fs: FileSystem,
  files: JournalFiles,
  { from, number, id, lock }: {
    readonly from: ActiveSegment
    readonly number: number
    readonly id: string
    readonly lock: WriterLock
  },
): Promise<{ readonly sealed: Segment; readonly active: ActiveSegment }> {
  const { segment, acknowledged } = from
  const sequence = segment.firstSequence + acknowledged.records
  const active = await prepareAfter(fs, files, from, { sequence, id, previousCrc32: acknowledged.crc32, lock })
  const name = files.sealedName(number)
  const sealed = { ...segment, number, name, path: files.at(name), bytes: acknowledged.bytes, padding: 0 }
  try {
    await fs.rename(files.path, sealed.path)
    await orPoison(fs.syncDirectory(files.directory))
    await promote(fs, files, sealed.path)
    // If another program replaced `.next` just before the rename, that file now has the active
    // name.
    await orPoison(lock.assertInPlace())
  } catch (error) {
    lock.letGo(files.next)
    await active.file.close().catch(() => {})
    throw error
  }
  // The new segment now has the active name, so the sealed one no longer needs its lock. The kernel
  // frees that lock when the caller closes the file.
  lock.letGo(sealed.path)
  return { sealed, active }
}

/**
 * The sealed segments of an open journal. To remove the oldest one, and to show them to another
 * reader, costs the same however many there are.
 */
export class SealedSegments {
  /** Begins with the removed segments. They are cut off when they are half of the array. */
  readonly #segments: Segment[]
  #removed = 0
  #shown: readonly Segment[] | undefined

  constructor(segments: readonly Segment[]) {
    this.#segments = [...segments]
  }

  get length(): number {
    return this.#segments.length - this.#removed
  }

  get oldest(): Segment | undefined {
    return this.#segments[this.#removed]
  }

  get second(): Segment | undefined {
    return this.#segments[this.#removed + 1]
  }

  /**
   * The number of the next segment. Numbers only order the files, so they begin with 1 again once no
   * sealed segment is left. What identifies a segment is the sequence number in its header.
   */
  get nextNumber(): number {
    return ((this.length === 0 ? undefined : this.#segments.at(-1)?.number) ?? 0) + 1
  }

  /** Adds the newest segment. */
  add(segment: Segment): void {
    this.#segments.push(segment)
    this.#shown = undefined
  }

  removeOldest(): void {
    this.#removed++
    if (2 * this.#removed >= this.#segments.length) {
      this.#segments.splice(0, this.#removed)
      this.#removed = 0
    }
    this.#shown = undefined
  }

  /** These segments and the active one. Until they change, every call returns the same array. */
  followedBy(active: Segment): readonly Segment[] {
    if (this.#shown?.at(-1) !== active) this.#shown = [...this.#segments.slice(this.#removed), active]
    return this.#shown
  }
}

/**
 * Replaces an active segment without records by one with another header: to give the journal an
 * identity, or another first sequence number too. The steps are 1, 2 and 4 of
 * {@link rotateSegment}, so the new file is durable and locked before it gets the active name.
 *
 * A crash leaves the old header or the new one, perhaps without a seal. If a step fails before the
 * rename, or the system refuses the rename, the header is as it was and this rejects with the error
 * of the system. Every later failure, and every failed fsync, rejects with a {@link PoisoningError}.
 *
 * On success, the caller closes the file of the replaced segment. Calls must not overlap.
 *
 * @param start.previousCrc32 as in {@link prepareNextSegment}.
 * @throws {PoisoningError} if the state on disk is unknown.
 */
export async function replaceEmptySegment(
  fs: FileSystem,
  files: JournalFiles,
  from: ActiveSegment,
  start: {
    readonly sequence: number
    readonly id: string
    readonly previousCrc32: number | undefined
    readonly lock: WriterLock
  },
): Promise<ActiveSegment> {
  const { lock } = start
  const active = await prepareAfter(fs, files, from, start)
  try {
    await fs.rename(files.next, files.path).catch((error: unknown) => {
      throw hasCode(error, ...refusals) ? error : new PoisoningError(error)
    })
    await orPoison(fs.syncDirectory(files.directory))
    await orPoison(lock.assertInPlace())
  } catch (error) {
    lock.letGo(files.next)
    await active.file.close().catch(() => {})
    throw error
  }
  return active
}

/** Performs steps 1 and 2 of {@link rotateSegment}. */
async function prepareAfter(
  fs: FileSystem,
  files: JournalFiles,
  { file }: ActiveSegment,
  { lock, ...start }: Parameters<typeof replaceEmptySegment>[3],
): Promise<ActiveSegment> {
  const access = await file.stat()
  if (await removeIfPresent(fs, files.seal)) await orPoison(fs.syncDirectory(files.directory))
  return await prepareNextSegment(fs, files, { ...start, access }, { lock })
}

/** Makes the identity of a new journal: 64 random bits. */
export function newJournalId(): string {
  return randomBytes(8).toString('hex')
}

/** Performs step 4. If the system refuses it, renames `sealedPath` back to the active name. */
async function promote(fs: FileSystem, files: JournalFiles, sealedPath: string): Promise<void> {
  try {
    await fs.rename(files.next, files.path)
  } catch (error) {
    if (!hasCode(error, ...refusals)) throw new PoisoningError(error)
    await orPoison(fs.rename(sealedPath, files.path))
    await orPoison(fs.syncDirectory(files.directory))
    throw error
  }
  await orPoison(fs.syncDirectory(files.directory))
}

/**
 * Error codes with which a system refuses a rename or fails to begin it. Nothing has changed then.
 */
const refusals: readonly string[] = [
  'EACCES', 'EPERM', 'EBUSY', 'EAGAIN', 'EINTR', 'EMFILE', 'ENFILE', 'ENOMEM', 'ENOSPC', 'EDQUOT', 'EROFS',
]

/** Message of the channel `ministore:poison`: a store can no longer write. */
export interface PoisonMessage {
  /** Absolute path of the journal. */
  readonly path: string
  /** `ERR_MINISTORE_POISONED` or `ERR_MINISTORE_MOVED`; its `cause` is the failure behind it. */
  readonly error: MiniStoreError
}

export const poisonChannel = channel('ministore:poison') as Channel<unknown, PoisonMessage>

/** The files of a journal that a writer locks before it reads them. */
export interface HeldFiles {
  /** The active segment, if it exists. */
  readonly active: File | undefined
  /**
   * If there is no active segment: the file that will become it. Only one of two writers can create
   * this file.
   */
  readonly next: File | undefined
  /**
   * If there is no active segment: the newest sealed segment, which a writer in the middle of a
   * rotation holds. Undefined if no segment is sealed or the newest may not be opened for writing.
   */
  readonly newest: { readonly file: File; readonly path: string } | undefined
  /** Whether {@link next} was newly created, as opposed to a leftover of a crash. */
  readonly isNextNew: boolean
}

/**
 * Locks the files of a journal for one writer. If there is an active segment, locks that. Otherwise
 * locks `.next`, which is created if missing, and the newest sealed segment. After locking, checks
 * the names again, because another writer may have rotated before the lock became free.
 *
 * **Why there is only one writer.** A rotation keeps the old segment locked until the new one has
 * the active name, and the new one is already locked under the name `.next`. A second writer
 * therefore finds the active segment, or the `.next` in its place, locked for as long as the first
 * writer lives. If there is no active segment, creating `.next` here prevents any other writer from
 * creating it.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` if another writer holds one of the files.
 */
export async function holdJournal(fs: FileSystem, files: JournalFiles, lock: WriterLock): Promise<HeldFiles> {
  const held = await retryWhileMoving(async () => {
    const active = await holdFile(fs, lock, files.path)
    if (active !== undefined) return { active, next: undefined, newest: undefined, isNextNew: false }
    return (await exists(fs, files.path)) ? undefined : await holdNext(fs, files, lock)
  })
  if (held === undefined) throw stillMoving(files)
  return held
}

/**
 * Unlocks and closes held files when the journal is not going to be opened. Removes `.next` if it
 * was newly created.
 */
export async function releaseHeld(fs: FileSystem, files: JournalFiles, lock: WriterLock, held: HeldFiles): Promise<void> {
  if (held.isNextNew) await removeIfPresent(fs, files.next).catch(() => false)
  lock.letGoAll()
  for (const file of [held.active, held.next, held.newest?.file]) await file?.close().catch(() => {})
}

async function holdNext(fs: FileSystem, files: JournalFiles, lock: WriterLock): Promise<HeldFiles | undefined> {
  const made = await createIfMissing(fs, files.next, lock.access)
  // A leftover is cut and becomes the active segment, so it must not be the target of a link. The
  // mode `ensure` refuses links.
  const next = await holdFile(fs, lock, files.next, made ?? (await fs.open(files.next, 'ensure', lock.access)))
  if (next === undefined) return undefined
  let newest: HeldFiles['newest']
  let isHeld = false
  try {
    newest = await holdNewest(fs, files, lock)
    // The active name must be checked first. While it is missing during another writer's rotation,
    // `.next` is a new file of that writer and no longer the file held here.
    isHeld = !(await exists(fs, files.path)) && (await lock.isAt(files.next))
    return isHeld ? { active: undefined, next, newest, isNextNew: made !== undefined } : undefined
  } finally {
    if (!isHeld) await releaseHeld(fs, files, lock, { active: undefined, next, newest, isNextNew: false })
  }
}

/** Creates a file. Returns undefined if the name already exists. */
async function createIfMissing(fs: FileSystem, path: string, access: FileAccess | undefined): Promise<File | undefined> {
  try {
    return await fs.open(path, 'create', access)
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return undefined
    throw error
  }
}

async function holdNewest(fs: FileSystem, files: JournalFiles, lock: WriterLock): Promise<HeldFiles['newest']> {
  const newest = files.sealedNames(await fs.list(files.directory)).at(-1)
  if (newest === undefined) return undefined
  const path = files.at(newest.name)
  try {
    const file = await holdFile(fs, lock, path)
    return file === undefined ? undefined : { file, path }
  } catch (error) {
    // Sealed segments may be read-only. The lock on `.next` alone then keeps other writers out.
    if (hasCode(error, 'EACCES', 'EPERM', 'EROFS')) return undefined
    throw error
  }
}

/**
 * Opens and locks a file. Returns undefined if the file is missing, or if its name leads to another
 * file once the lock is held.
 *
 * @param made The file, if it is already open.
 */
async function holdFile(fs: FileSystem, lock: WriterLock, path: string, made?: File): Promise<File | undefined> {
  const file = made ?? (await ifPresent(fs.open(path, 'write')))
  if (file === undefined) return undefined
  let isHeld = false
  try {
    await lock.hold(file, path)
    isHeld = await lock.isAt(path)
    return isHeld ? file : undefined
  } finally {
    if (!isHeld) {
      lock.letGo(path)
      // Nothing was written, so an error on closing the file changes nothing.
      await file.close().catch(() => {})
    }
  }
}

/** The error for a journal whose names lead to other files at every attempt. */
export function stillMoving({ path }: JournalFiles): MiniStoreError {
  const message = `The journal ${path} is already open by another writer, which keeps rotating it`
  return new MiniStoreError('ERR_MINISTORE_LOCKED', message, { path })
}

/**
 * Creates `.next` and locks it. The caller must hold the active segment, so an existing `.next` is
 * a leftover and is removed.
 */
async function makeNext(
  fs: FileSystem,
  files: JournalFiles,
  lock: WriterLock,
  access: FileAccess | undefined,
): Promise<File> {
  let refusal: unknown = stillMoving(files)
  const next = await retryWhileMoving(async () => {
    await removeIfPresent(fs, files.next)
    const file = await createIfMissing(fs, files.next, access)
    if (file === undefined) return undefined
    try {
      await lock.hold(file, files.next)
      return file
    } catch (error) {
      await file.close().catch(() => {})
      // The kernel has granted locks on this disk before, so this failure is temporary.
      if (hasCode(error, 'ERR_MINISTORE_LOCK_UNAVAILABLE')) throw error.cause
      if (!hasCode(error, 'ERR_MINISTORE_LOCKED')) throw error
      // Another writer that is about to be refused may have locked the file for a moment.
      refusal = error
      return undefined
    }
  })
  if (next === undefined) throw refusal
  return next
}

/**
 * Creates the next active segment under the name `.next`, locked and with a durable header.
 *
 * A crash leaves at most that file, which the next open removes or overwrites. If it rejects, the
 * records of the journal are unchanged.
 *
 * @param start.sequence Sequence number of the first record.
 * @param start.id Identity of the journal.
 * @param start.previousCrc32 CRC-32 of all bytes of the segment before; undefined if there is none.
 * @param held The files that are already locked. If they include `.next`, that file is used.
 */
export async function prepareNextSegment(
  fs: FileSystem,
  files: JournalFiles,
  start: {
    readonly sequence: number
    readonly id: string
    readonly previousCrc32: number | undefined
    readonly access: FileAccess | undefined
  },
  { lock, held }: { readonly lock: WriterLock; readonly held?: HeldFiles },
): Promise<ActiveSegment> {
  const file = held?.next ?? (await makeNext(fs, files, lock, start.access))
  try {
    if (file === held?.next && !held.isNextNew) {
      // Bytes left by a crash are cut off, durably. Otherwise they could reappear among the new
      // bytes.
      await file.truncate(0)
      await orPoison(file.sync())
    }
    const line = formatHeader(start)
    const bytes = Buffer.from(line)
    await writeFully(file, bytes, 0)
    await orPoison(file.sync())
    const { inode, changedMs } = await file.stat()
    const header: Header = parseHeader(line.trimEnd(), { path: files.path, segment: files.name })
    const { name, path } = files
    const found = { number: undefined, name, path, header, bytes: bytes.length, padding: 0, inode, changedMs }
    const segment = { ...found, firstSequence: start.sequence }
    return new ActiveSegment(segment, file, headerCheckpoint(bytes))
  } catch (error) {
    // Removes the unfinished file if possible and reports the first error. If the removal fails,
    // the next rotation or the next open removes the file.
    await removeIfPresent(fs, files.next).catch(() => false)
    lock.letGo(files.next)
    if (file !== held?.next) await file.close().catch(() => {})
    throw error
  }
}
