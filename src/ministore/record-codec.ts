import type { StandardSchemaV1 } from '@standard-schema/spec'

import { messageOf, MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
import type { Codec } from './settings.ts'

/** A record ready to be written. */
export interface EncodedRecord {
  /** Its line, `\n` included. */
  readonly line: Buffer
  /** Present when the schema takes its time: rejects when the record fails it. */
  readonly validation: Promise<unknown> | undefined
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
    readonly path?: string
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
    const text = this.#isCustom ? this.#encodeCustom(record) : this.#encodeJson(record)
    // Cheap first: a text never has more characters than bytes.
    if (text.length > this.#maxRecordBytes) throw this.#tooLarge(Buffer.byteLength(text))
    const line = Buffer.from(`${text}\n`)
    if (line.length - 1 > this.#maxRecordBytes) throw this.#tooLarge(line.length - 1)
    if (this.#schema === undefined) return { line, validation: undefined }
    const where = (): MiniStoreErrorContext => ({ path: this.#path })
    const checked = this.#validate(this.#decodeLine(text, where), where)
    if (!(checked instanceof Promise)) return { line, validation: undefined }
    // It is awaited when the record's turn comes, and must not count as unhandled until then.
    checked.catch(() => {})
    return { line, validation: checked }
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

  #encodeJson(record: Input): string {
    let text: unknown
    try {
      text = this.#encode(record)
    } catch (error) {
      if (error instanceof RangeError && /string length/i.test(error.message)) {
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
    const problem = problemOf(text)
    if (problem === undefined) return text as string
    const message = `Expected the codec's encode to return a non-empty line of text, got ${problem}`
    throw this.#refused('ERR_MINISTORE_CODEC', message)
  }

  #decodeLine(line: string, where: () => MiniStoreErrorContext): unknown {
    try {
      return this.#decode(line)
    } catch (error) {
      const context = where()
      const at = context.line === undefined ? '' : ` at ${context.segment}, line ${context.line}, offset ${context.offset}`
      const [code, what] = this.#isCustom
        ? (['ERR_MINISTORE_CODEC', "The codec's decode threw"] as const)
        : (['ERR_MINISTORE_CORRUPT', 'A line is not JSON'] as const)
      throw new MiniStoreError(code, `${what}${at}: ${messageOf(error)}`, { ...context, cause: error })
    }
  }

  #validate(decoded: unknown, context: () => MiniStoreErrorContext): unknown {
    const schema = this.#schema as StandardSchemaV1
    let result: ReturnType<StandardSchemaV1['~standard']['validate']>
    try {
      result = schema['~standard'].validate(decoded)
    } catch (error) {
      throw schemaError([{ message: messageOf(error) }], context(), error)
    }
    // A promise by its `then`: a schema library may bring its own kind.
    if (!('then' in result)) return outputOf(result, context)
    const where = context()
    return Promise.resolve(result).then(
      (settled) => outputOf(settled, () => where),
      (error: unknown) => {
        throw schemaError([{ message: messageOf(error) }], where, error)
      },
    )
  }

  #tooLarge(bytes: number): MiniStoreError {
    const message = `Expected a record of at most ${this.#maxRecordBytes} bytes (maxRecordBytes), got one of ${bytes}`
    return this.#refused('ERR_MINISTORE_RECORD_TOO_LARGE', message)
  }

  #refused(code: MiniStoreErrorCode, message: string, cause?: unknown): MiniStoreError {
    return new MiniStoreError(code, message, { path: this.#path, cause })
  }
}

function problemOf(text: unknown): string | undefined {
  if (typeof text !== 'string') return text === null ? 'null' : typeof text
  if (text === '') return 'an empty text'
  if (text.includes('\n')) return `a line feed at ${text.indexOf('\n')}`
  if (text.includes('\0')) return `a NUL at ${text.indexOf('\0')}`
  // Half a surrogate pair has no UTF-8 form: it would be stored as U+FFFD, another text.
  if (/\p{Surrogate}/u.test(text)) return 'half a surrogate pair'
  return undefined
}

function outputOf(result: StandardSchemaV1.Result<unknown>, context: () => MiniStoreErrorContext): unknown {
  if (result.issues === undefined) return result.value
  throw schemaError(result.issues, context())
}

function schemaError(
  issues: ReadonlyArray<StandardSchemaV1.Issue>,
  context: MiniStoreErrorContext,
  cause?: unknown,
): MiniStoreError {
  const where = context.line === undefined ? 'The record' : `The record at ${context.segment}, line ${context.line},`
  const text = issues.map((issue) => `${issue.message}${pathOf(issue)}`).join('; ')
  return new MiniStoreError('ERR_MINISTORE_SCHEMA', `${where} fails the schema: ${text}`, { ...context, issues, cause })
}

function pathOf(issue: StandardSchemaV1.Issue): string {
  const keys = (issue.path ?? []).map((part) => String(typeof part === 'object' ? part.key : part))
  return keys.length === 0 ? '' : ` at ${keys.join('.')}`
}
