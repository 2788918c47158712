import type { StandardSchemaV1 } from '@standard-schema/spec'

import { isInstance, messageOf, MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
import {
  bytesRefused, type Codec, isPrepared, lineProblem, PreparedRecord, refusePromise, SerializedRecord, toJson, validated,
} from '../schema.ts'
import { ignoreOutcome, isStrayPromise, isThenable } from '../async.ts'

/** Encoded records, ready to be written. */
export interface EncodedRecords {
  /** The lines of the records in order, each with its `\n`. */
  readonly lines: Buffer
  /** Number of records. */
  readonly count: number
  /** Rejects if any record fails the schema. Present only if the schema is asynchronous. */
  readonly validation: Promise<unknown> | undefined
}

/**
 * Lines are converted to bytes in pieces of about this many UTF-16 code units. Converting each line
 * by itself takes twice as long.
 */
const pieceLength = 1024 * 1024

/**
 * A copy of a record that later changes of the record do not affect.
 *
 * The state manager passes `stored` to its journal, which encodes it again. That costs microseconds
 * and lets the interface `Journal` take records instead of lines, so that any log can implement it.
 */
export interface FrozenRecord<Output> {
  /** Encodes to the same line as the given record and has its type. May be appended at any time. */
  readonly stored: unknown
  /** The record as reading its line returns it. A promise only if the schema is asynchronous. */
  readonly read: Output | Promise<Output>
}

/** Converts the lines of a journal to what a replay gives. */
export type LineCodec<Output> = Pick<RecordCodec<Output, never>, 'decode'>

/** Throws if a line, without its `\n`, cannot be decoded. */
export type LineCheck = (line: string, context: () => MiniStoreErrorContext) => void

/**
 * Converts records to lines and back, and validates them against the schema.
 *
 * The line holds the record as it was given, which is the input of the schema. Reading returns the
 * output of the schema, so transformations run once, on reading. Appending validates the record as
 * it will be decoded from its line. A record that was appended therefore also passes the same
 * schema when it is read.
 */
export class RecordCodec<Output, Input> {
  readonly #encode: (record: Input) => unknown
  readonly #decode: (line: string) => unknown
  readonly #isCustom: boolean
  readonly #schema: StandardSchemaV1 | undefined
  readonly #maxRecordBytes: number
  /** Prepared by this codec, which therefore reads their lines. */
  readonly #prepared = new WeakSet<PreparedRecord>()
  /** Location of every error that has no line. */
  readonly #context: MiniStoreErrorContext

  constructor(settings: {
    readonly codec?: Pick<Codec, 'decode'> | Codec | undefined
    readonly schema?: StandardSchemaV1 | undefined
    readonly maxRecordBytes?: number
    /** Path of the journal, for errors. */
    readonly path?: string | undefined
  }) {
    const { codec, path } = settings
    this.#context = { path }
    this.#isCustom = codec !== undefined
    this.#encode = codec !== undefined && 'encode' in codec ? (record) => codec.encode(record) : JSON.stringify
    this.#decode = codec === undefined ? JSON.parse : (line) => codec.decode(line)
    this.#schema = settings.schema
    this.#maxRecordBytes = settings.maxRecordBytes ?? Number.POSITIVE_INFINITY
  }

  /**
   * Encodes one record.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_CODEC`, or
   *   `…_SCHEMA` if the record fails the schema. If the schema is asynchronous, `validation`
   *   rejects with `…_SCHEMA` instead.
   */
  encode(record: Input): EncodedRecords {
    const text = this.#textOf(record)
    return { lines: Buffer.from(`${text}\n`), count: 1, validation: this.#check(record, text) }
  }

  /** Encodes and checks one record for a later {@link encodeAll}. Throws as {@link encode} does. */
  prepare(record: Input): PreparedRecord {
    const text = this.#textOf(record)
    const prepared = new PreparedRecord(text, this.#check(record, text))
    this.#prepared.add(prepared)
    return prepared
  }

  /** @throws {TypeError} if a chunk of a stream is bytes, which only a codec can encode. */
  refuseBytes(chunk: unknown): void {
    if (!this.#isCustom && ArrayBuffer.isView(chunk)) throw bytesRefused()
  }

  /** Encodes many records. Throws as {@link encode} does, for the first record that is refused. */
  encodeAll(records: Iterable<Input | PreparedRecord>): EncodedRecords {
    const pieces: Buffer[] = []
    const validations: Array<Promise<unknown>> = []
    let piece = ''
    let count = 0
    for (const record of records) {
      const text = this.#textOf(record)
      const validation = this.#check(record, text)
      if (validation !== undefined) validations.push(validation)
      piece += `${text}\n`
      count++
      if (piece.length < pieceLength) continue
      pieces.push(Buffer.from(piece))
      piece = ''
    }
    pieces.push(Buffer.from(piece))
    const lines = pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
    const validation = validations.length === 0 ? undefined : Promise.all(validations)
    // Awaited only when the turn of the records comes. Until then a rejection must not count as
    // unhandled.
    validation?.catch(() => {})
    return { lines, count, validation }
  }

  /**
   * Copies a record twice: as its line holds it, and as reading that line returns it. Later changes
   * of the record affect neither copy.
   *
   * @throws {MiniStoreError} as {@link encode}. If the schema is asynchronous, `read` rejects with
   *   `ERR_MINISTORE_SCHEMA` instead.
   */
  freeze(record: Input): FrozenRecord<Output> {
    const text = this.#textOf(record)
    if (isInstance(record, SerializedRecord)) return { stored: record, read: record.value }
    const stored = this.#decodeLine(text, this.#where)
    if (this.#schema === undefined) return { stored, read: stored as Output }
    // Decoded a second time, because a schema may change the value that it validates.
    return { stored, read: this.#readBack(text) }
  }

  /**
   * Decodes a line without its `\n`. Returns a promise only if the schema is asynchronous.
   *
   * @param context Called only for an error, or before an asynchronous schema is awaited.
   * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` if the line is not JSON, `…_CODEC` if the
   *   codec fails, or `…_SCHEMA` if the record fails the schema. An asynchronous schema rejects the
   *   promise instead.
   */
  decode(line: string, context: () => MiniStoreErrorContext): Output | Promise<Output> {
    const decoded = this.#decodeLine(line, context)
    if (this.#schema === undefined) return decoded as Output
    return this.#validate(decoded, context) as Output | Promise<Output>
  }

  /**
   * Decodes lines to prepared records: refuses a line that this codec cannot decode, and leaves the
   * schema out.
   */
  readonly forPrepared: LineCodec<PreparedRecord> = {
    decode: (line, context) => {
      this.#decodeLine(line, context)
      return new PreparedRecord(line)
    },
  }

  /** Checks that a line is JSON. Undefined with a codec, which alone could tell about its lines. */
  get forBytes(): LineCheck | undefined {
    return this.#isCustom ? undefined : (line, context) => void this.#decodeLine(line, context)
  }

  readonly #where = (): MiniStoreErrorContext => this.#context

  /** Encodes a record to its line without the `\n`, and checks its size. */
  #textOf(record: Input | PreparedRecord): string {
    refusePromise(record, 'record', this.#context)
    const text = isPrepared(record) ? this.#lineOf(record) : this.#isCustom ? this.#encodeCustom(record) : this.#encodeJson(record)
    // A UTF-16 code unit takes at most three bytes in UTF-8. So most records need no exact count.
    if (text.length > this.#maxRecordBytes / 3) {
      const bytes = Buffer.byteLength(text)
      if (bytes > this.#maxRecordBytes) throw this.#tooLarge(bytes)
    }
    return text
  }

  /**
   * The line of a prepared record. One that this codec did not prepare is decoded first: it may come
   * from a journal with another codec, and this journal could never read it again.
   */
  #lineOf(prepared: PreparedRecord): string {
    const { text } = prepared
    if (this.#prepared.has(prepared)) return text
    const problem = lineProblem(text)
    if (problem !== undefined) throw new TypeError(`Expected a prepared record to hold a non-empty line, got ${problem}`)
    try {
      this.#decodeLine(text, this.#where)
    } catch (error) {
      if (this.#isCustom) throw error
      const message = `Expected a prepared record to hold JSON, or the journal could not read it: ${messageOf(error)}`
      throw this.#refused('ERR_MINISTORE_NOT_SERIALIZABLE', message, error)
    }
    return text
  }

  /**
   * Validates the line of a record against the schema, unless it was validated when it was prepared.
   * Returns a promise only if the schema is asynchronous.
   */
  #check(record: Input | PreparedRecord, text: string): Promise<unknown> | undefined {
    if (isPrepared(record)) return record.validation
    const read = this.#schema === undefined ? undefined : this.#readBack(text)
    return isThenable(read) ? read : undefined
  }

  /** The record as reading its line returns it. A promise only if the schema is asynchronous. */
  #readBack(text: string): Output | Promise<Output> {
    const read = this.decode(text, this.#where)
    // Awaited only when the turn of the record comes. Until then a rejection must not count as
    // unhandled.
    if (isThenable(read)) ignoreOutcome(read)
    return read
  }

  #encodeJson(record: Input): string {
    return isInstance(record, SerializedRecord) ? record.text : toJson(record, 'record', this.#context)
  }

  #encodeCustom(record: Input): string {
    let text: unknown
    try {
      text = this.#encode(record)
    } catch (error) {
      throw this.#refused('ERR_MINISTORE_CODEC', `The codec's encode threw: ${messageOf(error)}`, error)
    }
    const problem = lineProblem(text)
    if (problem === undefined) return text as string
    const message = `Expected the codec's encode to return a non-empty line of text, got ${problem}`
    throw this.#refused('ERR_MINISTORE_CODEC', message)
  }

  #decodeLine(line: string, where: () => MiniStoreErrorContext): unknown {
    let decoded: unknown
    try {
      decoded = this.#decode(line)
    } catch (error) {
      const context = where()
      const [code, what] = this.#isCustom
        ? (['ERR_MINISTORE_CODEC', "The codec's decode threw"] as const)
        : (['ERR_MINISTORE_CORRUPT', 'A line is not JSON'] as const)
      throw new MiniStoreError(code, `${what}${lineIn(context)}: ${messageOf(error)}`, { ...context, cause: error })
    }
    if (!this.#isCustom || !isStrayPromise(decoded)) return decoded
    const context = where()
    const message = `Expected the codec's decode${lineIn(context)} to return a record, got a promise`
    throw new MiniStoreError('ERR_MINISTORE_CODEC', message, context)
  }

  #validate(decoded: unknown, context: () => MiniStoreErrorContext): unknown {
    return validated(this.#schema as StandardSchemaV1, decoded, () => {
      const where = context()
      const at = where.line === undefined ? '' : ` at ${where.segment}, line ${where.line},`
      return { subject: `The record${at}`, context: where }
    })
  }

  #tooLarge(bytes: number): MiniStoreError {
    const message = `Expected a record of at most ${this.#maxRecordBytes} bytes (maxRecordBytes), got one of ${bytes}`
    return this.#refused('ERR_MINISTORE_RECORD_TOO_LARGE', message)
  }

  #refused(code: MiniStoreErrorCode, message: string, cause?: unknown): MiniStoreError {
    return new MiniStoreError(code, message, { ...this.#context, cause })
  }
}

function lineIn({ segment, line, offset }: MiniStoreErrorContext): string {
  return line === undefined ? '' : ` at ${segment}, line ${line}, offset ${offset}`
}
