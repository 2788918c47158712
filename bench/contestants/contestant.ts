/** A store that is filled once and then read. */
export interface Readable {
  /** As tables show it. */
  readonly name: string
  readonly version: string
  /** Fills a new store, as fast as it can be: nothing needs to be durable. */
  fill(path: string, batches: Iterable<readonly unknown[]>): Promise<void>
  /** How what `fill` has made can be read. */
  readonly replays: readonly Replay[]
}

/** A store that takes one record after another, durably. */
export interface Appendable {
  /** As tables show it. */
  readonly name: string
  readonly version: string
  /** What is true when an append has resolved, or returned. */
  readonly promise: string
  /** Whether the event loop stands still while an append waits for the disk. */
  readonly blocksEventLoop: boolean
  /**
   * How callers who wait at the same time share what a sync costs; undefined when each append has its own.
   */
  readonly sharing: 'groups concurrent appends' | 'overlaps syncs' | undefined
  /** Opens what is at the path for appending, or makes it. */
  open(path: string): Promise<Log>
}

export interface Contestant extends Readable, Appendable {}

/** Something open for appending. */
export interface Log {
  /** Appends one record. Durable when it resolves; when there is nothing to wait for, when it returns. */
  append(record: unknown): Promise<unknown> | undefined
  /** Appends records, durable together. */
  appendAll(records: readonly unknown[]): Promise<unknown> | undefined
  close(): Promise<void>
}

/** One way of reading all records. */
export interface Replay {
  readonly name: string
  /** What to know when comparing it, in a few words. */
  readonly notes: readonly string[]
  /** Whether the event loop stands still from the first record to the last. */
  readonly blocksEventLoop: boolean
  /** Opens, reads and parses all records in order, closes, and resolves with how many there were. */
  run(path: string): Promise<number>
}
