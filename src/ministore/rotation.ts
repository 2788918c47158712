import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import { exists, openIfPresent, removeIfPresent, writeFully } from '../fs/durable.ts'
import { type File, type FileAccess, type FileSystem, systemErrorCode } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import {
  formatHeader, type Header, headerPrefix, type JournalFiles, parseHeader, type SegmentPrefix,
} from './format.ts'
import type { Segment } from './segments.ts'

/**
 * Seals the active segment and begins the next one.
 *
 * 1. The seal is removed, durably: it speaks of the active segment, which soon is another.
 * 2. The next segment is made under the name `.next`, durably, its header chained to all bytes of this one.
 * 3. The active segment gets its number, durably. A crash from here to step 4 leaves no active segment.
 * 4. The next segment gets the active name, durably.
 *
 * 3 is durable before 4 begins: the other way round the second rename could be on the disk without the first, and
 * would have replaced the segment. Until 3 a failure leaves the journal as it was and rejects with the
 * system's error. So does a refusal of step 4 that has changed nothing: step 3 is undone. Every other failure from there
 * on, and every failed fsync, is a {@link PoisoningError}.
 */
export async function rotateSegment(
  fs: FileSystem,
  files: JournalFiles,
  { from, number, lock }: { readonly from: ActiveSegment; readonly number: number; readonly lock: WriterLock },
): Promise<{ readonly sealed: Segment; readonly active: ActiveSegment }> {
  const { segment, prefix } = from
  const access = await from.file.stat()
  if (await removeIfPresent(fs, files.seal)) await orPoison(fs.syncDirectory(files.directory))
  const sequence = segment.firstSequence + prefix.records
  const active = await prepareNextSegment(fs, files, { sequence, previousCrc32: prefix.crc32, access }, { lock })
  const name = files.sealedName(number)
  const sealed = { ...segment, number, name, path: files.at(name), bytes: prefix.bytes }
  try {
    await fs.rename(files.path, sealed.path)
    await orPoison(fs.syncDirectory(files.directory))
    await promote(fs, files, sealed.path)
    // Had another file taken the name `.next` just before, it would have the active name now.
    await orPoison(lock.assertInPlace())
  } catch (error) {
    lock.letGo(files.next)
    await active.file.close().catch(() => {})
    throw error
  }
  // Its file is closed by the caller, and the lock of it freed, now that the new one has its name.
  lock.letGo(sealed.path)
  return { sealed, active }
}

/** Step 4. When it is refused, the segment sealed as `sealedPath` becomes the active one again. */
async function promote(fs: FileSystem, files: JournalFiles, sealedPath: string): Promise<void> {
  try {
    await fs.rename(files.next, files.path)
  } catch (error) {
    if (!refusals.has(systemErrorCode(error) ?? '')) throw new PoisoningError(error)
    await orPoison(fs.rename(sealedPath, files.path))
    await orPoison(fs.syncDirectory(files.directory))
    throw error
  }
  await orPoison(fs.syncDirectory(files.directory))
}

/** Errors by which a system refuses a rename, or cannot begin it: nothing has changed. */
const refusals: ReadonlySet<string> = new Set([
  'EACCES', 'EPERM', 'EBUSY', 'EAGAIN', 'EINTR', 'EMFILE', 'ENFILE', 'ENOMEM', 'ENOSPC', 'EDQUOT', 'EROFS',
])

/** The active segment, open for writing. */
export interface ActiveSegment {
  readonly segment: Segment
  readonly file: File
  /** All of it that is acknowledged. */
  readonly prefix: SegmentPrefix
}

/**
 * A failure after which nobody can say what is on the disk, so that only a fresh recovery may go on. A failed
 * fsync always is one: the kernel may have dropped the dirty pages, and a second fsync would report success
 * for bytes that never reached the disk (https://lwn.net/Articles/752063/).
 */
export class PoisoningError extends Error {
  override readonly name = 'PoisoningError'

  constructor(cause: unknown) {
    super('The state on disk is unknown', { cause })
  }
}

/** Waits for a step whose failure leaves the state on disk unknown. */
export async function orPoison<T>(step: Promise<T>): Promise<T> {
  try {
    return await step
  } catch (error) {
    throw new PoisoningError(error)
  }
}

/** The files of a journal that its writer locks before it looks at what they hold. */
export interface HeldFiles {
  readonly active: File | undefined
  /** Where there is no active segment: the file that will be the next one. Two writers cannot both make it. */
  readonly next: File | undefined
  /** Where there is no active segment: the newest sealed one, which a writer in the middle of a rotation holds. */
  readonly newest: { readonly file: File; readonly path: string } | undefined
  /** Whether {@link next} was made here, and is no leftover. */
  readonly isNextNew: boolean
}

/**
 * Locks the active segment; where there is none, `.next`, made if it is missing, and the newest sealed segment. Then the
 * names are checked again, since another writer may have rotated before the lock was free.
 *
 * **Why there is one writer.** A rotation holds the lock of the old segment until the new one, locked under the name
 * `.next`, has the active name. So whoever finds an active segment, or a `.next` in its place, finds it locked while its
 * writer lives. A `.next` that is made here while there is no active segment keeps everybody else from making one.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` when another writer holds one of them.
 */
export async function holdJournal(fs: FileSystem, files: JournalFiles, lock: WriterLock): Promise<HeldFiles> {
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    const active = await holdFile(fs, lock, files.path)
    if (active !== undefined) return { active, next: undefined, newest: undefined, isNextNew: false }
    const held = (await exists(fs, files.path)) ? undefined : await holdNext(fs, files, lock)
    if (held !== undefined) return held
  }
  throw stillMoving(files)
}

