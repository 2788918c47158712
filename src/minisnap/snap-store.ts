import { resolve } from 'node:path'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { hasCode, ioError, MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { SnapshotInfo } from '../journal/snapshots.ts'
import { filePath, integer } from '../options.ts'
import {
  type CreateOptions, createSettings, type RestoredSnapshot, type RestoreOptions, restoreLimit, type SnapStoreOptions,
  snapStoreSettings,
} from './settings.ts'
import { SnapshotDirectory } from './snapshot-directory.ts'
import { superseded } from './format.ts'
import { isDamage, readSnapshot, type SnapshotFile, verifySnapshot } from './file.ts'
import { type EncodedState, StateCodec } from './state-codec.ts'

/**
 * Stores snapshots of a state in a directory. Each snapshot is one file,
 * `snapshot-<sequence>.json`, that holds the state, its sequence number and a checksum.
 *
 * **Invariant.** A snapshot file is either whole or absent, unless the disk damages it. Older
 * snapshots are removed only once a newer one is durable, its name included.
 *
 * `Output` is the type of restored states and `Input` the type of given states. They differ only if
 * a schema or a codec changes the type.
 *
 * Calls to any methods may overlap. The work is done one call after another, in call order. A store
 * takes no lock: you must ensure that only one program writes to a directory at a time. Any number
 * of programs may read. A store holds nothing open and needs no closing.
 *
 * ```ts
 * const snaps = new SnapStore<State>('state')
 * await snaps.create({ total: 3 }, 17)
 * const found = await snaps.restore() // { state: { total: 3 }, sequence: 17, … }
 * ```
 */
export class SnapStore<Output = unknown, Input = Output> {
  /** Number of whole snapshots to keep. */
  readonly keep: number
  readonly #fs: FileSystem
  readonly #files: SnapshotDirectory
  readonly #codec: StateCodec<Output, Input>
  readonly #queue = new PQueue({ concurrency: 1 })
  /** Sequence numbers of snapshots that were found damaged and have not been rewritten since. */
  readonly #damaged = new Set<number>()

  /**
   * Does not access the disk. The first {@link create} makes the directory.
   *
   * @param directory as a string or a `file:` URL.
   * @throws {TypeError | RangeError} if the directory or an option is invalid.
   */
  constructor(
    directory: string | URL,
    options: SnapStoreOptions<Input, unknown> & { readonly schema: StandardSchemaV1<Input, Output> },
  )
  /** Works like the overload with a schema, whose output type it does not know. */
  constructor(directory: string | URL, options?: SnapStoreOptions<Input, Output>)
  constructor(directory: string | URL, options?: unknown) {
    const settings = snapStoreSettings(options)
    this.keep = settings.keep
    this.#fs = settings.fileSystem
    this.#files = new SnapshotDirectory(resolve(filePath(directory, 'directory')), settings)
    this.#codec = new StateCodec(settings)
  }

  /** Absolute path of the directory. */
  get directory(): string {
    return this.#files.path
  }

  /**
   * Writes a snapshot. When it resolves, the snapshot is on stable storage, along with its name and
   * the names of its directories. Whole snapshots older than the {@link keep} newest are removed,
   * and so are damaged ones of that age.
   *
   * The state is serialized in one go before this call returns, so later changes have no effect.
   * Its text is the only copy made. With `frozen`, the state is serialized while it is written,
   * about a quarter of a mebibyte at a time. A large state then neither blocks the event loop nor is copied. A
   * codec still produces all of its text at once.
   *
   * Without a codec, the state must come back from JSON as it is. A `Map`, a `Date`, `NaN` and the
   * like are refused with the path to the value. A snapshot of the same sequence number is
   * replaced.
   *
   * A crash leaves the earlier snapshots, and perhaps the whole new one. It may also leave a
   * temporary file, which the next call removes. For a moment there are `keep + 1` snapshots, so
   * the disk must have room for them.
   *
   * @param sequence says how new the state is: a whole number, 0 or greater, not below the newest
   *   snapshot's. Snapshots that this store has found damaged do not count.
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_CODEC`, `…_SCHEMA` or
   *   `…_STATE_TOO_LARGE` if the state cannot be stored, and `ERR_MINISTORE_IO` if a system call
   *   fails. After these errors, older snapshots are untouched and the store is usable. If only the
   *   removal of older snapshots failed, the message says that the new one is durable.
   * @throws {MiniStoreError} `ERR_MINISTORE_OUTCOME_UNKNOWN` if the new name may not survive a
   *   crash. No older snapshot is removed. Another call settles it, even one with the same sequence
   *   number.
   * @throws {TypeError | RangeError} if the sequence number is invalid or too low, or an option is
   *   invalid.
   */
  async create(state: Input, sequence: number, options?: CreateOptions): Promise<SnapshotInfo> {
    const snapshot = this.#files.file(integer('sequence', sequence, { min: 0 }))
    const { journal, ...how } = createSettings(options)
    const encoded = this.#codec.encode(state, snapshot, how)
    return await addInContext(this.#queue, () => this.#create(encoded, { ...snapshot, journal }))
  }

  /**
   * Returns the state of the newest whole snapshot, or undefined if there are no snapshots.
   *
   * Damaged snapshots are skipped, reported in `damaged`, and left in place. The returned snapshot
   * is on stable storage, even if the process that wrote it died before it could sync the name. In
   * a directory that this process may only read, the name is not synced.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if there are snapshots and none is
   *   whole; its `cause` is the error of the newest one.
   * @throws {MiniStoreError} `ERR_MINISTORE_CODEC` or `…_SCHEMA` if the newest whole snapshot fails
   *   codec or schema; older ones are not tried. `ERR_MINISTORE_STATE_TOO_LARGE` if the state does
   *   not fit into a string. `ERR_MINISTORE_IO` if a system call fails; this never counts as
   *   damage.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  async restore(options?: RestoreOptions): Promise<RestoredSnapshot<Output> | undefined> {
    const atMost = restoreLimit(options)
    return await addInContext(this.#queue, () => this.#restore(atMost))
  }

  /**
   * Whether any snapshot exists, whole or not.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the directory cannot be read.
   */
  async exists(): Promise<boolean> {
    return (await addInContext(this.#queue, () => this.#files.sequences())).length > 0
  }

  /**
   * Lists the existing snapshots, newest first, by name and size. Does not check whether they are
   * whole.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the directory or a file cannot be read.
   */
  list(): Promise<SnapshotInfo[]> {
    return addInContext(this.#queue, () => this.#files.list())
  }

  /**
   * Resolves if the snapshot with this sequence number is byte for byte as it was written. Does not
   * parse the state, and holds only a small part of the file in memory at a time.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if the file was changed;
   *   `ERR_MINISTORE_IO` if it cannot be read or does not exist.
   * @throws {TypeError | RangeError} if the sequence number is invalid.
   */
  async verify(sequence: number): Promise<void> {
    const snapshot = this.#files.file(integer('sequence', sequence, { min: 0 }))
    await addInContext(this.#queue, async () => {
      try {
        await verifySnapshot(this.#fs, snapshot)
      } catch (error) {
        if (isDamage(error)) this.#damaged.add(snapshot.sequence)
        throw ioError(`read the snapshot ${snapshot.path}`, error, snapshot)
      }
    })
  }

  /**
   * Removes temporary files that a crash has left. {@link create} does so too, and temporary files
   * never count as snapshots. So this call only frees their space earlier.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if a file cannot be removed.
   */
  async sweep(): Promise<void> {
    await addInContext(this.#queue, () => this.#files.sweep())
  }

  async #create(
    { texts, validation }: EncodedState,
    snapshot: SnapshotFile & Pick<CreateOptions, 'journal'>,
  ): Promise<SnapshotInfo> {
    await validation
    const { path, sequence } = snapshot
    const newest = (await this.#files.sequences()).find((other) => !this.#damaged.has(other))
    if (newest !== undefined && sequence < newest) throw tooLow(sequence, newest)
    const { bytes, directory } = await this.#files.put(texts, snapshot)
    this.#damaged.delete(sequence)
    // The new name must be durable before an older snapshot is removed. Otherwise a crash could
    // leave neither.
    await this.#files.settle(directory, snapshot)
    const limits = { keep: this.keep, damaged: this.#damaged }
    // A failed removal rejects although the new snapshot is durable. Otherwise old snapshots would
    // fill the disk unnoticed. Calling again is harmless.
    const doing = `remove snapshots older than number ${sequence}, which is durable, from`
    await this.#files.remove((all) => superseded(all, limits), doing)
    return { sequence, path, bytes }
  }

  async #restore(atMost: number): Promise<RestoredSnapshot<Output> | undefined> {
    for (let look = 1; ; look++) {
      try {
        return await this.#newestWhole(atMost)
      } catch (error) {
        // A writer in another process removed the snapshot after the names were read. That writer
        // removes only superseded snapshots, so a newer one exists.
        if (hasCode(error, 'ENOENT') && look < maxLooks) continue
        throw ioError(`restore a snapshot from ${this.directory}`, error, { path: this.directory })
      }
    }
  }

  async #newestWhole(atMost: number): Promise<RestoredSnapshot<Output> | undefined> {
    const damaged: MiniStoreError[] = []
    for (const sequence of await this.#files.sequences()) {
      if (sequence > atMost) continue
      const snapshot = this.#files.file(sequence)
      try {
        const { text, journal } = await readSnapshot(this.#fs, snapshot)
        const state = await this.#codec.decode(text, snapshot)
        this.#damaged.delete(sequence)
        await this.#files.settleForReader()
        return { state, sequence, journal, damaged }
      } catch (error) {
        if (!isDamage(error)) throw error
        this.#damaged.add(sequence)
        damaged.push(error)
      }
    }
    const [newest] = damaged
    if (newest === undefined) return undefined
    const message = `No snapshot is whole: ${damaged.map((error) => error.message).join('; ')}`
    const { path, sequence } = newest
    throw new MiniStoreError('ERR_MINISTORE_SNAPSHOT_DAMAGED', message, { path, sequence, cause: newest })
  }
}

/**
 * Maximum number of attempts to restore. An attempt finds a snapshot gone only if a writer has made
 * another one meanwhile.
 */
const maxLooks = 10

function tooLow(sequence: number, newest: number): RangeError {
  const expected = `Expected \`sequence\` to be at least ${newest}, that of the newest snapshot, got ${sequence}`
  return new RangeError(`${expected}. If that snapshot is damaged, call restore(): then it no longer counts.`)
}
