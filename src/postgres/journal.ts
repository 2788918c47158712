import type { StandardSchemaV1 } from '@standard-schema/spec'

import type { AppendedRange, AppendOptions, Journal } from '../journal/journal.ts'
import { type LineCheck, RecordCodec } from '../journal/record-codec.ts'
import { ReadableJournal } from '../ministore/reader.ts'
import { bytesSettings, type Codec, type KeptByJson, type SchemaOption, streamSettings, type StreamSettings } from '../ministore/settings.ts'
import { Replay } from '../ministore/stream.ts'
import { expectedSequenceOf, fields, integer, iterable, journalId, shown } from '../options.ts'
import { codecOption, type PreparedRecord, schemaOption } from '../schema.ts'
import type { PostgresClient } from './client.ts'
import { JournalCore, type JournalSettings, maxStatementBytes } from './core.ts'
import { blocksOf, PageCursor, type PageParser } from './pages.ts'
import { databaseSchema } from './statements.ts'

/** Options of {@link PostgresJournal.read}. */
export interface PostgresReadOptions<Output = unknown> {
  /** Decodes records in place of JSON. @default JSON.parse */
  readonly codec?: Pick<Codec<never, Output>, 'decode'> | undefined
  /**
   * How long a call tries to reach the server, in milliseconds, before it rejects. A single attempt takes
   * a fifth of it. A write gets a second more for each mebibyte. Set it above the time that a failover
   * takes: Patroni, for example, takes 30 s by default.
   *
   * @default 10_000; minimum 1, maximum 2_147_483_647
   */
  readonly timeoutMs?: number | undefined
  /**
   * Milliseconds between queries of a reader that follows a writer elsewhere. With `listen` of the
   * client, it notices new records sooner.
   *
   * @default 250; minimum 1, maximum 2_147_483_647
   */
  readonly pollIntervalMs?: number | undefined
  /** The `schema` that `createTables` was called with. @default 'ministore' */
  readonly databaseSchema?: string | undefined
}

/** Options of {@link PostgresJournal.open}. */
export interface PostgresOptions<Input = unknown, Output = Input> extends Omit<PostgresReadOptions, 'codec'> {
  /** Encodes and decodes records in place of JSON. @default JSON.stringify and JSON.parse */
  readonly codec?: Codec<Input, Output> | undefined
  /**
   * Maximum size of one encoded record in bytes. A larger record is refused and nothing is written.
   *
   * @default 16_777_216 (16 MiB); minimum 1, maximum 268_435_456 (256 MiB)
   */
  readonly maxRecordBytes?: number | undefined
}

/** Returns the part of a journal that its snapshots share. @throws {TypeError} if it is no `PostgresJournal`. */
export function coreOf(journal: unknown): JournalCore {
  try {
    return coreInside(journal as PostgresJournal<unknown, never>)
  } catch {
    throw new TypeError(`Expected \`journal\` to be a PostgresJournal, got ${shown(journal)}`)
  }
}

let coreInside: <Output, Input>(journal: PostgresJournal<Output, Input>) => JournalCore

/**
 * A journal in the tables of a PostgreSQL database: the interface `Journal` for users who outgrow one
 * machine. `createTables` makes the tables.
 *
 * There is one writer at a time. Each {@link open} takes over: from its commit on, every change by an
 * earlier writer rejects with `ERR_MINISTORE_FENCED`, and changes nothing. So no lock is left by a writer
 * that dies.
 *
 * An append is durable as a commit of the server is: on the disk of the server, and on a synchronous
 * standby if there is one. A server with `fsync=off` is refused, and so is a session with
 * `synchronous_commit=off`.
 *
 * Calls of all methods may overlap. Changes are made one at a time, in call order.
 *
 * ```ts
 * await createTables(pool)
 * const journal = await PostgresJournal.open<Event>(pool, 'orders')
 * await journal.append({ type: 'created', id: 1 })
 * ```
 */
