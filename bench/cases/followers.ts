import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import { syntheticRecord } from '../data/synthetic.ts'
import { MiniStore } from '../library.ts'
import { percentiles } from '../statistics.ts'
import { turnAbout } from '../turn-about.ts'
import type { Case } from './case.ts'

const recordBytes = 110
const columns = ['append mean, µs', 'times without followers', 'processor time, µs']

export const followersCase: Case = {
  name: 'followers',
  title: 'Followers',
  method: [
    `One caller appends records of ${recordBytes} B one after another, while followers in the same process take each` +
      ' of them with `for await`. The numbers of followers take turns. Each row is the median of its rounds.' +
      ' *processor time*: user and system time of the process for each append, followers included.',
  ],
  async run(context) {
    const counts = context.isQuick ? [0, 2] : [0, 1, 10, 100]
    const appends = context.isQuick ? 5 : 1000
    const rounds = context.isQuick ? 1 : 9
    const measured = await turnAbout(
      counts.map((count) => ({
        name: String(count),
        run: (round: number) => follow(join(context.directory, `${count}-${round}`), { count, appends }),
      })),
      rounds,
    )
    const meanOf = (count: number): number => percentiles((measured.get(String(count)) ?? []).map(({ meanUs }) => meanUs)).p50
    const rows = counts.map((count) => {
      const cpuUs = percentiles((measured.get(String(count)) ?? []).map((slice) => slice.cpuUs)).p50
      const mean = meanOf(count)
      return { name: `${count} followers`, cells: [mean.toFixed(0), (mean / meanOf(0)).toFixed(2), cpuUs.toFixed(0)] }
    })
    return { figures: [{ label: `record=${recordBytes}B callers=1`, columns, rows }] }
  },
}

async function follow(
  directory: string,
  { count, appends }: { readonly count: number; readonly appends: number },
): Promise<{ readonly meanUs: number; readonly cpuUs: number }> {
  await mkdir(directory)
  const store = await MiniStore.open(join(directory, 'journal.jsonl'))
  await store.append(syntheticRecord(0, recordBytes - 1))
  const followers = Array.from({ length: count }, () => store.stream({ follow: true }).values())
  await Promise.all(followers.map((live) => live.next()))
  const taken = followers.map(async (live) => {
    let records = 0
    for await (const _ of live) records++
    return records
  })
  const [begun, beforeCpu] = [performance.now(), process.cpuUsage()]
  for (let id = 1; id <= appends; id++) await store.append(syntheticRecord(id, recordBytes - 1))
  const [ms, cpu] = [performance.now() - begun, process.cpuUsage(beforeCpu)]
  await store.close()
  for (const records of await Promise.all(taken)) {
    if (records !== appends) throw new Error(`Expected ${appends} records, got ${records}`)
  }
  await rm(directory, { recursive: true })
  return { meanUs: (1000 * ms) / appends, cpuUs: (cpu.user + cpu.system) / appends }
}
