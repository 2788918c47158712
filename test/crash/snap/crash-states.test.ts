import { afterAll, describe, expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { CrashFinding, CrashHarness, type Workload } from '../harness.ts'
import { type ExpectedSnaps, snapDirectory, SnapModel, snapWorkload } from './model.ts'
import { type FoundSnaps, SnapOracle } from './oracle.ts'
import { scriptedSnaps } from './workloads.ts'

const limit = scaled(16, 200)
const salts = Array.from({ length: scaled(1, 6) }, (_, index) => index + 1)
const harness = new CrashHarness<ExpectedSnaps, FoundSnaps>(new SnapOracle())

const scripted = salts.flatMap((salt) =>
  [1, 2, 3].flatMap((keep) => scriptedSnaps(keep, salt).map((script) => ({ name: script.name, script, salt }))),
)

describe('every crash leaves the newest acknowledged snapshot or the one in progress, complete', () => {
  test.each(scripted)('$name', { timeout: scaled(60_000, 600_000) }, async ({ script, salt }) => {
    const before = harness.counts.judged
    await harness.run(script, { seed: salt, limit, insideEvery: scaled(30, 6) })
    expect(harness.counts.judged - before).toBeGreaterThan(50)
  })

  test('a restored snapshot survives a power failure, though its writer died after the rename', async () => {
    const model = new SnapModel()
    const files = new SimulatedFileSystem()
    const store = model.open(files, 1)
    await model.create(store, 'first', 1)
    let killed: SimulatedFileSystem | undefined
    let hasRenamed = false
    files.onOperation(({ operation }) => {
      if (hasRenamed) killed ??= files.afterKill()
      hasRenamed ||= operation === 'rename'
    })
    await store.create('second', 2)
    if (killed === undefined) throw new Error('There was no call after the rename')
    const next = model.open(killed, 1)
    expect(await next.restore()).toEqual({ state: 'second', sequence: 2, damaged: [] })
    // The caller that got this snapshot may have built on it, so it must survive.
    const crashed = model.open(killed.afterCrash({ keep: 'none' }), 1)
    expect(await crashed.restore()).toMatchObject({ state: 'second', sequence: 2 })
  })
})

describe('the suite', () => {
  test('has at least its expected size', () => {
    const { distinct, judged, killed, recoveries } = harness.counts
    expect(distinct).toBeGreaterThan(scaled(4500, 30_000))
    expect(judged).toBeGreaterThan(scaled(25_000, 150_000))
    expect(killed).toBeGreaterThan(scaled(1500, 9000))
    expect(recoveries[0]).toBeGreaterThan(scaled(50, 500))
  })

  test.each(['sync', 'syncDirectory'] as const)('detects a %s that does nothing', async (lie) => {
    const files = new SimulatedFileSystem()
    if (lie === 'syncDirectory') files.syncDirectory = () => Promise.resolve()
    else {
      const open = files.open.bind(files)
      files.open = async (path, mode) => {
        const file = await open(path, mode)
        // The sync of a directory is `syncDirectory`.
        return mode === 'directory' ? file : Object.assign(file, { sync: () => Promise.resolve() })
      }
    }
    const deaf = snapWorkload(`a disk that is deaf to ${lie}`, async (model) => {
      const store = model.open(files, 1)
      for (let sequence = 1; sequence <= 3; sequence++) await model.create(store, { sequence }, sequence)
    })
    const run = new CrashHarness(new SnapOracle()).run(deaf, { seed: 1, limit: 60 }, files)
    await expect(run).rejects.toThrow(CrashFinding)
  })

  test('the oracle can fail: it finds a lost, a wrong, a surplus and a damaged snapshot', async () => {
    const claims = (expected: ExpectedSnaps): Workload<ExpectedSnaps> => ({
      name: 'claims',
      expected: () => expected,
      run: () => Promise.resolve(),
    })
    const files = new SimulatedFileSystem()
    const store = new SnapModel().open(files, 2)
    for (const sequence of [1, 2]) await store.create(sequence, sequence)
    const run = (acknowledged: ReadonlyArray<[number, string]>, most = 2): Promise<void> => {
      const expected = { acknowledged: new Map(acknowledged), possible: [], kept: 2, keep: 2, most }
      return new CrashHarness(new SnapOracle()).run(claims(expected), { seed: 1, limit: 10 }, files.afterKill())
    }
    await expect(run([[1, '1'], [2, '2']])).resolves.toBeUndefined()
    await expect(run([[1, '1'], [2, '2'], [3, '3']])).rejects.toThrow(/the snapshot 3 is gone/)
    await expect(run([[1, '1'], [2, '3']])).rejects.toThrow(/the snapshot 2 holds 2, written was 3/)
    await expect(run([[1, '1'], [2, '2']], 1)).rejects.toThrow(/2 snapshots are left, expected at most 1/)
    files.writeFile(`${snapDirectory}/snapshot-2.json`, 'x')
    await expect(run([[1, '1'], [2, '2']])).rejects.toThrow(/the damaged ones/)
  })
})

afterAll(() => {
  const { moments, judged, distinct, reopened, killed, recoveries } = harness.counts
  console.log(
    `crash states, snapshots: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened ` +
      `(${reopened} again), ${killed} kills, ${recoveries.join(' + ')} recoveries crashed inside`,
  )
})
