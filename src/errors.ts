/**
 * Every code a {@link MiniStoreError} can carry. Codes are stable API; messages may change.
 *
 * | code | what happened | what is left |
 * |---|---|---|
 * | `ERR_MINISTORE_NOT_SERIALIZABLE` | the record has no JSON form (undefined, function, cycle, BigInt, throwing `toJSON`) | nothing written |
 * | `ERR_MINISTORE_RECORD_TOO_LARGE` | the encoded record exceeds `maxRecordBytes` | nothing written |
 * | `ERR_MINISTORE_SCHEMA` | the record fails the schema | on append: nothing written |
 * | `ERR_MINISTORE_CODEC` | the codec threw or gave a text that cannot be one line | on append: nothing written |
 * | `ERR_MINISTORE_IO` | a system call failed, see `cause` | the record was not written; the store is usable |
 * | `ERR_MINISTORE_OUTCOME_UNKNOWN` | the fsync of this very append failed | the record may or may not survive; poisoned |
 * | `ERR_MINISTORE_POISONED` | an earlier write or fsync failed beyond repair | the record was not written; only `close()` works |
 * | `ERR_MINISTORE_CLOSED` | the store is closed or closing | the record was not written |
 * | `ERR_MINISTORE_LOCKED` | another writer has the journal open | nothing changed |
 * | `ERR_MINISTORE_LOCK_UNAVAILABLE` | this platform or file system offers no kernel lock | nothing changed |
 * | `ERR_MINISTORE_CORRUPT` | damage that is not a torn tail | nothing changed |
 * | `ERR_MINISTORE_UNSUPPORTED_VERSION` | a newer major version of the format | nothing changed |
 * | `ERR_MINISTORE_SEQUENCE_GONE` | the record was removed by retention or truncation | – |
 */
export type MiniStoreErrorCode =
  | 'ERR_MINISTORE_NOT_SERIALIZABLE'
  | 'ERR_MINISTORE_RECORD_TOO_LARGE'
  | 'ERR_MINISTORE_SCHEMA'
  | 'ERR_MINISTORE_CODEC'
  | 'ERR_MINISTORE_IO'
  | 'ERR_MINISTORE_OUTCOME_UNKNOWN'
  | 'ERR_MINISTORE_POISONED'
  | 'ERR_MINISTORE_CLOSED'
  | 'ERR_MINISTORE_LOCKED'
  | 'ERR_MINISTORE_LOCK_UNAVAILABLE'
  | 'ERR_MINISTORE_CORRUPT'
  | 'ERR_MINISTORE_UNSUPPORTED_VERSION'
  | 'ERR_MINISTORE_SEQUENCE_GONE'

/** Where in a journal an error lies; every field is optional and absent when it does not apply. */
export interface MiniStoreErrorContext {
  /** Path of the journal. */
  readonly path?: string | undefined
  /** File name of the segment. */
  readonly segment?: string | undefined
  /** Line in the segment; 1 is the header. */
  readonly line?: number | undefined
  /** Byte offset of that line in the segment. */
  readonly offset?: number | undefined
  /** Sequence number of the record. */
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
}

/** The message of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}

/**
 * The error for a failed system call; one that is a {@link MiniStoreError} already stays as it is.
 *
 * @param doing what was being done, as in "Could not … "
 */
export function ioError(doing: string, cause: unknown, context: MiniStoreErrorContext): MiniStoreError {
  if (cause instanceof MiniStoreError) return cause
  return new MiniStoreError('ERR_MINISTORE_IO', `Could not ${doing}: ${messageOf(cause)}`, { ...context, cause })
}
