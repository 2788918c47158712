import { changeBytes } from '../data/changes.ts'
import type { Case } from './case.ts'
import { compareChanges } from './state/changes.ts'
import { measureRecovery } from './state/recovery.ts'
import { measureSnapshots } from './state/snapshots.ts'
import { measureViews } from './state/views.ts'

export const stateCase: Case = {
  name: 'state',
  title: 'State',
  plots: ['ratios'],
  method: [
    `*Changes*: one key after another of a state gets a new value, by a change of ${changeBytes} B, and ` +
      'its caller waits until that is as durable as it is promised to be. Slices of time turn about, a ' +
      'new store each, whose filling is not counted. The floor writes and syncs the change alone, in C. ' +
      '*keys* is the size of the state: a store that writes a whole file writes all of it for every change.',
    '*Opening*: how long `StateManager.open` takes in a running process, the median of some times, when ' +
      'the journal has so many mutations: with no snapshot (all are replayed), with a snapshot 1,000 ' +
      'before the end, and when `compact()` was called there instead, which also drops the journal ' +
      'before. Opening reads the active segment (64 MiB at most) in any case. The page cache is warm.',
    '*Snapshots*: each measured in processes of its own, some times, medians. *plain* is ' +
      '`JSON.stringify` to a new file that is synced, or `readFile` and `JSON.parse`: no checksum, no ' +
      'rename, no older one that stays. *stall* is the longest time for which the event loop stood still. ' +
      '*peak* is how far the resident memory rises above what the process had with the state in it (with ' +
      'nothing, for reading).',
    '*Folding a journal*: `StateView.open` of a journal, beside `for await` over it with the same ' +
      'mutator, turn about, medians. *From the append to caughtUp*: how long `caughtUp` takes after ' +
      '`append` has resolved. The page cache is warm.',
  ],
  async run(context) {
    const changes = await compareChanges(context)
    const recovery = await measureRecovery(context)
    const snapshots = await measureSnapshots(context)
    return { ...changes, figures: [recovery, ...snapshots, ...(await measureViews(context))] }
  },
}
