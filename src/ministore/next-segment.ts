import { removeIfPresent, writeFully } from '../fs/atomic-replace.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { formatHeader, type Header, parseHeader } from './header.ts'
import type { JournalFiles } from './journal-files.ts'
import { headerPrefix, type SegmentPrefix } from './segment-prefix.ts'
import type { Segment } from './segments.ts'

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

/**
 * Makes the file that will be the next active segment, header durable, under the name `.next`.
 *
 * A crash leaves at most that file, which the next open removes. When it rejects the journal is as it was.
 */
export async function prepareNextSegment(
  fs: FileSystem,
  files: JournalFiles,
  start: { readonly sequence: number; readonly previousCrc32: number | undefined },
): Promise<ActiveSegment> {
  await removeIfPresent(fs, files.next)
  const file = await fs.open(files.next, 'create')
  try {
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
    await file.close().catch(() => {})
    await removeIfPresent(fs, files.next).catch(() => false)
    throw error
  }
}

/** Gives the prepared segment the active name, durably. A crash leaves it under the one name or the other. */
export async function promoteNextSegment(fs: FileSystem, files: JournalFiles): Promise<void> {
  await orPoison(fs.rename(files.next, files.path))
  await orPoison(fs.syncDirectory(files.directory))
}
