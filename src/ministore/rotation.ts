import { removeIfPresent } from '../fs/durable.ts'
import { type FileSystem, systemErrorCode } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import type { JournalFiles } from './journal-files.ts'
import { type ActiveSegment, orPoison, PoisoningError, prepareNextSegment } from './next-segment.ts'
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
