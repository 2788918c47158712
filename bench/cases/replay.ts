import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import { compare, type Entrant, type Slice } from '../comparison.ts'
import type { Readable, Replay } from '../contestants/contestant.ts'
import { loadAll, readables } from '../contestants/index.ts'
import { batchesOf, type DataSet, dataSources } from '../data/data-sets.ts'
import { NotInstalledError } from '../packages.ts'
import type { Comparison, Role } from '../results.ts'
import { type Runner, turnAbout } from '../turn-about.ts'
import type { Case, Context } from './case.ts'

const floorName = 'JSON.parse of lines in memory'

export const replayCase: Case = {
  name: 'replay',
  title: 'Replay',
  method: [
    'Every record is read from the disk, or rather from the page cache, which is warm, parsed, and ' +
      'counted. The floor is `JSON.parse` of lines that are already strings in memory, a thousand at a ' +
      'time: no reading, no UTF-8, no splitting. All ways run in one process, turn about, with a garbage collection before ' +
      'each.',
    '`time` is that of one record, opening and closing included. readline and split2 read a file of the' +
      ' same lines. All but lmdb, which has an encoding of its own, store JSON. A replay of ministore ' +
      'also checks the file against its checksums.',
  ],
  async run(context) {
    const { loaded, missing } = await loadAll(readables)
    const lacking = [...missing]
    const comparisons: Comparison[] = []
    for (const { name, make } of dataSources) {
      try {
        comparisons.push(await compareReplays(context, loaded, make(context)))
      } catch (error) {
        if (!(error instanceof NotInstalledError)) throw error
        lacking.push({ name, reason: error.message })
      }
    }
    const participants = loaded.map(({ name, version }) => ({ name, version, promise: '' }))
    return { comparisons, participants, missing: lacking }
  },
}

async function compareReplays(
  context: Context,
  contestants: readonly Readable[],
  data: DataSet,
): Promise<Comparison> {
  const directory = join(context.directory, 'stores')
  await mkdir(directory)
  const entrants: Entrant[] = [{ name: floorName, role: 'floor', notes: [] }]
  const runners: Array<Runner<Slice>> = [{ name: floorName, run: async () => parseLines(data) }]
  for (const contestant of contestants) {
    context.progress(`${data.label}: filling ${contestant.name}`)
    const folder = join(directory, contestant.name.replaceAll(/\W/g, '-'))
    await mkdir(folder)
    const path = join(folder, 'log')
    await contestant.fill(path, batchesOf(data))
    for (const replay of contestant.replays) {
      entrants.push(entrantOf(replay, contestant.name === 'ministore' ? 'library' : 'peer'))
      runners.push({ name: replay.name, run: () => replaySlice(replay, path, data) })
    }
  }
  context.progress(`${data.label}: reading`)
  const slices = await turnAbout(runners, context.isQuick ? 1 : 5)
  await rm(directory, { recursive: true })
  return compare({ label: data.label, unit: 'record' }, entrants, slices)
}

function entrantOf({ name, notes, blocksEventLoop }: Replay, role: Role): Entrant {
  if (!blocksEventLoop) return { name, role, notes }
  const because = 'it reads on the thread that it runs on, and everything else waits until it is done'
  return { name, role, notes: [...notes, 'blocks the event loop throughout'], because }
}

/**
 * Lines that the floor holds in memory at a time: few enough to stay in the processor's cache, as
 * the lines of a stream do.
 */
const linesAtOnce = 1000

/**
 * Measures the floor: `JSON.parse` of lines in memory. Each batch of lines is created just before
 * it is parsed, outside the measured time. Keeping all lines would burden the garbage collector
 * while the contestants are measured.
 */
function parseLines({ count, record }: DataSet): Slice {
  let records = 0
  let time = 0
  for (let from = 0; from < count; from += linesAtOnce) {
    const size = Math.min(linesAtOnce, count - from)
    const lines = Array.from({ length: size }, (_, place) => JSON.stringify(record(from + place)))
    const begun = performance.now()
    for (const line of lines) if (JSON.parse(line) !== undefined) records++
    time += performance.now() - begun
  }
  return { units: records, time: time * 1e6 }
}

async function replaySlice(replay: Replay, path: string, { count }: DataSet): Promise<Slice> {
  const begun = performance.now()
  const records = await replay.run(path)
  const time = (performance.now() - begun) * 1e6
  if (records !== count) throw new Error(`Expected ${replay.name} to read ${count} records, got ${records}`)
  return { units: records, time }
}
