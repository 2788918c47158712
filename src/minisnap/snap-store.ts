import { resolve } from 'node:path'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { ioError, isMiniStoreError, MiniStoreError } from '../errors.ts'
import { type FileSystem, isNotFound } from '../fs/file-system.ts'
import { filePath, integer } from '../options.ts'
import {
  type CreateOptions, createSettings, type RestoredSnapshot, type RestoreOptions, restoreLimit, type SnapshotInfo,
  type SnapStoreOptions, snapStoreSettings,
} from './settings.ts'
import { SnapshotDirectory } from './snapshot-directory.ts'
import { superseded } from './format.ts'
import { readSnapshot, type SnapshotFile, verifySnapshot } from './file.ts'
import { type EncodedState, StateCodec } from './state-codec.ts'

/**
 * Snapshots of a state in a directory: each one file, `snapshot-<sequence>.json`, that holds the state, its sequence
 * number and a checksum, and is there whole or not at all.
 *
 * `Output` is the type of states restored, `Input` of states given; they differ only when a schema or a codec makes them.
 *
 * All methods may be called at any time and in any number; they do their work one after another in call order. Nothing
 * keeps a second writer out: that one program writes to a directory at a time is the caller's to see to. Any number may
 * read. A store holds nothing open and needs no closing.
 *
 * ```ts
 * const snaps = new SnapStore<State>('state')
 * await snaps.create({ total: 3 }, 17)
 * const found = await snaps.restore() // { state: { total: 3 }, sequence: 17, damaged: [] }
 * ```
 */
export class SnapStore<Output = unknown, Input = Output> {
  /** How many whole snapshots stay. */
  readonly keep: number
  readonly #fs: FileSystem
  readonly #files: SnapshotDirectory
  readonly #codec: StateCodec<Output, Input>
  readonly #queue = new PQueue({ concurrency: 1 })
  /** Sequence numbers of snapshots that were found to be damaged and were not written anew since. */
  readonly #damaged = new Set<number>()

