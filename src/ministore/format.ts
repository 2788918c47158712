/**
 * The format of the files: headers, seals, checkpoints and file names.
 *
 * **Invariant.** Everything written reads back as the same values, and text with a damaged field is
 * refused, never guessed. A checkpoint stays correct, because a segment only grows.
 */
import { basename, dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'

import { MiniStoreError } from '../errors.ts'
import { ifPresent, isOutOfSpace, replaceFile, temporarySuffix } from '../fs/durable.ts'
import type { FileAccess, FileSystem } from '../fs/file-system.ts'
import { isJournalId } from '../options.ts'

/** The beginning of line 1 of every segment, in every format version and in the Rust crate. */
export const headerMagic = '// MINISTORE JOURNAL v'

/**
 * The format version that is written. Versions with the same or a lower major version can be read.
 */
export const formatVersion = '0.3.0'

/**
 * The maximum length of a header in bytes, without its `\n`. A longer first line is not a header.
 * Headers that this version writes have fewer than 90 bytes.
 */
export const maxHeaderBytes = 512

/**
 * The greatest sequence number, 2^53 - 1. Beyond it, two records could get one number in
 * JavaScript.
 */
export const maxSequence: number = Number.MAX_SAFE_INTEGER

/** The header of a segment, which is its line 1. */
export interface Header {
  /** The line without its `\n`. */
  readonly text: string
  /** Number of bytes including the `\n`, which is the offset of the first record. */
  readonly bytes: number
  /** Format version, for example `0.3.0`. */
  readonly version: string
  /** Sequence number of the segment's first record; undefined in files of version 0.1. */
  readonly sequence: number | undefined
  /**
   * Identity of the journal, the same in all of its segments; undefined only in files of a version
   * below 0.3.
   */
  readonly id: string | undefined
  /**
   * CRC-32 of all bytes of the segment before; undefined in the first segment and in version 0.1.
   */
  readonly previousCrc32: number | undefined
}

/** Formats a header line, including its `\n`. */
export function formatHeader(fields: {
  readonly sequence: number
  readonly id: string
  readonly previousCrc32: number | undefined
}): string {
  const previous = fields.previousCrc32 === undefined ? '' : ` prev=${formatCrc32(fields.previousCrc32)}`
  return `${headerMagic}${formatVersion} seq=${fields.sequence} id=${fields.id}${previous}\n`
}

/**
 * Parses a header line without its `\n`. Unknown fields are ignored, so a later minor version may
 * add some.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` if the line is not a valid header or is longer
 *   than {@link maxHeaderBytes}, `ERR_MINISTORE_UNSUPPORTED_VERSION` if its major version is
 *   greater than that of {@link formatVersion}.
 */
export function parseHeader(text: string, where: { readonly path: string; readonly segment: string }): Header {
  const [version = '', ...fields] = text.slice(headerMagic.length).trimEnd().split(' ')
  const [, major, minor] = /^(\d+)\.(\d+)\.\d+(?:[-+][0-9A-Za-z.+-]+)?$/.exec(version) ?? []
  // Headers are ASCII. A flipped bit can produce a byte that is not. Decoded as U+FFFD, that byte
  // would count as three bytes in `bytes` below.
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
  const id = values.get('id')
  // Headers of version 0.1 have no fields. Later ones always have `seq`, and from version 0.3 on
  // `id`, so their absence is damage.
  const isSince = (since: number): boolean => Number(major) > 0 || Number(minor) >= since
  const isSequenceDamaged = sequence === undefined && (values.has('seq') || isSince(2))
  const isIdDamaged = id === undefined ? isSince(3) : !isJournalId(id)
  if (isSequenceDamaged || isIdDamaged || isPreviousDamaged) throw notAHeader(text, where)
  return { text, bytes: Buffer.byteLength(text) + 1, version, sequence, id, previousCrc32 }
}

/**
 * The identity of the journal with these segments, from the newest header that has it. Undefined if
 * none does: then only programs of format versions below 0.3 have written the journal.
 */
export function idOf(segments: ReadonlyArray<{ readonly header: Header }>): string | undefined {
  return segments.findLast(({ header }) => header.id !== undefined)?.header.id
}

/**
 * Whether bytes without a `\n` may be a header whose writing was interrupted. True also if there
 * are no bytes or only NUL bytes, as in a file that was created but not written.
 */
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
      `${JSON.stringify(`${headerMagic}<version> seq=<n> id=<id> prev=<crc32>`)}, got ${got}`,
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

/**
 * Formats the line of a seal, including its `\n`. It holds the size, record count and checksum of a
 * beginning of the active segment, and a checksum of the line itself.
 */
export function formatSeal({ bytes, records, crc32: checksum }: Checkpoint): string {
  const facts = `bytes=${bytes} records=${records} crc32=${formatCrc32(checksum)}`
  return `${facts} check=${formatCrc32(crc32(facts))}\n`
}

/** Parses the line of a seal. Undefined if the line is incomplete or its checksum is wrong. */
export function parseSeal(text: string): Checkpoint | undefined {
  const match = /^(bytes=(\d+) records=(\d+) crc32=([0-9a-f]{8})) check=([0-9a-f]{8})\n$/.exec(text)
  if (match === null) return undefined
  const [, facts = '', bytes = '', records = '', checksum, check] = match
  const crc = parseCrc32(checksum)
  if (crc === undefined || parseCrc32(check) !== crc32(facts)) return undefined
  const sealed = { bytes: Number(bytes), records: Number(records), crc32: crc }
  return Number.isSafeInteger(sealed.bytes) && Number.isSafeInteger(sealed.records) ? sealed : undefined
}

/**
 * Reads the seal on disk. Undefined if it is missing or not valid.
 *
 * A seal is optional. A journal without one can be read just as well, but damage at rest in its
 * active segment may go undetected.
 */
export async function readSeal(fs: FileSystem, sealPath: string): Promise<Checkpoint | undefined> {
  const file = await ifPresent(fs.open(sealPath, 'read'))
  if (file === undefined) return undefined
  try {
    const buffer = Buffer.alloc(maxSealBytes)
    const length = await file.read(buffer, 0)
    return parseSeal(buffer.toString('latin1', 0, length))
  } finally {
    await file.close()
  }
}

/**
 * Writes a seal. When it resolves with `true`, the seal is durable. A crash before that leaves the
 * old seal or the new one.
 *
 * Resolves with `false` if there is no space. A full disk is not an error here, because a seal is
 * optional and an older seal remains correct.
 */
export async function writeSealIfRoom(
  fs: FileSystem,
  sealPath: string,
  { checkpoint, access }: { readonly checkpoint: Checkpoint; readonly access: FileAccess },
): Promise<boolean> {
  try {
    await replaceFile(fs, sealPath, { bytes: Buffer.from(formatSeal(checkpoint)), access })
    return true
  } catch (error) {
    if (isOutOfSpace(error)) return false
    throw error
  }
}

const maxSealBytes = 256

const newline = 0x0a

/**
 * The size, record count and checksum of the first bytes of a segment. They stay correct, because a
 * segment only grows.
 */
export interface Checkpoint {
  /** Number of bytes, including the header. */
  readonly bytes: number
  /** Number of records in these bytes. */
  readonly records: number
  /** CRC-32 of these bytes, including the header. */
  readonly crc32: number
}

/** The checkpoint at the end of the header. */
export function headerCheckpoint(header: Uint8Array): Checkpoint {
  return { bytes: header.length, records: 0, crc32: crc32(header) }
}

/** Extends a checkpoint by the bytes after it, which hold `records` records. */
export function extendCheckpoint(from: Checkpoint, bytes: Uint8Array, records: number): Checkpoint {
  return { bytes: from.bytes + bytes.length, records: from.records + records, crc32: crc32(bytes, from.crc32) }
}

/** Whether two checkpoints have the same size, record count and checksum. */
export function isSameCheckpoint(left: Checkpoint, right: Checkpoint): boolean {
  return left.bytes === right.bytes && left.records === right.records && left.crc32 === right.crc32
}

/** Counts the line feeds in the given bytes. */
export function countLines(bytes: Uint8Array): number {
  let count = 0
  for (let at = bytes.indexOf(newline); at !== -1; at = bytes.indexOf(newline, at + 1)) count++
  return count
}

/** Formats a CRC-32 as it is written to files: 8 lower-case hexadecimal digits. */
export function formatCrc32(value: number): string {
  return value.toString(16).padStart(8, '0')
}

/** Parses a CRC-32 from the text of {@link formatCrc32}. Undefined if the text is invalid. */
export function parseCrc32(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9a-f]{8}$/.test(text) ? Number.parseInt(text, 16) : undefined
}

