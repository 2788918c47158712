/** What a queue holds at a moment. */
export interface QueueStats {
  /** Messages that can be delivered now. */
  readonly ready: number
  /** Messages that wait for their time. */
  readonly delayed: number
  /** Messages that somebody has, or that were fetched ahead. */
  readonly inFlight: number
  readonly dead: number
  /**
   * Milliseconds since the oldest of them, dead letters left out, was enqueued; undefined when there is none.
   */
  readonly oldestAgeMs: number | undefined
  /** Bytes of journal and snapshots. */
  readonly bytesOnDisk: number
}
