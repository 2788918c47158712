import { CrashHarness } from '../harness.ts'
import { QueueOracle } from '../queue-oracle.ts'
import { scriptedQueueWorkloads } from '../queue-workloads.ts'
import type { Check } from './checks.ts'

/** Each has a harness of its own: what a queue holds is nothing that a journal's oracle could say. */
export const queueChecks: readonly Check[] = scriptedQueueWorkloads().map(({ name, ...script }): Check => [
  `queue: ${name}`,
  ({ newFiles }) => {
    let moments = 0
    // Opening a queue and trying all that it can takes a while: every third moment will do here.
    const isTaken = (): boolean => ++moments % 3 === 0
    const options = { seed: 1, limit: 3, nesting: 0, isTaken }
    return new CrashHarness(new QueueOracle()).run({ name, ...script }, options, newFiles())
  },
])
