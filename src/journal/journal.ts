/**
 * What a state manager asks of the log beneath it. `MiniStore` is one; another log that keeps these promises
 * may stand in its place.
 *
 * `T` is the type of records read, `Input` of records appended. A record is read as it was appended: as the
 * log's codec or JSON keeps it, through its schema. One writer at a time is the log's affair or its user's.
 */
export interface Journal<T, Input = T> {
  /** Sequence number of the oldest record, or of the next one when there is none. The first ever is 1. */
  readonly firstSequence: number
  /** Sequence number of the last acknowledged record; `firstSequence - 1` when there is none. */
  readonly lastSequence: number
  /** The files that hold it, with what they take, for a log that has files. */
  readonly segments?: ReadonlyArray<{ readonly bytes: number }>
  /**
   * Appends one record and resolves with its sequence number, `lastSequence + 1`, once it is on stable
   * storage.
   *
   * When it rejects nothing is written, but for `ERR_MINISTORE_OUTCOME_UNKNOWN`, after which nothing more is
   * appended.
   */
  append(record: Input): Promise<number>
  /**
   * The records from `from` (default: the oldest) to `to` (default: the last acknowledged now), both
   * inclusive, in order and without a gap; with `follow` also those to come, once they are acknowledged.
   * Aborting the signal ends it.
   *
   * Ends with `ERR_MINISTORE_SEQUENCE_GONE` when a record in the range was removed, never with fewer records.
   */
  entries(options?: JournalRange): ReadableStream<JournalEntry<T>>
  /**
   * Makes that {@link truncateBefore} can drop every record there is now. Nothing happens when it can
   * already.
   */
  rotate(): Promise<void>
  /**
   * Drops records below `sequence`, oldest first and as many as it can; durable when it resolves. Never one
   * at or above it. At every instant a crash leaves a log without a gap that knows its sequence numbers.
   */
  truncateBefore(sequence: number): Promise<void>
  /** Waits for what was called before and frees everything, the right to write included. */
  close(): Promise<void>
}

/** Which records {@link Journal.entries} gives. */
export interface JournalRange {
  readonly from?: number | undefined
  readonly to?: number | undefined
  readonly follow?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

/** What a journal has, and what that takes. */
export interface JournalUse {
  /** Records that it still has. */
  readonly mutations: number
  /** Bytes on the disk; 0 for a log that does not tell. */
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

/** A record with its sequence number, as `entries()` gives it. */
export interface JournalEntry<T> {
  readonly sequence: number
  readonly record: T
}
