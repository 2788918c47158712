/**
 * Writes or reads a state of so many bytes of JSON, a few times, and sends a SnapshotCost. `create` and
 * `restore` are those of a SnapStore; `write` and `read` are what is left of them without promises: JSON to a
 * file that is synced, and back. What reads needs what was written before in the same directory.
 *
 *   node --expose-gc snapshot-cost.js MODE DIRECTORY BYTES ROUNDS
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import type { SnapshotCost } from '../cases/state/snapshots.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import { watchEventLoop } from '../event-loop.ts'
import { SnapStore } from '../library.ts'

const recordBytes = 150

const [mode = '', directory = '', bytesText = '', roundsText = ''] = process.argv.slice(2)

// Whoever waits for the report may be gone: nobody is to be left behind.
process.on('disconnect', () => process.exit())

const records = Math.round(Number(bytesText) / recordBytes)
const snapshots = new SnapStore<readonly unknown[]>(join(directory, 'snapshots'))
const plain = join(directory, 'plain.json')

const actions: Readonly<Record<string, () => (round: number) => Promise<unknown>>> = {
  create() {
    const state = makeState()
    return (round) => snapshots.create(state, round)
  },
  write() {
    const state = makeState()
    return () => writePlain(state)
  },
  restore: () => async () => checked((await snapshots.restore())?.state),
  read: () => async () => checked(JSON.parse(await readFile(plain, 'utf8'))),
}

const prepare = actions[mode]
if (prepare === undefined) throw new Error(`Expected one of ${Object.keys(actions).join(', ')}, got ${mode}`)
const action = prepare()

globalThis.gc?.()
const times: number[] = []
const stalls: number[] = []
const before = beginPeak()
let peak: number | undefined
for (let round = 0; round < Number(roundsText); round++) {
  const { result, watch } = await watchEventLoop(async () => {
    const begun = performance.now()
    await action(round)
    return performance.now() - begun
  })
  // What later rounds need on top is the garbage of those before.
  if (round === 0 && before !== undefined) peak = mostMemory() - before
  times.push(result)
  stalls.push(watch.max / 1e6)
  globalThis.gc?.()
}
const report: SnapshotCost = { times, stalls, peak }
process.send?.(report, () => process.exit(0))

function makeState(): readonly unknown[] {
  return Array.from({ length: records }, (_, id) => syntheticRecord(id, recordBytes))
}

async function writePlain(state: unknown): Promise<void> {
  const handle = await open(plain, 'w')
  await handle.writeFile(JSON.stringify(state))
  await handle.sync()
  await handle.close()
}

function checked(state: unknown): void {
  if (!Array.isArray(state) || state.length !== records) throw new Error(`Expected ${records} records`)
}

/** Forgets how much memory this process once had, and gives what it has; undefined where nobody can tell. */
function beginPeak(): number | undefined {
  try {
    writeFileSync('/proc/self/clear_refs', '5')
    return mostMemory()
  } catch {
    // Only Linux can, and not everywhere: then there are times without peaks.
    return undefined
  }
}

/** The most resident memory since `beginPeak`, in bytes. */
function mostMemory(): number {
  const [, kibibytes = ''] = /VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return Number(kibibytes) * 1024
}
