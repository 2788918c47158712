import { join } from 'node:path'

import { ioError, messageOf, MiniStoreError } from '../errors.ts'
import { ensureDirectory, isOutOfSpace, listIfPresent, removeIfPresent, renameIntoPlace } from '../fs/durable.ts'
import { type File, type FileAccess, type FileSystem, isNotFound, systemErrorCode } from '../fs/file-system.ts'
import { type SnapshotFile, writeSnapshot } from './file.ts'
import { isTemporary, sequenceOf, snapshotName } from './format.ts'
import type { SnapshotInfo, SnapStoreSettings } from './settings.ts'

/**
 * The directory of a store and the names in it. One that does not exist is an empty one.
 *
 * Calls that change it do not overlap. All reject with a {@link MiniStoreError}, `ERR_MINISTORE_IO` where nothing else
 * is said.
 */
export class SnapshotDirectory {
  readonly path: string
  readonly #fs: FileSystem
  readonly #mode: number | undefined
  readonly #modelFile: string | undefined

  constructor(path: string, settings: Pick<SnapStoreSettings, 'fileSystem' | 'mode' | 'modelFile'>) {
    this.path = path
    this.#fs = settings.fileSystem
    this.#mode = settings.mode
    this.#modelFile = settings.modelFile
  }

  /** Where the snapshot of a sequence number lies, or would. */
  file(sequence: number): SnapshotFile {
    return { sequence, path: join(this.path, snapshotName(sequence)) }
  }

  /** Sequence numbers of the snapshots there are, newest first. */
  async sequences(): Promise<number[]> {
    return newestFirst(await this.#guard('read the names in', () => this.#names()))
  }

  /** The snapshots there are, newest first. */
  async list(): Promise<SnapshotInfo[]> {
    const found: SnapshotInfo[] = []
    for (const sequence of await this.sequences()) {
      const { path } = this.file(sequence)
      try {
        found.push({ sequence, path, bytes: (await this.#fs.stat(path)).size })
      } catch (error) {
        // Removed by another process's writer since the names were read.
        if (!isNotFound(error)) throw ioError(`look at the snapshot ${path}`, error, { path, sequence })
      }
    }
    return found
  }

  /** Removes what a writer that was killed has left. A name that comes back after a crash is removed the next time. */
  sweep(): Promise<void> {
    return this.#guard('remove what a crash left in', () => this.#sweep())
  }

  /**
   * Puts a snapshot in its place, making the directory if it is missing; resolves with the size of the file. What is in it
   * is durable then, its name is not, until the directory, which is given too, is given to {@link settle}. When it rejects,
   * what was there before is as it was.
   */
  async put(texts: Iterable<string>, { path, sequence }: SnapshotFile): Promise<{ bytes: number; directory: File }> {
    let bytes = 0
    let directory: File | undefined
    try {
      await ensureDirectory(this.#fs, this.path)
      // Opened before names change: a process that has too many files open is refused here, with nothing changed.
      directory = await this.#fs.open(this.path, 'directory')
      // First, for it may free the space that is needed.
      await this.#sweep()
      await renameIntoPlace(this.#fs, path, {
        access: await this.#access(),
        write: async (file) => {
          bytes = await writeSnapshot(file, { texts, sequence })
        },
      })
      return { bytes, directory }
    } catch (error) {
      await directory?.close().catch(() => {})
      const hint = isOutOfSpace(error) ? ' (no space left: disk, quota or largest file)' : ''
      const doing = `write the snapshot ${path}${hint}; older ones are as they were and the store is usable`
      throw ioError(doing, error, { path, sequence })
    }
  }

  /** Makes the name of a snapshot that was put durable. @throws {MiniStoreError} `ERR_MINISTORE_OUTCOME_UNKNOWN` */
  async settle(directory: File, { path, sequence }: SnapshotFile): Promise<void> {
    try {
      await directory.sync()
    } catch (cause) {
      const message = `The name of the snapshot ${path} could not be made durable (${messageOf(cause)}): a crash may undo it`
      throw new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { path, sequence, cause })
    } finally {
      // The sync has said all that counts.
      await directory.close().catch(() => {})
    }
  }

  /**
   * Makes the names that are there durable, for one who only reads. A writer that was killed between rename and sync has
   * left a name that is visible and not durable, and whoever builds on that snapshot, for instance by deleting what it
   * covers, would lose both to a power cut.
   */
  async settleForReader(): Promise<void> {
    try {
      await this.#fs.syncDirectory(this.path)
    } catch (error) {
      // Who may not write here cannot make durable what others wrote, nor delete what it covers.
      if (['EACCES', 'EPERM', 'EROFS'].includes(systemErrorCode(error) ?? '')) return
      throw ioError(`make the names durable in ${this.path}`, error, { path: this.path })
    }
  }

  /**
   * Removes those that are chosen of all there are, given newest first, and makes it durable.
   *
   * @param doing the whole of what fails if this does, as in "Could not … <path>"
   */
  async remove(choose: (newestFirst: readonly number[]) => readonly number[], doing: string): Promise<void> {
    await this.#guard(doing, async () => {
      const chosen = choose(newestFirst(await this.#names()))
      if (chosen.length === 0) return
      // Oldest first, so that what is left after a failure is the newest ones.
      const directory = await this.#fs.open(this.path, 'directory')
      try {
        for (const sequence of chosen.toReversed()) await removeIfPresent(this.#fs, this.file(sequence).path)
        await directory.sync()
      } finally {
        await directory.close().catch(() => {})
      }
    })
  }

  /** Permissions and owner for a new snapshot: it is not to show more than what it stands for or beside. */
  async #access(): Promise<FileAccess> {
    const [newest] = newestFirst(await this.#names())
    const model = this.#modelFile ?? (newest === undefined ? undefined : this.file(newest).path)
    let found: FileAccess = {}
    try {
      if (model !== undefined) found = await this.#fs.stat(model)
    } catch (error) {
      if (!isNotFound(error)) throw error
    }
    return { ...found, mode: this.#mode ?? found.mode }
  }

  async #sweep(): Promise<void> {
    for (const name of await this.#names()) {
      if (isTemporary(name)) await removeIfPresent(this.#fs, join(this.path, name))
    }
  }

  #names(): Promise<string[]> {
    return listIfPresent(this.#fs, this.path)
  }

  async #guard<T>(doing: string, step: () => Promise<T>): Promise<T> {
    try {
      return await step()
    } catch (error) {
      throw ioError(`${doing} ${this.path}`, error, { path: this.path })
    }
  }
}

function newestFirst(names: readonly string[]): number[] {
  const sequences = names.map(sequenceOf).filter((sequence) => sequence !== undefined)
  return sequences.toSorted((left, right) => right - left)
}
