import { dirname } from 'node:path'

import { renameIntoPlace } from '../fs/atomic-replace.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { isOutOfSpace } from '../fs/out-of-space.ts'
import { copyRange, isCopyOfRange } from '../fs/read-range.ts'
import type { JournalFiles } from './journal-files.ts'

/**
 * Copies the bytes from `offset` to the end of the active segment into a file of their own, as evidence, and resolves
 * with its name once the copy is durable. The caller cuts them afterwards.
 *
 * A crash in between leaves copy and tail; the next recovery finds the same bytes again and makes no second copy. No
 * file that is there is ever overwritten. Undefined when there is no room for a copy: the bytes were never
 * acknowledged, and a full disk must be openable.
 */
export async function saveTornTail(
  fs: FileSystem,
  files: JournalFiles,
  source: File,
  tail: { readonly offset: number; readonly bytes: number; readonly sequence: number },
): Promise<string | undefined> {
  const names = await fs.list(files.directory)
  for (let copy = 1; ; copy++) {
    const name = files.tornName(tail.sequence, copy)
    const path = files.at(name)
    if (!names.includes(name)) return (await copyTailIfRoom(fs, source, tail, path)) ? name : undefined
    if (await isCopyOfRange(fs, path, source, tail)) {
      // From a recovery that was cut short; its name may not be durable yet.
      await fs.syncDirectory(files.directory)
      return name
    }
  }
}

async function copyTailIfRoom(
  fs: FileSystem,
  source: File,
  tail: { readonly offset: number; readonly bytes: number },
  path: string,
): Promise<boolean> {
  try {
    const access = await source.stat()
    await renameIntoPlace(fs, path, { access, write: (target) => copyRange(source, target, tail) })
    await fs.syncDirectory(dirname(path))
    return true
  } catch (error) {
    if (isOutOfSpace(error)) return false
    throw error
  }
}
