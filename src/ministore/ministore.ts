import { AsyncResource } from 'node:async_hooks'
import { resolve } from 'node:path'

import type { StandardSchemaV1 } from '@standard-schema/spec'

import { traced } from '../async.ts'
import { ioError, isInstance, type MiniStoreError } from '../errors.ts'
import { ensureDirectory } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { WriterLock } from '../fs/lock.ts'
import type { AppendedRange, AppendOptions, Journal } from '../journal/journal.ts'
import { expectedSequenceOf, fields, filePath, integer, iterable, journalId } from '../options.ts'
import type { PreparedRecord } from '../schema.ts'
import type { JournalFiles } from './format.ts'
import { blocksWith, type ParserOf } from './lines.ts'
import { JournalAtPath } from './reader.ts'
import { RecordCodec } from '../journal/record-codec.ts'
import { type RecoveredJournal, recoverChannel, recoverJournal, type RecoverTrace, type RecoveryReport } from './recovery.ts'
import { PoisoningError } from './active-segment.ts'
import { recordsWith } from './segment-reader.ts'
import { accessOf, assertNamesUsable, locateJournal } from './segments.ts'
import {
  bytesSettings, type Codec, type KeptByJson, type OpenOptions, type SchemaOption, type StreamSettings, streamSettings,
  type WriterSettings, writerSettings,
} from './settings.ts'
import { type Replay, replayStore } from './stream.ts'
import { describeSegments, type SegmentInfo } from './view.ts'
import { JournalWriter } from './writer.ts'

/**
 * Returns the guarded file system of an open store, for files that lie beside the journal.
 *
 * It changes names only while the names of the journal still lead to the files that the writer
 * holds open.
 */
export function fileSystemOf<Output, Input>(store: MiniStore<Output, Input>): FileSystem {
  return guardedFileSystem(store)
}

let guardedFileSystem: <Output, Input>(store: MiniStore<Output, Input>) => FileSystem

/**
 * A journal open for writing: a durable, append-only log of records, one JSON line each.
 *
 * `Output` is the type of the records read, `Input` the type of the records appended. They differ
 * only when a schema transforms records.
 *
 * Calls of all methods may overlap. Changes to the journal are made one at a time, in call order.
 *
 * ```ts
 * await using store = await MiniStore.open<Event>('state/journal.jsonl')
 * await store.append({ type: 'created', id: 1 })
 * for await (const event of store.stream()) console.log(event)
 * ```
 */
