import { inspect } from 'node:util'

import type { StandardSchemaV1 } from '@standard-schema/spec'

/**
 * Every code that a {@link MiniStoreError} can carry, with its cause and its effect. Codes are
 * stable API; messages may change.
 */
export type MiniStoreErrorCode =
  /**
   * The record has no JSON form (undefined, function, cycle, BigInt, throwing `toJSON`), or a state
   * has no JSON form that reads back unchanged. Or the line of a prepared record is not JSON. Nothing
   * is written.
   */
  | 'ERR_MINISTORE_NOT_SERIALIZABLE'
  /**
   * The encoded record exceeds `maxRecordBytes`, or a payload exceeds `maxPayloadBytes`. Nothing is
   * written.
   */
  | 'ERR_MINISTORE_RECORD_TOO_LARGE'
  /**
   * The text of a state exceeds the longest string of the platform (about 512 MiB). Nothing is
   * written.
   */
  | 'ERR_MINISTORE_STATE_TOO_LARGE'
  /** The record or state fails the schema. On append or create, nothing is written. */
  | 'ERR_MINISTORE_SCHEMA'
  /**
   * The codec threw or returned text that cannot be one line. On append or create, nothing is
   * written.
   */
  | 'ERR_MINISTORE_CODEC'
  /**
   * A system call failed; see `cause`. Nothing is written unless the message says so, and the store
   * stays usable.
   */
  | 'ERR_MINISTORE_IO'
  /**
   * The fsync of this append, or of the name of this snapshot, failed, or a failed write could not
   * be rolled back. The record or snapshot may or may not survive. A journal is then poisoned;
   * older snapshots are unchanged.
   */
  | 'ERR_MINISTORE_OUTCOME_UNKNOWN'
  /**
   * An earlier write or fsync failed beyond repair, or something else has appended to the journal of
   * a state. The record is not written. Only `close()` works.
   */
  | 'ERR_MINISTORE_POISONED'
  /** The store is closed or closing. The record is not written. */
  | 'ERR_MINISTORE_CLOSED'
  /** Another writer has the journal open, or another view its snapshots. Nothing changes. */
  | 'ERR_MINISTORE_LOCKED'
  /** This platform or file system offers no kernel lock. Nothing changes. */
  | 'ERR_MINISTORE_LOCK_UNAVAILABLE'
  /**
   * The path names a file of another journal, as `events.2024` does beside `events`, or another
   * journal's path names a file of this journal. Nothing changes.
   */
  | 'ERR_MINISTORE_NAME_TAKEN'
  /**
   * The directory or the active segment of the journal was removed, moved or replaced while the
   * journal was open. The files there stay unchanged. Only `close()` works.
   */
  | 'ERR_MINISTORE_MOVED'
  /** The journal has damage other than a torn tail. Nothing changes. */
  | 'ERR_MINISTORE_CORRUPT'
  /**
   * The files at a path belong to another journal: they have another identity. Nothing changes.
   */
  | 'ERR_MINISTORE_FOREIGN_JOURNAL'
  /** The file has a newer major version of the format. Nothing changes. */
  | 'ERR_MINISTORE_UNSUPPORTED_VERSION'
  /** A snapshot, or every snapshot, differs from what was written. Nothing changes. */
  | 'ERR_MINISTORE_SNAPSHOT_DAMAGED'
  /** Retention or truncation removed the record. */
  | 'ERR_MINISTORE_SEQUENCE_GONE'
  /**
   * The journal or the state is not at the sequence number that the caller expected; `sequence` and
   * `expectedSequence` hold both. Nothing is written.
   */
  | 'ERR_MINISTORE_SEQUENCE_CONFLICT'
  /**
   * Another writer has taken over the journal. Nothing is written. Only `close()` works, and a
   * manager's state stays readable.
   */
  | 'ERR_MINISTORE_FENCED'
  /**
   * The mutator threw or returned a promise for a mutation that is in the journal. The mutation is
   * written. Only `close()` works; a view has stopped before the mutation.
   */
  | 'ERR_MINISTORE_MUTATOR'
  /**
   * A snapshot has a later sequence number than the last of the journal, or than the state of which a
   * snapshot was to be made. Nothing changes, except that a torn tail is cut.
   */
  | 'ERR_MINISTORE_SNAPSHOT_AHEAD'
  /**
   * Mutations between a snapshot and the first of the journal are missing. Nothing changes, except
   * that a torn tail is cut.
   */
  | 'ERR_MINISTORE_STATE_GAP'
  /**
   * The queue holds as many messages as `maxDepth` allows, or as a snapshot can hold. Nothing is
   * written.
   */
  | 'ERR_MINISTORE_QUEUE_FULL'
  /** The message was acked or nacked before, or an earlier call is doing so. Nothing is written. */
  | 'ERR_MINISTORE_MESSAGE_SETTLED'
  /**
   * The lease of the message is over. Nothing is written. The message is delivered again or becomes
   * a dead letter.
   */
  | 'ERR_MINISTORE_LEASE_LOST'
  /** The queue has no dead letter with this id. Nothing is written. */
  | 'ERR_MINISTORE_NO_SUCH_MESSAGE'

