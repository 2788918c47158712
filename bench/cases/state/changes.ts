import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { measureCalls } from '../../calls.ts'
import { compare, type Entrant, entrantOf, participantOf, type Slice } from '../../comparison.ts'
import { loadAll } from '../../contestants/index.ts'
import { changeAt, changeBytes, type Entries, entriesOf } from '../../data/changes.ts'
import { appendFloor, floorEntrant } from '../../floor/append-floor.ts'
import type { Comparison, Findings } from '../../results.ts'
import { stateKeepers } from '../../state-keepers/index.ts'
import type { StateKeeper } from '../../state-keepers/state-keeper.ts'
import { warmTurnAbout } from '../../turn-about.ts'
import type { Context } from '../case.ts'

/** Changes made before measuring starts. */
const warmUps = 5

/** Compares changes of one key at a time, for states of two sizes. */
export async function compareChanges(context: Context): Promise<Findings> {
  const { loaded, missing } = await loadAll(stateKeepers)
  const floor = await appendFloor()
  const milliseconds = context.isQuick ? 10 : 200
  const comparisons: Comparison[] = []
  for (const keys of [100, 10_000]) {
    const label = `keys=${keys} change=${changeBytes}B`
    context.progress(label)
    const entries = entriesOf(keys)
    const least = floorEntrant(floor)
    const entrants = [least, ...loaded.map(keeperEntrant)]
    const runners = [
      {
        name: least.name,
        run: () => floor.slice({ directory: context.directory, bytes: changeBytes + 1, milliseconds }),
      },
      ...loaded.map((keeper) => ({
        name: keeper.name,
        run: () => changeSlice(keeper, { directory: context.directory, entries, milliseconds }),
      })),
    ]
    const rounds = context.isQuick ? 1 : 7
    comparisons.push(
      compare({ label, unit: 'change' }, entrants, await warmTurnAbout(runners, rounds)),
    )
  }
  return { comparisons, participants: loaded.map(participantOf), missing: [...missing, ...floor.missing] }
}

function keeperEntrant(keeper: StateKeeper): Entrant {
  const isLibrary = keeper.name.startsWith('mini')
  const entrant = entrantOf({ ...keeper, sharing: undefined }, isLibrary ? 'library' : 'peer', 1)
  const { notes, because = entrant.because } = keeper
  return { ...entrant, notes: [...entrant.notes, ...notes], because }
}

/** Measures changes in a new store, and removes the store afterwards. */
async function changeSlice(
  keeper: StateKeeper,
  options: { readonly directory: string; readonly entries: Entries; readonly milliseconds: number },
): Promise<Slice> {
  const directory = join(options.directory, 'store')
  await mkdir(directory)
  const keys = Object.keys(options.entries).length
  const state = await keeper.open(directory, options.entries)
  try {
    // Turns below `keys` made the initial entries, so the changes continue from there. Setting a
    // key to the value it already has would cost SQLite nothing.
    let turn = keys
    const change = (): Promise<unknown> | undefined => {
      const { key, value } = changeAt(turn++, keys)
      return state.set(key, value)
    }
    for (let warmUp = 0; warmUp < warmUps; warmUp++) await change()
    const { milliseconds } = options
    return await measureCalls(change, { callers: 1, milliseconds, isBlocking: keeper.blocksEventLoop })
  } finally {
    await state.close()
    await rm(directory, { recursive: true })
  }
}
