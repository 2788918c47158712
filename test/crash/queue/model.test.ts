import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { pickSeed } from '../../support/seeded-random.ts'
import { anyCommand } from './commands.ts'
import { QueueCounts } from './counts.ts'
import { runQueueModel, TroubleCounts } from './run.ts'

/**
 * The longest time for shrinking a failing run, in milliseconds; it then prints what it has. The
 * test's own timeout must be longer.
 */
const limitMs = scaled(120_000, 1_800_000)

describe('a queue behaves like a plain queue in memory', { timeout: limitMs * 1.5 }, () => {
  test('with crashes, full disks, failed syncs and a wall clock that jumps, for random commands', async () => {
    const seed = pickSeed('queue model')
    const trouble = new TroubleCounts()
    const calls = new QueueCounts()
    const commands = fc.array(anyCommand, { minLength: 1, maxLength: 40, size: 'max' })
    const run = (given: Parameters<typeof runQueueModel>[0]): Promise<void> =>
      runQueueModel(given, new SimulatedFileSystem(), { trouble, calls })
    await fc.assert(fc.asyncProperty(commands, run), {
      seed,
      numRuns: scaled(800, 20_000),
      plugins: [fc.interruptAfterTimeLimit(limitMs, { failOnInterrupt: true })],
    })
    console.log(`queue model: ${trouble.toString()}; ${calls.toString()}`)
    // A model that never meets trouble proves nothing.
    for (const [name, count] of [...Object.entries(trouble), ...Object.entries(calls)]) {
      expect(count, name).toBeGreaterThan(2)
    }
  })

  test('with a redrive while it is unknown whether the key is free: the clock was set back (seed 1532133961)', async () => {
    const commands: Parameters<typeof runQueueModel>[0] = [
      { do: 'crash', action: { do: 'awaited', max: 1, jobs: [{ key: '__proto__' }, {}] }, after: 2, loss: { pick: 0 }, options: {} },
      { do: 'crash', action: { do: 'ack', pick: 0 }, after: 0, loss: 'process', options: { maxAttempts: 1, dedupeWindowMs: 50000 } },
      { do: 'enqueue', job: { key: '__proto__' } },
      { do: 'receive', max: 2 },
      { do: 'ack', pick: 3 },
      { do: 'jump', ms: -3600000, behind: 'receive' },
      { do: 'crash', action: { do: 'redrive', pick: 'all' }, after: 2, loss: { pick: 0 }, options: {} },
      { do: 'process', concurrency: 1, throwsAt: 1 },
      { do: 'crash', action: { do: 'awaited', max: 1, jobs: [{}] }, after: 0, loss: 'process', options: {} },
      { do: 'crash', action: { do: 'nack', pick: 0 }, after: 0, loss: { pick: 0 }, options: {} },
    ]
    const counts = { trouble: new TroubleCounts(), calls: new QueueCounts() }
    await expect(runQueueModel(commands, new SimulatedFileSystem(), counts)).resolves.toBeUndefined()
  })
})
