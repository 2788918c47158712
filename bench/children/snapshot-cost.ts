/**
 * Writes or reads a state of about BYTES bytes of JSON, ROUNDS times, and sends a SnapshotCost.
 * MODE is one of:
 *
 * - `create`, `restore`: the methods of a SnapStore.
 * - `write`, `read`: the same without the guarantees of a SnapStore. `write` writes JSON to a file
 *   and syncs the file. `read` reads it back.
 *
 * `restore` needs an earlier `create` in the same directory, and `read` an earlier `write`.
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

// Without the parent, no process waits for the report.
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
  // Only the first round counts: the peaks of later rounds include the garbage of earlier ones.
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

/**
 * Resets the recorded peak of resident memory and returns the current amount in bytes. Returns
 * undefined if the platform cannot reset the peak.
 */
function beginPeak(): number | undefined {
  try {
    writeFileSync('/proc/self/clear_refs', '5')
    return mostMemory()
  } catch {
    // Only Linux can reset the peak, and not everywhere. The report then has times but no peak.
    return undefined
  }
}

/** The most resident memory since `beginPeak`, in bytes. */
function mostMemory(): number {
  const [, kibibytes = ''] = /VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return Number(kibibytes) * 1024
}
