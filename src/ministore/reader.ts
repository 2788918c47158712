import type { StandardSchemaV1 } from '@standard-schema/spec'
import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { hasCode, ioError, MiniStoreError } from '../errors.ts'
import { ifPresent } from '../fs/durable.ts'
import type { File } from '../fs/file-system.ts'
import type { Journal, JournalEntry } from '../journal/journal.ts'
import { fields, filePath } from '../options.ts'
import type { PreparedRecord } from '../schema.ts'
import { idOf } from './format.ts'
import { blocksWith, type ParserOf } from './lines.ts'
import { RecordCodec } from '../journal/record-codec.ts'
import { type Counted, countOn, endBefore, noLines } from './scan.ts'
import { recordsWith } from './segment-reader.ts'
import { isSameSegment, type JournalTail, type JournalView, retryWhileMoving } from './segments.ts'
import {
  type BytesOptions, bytesSettings, type Codec, type KeptByJson, type ReadOptions, type ReadSettings, readSettings,
  type SchemaOption, type StreamOptions, streamSettings, type StreamSettings,
} from './settings.ts'
import { type ByteBlock, type JournalStream, type Replay, replayPath } from './stream.ts'
import { describeSegments, JournalViews, type SegmentInfo } from './view.ts'

/** The methods with which an open store and a {@link JournalReader} read their journal. */
export abstract class ReadableJournal<Output> {
  readonly #replays: Replays<Output>

  /** @internal */
  constructor(replays: Replays<Output>) {
    this.#replays = replays
  }

  /**
   * Returns a stream of the records from `from` to `to`. By default these are the oldest record and
   * the last record acknowledged at the time of this call. With `follow`, the stream continues with
   * records as they are acknowledged.
   *
   * Any number of streams may be open at once, also while records are appended. Every record of the
   * range is given in order, or the stream ends with an error:
   *
   *   - `ERR_MINISTORE_SEQUENCE_GONE` if a record in the range has been deleted.
   *   - `…_CORRUPT`, `…_SCHEMA` or `…_CODEC` at a damaged line, unless `salvage` is set.
   *   - `…_FOREIGN_JOURNAL` if the files belong to another journal than before.
   *   - `…_IO` if a system call fails.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, `…_POISONED` or `…_MOVED`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  stream(options?: StreamOptions): JournalStream<Output> {
    return this.#replays.decoded(options).records()
  }

  /** Like {@link stream}, but gives each record with its sequence number. */
  entries(options?: StreamOptions): JournalStream<JournalEntry<Output>> {
    return this.#replays.decoded(options).entries()
  }

  /**
   * Like {@link stream}, but gives the lines of the records as they are in the files, byte for byte
   * and without the headers: newline-delimited JSON, for a `Response`, a gzip stream or an upload.
   *
   * Each chunk holds whole lines and has a buffer of its own, which you may keep, change or transfer.
   * It has up to 64 KiB, or one longer line. The stream is a stream of bytes, so a `byob` reader may
   * read it too.
   *
   * Framing, UTF-8, the number of lines and the checksums are checked. A line is parsed only if no
   * checksum covers it, as in the records after the last seal, or if the stream ends before the
   * checksum; with a codec no line is. So bytes that have changed but are still lines of text are
   * reported at the end of their segment, after they were given. No schema runs.
   *
   * @throws {MiniStoreError} as {@link stream} does, and with the errors that end a stream.
   * @throws {TypeError | RangeError} if an option is invalid, or if `salvage` is set.
   */
  bytes(options?: BytesOptions): JournalStream<ByteBlock> {
    return this.#replays.blocks(options).bytes()
  }

  /**
   * Like {@link entries}, but gives each record as its line, prepared for `appendAll` of another
   * journal with the same codec. Each line is decoded to check it; no schema runs.
   */
  preparedEntries(options?: StreamOptions): JournalStream<JournalEntry<PreparedRecord>> {
    return this.#replays.prepared(options).entries()
  }

  /**
   * Resolves with all records of the range in an array. The records must fit into memory; otherwise
   * use {@link stream}.
   *
   * @throws {MiniStoreError} as {@link stream} does, and with the errors that end a stream.
   * @throws {TypeError | RangeError} if an option is invalid, or if `follow` is true.
   */
  async replay(options?: Omit<StreamOptions, 'follow'>): Promise<Output[]> {
    return this.#replays.decoded(options).collect()
  }
}

