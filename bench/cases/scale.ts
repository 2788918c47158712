import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import { runChild } from '../children/run-child.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import { MiniStore } from '../library.ts'
import type { Course } from '../results.ts'
import { percentiles } from '../statistics.ts'
import type { Case } from './case.ts'

const gibibyte = 2 ** 30
const mebibyte = 2 ** 20
const recordBytes = 1024
const seeks = 10
const opens = 5
const columns = [
  'records', 'open p50, ms', 'max, ms', 'seek p50, ms', 'max, ms', 'memory growth, MiB', 'full replay, s',
]

export const scaleCase: Case = {
  name: 'scale',
  title: 'Scale',
  method: [
    'One journal of records of 1 KiB, in segments of 64 MiB (the default), is measured when it has ' +
      'reached each size. Its active segment is then nearly full, so that opening, which reads that ' +
      'segment, costs what it costs at most. The page cache holds what was just written, as far as memory' +
      ' reaches.',
    '*open*: `MiniStore.open` in a running process, five times. *seek*: `stream({ from })` to its first' +
      ' record, at ten places chosen at random. *memory growth*: how far the resident memory of a process' +
      ' of its own rises above what it was after a first part was replayed, the most of about 200 samples' +
      ' along a `for await` over everything.',
  ],
  async run(context) {
    const path = join(context.directory, 'journal.jsonl')
    const plan = context.isQuick
      ? { sizes: [mebibyte, 2 * mebibyte, 4 * mebibyte], maxBytesPerSegment: mebibyte / 2 }
      : { sizes: [0.1 * gibibyte, gibibyte, 10 * gibibyte], maxBytesPerSegment: 64 * mebibyte }
    const rows: Array<{ readonly name: string; readonly cells: readonly string[] }> = []
    const lines: Array<Course['lines'][number]> = []
    const missing: Array<{ readonly name: string; readonly reason: string }> = []
    for (const bytes of plan.sizes) {
      const name = sizeText(bytes)
      const lack = await lackOfSpace(context.directory, bytes)
      if (lack !== undefined) {
        context.progress(`${name}: skipped, ${lack}`)
        missing.push({ name, reason: lack })
        continue
      }
      context.progress(`${name}: writing`)
      const { records } = await grow(path, { bytes, ...plan })
      context.progress(`${name}: opening, seeking, replaying`)
      const open = await measureOpen(path)
      const seek = await measureSeeks(path, records)
      const memory = await runChild<MemoryReport>('replay-memory.js', [path, String(records)])
      if (memory.records !== records) {
        throw new Error(`Expected a replay of ${records} records, got ${memory.records}`)
      }
      const growth = Math.max(...memory.samples.map(([, rise]) => rise))
      rows.push({ name, cells: cellsOf({ records, open, seek, growth, seconds: memory.seconds }) })
      lines.push({ name, points: memory.samples.map(pointOf) })
    }
    if (rows.length === 0) return { missing }
    const label = 'memory along a replay'
    const courses = [{ label, along: 'GiB replayed', upward: 'MiB above the beginning', lines }]
    return { figures: [{ label: `journals of records of ${recordBytes}B`, columns, rows }], courses, missing }
  },
}

/**
 * The report of `replay-memory.js`: how many records it read, how many seconds that took, and
 * samples of its memory. Each sample is the number of records read so far and the rise in resident
 * memory, in bytes.
 */
export interface MemoryReport {
  readonly records: number
  readonly seconds: number
  readonly samples: ReadonlyArray<readonly [number, number]>
}

/**
 * Appends until the journal has at least `bytes` bytes and its active segment is nearly full: less
 * than two more batches fit.
 */
async function grow(
  path: string,
  options: { readonly bytes: number; readonly maxBytesPerSegment: number },
): Promise<{ readonly records: number }> {
  const { bytes, maxBytesPerSegment } = options
  await using store = await MiniStore.open(path, { maxBytesPerSegment })
  const batchRecords = Math.floor(Math.min(8 * mebibyte, maxBytesPerSegment / 16) / recordBytes)
  const batchBytes = batchRecords * recordBytes
  for (;;) {
    const total = store.segments.reduce((sum, segment) => sum + segment.bytes, 0)
    const active = store.segments.at(-1)?.bytes ?? 0
    if (total >= bytes && active + 2 * batchBytes > maxBytesPerSegment) return { records: store.lastSequence }
    const first = store.lastSequence + 1
    // The line feed counts as one of the record's bytes here.
    const recordAt = (_: unknown, index: number): unknown => syntheticRecord(first + index, recordBytes - 1)
    await store.appendAll(Array.from({ length: batchRecords }, recordAt))
  }
}

async function measureOpen(path: string): Promise<readonly number[]> {
  const times: number[] = []
  for (let round = 0; round < opens; round++) {
    const begun = performance.now()
    const store = await MiniStore.open(path)
    times.push(performance.now() - begun)
    await store.close()
  }
  return times
}

async function measureSeeks(path: string, records: number): Promise<readonly number[]> {
  await using store = await MiniStore.open<{ readonly id: number }>(path)
  const times: number[] = []
  for (let round = 0; round < seeks; round++) {
    const from = 1 + Math.floor(Math.random() * records)
    const begun = performance.now()
    for await (const { id } of store.stream({ from })) {
      times.push(performance.now() - begun)
      if (id !== from) throw new Error(`Expected record ${from}, got ${id}`)
      break
    }
  }
  return times
}

/** Resolves with the reason if the file system lacks the space for a journal of `bytes` bytes. */
async function lackOfSpace(directory: string, bytes: number): Promise<string | undefined> {
  const { bavail, bsize } = await statfs(directory)
  const needed = bytes * 1.1 + 0.5 * gibibyte
  if (bavail * bsize >= needed) return undefined
  return `needs ${sizeText(needed)} of free space, there are ${sizeText(bavail * bsize)}`
}

function pointOf([seen, rise]: readonly [number, number]): readonly [number, number] {
  return [(seen * recordBytes) / gibibyte, rise / mebibyte]
}

function cellsOf(found: {
  readonly records: number
  readonly open: readonly number[]
  readonly seek: readonly number[]
  readonly growth: number
  readonly seconds: number
}): string[] {
  const open = percentiles(found.open)
  const seek = percentiles(found.seek)
  const times = [open.p50, open.max, seek.p50, seek.max].map((time) => time.toFixed(1))
  return [String(found.records), ...times, (found.growth / mebibyte).toFixed(1), found.seconds.toFixed(1)]
}

function sizeText(bytes: number): string {
  return bytes < 0.1 * gibibyte ? `${bytes / mebibyte} MiB` : `${Number((bytes / gibibyte).toFixed(1))} GiB`
}
