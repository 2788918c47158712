import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import type { MiniStore as Store } from '../../../src/index.ts'
import { type Change, changeAt, changeBytes, type Entries } from '../../data/changes.ts'
import { MiniStore, nodeFileSystem, StateView } from '../../library.ts'
import type { Figures } from '../../results.ts'
import { median, percentiles } from '../../statistics.ts'
import { turnAbout } from '../../turn-about.ts'
import type { Context } from '../case.ts'

const keys = 1000
const batchRecords = 10_000

/** Measures how fast a view folds a journal, and how soon it has folded a record that is appended. */
export async function measureViews(context: Context): Promise<Figures[]> {
  const directory = join(context.directory, 'views')
  const records = context.isQuick ? 2000 : 500_000
  const store = await MiniStore.open<Change>(join(directory, 'journal.jsonl'))
  for (let first = 0; first < records; first += batchRecords) {
    const length = Math.min(batchRecords, records - first)
    await store.appendAll(Array.from({ length }, (_, place) => changeAt(first + place, keys)))
  }
  const figures = [await measureFolding(context, store.path, records), await measureLatency(context, store)]
  await store.close()
  await rm(directory, { recursive: true })
  return figures
}

async function measureFolding(context: Context, path: string, records: number): Promise<Figures> {
  context.progress(`folding, records=${records}`)
  const fold = async (): Promise<number> => {
    const state: Entries = {}
    const begun = performance.now()
    for await (const change of MiniStore.stream<Change>(path)) mutator(state, change)
    return performance.now() - begun
  }
  const view = async (): Promise<number> => {
    const begun = performance.now()
    await using opened = await openView(path)
    const time = performance.now() - begun
    if (opened.sequence !== records) throw new Error(`Expected ${records} records, got ${opened.sequence}`)
    return time
  }
  const runners = [{ name: 'fold', run: fold }, { name: 'view', run: view }]
  const times = await turnAbout(runners, context.isQuick ? 1 : 7)
  const [plain = [], viewed = []] = ['fold', 'view'].map((name) => times.get(name))
  const ratios = viewed.map((time, round) => time / (plain[round] ?? Number.NaN))
  const cells = [median(plain).toFixed(0), median(viewed).toFixed(0), median(ratios).toFixed(2)]
  return {
    label: `folding a journal, record=${changeBytes}B`,
    columns: ['for await, ms', 'StateView.open, ms', 'ratio'],
    rows: [{ name: `records=${records}`, cells }],
  }
}

async function measureLatency(context: Context, store: Store<Change>): Promise<Figures> {
  const appends = context.isQuick ? 5 : 500
  const rows: Array<{ readonly name: string; readonly cells: readonly string[] }> = []
  // Writers are found by file system object, so a view with a copy of it reads the disk, as one in
  // another process does.
  const places = [['the process of the writer', nodeFileSystem], ['another process', { ...nodeFileSystem }]] as const
  for (const [name, fileSystem] of places) {
    context.progress(`caughtUp in ${name}`)
    await using view = await openView(store.path, fileSystem)
    const waits: number[] = []
    for (let turn = 0; turn < appends; turn++) {
      const sequence = await store.append(changeAt(turn, keys))
      const begun = performance.now()
      await view.caughtUp({ sequence })
      waits.push(performance.now() - begun)
    }
    const { p50, p99, max } = percentiles(waits)
    rows.push({ name, cells: [p50, p99, max].map((wait) => wait.toFixed(2)) })
  }
  return { label: 'from the append to caughtUp', columns: ['p50, ms', 'p99, ms', 'max, ms'], rows }
}

function openView(path: string, fileSystem = nodeFileSystem) {
  return StateView.open<Entries, Change>(path, { initialState: () => ({}), mutator, fileSystem })
}

function mutator(state: Entries, { key, value }: Change): void {
  state[key] = value
}
