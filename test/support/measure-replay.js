// Replays a journal in a separate process and reports how much its memory grew: the maximum of all
// samples, not the last one. Run with --expose-gc.
import { MiniStore } from '../../dist/index.js'

const [path, way] = process.argv.slice(2)
const sampleEvery = 20_000

const walk = async (options, onRecord) => {
  if (way === 'iterator') {
    for await (const record of MiniStore.stream(path, options)) onRecord(record)
    return
  }
  if (way === 'bytes') {
    for await (const chunk of MiniStore.bytes(path, options)) for (const byte of chunk) if (byte === 0x0a) onRecord()
    return
  }
  const reader = MiniStore.stream(path, options).getReader()
  for (let read = await reader.read(); !read.done; read = await reader.read()) onRecord(read.value)
}

// Warms up first, so that code, shapes and pools exist before the measurement begins.
await walk({ to: 50_000 }, () => {})
globalThis.gc()
const before = process.memoryUsage.rss()

let records = 0
let samples = 0
let most = 0
await walk({}, () => {
  if (++records % sampleEvery !== 0) return
  samples++
  most = Math.max(most, process.memoryUsage.rss())
})
process.send({ records, samples, growth: most - before })
process.disconnect()