export class PostgresJournal<Output = unknown, Input = Output>
  extends ReadableJournal<Output>
  implements Journal<Output, Input>, AsyncDisposable
{
  readonly #core: JournalCore
  readonly #codec: RecordCodec<Output, Input>
  #closing: Promise<void> | undefined

  static {
    coreInside = (journal) => journal.#core
  }

  private constructor(core: JournalCore, codec: RecordCodec<Output, Input>) {
    const replay = <Item>(parser: PageParser<Item>, settings: StreamSettings): Replay<Item> => {
      core.assertUsable()
      const first = core.acknowledged === undefined ? undefined : core.firstSequence
      return new Replay(new PageCursor(core, parser, settings, first), settings)
    }
    super({
      decoded: (options) => replay<Output>(codec, streamSettings(options)),
      prepared: (options) => replay<PreparedRecord>(codec.forPrepared, streamSettings(options)),
      blocks: (options) => replay(blocksWith(codec.forBytes), bytesSettings(streamSettings(options))),
    })
    this.#core = core
    this.#codec = codec
  }

  /**
   * Opens a journal for writing, and takes it over from any other writer. Creates it if it does not exist.
   *
   * When it resolves, no other writer can change the journal, and every record in it is durable. A crash
   * during `open` may leave a new, empty journal, or an earlier writer fenced.
   *
   * @param client stays the caller's: `close` does not end it. With a single connection, nothing else may
   *   run a transaction on it, and a lost connection is not replaced.
   * @param name of the journal: 1 to 255 characters.
   * @throws {MiniStoreError}
   *   - `ERR_MINISTORE_IO` if the server cannot be reached within `timeoutMs`, refuses a statement, does
   *     not sync its files or commits, or has another encoding than UTF-8. `…_OUTCOME_UNKNOWN` if it is
   *     not known whether the journal was taken over.
   *   - `ERR_MINISTORE_UNSUPPORTED_VERSION` if the tables are of a later version of this library.
   * @throws {TypeError | RangeError} if the client, the name or an option is invalid.
   */
  static open<Schema extends StandardSchemaV1>(
    client: PostgresClient,
    name: string,
    options: PostgresOptions<StandardSchemaV1.InferInput<Schema>> & SchemaOption<Schema>,
  ): Promise<PostgresJournal<StandardSchemaV1.InferOutput<Schema>, StandardSchemaV1.InferInput<Schema>>>
  /** With a codec, which gives the types. Leave out the type parameters. */
  static open<Output, Input>(
    client: PostgresClient,
    name: string,
    options: PostgresOptions<Input, Output> & { readonly codec: Codec<Input, Output> },
  ): Promise<PostgresJournal<Output, Input>>
  /** With a type that {@link KeptByJson} checks: records are stored as JSON. */
  static open<T extends KeptByJson<T> = unknown>(
    client: PostgresClient,
    name: string,
    options?: PostgresOptions<T>,
  ): Promise<PostgresJournal<T>>
  static async open(client: PostgresClient, name: string, options?: unknown): Promise<PostgresJournal<unknown, never>> {
    const settings = settingsOf(name, options, [...readNames, 'maxRecordBytes'], ['encode', 'decode'])
    const core = new JournalCore(client, settings)
    await core.claim()
    return new PostgresJournal(core, new RecordCodec({ ...settings, path: core.path }))
  }

  /**
   * Returns a reader of a journal, for views, replicas and servers. It takes nothing over and changes
   * nothing: {@link append} and every other change reject with a `TypeError`. A journal that does not exist
   * reads as empty. The client may lead to a standby.
   *
   * A record may be read before its writer is told that it is durable.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO`, `…_UNSUPPORTED_VERSION`.
   * @throws {TypeError | RangeError} if the client, the name or an option is invalid.
   */
  static read<Schema extends StandardSchemaV1>(
    client: PostgresClient,
    name: string,
    options: PostgresReadOptions & SchemaOption<Schema>,
  ): Promise<PostgresJournal<StandardSchemaV1.InferOutput<Schema>, never>>
  static read<Decoder extends Pick<Codec<never, unknown>, 'decode'>>(
    client: PostgresClient,
    name: string,
    options: PostgresReadOptions & { readonly codec: Decoder },
  ): Promise<PostgresJournal<ReturnType<Decoder['decode']>, never>>
  static read<T extends KeptByJson<T> = unknown>(
    client: PostgresClient,
    name: string,
    options?: PostgresReadOptions<T>,
  ): Promise<PostgresJournal<T, never>>
  static async read(client: PostgresClient, name: string, options?: unknown): Promise<PostgresJournal<unknown, never>> {
    const settings = settingsOf(name, options, readNames, ['decode'])
    const core = new JournalCore(client, settings)
    await core.checkServer()
    await core.refresh()
    return new PostgresJournal(core, new RecordCodec({ ...settings, path: core.path }))
  }

  /** Name of the journal. */
  get name(): string {
    return this.#core.name
  }

  /** Identity of the journal. Undefined for a reader of a journal that did not exist at its last look. */
  get id(): string | undefined {
    return this.#core.id
  }

  /** Sequence number of the oldest record, or of the next one if there is none. A reader's is that of its last look. */
  get firstSequence(): number {
    return this.#core.firstSequence
  }

  /** Sequence number of the last acknowledged record. A reader's is that of its last look. */
  get lastSequence(): number {
    return this.#core.lastSequence
  }

  /**
   * Appends one record and resolves with its sequence number once the record is durable: one statement.
   *
   * When it rejects, nothing is written, with one exception: after `ERR_MINISTORE_OUTCOME_UNKNOWN` the
   * record may be there when the journal is next opened, whole or not at all.
   *
   * @throws {MiniStoreError}
   *   - `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_SCHEMA` or `…_CODEC` if the record is
   *     refused; `…_SEQUENCE_CONFLICT` if the journal is not at `expectedSequence`.
   *   - `…_IO` if the server refuses the statement. The journal stays usable.
   *   - `…_FENCED` if another writer has taken over; `…_OUTCOME_UNKNOWN` if the server was not reached
   *     within `timeoutMs`, or no longer waits for its standby; `…_CORRUPT` if the server has lost records
   *     that it had acknowledged; `…_FOREIGN_JOURNAL` if there is another journal in its place. Only
   *     {@link close} works then: later calls reject with `…_FENCED` or `…_POISONED`.
   *   - `…_CLOSED` if the journal is closed or closing.
   * @throws {TypeError | RangeError} if an option is invalid, if this is a reader, or if the sequence
   *   numbers, which end at 2^53 - 1, are used up.
   */
  async append(record: Input, options?: AppendOptions): Promise<number> {
    this.#core.assertUsable(true)
    return await this.#core.append(this.#codec.encode(record), expectedSequenceOf(options))
  }

  /**
   * Appends many records with one statement: all of them, or none, even after a crash. Resolves with the
   * range of their sequence numbers. If there are no records, `last` is `first - 1`.
   *
   * @throws {MiniStoreError} as {@link append}; `ERR_MINISTORE_RECORD_TOO_LARGE` also if the records together
   *   exceed 256 MiB.
   * @throws {TypeError | RangeError} as {@link append}, or if `records` is not iterable.
   */
  async appendAll(records: Iterable<Input | PreparedRecord>, options?: AppendOptions): Promise<AppendedRange> {
    this.#core.assertUsable(true)
    const encoded = this.#codec.encodeAll(iterable('records', records))
    const last = await this.#core.append(encoded, expectedSequenceOf(options))
    return { first: last - encoded.count + 1, last }
  }

  /**
   * Encodes and checks a record now, for a later {@link appendAll}. Writes nothing.
   *
   * @throws {MiniStoreError} if the record is refused, or the journal is no longer usable.
   */
  prepare(record: Input): PreparedRecord {
    this.#core.assertUsable(true)
    return this.#codec.prepare(record)
  }

  /**
   * Removes the records below `sequence`, 10,000 with each statement. When it resolves, they are gone for
   * good. A crash before then may leave some of them, but never a gap. `VACUUM` frees their space.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_FENCED`, `…_CORRUPT` and `…_CLOSED` as {@link append}; `…_IO` if
   *   the server was not reached. Some of the records may be removed then, and the call may be repeated.
   * @throws {TypeError | RangeError} if this is a reader, or if `sequence` is not a whole number from 1 to
   *   `lastSequence + 1`.
   */
  async truncateBefore(sequence: number): Promise<void> {
    this.#core.assertUsable(true)
    await this.#core.truncateBefore(integer('sequence', sequence))
  }

  /**
   * Takes on the identity of another journal, and the sequence number that its next record gets, to become
   * a replica of it. Only a journal in which no record was ever written can do this. If this journal has
   * that identity and records already, nothing happens.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_FOREIGN_JOURNAL` if records were written under another identity;
   *   otherwise as {@link append}.
   * @throws {TypeError | RangeError} if this is a reader, or if `id` or `firstSequence` is invalid.
   */
  async adopt(origin: { readonly id: string; readonly firstSequence: number }): Promise<void> {
    this.#core.assertUsable(true)
    const { id, firstSequence } = fields(origin, ['id', 'firstSequence'])
    await this.#core.adopt(journalId('id', id), integer('firstSequence', firstSequence))
  }

  /**
   * Looks at the journal again. A reader then knows of new records; a writer learns whether another one has
   * taken over.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO`; for a writer also `…_FENCED` and `…_CORRUPT`.
   */
  async refresh(): Promise<void> {
    this.#core.assertUsable()
    await this.#core.refresh()
  }

  /**
   * Waits for earlier calls, and ends the followers of this object. Does not end the client. Other calls are
   * refused from now on.
   */
  close(): Promise<void> {
    this.#closing ??= this.#core.close()
    return this.#closing
  }

  /** Calls {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** The lines as they are, in blocks. */
function blocksWith(check: LineCheck | undefined): PageParser<Uint8Array> {
  const decode: PageParser<Uint8Array>['decode'] = (line, context) => {
    check?.(line, context)
    return line
  }
  return { decode, pack: blocksOf }
}

const readNames = ['schema', 'codec', 'timeoutMs', 'pollIntervalMs', 'databaseSchema']

function settingsOf(name: unknown, options: unknown, known: readonly string[], methods: readonly string[]): JournalSettings {
  const isName = typeof name === 'string' && name !== '' && name.length <= 255 && !name.includes('\0') && !/\p{Surrogate}/u.test(name)
  if (!isName) throw new TypeError(`Expected \`name\` to be a text of 1 to 255 characters, without NUL, got ${shown(name)}`)
  const given = fields(options, known)
  const longestMs = 2 ** 31 - 1
  return {
    name,
    codec: codecOption(given['codec'], methods),
    schema: schemaOption(given['schema']),
    maxRecordBytes: integer('maxRecordBytes', given['maxRecordBytes'], { default: 16 * 1024 * 1024, max: maxStatementBytes }),
    timeoutMs: integer('timeoutMs', given['timeoutMs'], { default: 10_000, max: longestMs }),
    pollIntervalMs: integer('pollIntervalMs', given['pollIntervalMs'], { default: 250, max: longestMs }),
    databaseSchema: databaseSchema('databaseSchema', given['databaseSchema']),
  }
}
