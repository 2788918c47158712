import { constants } from 'node:buffer'
import { crc32 } from 'node:zlib'

import { MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'
import { temporarySuffix } from '../fs/durable.ts'

/**
 * The head of a snapshot.
 *
 * A snapshot is one line of JSON, `{"seq":…,"crc32":"…","journal":"…","state":…}`, followed by a line
 * feed. There are no blanks between its parts. `journal` is missing in a snapshot that belongs to no
 * journal. The checksum is the CRC-32 of the bytes of the journal's identity, if there is one, and of
 * the state's text.
 *
 * **Invariant.** A change anywhere in the file shows. Head and end have only one valid form, and
 * the checksum covers the identity and the state.
 */
export interface Head {
  readonly sequence: number
  readonly crc32: number
  /** Identity of the journal that the snapshot belongs to. */
  readonly journal: string | undefined
}

/** The text before the state. */
export function formatHead({ sequence, crc32: checksum, journal }: Head): string {
  const owner = journal === undefined ? '' : `"journal":"${journal}",`
  return `{"seq":${sequence},"crc32":"${hex(checksum)}",${owner}"state":`
}

/** The checksum before the first byte of the state. */
export function checksumOf(journal: string | undefined): number {
  return journal === undefined ? 0 : crc32(journal)
}

/** The text after the state. */
export const end = '}\n'

/** Number of bytes before the state in a snapshot with this sequence number and journal. */
export function headBytes({ sequence, journal }: Omit<Head, 'crc32'>): number {
  return formatHead({ sequence, crc32: 0, journal }).length
}

/** The most bytes that the head of a snapshot with this sequence number has. */
export function mostHeadBytes(sequence: number): number {
  return headBytes({ sequence, journal: '0'.repeat(16) })
}

/**
 * Parses the head of a snapshot with this sequence number, which may have more behind it. Returns
 * the problem if the head is not valid.
 */
export function checkHead(
  text: string,
  sequence: number,
): { readonly problem: string } | { readonly crc32: number; readonly journal: string | undefined; readonly bytes: number } {
  const found = /^\{"seq":(0|[1-9]\d*),"crc32":"([0-9a-f]{8})",(?:"journal":"([0-9a-f]{16})",)?"state":/.exec(text)
  if (found === null) return { problem: 'its beginning is not that of a snapshot' }
  const [head, seq, checksum = '', journal] = found
  // Compared as text, because beyond 2^53 different digits can give the same number.
  if (seq !== String(sequence)) return { problem: `its content has the sequence number ${seq}` }
  return { crc32: Number.parseInt(checksum, 16), journal, bytes: head.length }
}

/** A checksum as 8 lower-case hexadecimal digits. */
export function hex(checksum: number): string {
  return checksum.toString(16).padStart(8, '0')
}

/**
 * Maximum bytes in the text of a state. The text must become one string again when it is read. The
 * platform limits the length of that string, and a text has no more characters than bytes. So every
 * text within this limit can be read back.
 */
export const maxTextBytes: number = constants.MAX_STRING_LENGTH

/**
 * Passes texts on while their total size is within {@link maxTextBytes}.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_STATE_TOO_LARGE` at the text that exceeds the limit.
 */
export function* limited(texts: Iterable<string>, context: MiniStoreErrorContext): Generator<string, void, undefined> {
  let bytes = 0
  for (const text of texts) {
    bytes += Buffer.byteLength(text)
    if (bytes > maxTextBytes) throw textTooLarge(context)
    yield text
  }
}

/** The error for a state whose text does not fit into one string. */
export function textTooLarge(context: MiniStoreErrorContext, cause?: unknown): MiniStoreError {
  const limit = `${maxTextBytes} bytes (${Math.floor(maxTextBytes / 1024 / 1024)} MiB)`
  const advice = 'Split it into several states, each with its own directory, or keep large parts of it in other files.'
  const message = `The text of the state is longer than ${limit}, the longest string of this platform. ${advice}`
  return new MiniStoreError('ERR_MINISTORE_STATE_TOO_LARGE', message, { ...context, cause })
}

/** File name of the snapshot with this sequence number. */
export function snapshotName(sequence: number): string {
  return `snapshot-${sequence}.json`
}

/** Returns the sequence number in a snapshot's file name, or undefined for any other name. */
export function sequenceOf(name: string): number | undefined {
  const digits = /^snapshot-(0|[1-9]\d*)\.json$/.exec(name)?.[1]
  const sequence = Number(digits)
  return Number.isSafeInteger(sequence) ? sequence : undefined
}

/** Returns whether a name is that of a temporary file, into which a snapshot is written. */
export function isTemporary(name: string): boolean {
  return name.endsWith(temporarySuffix) && sequenceOf(name.slice(0, -temporarySuffix.length)) !== undefined
}

/**
 * Selects the snapshots that may be removed: all that are older than the `keep` newest whole ones.
 *
 * Damaged snapshots are evidence. They do not count towards `keep`, and stay as long as the whole
 * snapshots of their age.
 *
 * @param newestFirst sequence numbers of all existing snapshots, newest first.
 */
export function superseded(
  newestFirst: readonly number[],
  options: { readonly keep: number; readonly damaged: ReadonlySet<number> },
): number[] {
  const oldestKept = newestFirst.filter((sequence) => !options.damaged.has(sequence))[options.keep - 1]
  return oldestKept === undefined ? [] : newestFirst.filter((sequence) => sequence < oldestKept)
}
