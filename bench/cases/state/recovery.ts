import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import { type Change, changeAt, changeBytes, type Entries } from '../../data/changes.ts'
import { MiniStore, StateManager } from '../../library.ts'
import type { Figures } from '../../results.ts'
import { median } from '../../statistics.ts'
import type { Context } from '../case.ts'

type Manager = Awaited<ReturnType<typeof open>>

const keys = 1000
const behindSnapshot = 1000
const batchMutations = 10_000
const columns = ['journal, MB', 'no snapshot, ms', 'snapshot 1,000 before the end, ms', 'compacted there, ms']

/**
 * Measures how long opening a state takes for journals of three sizes: without a snapshot, with a
 * snapshot 1,000 mutations before the end, and compacted at that point.
 */
export async function measureRecovery(context: Context): Promise<Figures> {
  const sizes = context.isQuick ? [2000, 4000, 8000] : [10_000, 100_000, 1_000_000]
  const rounds = context.isQuick ? 1 : 3
  const rows: Array<{ readonly name: string; readonly cells: readonly string[] }> = []
  for (const mutations of sizes) {
    const directory = join(context.directory, `mutations-${mutations}`)
    context.progress(`opening, mutations=${mutations}`)
    await grow(directory, mutations - behindSnapshot)
    await withManager(directory, (manager) => manager.createSnapshot())
    const bytes = await grow(directory, mutations)
    const some = await timesToOpen(directory, { rounds, mutations, replayed: behindSnapshot })
    await removeSnapshots(directory)
    const all = await timesToOpen(directory, { rounds, mutations, replayed: mutations })
    await withManager(directory, (manager) => manager.compact())
    const more = mutations + behindSnapshot
    await grow(directory, more)
    const few = await timesToOpen(directory, { rounds, mutations: more, replayed: behindSnapshot })
    const times = [all, some, few].map((found) => median(found).toFixed(1))
    rows.push({ name: `mutations=${mutations}`, cells: [(bytes / 1e6).toFixed(1), ...times] })
    await rm(directory, { recursive: true })
  }
  return { label: `opening a state, keys=${keys} mutation=${changeBytes}B`, columns, rows }
}

/**
 * Appends mutations in batches until the last sequence number is `mutations`. Resolves with the
 * size of the journal in bytes.
 */
async function grow(directory: string, mutations: number): Promise<number> {
  await using store = await MiniStore.open<Change>(join(directory, 'journal.jsonl'))
  while (store.lastSequence < mutations) {
    const first = store.lastSequence
    const length = Math.min(batchMutations, mutations - first)
    await store.appendAll(Array.from({ length }, (_, place) => changeAt(first + place, keys)))
  }
  return store.segments.reduce((sum, { bytes }) => sum + bytes, 0)
}

function open(directory: string) {
  return StateManager.open(directory, {
    initialState: (): Entries => ({}),
    mutator: (state, { key, value }: Change) => {
      state[key] = value
    },
  })
}

async function withManager(directory: string, action: (manager: Manager) => Promise<unknown>): Promise<void> {
  await using manager = await open(directory)
  await action(manager)
}

async function timesToOpen(
  directory: string,
  expected: { readonly rounds: number; readonly mutations: number; readonly replayed: number },
): Promise<number[]> {
  const times: number[] = []
  for (let round = 0; round < expected.rounds; round++) {
    globalThis.gc?.()
    const begun = performance.now()
    await using manager = await open(directory)
    times.push(performance.now() - begun)
    const found = `${manager.recovery.replayed} of ${manager.sequence}`
    const wanted = `${expected.replayed} of ${expected.mutations}`
    if (found !== wanted) throw new Error(`Expected ${wanted} mutations to be replayed, got ${found}`)
  }
  return times
}

async function removeSnapshots(directory: string): Promise<void> {
  const names = await readdir(directory)
  for (const name of names.filter((one) => one.startsWith('snapshot-'))) await rm(join(directory, name))
}
