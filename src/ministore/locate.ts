import { basename, dirname, join, resolve } from 'node:path'

import { hasCode, MiniStoreError } from '../errors.ts'
import { exists, listIfPresent } from '../fs/durable.ts'
import { type FileAccess, type FileStat, type FileSystem, irregularFile } from '../fs/file-system.ts'
import { JournalFiles } from './format.ts'
import { inspectActive } from './segments.ts'

/**
 * Finds where the files of the journal at a path belong. Changes nothing; the journal need not
 * exist.
 *
 * If the path is a symbolic link, the journal is located at the target of the link. Its segments
 * belong beside the target, and a rotation must not rename the link.
 *
 * Call this before creating any file beside the journal. For a path such as `/dev/null`, not even a
 * lock file may be created.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the path leads to something other than a regular
 *   file, or is a symbolic link without a target. A journal created in place of the link would hide
 *   the target when it exists again.
 */
export async function locateJournal(fs: FileSystem, path: string): Promise<JournalFiles> {
  const files = await followLink(fs, path)
  const found = await statIfPresent(fs, files.path)
  const irregular = found && irregularFile(files.path, found)
  if (irregular !== undefined) throw irregular
  return files
}

/**
 * Permissions and owner for new files of a journal. They are taken from the active segment, or from
 * the newest sealed segment if a crash has left no active one. Undefined for a new journal.
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
  // Sealed segments may be read-only, but the owner must be able to write the new files.
  return access?.mode === undefined ? access : { ...access, mode: access.mode | 0o600 }
}

async function followLink(fs: FileSystem, path: string): Promise<JournalFiles> {
  const absolute = resolve(path)
  const directory = await realPathIfPresent(fs, dirname(absolute))
  if (directory === undefined) return new JournalFiles(absolute)
  // If a listed name has no real path, it is a link without a target, or it was renamed between the
  // two calls. The look-up is made up to three times to rule out a rename.
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
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

async function realPathIfPresent(fs: FileSystem, path: string): Promise<string | undefined> {
  try {
    return await fs.realPath(path)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

/**
 * Checks that every file of a journal can have its name. Call this before the writer's lock file is
 * created. Changes nothing.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_NAME_TAKEN` if a file would belong to two journals,
 *   `ERR_MINISTORE_IO` if a name would be too long.
 */
export async function assertNamesUsable(fs: FileSystem, files: JournalFiles): Promise<void> {
  await assertNamesFit(fs, files)
  await assertNamesFree(fs, files)
}

/**
 * Checks that the longest name of a file of the journal fits into the directory.
 *
 * The journal's own name may fit while the name of a file that saves a torn line does not. Without
 * this check, that would only be discovered when a torn line must be saved. The limit depends on
 * the directory (usually 255 bytes, 143 with eCryptfs), so the file system is asked about the
 * longest name.
 */
async function assertNamesFit(fs: FileSystem, files: JournalFiles): Promise<void> {
  const { longestName } = files
  // Windows reports the same error for a name that is too long and for a missing file. Its limit
  // counts UTF-16 code units.
  if (process.platform === 'win32' && longestName.length > 255) throw nameTooLong(files)
  for (let { directory } = files; ; directory = dirname(directory)) {
    try {
      await fs.stat(join(directory, longestName))
      return
    } catch (error) {
      if (hasCode(error, 'ENAMETOOLONG')) throw nameTooLong(files, error)
      if (!hasCode(error, 'ENOENT')) throw error
      // If the directory is missing, its limit is unknown, so the parent directory is asked
      // instead.
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
 * Checks that no file would belong to two journals. For example, `events.2024` is a valid name for
 * a journal, but also the name of a sealed segment of the journal `events`. The journal
 * `events` would adopt the records of `events.2024` and delete them some day.
 *
 * Another journal is recognized by its lock file, which is never removed and so survives every
 * crash. A journal of the Rust crate has no lock file and is recognized by its active segment. This
 * check must come before the writer's own lock file is created.
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

/** The possible journals in the same directory to which this journal's name would belong. */
function possibleOwners(files: JournalFiles): JournalFiles[] {
  // Skips a dot at the start of the name, because the name before it would be empty.
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
    // A newer format version still shows a journal. Every other error counts as no
    // journal: a directory, a file that may not be read, or a first line that is not a header.
    return hasCode(error, 'ERR_MINISTORE_UNSUPPORTED_VERSION')
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
