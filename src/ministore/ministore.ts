import { AsyncResource } from 'node:async_hooks'
import { resolve } from 'node:path'

import type { StandardSchemaV1 } from '@standard-schema/spec'

import { ioError, isInstance, type MiniStoreError } from '../errors.ts'
import { ensureDirectory } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { WriterLock } from '../fs/lock.ts'
import type { JournalEntry } from '../journal/journal.ts'
import { filePath, iterable } from '../options.ts'
import type { JournalFiles } from './format.ts'
import { accessOf, assertNamesUsable, locateJournal } from './locate.ts'
import { RecordCodec } from './record-codec.ts'
import { type RecoveredJournal, recoverJournal, type RecoveryReport } from './recovery.ts'
import { PoisoningError } from './rotation.ts'
import {
  type OpenOptions, type ReadOptions, recoverChannel, type RecoverTrace, type SchemaOption, sequenceNumber,
  type StreamOptions, traced, type WriterSettings, writerSettings,
} from './settings.ts'
import { type JournalStream, replayPath, replayStore, type UnstartedReplay } from './stream.ts'
import { describeSegments, type SegmentInfo } from './view.ts'
import { JournalWriter } from './writer.ts'

/**
 * The file system of an open store, which changes names only while they lead to what its writer holds: for files that
 * lie beside the journal.
 */
export function fileSystemOf<Output, Input>(store: MiniStore<Output, Input>): FileSystem {
  return guardedFileSystem(store)
}

let guardedFileSystem: <Output, Input>(store: MiniStore<Output, Input>) => FileSystem

/**
 * A journal open for writing: a durable, append-only log of records, one JSON line each.
 *
 * `Output` is the type of records read, `Input` of records appended; they differ only when a schema transforms.
 *
 * All methods may be called at any time and in any number; what they change happens one after another in call order.
 *
 * ```ts
 * await using store = await MiniStore.open<Event>('state/journal.jsonl')
 * await store.append({ type: 'created', id: 1 })
 * for await (const event of store.stream()) console.log(event)
 * ```
 */
