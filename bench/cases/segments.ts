import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { crc32 } from 'node:zlib'

import { syntheticRecord } from '../data/synthetic.ts'
import { MiniStore } from '../library.ts'
import { percentiles } from '../statistics.ts'
import { turnAbout } from '../turn-about.ts'
import type { Case } from './case.ts'

const recordBytes = 110
const columns = ['open p50, ms', 'µs a segment', 'replay, µs a segment', 'truncateBefore, µs a segment']

export const segmentsCase: Case = {
  name: 'segments',
  title: 'Many segments',
  method: [
    `Journals of segments with one record of ${recordBytes} B each, so that the costs are those of a segment, not of` +
      ' its records. The journals take turns, so that a disturbance of the machine meets all of them. The page cache' +
      ' holds them.',
    '*open*: `MiniStore.open`, which reads the header of every segment. *replay*: `for await` over everything. ' +
      '*truncateBefore*: one call that deletes all sealed segments, once for each journal; each deletion is durable' +
      ' before the next. Where the cost of a segment does not depend on how many there are, the rows are equal.',
  ],
  async run(context) {
    const counts = context.isQuick ? [10, 30] : [1000, 10_000, 30_000]
    const rounds = context.isQuick ? 1 : 5
    for (const count of counts) {
      context.progress(`writing ${count} segments`)
      await writeSegments(join(context.directory, String(count)), count)
    }
    context.progress('opening, replaying')
    const measured = await turnAbout(
      counts.map((count) => ({ name: String(count), run: () => openAndReplay(join(context.directory, String(count)), count) })),
      rounds,
    )
    const rows: Array<{ readonly name: string; readonly cells: readonly string[] }> = []
    for (const count of counts) {
      context.progress(`truncating ${count} segments`)
      const truncateMs = await truncate(join(context.directory, String(count)), count)
      const slices = measured.get(String(count)) ?? []
      const openMs = percentiles(slices.map((slice) => slice.openMs)).p50
      const replayMs = percentiles(slices.map((slice) => slice.replayMs)).p50
      const each = [openMs, replayMs, truncateMs].map((ms) => ((1000 * ms) / count).toFixed(1))
      rows.push({ name: `${count} segments`, cells: [openMs.toFixed(1), ...each] })
    }
    return { figures: [{ label: `records=1 a segment record=${recordBytes}B`, columns, rows }] }
  },
}

/** Writes a journal without the library, which would sync each of its segments. */
async function writeSegments(directory: string, count: number): Promise<void> {
  await mkdir(directory)
  let previous = ''
  for (let sequence = 1; sequence <= count; sequence++) {
    const header = `// MINISTORE JOURNAL v0.3.0 seq=${sequence} id=5c1e9a70b2f4d833${previous}`
    const text = `${header}\n${JSON.stringify(syntheticRecord(sequence, recordBytes - 1))}\n`
    const name = sequence === count ? 'journal.jsonl' : `journal.jsonl.${String(sequence).padStart(3, '0')}`
    await writeFile(join(directory, name), text)
    previous = ` prev=${crc32(text).toString(16).padStart(8, '0')}`
  }
}

async function openAndReplay(
  directory: string,
  count: number,
): Promise<{ readonly openMs: number; readonly replayMs: number }> {
  const begun = performance.now()
  const store = await MiniStore.open(join(directory, 'journal.jsonl'))
  const opened = performance.now()
  let records = 0
  for await (const _ of store.stream()) records++
  const replayed = performance.now()
  await store.close()
  if (records !== count) throw new Error(`Expected ${count} records, got ${records}`)
  return { openMs: opened - begun, replayMs: replayed - opened }
}

async function truncate(directory: string, count: number): Promise<number> {
  const store = await MiniStore.open(join(directory, 'journal.jsonl'))
  const begun = performance.now()
  await store.truncateBefore(count)
  const truncateMs = performance.now() - begun
  await store.close()
  if (store.firstSequence !== count) throw new Error(`Expected one record, got those from ${store.firstSequence}`)
  await rm(directory, { recursive: true })
  return truncateMs
}
