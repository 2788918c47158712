import '../../support/fixed-identity.ts'

import { afterAll, describe, expect, test } from 'vitest'

import { MiniStoreError } from '../../../src/index.ts'
import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { CrashFinding, CrashHarness, type Workload } from '../harness.ts'
import { type ExpectedState, foldOf, openLog, StateModel, stateDirectory } from './model.ts'
import { type FoundState, StateOracle } from './oracle.ts'
import { runStateGeneration, scriptedStateWorkloads } from './workloads.ts'

// More seeds give more states, at less cost, than more states at one moment.
const limit = scaled(10, 40)
const seeds = Array.from({ length: scaled(5, 60) }, (_, index) => index + 1)
const floor = scaled(10_000, 120_000)
const generations = 2

const oracle = new StateOracle()
const harness = new CrashHarness<ExpectedState, FoundState>(oracle)

describe('every crash leaves a state that is the fold of an acknowledged prefix', () => {
  test.each(scriptedStateWorkloads())('$name', { timeout: scaled(120_000, 600_000) }, async (script) => {
    const before = harness.counts.distinct
    await harness.run(script, { seed: 1, limit, nesting: scaled(1, 2) })
    expect(harness.counts.distinct - before).toBeGreaterThan(50)
  })

  const fresh = 1_000_000 + Math.floor(Math.random() * 1_000_000)
  test.each([...seeds, fresh])(
    'random workload with seed %i, and workloads that continue from what it left',
    { timeout: scaled(120_000, 600_000) },
    async (seed) => {
      if (seed === fresh) console.log(`state crashes: random workload with the fresh seed ${seed}`)
      let left = { model: new StateModel(), files: new SimulatedFileSystem() }
      const before = harness.counts.judged
      for (let generation = 0; generation < generations; generation++) {
        const options = { seed: seed * 1000 + generation, limit, insideEvery: 16 }
        left = await runStateGeneration(harness, left, options)
      }
      expect(harness.counts.judged - before).toBeGreaterThan(100)
    },
  )
})

afterAll(() => {
  const { moments, judged, distinct, reopened, killed, recoveries } = harness.counts
  console.log(
    `state crashes: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened ` +
      `(${reopened} again), ${killed} kills, ${recoveries.join(' + ')} recoveries crashed inside, ` +
      `${oracle.pastStates} past states asked for, ${oracle.toleratedDamage} torn writes of several mutations refused`,
  )
})

describe('the suite', () => {
  test(`opens at least ${floor} distinct states`, () => {
    expect(harness.counts.distinct).toBeGreaterThan(floor)
    expect(harness.counts.recoveries[0]).toBeGreaterThan(100)
    expect(oracle.pastStates).toBeGreaterThan(5 * floor)
  })

  test('the oracle can fail: it finds a lost, a phantom and a wrong mutation, and a missing past', async () => {
    const written = new SimulatedFileSystem()
    const manager = await openLog(written)
    for (const id of [1, 2, 3]) await manager.apply({ id })
    await manager.compact()
    await manager.close()
    const claim = (issued: number[], acknowledged: number, highest: number): Promise<void> => {
      const expected: ExpectedState = { issued, acknowledged, floor: { highest } }
      const claims: Workload<ExpectedState> = {
        name: 'claims',
        expected: () => expected,
        run: (files) => oracle.recover(files),
      }
      return new CrashHarness(oracle).run(claims, { seed: 1, limit: 10 }, written.afterKill())
    }
    await expect(claim([1, 2, 3], 3, 3)).resolves.toBeUndefined()
    await expect(claim([1, 2, 3, 4], 4, 3)).rejects.toThrow(CrashFinding)
    await expect(claim([1, 2], 2, 3)).rejects.toThrow(CrashFinding)
    await expect(claim([1, 5, 3], 3, 3)).rejects.toThrow(CrashFinding)
    await expect(claim([1, 2, 3], 3, 2)).rejects.toThrow(CrashFinding)
  })

  test('the oracle can fail: it tolerates damage only in a write of several mutations that is under way', () => {
    const damage = new MiniStoreError('ERR_MINISTORE_CORRUPT', 'broken', { sequence: 3 })
    const found: FoundState = { log: [], answersFrom: 0, hasRecovered: false, damage }
    const expected = { issued: [1, 2, 3, 4], acknowledged: 2, floor: { highest: 0 }, isManyLines: true }
    const check = (change: object, isHarsh = true) => () => oracle.check(found, { ...expected, ...change }, { isHarsh })
    expect(check({})).not.toThrow()
    for (const failing of [check({ acknowledged: 3 }), check({ isManyLines: false }), check({}, false)]) expect(failing).toThrow('does not open')
  })

  test('finds a mutation that was applied twice', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(`${stateDirectory}/journal.jsonl`, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n{"id":1}\n')
    await expect(oracle.find(files.afterKill())).resolves.toMatchObject({ log: foldOf([1]) })
    const manager = await openLog(files)
    ;(manager.state.log as string[]).push('1:1')
    await manager.createSnapshot()
    await manager.close()
    await expect(oracle.find(files)).rejects.toThrow('the state has 2 mutations, but is at 1')
  })
})