/**
 * The greatest number of a sealed segment. A name with more digits does not belong to a segment.
 */
export const maxSegmentNumber = 999_999_999_999_999

/**
 * The names and paths of the files of one journal. All files are in one directory. The path of the
 * journal is that of its active segment.
 */
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

  /** The path of a file name in the directory of the journal. */
  at(name: string): string {
    return join(this.directory, name)
  }

  /** The name of a sealed segment. Its number has at least three digits. */
  sealedName(number: number): string {
    return `${this.name}.${String(number).padStart(3, '0')}`
  }

  /**
   * The number of a sealed segment, from its file name. Undefined if the name does not belong to a
   * sealed segment. The number may have 1 to 15 digits; the Rust crate writes six.
   */
  sealedNumber(name: string): number | undefined {
    if (!name.startsWith(`${this.name}.`)) return undefined
    const digits = name.slice(this.name.length + 1)
    return /^\d{1,15}$/.test(digits) ? Number(digits) : undefined
  }

  /** The sealed segments among these names, in the order of their numbers. */
  sealedNames(names: readonly string[]): Array<{ readonly name: string; readonly number: number }> {
    return names
      .flatMap((name) => {
        const number = this.sealedNumber(name)
        return number === undefined ? [] : [{ name, number }]
      })
      .toSorted((left, right) => left.number - right.number)
  }

  /**
   * The name of a file for bytes that recovery removed.
   *
   * @param sequence Sequence number that the record would have had.
   * @param copy 1 for the first such file, 2 if that name is taken, and so on.
   */
  tornName(sequence: number, copy: number): string {
    return `${this.name}.torn-${sequence}${copy === 1 ? '' : `-${copy}`}`
  }

  /** The path of a segment that a repair rewrites, until it is complete. */
  get repairTemporary(): string {
    return `${this.path}.repair${temporarySuffix}`
  }

  /** A name at least as long as any that a writer or a repair gives to a file of this journal. */
  get longestName(): string {
    return `${this.tornName(Number.MAX_SAFE_INTEGER, 999)}${temporarySuffix}`
  }

  /**
   * Whether a writer of this journal may create, rename or remove a file of this name. False for
   * the name of the active segment.
   */
  isOwn(name: string): boolean {
    const others = [this.seal, this.lock].map((path) => basename(path))
    return this.sealedNumber(name) !== undefined || this.isLeftover(name) || others.includes(name)
  }

  /** Whether a name is that of an unfinished file, as a crash may leave it behind. */
  isLeftover(name: string): boolean {
    if (!name.startsWith(`${this.name}.`)) return false
    const ending = name.slice(this.name.length + 1)
    if (ending === 'next') return true
    const unfinished = /^(?:seal|torn-[\d-]+|repair|(?:(?:seal|\d{1,15})\.)?broken(?:-\d+)?)\./
    return ending.endsWith(temporarySuffix) && unfinished.test(ending)
  }
}
