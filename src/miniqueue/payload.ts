import { ignoreOutcome, isThenable } from '../async.ts'
import { messageOf, MiniStoreError } from '../errors.ts'
import { isObject } from '../options.ts'

/** A payload as it is at the moment; what happens to the object afterwards changes nothing. */
export interface EncodedPayload {
  readonly json: string
  /** Length of that in bytes. */
  readonly bytes: number
}

/** Far more than data has, and far less than JSON.stringify and a snapshot can follow. */
const maxLevels = 500

/** @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE` or `…_RECORD_TOO_LARGE`. */
export function encodePayload(payload: unknown, maxBytes: number): EncodedPayload {
  const json = jsonOf(payload)
  const bytes = Buffer.byteLength(json)
  if (bytes > maxBytes) {
    const message = `Expected a payload of at most ${maxBytes} bytes (maxPayloadBytes), got one of ${bytes}`
    throw new MiniStoreError('ERR_MINISTORE_RECORD_TOO_LARGE', message)
  }
  // Each level takes two characters at least, so a short text need not be looked at.
  if (json.length > 2 * maxLevels && isTooDeep(JSON.parse(json))) {
    throw notSerializable(`it is nested deeper than ${maxLevels} levels`)
  }
  return { json, bytes }
}

/** A copy of a payload of the state, which the caller may change. */
export function copyPayload(payload: unknown): unknown {
  return isObject(payload) ? (JSON.parse(JSON.stringify(payload)) as unknown) : payload
}

/** Whether JSON.stringify and a snapshot might not be able to follow. */
export function isTooDeep(payload: unknown): boolean {
  return isDeeper(payload, maxLevels)
}

function jsonOf(payload: unknown): string {
  if (isThenable(payload)) {
    ignoreOutcome(payload)
    throw notSerializable('it is a promise, so an `await` is missing')
  }
  let json: unknown
  try {
    json = JSON.stringify(payload)
  } catch (error) {
    throw notSerializable(messageOf(error), error)
  }
  if (typeof json === 'string') return json
  throw notSerializable(`got ${payload === undefined ? 'undefined' : `a ${typeof payload}`}`)
}

function isDeeper(value: unknown, levels: number): boolean {
  if (!isObject(value)) return false
  return levels === 0 || Object.values(value).some((entry) => isDeeper(entry, levels - 1))
}

function notSerializable(why: string, cause?: unknown): MiniStoreError {
  const message = `The payload has no JSON form that can be kept: ${why}`
  return new MiniStoreError('ERR_MINISTORE_NOT_SERIALIZABLE', message, { cause })
}
