import { afterAll, describe, expect, test } from 'vitest'

import { scaled } from '../../support/crash-scale.ts'
import { CrashHarness } from '../harness.ts'
import { type FoundPair, ReplicaOracle } from './oracle.ts'
import { type ExpectedPair, scriptedReplicas } from './workloads.ts'

const limit = scaled(4, 60)
const salts = Array.from({ length: scaled(1, 6) }, (_, index) => index + 1)
const oracle = new ReplicaOracle()
const harness = new CrashHarness<ExpectedPair, FoundPair>(oracle)
const scripted = salts.flatMap((salt) => scriptedReplicas(salt).map((script) => ({ name: script.name, script, salt })))

describe('every crash leaves a replica that is a beginning of its source and can be continued', () => {
  test.each(scripted)('$name', { timeout: scaled(60_000, 600_000) }, async ({ script, salt }) => {
    const before = harness.counts.judged
    await harness.run(script, { seed: salt, limit, insideEvery: scaled(40, 8) })
    expect(harness.counts.judged - before).toBeGreaterThan(50)
  })

  test('the suite has at least its expected size', () => {
    expect(harness.counts.distinct).toBeGreaterThan(scaled(500, 10_000))
  })
})

afterAll(() => {
  const { moments, judged, distinct, reopened, killed, recoveries } = harness.counts
  console.log(
    `crash states, replicas: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened ` +
      `(${reopened} again), ${killed} kills, ${recoveries.join(' + ')} recoveries crashed inside, ` +
      `${oracle.refused} torn batches refused`,
  )
})