export class MiniStore<Output = unknown, Input = Output> implements AsyncDisposable {
  readonly #writer: JournalWriter
  readonly #lock: WriterLock
  readonly #fs: FileSystem
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
    this.#writer = parts.writer
    this.#lock = parts.lock
    this.#fs = parts.fs
    this.#codec = parts.codec
    this.#recovery = parts.recovery
  }

  /**
   * Opens a journal for writing, making it and its directory when they are missing, and recovers it from whatever a
   * crash has left. Costs a read of the active segment, however long the journal is.
   *
   * When it resolves, every record that is there is on stable storage. What was done is in {@link recovery}.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` when another writer has it open; `ERR_MINISTORE_CORRUPT` for damage
   *   that is no torn tail, and nothing is changed; `ERR_MINISTORE_UNSUPPORTED_VERSION`;
   *   `ERR_MINISTORE_LOCK_UNAVAILABLE`; `ERR_MINISTORE_NAME_TAKEN` for a path such as `events.2024` beside the journal
   *   `events`, which would take it for a segment of its own; `ERR_MINISTORE_IO` when the system refuses, or when the
   *   name is so long that the files beside the journal cannot have theirs.
   * @throws {TypeError | RangeError} for options that are none.
   */
  static open<Schema extends StandardSchemaV1>(
    path: string,
    options: OpenOptions<StandardSchemaV1.InferInput<Schema>> & SchemaOption<Schema>,
  ): Promise<MiniStore<StandardSchemaV1.InferOutput<Schema>, StandardSchemaV1.InferInput<Schema>>>
  static open<T = unknown>(path: string, options?: OpenOptions<T>): Promise<MiniStore<T>>
  static async open(path: string, options?: unknown): Promise<MiniStore<unknown, never>> {
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
      // What went wrong first is what counts.
      await lock.release().catch(() => {})
      throw error
    }
  }

  /** Absolute path of the journal: of its active segment. */
  get path(): string {
    return this.#writer.files.path
  }

  /** Sequence number of the oldest record, or of the next one when there is none. */
  get firstSequence(): number {
    return this.#writer.firstSequence
  }

  /** Sequence number of the last acknowledged record; `firstSequence - 1` when there is none. */
  get lastSequence(): number {
    return this.#writer.lastSequence
  }

  /** The segments now, oldest first; the last one is active. */
  get segments(): readonly SegmentInfo[] {
    return describeSegments(this.#writer.view(), this.lastSequence)
  }

  /** What opening found and did. */
  get recovery(): RecoveryReport {
    return this.#recovery
  }

  /**
   * Appends one record and resolves with its sequence number once the record is on stable storage: its bytes
   * and, for a new segment, its directory entry.
   *
   * The record is serialized before this returns; what happens to the object afterwards changes nothing. Calls may
   * overlap; records are written in call order, one write and one fsync each.
   *
   * When it rejects nothing is written and no sequence number is used, but for
   * `ERR_MINISTORE_OUTCOME_UNKNOWN`: then the record may or may not be there after the journal is opened anew.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_SCHEMA`, `…_CODEC` for the record;
   *   `…_IO` when the write failed and was rolled back; `…_OUTCOME_UNKNOWN` when its fsync failed; `…_POISONED` after
   *   such a failure; `…_CLOSED`.
   */
  async append(record: Input): Promise<number> {
    this.#writer.assertUsable()
    const { line, validation } = this.#codec.encode(record)
    return this.#writer.append(line, 1, validation)
  }

  /**
   * Appends records as one: all lines in one write and one fsync. Resolves with the range of their sequence numbers
   * once all are on stable storage; for no records with an empty range, `last` being `first - 1`.
   *
   * When it rejects none is written, but for `ERR_MINISTORE_OUTCOME_UNKNOWN`. After a crash in the middle a prefix of
   * them, in order, may be there: it is one write, not a transaction.
   *
   * @throws {MiniStoreError} as {@link append}.
   * @throws {TypeError} for what is no iterable.
   * @throws {RangeError} when the sequence numbers, which end at 2^53 - 1, do not suffice.
   */
  async appendAll(records: Iterable<Input>): Promise<{ first: number; last: number }> {
    this.#writer.assertUsable()
    const { lines, count, validation } = this.#codec.encodeAll(iterable('records', records))
    const last = await (count === 0 ? this.#writer.settled() : this.#writer.append(lines, count, validation))
    return { first: last - count + 1, last }
  }

  /**
   * A WritableStream that appends each chunk as a record and asks for the next one when that is durable. Closing or
   * aborting it leaves the store open. Codec and schema run in the asynchronous context in which it was made.
   */
  writable(): WritableStream<Input> {
    this.#writer.assertUsable()
    const context = new AsyncResource('ministore.writable')
    return new WritableStream<Input>({
      write: async (record) => {
        await context.runInAsyncScope(() => this.append(record))
      },
    })
  }

  /**
   * Replays the records from `from` to the last one acknowledged now, or, with `follow`, on and on.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, `ERR_MINISTORE_POISONED`; the stream itself ends with
   *   `…_SEQUENCE_GONE` when a record in the range is not there any more, `…_CORRUPT`, `…_SCHEMA` or `…_CODEC` at a
   *   damaged line, `…_IO`.
   */
  stream(options?: StreamOptions): JournalStream<Output> {
    return this.#replay(options).records()
  }

  /** As {@link stream}, each record with its sequence number. */
  entries(options?: StreamOptions): JournalStream<JournalEntry<Output>> {
    return this.#replay(options).entries()
  }

  /** All records in an array. For a journal that fits into memory; else use {@link stream}. */
  async replay(options?: Omit<StreamOptions, 'follow'>): Promise<Output[]> {
    return this.#replay(options).collect()
  }

  /**
   * Seals the active segment and begins the next, whatever its size; nothing happens while it is empty. With it
   * {@link truncateBefore} can empty a journal, which still knows its sequence.
   *
   * A crash in the middle leaves a journal that opens with every acknowledged record once.
   */
  async rotate(): Promise<void> {
    this.#writer.assertUsable()
    await this.#writer.rotate()
  }

  /**
   * Deletes whole sealed segments, oldest first, as long as every record in them has a sequence number below
   * `sequence`. The active segment stays.
   *
   * Resolves when the deletions are durable. A crash in the middle leaves some of them undone.
   *
   * @throws {RangeError} when `sequence` is beyond the next one to be given.
   */
  async truncateBefore(sequence: number): Promise<void> {
    this.#writer.assertUsable()
    await this.#writer.truncateBefore(sequenceNumber('sequence', sequence))
  }

  /**
   * Waits for what was called before, seals what was written, closes the file and frees the lock. Further calls of
   * `close` give the same promise; those of other methods are refused. Followers end after the last record that this
   * store has acknowledged, whatever another writer adds. Do not await one in the `await using` scope of its own store: it
   * ends when the store is closed, and the store is closed when the scope ends.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` when sealing or closing failed; the store is closed and its lock
   *   freed all the same, and every acknowledged record is as safe as it was.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    // The lock is freed whatever happens; of two failures the first is told.
    const closed = await Promise.allSettled([this.#writer.close()])
    const freed = await Promise.allSettled([this.#lock.release()])
    const failed = [...closed, ...freed].find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw ioError(`close the journal ${this.path}`, failed.reason, { path: this.path })
  }

  #replay(options: unknown): UnstartedReplay<Output> {
    this.#writer.assertUsable()
    return replayStore(this.#fs, this.#writer, this.#codec, options)
  }

  /**
   * Replays a journal by its path, in any process and without a lock; a missing one is empty. Ends at the last whole
   * record there is when it is first read; a torn tail is passed over. Changes nothing.
   *
   * Where another process writes, it may give a record whose fsync is still under way.
   */
  static stream<Schema extends StandardSchemaV1>(
    path: string,
    options: ReadOptions & SchemaOption<Schema>,
  ): JournalStream<StandardSchemaV1.InferOutput<Schema>>
  static stream<T = unknown>(path: string, options?: ReadOptions<T>): JournalStream<T>
  static stream(path: string, options?: ReadOptions): JournalStream<unknown> {
    return replayPath(path, options).records()
  }

  /** As the static {@link stream}, each record with its sequence number. */
  static entries<Schema extends StandardSchemaV1>(
    path: string,
    options: ReadOptions & SchemaOption<Schema>,
  ): JournalStream<JournalEntry<StandardSchemaV1.InferOutput<Schema>>>
  static entries<T = unknown>(path: string, options?: ReadOptions<T>): JournalStream<JournalEntry<T>>
  static entries(path: string, options?: ReadOptions): JournalStream<JournalEntry<unknown>> {
    return replayPath(path, options).entries()
  }

  /** As the static {@link stream}, all records in an array. */
  static replay<Schema extends StandardSchemaV1>(
    path: string,
    options: Omit<ReadOptions, 'follow'> & SchemaOption<Schema>,
  ): Promise<Array<StandardSchemaV1.InferOutput<Schema>>>
  static replay<T = unknown>(path: string, options?: Omit<ReadOptions<T>, 'follow'>): Promise<T[]>
  static async replay(path: string, options?: Omit<ReadOptions, 'follow'>): Promise<unknown[]> {
    return replayPath(path, options).collect()
  }
}

function openError(path: string, error: unknown): MiniStoreError {
  const cause = isInstance(error, PoisoningError) ? error.cause : error
  return ioError(`open the journal ${path}`, cause, { path: resolve(path) })
}
