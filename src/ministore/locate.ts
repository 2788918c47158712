import { basename, dirname, join, resolve } from 'node:path'

import { MiniStoreError } from '../errors.ts'
import { listIfPresent } from '../fs/durable.ts'
import { type FileAccess, type FileStat, type FileSystem, irregularFile, isNotFound } from '../fs/file-system.ts'
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
  const found = await statIfPresent(fs, files.path)
  const irregular = found && irregularFile(files.path, found)
  if (irregular !== undefined) throw irregular
  return files
}

/**
 * Mode and owner for new files of a journal: those of its active segment, or of the newest sealed one where a crash has
 * left no active one. Undefined for a new journal.
 */
export async function accessOf(fs: FileSystem, files: JournalFiles): Promise<FileAccess | undefined> {
  const active = await statIfPresent(fs, files.path)
  if (active !== undefined) return active
  let newest: { readonly name: string; readonly number: number } | undefined
  for (const name of await listIfPresent(fs, files.directory)) {
    const number = files.sealedNumber(name)
    if (number !== undefined && number >= (newest?.number ?? 0)) newest = { name, number }
  }
  const access = newest && (await statIfPresent(fs, files.at(newest.name)))
  // Sealed segments may be kept read-only. What is made beside them is to be written.
  return access?.mode === undefined ? access : { ...access, mode: access.mode | 0o600 }
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

async function statIfPresent(fs: FileSystem, path: string): Promise<FileStat | undefined> {
  try {
    return await fs.stat(path)
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
