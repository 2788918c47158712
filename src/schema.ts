import type { StandardSchemaV1 } from '@standard-schema/spec'

import { ignoreOutcome, isStrayPromise, isThenable } from './async.ts'
import { isStringLimit, messageOf, MiniStoreError, type MiniStoreErrorContext } from './errors.ts'
import { isObject, shown } from './options.ts'

/** @throws {TypeError} if the value is neither a Standard Schema nor undefined. */
export function schemaOption(value: unknown): StandardSchemaV1 | undefined {
  if (value === undefined) return undefined
  // Schemas of some libraries are functions (arktype), those of others are objects.
  const standard: unknown = isObject(value) || typeof value === 'function' ? Reflect.get(value, '~standard') : undefined
  if (!isObject(standard) || typeof Reflect.get(standard, 'validate') !== 'function') {
    throw new TypeError(`Expected \`schema\` to be a Standard Schema (zod, valibot, arktype …), got ${shown(value)}`)
  }
  return value as StandardSchemaV1
}

/**
 * Wraps a schema so that it only checks: a valid value is returned unchanged, whatever the output
 * of the schema.
 */
export function checkOnly(schema: StandardSchemaV1): StandardSchemaV1 {
  const { version, vendor } = schema['~standard']
  const validate = (value: unknown): ReturnType<StandardSchemaV1['~standard']['validate']> => {
    const keep = (result: StandardSchemaV1.Result<unknown>): StandardSchemaV1.Result<unknown> =>
      isObject(result) && result.issues === undefined ? { value } : result
    const result = schema['~standard'].validate(value)
    return isThenable(result) ? Promise.resolve(result).then(keep) : keep(result)
  }
  return { '~standard': { version, vendor, validate } }
}

/** Marks prepared records of every copy of this library. No record from outside can have it: JSON has no symbols. */
const preparedMark = Symbol.for('@mini-ts/ministore.PreparedRecord')

/**
 * A record that is encoded and checked already. `appendAll` of a journal writes its line as it is,
 * and runs no schema. It decodes the line of a record that the same open journal did not prepare,
 * and refuses a line that it could not read.
 *
 * `prepare` of a journal makes one, and `preparedEntries` gives those that a journal holds. A log of
 * your own that offers `prepare` makes them with this class.
 */
export class PreparedRecord {
  /** The line without its line feed. */
  readonly text: string
  /**
   * Rejects with `ERR_MINISTORE_SCHEMA` if the record fails an asynchronous schema. The journal
   * waits for it before it writes.
   *
   * @default the record is valid
   */
  readonly validation: Promise<unknown> | undefined

  static {
    Object.defineProperty(this.prototype, preparedMark, { value: true })
  }

  /** @throws {TypeError} if the text cannot be one line of a journal. */
  constructor(text: string, validation?: Promise<unknown>) {
    // Awaited only when the record is appended, if it ever is. Until then a rejection must not count
    // as unhandled.
    if (validation !== undefined) ignoreOutcome(validation)
    const problem = lineProblem(text)
    if (problem !== undefined) throw new TypeError(`Expected \`text\` to be a non-empty line, got ${problem}`)
    this.text = text
    this.validation = validation
  }
}

/** Whether a record is a {@link PreparedRecord}. Never throws. */
export function isPrepared(record: unknown): record is PreparedRecord {
  try {
    return (record as { readonly [mark: symbol]: unknown } | null | undefined)?.[preparedMark] === true
  } catch {
    // A revoked Proxy, or a trap that throws.
    return false
  }
}

/** The error for bytes as a chunk of a stream, where no codec can encode them. */
export function bytesRefused(): TypeError {
  const hint = 'give Writable.fromWeb `{ objectMode: true }`, or open the store with a codec for bytes'
  return new TypeError(`Expected a chunk to be a record, got bytes: ${hint}`)
}

/** Describes why a text cannot be the line of a record. Undefined if it can. */
export function lineProblem(text: unknown): string | undefined {
  if (typeof text !== 'string') return isStrayPromise(text) ? 'a promise' : text === null ? 'null' : typeof text
  if (text === '') return 'an empty text'
  if (text.includes('\n')) return `a line feed at ${text.indexOf('\n')}`
  if (text.includes('\0')) return `a NUL at ${text.indexOf('\0')}`
  // Half a surrogate pair has no UTF-8 form. It would be stored as U+FFFD, which is a different
  // text.
  if (/\p{Surrogate}/u.test(text)) return 'half a surrogate pair'
  return undefined
}

