import { dirname } from 'node:path'

import { propertyOf } from '../errors.ts'
import { type File, type FileAccess, type FileSystem, isNotFound, systemErrorCode } from './file-system.ts'

/** Ending of the temporary file next to the one that is being replaced. */
export const temporarySuffix = '.tmp'

/**
 * Puts a file in place, whole or not at all: written beside, synced, renamed, directory synced.
 *
 * When it resolves the new content is durable under its name. A crash before leaves what was there before,
 * and perhaps a temporary file `<path>.tmp`, which the next call replaces. Calls for one path must not overlap.
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
 * The part of {@link replaceFile} before the directory is synced, for content that is written by a function: when it
 * resolves the whole content is under its name and durable, the name is not.
 *
 * When it rejects the name leads to what it led to before, and the temporary file is removed if that can be done.
 */
export async function renameIntoPlace(
  fs: FileSystem,
  path: string,
  content: {
    readonly access: FileAccess | undefined
    readonly write: (file: File) => void | Promise<void>
  },
): Promise<void> {
  const { access, write } = content
  const temporary = path + temporarySuffix
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
    // It may hold the last space of a full disk. What cannot be removed now the next call removes.
    await removeIfPresent(fs, temporary).catch(() => false)
    throw error
  }
}

/**
 * Writes all the bytes at a position, continuing after short writes, and answers without a promise when
 * every write did.
 */
export function writeFully(file: File, bytes: Uint8Array, position: number): void | Promise<void> {
  const written = file.write(bytes, position)
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
    // A write that makes no progress without an error would loop for ever.
    if (written === 0) throw new Error(`The file system wrote 0 of ${bytes.length - done} bytes without an error`)
    done += written
  }
}

/** Removes a name if it is there. The removal is not durable until the directory is synced. */
export async function removeIfPresent(fs: FileSystem, path: string): Promise<boolean> {
  try {
    await fs.unlink(path)
    return true
  } catch (error) {
    if (isNotFound(error)) return false
    throw error
  }
}

/**
 * Makes a directory and its missing parents, and makes their names durable.
 *
 * Each level is made durable before the next is made, so a process killed in between leaves at most one
 * directory, the deepest, whose name may not be durable yet. That is why the parent of the deepest directory
 * that exists is synced too: this call may be the one after such a kill.
 */
export async function ensureDirectory(fs: FileSystem, directory: string): Promise<void> {
  const missing: string[] = []
  let existing = directory
  while (!(await exists(fs, existing)) && dirname(existing) !== existing) {
    missing.unshift(existing)
    existing = dirname(existing)
  }
  await syncNameOf(fs, existing)
  for (const path of missing) {
    try {
      await fs.makeDirectory(path)
    } catch (error) {
      // Somebody else made it at the same moment; its name is made durable below all the same.
      if (systemErrorCode(error) !== 'EEXIST') throw error
    }
    await fs.syncDirectory(dirname(path))
  }
}

/** The names in a directory; none when it is not there. */
export async function listIfPresent(fs: FileSystem, directory: string): Promise<string[]> {
  try {
    return await fs.list(directory)
  } catch (error) {
    if (isNotFound(error)) return []
    throw error
  }
}

async function syncNameOf(fs: FileSystem, directory: string): Promise<void> {
  try {
    await fs.syncDirectory(dirname(directory))
  } catch (error) {
    // A parent that may be passed through but not opened was not made by us, so its names are not ours to sync.
    if (!['EACCES', 'EPERM', 'EROFS'].includes(systemErrorCode(error) ?? '')) throw error
  }
}

/** Opens a file; undefined if there is none. */
export async function openIfPresent(
  fs: FileSystem,
  path: string,
  mode: 'read' | 'write',
): Promise<File | undefined> {
  try {
    return await fs.open(path, mode)
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

/** Whether there is something at a path. */
export async function exists(fs: FileSystem, path: string): Promise<boolean> {
  try {
    await fs.stat(path)
    return true
  } catch (error) {
    if (isNotFound(error)) return false
    throw error
  }
}

/** Whether an error says that the disk, the quota or the largest file is full. */
export function isOutOfSpace(thrown: unknown): boolean {
  // Node 20 has no name for EDQUOT and reports its number only (122 on Linux, 69 on macOS).
  const errno = propertyOf(thrown, 'errno')
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(systemErrorCode(thrown) ?? '') || errno === -122 || errno === -69
}