/** Begins the replays of a journal, with the options of the caller. */
interface Replays<Output> {
  readonly decoded: (options: unknown) => Replay<Output>
  readonly prepared: (options: unknown) => Replay<PreparedRecord>
  readonly blocks: (options: unknown) => Replay<Uint8Array>
}

/** The readers of a journal that only has a path. `MiniStore` inherits them. */
export abstract class JournalAtPath<Output> extends ReadableJournal<Output> {
  /**
   * Returns a reader of the journal at a path, for code that takes a `Journal` and does not write.
   * It works in any process, takes no lock and changes nothing.
   *
   * @throws {MiniStoreError} as `refresh` of the reader.
   * @throws {TypeError | RangeError} if the path or an option is invalid.
   */
  static read<Schema extends StandardSchemaV1>(
    path: string | URL,
    options: Omit<ReadOptions, keyof StreamOptions> & SchemaOption<Schema>,
  ): Promise<JournalReader<StandardSchemaV1.InferOutput<Schema>>>
  static read<Decoder extends Pick<Codec<never, unknown>, 'decode'>>(
    path: string | URL,
    options: Omit<ReadOptions, keyof StreamOptions> & { readonly codec: Decoder },
  ): Promise<JournalReader<ReturnType<Decoder['decode']>>>
  static read<T extends KeptByJson<T> = unknown>(
    path: string | URL,
    options?: Omit<ReadOptions<T>, keyof StreamOptions>,
  ): Promise<JournalReader<T>>
  static async read(path: string | URL, options?: unknown): Promise<JournalReader> {
    const { fileSystem, pollIntervalMs, schema, codec } = fields(options, ['schema', 'codec', 'pollIntervalMs', 'fileSystem'])
    return JournalReader.open(filePath(path), readSettings({ fileSystem, pollIntervalMs, schema, codec }))
  }

  /**
   * Returns a stream of the records of the journal at a path. Works in any process, takes no lock
   * and changes nothing. A journal that does not exist reads as empty.
   *
   * By default the stream ends at the last whole record that is there when the stream is first
   * read, and skips a torn tail. If another process is writing, the stream may give a record whose
   * fsync is still under way.
   *
   * The stream ends with the errors listed at the instance method {@link stream}, or with
   * `ERR_MINISTORE_UNSUPPORTED_VERSION`.
   *
   * @throws {TypeError | RangeError} if the path or an option is invalid.
   */
  static stream<Schema extends StandardSchemaV1>(
    path: string | URL,
    options: ReadOptions & SchemaOption<Schema>,
  ): JournalStream<StandardSchemaV1.InferOutput<Schema>>
  static stream<Decoder extends Pick<Codec<never, unknown>, 'decode'>>(
    path: string | URL,
    options: ReadOptions & { readonly codec: Decoder },
  ): JournalStream<ReturnType<Decoder['decode']>>
  static stream<T extends KeptByJson<T> = unknown>(path: string | URL, options?: ReadOptions<T>): JournalStream<T>
  static stream(path: string | URL, options?: ReadOptions): JournalStream<unknown> {
    return replayAt(path, options).records()
  }

  /** Like the static {@link stream}, but gives each record with its sequence number. */
  static entries<Schema extends StandardSchemaV1>(
    path: string | URL,
    options: ReadOptions & SchemaOption<Schema>,
  ): JournalStream<JournalEntry<StandardSchemaV1.InferOutput<Schema>>>
  static entries<Decoder extends Pick<Codec<never, unknown>, 'decode'>>(
    path: string | URL,
    options: ReadOptions & { readonly codec: Decoder },
  ): JournalStream<JournalEntry<ReturnType<Decoder['decode']>>>
  static entries<T extends KeptByJson<T> = unknown>(path: string | URL, options?: ReadOptions<T>): JournalStream<JournalEntry<T>>
  static entries(path: string | URL, options?: ReadOptions): JournalStream<JournalEntry<unknown>> {
    return replayAt(path, options).entries()
  }

  /**
   * Like the static {@link stream}, but gives the lines as they are in the files, as the instance
   * method {@link bytes} does. `codec` only tells that the lines need not be JSON; it is not called.
   *
   * @throws {TypeError | RangeError} if the path or an option is invalid, or if `salvage` or `schema`
   *   is set.
   */
  static bytes(path: string | URL, options?: Omit<ReadOptions, 'salvage'>): JournalStream<ByteBlock> {
    const settings = bytesSettings(readSettings(options))
    return replayPath(path, settings, blocksWith(new RecordCodec(settings).forBytes)).bytes()
  }

