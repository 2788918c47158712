import type { MiniStoreError } from '../errors.ts'
import type { SnapshotInfo } from '../minisnap/index.ts'
import type { StateAt } from './fold.ts'
import type { Journal } from './journal.ts'
import type { StateSoundness } from './soundness.ts'
import type { StateSnapshots } from './state-snapshots.ts'

/** What `compact` did. */
export interface CompactionReport {
  /** Sequence number of the newest snapshot, which is of the state now. */
  readonly sequence: number
  /**
   * Sequence number of the oldest mutation that the journal still has, or of the next one when it has none.
   */
  readonly firstSequence: number
  /** The snapshots that there are, newest first. */
  readonly snapshots: readonly SnapshotInfo[]
  /**
   * What was wrong with snapshots, newest first. Such a one does not count: an older one is kept in its
   * place, with all mutations since.
   */
  readonly damagedSnapshots: readonly MiniStoreError[]
}

/**
 * Makes a snapshot of the state and drops the records that the oldest kept one covers.
 *
 * The order makes it sound: a record goes only when the snapshot of the state now is durable, and when every
 * snapshot that the store keeps was read back whole or has the records after an older one to make up for it.
 */
export async function compactState<State>(
  journal: Pick<Journal<unknown>, 'firstSequence' | 'rotate' | 'truncateBefore'>,
  snapshots: StateSnapshots<State>,
  at: StateAt<State>,
  soundness: StateSoundness,
): Promise<CompactionReport> {
  const { oldest, kept, damaged } = await snapshots.assure(at)
  // Segments are dropped whole: this way the next compaction can drop all that this snapshot covers.
  await soundness.guard(journal.rotate())
  await soundness.guard(journal.truncateBefore(oldest.sequence + 1))
  return {
    sequence: at.sequence,
    firstSequence: journal.firstSequence,
    snapshots: kept,
    damagedSnapshots: damaged,
  }
}
