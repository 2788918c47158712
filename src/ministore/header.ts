import { MiniStoreError } from '../errors.ts'
import { formatCrc32, parseCrc32 } from './segment-prefix.ts'

/** What line 1 of every segment begins with, of every version, in the Rust crate too. */
export const headerMagic = '// MINISTORE JOURNAL v'

/** The version that is written. Read is everything up to the same major version. */
export const formatVersion = '0.2.0'

/** No header is longer; a first line that is, is not a header. Those that are written have fewer than 80 bytes. */
export const maxHeaderBytes = 512

/** The last sequence number that there can be. Beyond it JavaScript would give two records one number. */
export const maxSequence: number = Number.MAX_SAFE_INTEGER

/** Line 1 of a segment. */
export interface Header {
  /** The line without its `\n`. */
  readonly text: string
  /** Bytes up to and including the `\n`: the offset of the first record. */
  readonly bytes: number
  readonly version: string
  /** Sequence number of the segment's first record; absent in files of version 0.1. */
  readonly sequence: number | undefined
  /** CRC-32 of all bytes of the segment before; absent in the first segment and in version 0.1. */
  readonly previousCrc32: number | undefined
}

/** A header line, `\n` included. */
export function formatHeader(fields: {
  readonly sequence: number
  readonly previousCrc32: number | undefined
}): string {
  const previous = fields.previousCrc32 === undefined ? '' : ` prev=${formatCrc32(fields.previousCrc32)}`
  return `${headerMagic}${formatVersion} seq=${fields.sequence}${previous}\n`
}

/**
 * Reads a header line given without its `\n`. Fields it does not know are passed over, so that a later minor
 * version may add some.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` when it is no header or is longer than the limit, `ERR_MINISTORE_UNSUPPORTED_VERSION` when
 *   its major version is newer than ours.
 */
export function parseHeader(text: string, where: { readonly path: string; readonly segment: string }): Header {
  const [version = '', ...fields] = text.slice(headerMagic.length).trimEnd().split(' ')
  const [, major, minor] = /^(\d+)\.(\d+)\.\d+(?:[-+][0-9A-Za-z.+-]+)?$/.exec(version) ?? []
  // Ours are ASCII. A flipped bit can make a byte that is none, and would be counted as three.
  const isAscii = /^[\x20-\x7e]*\r?$/.test(text)
  const isTooLong = text.length > maxHeaderBytes
  if (!text.startsWith(headerMagic) || major === undefined || !isAscii || isTooLong) throw notAHeader(text, where)
  if (Number(major) > Number.parseInt(formatVersion, 10)) {
    throw new MiniStoreError(
      'ERR_MINISTORE_UNSUPPORTED_VERSION',
      `${where.segment} has format version ${version}; this library reads up to ${formatVersion} and its later minor ` +
        'versions. Open it with a newer release.',
      { ...where, line: 1, offset: 0 },
    )
  }
  const values = new Map(fields.map((field) => split(field)))
  const sequence = parseSequence(values.get('seq'))
  const previousCrc32 = parseCrc32(values.get('prev'))
  const isPreviousDamaged = values.has('prev') && previousCrc32 === undefined
  // Version 0.1 had no fields; since then `seq` is always there, so its absence is damage.
  const isSequenceDamaged = sequence === undefined && (values.has('seq') || Number(major) > 0 || Number(minor) > 1)
  if (isSequenceDamaged || isPreviousDamaged) throw notAHeader(text, where)
  return { text, bytes: Buffer.byteLength(text) + 1, version, sequence, previousCrc32 }
}

/** Whether bytes without a `\n` can be a header whose writing was cut short, or were never written at all. */
export function isPartialHeader(bytes: Uint8Array): boolean {
  if (bytes.length > maxHeaderBytes) return false
  if (bytes.every((byte) => byte === 0)) return true
  const text = Buffer.from(bytes).toString('latin1')
  return headerMagic.startsWith(text) || (text.startsWith(headerMagic) && /^[\w .=+-]*$/.test(text.slice(headerMagic.length)))
}

function notAHeader(text: string, where: { readonly path: string; readonly segment: string }): MiniStoreError {
  const isMarked = text.startsWith('\uFEFF')
  const start = JSON.stringify(text.slice(0, 60))
  const isTooLong = text.startsWith(headerMagic) && text.length > maxHeaderBytes
  const length = isTooLong ? ` and more than ${maxHeaderBytes} bytes` : ''
  const got = isMarked ? 'a UTF-8 byte order mark (was it saved by an editor?)' : start + length
  return new MiniStoreError(
    'ERR_MINISTORE_CORRUPT',
    `${where.segment} is not a journal or its header is damaged: expected line 1 to be ` +
      `${JSON.stringify(`${headerMagic}<version> seq=<n> prev=<crc32>`)}, got ${got}`,
    { ...where, line: 1, offset: 0 },
  )
}

function parseSequence(text: string | undefined): number | undefined {
  if (text === undefined || !/^[1-9]\d{0,15}$/.test(text)) return undefined
  const sequence = Number(text)
  return sequence <= maxSequence ? sequence : undefined
}

function split(field: string): [string, string] {
  const at = field.indexOf('=')
  return at === -1 ? [field, ''] : [field.slice(0, at), field.slice(at + 1)]
}
