import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { runChild } from '../../children/run-child.ts'
import type { Figures } from '../../results.ts'
import { median } from '../../statistics.ts'
import type { Context } from '../case.ts'

/** The report of `snapshot-cost.js`. Times are milliseconds, one per round. Memory is bytes. */
export interface SnapshotCost {
  readonly times: readonly number[]
  /** The longest time for which the event loop stood still in each round. */
  readonly stalls: readonly number[]
  /**
   * Peak resident memory above the amount before; undefined where the platform cannot measure it.
   */
  readonly peak?: number | undefined
}

const megabyte = 1e6
const columns = [
  'time, ms', 'plain, ms', 'ratio', 'stall, ms', 'plain stall, ms', 'peak, MB', 'plain peak, MB',
]

/** Measures the cost of writing a state and of reading it, for states of three sizes. */
export async function measureSnapshots(context: Context): Promise<Figures[]> {
  const create: Array<Figures['rows'][number]> = []
  const restore: Array<Figures['rows'][number]> = []
  for (const megabytes of context.isQuick ? [0.1, 0.2, 0.4] : [1, 10, 100]) {
    const name = `state=${megabytes}MB`
    context.progress(`snapshots, ${name}`)
    const directory = join(context.directory, 'snapshots')
    await mkdir(directory)
    // The first round of a process includes compiling its code. The median limits its weight.
    const rounds = context.isQuick ? 1 : megabytes < 100 ? 9 : 3
    const cost = (mode: string): Promise<SnapshotCost> =>
      runChild('snapshot-cost.js', [mode, directory, String(megabytes * megabyte), String(rounds)])
    create.push({ name, cells: cellsOf(await cost('create'), await cost('write')) })
    restore.push({ name, cells: cellsOf(await cost('restore'), await cost('read')) })
    await rm(directory, { recursive: true })
  }
  return [
    { label: 'SnapStore.create, and JSON to a file that is synced', columns, rows: create },
    { label: 'SnapStore.restore, and JSON from a file', columns, rows: restore },
  ]
}

function cellsOf(snapshot: SnapshotCost, plain: SnapshotCost): string[] {
  const [time, plainTime] = [median(snapshot.times), median(plain.times)]
  const stalls = [snapshot, plain].map(({ stalls: some }) => median(some).toFixed(1))
  const peaks = [snapshot, plain].map(({ peak }) => (peak === undefined ? '' : (peak / megabyte).toFixed(1)))
  return [time.toFixed(1), plainTime.toFixed(1), (time / plainTime).toFixed(2), ...stalls, ...peaks]
}