/**
 * A record that its caller has serialized already. A journal without codec and schema writes `text`
 * as it is, and a state manager applies `value`, so nothing is serialized or parsed again.
 *
 * The caller must ensure that `text` is one line of JSON, that `value` equals what parsing it gives,
 * and that `value` does not change before it is applied.
 */
export class SerializedRecord<T> {
  readonly text: string
  readonly value: T

  constructor(text: string, value: T) {
    this.text = text
    this.value = value
  }
}

/**
 * Describes the validated value for an error. It is called only when validation fails, or before an
 * asynchronous schema is awaited.
 */
export type Validated = () => { readonly subject: string; readonly context: MiniStoreErrorContext }

/**
 * Returns the output of a schema for a value. The result is a promise only if the schema is
 * asynchronous.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SCHEMA` if the value fails the schema or the schema
 *   throws.
 */
export function validated(schema: StandardSchemaV1, value: unknown, describe: Validated): unknown {
  let result: ReturnType<StandardSchemaV1['~standard']['validate']>
  try {
    result = schema['~standard'].validate(value)
  } catch (error) {
    throw schemaError([{ message: messageOf(error) }], describe, error)
  }
  // A schema library may use its own kind of promise.
  if (!isThenable(result)) return outputOf(result, describe)
  const described = describe()
  return Promise.resolve(result).then(
    (settled) => outputOf(settled, () => described),
    (error: unknown) => {
      throw schemaError([{ message: messageOf(error) }], () => described, error)
    },
  )
}

function outputOf(result: unknown, describe: Validated): unknown {
  if (!isObject(result)) {
    throw schemaError([{ message: `expected its validate to give a result, got ${shown(result)}` }], describe)
  }
  const { issues, value } = result as { issues?: ReadonlyArray<StandardSchemaV1.Issue>; value?: unknown }
  if (issues !== undefined) throw schemaError(issues, describe)
  if (!isStrayPromise(value)) return value
  throw schemaError([{ message: 'expected its output to be a value, got a promise' }], describe)
}

function schemaError(
  issues: ReadonlyArray<StandardSchemaV1.Issue>,
  describe: Validated,
  cause?: unknown,
): MiniStoreError {
  const { subject, context } = describe()
  return new MiniStoreError('ERR_MINISTORE_SCHEMA', `${subject} fails the schema: ${textOf(issues)}`, { ...context, issues, cause })
}

/** Formats issues for a message. The schema library creates them, so they may have any form. */
function textOf(issues: ReadonlyArray<StandardSchemaV1.Issue>): string {
  try {
    return issues.map((issue) => `${messageOf(issue)}${pathOf(issue)}`).join('; ')
  } catch {
    return messageOf(issues)
  }
}

function pathOf(issue: StandardSchemaV1.Issue): string {
  const keys = (issue.path ?? []).map((part) => String(typeof part === 'object' ? part.key : part))
  return keys.length === 0 ? '' : ` at ${keys.join('.')}`
}

/**
 * Converts a record or a state to text and back. A codec replaces `JSON.stringify` and
 * `JSON.parse`, for example with superjson, devalue or encryption.
 *
 * For a record, `encode` must return non-empty text without a line feed, NUL or unpaired surrogate.
 * Other text is refused when the record is appended. For a state, any text is accepted.
 *
 * Both methods must be synchronous. They may throw; the error then becomes the `cause` of an
 * `ERR_MINISTORE_CODEC`, or of an `ERR_MINISTORE_STATE_TOO_LARGE` if the text of a state exceeds
 * the longest string of the platform.
 */
export interface Codec<Input = unknown, Output = Input> {
  /** Returns the text of a record or a state. */
  encode(record: Input): string
  /** Returns the record or the state that {@link encode} turned into this text. */
  decode(line: string): Output
}

/**
 * The constraint of types that are stored as JSON: `T extends KeptByJson<T>` holds if a value reads
 * back from its JSON as the type says. A `Date` would read back as a string, a `Map` as `{}`. The
 * compiler's error names the property, and {@link NotKeptByJson} in its place.
 *
 * Not kept are functions (so classes with methods), what has a `toJSON` (`Date`, `URL`, `Buffer`),
 * maps, sets, typed arrays, errors, regular expressions, promises, `bigint`, symbols, and
 * `undefined` in an array. Any property may be `undefined`, because a missing one reads as
 * `undefined` too. `any` and `unknown` are not checked, nor are keys that are symbols, which serve
 * as brands. Of a union, a member that differs from another only by more properties is not checked.
 *
 * A function or class with a type parameter of its own repeats the constraint:
 *
 * ```ts
 * const openLog = <T extends KeptByJson<T>>(name: string) => MiniStore.open<T>(`logs/${name}.jsonl`)
 * ```
 *
 * There are three ways to store another type. A codec and a schema give the types, so leave out the
 * type parameter. Without any check, open a store without a type, then assert one in a statement of
 * its own: `store as MiniStore<T>`.
 */