  /**
   * Like the static {@link stream}, but resolves with all records in an array.
   *
   * @throws {MiniStoreError} with the errors that end a stream.
   * @throws {TypeError | RangeError} if the path or an option is invalid, or if `follow` is true.
   */
  static replay<Schema extends StandardSchemaV1>(
    path: string | URL,
    options: Omit<ReadOptions, 'follow'> & SchemaOption<Schema>,
  ): Promise<Array<StandardSchemaV1.InferOutput<Schema>>>
  static replay<Decoder extends Pick<Codec<never, unknown>, 'decode'>>(
    path: string | URL,
    options: Omit<ReadOptions, 'follow'> & { readonly codec: Decoder },
  ): Promise<Array<ReturnType<Decoder['decode']>>>
  static replay<T extends KeptByJson<T> = unknown>(path: string | URL, options?: Omit<ReadOptions<T>, 'follow'>): Promise<T[]>
  static async replay(path: string | URL, options?: Omit<ReadOptions, 'follow'>): Promise<unknown[]> {
    return replayAt(path, options).collect()
  }
}

function replayAt(path: string | URL, options: unknown): Replay<unknown> {
  const settings = readSettings(options)
  return replayPath(path, settings, recordsWith(new RecordCodec(settings)))
}

/**
 * Reads the journal at a path, in any process, as a `Journal` that accepts no records. It takes no
 * lock and changes nothing. `MiniStore.read` returns one.
 *
 * {@link firstSequence}, {@link lastSequence} and {@link segments} are those of the last
 * {@link refresh}. Streams look at the journal by themselves: by default, a stream ends at the last
 * whole record that is there when the stream is first read.
 */
