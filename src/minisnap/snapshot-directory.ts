import { join } from 'node:path'

import { ioError, messageOf, MiniStoreError } from '../errors.ts'
import {
  ensureDirectory, ifPresent, isOutOfSpace, listIfPresent, removeIfPresent, renameIntoPlace, syncIfPermitted,
} from '../fs/durable.ts'
import type { File, FileAccess, FileStat, FileSystem } from '../fs/file-system.ts'
import type { SnapshotInfo } from '../journal/snapshots.ts'
import { type SnapshotFile, writeSnapshot } from './file.ts'
import { isTemporary, sequenceOf, snapshotName } from './format.ts'
import type { SnapStoreSettings } from './settings.ts'

/**
 * The directory of a store and the names in it. A missing directory counts as empty.
 *
 * **Invariant.** A file gets a snapshot's name only after its whole content is durable, so a crash
 * never leaves part of a snapshot under that name.
 *
 * Calls that change the directory must not overlap. All methods reject with a
 * {@link MiniStoreError}, `ERR_MINISTORE_IO` unless stated otherwise.
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

  /** The path of the snapshot with this sequence number, whether or not the file exists. */
  file(sequence: number): SnapshotFile {
    return { sequence, path: join(this.path, snapshotName(sequence)) }
  }

  /** Sequence numbers of the existing snapshots, newest first. */
  sequences(): Promise<number[]> {
    return this.#guard('list the snapshots in', () => this.#sequences())
  }

  /** The existing snapshots, newest first. */
  async list(): Promise<SnapshotInfo[]> {
    const found: SnapshotInfo[] = []
    for (const sequence of await this.sequences()) {
      const { path } = this.file(sequence)
      const look = (): Promise<FileStat | undefined> => ifPresent(this.#fs.stat(path))
      const stat = await this.#guard('read the size of the snapshot', look, { path, sequence })
      // If it is missing, a writer in another process removed it after the names were read.
      if (stat !== undefined) found.push({ sequence, path, bytes: stat.size })
    }
    return found
  }

  /**
   * Removes the temporary files of a killed writer. The removal is not synced: a name that comes
   * back after a crash is removed next time.
   */
  sweep(): Promise<void> {
    return this.#guard('remove temporary files from', () => this.#sweep())
  }

  /**
   * Writes a snapshot and renames it into place. Creates the directory if it is missing.
   *
   * When it resolves, the content is durable but the name is not. Pass the returned directory to
   * {@link settle} to make the name durable. The returned `bytes` is the size of the file. When it
   * rejects, the earlier snapshots are untouched.
   */
  async put(
    texts: Iterable<string>,
    { path, sequence, journal }: SnapshotFile & { readonly journal?: string | undefined },
  ): Promise<{ bytes: number; directory: File }> {
    let bytes = 0
    let directory: File | undefined
    try {
      await ensureDirectory(this.#fs, this.path)
      // Opened before names change. A process with too many open files fails here, with no name
      // changed.
      directory = await this.#fs.open(this.path, 'directory')
      // Sweep first, because that may free the space that the write needs.
      await this.#sweep()
      await renameIntoPlace(this.#fs, path, {
        access: await this.#access(),
        write: async (file) => {
          bytes = await writeSnapshot(file, { texts, sequence, journal })
        },
      })
      return { bytes, directory }
    } catch (error) {
      await directory?.close().catch(() => {})
      const hint = isOutOfSpace(error) ? ' (no space left: disk, quota or maximum file size)' : ''
      const doing = `write the snapshot ${path}${hint}; older snapshots are unchanged and the store is usable`
      throw ioError(doing, error, { path, sequence })
    }
  }

  /**
   * Makes the name of a snapshot from {@link put} durable, and closes the directory.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_OUTCOME_UNKNOWN` if the sync fails.
   */
  async settle(directory: File, { path, sequence }: SnapshotFile): Promise<void> {
    try {
      await directory.sync()
    } catch (cause) {
      const message = `The snapshot ${path} may be lost in a crash: its name could not be synced (${messageOf(cause)})`
      throw new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { path, sequence, cause })
    } finally {
      // The sync alone decides the outcome, so an error of close does not matter.
      await directory.close().catch(() => {})
    }
  }

  /**
   * Makes the existing names durable on behalf of a reader.
   *
   * A writer that was killed between rename and sync leaves a name that is visible but not durable.
   * A reader may rely on that snapshot, for instance by deleting what it covers. A power cut would
   * then lose both.
   */
  async settleForReader(): Promise<void> {
    // A process without write access can neither make these names durable nor delete what a snapshot
    // covers.
    await this.#guard('sync the directory', () => syncIfPermitted(this.#fs, this.path))
  }

  /**
   * Removes the chosen snapshots and makes the removal durable.
   *
   * @param choose gets the sequence numbers of all existing snapshots, newest first, and returns
   *   those to remove.
   * @param doing the action for the error message, completed by the directory's path: "Could not …
   *   <path>".
   */
  async remove(choose: (newestFirst: readonly number[]) => readonly number[], doing: string): Promise<void> {
    await this.#guard(doing, async () => {
      const chosen = choose(await this.#sequences())
      if (chosen.length === 0) return
      // Remove the oldest first, so that a failure leaves the newest ones.
      const directory = await this.#fs.open(this.path, 'directory')
      try {
        for (const sequence of chosen.toReversed()) await removeIfPresent(this.#fs, this.file(sequence).path)
        await directory.sync()
      } finally {
        await directory.close().catch(() => {})
      }
    })
  }

  /**
   * Permissions and owner for a new snapshot. It must not be more accessible than the file it is
   * modelled on: the state's journal, or else the newest snapshot.
   */
  async #access(): Promise<FileAccess> {
    const [newest] = await this.#sequences()
    const model = this.#modelFile ?? (newest === undefined ? undefined : this.file(newest).path)
    const found = model === undefined ? undefined : await ifPresent(this.#fs.stat(model))
    return { ...found, mode: this.#mode ?? found?.mode }
  }

  async #sweep(): Promise<void> {
    for (const name of await listIfPresent(this.#fs, this.path)) {
      if (isTemporary(name)) await removeIfPresent(this.#fs, join(this.path, name))
    }
  }

  async #sequences(): Promise<number[]> {
    const sequences = (await listIfPresent(this.#fs, this.path)).map(sequenceOf)
    return sequences.filter((sequence) => sequence !== undefined).toSorted((left, right) => right - left)
  }

  async #guard<T>(doing: string, step: () => Promise<T>, at: Partial<SnapshotFile> = { path: this.path }): Promise<T> {
    try {
      return await step()
    } catch (error) {
      throw ioError(`${doing} ${at.path}`, error, at)
    }
  }
}