  /**
   * Touches no disk: the directory is made by the first {@link create}.
   *
   * @throws {TypeError | RangeError} for options that are none.
   */
  constructor(
    directory: string,
    options: SnapStoreOptions<Input, unknown> & { readonly schema: StandardSchemaV1<Input, Output> },
  )
  constructor(directory: string, options?: SnapStoreOptions<Input, Output>)
  constructor(directory: string, options?: unknown) {
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
   * Writes a snapshot. When it resolves the snapshot is on stable storage, its name and those of its directory included,
   * and whole snapshots older than the {@link keep} newest are removed.
   *
   * The state is serialized before this returns, in one go; what happens to it afterwards changes nothing. Its text is the
   * only copy that is made of it. With `frozen` it is serialized while it is written, about a mebibyte at a time: a large
   * one then neither holds up the event loop nor is copied (but by a codec, which gives all of its text at once).
   *
   * Without a codec the state must come back from JSON as it is: a `Map`, a `Date`, `NaN` and the like are refused with the
   * way to them. A snapshot of the same sequence number is replaced.
   *
   * A crash leaves what was there before or the whole new snapshot besides, and perhaps a temporary file, which the next
   * call removes. For a moment there are `keep + 1` snapshots, so a disk must have room for them.
   *
   * @param sequence tells how new the state is: a whole number from 0 up, not below that of the newest snapshot. One
   *   that this store has found to be damaged does not count.
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_CODEC`, `…_SCHEMA` or `…_STATE_TOO_LARGE` for a state
   *   that cannot be stored, and `ERR_MINISTORE_IO` when the system refuses: older snapshots are untouched, the
   *   store is usable. When only the removal of older ones failed, the message says that the new one is durable.
   *   `ERR_MINISTORE_OUTCOME_UNKNOWN` when the new name may not last: no older one is removed. Another call, of this
   *   sequence number too, settles it.
   * @throws {TypeError | RangeError} for a sequence number that is none or is too low.
   */
  async create(state: Input, sequence: number, options?: CreateOptions): Promise<SnapshotInfo> {
    const snapshot = this.#files.file(integer('sequence', sequence, { least: 0 }))
    const encoded = this.#codec.encode(state, snapshot, createSettings(options))
    return await addInContext(this.#queue, () => this.#create(encoded, snapshot))
  }

  /**
   * The state of the newest snapshot that is whole; undefined when there is none at all.
   *
   * A damaged one is passed over, told of in `damaged`, and left where it is. What is given is on stable storage, even if
   * the process that wrote it died before it could see to that; a directory that may only be read is taken as it is.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` when there are snapshots and none is whole, its `cause` the
   *   newest one's; `ERR_MINISTORE_CODEC` or `…_SCHEMA` when the newest whole one fails them, and older ones are not
   *   tried; `ERR_MINISTORE_STATE_TOO_LARGE`; `ERR_MINISTORE_IO` when the system refuses, which is never taken for damage.
   * @throws {TypeError | RangeError} for options that are none.
   */
  async restore(options?: RestoreOptions): Promise<RestoredSnapshot<Output> | undefined> {
    const atMost = restoreLimit(options)
    return await addInContext(this.#queue, () => this.#restore(atMost))
  }

  /** Whether there is any snapshot, whole or not. @throws {MiniStoreError} `ERR_MINISTORE_IO` */
  async exists(): Promise<boolean> {
    return (await addInContext(this.#queue, () => this.#files.sequences())).length > 0
  }

  /**
   * The snapshots there are, newest first, by name and size: whether they are whole is not looked at.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO`
   */
  list(): Promise<SnapshotInfo[]> {
    return addInContext(this.#queue, () => this.#files.list())
  }

  /**
   * Resolves when the snapshot of this sequence number is, byte for byte, as it was written. Does not parse it, and holds a
   * small part of it at a time.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED`; `ERR_MINISTORE_IO` when it cannot be read, or is not there.
   * @throws {TypeError | RangeError} for a sequence number that is none.
   */
  async verify(sequence: number): Promise<void> {
    const snapshot = this.#files.file(integer('sequence', sequence, { least: 0 }))
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
   * Removes temporary files that a crash has left. {@link create} does so too, and nobody takes them for snapshots, so this
   * only frees their space earlier.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO`
   */
  async sweep(): Promise<void> {
    await addInContext(this.#queue, () => this.#files.sweep())
  }

  async #create({ texts, validation }: EncodedState, snapshot: SnapshotFile): Promise<SnapshotInfo> {
    await validation
    const { path, sequence } = snapshot
    const newest = (await this.#files.sequences()).find((other) => !this.#damaged.has(other))
    if (newest !== undefined && sequence < newest) throw tooLow(sequence, newest)
    const { bytes, directory } = await this.#files.put(texts, snapshot)
    this.#damaged.delete(sequence)
    // Durable before an older one goes, or a crash could leave neither.
    await this.#files.settle(directory, snapshot)
    const limits = { keep: this.keep, damaged: this.#damaged }
    const doing = `remove what is older than the snapshot of sequence number ${sequence}, which is durable, from`
    await this.#files.remove((all) => superseded(all, limits), doing)
    return { sequence, path, bytes }
  }

  async #restore(atMost: number): Promise<RestoredSnapshot<Output> | undefined> {
    for (let look = 1; ; look++) {
      try {
        return await this.#newestWhole(atMost)
      } catch (error) {
        // Another process's writer has removed it since the names were read: there is a newer one.
        if (isNotFound(error) && look < maxLooks) continue
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
        const state = await this.#codec.decode(await readSnapshot(this.#fs, snapshot), snapshot)
        this.#damaged.delete(sequence)
        await this.#files.settleForReader()
        return { state, sequence, damaged }
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

/** Each look that finds a snapshot gone means that a writer has made another one meanwhile. */
const maxLooks = 10

function isDamage(error: unknown): error is MiniStoreError {
  return isMiniStoreError(error, 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
}

function tooLow(sequence: number, newest: number): RangeError {
  const hint = 'if that one is damaged, restore() finds out and it no longer counts'
  const expected = `Expected \`sequence\` to be at least ${newest}, that of the newest snapshot`
  return new RangeError(`${expected}, got ${sequence}; ${hint}`)
}