/** Location of an error in a journal. Every field is optional and absent if it does not apply. */
export interface MiniStoreErrorContext {
  /** Path of the journal or of the snapshot. */
  readonly path?: string | undefined
  /** File name of the segment. */
  readonly segment?: string | undefined
  /** Line number in the segment. Line 1 is the header. */
  readonly line?: number | undefined
  /** Byte offset of that line in the segment. */
  readonly offset?: number | undefined
  /** Sequence number of the record or of the snapshot. */
  readonly sequence?: number | undefined
  /** Sequence number that the caller of a conditional change expected. */
  readonly expectedSequence?: number | undefined
  /** What is wrong with a damaged journal, without the place. */
  readonly reason?: string | undefined
  /** The problems that a schema found. */
  readonly issues?: ReadonlyArray<StandardSchemaV1.Issue> | undefined
}

/** The only error class of this library. Use `code` to tell errors apart. */
export class MiniStoreError extends Error implements MiniStoreErrorContext {
  /** Always `MiniStoreError`. */
  override readonly name = 'MiniStoreError'
  /** The kind of the error. */
  readonly code: MiniStoreErrorCode
  readonly path: string | undefined
  readonly segment: string | undefined
  readonly line: number | undefined
  readonly offset: number | undefined
  readonly sequence: number | undefined
  readonly expectedSequence: number | undefined
  readonly reason: string | undefined
  readonly issues: ReadonlyArray<StandardSchemaV1.Issue> | undefined

  /** Creates an error of this library. Programs only receive such errors, except in tests. */
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
    this.expectedSequence = context.expectedSequence
    this.reason = context.reason
    this.issues = context.issues
  }

  /**
   * Returns a plain object for logs, including the message. Issues come from a schema library, so
   * only their JSON form is included.
   */
  toJSON(): object {
    const { name, code, message, path, segment, line, offset, sequence, expectedSequence } = this
    const issues = jsonOf(this.issues)
    return { name, code, message, path, segment, line, offset, sequence, expectedSequence, issues }
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
 * Returns whether a value is an error of this library.
 *
 * The check looks at the shape of the value. `instanceof` would fail for an error from another
 * realm or from another copy of the library, because those have classes of their own.
 */
export function isMiniStoreError(thrown: unknown): thrown is MiniStoreError {
  return propertyOf(thrown, 'name') === 'MiniStoreError' && typeof propertyOf(thrown, 'code') === 'string'
}

/** Returns whether a thrown value has one of these codes, of this library or of the system. */
export function hasCode(thrown: unknown, ...codes: readonly MiniStoreErrorCode[]): thrown is MiniStoreError
export function hasCode(thrown: unknown, ...codes: readonly string[]): boolean
export function hasCode(thrown: unknown, ...codes: readonly string[]): boolean {
  return (codes as readonly unknown[]).includes(propertyOf(thrown, 'code'))
}

/**
 * Returns the error for every call except `close()` after a failure that leaves the contents of the
 * disk unknown, after the journal was found to have been moved, or after another writer took it over.
 */
export function poisonedBy(failure: MiniStoreError): MiniStoreError {
  const isKept = hasCode(failure, 'ERR_MINISTORE_MOVED', 'ERR_MINISTORE_FENCED')
  const code = isKept ? failure.code : 'ERR_MINISTORE_POISONED'
  const { path, sequence, message } = failure
  return new MiniStoreError(code, `Only close() works: ${message}`, { path, sequence, cause: failure })
}

/** Returns the error for files that belong to another journal than they should. */
export function foreignJournal(message: string, path: string | undefined): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_FOREIGN_JOURNAL', message, { path })
}

