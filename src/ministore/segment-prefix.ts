import { crc32 } from 'node:zlib'

const newline = 0x0a

/**
 * The first bytes of a segment, as far as something is known of them: how many bytes, how many records they hold
 * and their CRC-32, header included in bytes and checksum. Segments only grow, so what is known stays true.
 */
export interface SegmentPrefix {
  readonly bytes: number
  readonly records: number
  readonly crc32: number
}

/** A prefix of nothing but the header. */
export function headerPrefix(header: Uint8Array): SegmentPrefix {
  return { bytes: header.length, records: 0, crc32: crc32(header) }
}

/** The prefix with `records` more records, which are the given bytes. */
export function extendPrefix(prefix: SegmentPrefix, bytes: Uint8Array, records: number): SegmentPrefix {
  return {
    bytes: prefix.bytes + bytes.length,
    records: prefix.records + records,
    crc32: crc32(bytes, prefix.crc32),
  }
}

/** Whether both say the same of the same bytes. */
export function samePrefix(left: SegmentPrefix, right: SegmentPrefix): boolean {
  return left.bytes === right.bytes && left.records === right.records && left.crc32 === right.crc32
}

/** How many lines end in these bytes. */
export function countLines(bytes: Uint8Array): number {
  let count = 0
  for (let at = bytes.indexOf(newline); at !== -1; at = bytes.indexOf(newline, at + 1)) count++
  return count
}

/** A CRC-32 as it stands in files: 8 lower-case hexadecimal digits. */
export function formatCrc32(value: number): string {
  return value.toString(16).padStart(8, '0')
}

/** The CRC-32 of such a text, or undefined when it is none. */
export function parseCrc32(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9a-f]{8}$/.test(text) ? Number.parseInt(text, 16) : undefined
}
