import { groupCommit, type MiniStore, type OpenOptions } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { createRandom, type Random } from '../../../src/testing/random.ts'
import type { CrashHarness, Workload } from '../harness.ts'
import { type ExpectedJournal, type JournalModel, journalWorkload } from './model.ts'
import type { FoundJournal } from './oracle.ts'

/**
 * Makes the record for a sequence number. In a random workload the record may end up under another
 * number.
 */
export type MakeRecord = (n: number) => unknown

/**
 * Records of different lengths, with multi-byte characters. Some are longer than a whole segment
 * may be.
 *
 * @param salt makes the records, and so the states, differ from those of another salt.
 */
export function shortRecords(salt: number): MakeRecord {
  return (n) =>
    n % 5 === 0
      ? { n, salt, text: 'ä€😀'.repeat((n % 4) + 1) }
      : n % 3 === 0
        ? n * 1000 + salt
        : n % 7 === 0
          ? { n, salt, text: 'long'.repeat(20) }
          : { n, salt }
}

/** Some of these lines are longer than a page, so they may be torn at a page boundary. */
export function longRecords(salt: number): MakeRecord {
  const short = shortRecords(salt)
  return (n) => (n % 3 === 1 ? { n, salt, text: 'page'.repeat(1030 + 17 * n) } : short(n))
}

/** One workload for each kind of operation of a journal. */
export function scriptedWorkloads(record: MakeRecord): Array<Workload<ExpectedJournal>> {
  const records = (first: number, last: number): unknown[] =>
    Array.from({ length: last - first + 1 }, (_, index) => record(first + index))
  const appendEach = async (model: JournalModel, store: MiniStore, first: number, last: number): Promise<void> => {
    for (let n = first; n <= last; n++) await model.append(store, record(n))
  }
  return [
    journalWorkload('create, append, close, reopen', async (model, files) => {
      const store = await model.open(files)
      await appendEach(model, store, 1, 3)
      await store.close()
      const again = await model.open(files)
      await appendEach(model, again, 4, 6)
      await again.close()
    }),
    journalWorkload('reopen and close with nothing in between', async (model, files) => {
      for (let n = 1; n <= 3; n++) {
        const store = await model.open(files)
        await model.append(store, record(n))
        await store.close()
        await (await model.open(files)).close()
      }
    }),
    journalWorkload('appendAll of several records, alone and after others', async (model, files) => {
      const store = await model.open(files)
      await model.appendAll(store, records(1, 3))
      await model.append(store, record(4))
      await model.appendAll(store, records(5, 6))
      await model.appendAll(store, records(7, 11))
      await store.close()
    }),
    journalWorkload('appendAll that rotates first', async (model, files) => {
      const store = await model.open(files, { maxBytesPerSegment: 140, maxSegments: 3 })
      for (let n = 1; n <= 9; n += 3) await model.appendAll(store, records(n, n + 2))
      await store.close()
    }),
    journalWorkload('rotations, asked for and by size', async (model, files) => {
      const store = await model.open(files, { maxBytesPerSegment: 90 })
      await appendEach(model, store, 1, 6)
      await model.rotate(store)
      await model.rotate(store)
      await model.append(store, record(7))
      await store.close()
      const again = await model.open(files, { maxBytesPerSegment: 90 })
      await model.rotate(again)
      await model.append(again, record(8))
      await again.close()
    }),
    journalWorkload('retention keeps three segments, then one', async (model, files) => {
      const store = await model.open(files, { maxBytesPerSegment: 80, maxSegments: 3 })
      await appendEach(model, store, 1, 10)
      await store.close()
      const again = await model.open(files, { maxBytesPerSegment: 80, maxSegments: 1 })
      await appendEach(model, again, 11, 13)
      await again.close()
    }),
    journalWorkload('truncateBefore, then an emptied journal that still knows its sequence', async (model, files) => {
      const store = await model.open(files, { maxBytesPerSegment: 80 })
      await appendEach(model, store, 1, 8)
      await model.truncateBefore(store, 4)
      await model.rotate(store)
      await model.truncateBefore(store, 9)
      await store.close()
      const emptied = await model.open(files)
      if (emptied.firstSequence !== 9 || emptied.lastSequence !== 8) {
        throw new Error(`Expected an empty journal before 9, got ${emptied.firstSequence} to ${emptied.lastSequence}`)
      }
      await model.append(emptied, record(9))
      await emptied.close()
    }),
    journalWorkload('appends that overlap, with rotations and a close behind them', async (model, files) => {
      const store = await model.open(files, { maxBytesPerSegment: 100, maxSegments: 4 })
      const appends = records(1, 8).map((each) => model.append(store, each))
      await Promise.all([...appends, model.appendAll(store, records(9, 10)), store.close()])
    }),
    journalWorkload('groups: appends that share an fsync, a stream, and a close behind them', async (model, files) => {
      const store = await model.open(files, { maxBytesPerSegment: 250 })
      const group = groupCommit(store, { maxRecords: 4 })
      const append = (each: unknown): Promise<void> => model.appendInGroup(store, group, each)
      const appends = records(1, 3).map(append)
      await assertRefused(group.append(undefined))
      appends.push(...records(4, 5).map(append))
      await appends[0]
      await Promise.all([...appends, ...records(6, 7).map(append)])
      await model.append(store, record(8))
      await model.pipeIntoGroup(store, group, records(9, 13))
      await Promise.all([...records(14, 15).map(append), group.close()])
      await store.close()
    }),
  ]
}

