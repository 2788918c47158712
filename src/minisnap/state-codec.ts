import type { StandardSchemaV1 } from '@standard-schema/spec'

import { ignoreOutcome, isStrayPromise, isThenable } from '../async.ts'
import { isRangeError, isStringLimit, messageOf, MiniStoreError } from '../errors.ts'
import { type Codec, notSerializable, refusePromise, validated } from '../schema.ts'
import { jsonPieces } from './json-pieces.ts'
import { damaged, type SnapshotFile } from './file.ts'
import { limited, textTooLarge } from './format.ts'

/** An encoded state, ready to be written. */
export interface EncodedState {
  /**
   * JSON on one line, in consecutive pieces. For a frozen state, the pieces are made on demand, and
   * only once.
   */
  readonly texts: Iterable<string>
  /** Present only if the schema is asynchronous. Rejects if the state fails the schema. */
  readonly validation: Promise<unknown> | undefined
}

/**
 * Converts states to the text in a snapshot and back, and checks them against the schema.
 *
 * The state is stored as given, as the schema's input, and the schema checks that same object. A
 * journal instead checks a copy of each record, as it will be read back. For a large state, such a
 * copy would double the cost. It would also show nothing new: without a codec, a state that JSON
 * would change is refused.
 */
export class StateCodec<Output, Input> {
  readonly #codec: Codec<Input, unknown> | undefined
  readonly #schema: StandardSchemaV1 | undefined

  constructor(settings: { readonly codec: Codec | undefined; readonly schema: StandardSchemaV1 | undefined }) {
    this.#codec = settings.codec
    this.#schema = settings.schema
  }

  /**
   * Encodes a state and checks it against the schema.
   *
   * @param isFrozen whether the state does not change until it is written.
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_STATE_TOO_LARGE`, `…_CODEC` or
   *   `…_SCHEMA`. An asynchronous schema reports `…_SCHEMA` through `validation`. For a frozen
   *   state, `texts` throws the first two while it is read.
   */
  encode(state: Input, snapshot: SnapshotFile, { isFrozen }: { readonly isFrozen: boolean }): EncodedState {
    refusePromise(state, 'state', snapshot)
    const codec = this.#codec
    const pieces = codec === undefined ? jsonOf(state, snapshot) : [textOf(codec, state, snapshot)]
    const texts = isFrozen ? limited(pieces, snapshot) : [...limited(pieces, snapshot)]
    if (this.#schema === undefined) return { texts, validation: undefined }
    const checked = validated(this.#schema, state, () => ({ subject: 'The state', context: snapshot }))
    if (!isThenable(checked)) return { texts, validation: undefined }
    // The promise is awaited only when the snapshot's turn comes. Until then it must not count as
    // an unhandled rejection.
    ignoreOutcome(checked)
    return { texts, validation: checked as Promise<unknown> }
  }

  /**
   * Decodes the text of a state. Returns a promise only if the schema is asynchronous.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_DAMAGED` if the text is not JSON; `…_CODEC` or
   *   `…_SCHEMA` if the codec or the schema fails.
   */
  decode(text: string, snapshot: SnapshotFile): Output | Promise<Output> {
    const decoded = this.#codec === undefined ? parse(text, snapshot) : decodeWith(this.#codec, text, snapshot)
    if (this.#schema === undefined) return decoded as Output
    const subject = `The state of ${snapshot.path}`
    return validated(this.#schema, decoded, () => ({ subject, context: snapshot })) as Output | Promise<Output>
  }
}

function* jsonOf(state: unknown, snapshot: SnapshotFile): Generator<string, void, undefined> {
  try {
    yield* jsonPieces(state, 'state')
  } catch (error) {
    if (isStringLimit(error)) throw textTooLarge(snapshot, error)
    const isTooDeep = isRangeError(error, /call stack/i)
    const why = isTooDeep ? 'it is nested deeper than JSON.stringify can follow' : messageOf(error)
    throw notSerializable('state', `${why}. Use a codec to store it.`, { ...snapshot, cause: error })
  }
}

function textOf<Input>(codec: Codec<Input, unknown>, state: Input, snapshot: SnapshotFile): string {
  let text: unknown
  try {
    text = codec.encode(state)
  } catch (error) {
    if (isStringLimit(error)) throw textTooLarge(snapshot, error)
    throw codecError(snapshot, `The codec's encode threw: ${messageOf(error)}`, error)
  }
  if (typeof text !== 'string') {
    const got = isStrayPromise(text) ? 'a promise' : text === null ? 'null' : typeof text
    throw codecError(snapshot, `Expected the codec's encode to return a text, got ${got}`)
  }
  if (isJsonLine(text)) return text
  try {
    return JSON.stringify(text)
  } catch (error) {
    throw isStringLimit(error) ? textTooLarge(snapshot, error) : error
  }
}

/**
 * Whether a codec's text can be stored in a snapshot as it is.
 *
 * Reading distinguishes such a text from a JSON string by its first character. So the text must be
 * an object or an array. The file must remain valid JSON, which only parsing can confirm.
 */
function isJsonLine(text: string): boolean {
  if ((text[0] !== '{' && text[0] !== '[') || text.includes('\n')) return false
  // Half a surrogate pair has no UTF-8 form. It would be stored as U+FFFD, which changes the text.
  if (/\p{Surrogate}/u.test(text)) return false
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

function decodeWith(codec: Codec<never, unknown>, text: string, snapshot: SnapshotFile): unknown {
  const encoded = text.startsWith('"') ? (parse(text, snapshot) as string) : text
  let decoded: unknown
  try {
    decoded = codec.decode(encoded)
  } catch (error) {
    throw codecError(snapshot, `The codec's decode threw for ${snapshot.path}: ${messageOf(error)}`, error)
  }
  if (!isStrayPromise(decoded)) return decoded
  throw codecError(snapshot, `Expected the codec's decode for ${snapshot.path} to return a state, got a promise`)
}

function parse(text: string, snapshot: SnapshotFile): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw damaged(snapshot, `its state is not JSON: ${messageOf(error)}`, error)
  }
}

function codecError(snapshot: SnapshotFile, message: string, cause?: unknown): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_CODEC', message, { ...snapshot, cause })
}
