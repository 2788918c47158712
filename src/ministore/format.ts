import { basename, dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'

import { MiniStoreError } from '../errors.ts'
import { isOutOfSpace, replaceFile, temporarySuffix } from '../fs/durable.ts'
import { type FileAccess, type FileSystem, isNotFound } from '../fs/file-system.ts'

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

/** The seal's line, `\n` included: what is known of a prefix of the active segment, and a checksum of the line itself. */
export function formatSeal(prefix: SegmentPrefix): string {
  const facts = `bytes=${prefix.bytes} records=${prefix.records} crc32=${formatCrc32(prefix.crc32)}`
  return `${facts} check=${formatCrc32(crc32(facts))}\n`
}

/** Reads a seal's line; undefined when it is not whole. */
export function parseSeal(text: string): SegmentPrefix | undefined {
  const match = /^(bytes=(\d+) records=(\d+) crc32=([0-9a-f]{8})) check=([0-9a-f]{8})\n$/.exec(text)
  if (match === null) return undefined
  const [, facts = '', bytes = '', records = '', checksum, check] = match
  const crc = parseCrc32(checksum)
  if (crc === undefined || parseCrc32(check) !== crc32(facts)) return undefined
  const prefix = { bytes: Number(bytes), records: Number(records), crc32: crc }
  return Number.isSafeInteger(prefix.bytes) && Number.isSafeInteger(prefix.records) ? prefix : undefined
}

/**
 * The seal on disk, or undefined when there is none that is whole. A seal is an extra: without it a journal is
 * as readable as with it, only damage at rest in the active segment stays unseen.
 */
export async function readSeal(fs: FileSystem, sealPath: string): Promise<SegmentPrefix | undefined> {
  try {
    const file = await fs.open(sealPath, 'read')
    try {
      const buffer = Buffer.alloc(maxSealBytes)
      const length = await file.read(buffer, 0)
      return parseSeal(buffer.toString('latin1', 0, length))
    } finally {
      await file.close()
    }
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

/**
 * Puts a seal in place, atomically and durably; false when there is no space for it. A full disk is no reason to fail:
 * a seal is an extra, and the older one, if there is any, stays true.
 */
export async function writeSealIfRoom(
  fs: FileSystem,
  sealPath: string,
  { prefix, access }: { readonly prefix: SegmentPrefix; readonly access: FileAccess },
): Promise<boolean> {
  try {
    await replaceFile(fs, sealPath, { bytes: Buffer.from(formatSeal(prefix)), access })
    return true
  } catch (error) {
    if (isOutOfSpace(error)) return false
    throw error
  }
}

const maxSealBytes = 256

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

/** The highest number of a sealed segment: a name with more digits is not taken for one. */
export const maxSegmentNumber = 999_999_999_999_999

/** The files of one journal, all in one directory. The active segment's path is the journal's path. */
export class JournalFiles {
  readonly path: string
  readonly directory: string
  readonly name: string
  readonly seal: string
  readonly lock: string
  readonly next: string

  constructor(path: string) {
    this.path = path
    this.directory = dirname(path)
    this.name = basename(path)
    this.seal = `${path}.seal`
    this.lock = `${path}.lock`
    this.next = `${path}.next`
  }

  /** The path of a file of this name beside the journal. */
  at(name: string): string {
    return join(this.directory, name)
  }

  /** Name of a sealed segment: at least three digits, more when the number needs them. */
  sealedName(number: number): string {
    return `${this.name}.${String(number).padStart(3, '0')}`
  }

  /**
   * Number of a sealed segment by its file name, undefined when the name is not one. Any count of digits
   * will do: the Rust crate writes six.
   */
  sealedNumber(name: string): number | undefined {
    if (!name.startsWith(`${this.name}.`)) return undefined
    const digits = name.slice(this.name.length + 1)
    return /^\d{1,15}$/.test(digits) ? Number(digits) : undefined
  }

  /** Name for the bytes that recovery removed; `copy` counts from 1 when one name is taken. */
  tornName(sequence: number, copy: number): string {
    return `${this.name}.torn-${sequence}${copy === 1 ? '' : `-${copy}`}`
  }

  /** A name as long as any that a writer or a repair gives to a file of this journal. */
  get longestName(): string {
    return `${this.tornName(Number.MAX_SAFE_INTEGER, 999)}${temporarySuffix}`
  }

  /** Whether a writer of this journal makes, renames or removes files of this name; the active segment does not count. */
  isOwn(name: string): boolean {
    const others = [this.seal, this.lock].map((path) => basename(path))
    return this.sealedNumber(name) !== undefined || this.isLeftover(name) || others.includes(name)
  }

  /** Whether a file is left over from something that a crash cut short. */
  isLeftover(name: string): boolean {
    if (!name.startsWith(`${this.name}.`)) return false
    const ending = name.slice(this.name.length + 1)
    return ending === 'next' || (ending.endsWith(temporarySuffix) && /^(seal|torn-[\d-]+|repair)\./.test(ending))
  }
}
