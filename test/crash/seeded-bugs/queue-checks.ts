import { CrashHarness } from '../harness.ts'
import { QueueOracle } from '../queue/oracle.ts'
import { scriptedQueueWorkloads } from '../queue/workloads.ts'
import type { Check } from './checks.ts'

/** Each check has its own harness, since a journal's oracle cannot describe what a queue holds. */
export const queueChecks: readonly Check[] = scriptedQueueWorkloads().map(({ name, ...script }): Check => [
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
