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
