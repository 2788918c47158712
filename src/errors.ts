import { inspect } from 'node:util'

/**
 * Every code a {@link MiniStoreError} can carry. Codes are stable API; messages may change.
 *
 * | code | what happened | what is left |
 * |---|---|---|
 * | `ERR_MINISTORE_NOT_SERIALIZABLE` | the record has no JSON form (undefined, function, cycle, BigInt, throwing `toJSON`), or a state none that reads back as it was | nothing written |
 * | `ERR_MINISTORE_RECORD_TOO_LARGE` | the encoded record exceeds `maxRecordBytes`, or a payload `maxPayloadBytes` | nothing written |
 * | `ERR_MINISTORE_STATE_TOO_LARGE` | the text of a state exceeds the longest string of the platform (about 512 MiB) | nothing written |
 * | `ERR_MINISTORE_SCHEMA` | the record or state fails the schema | on append or create: nothing written |
 * | `ERR_MINISTORE_CODEC` | the codec threw or gave a text that cannot be one line | on append or create: nothing written |
 * | `ERR_MINISTORE_IO` | a system call failed, see `cause` | nothing was written, unless the message says so; the store is usable |
 * | `ERR_MINISTORE_OUTCOME_UNKNOWN` | the fsync of this very append or snapshot's name failed | it may or may not survive; a journal is poisoned, older snapshots are as they were |
 * | `ERR_MINISTORE_POISONED` | an earlier write or fsync failed beyond repair | the record was not written; only `close()` works |
 * | `ERR_MINISTORE_CLOSED` | the store is closed or closing | the record was not written |
 * | `ERR_MINISTORE_LOCKED` | another writer has the journal open | nothing changed |
 * | `ERR_MINISTORE_LOCK_UNAVAILABLE` | this platform or file system offers no kernel lock | nothing changed |
 * | `ERR_MINISTORE_NAME_TAKEN` | the path is that of a file of another journal, as `events.2024` is beside `events`, or the other way round | nothing changed |
 * | `ERR_MINISTORE_MOVED` | the journal's directory or active segment was removed, moved or replaced while it was open | nothing there is changed; only `close()` works |
 * | `ERR_MINISTORE_CORRUPT` | damage that is not a torn tail | nothing changed |
 * | `ERR_MINISTORE_UNSUPPORTED_VERSION` | a newer major version of the format | nothing changed |
 * | `ERR_MINISTORE_SNAPSHOT_DAMAGED` | a snapshot is not as it was written, or all of them are not | nothing changed |
 * | `ERR_MINISTORE_SEQUENCE_GONE` | the record was removed by retention or truncation | – |
 * | `ERR_MINISTORE_SEQUENCE_CONFLICT` | the state is not at the sequence number that the caller expected | nothing written |
 * | `ERR_MINISTORE_MUTATOR` | the mutator threw for a mutation that is in the journal | the mutation is written; only `close()` works |
 * | `ERR_MINISTORE_SNAPSHOT_AHEAD` | a snapshot is of a later sequence number than the journal's last | nothing changed, but that a torn tail is cut |
 * | `ERR_MINISTORE_STATE_GAP` | mutations between a snapshot and the journal's first are missing | the same |
 * | `ERR_MINISTORE_QUEUE_FULL` | a queue has as many messages as `maxDepth` says, or as a snapshot can hold | nothing written |
 * | `ERR_MINISTORE_MESSAGE_SETTLED` | the message was acked or nacked before, or is being so | nothing written |
 * | `ERR_MINISTORE_LEASE_LOST` | the lease of the message is over | nothing written; the message comes again, or is a dead letter |
 * | `ERR_MINISTORE_NO_SUCH_MESSAGE` | a queue has no dead letter of this id | nothing written |
 */
export type MiniStoreErrorCode =
  | 'ERR_MINISTORE_NOT_SERIALIZABLE'
  | 'ERR_MINISTORE_RECORD_TOO_LARGE'
  | 'ERR_MINISTORE_STATE_TOO_LARGE'
  | 'ERR_MINISTORE_SCHEMA'
  | 'ERR_MINISTORE_CODEC'
  | 'ERR_MINISTORE_IO'
  | 'ERR_MINISTORE_OUTCOME_UNKNOWN'
  | 'ERR_MINISTORE_POISONED'
  | 'ERR_MINISTORE_CLOSED'
  | 'ERR_MINISTORE_LOCKED'
  | 'ERR_MINISTORE_LOCK_UNAVAILABLE'
  | 'ERR_MINISTORE_NAME_TAKEN'
  | 'ERR_MINISTORE_MOVED'
  | 'ERR_MINISTORE_CORRUPT'
  | 'ERR_MINISTORE_UNSUPPORTED_VERSION'
  | 'ERR_MINISTORE_SNAPSHOT_DAMAGED'
  | 'ERR_MINISTORE_SEQUENCE_GONE'
  | 'ERR_MINISTORE_SEQUENCE_CONFLICT'
  | 'ERR_MINISTORE_MUTATOR'
  | 'ERR_MINISTORE_SNAPSHOT_AHEAD'
  | 'ERR_MINISTORE_STATE_GAP'
  | 'ERR_MINISTORE_QUEUE_FULL'
  | 'ERR_MINISTORE_MESSAGE_SETTLED'
  | 'ERR_MINISTORE_LEASE_LOST'
  | 'ERR_MINISTORE_NO_SUCH_MESSAGE'

