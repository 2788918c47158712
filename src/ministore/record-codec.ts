import type { StandardSchemaV1 } from '@standard-schema/spec'

import { isRangeError, messageOf, MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
import { validated } from '../schema.ts'
import { ignoreOutcome, isThenable } from '../async.ts'
import type { Codec } from './settings.ts'

/** A record ready to be written. */
export interface EncodedRecord {
  /** Its line, `\n` included. */
  readonly line: Buffer
  /** Present when the schema takes its time: rejects when the record fails it. */
  readonly validation: Promise<unknown> | undefined
}

/** Records ready to be written. */
export interface EncodedRecords {
  /** Their lines, one behind the other, each with its `\n`. */
  readonly lines: Buffer
  readonly count: number
  /** Present when the schema takes its time: rejects when a record fails it. */
  readonly validation: Promise<unknown> | undefined
}

/** Lines are turned into bytes together, up to about so many characters: one by one that takes twice the time. */
const pieceLength = 1024 * 1024

/** A record that is settled: the journal may be given `stored` at any later time. */
export interface SettledRecord<Output> {
  /** Encodes to the same line as the record that was given, and is of its type. */
  readonly stored: unknown
  /** What reading gives. A promise only when there is a schema that is asynchronous. */
  readonly read: Output | Promise<Output>
}

/**
 * Turns records into lines and back, and holds them against the schema.
 *
 * The line keeps the record as it was given, the schema's input; its output is what reading gives, so
 * transformations run once, when reading. What the schema is asked about when appending is the record as it will
 * be read back, so a record that was appended can always be read.
 */
export class RecordCodec<Output, Input> {
  readonly #encode: (record: Input) => unknown
  readonly #decode: (line: string) => unknown
  readonly #isCustom: boolean
  readonly #schema: StandardSchemaV1 | undefined
  readonly #maxRecordBytes: number
  readonly #path: string | undefined

  constructor(settings: {
    readonly codec?: Pick<Codec, 'decode'> | Codec | undefined
    readonly schema?: StandardSchemaV1 | undefined
    readonly maxRecordBytes?: number
    /** The journal's, for errors. */
    readonly path?: string | undefined
  }) {
    const { codec, path } = settings
    this.#path = path
    this.#isCustom = codec !== undefined
    this.#encode = codec !== undefined && 'encode' in codec ? (record) => codec.encode(record) : JSON.stringify
    this.#decode = codec === undefined ? JSON.parse : (line) => codec.decode(line)
    this.#schema = settings.schema
    this.#maxRecordBytes = settings.maxRecordBytes ?? Number.POSITIVE_INFINITY
  }

  /**
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_CODEC` or `…_SCHEMA`; the last
   *   comes through `validation` when the schema is asynchronous.
   */
  encode(record: Input): EncodedRecord {
    const text = this.#textOf(record)
    return { line: Buffer.from(`${text}\n`), validation: this.#check(text) }
  }

  /** As {@link encode}, for many. */
  encodeAll(records: Iterable<Input>): EncodedRecords {
    const pieces: Buffer[] = []
    const validations: Array<Promise<unknown>> = []
    let piece = ''
    let count = 0
    for (const record of records) {
      const text = this.#textOf(record)
      const validation = this.#check(text)
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
    // As each of them.
    validation?.catch(() => {})
    return { lines, count, validation }
  }

  /**
   * The record as its line keeps it, and as reading that line will give it: both copies, which no later change of the
   * record reaches.
   *
   * @throws {MiniStoreError} as {@link encode}.
   */
  settle(record: Input): SettledRecord<Output> {
    const text = this.#textOf(record)
    const stored = this.#decodeLine(text, this.#where)
    if (this.#schema === undefined) return { stored, read: stored as Output }
    // One of its own: a schema may change what it is given.
    const read = this.#validate(this.#decodeLine(text, this.#where), this.#where) as Output | Promise<Output>
    // It is awaited when the record's turn comes, and must not count as unhandled until then.
    if (isThenable(read)) ignoreOutcome(read)
    return { stored, read }
  }

  /**
   * The record of a line, given without its `\n`. A promise only when there is a schema that is asynchronous.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT`, `…_CODEC` or `…_SCHEMA`, with the context, which is asked for only then.
   */
  decode(line: string, context: () => MiniStoreErrorContext): Output | Promise<Output> {
    const decoded = this.#decodeLine(line, context)
    if (this.#schema === undefined) return decoded as Output
    return this.#validate(decoded, context) as Output | Promise<Output>
  }

  readonly #where = (): MiniStoreErrorContext => ({ path: this.#path })

  /** The record's line without its `\n`, unless it is too long. */
  #textOf(record: Input): string {
    if (isThenable(record)) {
      ignoreOutcome(record)
      throw this.#refused('ERR_MINISTORE_NOT_SERIALIZABLE', 'Expected a record, got a promise: an `await` is missing')
    }
    const text = this.#isCustom ? this.#encodeCustom(record) : this.#encodeJson(record)
    // A character takes from one byte to three: mostly that says enough.
    if (text.length > this.#maxRecordBytes / 3) {
      const bytes = Buffer.byteLength(text)
      if (bytes > this.#maxRecordBytes) throw this.#tooLarge(bytes)
    }
    return text
  }

  /** Holds a line against the schema; a promise when that takes its time. */
  #check(text: string): Promise<unknown> | undefined {
    if (this.#schema === undefined) return undefined
    const checked = this.#validate(this.#decodeLine(text, this.#where), this.#where)
    if (!isThenable(checked)) return undefined
    // It is awaited when the record's turn comes, and must not count as unhandled until then.
    ignoreOutcome(checked)
    return checked as Promise<unknown>
  }

  #encodeJson(record: Input): string {
    let text: unknown
    try {
      text = this.#encode(record)
    } catch (error) {
      if (isRangeError(error, /string length/i)) {
        throw this.#refused('ERR_MINISTORE_RECORD_TOO_LARGE', 'The record is longer than a string can be', error)
      }
      const message = `The record has no JSON form: ${messageOf(error)}`
      throw this.#refused('ERR_MINISTORE_NOT_SERIALIZABLE', message, error)
    }
    if (typeof text === 'string') return text
    const got = record === undefined ? 'undefined' : `a ${typeof record}`
    const why = typeof record === 'object' ? ' whose toJSON gives undefined' : ''
    throw this.#refused('ERR_MINISTORE_NOT_SERIALIZABLE', `Expected a record with a JSON form, got ${got}${why}`)
  }

  #encodeCustom(record: Input): string {
    let text: unknown
    try {
      text = this.#encode(record)
    } catch (error) {
      throw this.#refused('ERR_MINISTORE_CODEC', `The codec's encode threw: ${messageOf(error)}`, error)
    }
    if (isThenable(text)) ignoreOutcome(text)
    const problem = problemOf(text)
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
    if (!this.#isCustom || !isThenable(decoded)) return decoded
    ignoreOutcome(decoded)
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
    return new MiniStoreError(code, message, { path: this.#path, cause })
  }
}

function lineIn({ segment, line, offset }: MiniStoreErrorContext): string {
  return line === undefined ? '' : ` at ${segment}, line ${line}, offset ${offset}`
}

function problemOf(text: unknown): string | undefined {
  if (typeof text !== 'string') return isThenable(text) ? 'a promise' : text === null ? 'null' : typeof text
  if (text === '') return 'an empty text'
  if (text.includes('\n')) return `a line feed at ${text.indexOf('\n')}`
  if (text.includes('\0')) return `a NUL at ${text.indexOf('\0')}`
  // Half a surrogate pair has no UTF-8 form: it would be stored as U+FFFD, another text.
  if (/\p{Surrogate}/u.test(text)) return 'half a surrogate pair'
  return undefined
}
