import { basename, dirname, join, resolve } from 'node:path'

import { type FileSystem, isNotFound } from '../fs/file-system.ts'
import { filePath } from '../options.ts'
import { JournalFiles } from './journal-files.ts'

/**
 * The files of the journal at a path. A journal that is itself a symbolic link is taken where it really lies: its
 * segments belong beside the file, and a rotation must not rename the link.
 *
 * @throws {TypeError} unless the path is one.
 */
export async function locateJournal(fs: FileSystem, path: unknown): Promise<JournalFiles> {
  const absolute = resolve(filePath(path))
  try {
    const directory = await fs.realPath(dirname(absolute))
    const real = await fs.realPath(absolute)
    if (real !== join(directory, basename(absolute))) return new JournalFiles(real)
  } catch (error) {
    // Nothing there yet, or not to be seen: opening it will make it, or tell.
    if (!isNotFound(error)) return new JournalFiles(absolute)
  }
  return new JournalFiles(absolute)
}
