import { afterAll, describe, expect, test } from 'vitest'

import { MiniStoreError, type SnapStore } from '../../../src/minisnap/index.ts'
import { type Operation, SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { causes, failing, type FaultKind, needsRoom } from '../faults.ts'
import { CrashHarness } from '../harness.ts'
import { type ExpectedSnaps, SnapModel } from './model.ts'
import { type FoundSnaps, SnapOracle } from './oracle.ts'

const harness = new CrashHarness<ExpectedSnaps, FoundSnaps>(new SnapOracle())
const codes = new Map<string, number>()
let faultyRuns = 0

function onceAndAlways(
  name: string,
  code: 'EIO' | 'ENOSPC' | 'EFBIG',
  only: (operation: Operation) => boolean,
): FaultKind[] {
  return [false, true].map((isPersistent) => failing(name, code, isPersistent, only))
}

const kinds: readonly FaultKind[] = [
  ...onceAndAlways('one operation', 'EIO', () => true),
  ...onceAndAlways('one sync', 'EIO', ({ operation }) => /sync/i.test(operation)),
  ...onceAndAlways('one change of names', 'EIO', ({ operation }) => ['rename', 'unlink'].includes(operation)),
  ...onceAndAlways('one growing call', 'ENOSPC', needsRoom),
  ...onceAndAlways('one write', 'EFBIG', ({ operation }) => operation === 'write'),
  {
    name: 'one write is short',
    code: undefined,
    strike: (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 2 }),
  },
  {
    name: 'one write is short, and the next fails with ENOSPC',
    code: 'ENOSPC',
    strike: (files, nth) => files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 3 }),
  },
]

/**
 * Runs a process that continues with the same store whatever is refused. Returns the number of
 * refusals.
 */
async function live(model: SnapModel, store: SnapStore, kind: FaultKind): Promise<number> {
  let failures = 0
  const attempt = async (task: () => Promise<unknown>): Promise<void> => {
    try {
      await task()
    } catch (error) {
      failures += 1
      // The model's own failures are plain errors and must come through.
      const isRefusal = error instanceof MiniStoreError && refusals.has(error.code)
      if (!isRefusal || !causes(error).includes(kind.code)) throw error
      codes.set(error.code, (codes.get(error.code) ?? 0) + 1)
    }
  }
  const create = (sequence: number, state: unknown): Promise<void> =>
    attempt(() => model.create(store, state, sequence))
  await attempt(() => model.restore(store))
  const from = model.newest
  await create(from + 1, { n: from })
  await create(from + 2, 'text')
  await create(from + 2, 'in its place')
  await Promise.all([create(from + 3, [1]), create(from + 4, [2])])
  await attempt(() => store.sweep())
  await attempt(() => model.restore(store))
  await create(model.newest, 'last')
  return failures
}

const refusals: ReadonlySet<string> = new Set(['ERR_MINISTORE_IO', 'ERR_MINISTORE_OUTCOME_UNKNOWN'])

async function runWithFault(kind: FaultKind, nth: number): Promise<{ readonly hits: number; readonly failures: number }> {
  const files = new SimulatedFileSystem()
  const model = new SnapModel()
  const fault = kind.strike(files, nth)
  let failures = 0
  let since = 0
  const isTaken = (): boolean => {
    if (fault.hits === 0) return false
    // Takes all of the first moments after the fault, then a few. Later moments only add states of
    // a run without a fault.
    since += 1
    return since <= 12 || since % 6 === 0
  }
  const run = async (): Promise<void> => {
    for (const keep of [2, 1]) failures += await live(model, model.open(files, keep), kind)
    files.clearFaults()
    const store = model.open(files, 2)
    await model.restore(store)
    await model.create(store, 'after the fault', model.newest + 1)
  }
  const workload = { name: `${kind.name}: ${nth}`, expected: model.expected, run }
  const options = { seed: nth + 1, limit: scaled(4, 24), insideEvery: 50, isTaken, epoch: () => fault.hits }
  await harness.run(workload, options, files)
  return { hits: fault.hits, failures }
}

describe('a failing call loses no acknowledged snapshot, and reports the outcome', () => {
  test.each(kinds)('$name', { timeout: scaled(120_000, 600_000) }, async (kind) => {
    let runs = 0
    for (; ; runs++) {
      const { hits, failures } = await runWithFault(kind, runs)
      if (hits === 0) break
      // Short writes are continued, so they are not failures.
      if (kind.code === undefined) expect(failures).toBe(0)
      if (runs > 1000) throw new Error('The run never came to its end without a fault')
    }
    faultyRuns += runs
    expect(runs).toBeGreaterThan(15)
  })
})

afterAll(() => {
  const { moments, judged, distinct } = harness.counts
  const seen = [...codes].map(([code, count]) => `${count} ${code}`).join(', ')
  console.log(
    `failing calls, snapshots: ${faultyRuns} runs with a fault, ${moments} moments, ${judged} states judged, ` +
      `${distinct} distinct; ${seen}`,
  )
})

test('the suite has at least its expected size', () => {
  expect(faultyRuns).toBeGreaterThan(750)
  expect(harness.counts.distinct).toBeGreaterThan(5000)
  expect([...codes.keys()].toSorted()).toEqual(['ERR_MINISTORE_IO', 'ERR_MINISTORE_OUTCOME_UNKNOWN'])
})
