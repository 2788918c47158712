/**
 * Directories and whole files that survive a crash.
 *
 * **Invariant.** New content gets its final name only after it is complete and durable. A crash can
 * leave incomplete content only under a name that ends in `.tmp`.
 */
import { dirname } from 'node:path'

import { hasCode, propertyOf } from '../errors.ts'
import type { File, FileAccess, FileSystem } from './file-system.ts'

/** Suffix of the temporary file beside the file that is being replaced. */
export const temporarySuffix = '.tmp'

/**
 * Replaces a file as a whole or not at all: writes a temporary file beside it, syncs it, renames
 * it, and syncs the directory.
 *
 * When it resolves, the new content is durable under its name. A crash before that leaves the old
 * content or the new content under the name, and perhaps a temporary file `<path>.tmp`. The next
 * call replaces that file. Calls for one path must not overlap.
 */
export async function replaceFile(
  fs: FileSystem,
  path: string,
  content: { readonly bytes: Uint8Array; readonly access: FileAccess | undefined },
): Promise<void> {
  await renameIntoPlace(fs, path, { access: content.access, write: (file) => writeFully(file, content.bytes, 0) })
  await fs.syncDirectory(dirname(path))
}

/**
 * Does the work of {@link replaceFile} up to the sync of the directory, for content that a function
 * writes.
 *
 * When it resolves, the complete content is under its name and durable, but the name is not durable
 * yet. When it rejects, the name leads to the same file as before, and the temporary file is
 * removed if possible. Calls for one path must not overlap.
 */
export async function renameIntoPlace(
  fs: FileSystem,
  path: string,
  content: {
    readonly access: FileAccess | undefined
    /** Path of the temporary file. The default is `<path>.tmp`. */
    readonly temporary?: string
    readonly write: (file: File) => void | Promise<void>
  },
): Promise<void> {
  const { access, temporary = path + temporarySuffix, write } = content
  await removeIfPresent(fs, temporary)
  try {
    const file = await fs.open(temporary, 'create', access)
    try {
      await write(file)
      await file.sync()
    } finally {
      await file.close()
    }
    await fs.rename(temporary, path)
  } catch (error) {
    // The temporary file may hold the last space of a full disk. If it cannot be removed now, the
    // next call removes it.
    await removeIfPresent(fs, temporary).catch(() => false)
    throw error
  }
}

/**
 * Writes all bytes at a position, continuing after short writes.
 *
 * Returns without a promise if the first write completes synchronously and in full.
 *
 * @param written The result of the first write, if it was made already.
 */
export function writeFully(
  file: File,
  bytes: Uint8Array,
  position: number,
  written: number | Promise<number> = file.write(bytes, position),
): void | Promise<void> {
  if (written === bytes.length) return undefined
  return continueWriting(file, bytes, position, written)
}

async function continueWriting(
  file: File,
  bytes: Uint8Array,
  position: number,
  first: number | Promise<number>,
): Promise<void> {
  let done = await first
  while (done < bytes.length) {
    const written = await file.write(bytes.subarray(done), position + done)
    // A write that makes no progress and reports no error would repeat forever.
    if (written === 0) throw new Error(`The file system wrote 0 of ${bytes.length - done} bytes without an error`)
    done += written
  }
}

/**
 * Removes a name if it exists, and resolves with whether it existed. The removal is durable only
 * after the directory is synced.
 */
export async function removeIfPresent(fs: FileSystem, path: string): Promise<boolean> {
  return (await ifPresent(fs.unlink(path).then(() => true))) ?? false
}

/** Resolves as a call does, or with undefined if it fails because nothing is at its path. */
export async function ifPresent<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

/**
 * Creates a directory and its missing parents, and makes their names durable. Calls may overlap.
 *
 * Each level becomes durable before the next one is created. A process that is killed in between
 * therefore leaves at most one directory, the deepest, whose name may not be durable. This call may
 * follow such a kill, so it also syncs the parent of the deepest directory that exists.
 */
export async function ensureDirectory(fs: FileSystem, directory: string): Promise<void> {
  const missing: string[] = []
  let existing = directory
  while (!(await exists(fs, existing)) && dirname(existing) !== existing) {
    missing.unshift(existing)
    existing = dirname(existing)
  }
  // A process may be allowed to pass through this parent but not to open or sync it. This library did
  // not create such a directory, so making its names durable is not its task.
  await syncIfPermitted(fs, dirname(existing))
  for (const path of missing) {
    try {
      await fs.makeDirectory(path)
    } catch (error) {
      // Another caller created the directory at the same moment. The sync below makes its name
      // durable.
      if (!hasCode(error, 'EEXIST')) throw error
    }
    await fs.syncDirectory(dirname(path))
  }
}

/**
 * Resolves with the names in a directory, or with an empty list if the directory does not exist.
 */
export async function listIfPresent(fs: FileSystem, directory: string): Promise<string[]> {
  return (await ifPresent(fs.list(directory))) ?? []
}

/** Makes the names in a directory durable, unless this process may not do so. */
export async function syncIfPermitted(fs: FileSystem, directory: string): Promise<void> {
  try {
    await fs.syncDirectory(directory)
  } catch (error) {
    if (!hasCode(error, 'EACCES', 'EPERM', 'EROFS')) throw error
  }
}

/** Checks whether something exists at a path, following symbolic links. */
export async function exists(fs: FileSystem, path: string): Promise<boolean> {
  return (await ifPresent(fs.stat(path))) !== undefined
}

/**
 * Returns whether an error means that the disk or quota is full, or that a file has reached its
 * maximum size.
 */
export function isOutOfSpace(thrown: unknown): boolean {
  // Node 20 has no name for EDQUOT and reports only its number (122 on Linux, 69 on macOS).
  const errno = propertyOf(thrown, 'errno')
  return hasCode(thrown, 'ENOSPC', 'EDQUOT', 'EFBIG') || errno === -122 || errno === -69
}
