import { MiniQueue } from '../../../src/miniqueue/index.ts'
import { turn } from '../../support/consume.ts'
import { CrashHarness } from '../harness.ts'
import { SteppedClock } from '../queue/clock.ts'
import { QueueOracle } from '../queue/oracle.ts'
import { scriptedQueueWorkloads } from '../queue/workloads.ts'
import type { Check } from './checks.ts'

/** Each check has its own harness, since a journal's oracle cannot describe what a queue holds. */
const crashChecks: readonly Check[] = scriptedQueueWorkloads().map(({ name, ...script }): Check => [
  `queue: ${name}`,
  ({ newFiles }) => {
    let moments = 0
    // Opening a queue and trying everything it can do takes a while, so every third moment is
    // tested.
    const isTaken = (): boolean => ++moments % 3 === 0
    const options = { seed: 1, limit: 3, nesting: 0, isTaken }
    return new CrashHarness(new QueueOracle()).run({ name, ...script }, options, newFiles())
  },
])

/** Leases are in memory, so no crash shows what is wrong with them. */
const directChecks: readonly Check[] = [
  [
    'queue: a message whose ack cannot be written comes again when its lease ends',
    async ({ newFiles }) => {
      const [fileSystem, clock] = [newFiles(), new SteppedClock()]
      const queue = await MiniQueue.open<number>('/jobs', { fileSystem, clock, onError: () => {} })
      let handled = 0
      const run = queue.process(() => {
        handled += 1
        if (handled === 1) fileSystem.failOn({ operation: 'write' }, 'ENOSPC')
      })
      await queue.enqueue(1)
      for (const ms of [0, 30_000]) {
        clock.advance(ms)
        for (let turns = 0; turns < 20; turns++) await turn()
      }
      await queue.close()
      await run
      if (handled !== 2) throw new Error(`the message was handled ${handled} times, expected 2`)
    },
  ],
]

export const queueChecks: readonly Check[] = [...crashChecks, ...directChecks]
