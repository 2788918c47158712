import { basename, dirname, join, resolve } from 'node:path'

import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import { exists, listIfPresent } from '../fs/durable.ts'
import {
  type FileAccess, type FileStat, type FileSystem, irregularFile, isNotFound, systemErrorCode,
} from '../fs/file-system.ts'
import { JournalFiles } from './format.ts'
import { inspectActive } from './segments.ts'

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

/**
 * Sees to it that every file of a journal can have its name, before any of them is made.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_NAME_TAKEN`; `ERR_MINISTORE_IO` for a name that is too long.
 */
export async function assertNamesUsable(fs: FileSystem, files: JournalFiles): Promise<void> {
  await assertNamesFit(fs, files)
  await assertNamesFree(fs, files)
}

/**
 * A name may fit while that of the file which saves a torn line does not: it would be found when it is needed. How long
 * names may be only the directory knows (255 bytes mostly, 143 where eCryptfs hides them), so it is asked for the longest.
 */
async function assertNamesFit(fs: FileSystem, files: JournalFiles): Promise<void> {
  const { longestName } = files
  // Windows tells "too long" and "not there" alike. It counts UTF-16 units.
  if (process.platform === 'win32' && longestName.length > 255) throw nameTooLong(files)
  for (let { directory } = files; ; directory = dirname(directory)) {
    try {
      await fs.stat(join(directory, longestName))
      return
    } catch (error) {
      if (systemErrorCode(error) === 'ENAMETOOLONG') throw nameTooLong(files, error)
      if (!isNotFound(error)) throw error
      // Where a directory is missing, nothing is asked about names in it: the one above it is.
      if (directory === dirname(directory) || (await exists(fs, directory))) return
    }
  }
}

function nameTooLong(files: JournalFiles, cause?: unknown): MiniStoreError {
  const more = Buffer.byteLength(files.longestName) - Buffer.byteLength(files.name)
  const message =
    `The name of the journal ${files.path} is too long: files beside it have names of up to ${more} bytes more, ` +
    'which do not fit into its directory. Give it a shorter name or path'
  return new MiniStoreError('ERR_MINISTORE_IO', message, { path: files.path, cause })
}

/**
 * Sees to it that no file belongs to two journals: `events.2024` is a good name for a journal, and that of a sealed segment
 * of the journal `events`, which would adopt its records, and delete them some day.
 *
 * To be asked before a writer's lock file is made: by that, which is never removed, a journal is known whatever crash it went
 * through. One that the Rust crate made has none; it is known by its active segment.
 */
async function assertNamesFree(fs: FileSystem, files: JournalFiles): Promise<void> {
  const names = new Set(await listIfPresent(fs, files.directory))
  for (const name of names) {
    if (files.isOwn(name) && names.has(lockOf(name))) throw nameTaken(files, { owned: name, owner: files.name, known: lockOf(name) })
  }
  for (const owner of possibleOwners(files)) {
    if (names.has(lockOf(owner.name))) {
      throw nameTaken(files, { owned: files.name, owner: owner.name, known: lockOf(owner.name) })
    }
    if (names.has(owner.name) && (await isJournal(fs, owner))) {
      throw nameTaken(files, { owned: files.name, owner: owner.name, known: owner.name })
    }
  }
}

/** The journals beside this one that would take it for a file of theirs. */
function possibleOwners(files: JournalFiles): JournalFiles[] {
  // Not the first character: a name may begin with a dot, but is not empty.
  return [...files.name.matchAll(/(?!^)\./g)]
    .map(({ index }) => new JournalFiles(files.at(files.name.slice(0, index))))
    .filter((owner) => owner.isOwn(files.name))
}

function lockOf(name: string): string {
  return basename(new JournalFiles(name).lock)
}

async function isJournal(fs: FileSystem, files: JournalFiles): Promise<boolean> {
  try {
    const active = await inspectActive(fs, files)
    return active !== undefined && 'header' in active
  } catch (error) {
    // A directory, something that may not be read, or a file whose first line is no header of ours.
    return isMiniStoreError(error, 'ERR_MINISTORE_UNSUPPORTED_VERSION')
  }
}

function nameTaken(
  files: JournalFiles,
  { owned, owner, known }: { readonly owned: string; readonly owner: string; readonly known: string },
): MiniStoreError {
  const message =
    `${owned} is the name of a file of the journal ${owner}, and cannot be a journal of its own beside it ` +
    `(${known} is there). Give one of them another name or directory; if that file is left over, remove it`
  return new MiniStoreError('ERR_MINISTORE_NAME_TAKEN', message, { path: files.path })
}
