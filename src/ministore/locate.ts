import { basename, dirname, join, resolve } from 'node:path'

import { MiniStoreError } from '../errors.ts'
import { type FileSystem, irregularFile, isNotFound } from '../fs/file-system.ts'
import { JournalFiles } from './journal-files.ts'

/**
 * The files of the journal at a path, which is looked at before anything beside it is made: at `/dev/null` no lock file
 * has a place. A journal that is itself a symbolic link is taken where it really lies: its
 * segments belong beside the file, and a rotation must not rename the link.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_IO` when it is not a regular file, or a link that leads nowhere: a journal made
 *   in its place would hide the one that it leads to when that is there again.
 */
export async function locateJournal(fs: FileSystem, path: string): Promise<JournalFiles> {
  const files = await followLink(fs, path)
  const irregular = await irregularAt(fs, files.path)
  if (irregular !== undefined) throw irregular
  return files
}

async function followLink(fs: FileSystem, path: string): Promise<JournalFiles> {
  const absolute = resolve(path)
  const directory = await realPathIfPresent(fs, dirname(absolute))
  if (directory === undefined) return new JournalFiles(absolute)
  // A name that is listed and leads nowhere is a link, or was renamed between the two calls: so it is asked again.
  for (let asked = 0; asked < 3; asked++) {
    const real = await realPathIfPresent(fs, absolute)
    if (real === join(directory, basename(absolute))) return new JournalFiles(absolute)
    if (real !== undefined) return new JournalFiles(real)
    if (!(await fs.list(directory)).includes(basename(absolute))) return new JournalFiles(absolute)
  }
  throw new MiniStoreError('ERR_MINISTORE_IO', `${absolute} is a symbolic link that leads nowhere`, { path: absolute })
}

async function irregularAt(fs: FileSystem, path: string): Promise<MiniStoreError | undefined> {
  try {
    return irregularFile(path, await fs.stat(path))
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

async function realPathIfPresent(fs: FileSystem, path: string): Promise<string | undefined> {
  try {
    return await fs.realPath(path)
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}
