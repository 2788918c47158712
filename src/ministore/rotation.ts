import { removeIfPresent } from '../fs/atomic-replace.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { JournalFiles } from './journal-files.ts'
import { type ActiveSegment, orPoison, prepareNextSegment, promoteNextSegment } from './next-segment.ts'
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
 * system's error; from there on, and for every failed fsync, it is a {@link PoisoningError}.
 */
export async function rotateSegment(
  fs: FileSystem,
  files: JournalFiles,
  from: ActiveSegment,
  number: number,
): Promise<{ readonly sealed: Segment; readonly active: ActiveSegment }> {
  const { segment, prefix } = from
  if (await removeIfPresent(fs, files.seal)) await orPoison(fs.syncDirectory(files.directory))
  const sequence = segment.firstSequence + prefix.records
  const active = await prepareNextSegment(fs, files, { sequence, previousCrc32: prefix.crc32 })
  const name = files.sealedName(number)
  const sealed = { ...segment, number, name, path: files.at(name), bytes: prefix.bytes }
  try {
    await fs.rename(files.path, sealed.path)
    await orPoison(fs.syncDirectory(files.directory))
    await promoteNextSegment(fs, files)
  } catch (error) {
    await active.file.close().catch(() => {})
    throw error
  }
  return { sealed, active }
}
