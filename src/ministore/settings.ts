import { constants } from 'node:buffer'
import { type Channel, channel, type TracingChannel, tracingChannel } from 'node:diagnostics_channel'

import type { StandardSchemaV1 } from '@standard-schema/spec'

import type { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import { boolean, type Fields, fields, integer, permissions, shown, signalOption } from '../options.ts'
import { type Codec, codecOption, schemaOption } from '../schema.ts'
import type { RecoveryReport } from './recovery.ts'

export type { Codec } from '../schema.ts'

/** Options of `MiniStore.open`. */
export interface OpenOptions<Input = unknown, Output = Input> extends FileSystemOption {
  /**
   * Bytes a segment may hold, header included, before an append begins the next one. Only a record, or one
   * `appendAll`, that is larger than this alone makes a larger segment.
   *
   * @default 67_108_864 (64 MiB); minimum 1
   */
  readonly maxBytesPerSegment?: number | undefined
  /**
   * Segments to keep, the active one included. When a rotation makes more, the oldest are deleted with all
   * their records; opening deletes none.
   *
   * @default Infinity; minimum 1
   */
  readonly maxSegments?: number | undefined
  /**
   * Bytes one encoded record may have, its line feed not counted. A larger one is refused, nothing is written.
   *
   * @default 16_777_216 (16 MiB); minimum 1, maximum the longest string of the platform (about 512 MiB)
   */
  readonly maxRecordBytes?: number | undefined
  /** Replaces JSON. @default JSON.stringify and JSON.parse */
  readonly codec?: Codec<Input, Output> | undefined
  /**
   * `false` opens without the kernel's lock, for platforms and file systems that have none: then nothing but you keeps a
   * second process from writing, which destroys the journal.
   *
   * @default true
   */
  readonly lock?: boolean | undefined
  /**
   * Permissions of the files of a new journal, exactly so whatever the umask: 0o600 keeps it to its owner. A journal
   * that is there keeps its own: each file that it gets takes those of the active segment, and its owner where that is
   * permitted. Windows has no such permissions.
   *
   * @default 0o666 less the umask; 0o600 to 0o777
   */
  readonly mode?: number | undefined
}

/** The range and the manner of a replay. */
export interface StreamOptions {
  /** First sequence number, inclusive. @default the first record there is */
  readonly from?: number | undefined
  /** Last sequence number, inclusive. @default the last record acknowledged when the stream was made */
  readonly to?: number | undefined
  /** Ends the stream with the signal's reason and frees its file. */
  readonly signal?: AbortSignal | undefined
  /**
   * Goes on with records as they are appended, after those that are there. Ends with `to`, with the signal, or when
   * the store it was made from is closed.
   *
   * While it waits for a record it keeps the process alive. To wait for the end of a follower inside the `await using`
   * scope of its own store is to wait for ever: the store is closed only when that scope ends. Give it a signal, or
   * close the store first.
   *
   * @default false
   */
  readonly follow?: boolean | undefined
  /**
   * Is told of every damage, in its place among the records, instead of the stream ending there; what is damaged
   * is left out. Without it the first damage ends the stream with its error.
   *
   * If it returns a promise, the stream goes on when that is fulfilled. What it throws or rejects with ends the stream.
   */
  readonly salvage?: ((damage: MiniStoreError) => void) | undefined
}

/** Options of the static readers, which take a path instead of an open store. */
export interface ReadOptions<Output = unknown> extends StreamOptions, FileSystemOption {
  /** Replaces JSON. @default JSON.parse */
  readonly codec?: Pick<Codec<never, Output>, 'decode'> | undefined
  /**
   * Milliseconds between looks at the journal while following another process's writer; a directory watch makes it
   * quicker where there is one.
   *
   * @default 100; minimum 1
   */
  readonly pollIntervalMs?: number | undefined
}

/** A schema beside other options: its types flow into the store. */
export interface SchemaOption<Schema extends StandardSchemaV1> {
  readonly schema: Schema
}

const defaultMaxBytesPerSegment = 64 * 1024 * 1024
const defaultMaxRecordBytes = 16 * 1024 * 1024
const defaultPollIntervalMs = 100

/** Options of a writer, checked and complete. */
export interface WriterSettings {
  readonly maxBytesPerSegment: number
  readonly maxSegments: number
  readonly maxRecordBytes: number
  readonly lock: boolean
  readonly mode: number | undefined
  readonly codec: Codec | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly fileSystem: FileSystem
}

/** Options of a replay, checked and complete. */
export interface StreamSettings {
  readonly from: number | undefined
  readonly to: number | undefined
  readonly signal: AbortSignal | undefined
  readonly follow: boolean
  readonly salvage: ((damage: MiniStoreError) => void) | undefined
}

/** Options of a static reader, checked and complete. */
export interface ReadSettings extends StreamSettings {
  readonly codec: Pick<Codec, 'decode'> | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly pollIntervalMs: number
  readonly fileSystem: FileSystem
}

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function writerSettings(options: unknown): WriterSettings {
  const given = fields(options, [
    'maxBytesPerSegment', 'maxSegments', 'maxRecordBytes', 'schema', 'codec', 'lock', 'mode', 'fileSystem',
  ])
  return {
    maxBytesPerSegment: integer('maxBytesPerSegment', given['maxBytesPerSegment'], {
      otherwise: defaultMaxBytesPerSegment,
    }),
    maxSegments:
      given['maxSegments'] === Number.POSITIVE_INFINITY
        ? Number.POSITIVE_INFINITY
        : integer('maxSegments', given['maxSegments'], { otherwise: Number.POSITIVE_INFINITY }),
    maxRecordBytes: integer('maxRecordBytes', given['maxRecordBytes'], {
      otherwise: defaultMaxRecordBytes,
      // Its line feed must fit into the string too.
      most: constants.MAX_STRING_LENGTH - 1,
    }),
    lock: boolean('lock', given['lock'], true),
    mode: permissions('mode', given['mode']),
    codec: codecOption(given['codec'], ['encode', 'decode']),
    schema: schemaOption(given['schema']),
    fileSystem: fileSystemOption(given['fileSystem']),
  }
}

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function streamSettings(options: unknown): StreamSettings {
  return range(fields(options, streamNames))
}

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function readSettings(options: unknown): ReadSettings {
  const given = fields(options, [...streamNames, 'schema', 'codec', 'pollIntervalMs', 'fileSystem'])
  return {
    ...range(given),
    codec: codecOption(given['codec'], ['decode']),
    schema: schemaOption(given['schema']),
    pollIntervalMs: integer('pollIntervalMs', given['pollIntervalMs'], {
      otherwise: defaultPollIntervalMs,
      most: 0x7fffffff,
    }),
    fileSystem: fileSystemOption(given['fileSystem']),
  }
}

/** @throws {TypeError | RangeError} unless it is a sequence number: a whole number, 1 or greater. */
export function sequenceNumber(name: string, value: unknown): number {
  return integer(name, value)
}

const streamNames = ['from', 'to', 'signal', 'follow', 'salvage']

function range(given: Fields): StreamSettings {
  const from = optional(given['from'], (value) => sequenceNumber('from', value))
  const to = optional(given['to'], (value) => sequenceNumber('to', value))
  if (from !== undefined && to !== undefined && to < from) {
    throw new RangeError(`Expected \`to\` to be \`from\` (${from}) or greater, got ${to}`)
  }
  const { salvage } = given
  if (salvage !== undefined && typeof salvage !== 'function') {
    throw new TypeError(`Expected \`salvage\` to be a function, got ${shown(salvage)}`)
  }
  return {
    from,
    to,
    signal: signalOption(given['signal']),
    follow: boolean('follow', given['follow'], false),
    salvage: salvage as StreamSettings['salvage'],
  }
}

function optional<T>(value: unknown, check: (value: unknown) => T): T | undefined {
  return value === undefined ? undefined : check(value)
}

/** Context of the tracing channel `ministore:append`, for one `append` or one `appendAll`. */
export interface AppendTrace {
  /** Absolute path of the journal. */
  readonly path: string
  /** Number of bytes to write, including line feeds. */
  readonly bytes: number
  /** Number of records. */
  readonly records: number
  /** Sequence number of the last record. Set once the append is durable. */
  sequence?: number
}

/** Context of the tracing channel `ministore:rotate`. */
export interface RotateTrace {
  /** Absolute path of the journal. */
  readonly path: string
  /** File name that the sealed segment gets. */
  readonly segment: string
  /** Sequence number of the first record of the next segment. */
  readonly sequence: number
}

/** Context of the tracing channel `ministore:recover`. */
export interface RecoverTrace {
  /** Absolute path of the journal. */
  readonly path: string
  /** Result of the recovery. Set once it has succeeded. */
  report?: RecoveryReport
}

/** Message of the channel `ministore:poison`: a store can no longer write. */
export interface PoisonMessage {
  /** Absolute path of the journal. */
  readonly path: string
  /** `ERR_MINISTORE_POISONED` or `ERR_MINISTORE_MOVED`; its `cause` is the failure behind it. */
  readonly error: MiniStoreError
}

export const appendChannel: TracingChannel<unknown, AppendTrace> = tracingChannel('ministore:append')
export const rotateChannel: TracingChannel<unknown, RotateTrace> = tracingChannel('ministore:rotate')
export const recoverChannel: TracingChannel<unknown, RecoverTrace> = tracingChannel('ministore:recover')
export const poisonChannel: Channel<unknown, PoisonMessage> =
  channel('ministore:poison') as Channel<unknown, PoisonMessage>

/**
 * Runs a task on a tracing channel. Without subscribers it only calls the task.
 *
 * The result of the task becomes part of the message, so it must be a number or nothing. A
 * subscriber may log the message with `JSON.stringify`, and Node.js turns an error that a
 * subscriber throws into an uncaught exception. A value that `JSON.stringify` rejects could
 * therefore end the process.
 */
export function traced<T extends number | void, Context extends object>(
  tracing: TracingChannel<unknown, Context>,
  context: Context,
  task: () => Promise<T>,
): Promise<T> {
  return tracing.hasSubscribers ? tracing.tracePromise(task, context) : task()
}
