/**
 * Replays a journal and sends a MemoryReport: how far the memory of this process rose meanwhile.
 *
 *   node --expose-gc replay-memory.js PATH RECORDS
 */
import { performance } from 'node:perf_hooks'

import type { MemoryReport } from '../cases/scale.ts'
import { MiniStore } from '../library.ts'

const [path = '', recordsText = ''] = process.argv.slice(2)
const expected = Number(recordsText)
const wantedSamples = 200

// Without the parent, no process waits for the report.
process.on('disconnect', () => process.exit())

// A first replay compiles code and creates object shapes and pools before measuring starts.
await replay(Math.min(50_000, Math.ceil(expected / 4)), () => {})
globalThis.gc?.()
const before = process.memoryUsage.rss()

const samples: Array<readonly [number, number]> = []
const every = Math.max(1, Math.floor(expected / wantedSamples))
const begun = performance.now()
const records = await replay(expected, (seen) => {
  if (seen % every === 0) samples.push([seen, process.memoryUsage.rss() - before])
})
const report: MemoryReport = { records, seconds: (performance.now() - begun) / 1000, samples }
process.send?.(report, () => process.exit(0))

async function replay(to: number, onRecord: (seen: number) => void): Promise<number> {
  let seen = 0
  for await (const record of MiniStore.stream(path, { to })) if (record !== undefined) onRecord(++seen)
  return seen
}
