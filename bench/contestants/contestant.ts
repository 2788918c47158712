/** A store that is filled once and then read. */
export interface Readable {
  /** Name shown in tables. */
  readonly name: string
  readonly version: string
  /** Fills a new store as fast as possible. The records need not be durable. */
  fill(path: string, batches: Iterable<readonly unknown[]>): Promise<void>
  /** Ways to read a store that `fill` has made. */
  readonly replays: readonly Replay[]
}

/** A store to which records are appended durably. */
export interface Appendable {
  /** Name shown in tables. */
  readonly name: string
  readonly version: string
  /** What holds once an append has resolved, or returned. */
  readonly promise: string
  /** Whether the event loop stands still while an append waits for the disk. */
  readonly blocksEventLoop: boolean
  /**
   * How concurrent callers share the cost of a sync. Undefined if each append has its own sync.
   */
  readonly sharing: 'groups concurrent appends' | 'overlaps syncs' | undefined
  /** Opens the store at the path for appending, and creates it if it does not exist. */
  open(path: string): Promise<Log>
}

export interface Contestant extends Readable, Appendable {}

/** A store that is open for appending. */
export interface Log {
  /** Appends one record. It is durable once the call resolves, or returns undefined. */
  append(record: unknown): Promise<unknown> | undefined
  /** Appends records, which are all durable once the call resolves, or returns undefined. */
  appendAll(records: readonly unknown[]): Promise<unknown> | undefined
  close(): Promise<void>
}

/** One way of reading all records. */
export interface Replay {
  readonly name: string
  /** Short remarks that a reader of the comparison needs. */
  readonly notes: readonly string[]
  /** Whether the event loop stands still from the first record to the last. */
  readonly blocksEventLoop: boolean
  /**
   * Opens the store, reads and parses all records in order, closes it, and resolves with their
   * number.
   */
  run(path: string): Promise<number>
}
