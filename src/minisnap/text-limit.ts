import { constants } from 'node:buffer'

import { isRangeError, MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'

/**
 * Bytes that the text of a state may have. To be read it must become one string again, and the platform's limit is then
 * one of bytes: so what is written can be read.
 */
export const maxTextBytes: number = constants.MAX_STRING_LENGTH

/** The texts, up to the one with which they have more bytes than that. @throws {MiniStoreError} then. */
export function* limited(texts: Iterable<string>, context: MiniStoreErrorContext): Generator<string, void, undefined> {
  let bytes = 0
  for (const text of texts) {
    bytes += Buffer.byteLength(text)
    if (bytes > maxTextBytes) throw textTooLarge(context)
    yield text
  }
}

/** The error for a state that does not fit into one string. */
export function textTooLarge(context: MiniStoreErrorContext, cause?: unknown): MiniStoreError {
  const limit = `${maxTextBytes} bytes (${Math.floor(maxTextBytes / 1024 / 1024)} MiB)`
  const advice = 'Divide it into states of their own, each with its own directory, or keep its bulk in other files.'
  const message = `The text of the state is longer than ${limit}, the longest string of this platform. ${advice}`
  return new MiniStoreError('ERR_MINISTORE_STATE_TOO_LARGE', message, { ...context, cause })
}

/** Whether an error is the platform's refusal to make so long a string. */
export function isStringLimit(thrown: unknown): boolean {
  return isRangeError(thrown, /string length/i)
}
