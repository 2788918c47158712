import { afterAll, describe, expect, test } from 'vitest'

import type { MiniStore, OpenOptions } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { createRandom, type Random } from '../../src/testing/random.ts'
import {
  CrashFinding,
  CrashHarness,
  type ExpectedJournal,
  type FoundJournal,
  JournalModel,
  JournalOracle,
  journalPath,
  type Workload,
} from './harness.ts'

// Enough for about a minute on two cores; a floor below shows when less is looked at.
const limit = 120
const randomSeeds = [1, 2, 3, 4, 5, 6]
const generations = 3

const oracle = new JournalOracle()
const harness = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)

/** A workload of one model. */
function workload(
  name: string,
  run: (model: JournalModel, files: SimulatedFileSystem) => Promise<void>,
): Workload<ExpectedJournal> {
  const model = new JournalModel()
  return { name, run: (files) => run(model, files), expected: model.expected }
}

/**
 * Records of different lengths, with characters of several bytes, some longer than what one segment
 * may have.
 */
function record(n: number): unknown {
  return n % 5 === 0 ? { n, text: 'ä€😀'.repeat((n % 4) + 1) } : n % 3 === 0 ? n : { n }
}

const scripted: Array<Workload<ExpectedJournal>> = [
  workload('a journal is made, written, closed, opened again', async (model, files) => {
    const store = await model.open(files)
    for (let n = 1; n <= 3; n++) await model.append(store, record(n))
    await store.close()
    const again = await model.open(files)
    await model.append(again, record(4))
    await again.close()
  }),
  workload('appendAll of several records, alone and after others', async (model, files) => {
    const store = await model.open(files)
    await model.appendAll(store, [record(1), record(2), record(3)])
    await model.append(store, record(4))
    await model.appendAll(store, [record(5), record(6)])
    await store.close()
  }),
  workload('rotations, asked for and by size', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 70 })
    for (let n = 1; n <= 6; n++) await model.append(store, record(n))
    await model.rotate(store)
    await model.rotate(store)
    await model.append(store, record(7))
    await store.close()
    const again = await model.open(files, { maxBytesPerSegment: 70 })
    await model.rotate(again)
    await model.append(again, record(8))
    await again.close()
  }),
  workload('retention keeps three segments', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 60, maxSegments: 3 })
    for (let n = 1; n <= 10; n++) await model.append(store, record(n))
    await store.close()
    const again = await model.open(files, { maxBytesPerSegment: 60, maxSegments: 1 })
    for (let n = 11; n <= 13; n++) await model.append(again, record(n))
    await again.close()
  }),
  workload('truncateBefore, then an emptied journal that still knows its sequence', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 60 })
    for (let n = 1; n <= 8; n++) await model.append(store, record(n))
    await model.truncateBefore(store, 4)
    await model.rotate(store)
    await model.truncateBefore(store, 9)
    await store.close()
    const emptied = await model.open(files)
    expect([emptied.firstSequence, emptied.lastSequence]).toEqual([9, 8])
    await model.append(emptied, record(9))
    await emptied.close()
  }),
  workload('appends that overlap, with rotations and a close behind them', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 80, maxSegments: 4 })
    const appends = Array.from({ length: 8 }, (_, index) => model.append(store, record(index + 1)))
    await Promise.all([...appends, model.appendAll(store, [record(9), record(10)]), store.close()])
  }),
]

describe('every crash of a scripted workload leaves a journal that opens with what was acknowledged', () => {
  test.each(scripted)(
    '$name',
    async (script) => {
      const before = harness.counts.distinct
      await harness.run(script, { seed: 1, limit })
      expect(harness.counts.distinct - before).toBeGreaterThan(50)
    },
    120_000,
  )
})

