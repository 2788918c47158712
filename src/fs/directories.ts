import { dirname } from 'node:path'

import { type FileSystem, isNotFound, systemErrorCode } from './file-system.ts'

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