export class MiniStore<Output = unknown, Input = Output>
  extends JournalAtPath<Output>
  implements Journal<Output, Input>, AsyncDisposable
{
  readonly #writer: JournalWriter
  readonly #lock: WriterLock
  readonly #codec: RecordCodec<Output, Input>
  readonly #recovery: RecoveryReport
  #closing: Promise<void> | undefined

  static {
    guardedFileSystem = (store) => store.#lock.fileSystem
  }

  private constructor(parts: {
    readonly writer: JournalWriter
    readonly lock: WriterLock
    readonly fs: FileSystem
    readonly codec: RecordCodec<Output, Input>
    readonly recovery: RecoveryReport
  }) {
    const { writer, lock, fs, codec, recovery } = parts
    const replay = <T>(parser: ParserOf<T>, settings: () => StreamSettings): Replay<T> => {
      writer.assertUsable()
      return replayStore(fs, writer, parser, settings())
    }
    super({
      decoded: (options) => replay(recordsWith(codec), () => streamSettings(options)),
      prepared: (options) => replay(recordsWith(codec.forPrepared), () => streamSettings(options)),
      blocks: (options) => replay(blocksWith(codec.forBytes), () => bytesSettings(streamSettings(options))),
    })
    this.#writer = writer
    this.#lock = lock
    this.#codec = codec
    this.#recovery = recovery
  }

  /**
   * Opens a journal for writing and recovers it from an earlier crash. Creates the journal and its
   * directory if they do not exist.
   *
   * When it resolves, every record in the journal is on stable storage, and {@link recovery} says
   * what recovery found and did. Opening reads the active segment and the headers of the others, so
   * its cost does not grow with the number of records in them. Only segments of format version 0.1
   * are read whole.
   *
   * A crash during `open` leaves a journal that the next `open` recovers.
   *
   * @param path of the journal, which is the path of its active segment: a string or a `file:` URL.
   * @throws {MiniStoreError}
   *   - `ERR_MINISTORE_LOCKED` if another writer has the journal open.
   *   - `ERR_MINISTORE_LOCK_UNAVAILABLE` if the platform or file system has no kernel lock.
   *   - `ERR_MINISTORE_CORRUPT` if there is damage that is not a torn tail. Nothing is changed.
   *   - `ERR_MINISTORE_UNSUPPORTED_VERSION` if a newer major version of the format wrote it.
   *   - `ERR_MINISTORE_NAME_TAKEN` if the path is the name of a file of another journal. For
   *     example, `events.2024` is the name of a segment of the journal `events` beside it.
   *   - `ERR_MINISTORE_IO` if a system call fails, or if the name is so long that the names of the
   *     files beside the journal would not fit into the directory.
   * @throws {TypeError | RangeError} if the path or an option is invalid.
   */
  static open<Schema extends StandardSchemaV1>(
    path: string | URL,
    options: OpenOptions<StandardSchemaV1.InferInput<Schema>> & SchemaOption<Schema>,
  ): Promise<MiniStore<StandardSchemaV1.InferOutput<Schema>, StandardSchemaV1.InferInput<Schema>>>
  /** With a codec, which gives the types. Leave out the type parameters. */
  static open<Output, Input>(
    path: string | URL,
    options: OpenOptions<Input, Output> & { readonly codec: Codec<Input, Output> },
  ): Promise<MiniStore<Output, Input>>
  /** With a type that {@link KeptByJson} checks: records are stored as JSON. */
  static open<T extends KeptByJson<T> = unknown>(path: string | URL, options?: OpenOptions<T>): Promise<MiniStore<T>>
  static async open(path: string | URL, options?: unknown): Promise<MiniStore<unknown, never>> {
    const settings = writerSettings(options)
    const given = filePath(path)
    try {
      return await MiniStore.#open(await locateJournal(settings.fileSystem, given), settings, given)
    } catch (error) {
      throw openError(given, error)
    }
  }

  static async #open(files: JournalFiles, settings: WriterSettings, given: string): Promise<MiniStore<unknown, never>> {
    const fs = settings.fileSystem
    await assertNamesUsable(fs, files)
    await ensureDirectory(fs, files.directory)
    const holder: { writer?: JournalWriter } = {}
    const access = (await accessOf(fs, files)) ?? { mode: settings.mode }
    const lock = await WriterLock.acquire(fs, files.lock, {
      kernel: settings.lock, holder, journalPath: files.path, access,
    })
    try {
      const context: RecoverTrace = { path: files.path }
      let journal!: RecoveredJournal
      await traced(recoverChannel, context, async () => {
        journal = await recoverJournal(files, lock).catch((error: unknown) => {
          throw openError(given, error)
        })
        context.report = journal.report
      })
      const writer = new JournalWriter(files, lock, journal, settings)
      await writer.sealOnOpen()
      holder.writer = writer
      return new MiniStore({ writer, lock, fs, codec: new RecordCodec({ ...settings, path: files.path }), recovery: journal.report })
    } catch (error) {
      // The first error is reported, not one from releasing the lock.
      await lock.release().catch(() => {})
      throw error
    }
  }

  /**
   * Absolute path of the journal, which is the path of its active segment. If the path given to
   * {@link open} was a symbolic link to the journal, this is the path that the link leads to.
   */
  get path(): string {
    return this.#writer.files.path
  }

  /**
   * Identity of the journal: 16 hexadecimal digits, chosen at random when the journal is created,
   * and the same for as long as it exists. A follower, a replica or a snapshot that knows it notices
   * when the files at a path belong to another journal.
   *
   * A journal of an earlier format version gets one when it is opened. Undefined only if the disk was
   * full, or all sequence numbers are used up. The next rotation tries again.
   */
  get id(): string | undefined {
    return this.#writer.id
  }

  /** Sequence number of the oldest record. While the journal is empty, that of the next record. */
  get firstSequence(): number {
    return this.#writer.firstSequence
  }

  /** Sequence number of the last acknowledged record; `firstSequence - 1` while it is empty. */
  get lastSequence(): number {
    return this.#writer.lastSequence
  }

  /** The segments at this moment, oldest first. The last one is the active segment. */
  get segments(): readonly SegmentInfo[] {
    return describeSegments(this.#writer.view(), this.lastSequence)
  }

  /** What recovery found and did when the journal was opened. */
  get recovery(): RecoveryReport {
    return this.#recovery
  }

  /**
   * Appends one record and resolves with its sequence number once the record is on stable
   * storage: its bytes and, for a new segment, its directory entry.
   *
   * The record is serialized before `append` returns, so later changes to the object have no
   * effect. Calls may overlap. Records are written in call order, with one write and one fsync
   * each.
   *
   * When it rejects, nothing is written and no sequence number is used, with one exception: after
   * `ERR_MINISTORE_OUTCOME_UNKNOWN`, the record may or may not be in the journal when it is next
   * opened. If the process crashes before it resolves, the next {@link open} finds the record whole
   * or not at all.
   *
   * @throws {MiniStoreError}
   *   - `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_SCHEMA` or `…_CODEC` if the
   *     record is refused.
   *   - `…_SEQUENCE_CONFLICT` if {@link lastSequence} is not `expectedSequence` when the turn of the
   *     call has come.
   *   - `…_IO` if the write failed and was rolled back, or if the rotation before it failed. The
   *     store stays usable.
   *   - `…_OUTCOME_UNKNOWN` if the fsync failed, or if a failed write could not be rolled back.
   *   - `…_POISONED` or `…_MOVED` if a failure left the store unable to write. Only {@link close}
   *     works from then on.
   *   - `…_CLOSED` if the store is closed or closing.
   * @throws {TypeError | RangeError} if an option is invalid, or if the sequence numbers, which end at
   *   2^53 - 1, or the segment numbers are used up.
   */
  async append(record: Input, options?: AppendOptions): Promise<number> {
    this.#writer.assertUsable()
    return this.#writer.append(this.#codec.encode(record), expectedSequenceOf(options))
  }

  /**
   * Appends many records with one write and one fsync. Resolves with the range of their sequence
   * numbers once all of them are on stable storage. If there are no records, the range is empty:
   * `last` is `first - 1`.
   *
   * The records are serialized before `appendAll` returns. Calls may overlap; they are written in
   * call order.
   *
   * When it rejects, no record is written, except after `ERR_MINISTORE_OUTCOME_UNKNOWN`. It is one
   * write, not a transaction: a crash before it resolves may leave a prefix of the records, in
   * order. If a power loss keeps the end of the write but not its middle, the next {@link open}
   * rejects with `ERR_MINISTORE_CORRUPT`.
   *
   * @throws {MiniStoreError} as {@link append}.
   * @throws {TypeError} if `records` is not iterable or an option is invalid.
   * @throws {RangeError} if too few sequence numbers, which end at 2^53 - 1, are left for the
   *   records, or if the segment numbers are used up.
   */
  async appendAll(records: Iterable<Input | PreparedRecord>, options?: AppendOptions): Promise<AppendedRange> {
    this.#writer.assertUsable()
    const encoded = this.#codec.encodeAll(iterable('records', records))
    const expected = expectedSequenceOf(options)
    const last = await (encoded.count === 0 ? this.#writer.idle(expected) : this.#writer.append(encoded, expected))
    return { first: last - encoded.count + 1, last }
  }

  /**
   * Encodes and checks a record now, for a later {@link appendAll}. Writes nothing. If the schema is
   * asynchronous, `appendAll` waits for it and rejects if the record fails.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_SCHEMA` or
   *   `…_CODEC` if the record is refused; `…_CLOSED`, `…_POISONED` or `…_MOVED`.
   */
  prepare(record: Input): PreparedRecord {
    this.#writer.assertUsable()
    return this.#codec.prepare(record)
  }

  /**
   * Returns a `WritableStream` that appends each chunk as one record. It asks for the next chunk
   * once the record is on stable storage. A chunk that {@link append} rejects is an error of the
   * stream. So are bytes without a codec, a `TypeError`: they come from `Writable.fromWeb` without
   * `objectMode`, and JSON would store them as a list of numbers.
   *
   * Closing or aborting the stream leaves the store open. The codec and the schema run in the
   * asynchronous context in which the stream was created.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, `…_POISONED` or `…_MOVED`.
   */
  writable(): WritableStream<Input> {
    this.#writer.assertUsable()
    const context = new AsyncResource('ministore.writable')
    return new WritableStream<Input>({
      write: async (record) => {
        this.#codec.refuseBytes(record)
        await context.runInAsyncScope(() => this.append(record))
      },
    })
  }

  /**
   * Seals the active segment, whatever its size, and begins the next one. If the active segment is
   * empty, nothing happens. If there are then more than `maxSegments` segments, the oldest are
   * deleted with their records.
   *
   * Resolves once the new segment, its name and the deletions are on stable storage. A crash before
   * then leaves a journal that opens with every record of the segments that were not deleted,
   * exactly once.
   *
   * After `rotate`, {@link truncateBefore} can delete every record. The journal keeps its sequence
   * numbers.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if a system call fails and the store stays usable;
   *   `…_POISONED`, `…_MOVED` or `…_CLOSED`.
   * @throws {RangeError} if the sequence numbers or the segment numbers are used up.
   */
  async rotate(): Promise<void> {
    this.#writer.assertUsable()
    await this.#writer.rotate()
  }

  /**
   * Deletes the sealed segments whose records all have sequence numbers below `sequence`, oldest
   * first. A segment is deleted whole or not at all, and the active segment always stays. In
   * a journal with segments of format version 0.1, whose headers have no sequence numbers, it may
   * rotate first.
   *
   * Resolves once the deletions are on stable storage. A crash before then may leave some of the
   * segments in place, but never a gap.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if a system call fails and the store stays usable;
   *   `…_POISONED`, `…_MOVED` or `…_CLOSED`.
   * @throws {TypeError} if `sequence` is not a number.
   * @throws {RangeError} if `sequence` is not a whole number from 1 to `lastSequence + 1`, or as
   *   {@link rotate}.
   */
  async truncateBefore(sequence: number): Promise<void> {
    this.#writer.assertUsable()
    await this.#writer.truncateBefore(integer('sequence', sequence))
  }

  /**
   * Takes on the identity of another journal, and the sequence number that its next record gets, to
   * become a replica of it. Only a journal in which no record was ever written can do this. If this
   * journal has that identity and records already, nothing happens. Followers end with an error.
   *
   * Resolves once the new header and its name are on stable storage. A crash before then leaves the
   * old header or the new one.
   *
   * @param origin.id 16 lower-case hexadecimal digits.
   * @throws {MiniStoreError} `ERR_MINISTORE_FOREIGN_JOURNAL` if records were written under another
   *   identity; otherwise as {@link rotate}.
   * @throws {TypeError | RangeError} if `id` or `firstSequence` is invalid.
   */
  async adopt(origin: { readonly id: string; readonly firstSequence: number }): Promise<void> {
    this.#writer.assertUsable()
    const { id, firstSequence } = fields(origin, ['id', 'firstSequence'])
    await this.#writer.adopt({ id: journalId('id', id), firstSequence: integer('firstSequence', firstSequence) })
  }

  /**
   * Waits for earlier calls to finish, seals the active segment, closes its file and releases the
   * lock. Further calls of `close` return the same promise. Other methods that write, and new
   * streams, are refused from the first call on.
   *
   * Followers of this store end after the last record that it acknowledged, even if another writer
   * adds more. Do not await the end of a follower inside the `await using` scope of its own store:
   * the follower ends when the store is closed, and the store is closed when the scope ends.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if sealing or closing failed. The store is closed
   *   and its lock released in that case too, and every acknowledged record is as safe as before.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** Calls {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    // The lock is released even if closing the writer fails. The first failure is reported.
    const closed = await Promise.allSettled([this.#writer.close()])
    const freed = await Promise.allSettled([this.#lock.release()])
    const failed = [...closed, ...freed].find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw ioError(`close the journal ${this.path}`, failed.reason, { path: this.path })
  }
}

function openError(path: string, error: unknown): MiniStoreError {
  const cause = isInstance(error, PoisoningError) ? error.cause : error
  return ioError(`open the journal ${path}`, cause, { path: resolve(path) })
}
