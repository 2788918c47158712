import { countsText } from '../counts-text.ts'

/**
 * How much happened. The tests check these counts, so a suite that tests less than before fails.
 */
export class QueueCounts {
  opened = 0
  enqueued = 0
  deduplicated = 0
  delivered = 0
  acked = 0
  nacked = 0
  buried = 0
  /** Handlers that failed after a stop, and used up no attempt. */
  stopped = 0
  /** Handlers that failed for good. */
  permanent = 0
  leasesLost = 0
  redriven = 0
  discarded = 0
  purged = 0
  cancelled = 0
  compacted = 0
  refused = 0
  /** Crashes after which something unacknowledged was there. */
  survivors = 0

  add(other: QueueCounts): void {
    for (const name of Object.keys(this) as Array<keyof Omit<QueueCounts, 'add' | 'toString'>>)
      this[name] += other[name]
  }

  toString(): string {
    return countsText(this)
  }
}
