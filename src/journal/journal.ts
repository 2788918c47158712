import type { PreparedRecord } from '../schema.ts'

/**
 * The log beneath a state manager. `MiniStore` implements it; another log that keeps these promises
 * can replace it.
 *
 * `T` is the type of the records that are read, `Input` of those that are appended. A record reads
 * back as the log's codec, or JSON, and its schema return it: each read gives objects of its own.
 * Calls may overlap; changes are made one at a time, in call order. Either the log or its user must
 * ensure that there is only one writer.
 *
 * `journalContract` of `@mini-ts/ministore/testing` tests these promises.
 */
export interface Journal<T, Input = T> {
  /**
   * Sequence number of the oldest record, or of the next record if the log is empty. The first ever
   * is 1.
   */
  readonly firstSequence: number
  /**
   * Sequence number of the last acknowledged record, or `firstSequence - 1` if the log is empty.
   */
  readonly lastSequence: number
  /**
   * Identity of the log: 16 lower-case hexadecimal digits, the same for its whole life and in its
   * replicas. Absent if the log has none.
   */
  readonly id?: string | undefined
  /** Files that hold the log and their sizes in bytes, if the log consists of files. */
  readonly segments?: ReadonlyArray<{
    /** Size of the file in bytes. */
    readonly bytes: number
  }>
  /**
   * Appends one record and resolves with its sequence number, `lastSequence + 1`, once the record
   * is on stable storage. Later changes of the record have no effect.
   *
   * If it rejects, nothing was written. The exception is `ERR_MINISTORE_OUTCOME_UNKNOWN`: the
   * record may or may not survive, and the log accepts no further records. After
   * `ERR_MINISTORE_FENCED`, the log accepts none either.
   */
  append(record: Input, options?: AppendOptions): Promise<number>
  /**
   * Appends many records at once and resolves with the range of their sequence numbers, once all of
   * them are on stable storage. Rejects as {@link append}. A crash before it resolves may leave a
   * prefix of the records.
   */
  appendAll?(
    records: Iterable<Input | PreparedRecord>,
    options?: AppendOptions,
  ): Promise<AppendedRange>
  /** Encodes and checks a record now, for a later {@link appendAll}. Throws as `append` rejects. */
  prepare?(record: Input): PreparedRecord
  /**
   * Returns the records from `from` (default: the oldest) to `to` (default: the last acknowledged
   * now), both inclusive, in order and without gaps. With `follow`, the stream also returns later
   * records once they are acknowledged. Aborting the signal ends the stream.
   *
   * The stream fails with `ERR_MINISTORE_SEQUENCE_GONE` if a record in the range was removed. It
   * never returns fewer records instead.
   */
  entries(options?: JournalRange): ReadableStream<JournalEntry<T>>
  /**
   * Like {@link entries}, but gives each record as its line, to be copied into another log. Only the
   * line is checked: no schema runs.
   */
  preparedEntries?(options?: JournalRange): ReadableStream<JournalEntry<PreparedRecord>>
  /**
   * Ensures that {@link truncateBefore} can remove every current record. Does nothing if it already
   * can. Absent if it always can.
   */
  rotate?(): Promise<void>
  /**
   * Removes records below `sequence`, oldest first, as many as the log can. Never removes a record
   * at or above `sequence`. When it resolves, the removal is durable.
   *
   * A crash at any moment leaves a log without gaps that still knows its sequence numbers.
   */
  truncateBefore(sequence: number): Promise<void>
  /**
   * Takes on the identity of another log, and the sequence number that its next record gets, to
   * become a replica of it. Durable when it resolves.
   *
   * Only a log in which no record was ever written can do this. Any other rejects with
   * `ERR_MINISTORE_FOREIGN_JOURNAL`, unless it has this identity already.
   */
  adopt?(origin: { readonly id: string; readonly firstSequence: number }): Promise<void>
  /**
   * Looks at the log again, so that {@link firstSequence} and {@link lastSequence} include what
   * another process has changed. Absent if they always do.
   */
  refresh?(): Promise<void>
  /** Waits for earlier calls, then releases all resources, including the right to write. */
  close(): Promise<void>
}

/** Options of an append. */
export interface AppendOptions {
  /**
   * Appends only if the last sequence number of the log is this one when the turn of the call comes;
   * 0 means that no record was ever written. Otherwise nothing is written and the call rejects with
   * `ERR_MINISTORE_SEQUENCE_CONFLICT`. Use it to append only if nothing has happened since you read.
   *
   * @default any sequence number
   */
  readonly expectedSequence?: number | undefined
}

/** The sequence numbers of the records of one `appendAll`. */
export interface AppendedRange {
  /** Sequence number of the first of these records. */
  first: number
  /** Sequence number of the last of these records, or `first - 1` if there are none. */
  last: number
}

/** Range and mode of {@link Journal.entries}. */
export interface JournalRange {
  /** First sequence number. @default the oldest record */
  readonly from?: number | undefined
  /** Last sequence number. @default the last record acknowledged at the call, or none with `follow` */
  readonly to?: number | undefined
  /** Continues with new records once they are acknowledged. @default false */
  readonly follow?: boolean | undefined
  /** Ends the stream with the reason of the signal. @default none */
  readonly signal?: AbortSignal | undefined
}

/** Size of a journal. */
export interface JournalUse {
  /** Number of records that the journal still has. */
  readonly mutations: number
  /** Bytes on the disk, or 0 if the log does not report them. */
  readonly bytes: number
}

export function journalUse(
  journal: Pick<Journal<unknown>, 'firstSequence' | 'lastSequence' | 'segments'>,
): JournalUse {
  const { firstSequence, lastSequence, segments = [] } = journal
  return {
    mutations: lastSequence - firstSequence + 1,
    bytes: segments.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}

/** A record with its sequence number, as `entries()` returns it. */
export interface JournalEntry<T> {
  /** Position of the record in the journal, starting at 1. */
  readonly sequence: number
  /** The record, as the codec (or JSON) and the schema return it. */
  readonly record: T
}