export class JournalReader<Output = unknown>
  extends ReadableJournal<Output>
  implements Journal<Output, never>, AsyncDisposable
{
  readonly #settings: ReadSettings
  readonly #views: JournalViews
  /** The identity of the journal, once it is known. Its streams must find the same. */
  readonly #known: { id?: string | undefined }
  #view: JournalView = { segments: [], tail: undefined }
  #counted = noLines
  /** Of two looks at once, the older one could end last. */
  readonly #looks = new PQueue({ concurrency: 1 })

  private constructor(path: string, settings: ReadSettings) {
    const codec = new RecordCodec<Output, never>({ ...settings, path })
    const known: { id?: string | undefined } = {}
    const replay = <T>(parser: ParserOf<T>, streamed: StreamSettings): Replay<T> =>
      replayPath(path, { ...settings, ...streamed, ...known }, parser)
    super({
      decoded: (options) => replay(recordsWith(codec), streamSettings(options)),
      prepared: (options) => replay(recordsWith(codec.forPrepared), streamSettings(options)),
      blocks: (options) => replay(blocksWith(codec.forBytes), bytesSettings(streamSettings(options))),
    })
    this.#settings = settings
    this.#known = known
    this.#views = new JournalViews(settings.fileSystem, path, settings)
  }

  /** @internal */
  static async open(path: string, settings: ReadSettings): Promise<JournalReader> {
    const reader = new JournalReader(path, settings)
    await reader.refresh()
    return reader
  }

  /** Absolute path of the journal. */
  get path(): string {
    return this.#views.path
  }

  /** Identity of the journal; undefined if there is no journal, or none of its headers has one. */
  get id(): string | undefined {
    return this.#known.id
  }

  /** Sequence number of the oldest record, or of the next record if there is none; 1 without a journal. */
  get firstSequence(): number {
    return this.#view.segments[0]?.firstSequence ?? 1
  }

  /** Sequence number of the last whole record; `firstSequence - 1` if there is none. */
  get lastSequence(): number {
    const last = this.#view.segments.at(-1)
    return last === undefined ? 0 : last.firstSequence + this.#counted.records - 1
  }

  /** The segments, oldest first; empty if there is no journal. */
  get segments(): readonly SegmentInfo[] {
    return describeSegments(this.#view, this.lastSequence)
  }

  /**
   * Looks at the journal again. Reads only what was appended since the last look.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` if the segments do not fit together;
   *   `…_FOREIGN_JOURNAL` if they belong to another journal than at the last look;
   *   `…_UNSUPPORTED_VERSION`; `…_IO` if a system call fails.
   */
  async refresh(): Promise<void> {
    await addInContext(this.#looks, () => this.#refresh())
  }

  async #refresh(): Promise<void> {
    try {
      const found = await retryWhileMoving(async () => {
        const view = await this.#views.current({ since: await this.#sinceLast() })
        const counted = view.tail === undefined ? noLines : await this.#count(view.tail)
        return counted && { view, counted }
      })
      if (found === undefined) throw stillMoving(this.path)
      this.#view = found.view
      this.#known.id ??= idOf(found.view.segments)
      this.#counted = found.counted
    } catch (error) {
      throw ioError(`read the journal ${this.path}`, error, { path: this.path })
    }
  }

  /**
   * Makes the records that were read durable, for a user that keeps something that relies on them.
   *
   * A writer in another process may not have synced its last records yet, and a crash could then
   * take them away again. If the writer is in this thread, nothing is done: readers see only its
   * acknowledged records.
   *
   * @internal
   */
  async settle(): Promise<void> {
    try {
      const { tail } = await this.#views.current()
      if (tail === undefined || tail.isAcknowledged) return
      const file = await this.#openToSync()
      try {
        await file?.dataSync()
      } finally {
        await file?.close()
      }
    } catch (error) {
      throw ioError(`sync the journal ${this.path}`, error, { path: this.path })
    }
  }

  /** Refuses the record: a reader does not write. @throws {TypeError} always. */
  async append(_record: never): Promise<never> {
    throw new TypeError(`Expected a journal that is open for writing, got a reader of ${this.path}`)
  }

  /** Refuses the deletion: a reader does not write. @throws {TypeError} always. */
  async truncateBefore(_sequence: number): Promise<never> {
    throw new TypeError(`Expected a journal that is open for writing, got a reader of ${this.path}`)
  }

  /** Does nothing: a reader holds nothing open. Its streams continue until they end by themselves. */
  async close(): Promise<void> {}

  /** Calls {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {}

  /** Opens the active segment. Undefined if there is none: then a rotation has synced what it had. */
  async #openToSync(): Promise<File | undefined> {
    const { fileSystem } = this.#settings
    try {
      return await ifPresent(fileSystem.open(this.path, 'write'))
    } catch (error) {
      if (!hasCode(error, 'EACCES', 'EPERM', 'EROFS')) throw error
      // Linux and macOS sync a file that is open only for reading.
      return await ifPresent(fileSystem.open(this.path, 'read'))
    }
  }

  /** The last view, unless its oldest segment is gone: then {@link firstSequence} has changed. */
  async #sinceLast(): Promise<JournalView | undefined> {
    const [oldest] = this.#view.segments
    const found = oldest && (await ifPresent(this.#settings.fileSystem.stat(oldest.path)))
    return found !== undefined && found.inode === oldest?.inode ? this.#view : undefined
  }

  /**
   * Counts the whole lines of the last segment, from where the last count of it ended. Undefined if
   * the name of the segment leads to another file now, or if the file has become shorter.
   *
   * A writer that rolls back an append may have replaced lines that were counted. The end of what was
   * counted then differs, and everything after the last checkpoint is counted again.
   */
  async #count({ segment, bytes, checkpoints }: JournalTail): Promise<Counted | undefined> {
    const known = this.#counted
    const isSame = known.segment !== undefined && isSameSegment(known.segment, segment) && known.bytes <= bytes
    const header = { bytes: Math.min(segment.header.bytes, bytes), records: 0 }
    const certain = checkpoints.findLast((checkpoint) => checkpoint.bytes <= bytes) ?? header
    if (certain.bytes === bytes) return { segment, bytes, records: certain.records, end: undefined }
    const file = await ifPresent(this.#settings.fileSystem.open(segment.path, 'read'))
    if (file === undefined) return undefined
    try {
      const { inode, size } = await file.stat()
      if (inode !== segment.inode || size < bytes) return undefined
      if (isSame && known.bytes >= certain.bytes) {
        const end = await endBefore(file, known.bytes)
        if (known.end?.equals(end) !== false) return await countOn(file, bytes, { ...known, segment, end })
      }
      return await countOn(file, bytes, { ...certain, segment, end: await endBefore(file, certain.bytes) })
    } finally {
      await file.close()
    }
  }
}

function stillMoving(path: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_IO', `The files of the journal ${path} are being renamed all the time`, { path })
}