/** Where in a journal an error lies; every field is optional and absent when it does not apply. */
export interface MiniStoreErrorContext {
  /** Path of the journal, or of the snapshot. */
  readonly path?: string | undefined
  /** File name of the segment. */
  readonly segment?: string | undefined
  /** Line in the segment; 1 is the header. */
  readonly line?: number | undefined
  /** Byte offset of that line in the segment. */
  readonly offset?: number | undefined
  /** Sequence number of the record, or of the snapshot. */
  readonly sequence?: number | undefined
  /** What a schema found wrong, as Standard Schema issues. */
  readonly issues?: ReadonlyArray<{ readonly message: string }> | undefined
}

/** The one error class of the library; tell errors apart by `code`. */
export class MiniStoreError extends Error {
  override readonly name = 'MiniStoreError'
  readonly code: MiniStoreErrorCode
  readonly path: string | undefined
  readonly segment: string | undefined
  readonly line: number | undefined
  readonly offset: number | undefined
  readonly sequence: number | undefined
  readonly issues: ReadonlyArray<{ readonly message: string }> | undefined

  constructor(
    code: MiniStoreErrorCode,
    message: string,
    context: MiniStoreErrorContext & { readonly cause?: unknown } = {},
  ) {
    super(message, context.cause === undefined ? undefined : { cause: context.cause })
    this.code = code
    this.path = context.path
    this.segment = context.segment
    this.line = context.line
    this.offset = context.offset
    this.sequence = context.sequence
    this.issues = context.issues
  }

  /** For logs: its message too, and of the issues, which a schema library has made, what has a JSON form. */
  toJSON(): object {
    const { name, code, message, path, segment, line, offset, sequence } = this
    return { name, code, message, path, segment, line, offset, sequence, issues: jsonOf(this.issues) }
  }
}

function jsonOf(value: unknown): unknown {
  try {
    return value === undefined ? undefined : (JSON.parse(JSON.stringify(value)) as unknown)
  } catch {
    return undefined
  }
}

/**
 * Whether it is an error of this library and, when codes are given, has one of them. Told by its shape, as everything is that
 * may come from another realm or from another copy of the library: there classes are others, and `instanceof` says no.
 */
export function isMiniStoreError(thrown: unknown, ...codes: readonly MiniStoreErrorCode[]): thrown is MiniStoreError {
  if (propertyOf(thrown, 'name') !== 'MiniStoreError') return false
  const code = propertyOf(thrown, 'code')
  return typeof code === 'string' && (codes.length === 0 || (codes as readonly string[]).includes(code))
}

/** Whether it is a RangeError of the platform, of whatever realm, with such a message. */
export function isRangeError(thrown: unknown, message: RegExp): boolean {
  return propertyOf(thrown, 'name') === 'RangeError' && message.test(messageOf(thrown))
}

/** Whether it was made by a class of our own that never leaves the library. `instanceof` would throw at a revoked Proxy. */
export function isInstance<T>(thrown: unknown, own: abstract new (...given: never[]) => T): thrown is T {
  try {
    return own[Symbol.hasInstance](thrown)
  } catch {
    return false
  }
}

/** A property of anything that was thrown; undefined when it has none, or none that can be read. Never throws. */
export function propertyOf(thrown: unknown, name: string): unknown {
  try {
    return (thrown as { readonly [name: string]: unknown } | null | undefined)?.[name]
  } catch {
    // A getter threw, or a Proxy that is revoked.
    return undefined
  }
}

/** The message of anything that was thrown; without one, what `node:util` shows of it, on one line. Never throws. */
export function messageOf(thrown: unknown): string {
  if (typeof thrown === 'string') return thrown
  const message = propertyOf(thrown, 'message')
  if (typeof message === 'string') return message
  // The text of an error with such a message would say "[object Object]".
  return inspected(typeof message === 'object' && message !== null ? message : thrown)
}

const longestInspected = 200

function inspected(thrown: unknown): string {
  try {
    const text = inspect(thrown, { depth: 1, breakLength: Number.POSITIVE_INFINITY, customInspect: false })
    // Where an error was made is in its stack, for whoever is given the error itself.
    const line = text.replaceAll(/\n\s+at [^\n]*/g, '').replaceAll(/\s*\n\s*/g, ' ')
    return line.length > longestInspected ? `${line.slice(0, longestInspected)}…` : line
  } catch {
    // A getter that `inspect` looks at threw.
    return `a thrown ${typeof thrown} that cannot be shown`
  }
}

/**
 * The error for a failed system call; one that is a {@link MiniStoreError} already stays as it is.
 *
 * @param doing what was being done, as in "Could not … "
 */
export function ioError(doing: string, cause: unknown, context: MiniStoreErrorContext): MiniStoreError {
  if (isMiniStoreError(cause)) return cause
  return new MiniStoreError('ERR_MINISTORE_IO', `Could not ${doing}: ${messageOf(cause)}`, { ...context, cause })
}
