import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { measureCalls } from '../calls.ts'
import { compare, entrantOf, participantOf, type Slice } from '../comparison.ts'
import type { Appendable } from '../contestants/contestant.ts'
import { appendables, loadAll } from '../contestants/index.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import type { Comparison } from '../results.ts'
import { warmTurnAbout } from '../turn-about.ts'
import type { Case } from './case.ts'

export const appendAllCase: Case = {
  name: 'append-all',
  title: 'Many records with one sync',
  method: [
    'One call appends so many records, and all are on stable storage when it is done: `appendAll`, an ' +
      'SQLite transaction, a level batch, an lmdb transaction. Slices of time turn about, a new store ' +
      'each. `time` and latency are those of one call.',
    'The floor is synchronous Node: stringify all, one `writeSync`, one `fdatasyncSync`. A transaction ' +
      'promises more than `appendAll` does: after a crash in the middle all of it is there or nothing, ' +
      'while a prefix of an `appendAll` may be.',
  ],
  async run({ directory, isQuick, ...context }) {
    const { loaded, missing } = await loadAll(appendables)
    const milliseconds = isQuick ? 10 : 200
    const rounds = isQuick ? 1 : 7
    const comparisons: Comparison[] = []
    for (const records of [10, 100, 1000]) {
      const label = `records=${records} record=100B`
      context.progress(label)
      const batch = Array.from({ length: records }, (_, id) => syntheticRecord(id, 100))
      const entrants = loaded.map((contestant) => entrantOf(contestant, roleOf(contestant), 1))
      const runners = loaded.map((contestant) => ({
        name: contestant.name,
        run: () => slice(contestant, { directory, batch, milliseconds }),
      }))
      comparisons.push(compare({ label, unit: 'call' }, entrants, await warmTurnAbout(runners, rounds)))
    }
    return { comparisons, participants: loaded.map(participantOf), missing }
  },
}

function roleOf({ name }: Appendable): 'floor' | 'library' | 'peer' {
  if (name === 'ministore') return 'library'
  return name === 'Node, writeSync + fdatasyncSync' ? 'floor' : 'peer'
}

async function slice(
  contestant: Appendable,
  options: { readonly directory: string; readonly batch: readonly unknown[]; readonly milliseconds: number },
): Promise<Slice> {
  const directory = join(options.directory, 'store')
  await mkdir(directory)
  const log = await contestant.open(join(directory, 'log'))
  try {
    for (let warmUp = 0; warmUp < 3; warmUp++) await log.appendAll(options.batch)
    const { milliseconds } = options
    const isBlocking = contestant.blocksEventLoop
    return await measureCalls(() => log.appendAll(options.batch), { callers: 1, milliseconds, isBlocking })
  } finally {
    await log.close()
    await rm(directory, { recursive: true })
  }
}
