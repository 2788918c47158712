import '../../support/fixed-identity.ts'

import { afterAll, describe, expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { CrashFinding, CrashHarness, type Workload } from '../harness.ts'
import type { ExpectedQueue } from './expected.ts'
import { QueueOracle, type FoundQueueState } from './oracle.ts'
import { QueueUser } from './user.ts'
import { runQueueGeneration, scriptedQueueWorkloads } from './workloads.ts'

const limit = scaled(3, 40)
const seeds = Array.from({ length: scaled(4, 100) }, (_, index) => index + 1)
const floor = scaled(1000, 90_000)
const generations = 2

const oracle = new QueueOracle()
const harness = new CrashHarness<ExpectedQueue, FoundQueueState>(oracle)

describe('no crash loses a message, brings one back, or forgets a delivery', () => {
  const scripts = scriptedQueueWorkloads()
  test.each(scripts)('$name', { timeout: scaled(60_000, 600_000) }, async (script) => {
    const before = harness.counts.distinct
    // Scripts that resemble each other would sample the same states with the same seed.
    const seed = scripts.indexOf(script) + 1
    await harness.run(script, { seed, limit, insideEvery: scaled(20, 12), nesting: scaled(1, 2) })
    expect(harness.counts.distinct - before).toBeGreaterThan(30)
  })

  const fresh = 1_000_000 + Math.floor(Math.random() * 1_000_000)
  test.each([...seeds, fresh])(
    'random actions with seed %i, and actions that continue from what they left',
    { timeout: scaled(60_000, 600_000) },
    async (seed) => {
      if (seed === fresh) console.log(`queue crashes: random actions with the fresh seed ${seed}`)
      let left = { user: new QueueUser(), files: new SimulatedFileSystem() }
      const before = harness.counts.judged
      for (let generation = 0; generation < generations; generation++) {
        const options = { seed: seed * 1000 + generation, limit, insideEvery: 40 }
        left = await runQueueGeneration(harness, left, options)
      }
      expect(harness.counts.judged - before).toBeGreaterThan(50)
    },
  )
})

afterAll(() => {
  const { moments, judged, distinct, reopened, killed, recoveries } = harness.counts
  console.log(
    `queue crashes: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened ` +
      `(${reopened} again), ${killed} kills, ${recoveries.join(' + ')} recoveries crashed inside, ` +
      `${oracle.waiting} messages found in them, dead letters in ${oracle.dead}`,
  )
})

describe('the suite', () => {
  test(`opens at least ${floor} distinct states`, () => {
    expect(harness.counts.distinct).toBeGreaterThan(floor)
    expect(harness.counts.recoveries[0]).toBeGreaterThan(10)
    expect(oracle.waiting).toBeGreaterThan(floor)
    expect(oracle.dead).toBeGreaterThan(floor / 10)
  })

  test('the oracle can fail: it finds messages lost, resurrected, delivered unnoticed or out of order', async () => {
    const files = new SimulatedFileSystem()
    const user = new QueueUser()
    await user.open(files, { maxAttempts: 1 })
    for (let n = 0; n < 3; n++) await user.enqueue({})
    const [first] = await user.receive(2)
    await user.nack(first, { delayMs: 0 })
    await user.close()
    const truth = user.expected()
    const claim = (
      change: (queue: ExpectedQueue['possible'][number]) => ExpectedQueue['possible'][number],
    ): Promise<void> => {
      const expected = { ...truth, possible: truth.possible.map(change) }
      const claims: Workload<ExpectedQueue> = {
        name: 'claims',
        expected: () => expected,
        run: (disk) => oracle.recover(disk),
      }
      return new CrashHarness(oracle).run(claims, { seed: 1, limit: 4 }, files.afterKill())
    }
    await expect(claim((queue) => queue)).resolves.toBeUndefined()
    const changedMessage = (name: number, change: object) => (queue: ExpectedQueue['possible'][number]) => {
      const message = queue.messages.get(name)
      if (message === undefined) throw new Error(`There is no message ${name}`)
      return { ...queue, messages: new Map(queue.messages).set(name, { ...message, ...change }) }
    }
    await expect(claim(changedMessage(2, { attempts: 2 }))).rejects.toThrow(CrashFinding)
    await expect(claim(changedMessage(2, { order: 99 }))).rejects.toThrow(CrashFinding)
    await expect(claim(changedMessage(3, { priority: 9 }))).rejects.toThrow(CrashFinding)
    await expect(claim(changedMessage(3, { text: '…1' }))).rejects.toThrow(CrashFinding)
    await expect(claim((queue) => ({ ...queue, dead: new Map() }))).rejects.toThrow(CrashFinding)
    await expect(claim((queue) => ({ ...queue, messages: new Map() }))).rejects.toThrow(CrashFinding)
  })
})
