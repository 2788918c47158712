import { describe, expect, test } from 'vitest'

import { scaled } from '../../support/crash-scale.ts'
import { pickSeed } from '../../support/seeded-random.ts'
import { MixCounts } from './mix-log.ts'
import { runQueueMix } from './mix-run.ts'

const runs = scaled(250, 5000)

/** The least that must happen in an average run: less than half of what does happen. */
const least: Readonly<Record<keyof Omit<MixCounts, 'toString'>, number>> = {
  runs: 1,
  lives: 3,
  enqueued: 40,
  handlers: 25,
  received: 10,
  streamed: 3,
  returned: 8,
  acked: 4,
  nacked: 4,
  redriven: 3,
  purged: 10,
  compacted: 0.4,
  aborted: 6,
  refunded: 0.8,
  leasesLost: 2,
  takenBack: 1,
  fullDisks: 2,
  fullCloses: 0.15,
  looks: 35,
}

describe('a queue with many simultaneous users', { timeout: scaled(120_000, 1_800_000) }, () => {
  test('loses nothing, repeats nothing and leaves no user waiting, for random actions in any order', async () => {
    const seed = pickSeed('queue mix')
    const counts = new MixCounts()
    // Each run has its own seed, which repeats that run alone.
    for (let run = 0; run < runs; run++) await runQueueMix(seed + run, counts)
    console.log(`queue mix: ${counts.toString()}`)
    for (const [name, count] of Object.entries(counts)) {
      expect(count, name).toBeGreaterThanOrEqual(least[name as keyof typeof least] * runs)
    }
  })
})
