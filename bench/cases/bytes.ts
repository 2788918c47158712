import { createReadStream } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'

import { compare, type Entrant, type Slice } from '../comparison.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import { MiniStore } from '../library.ts'
import type { Comparison } from '../results.ts'
import { type Runner, turnAbout } from '../turn-about.ts'
import type { Case } from './case.ts'

const recordBytes = 110

/** A way to read the first `to` records of the journal at a path. */
interface Way extends Entrant {
  /** Whether it is so slow that a twentieth of the records must do. */
  readonly isSlow?: boolean
  read(path: string, to: number): Promise<void>
}

export const bytesCase: Case = {
  name: 'bytes',
  title: 'Reading bytes',
  method: [
    'The lines of a closed journal of one segment leave the library as bytes, to nowhere or through gzip. The page ' +
      'cache is warm. `time` is that of one record; 0.1 µs are 10,000,000 records a second. The floor reads the raw file ' +
      'with `createReadStream` and checks nothing. `bytes()` also checks UTF-8, the number of lines and the checksum.',
    'The last way of each table makes lines of the records of `stream()`, as was needed before there was `bytes()`.',
  ],
  plots: [],
  async run({ directory, isQuick, ...context }) {
    const records = isQuick ? 1000 : 500_000
    const path = join(directory, 'journal.jsonl')
    await mkdir(directory, { recursive: true })
    context.progress('filling')
    const store = await MiniStore.open(path, { maxBytesPerSegment: 2 ** 30 })
    for (let first = 1; first <= records; first += 1000) {
      await store.appendAll(Array.from({ length: 1000 }, (_, index) => syntheticRecord(first + index, recordBytes)))
    }
    await store.close()
    const comparisons: Comparison[] = []
    for (const [where, ways] of [['to nowhere', toNowhere], ['through gzip', throughGzip]] as const) {
      context.progress(where)
      const label = `${where}, records=${records} record=${recordBytes}B`
      const slices = await turnAbout(ways.map((way) => runnerOf(way, path, records)), isQuick ? 1 : 5)
      comparisons.push(compare({ label, unit: 'record' }, ways, slices))
    }
    return { comparisons }
  },
}

function runnerOf(way: Way, path: string, records: number): Runner<Slice> {
  const units = way.isSlow === true ? Math.ceil(records / 20) : records
  const run = async (): Promise<Slice> => {
    const begun = performance.now()
    await way.read(path, units)
    return { units, time: (performance.now() - begun) * 1e6 }
  }
  return { name: way.name, run }
}

const nowhere = (): Writable => new Writable({ write: (_chunk, _encoding, done) => done() })

const toNowhere: readonly Way[] = [
  {
    name: 'createReadStream',
    role: 'floor',
    notes: ['nothing is checked'],
    read: (path) => pipeline(createReadStream(path), nowhere()),
  },
  {
    name: 'bytes(), for await',
    role: 'library',
    notes: [],
    read: async (path) => {
      let bytes = 0
      for await (const { length } of MiniStore.bytes(path)) bytes += length
      if (bytes === 0) throw new Error('Expected bytes')
    },
  },
  {
    name: 'bytes(), pipeTo',
    role: 'library',
    notes: [],
    read: (path) => MiniStore.bytes(path).pipeTo(new WritableStream()),
  },
  {
    name: 'stream(), for await',
    role: 'library',
    notes: ['parses each record'],
    read: async (path, to) => {
      let records = 0
      for await (const record of MiniStore.stream(path)) if (record !== undefined) records++
      if (records !== to) throw new Error(`Expected ${to} records, got ${records}`)
    },
  },
]

const throughGzip: readonly Way[] = [
  {
    name: 'createReadStream, createGzip',
    role: 'floor',
    notes: ['nothing is checked'],
    read: (path) => pipeline(createReadStream(path), createGzip(), nowhere()),
  },
  {
    name: 'bytes(), createGzip',
    role: 'library',
    notes: [],
    read: (path) => pipeline(MiniStore.bytes(path), createGzip(), nowhere()),
  },
  {
    name: 'bytes(), CompressionStream',
    role: 'library',
    notes: [],
    read: (path) => MiniStore.bytes(path).pipeThrough(new CompressionStream('gzip')).pipeTo(new WritableStream()),
  },
  {
    name: 'stream(), JSON.stringify, TextEncoder, CompressionStream',
    role: 'library',
    notes: ['measured on a twentieth of the records'],
    isSlow: true,
    read: (path, to) => {
      const lines = new TransformStream<unknown, string>({
        transform: (record, controller) => controller.enqueue(`${JSON.stringify(record)}\n`),
      })
      const bytes = MiniStore.stream(path, { to }).pipeThrough(lines).pipeThrough(new TextEncoderStream())
      return bytes.pipeThrough(new CompressionStream('gzip')).pipeTo(new WritableStream())
    },
  },
]
