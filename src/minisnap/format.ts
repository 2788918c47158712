import { constants } from 'node:buffer'

import { isRangeError, MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'
import { temporarySuffix } from '../fs/durable.ts'

/**
 * A snapshot is one line of JSON, `{"seq":…,"crc32":"…","state":…}` and a line feed, without a blank between its
 * parts. The checksum is the CRC-32 of the bytes of the state's text. Nothing of the line can be changed, taken away or added
 * without it showing: head and end have one form only, and what is between them is under the checksum.
 */
export interface Head {
  readonly sequence: number
  readonly crc32: number
}

/** What comes before the state. */
export function formatHead({ sequence, crc32 }: Head): string {
  return `{"seq":${sequence},"crc32":"${hex(crc32)}","state":`
}

/** What comes after the state. */
export const end = '}\n'

/** How many bytes come before the state of a sequence number. */
export function headBytes(sequence: number): number {
  return formatHead({ sequence, crc32: 0 }).length
}

/** Why these bytes are not the head of a snapshot of this sequence number, or the checksum they give. */
export function checkHead(head: string, sequence: number): { readonly problem: string } | { readonly crc32: number } {
  const [, seq, crc32] = /^\{"seq":(0|[1-9]\d*),"crc32":"([0-9a-f]{8})","state":/.exec(head) ?? []
  if (seq === undefined || crc32 === undefined) return { problem: 'it does not begin as a snapshot does' }
  // As text: beyond 2^53 different digits are the same number.
  if (seq !== String(sequence)) return { problem: `it says that it is of sequence number ${seq}` }
  return { crc32: Number.parseInt(crc32, 16) }
}

/** A checksum as it is written. */
export function hex(crc32: number): string {
  return crc32.toString(16).padStart(8, '0')
}

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

/** File name of the snapshot of a sequence number. */
export function snapshotName(sequence: number): string {
  return `snapshot-${sequence}.json`
}

/** The sequence number of a snapshot's file name; undefined for a name that no store gives. */
export function sequenceOf(name: string): number | undefined {
  const digits = /^snapshot-(0|[1-9]\d*)\.json$/.exec(name)?.[1]
  const sequence = Number(digits)
  return Number.isSafeInteger(sequence) ? sequence : undefined
}

/** Whether a name is that of a snapshot that was being written. */
export function isTemporary(name: string): boolean {
  return name.endsWith(temporarySuffix) && sequenceOf(name.slice(0, -temporarySuffix.length)) !== undefined
}

/**
 * Which snapshots may go: those older than the `keep` newest whole ones. Damaged ones are evidence, so they do not
 * count and stay as long as what they lie among.
 *
 * @param newestFirst sequence numbers of all there are
 */
export function superseded(
  newestFirst: readonly number[],
  options: { readonly keep: number; readonly damaged: ReadonlySet<number> },
): number[] {
  const oldestKept = newestFirst.filter((sequence) => !options.damaged.has(sequence))[options.keep - 1]
  return oldestKept === undefined ? [] : newestFirst.filter((sequence) => sequence < oldestKept)
}
