import { join } from 'node:path'

import { expect, onTestFinished, test } from 'vitest'

import { MiniStore, replicate } from '../../../src/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { pickSeed, seededRandom } from '../../support/seeded-random.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { KillableProcess } from '../processes/kill-process.ts'

const rounds = scaled(8, 200)
/** Each pair of journals is compared as a whole at every kill, so none may grow for long. */
const roundsOfPair = 20

type Report = { readonly type: 'opened' | 'appended'; readonly last: number }
type Side = KillableProcess<Report>

test(`either side killed at a random moment, ${rounds} times: the replica goes on`, { timeout: scaled(240_000, 1_800_000) }, async () => {
  const seed = pickSeed('replica kill')
  const random = seededRandom(seed)
  const sum = { writers: 0, replicators: 0, acknowledged: 0, records: 0 }
  for (let done = 0; done < rounds; done += roundsOfPair) {
    const pair = await killPair(Math.min(roundsOfPair, rounds - done), seed, random)
    sum.writers += pair.writers
    sum.replicators += pair.replicators
    sum.acknowledged += pair.acknowledged
    sum.records += pair.records
  }
  console.log(
    `replica kill: seed ${seed}, ${sum.writers} writers and ${sum.replicators} replicators killed, ` +
      `${sum.acknowledged} records acknowledged, ${sum.records} replicated before the last copy`,
  )
  expect(sum.writers + sum.replicators).toBe(rounds)
  expect(sum.records, 'replication went on between the kills').toBeGreaterThan(rounds)
})

/** Kills the writer of a new journal, or its replicator, so many times. */
async function killPair(
  kills: number,
  seed: number,
  random: (limit: number) => number,
): Promise<{ writers: number; replicators: number; acknowledged: number; records: number }> {
  const directory = await temporaryDirectory()
  const places = { source: join(directory, 'source/journal.jsonl'), target: join(directory, 'target/journal.jsonl') }
  const all = new Set<Side>()
  onTestFinished(async () => void (await Promise.all([...all].map((side) => side.kill()))))

  const begin = async (role: 'writer' | 'replicator'): Promise<Side> => {
    const side: Side = new KillableProcess<Report>('replica.js')
    all.add(side)
    const opened = new Promise<void>((resolve, reject) => {
      side.onReport = (report) => {
        if (report.type === 'failed') reject(new Error(`seed ${seed}, ${role}: ${report.message}`))
        if (report.type === 'opened') resolve()
      }
    })
    await side.start({ role, ...places, seed: random(2 ** 32) })
    await opened
    return side
  }
  const end = async (side: Side): Promise<number> => {
    await side.kill()
    all.delete(side)
    const failed = side.reports.find((report) => report.type === 'failed')
    expect(failed, `seed ${seed}`).toBeUndefined()
    return Math.max(0, ...side.reports.map((report) => ('last' in report ? report.last : 0)))
  }

  let acknowledged = 0
  let writer = await begin('writer')
  let replicator = await begin('replicator')
  let writers = 0
  for (let round = 0; round < kills; round++) {
    await new Promise((resolve) => setTimeout(resolve, random(60)))
    if (random(2) === 0) {
      acknowledged = Math.max(acknowledged, await end(writer))
      writers += 1
      writer = await begin('writer')
    } else {
      await end(replicator)
      const { records } = await beginningOf(places)
      expect(records, `seed ${seed}`).toBeGreaterThanOrEqual(0)
      replicator = await begin('replicator')
    }
  }
  acknowledged = Math.max(acknowledged, await end(writer))
  await end(replicator)
  const { records } = await beginningOf(places)

  const from = await MiniStore.read(places.source)
  await using to = await MiniStore.open(places.target)
  await replicate(from, to, { follow: false })
  expect(to.lastSequence).toBe(from.lastSequence)
  expect(to.lastSequence).toBeGreaterThanOrEqual(acknowledged)
  await beginningOf(places)
  return { writers, replicators: kills - writers, acknowledged, records }
}

/** Compares the target, record by record, with the beginning of the source. */
async function beginningOf(places: { readonly source: string; readonly target: string }): Promise<{ records: number }> {
  const source = MiniStore.entries<{ n: number }>(places.source).getReader()
  let records = 0
  for await (const { sequence, record } of MiniStore.entries<{ n: number }>(places.target)) {
    const { value } = await source.read()
    expect(value).toEqual({ sequence, record })
    expect(record.n).toBe(sequence)
    records++
  }
  await source.cancel()
  return { records }
}