/** One step of a random workload. */
async function randomStep(random: Random, model: JournalModel, store: MiniStore): Promise<void> {
  const next = model.acknowledged + 1
  const kind = random.below(12)
  if (kind < 6) await model.append(store, record(next + random.below(3)))
  else if (kind < 8) {
    await model.appendAll(
      store,
      Array.from({ length: 1 + random.below(3) }, (_, index) => record(next + index)),
    )
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

/**
 * Runs, and lets the power fail at a moment of the run: what is left then is where the next generation
 * begins, with
 * what was acknowledged up to there.
 */
async function runGeneration(
  seed: number,
  model: JournalModel,
  files: SimulatedFileSystem,
): Promise<{ model: JournalModel; files: SimulatedFileSystem }> {
  const random = createRandom(seed)
  const failsAt = 10 + random.below(60)
  let left: { model: JournalModel; files: SimulatedFileSystem } | undefined
  const stop = files.onOperation(({ index }) => {
    if (index !== failsAt) return
    const states = [...files.crashStates({ seed, limit: 40, tornVariants: ['cut', 'zeros', 'garbage'] })]
    const state = states[random.below(states.length)]
    if (state !== undefined) left = { model: model.fork(), files: state }
  })
  await harness.run(
    {
      name: `random workload, seed ${seed}`,
      expected: () => model.expected(),
      run: async () => {
        for (let opened = 0; opened < 2; opened++) {
          const store = await model.open(files, randomOptions(random))
          for (let steps = 2 + random.below(4); steps > 0; steps--) await randomStep(random, model, store)
          if (random.below(4) > 0) await store.close()
          else return
        }
      },
    },
    { seed, limit: 40 },
    files,
  )
  stop()
  return left ?? { model, files: files.afterCrash({ keep: 'none' }) }
}

describe('every crash of a random workload, and of those that go on with what it left', () => {
  const fresh = Math.floor(Math.random() * 2 ** 31)
  test.each([...randomSeeds, fresh])(
    'seed %i',
    async (seed) => {
      console.log(`crash states: random workload with seed ${seed}`)
      let left = { model: new JournalModel(), files: new SimulatedFileSystem() }
      const before = harness.counts.judged
      for (let generation = 0; generation < generations; generation++) {
        left = await runGeneration(seed * 1000 + generation, left.model, left.files)
      }
      expect(harness.counts.judged - before).toBeGreaterThan(500)
    },
    120_000,
  )
})

describe('recovery itself', () => {
  const header = '// MINISTORE JOURNAL v0.2.0 seq=1\n'
  const torn: Array<[string, Record<string, string>]> = [
    ['a torn tail', { '': `${header}1\n2\n{"n":` }],
    [
      'a torn tail and evidence of an earlier one of the same number',
      { '': `${header}1\n2\n{"n":`, '.torn-3': 'other' },
    ],
    ['a torn tail and half-made evidence', { '': `${header}1\n2\n{"n":`, '.torn-3.tmp': '{"' }],
    ['half a header', { '': header.slice(0, 20), '.next': header }],
    ['no active segment', { '.001': `${header}1\n2\n`, '.next': '', '.seal.tmp': 'bytes=' }],
  ]

  test.each(torn)(
    '%s: every crash inside it is recovered from, and a crash inside that',
    async (name, content) => {
      const files = new SimulatedFileSystem()
      for (const [ending, text] of Object.entries(content)) files.writeFile(journalPath + ending, text)
      const isHeaderOnly = name === 'half a header'
      const expected: ExpectedJournal = {
        issued: isHeaderOnly ? [] : ['1', '2'],
        acknowledged: isHeaderOnly ? 0 : 2,
        floor: { lowest: 1, highest: 1 },
        isManyLines: false,
      }
      const before = harness.counts.recoveries
      await harness.run(
        { name, expected: () => expected, run: (state) => oracle.recover(state) },
        { seed: 7, limit: 1000, insideEvery: 1 },
        files,
      )
      expect(harness.counts.recoveries).toBeGreaterThan(before)
    },
    120_000,
  )
})

afterAll(() => {
  const { moments, judged, distinct, killed, recoveries } = harness.counts
  console.log(
    `crash states: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened, ` +
      `${killed} kills, ${recoveries} recoveries crashed inside; ${oracle.toleratedDamage} times damage was accepted ` +
      'where a write of many lines lost its beginning',
  )
})

describe('the suite', () => {
  test('opens at least fifteen thousand distinct states, and accepts damage in few', () => {
    expect(harness.counts.distinct).toBeGreaterThan(15_000)
    expect(harness.counts.recoveries).toBeGreaterThan(400)
    expect(oracle.toleratedDamage).toBeLessThan(harness.counts.judged / 50)
  })

  test.each(['dataSync', 'sync', 'syncDirectory'] as const)('finds out that %s does nothing', async (lie) => {
    const files = new SimulatedFileSystem()
    if (lie === 'syncDirectory') files.syncDirectory = () => Promise.resolve()
    else {
      const open = files.open.bind(files)
      files.open = async (path, mode) => Object.assign(await open(path, mode), { [lie]: () => Promise.resolve() })
    }
    const deaf = workload(`a disk that is deaf to ${lie}`, async (model) => {
      const store = await model.open(files)
      await model.append(store, 1)
      await model.rotate(store)
      await model.append(store, 2)
      await store.close()
    })
    await expect(new CrashHarness(new JournalOracle()).run(deaf, { seed: 1, limit: 60 }, files)).rejects.toThrow(
      CrashFinding,
    )
  })

  test('finds a lost record, a phantom and a wrong one: the oracle can fail', async () => {
    const claims = (issued: string[], acknowledged: number): Workload<ExpectedJournal> => ({
      name: 'claims',
      expected: () => ({ issued, acknowledged, floor: { lowest: 1, highest: 1 }, isManyLines: false }),
      run: (files) => oracle.recover(files),
    })
    const written = new SimulatedFileSystem()
    written.writeFile(journalPath, '// MINISTORE JOURNAL v0.2.0 seq=1\n1\n2\n')
    const run = (issued: string[], acknowledged: number): Promise<void> =>
      new CrashHarness(oracle).run(claims(issued, acknowledged), { seed: 1, limit: 10 }, written.afterKill())
    await expect(run(['1', '2'], 2)).resolves.toBeUndefined()
    await expect(run(['1', '2', '3'], 3)).rejects.toThrow(CrashFinding)
    await expect(run(['1'], 1)).rejects.toThrow(CrashFinding)
    await expect(run(['1', '3'], 2)).rejects.toThrow(CrashFinding)
  })
})