/** Closes what was held for a journal that is not opened, and removes what was made for it. */
export async function releaseHeld(fs: FileSystem, files: JournalFiles, lock: WriterLock, held: HeldFiles): Promise<void> {
  if (held.isNextNew) await removeIfPresent(fs, files.next).catch(() => false)
  lock.letGoAll()
  for (const file of [held.active, held.next, held.newest?.file]) await file?.close().catch(() => {})
}

const maxAttempts = 10

async function holdNext(fs: FileSystem, files: JournalFiles, lock: WriterLock): Promise<HeldFiles | undefined> {
  const made = await createIfMissing(fs, files.next, lock.access)
  // A leftover is cut and becomes the active segment: it must not be what a link leads to.
  const next = await holdFile(fs, lock, files.next, made ?? (await fs.open(files.next, 'ensure', lock.access)))
  if (next === undefined) return undefined
  let newest: HeldFiles['newest']
  try {
    newest = await holdNewest(fs, files, lock)
    // The active name first: while it is missing in a rotation, `.next` is the writer's, and no longer this file.
    const isAlone = !(await exists(fs, files.path)) && (await lock.isAt(files.next))
    if (isAlone) return { active: undefined, next, newest, isNextNew: made !== undefined }
  } catch (error) {
    await releaseHeld(fs, files, lock, { active: undefined, next, newest, isNextNew: false })
    throw error
  }
  await releaseHeld(fs, files, lock, { active: undefined, next, newest, isNextNew: false })
  return undefined
}

/** The file, if it was this call that made it. */
async function createIfMissing(fs: FileSystem, path: string, access: FileAccess | undefined): Promise<File | undefined> {
  try {
    return await fs.open(path, 'create', access)
  } catch (error) {
    if (systemErrorCode(error) === 'EEXIST') return undefined
    throw error
  }
}

async function holdNewest(fs: FileSystem, files: JournalFiles, lock: WriterLock): Promise<HeldFiles['newest']> {
  const numberOf = (name: string): number => files.sealedNumber(name) ?? -1
  const sealed = (await fs.list(files.directory)).filter((name) => numberOf(name) >= 0)
  const name = sealed.toSorted((left, right) => numberOf(left) - numberOf(right)).at(-1)
  if (name === undefined) return undefined
  const path = files.at(name)
  try {
    const file = await holdFile(fs, lock, path)
    return file === undefined ? undefined : { file, path }
  } catch (error) {
    // It may be kept read-only; `.next` alone then keeps others out.
    if (['EACCES', 'EPERM', 'EROFS'].includes(systemErrorCode(error) ?? '')) return undefined
    throw error
  }
}

/** Opens and locks a file; undefined when there is none, or when the name leads to another one by now. */
async function holdFile(
  fs: FileSystem,
  lock: WriterLock,
  path: string,
  made?: File,
): Promise<File | undefined> {
  const file = made ?? (await openIfPresent(fs, path, 'write'))
  if (file === undefined) return undefined
  try {
    await lock.hold(file, path)
    if (await lock.isAt(path)) return file
  } catch (error) {
    lock.letGo(path)
    await file.close().catch(() => {})
    throw error
  }
  lock.letGo(path)
  await file.close()
  return undefined
}

/** The error for a journal whose names lead elsewhere each time they are looked at. */
export function stillMoving({ path }: JournalFiles): MiniStoreError {
  const message = `The journal ${path} is already open by another writer, which is rotating again and again`
  return new MiniStoreError('ERR_MINISTORE_LOCKED', message, { path })
}

/** Makes `.next`, locked. Only for the writer who holds the active segment: what is there is a leftover. */
async function makeNext(
  fs: FileSystem,
  files: JournalFiles,
  lock: WriterLock,
  access: FileAccess | undefined,
): Promise<File> {
  for (let attempt = 1; ; attempt++) {
    await removeIfPresent(fs, files.next)
    const file = await createIfMissing(fs, files.next, access)
    if (file === undefined && attempt < maxAttempts) continue
    if (file === undefined) throw stillMoving(files)
    try {
      await lock.hold(file, files.next)
      return file
    } catch (error) {
      await file.close().catch(() => {})
      // The kernel has given locks on this disk before: this is a failure of the moment.
      if (isMiniStoreError(error, 'ERR_MINISTORE_LOCK_UNAVAILABLE')) throw error.cause
      // Another writer, which is about to be refused, may have locked it for a moment.
      if (!isMiniStoreError(error, 'ERR_MINISTORE_LOCKED') || attempt === maxAttempts) throw error
    }
  }
}

/**
 * Makes the file that will be the next active segment, locked and with a durable header, under the name `.next`.
 *
 * A crash leaves at most that file, which the next open removes. When it rejects the journal is as it was.
 *
 * @param held says whether `.next` is held already.
 */
export async function prepareNextSegment(
  fs: FileSystem,
  files: JournalFiles,
  start: {
    readonly sequence: number
    readonly previousCrc32: number | undefined
    readonly access: FileAccess | undefined
  },
  { lock, held }: { readonly lock: WriterLock; readonly held?: HeldFiles },
): Promise<ActiveSegment> {
  const file = held?.next ?? (await makeNext(fs, files, lock, start.access))
  try {
    if (file === held?.next && !held.isNextNew) {
      // What a crash left is cut, durably, or it could come back among the new bytes.
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
    const found = { number: undefined, name, path, header, bytes: bytes.length, inode, changedMs }
    const segment = { ...found, firstSequence: start.sequence }
    return { segment, file, prefix: headerPrefix(bytes) }
  } catch (error) {
    // The first error is what counts. What was begun is removed if that can be done; if not, the next attempt or the
    // next open removes it.
    await removeIfPresent(fs, files.next).catch(() => false)
    lock.letGo(files.next)
    if (file !== held?.next) await file.close().catch(() => {})
    throw error
  }
}
