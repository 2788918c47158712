// One side of a replication that runs until it is killed: a writer of the source, or a replicator that
// reads the source from another process. See ../replicate/kill.test.ts.
import { MiniStore, replicate } from '../../../dist/index.js'
import { fail, instructions, report, seededRandom } from './report.js'

const { role, source, target, seed } = await instructions()
const random = seededRandom(seed)

async function write() {
  const store = await MiniStore.open(source, { maxBytesPerSegment: 2 ** (12 + random(4)) })
  report({ type: 'opened', last: store.lastSequence })
  for (;;) {
    const first = store.lastSequence + 1
    const text = 'x'.repeat(random(random(10) === 0 ? 20_000 : 300))
    const records = Array.from({ length: 1 + random(20) }, (_, index) => ({ n: first + index, text }))
    const { last } = await store.appendAll(records)
    report({ type: 'appended', last })
  }
}

async function copy() {
  const from = await MiniStore.read(source, { pollIntervalMs: 5 })
  const to = await MiniStore.open(target, { maxBytesPerSegment: 2 ** (12 + random(4)) })
  report({ type: 'opened', last: to.lastSequence })
  await replicate(from, to, { batch: 1 + random(200) })
}

try {
  await (role === 'writer' ? write() : copy())
} catch (error) {
  fail(error)
}
