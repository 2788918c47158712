import { basename } from 'node:path'

import { type SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { journalName } from '../ministate/settings.ts'
import type { JournalFiles } from '../ministore/format.ts'
import type { RepairPlan } from '../maintenance/repair-plan.ts'

/** A snapshot that does not fit its journal once that is repaired. */
export interface UnfitSnapshot {
  readonly file: string
  readonly sequence: number
  /**
   * `ahead` of the journal's end: the state does not open. `renumbered`: the records behind it have other
   * numbers, and the state would open without some of them.
   */
  readonly problem: 'ahead' | 'renumbered'
}

/** The snapshots beside a journal that may be that of a state, newest first, whole or not. */
export async function snapshotsBeside(files: JournalFiles): Promise<readonly SnapshotInfo[]> {
  return files.name === journalName ? new SnapStore(files.directory).list() : []
}

/** Those that will not fit, in their order. Its name alone makes a snapshot ahead, so all count. */
export function unfitSnapshots(plan: RepairPlan, snapshots: readonly SnapshotInfo[]): UnfitSnapshot[] {
  const { firstSequence, records, renumbered } = plan
  const last = firstSequence + records - 1
  // One below the first number that is given anew has the same records behind it as ever, or what is left of them.
  const firstAnew = renumbered?.becomes ?? Number.POSITIVE_INFINITY
  return snapshots.flatMap(({ sequence, path }) => {
    if (sequence <= last && sequence < firstAnew) return []
    return [{ file: basename(path), sequence, problem: sequence > last ? 'ahead' : 'renumbered' }]
  })
}
