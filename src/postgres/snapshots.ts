import { crc32 } from 'node:zlib'

import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { MiniStoreError } from '../errors.ts'
import type { LoadedSnapshot, SnapshotCreateOptions, SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
import { damaged, isDamage } from '../minisnap/file.ts'
import { checksumOf, hex, superseded } from '../minisnap/format.ts'
import { createSettings, restoreLimit } from '../minisnap/settings.ts'
import { StateCodec } from '../minisnap/state-codec.ts'
import { fields, integer } from '../options.ts'
import { type Codec, codecOption } from '../schema.ts'
import { type JournalCore, refuseTooLarge } from './core.ts'
import { coreOf, type PostgresJournal } from './journal.ts'

/** Options of {@link PostgresSnapshots}. */
export interface PostgresSnapshotsOptions<State = unknown> {
  /** Number of whole snapshots to keep; `create()` removes older ones. @default 2; minimum 1 */
  readonly keep?: number | undefined
  /** Replaces JSON. Any text is accepted. @default JSON.stringify and JSON.parse */
  readonly codec?: Codec<State> | undefined
}

/**
 * The snapshots of a state beside its {@link PostgresJournal}: the interface `Snapshots`. Each is a row
 * with a checksum.
 *
 * Only the writer of the journal can write them: after another writer has taken over, `create` rejects with
 * `ERR_MINISTORE_FENCED`, and changes nothing. Those of a reader can be restored.
 *
 * Calls may overlap; they are done in call order. There is nothing to close.
 */
export class PostgresSnapshots<State = unknown> implements Snapshots<State> {
  readonly keep: number
  readonly #core: JournalCore
  readonly #codec: StateCodec<State, State>
  readonly #queue = new PQueue({ concurrency: 1 })
  /** Sequence numbers of snapshots that were found damaged and have not been rewritten since. */
  readonly #damaged = new Set<number>()

  /** @throws {TypeError | RangeError} if the journal or an option is invalid. */
  constructor(journal: PostgresJournal<never, never> | PostgresJournal<unknown, never>, options?: PostgresSnapshotsOptions<State>) {
    const { keep, codec } = fields(options, ['keep', 'codec'])
    this.keep = integer('keep', keep, { default: 2 })
    this.#core = coreOf(journal)
    this.#codec = new StateCodec({ codec: codecOption(codec, ['encode', 'decode']), schema: undefined })
  }

  /**
   * Stores a snapshot, and removes those older than the {@link keep} newest whole ones, in one statement:
   * both are done, or nothing. It is durable when this resolves.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_CODEC` or `…_STATE_TOO_LARGE` if the state
   *   cannot be stored; `…_RECORD_TOO_LARGE` if its text exceeds 256 MiB; `…_FENCED`, `…_CORRUPT` and `…_IO`
   *   as `append` of the journal. After `…_OUTCOME_UNKNOWN`, the snapshot may be there. Another call settles it.
   * @throws {TypeError | RangeError} if the journal is a reader, if the sequence number is invalid or below
   *   that of the newest snapshot, or if an option is invalid.
   */
  async create(state: State, sequence: number, options?: SnapshotCreateOptions): Promise<SnapshotInfo> {
    this.#core.assertUsable(true)
    const snapshot = this.#at(integer('sequence', sequence, { min: 0 }))
    const { journal: origin, ...how } = createSettings(options)
    const { texts } = this.#codec.encode(state, snapshot, how)
    return await this.#inTurn(async () => {
      const kept = (await this.#list()).map((info) => info.sequence)
      const newest = kept.find((other) => !this.#damaged.has(other))
      if (newest !== undefined && sequence < newest) {
        throw new RangeError(`Expected \`sequence\` to be at least ${newest}, that of the newest snapshot, got ${sequence}`)
      }
      const text = [...texts].join('')
      const bytes = Buffer.byteLength(text)
      refuseTooLarge(bytes, snapshot.path)
      const damagedOthers = new Set([...this.#damaged].filter((other) => other !== sequence))
      const all = [...new Set([sequence, ...kept])].toSorted((left, right) => right - left)
      const [highest] = superseded(all, { keep: this.keep, damaged: damagedOthers })
      const row = { sequence, crc32: checksum(text, origin), origin, state: text }
      await this.#core.change(`create ${snapshot.path}`, (claim) => this.#core.statements.putSnapshot(claim, row, (highest ?? -1) + 1), {
        done: ({ name }) => (typeof name === 'string' ? true : undefined),
        bytes,
      })
      this.#damaged.delete(sequence)
      return { ...snapshot, bytes }
    })
  }

  /**
   * Resolves with the newest whole snapshot, or the newest whole one at or before `atMost`; undefined if
   * there is none. Damaged ones are skipped and reported in `damaged`.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if there are such snapshots and none is whole;
   *   `…_CODEC`, `…_IO`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  async restore(options?: { readonly atMost?: number | undefined }): Promise<LoadedSnapshot<State> | undefined> {
    const atMost = restoreLimit(options)
    return await this.#inTurn(async () => {
      const errors: MiniStoreError[] = []
      // A writer may remove a snapshot after it was listed. There are newer ones then.
      for (let list = await this.#list(), tried = 0; ; ) {
        const info = list.filter(({ sequence }) => sequence <= atMost)[tried]
        if (info === undefined) break
        try {
          const found = await this.#read(info)
          if (found !== undefined) return { ...found, damaged: errors }
          list = await this.#list()
          tried = 0
          errors.length = 0
        } catch (error) {
          if (!isDamage(error)) throw error
          errors.push(error)
          tried++
        }
      }
      const [newest] = errors
      if (newest === undefined) return undefined
      const message = `No snapshot is whole: ${errors.map((error) => error.message).join('; ')}`
      const { path, sequence } = newest
      throw new MiniStoreError('ERR_MINISTORE_SNAPSHOT_DAMAGED', message, { path, sequence, cause: newest })
    })
  }

  /**
   * Lists the existing snapshots, newest first, damaged ones included.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO`; for a writer also `…_FENCED` and `…_CORRUPT`.
   */
  async list(): Promise<SnapshotInfo[]> {
    return await this.#inTurn(() => this.#list())
  }

  /**
   * Resolves if the snapshot is as it was written.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if it is not; `…_IO` if it does not exist, or
   *   the server cannot be reached.
   */
  async verify(sequence: number): Promise<void> {
    const snapshot = this.#at(integer('sequence', sequence, { min: 0 }))
    await this.#inTurn(async () => {
      if ((await this.#read(snapshot)) !== undefined) return
      throw new MiniStoreError('ERR_MINISTORE_IO', `Could not read ${snapshot.path}: it does not exist`, snapshot)
    })
  }

  #at(sequence: number): Omit<SnapshotInfo, 'bytes'> {
    return { path: `${this.#core.path}/snapshot-${sequence}`, sequence }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    return addInContext(this.#queue, task)
  }

  async #list(): Promise<SnapshotInfo[]> {
    const { server, statements, name } = this.#core
    const rows = await server.read(`list the snapshots of ${name}`, statements.snapshots(name))
    // A writer that was overtaken must learn that, not that its snapshot is older than another.
    this.#core.refuseOthers(rows[0] ?? {})
    const found = rows.filter(({ sequence }) => sequence !== null)
    return found.map(({ sequence, bytes }) => ({ ...this.#at(Number(sequence)), bytes: Number(bytes) }))
  }

  /** Reads a snapshot; undefined if there is none. @throws {MiniStoreError} if it is damaged. */
  async #read(snapshot: Omit<SnapshotInfo, 'bytes'>): Promise<LoadedSnapshot<State> | undefined> {
    const { server, statements, name } = this.#core
    const { sequence, path } = snapshot
    const [row] = await server.read(`read ${path}`, statements.snapshot(name, sequence))
    if (row === undefined) return undefined
    const journal = typeof row['origin'] === 'string' ? row['origin'] : undefined
    const text = String(row['state'])
    try {
      const found = checksum(text, journal)
      if (found !== row['crc32']) throw damaged(snapshot, `its state has the checksum ${found}, expected ${String(row['crc32'])}`)
      const state = await this.#codec.decode(text, snapshot)
      this.#damaged.delete(sequence)
      return { state, sequence, journal }
    } catch (error) {
      if (isDamage(error)) this.#damaged.add(sequence)
      throw error
    }
  }
}

function checksum(text: string, journal: string | undefined): string {
  return hex(crc32(text, checksumOf(journal)))
}
