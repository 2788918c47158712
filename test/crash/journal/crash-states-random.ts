import { afterAll, describe, expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { isFullCrashSuite, scaled } from '../../support/crash-scale.ts'
import { CrashHarness } from '../harness.ts'
import { type ExpectedJournal, JournalModel } from './model.ts'
import { type FoundJournal, JournalOracle } from './oracle.ts'
import { runGeneration } from './workloads.ts'
import { OrderMonitor } from './order-monitor.ts'

// More seeds give more states, at less cost, than more states at one moment.
const limit = 150
const insideEvery = 16
const nesting = scaled(1, 2)
const generations = 2

/**
 * Defines the tests of random workloads for these seeds and one fresh seed. Two test files call
 * this function, so that the work spreads over the cores.
 */
export function testRandomWorkloads(range: {
  readonly from: number
  readonly to: number
  /** The test fails unless more distinct states than this are opened. */
  readonly floor: number
}): void {
  const { from, to, floor } = range
  const seeds = Array.from({ length: to - from + 1 }, (_, index) => from + index)
  const oracle = new JournalOracle()
  const harness = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)

  describe('every crash of a random workload, and of workloads that continue from what it left', () => {
    const fresh = 1_000_000 + Math.floor(Math.random() * 1_000_000)
    test.each([...seeds, fresh])('seed %i', { timeout: scaled(120_000, 600_000) }, async (seed) => {
      if (seed === fresh) console.log(`crash states: random workload with the fresh seed ${seed}`)
      let left = { model: new JournalModel(), files: new SimulatedFileSystem() }
      const before = harness.counts.judged
      for (let generation = 0; generation < generations; generation++) {
        left = await runGeneration(harness, left, { seed: seed * 1000 + generation, limit, insideEvery, nesting })
      }
      expect(harness.counts.judged - before).toBeGreaterThan(100)
    })
  })

  afterAll(() => {
    const { moments, judged, distinct, reopened, killed, recoveries } = harness.counts
    console.log(
      `crash states, random: seeds ${from} to ${to}, ${moments} moments, ${judged} states judged, ${distinct} of them ` +
        `distinct and opened (${reopened} again), ${killed} kills, ${recoveries.join(' + ')} recoveries crashed inside, ` +
        `${OrderMonitor.operations} operations held to their order, ${OrderMonitor.repeated} of them known from an ` +
        `equal opening; ${oracle.toleratedDamage} times damage was accepted where a ` +
        'write of many lines lost its beginning',
    )
  })

  test(`opens at least ${floor} distinct states, and accepts damage in few`, () => {
    expect(harness.counts.distinct).toBeGreaterThan(floor)
    expect(harness.counts.recoveries[0]).toBeGreaterThan(300)
    if (isFullCrashSuite) expect(harness.counts.recoveries[1]).toBeGreaterThan(1000)
    expect(OrderMonitor.operations).toBeGreaterThan(50 * floor)
    expect(oracle.toleratedDamage).toBeLessThan(harness.counts.judged / 50)
  })
}