/**
 * Returns the error for a conditional change of a journal or state that is not where its caller
 * expected it to be.
 *
 * @param what the name of that journal or state, as the subject of a sentence.
 */
export function sequenceConflict(
  what: string,
  at: { readonly expectedSequence: number; readonly sequence: number; readonly path?: string },
): MiniStoreError {
  const message =
    `Expected ${what} to be at sequence number ${at.expectedSequence}, got ${at.sequence}; nothing is written`
  return new MiniStoreError('ERR_MINISTORE_SEQUENCE_CONFLICT', message, at)
}

/** Returns whether the platform refused to make a string because it would be too long. */
export function isStringLimit(thrown: unknown): boolean {
  // V8 and, in Bun, JavaScriptCore.
  return isRangeError(thrown, /string length|out of memory/i)
}

/**
 * Returns whether a value is a RangeError of the platform, from any realm, whose message matches.
 */
export function isRangeError(thrown: unknown, message: RegExp): boolean {
  return propertyOf(thrown, 'name') === 'RangeError' && message.test(messageOf(thrown))
}

/**
 * Returns whether a value is an instance of an internal class that never leaves the library. Unlike
 * a bare `instanceof`, it does not throw on a revoked Proxy.
 */
export function isInstance<T>(thrown: unknown, own: abstract new (...given: never[]) => T): thrown is T {
  try {
    return own[Symbol.hasInstance](thrown)
  } catch {
    return false
  }
}

/**
 * Returns a property of any thrown value, or undefined if the property is missing or cannot be
 * read. Never throws.
 */
export function propertyOf(thrown: unknown, name: string): unknown {
  try {
    return (thrown as { readonly [name: string]: unknown } | null | undefined)?.[name]
  } catch {
    // A getter threw, or the value is a revoked Proxy.
    return undefined
  }
}

/**
 * Returns the message of any thrown value. Without a message, returns what `node:util` shows of the
 * value, on one line. Never throws.
 */
export function messageOf(thrown: unknown): string {
  if (typeof thrown === 'string') return thrown
  const message = propertyOf(thrown, 'message')
  if (typeof message === 'string') return message
  // The text of an error with an object as its message would be "[object Object]".
  return inspected(typeof message === 'object' && message !== null ? message : thrown)
}

const longestInspected = 200

function inspected(thrown: unknown): string {
  try {
    const text = inspect(thrown, { depth: 1, breakLength: Number.POSITIVE_INFINITY, customInspect: false })
    // Drop the stack: a caller that receives the error itself can read it there.
    const line = text.replaceAll(/\n\s+at [^\n]*/g, '').replaceAll(/\s*\n\s*/g, ' ')
    return line.length > longestInspected ? `${line.slice(0, longestInspected)}…` : line
  } catch {
    // A getter that `inspect` reads threw.
    return `a thrown ${typeof thrown} that cannot be shown`
  }
}

/**
 * Returns the error for a failed system call. A {@link MiniStoreError} is returned unchanged.
 *
 * @param doing The action that failed, as in "Could not … "
 */
export function ioError(doing: string, cause: unknown, context: MiniStoreErrorContext): MiniStoreError {
  if (isMiniStoreError(cause)) return cause
  return new MiniStoreError('ERR_MINISTORE_IO', `Could not ${doing}: ${messageOf(cause)}`, { ...context, cause })
}