export async function assertRefused(append: Promise<unknown>): Promise<void> {
  const isRefused = await append.then(() => false, () => true)
  if (!isRefused) throw new Error('Expected the append to be refused')
}

/** Workloads that write into padding, for which the records should be longer than a block. */
export function preallocatingWorkloads(record: MakeRecord): Array<Workload<ExpectedJournal>> {
  const each = async (model: JournalModel, store: MiniStore, ...numbers: number[]): Promise<void> => {
    for (const n of numbers) await model.append(store, record(n))
  }
  return [
    journalWorkload('preallocating: append, close, open with and without', async (model, files) => {
      for (const [round, preallocate] of [3000, undefined, 700].entries()) {
        const store = await model.open(files, { preallocate })
        await each(model, store, 3 * round + 1, 3 * round + 2, 3 * round + 3)
        await store.close()
      }
    }),
    journalWorkload('preallocating: appendAll between appends', async (model, files) => {
      const store = await model.open(files, { preallocate: 2500 })
      await each(model, store, 1, 2)
      await model.appendAll(store, [3, 4, 5].map((n) => record(n)))
      await each(model, store, 6)
      await model.appendAll(store, [record(7)])
      await model.appendAll(store, [8, 9].map((n) => record(n)))
    }),
    journalWorkload('preallocating: rotations, asked for and by size, and deletions', async (model, files) => {
      const store = await model.open(files, { preallocate: 1500, maxBytesPerSegment: 2600 })
      await each(model, store, 1, 2, 3, 4)
      await model.rotate(store)
      await each(model, store, 5, 6)
      await model.truncateBefore(store, 4)
      await each(model, store, 7)
      await store.close()
    }),
    journalWorkload('preallocating: appends that overlap, with a close behind them', async (model, files) => {
      const store = await model.open(files, { preallocate: 2000, maxBytesPerSegment: 5000 })
      const appends = [1, 2, 3, 4, 5].map((n) => model.append(store, record(n)))
      await Promise.all([...appends, model.appendAll(store, [record(6), record(7)]), store.close()])
    }),
  ]
}

/** Records of 0 to 4 blocks, whose blocks all differ. */
export function blockRecords(salt: number): MakeRecord {
  return (n) => (n % 3 === 0 ? { n, salt } : { n, salt, text: Array.from({ length: 60 * (n % 5) }, (_, i) => `${n}-${i}`).join(' ') })
}

/** Options for a run of random generations. */
export interface GenerationOptions {
  readonly seed: number
  readonly limit: number
  readonly insideEvery: number
  readonly nesting: number
}

export interface Generation {
  readonly model: JournalModel
  readonly files: SimulatedFileSystem
}

/**
 * Runs a random workload and lets the power fail at one moment of it. The next generation starts
 * from the disk that the failure left and the acknowledgements up to that moment.
 */
export async function runGeneration(
  harness: CrashHarness<ExpectedJournal, FoundJournal>,
  { model, files }: Generation,
  options: GenerationOptions,
): Promise<Generation> {
  const { seed } = options
  const random = createRandom(seed)
  const record = random.below(6) === 0 ? longRecords(seed) : shortRecords(seed)
  const failsAt = 10 + random.below(60)
  let left: Generation | undefined
  const stop = files.onOperation(({ index }) => {
    if (index !== failsAt) return
    const states = [...files.crashStates({ seed, limit: 40, tornVariants: ['cut', 'zeros', 'garbage'] })]
    const state = states[random.below(states.length)]
    if (state !== undefined) left = { model: model.fork(), files: state }
  })
  const name = `random workload, seed ${seed}`
  // From numbers of its own, so that a seed makes the other choices that it always made.
  const ahead = createRandom(seed, 1)
  const live = async (): Promise<void> => {
    for (let opened = 0; opened < 2; opened++) {
      const preallocate = [undefined, undefined, 150, 1200][ahead.below(4)]
      const store = await model.open(files, { ...randomOptions(random), preallocate })
      for (let steps = 2 + random.below(4); steps > 0; steps--) await randomStep(random, model, store, record)
      if (random.below(4) === 0) return
      await store.close()
    }
  }
  await harness.run(journalWorkload(name, live, model), options, files)
  stop()
  return left ?? { model, files: files.afterCrash({ keep: 'none' }) }
}

async function randomStep(
  random: Random,
  model: JournalModel,
  store: MiniStore,
  record: MakeRecord,
): Promise<void> {
  const next = model.acknowledged + 1
  const kind = random.below(12)
  if (kind < 6) await model.append(store, record(next + random.below(3)))
  else if (kind < 8) {
    const records = Array.from({ length: 1 + random.below(3) }, (_, index) => record(next + index))
    await model.appendAll(store, records)
  } else if (kind === 8) await model.rotate(store)
  else if (kind === 9) await model.truncateBefore(store, 1 + random.below(next))
  else await Promise.all([model.append(store, record(next)), model.append(store, record(next + 1))])
}

function randomOptions(random: Random): OpenOptions {
  return {
    maxBytesPerSegment: [60, 100, 200, 100_000][random.below(4)],
    maxSegments: [1, 2, 4, Infinity][random.below(4)],
  }
}
