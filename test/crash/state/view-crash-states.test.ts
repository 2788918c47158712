import { afterAll, describe, expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { CrashHarness } from '../harness.ts'
import { type ExpectedView, type FoundView, openLogView, openWriter, ViewOracle, viewWorkloads } from './view-model.ts'

const limit = scaled(3, 40)
const floor = scaled(250, 1_500)
const harness = new CrashHarness<ExpectedView, FoundView>(new ViewOracle())

describe('after a crash of the writer, of the view or of both, the view equals the fold of the journal', () => {
  test.each([...viewWorkloads(false), ...viewWorkloads(true)])(
    '$name',
    { timeout: scaled(120_000, 600_000) },
    async (script) => {
      const before = harness.counts.distinct
      let moments = 0
      const isTaken = (): boolean => ++moments % scaled(3, 1) === 0
      await harness.run(script, { seed: 1, limit, insideEvery: 32, isTaken })
      expect(harness.counts.distinct - before).toBeGreaterThan(20)
    },
  )
})

afterAll(() => {
  const { moments, judged, distinct, killed, recoveries } = harness.counts
  console.log(
    `view crashes: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened, ` +
      `${killed} kills, ${recoveries[0]} reopenings crashed inside`,
  )
})

describe('the suite', () => {
  test(`opens at least ${floor} distinct states`, () => {
    expect(harness.counts.distinct).toBeGreaterThan(floor)
    expect(harness.counts.recoveries[0]).toBeGreaterThan(1)
  })

  test('the oracle can fail: it finds a record that was folded twice, and a lost one', async () => {
    const files = new SimulatedFileSystem()
    const store = await openWriter(files)
    for (const id of [100, 101, 102]) await store.append({ id })
    const view = await openLogView(files)
    const oracle = new ViewOracle()
    const found = await oracle.find(files.afterKill())
    expect(() => oracle.check(found, { issued: [100, 101, 102, 103], acknowledged: 4 })).toThrow('4 were acknowledged')
    expect(() => oracle.check(found, { issued: [100, 104, 102], acknowledged: 3 })).toThrow('expected')
    ;(view.state.log as string[]).push('3:102')
    await view.close()
    await store.close()
    await expect(oracle.find(files)).rejects.toThrow('the view has 4 records, the journal 3')
  })
})
