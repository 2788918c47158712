import { copyFile, mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import { compare, type Entrant, type Slice } from '../comparison.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import { MiniStore, replicate } from '../library.ts'
import { type Runner, turnAbout } from '../turn-about.ts'
import type { Case } from './case.ts'

const recordBytes = 110
const floorName = 'copy of the file, one fsync'
const batches = [100, 1000, 10_000]

export const replicateCase: Case = {
  name: 'replicate',
  title: 'Replication',
  method: [
    'A journal is copied into a new one at the same sequence numbers, on the same disk and in one process, ' +
      'until the target has every record. `time` is that of one record; 10 µs are 100,000 records a second. ' +
      'Each batch of so many records is checked, written and synced. The journal that is copied is read through ' +
      'its path, as from another process.',
    'The floor copies the bytes of the file with `copyFile` and syncs once: nothing is checked, and after a crash ' +
      'in the middle there is no telling what was copied.',
  ],
  async run({ directory, isQuick, ...context }) {
    const records = isQuick ? 1000 : 300_000
    const source = join(directory, 'source/journal.jsonl')
    context.progress('filling the source')
    await fill(source, records)
    const entrants: Entrant[] = [{ name: floorName, role: 'floor', notes: ['nothing is checked'] }]
    const target = join(directory, 'target')
    const runners: Array<Runner<Slice>> = [{ name: floorName, run: () => measured(target, records, () => copyWhole(source, target)) }]
    for (const batch of batches) {
      const name = `replicate, batches of ${batch}`
      entrants.push({ name, role: 'library', notes: [] })
      runners.push({ name, run: () => measured(target, records, () => copyRecords({ source, target, batch, records })) })
    }
    context.progress('copying')
    const label = `records=${records} record=${recordBytes}B`
    const slices = await turnAbout(runners, isQuick ? 1 : 5)
    return { comparisons: [compare({ label, unit: 'record' }, entrants, slices)] }
  },
}

async function fill(path: string, records: number): Promise<void> {
  await using store = await MiniStore.open(path)
  for (let first = 1; first <= records; first += 1000) {
    await store.appendAll(Array.from({ length: 1000 }, (_, index) => syntheticRecord(first + index, recordBytes)))
  }
}

/** Measures a copy into a new directory, which is removed afterwards. */
async function measured(target: string, units: number, copy: () => Promise<void>): Promise<Slice> {
  await mkdir(target)
  const begun = performance.now()
  await copy()
  const time = (performance.now() - begun) * 1e6
  await rm(target, { recursive: true })
  return { units, time }
}

async function copyWhole(source: string, target: string): Promise<void> {
  const path = join(target, 'journal.jsonl')
  await copyFile(source, path)
  const file = await open(path, 'r+')
  await file.datasync()
  await file.close()
}

async function copyRecords(what: {
  readonly source: string
  readonly target: string
  readonly batch: number
  readonly records: number
}): Promise<void> {
  const from = await MiniStore.read(what.source)
  await using to = await MiniStore.open(join(what.target, 'journal.jsonl'))
  const { copied } = await replicate(from, to, { follow: false, batch: what.batch })
  if (copied !== what.records) throw new Error(`Expected ${what.records} records to be copied, got ${copied}`)
}