export type KeptByJson<T> = [[T] extends [Unkept] ? NotKeptByJson<T> : KeptProperties<T>, unknown][unknown extends T ? 1 : 0]

/** Stands in a compiler's error in the place of a type that JSON does not keep. */
export interface NotKeptByJson<Type> {
  /** The type. */
  readonly 'JSON does not keep this type': Type
}

/**
 * A mapped type is evaluated only as deep as types are compared, so types may be recursive. It also
 * distributes over unions, which a conditional type in its place could not do: that would be a
 * circular constraint. For the same reason {@link KeptByJson} chooses by an index.
 */
type KeptProperties<T> = { [Key in keyof T]: Key extends symbol ? T[Key] : KeptValue<T[Key], Absent<T>> }

/**
 * Arrays have a branch of their own, because a mapped type would evaluate their elements at once,
 * without end for a recursive type.
 */
type KeptValue<T, Missing> = unknown extends T
  ? T
  : T extends string | number | boolean | null | Missing
    ? T
    : T extends Unkept
      ? NotKeptByJson<T>
      : T extends readonly unknown[]
        ? ReadonlyArray<KeptValue<T[number], Absent<T>>>
        : KeptProperties<T>

/** What JSON leaves out of a `T`. A tuple has `undefined` where an element is optional. */
type Absent<T> = T extends readonly unknown[] ? (number extends T['length'] ? never : undefined) : undefined

/** What `JSON.stringify` leaves out, refuses or changes into something else. */
type Unkept =
  | { toJSON(...given: never[]): unknown }
  | ((...given: never[]) => unknown)
  | (abstract new (...given: never[]) => unknown)
  | ReadonlyMap<unknown, unknown>
  | ReadonlySet<unknown>
  | WeakMap<WeakKey, unknown>
  | WeakSet<WeakKey>
  | ArrayBufferView
  | ArrayBuffer
  | Error
  | RegExp
  | PromiseLike<unknown>
  | bigint
  | symbol
  | undefined

/** @throws {TypeError} if the value is defined and lacks one of these methods. */
export function codecOption(value: unknown, methods: readonly string[]): Codec | undefined {
  if (value === undefined) return undefined
  const isWhole = isObject(value) && methods.every((method) => typeof Reflect.get(value, method) === 'function')
  if (!isWhole) throw new TypeError(`Expected \`codec\` to have ${methods.join(' and ')}, got ${shown(value)}`)
  return value as Codec
}

/**
 * Serializes a value with `JSON.stringify`.
 *
 * @param subject What the value is, for errors: "record" or "payload".
 * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE` if the value has no JSON form;
 *   `ERR_MINISTORE_RECORD_TOO_LARGE` if the text exceeds the longest string of the platform.
 */
export function toJson(value: unknown, subject: string, context: MiniStoreErrorContext = {}): string {
  let text: unknown
  try {
    text = JSON.stringify(value)
  } catch (error) {
    const described = { ...context, cause: error }
    if (!isStringLimit(error)) throw notSerializable(subject, messageOf(error), described)
    const message = `The text of the ${subject} is longer than the longest string of this platform`
    throw new MiniStoreError('ERR_MINISTORE_RECORD_TOO_LARGE', message, described)
  }
  if (typeof text === 'string') return text
  const got = isObject(value) ? 'undefined from its toJSON' : value === undefined ? 'undefined' : `a ${typeof value}`
  throw notSerializable(subject, `got ${got}`, context)
}

/** Refuses a promise in place of a value that is to be stored. */
export function refusePromise(value: unknown, subject: string, context: MiniStoreErrorContext = {}): void {
  if (isStrayPromise(value)) throw notSerializable(subject, 'got a promise, so an `await` is missing', context)
}

/** The error for a value that JSON cannot store. */
export function notSerializable(
  subject: string,
  why: string,
  context: MiniStoreErrorContext & { readonly cause?: unknown } = {},
): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_NOT_SERIALIZABLE', `The ${subject} has no JSON form: ${why}`, context)
}
