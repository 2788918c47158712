import { CrashHarness } from '../harness.ts'
import { ReplicaOracle } from '../replicate/oracle.ts'
import { scriptedReplicas } from '../replicate/workloads.ts'
import type { Check } from './checks.ts'

/** Each check has its own harness, since a journal's oracle cannot describe two journals. */
export const replicaChecks: readonly Check[] = scriptedReplicas(1).map((script): Check => [
  `replica: ${script.name}`,
  ({ newFiles }) => {
    let moments = 0
    // Every state opens two journals and copies one, so every third moment is tested.
    const isTaken = (): boolean => ++moments % 3 === 0
    return new CrashHarness(new ReplicaOracle()).run(script, { seed: 1, limit: 3, nesting: 0, isTaken }, newFiles())
  },
])
