import { constants } from 'node:buffer'

import type { StandardSchemaV1 } from '@standard-schema/spec'

import type { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import { boolean, type Fields, fields, integer, optionalCallback, permissions, shown, signalOption } from '../options.ts'
import { type Codec, codecOption, schemaOption } from '../schema.ts'

export type { Codec, KeptByJson, NotKeptByJson } from '../schema.ts'

/** Options of `MiniStore.open`. */
export interface OpenOptions<Input = unknown, Output = Input> extends FileSystemOption {
  /**
   * Maximum size of a segment in bytes, header included. An append that would exceed it begins the
   * next segment. Only a single record or a single `appendAll` that does not fit by itself makes a
   * larger segment.
   *
   * @default 67_108_864 (64 MiB); minimum 1
   */
  readonly maxBytesPerSegment?: number | undefined
  /**
   * Number of segments to keep, including the active one. When a rotation makes more, the oldest
   * segments are deleted with all their records. Opening a journal deletes none, because deletion
   * belongs to a rotation, which the caller sees.
   *
   * @default Infinity; minimum 1
   */
  readonly maxSegments?: number | undefined
  /**
   * Writes NUL bytes ahead of the records, so that an append overwrites bytes in place. Its sync then
   * changes neither the size of the file nor the allocation of blocks, and takes about a third less
   * time. `true` writes 64 KiB at a time; a number is that many bytes.
   *
   * The padding is only in the active segment, and only while it is open. A rotation, `close` and
   * `appendAll` of several records cut it off first, which takes one more sync. The next open cuts it
   * off after a crash. Programs that watch the size of the file do not see its growth, such as
   * `tail -f` and log shippers; followers of this library do.
   *
   * @default false; a number from 0 to 16_777_216 (16 MiB)
   */
  readonly preallocate?: boolean | number | undefined
  /**
   * Maximum size of one encoded record in bytes, without its line feed. A larger record is refused
   * and nothing is written.
   *
   * @default 16_777_216 (16 MiB); minimum 1, maximum the longest string of the platform (about
   *   512 MiB)
   */
  readonly maxRecordBytes?: number | undefined
  /** Encodes and decodes records in place of JSON. @default JSON.stringify and JSON.parse */
  readonly codec?: Codec<Input, Output> | undefined
  /**
   * Whether to take the kernel's lock. `false` is for platforms and file systems that have none.
   * You must then prevent a second process from writing, because two writers destroy the journal.
   *
   * @default true
   */
  readonly lock?: boolean | undefined
  /**
   * Permissions of the files of a new journal, set exactly, regardless of the umask. For example,
   * 0o600 restricts the journal to its owner.
   *
   * An existing journal keeps its permissions: each file that is added takes those of the active
   * segment, and its owner where the system permits it. Windows has no such permissions.
   *
   * @default 0o666 less the umask; from 0o600 to 0o777, with read and write for the owner
   */
  readonly mode?: number | undefined
}

/** Options of a replay: which records it gives, and how. */
export interface StreamOptions {
  /** First sequence number, inclusive. @default that of the oldest record */
  readonly from?: number | undefined
  /**
   * Last sequence number, inclusive.
   *
   * @default that of the last record acknowledged when the stream was created; for a static reader,
   *   of the last whole record when the stream is first read; with `follow`, no limit
   */
  readonly to?: number | undefined
  /** When aborted, ends the stream with the signal's reason and closes its file. */
  readonly signal?: AbortSignal | undefined
  /**
   * Whether the stream continues with new records after the existing ones, as they are appended. It
   * then ends at `to`, when the signal is aborted, or when the store that created it is closed.
   *
   * A follower that waits for a record keeps the process alive. Do not await its end inside the
   * `await using` scope of its own store: the store is closed only when the scope ends, so the wait
   * would never end. Give the follower a signal, or close the store first.
   *
   * @default false
   */
  readonly follow?: boolean | undefined
  /**
   * Receives each damage at its place among the records. The stream then skips the damaged part and
   * continues. Without `salvage`, the first damage ends the stream with its error. Damage after
   * which nothing can be read, such as a line longer than a string can be, always ends the stream.
   *
   * If the function returns a promise, the stream continues once the promise is fulfilled. An error
   * that it throws or rejects with ends the stream.
   */
  readonly salvage?: ((damage: MiniStoreError) => void) | undefined
}

/** Options of `bytes()`: those of a replay, except that no damage can be left out. */
export type BytesOptions = Omit<StreamOptions, 'salvage'>

/** Options of the static readers, which take a path instead of an open store. */
export interface ReadOptions<Output = unknown> extends StreamOptions, FileSystemOption {
  /** Decodes records in place of JSON. @default JSON.parse */
  readonly codec?: Pick<Codec<never, Output>, 'decode'> | undefined
  /**
   * Milliseconds between checks of the journal while following a writer in another process. Where
   * the directory can be watched, changes are noticed sooner.
   *
   * @default 100; minimum 1, maximum 2_147_483_647
   */
  readonly pollIntervalMs?: number | undefined
}

/** The schema option. It sets the types of the records of a store or reader. */
export interface SchemaOption<Schema extends StandardSchemaV1> {
  /** Any Standard Schema (zod, valibot, arktype …), synchronous or asynchronous. */
  readonly schema: Schema
}

/** Options of a writer, validated and with defaults filled in. */
export interface WriterSettings {
  readonly maxBytesPerSegment: number
  readonly maxSegments: number
  /** Number of bytes to write ahead at a time; 0 for none. */
  readonly preallocate: number
  readonly maxRecordBytes: number
  readonly lock: boolean
  readonly mode: number | undefined
  readonly codec: Codec | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly fileSystem: FileSystem
}

/** Options of a replay, validated and with defaults filled in. */
export interface StreamSettings {
  readonly from: number | undefined
  readonly to: number | undefined
  readonly signal: AbortSignal | undefined
  readonly follow: boolean
  readonly salvage: ((damage: MiniStoreError) => void) | undefined
}

/** Options of a static reader, validated and with defaults filled in. */
export interface ReadSettings extends StreamSettings {
  readonly codec: Pick<Codec, 'decode'> | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly pollIntervalMs: number
  readonly fileSystem: FileSystem
}

/**
 * Validates the options of a writer and fills in the defaults.
 *
 * @throws {TypeError | RangeError} if an option is unknown or its value is invalid.
 */
export function writerSettings(options: unknown): WriterSettings {
  const given = fields(options, [
    'maxBytesPerSegment', 'maxSegments', 'preallocate', 'maxRecordBytes', 'schema', 'codec', 'lock', 'mode', 'fileSystem',
  ])
  return {
    maxBytesPerSegment: integer('maxBytesPerSegment', given['maxBytesPerSegment'], { default: 64 * 1024 * 1024 }),
    maxSegments: integer('maxSegments', given['maxSegments'], { default: Number.POSITIVE_INFINITY, orInfinity: true }),
    preallocate: preallocation(given['preallocate']),
    // The line feed must fit into the longest string as well.
    maxRecordBytes: integer('maxRecordBytes', given['maxRecordBytes'], {
      default: 16 * 1024 * 1024, max: constants.MAX_STRING_LENGTH - 1,
    }),
    lock: boolean('lock', given['lock'], { default: true }),
    mode: permissions('mode', given['mode']),
    codec: codecOption(given['codec'], ['encode', 'decode']),
    schema: schemaOption(given['schema']),
    fileSystem: fileSystemOption(given['fileSystem']),
  }
}

function preallocation(given: unknown): number {
  if (given === undefined || given === false) return 0
  if (given === true) return 64 * 1024
  if (typeof given !== 'number') throw new TypeError(`Expected \`preallocate\` to be a boolean or a number of bytes, got ${shown(given)}`)
  return integer('preallocate', given, { min: 0, max: 16 * 1024 * 1024 })
}

/**
 * Validates the options of a replay and fills in the defaults.
 *
 * @throws {TypeError | RangeError} if an option is unknown or its value is invalid.
 */
export function streamSettings(options: unknown): StreamSettings {
  return range(fields(options, streamNames))
}

/**
 * Refuses the options that `bytes()` cannot keep.
 *
 * @throws {TypeError} if one of them is present.
 */
export function bytesSettings<Settings extends Partial<ReadSettings>>(settings: Settings): Settings {
  for (const name of ['salvage', 'schema'] as const) {
    if (settings[name] !== undefined) throw new TypeError(`Expected \`${name}\` to be absent: bytes() gives whole lines as they are`)
  }
  return settings
}

/**
 * Validates the options of a static reader and fills in the defaults.
 *
 * @throws {TypeError | RangeError} if an option is unknown or its value is invalid.
 */
export function readSettings(options: unknown): ReadSettings {
  const given = fields(options, [...streamNames, 'schema', 'codec', 'pollIntervalMs', 'fileSystem'])
  return {
    ...range(given),
    codec: codecOption(given['codec'], ['decode']),
    schema: schemaOption(given['schema']),
    pollIntervalMs: integer('pollIntervalMs', given['pollIntervalMs'], { default: 100, max: 0x7fffffff }),
    fileSystem: fileSystemOption(given['fileSystem']),
  }
}

const streamNames = ['from', 'to', 'signal', 'follow', 'salvage']

function range(given: Fields): StreamSettings {
  const sequence = (name: string): number | undefined =>
    given[name] === undefined ? undefined : integer(name, given[name])
  const from = sequence('from')
  const to = sequence('to')
  if (from !== undefined && to !== undefined && to < from) {
    throw new RangeError(`Expected \`to\` to be \`from\` (${from}) or greater, got ${to}`)
  }
  return {
    from,
    to,
    signal: signalOption(given['signal']),
    follow: boolean('follow', given['follow'], { default: false }),
    salvage: optionalCallback('salvage', given['salvage']),
  }
}
