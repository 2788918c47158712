// A writer that runs until it is killed. It reports each call before making it, with a hash of
// every record, and each acknowledgement as soon as it arrives. See ../kill.test.ts and
// ../real-disk.test.ts.
import { createHash } from 'node:crypto'

import { MiniStore } from '../../../dist/index.js'
import { fail, instructions, report, seededRandom } from './report.js'

const { path, seed, options, largePercent, maxRecordBytes, maxJournalBytes } = await instructions()
const random = seededRandom(seed)
const pieces = ['ä€😀', '"quoted"', '\\', '\n\r\t', '\u2028', 'plain text ', '\u0001', '{"n":1}', '0123456789']
const unit = Array.from({ length: 200 }, () => pieces[random(pieces.length)] + random(1e6)).join('')

let store
let calls = 0

/**
 * Makes a record of about this many bytes. It differs from all other records, so no call repeats
 * another's.
 */
function makeRecord(bytes) {
  if (bytes < 24) return `${seed % 46_656}-${calls}-${random(1000)}`
  const from = random(unit.length)
  const text = unit.repeat(Math.ceil(bytes / unit.length) + 1).slice(from, from + bytes)
  return { seed, call: calls, salt: random(2 ** 32), nested: [null, true, -0.5, { text }] }
}

/**
 * Picks a size: mostly small, seldom many KiB, and in the requested share of calls more than 128
 * KiB, up to the limit.
 */
function pickBytes() {
  // These writes go through the thread pool and take long enough to be killed in the middle.
  if (random(100) < largePercent) return 132_000 + random(maxRecordBytes - 132_000)
  return random(4) === 0 ? 1000 + random(60_000) : 10 + random(1000)
}

const hashOf = (record) => createHash('sha1').update(JSON.stringify(record)).digest('base64url')

async function call(message, make) {
  calls += 1
  report({ type: 'call', ...message })
  await make()
  report({ type: 'done', first: store.firstSequence, last: store.lastSequence })
}

async function open() {
  store = await MiniStore.open(path, options)
  const { firstSequence: first, lastSequence: last, recovery } = store
  const { torn } = recovery
  report({ type: 'opened', first, last, isTorn: torn !== undefined, tornBytes: torn?.bytes ?? 0 })
}

async function append() {
  const record = makeRecord(pickBytes())
  const bytes = Buffer.byteLength(JSON.stringify(record))
  await call({ name: 'append', hashes: [hashOf(record)], bytes }, () => store.append(record))
}

async function appendAll() {
  const limit = random(4) === 0 ? 100_000 : 2000
  const records = Array.from({ length: 2 + random(20) }, () => makeRecord(10 + random(limit)))
  const bytes = Buffer.byteLength(JSON.stringify(records))
  await call({ name: 'appendAll', hashes: records.map(hashOf), bytes }, () => store.appendAll(records))
}

async function truncate(before) {
  await call({ name: 'truncateBefore', before }, () => store.truncateBefore(before))
}

async function step() {
  const bytes = store.segments.reduce((sum, segment) => sum + segment.bytes, 0)
  const held = store.lastSequence - store.firstSequence
  const kind = random(100)
  // Keeps the disk usage, and the reader's work after each round, small.
  if (bytes > maxJournalBytes) {
    if (random(3) === 0) await call({ name: 'rotate' }, () => store.rotate())
    // Two records may already exceed the limit, and there is no sequence 0 to go back to.
    await truncate(Math.max(store.firstSequence, store.lastSequence + 1 - random(3)))
  } else if (kind < 70) await append()
  else if (kind < 88) await appendAll()
  else if (kind < 92) await truncate(store.firstSequence + random(held + 2))
  else if (kind < 95) await call({ name: 'rotate' }, () => store.rotate())
  else {
    await call({ name: 'close' }, () => store.close())
    await open()
  }
}

try {
  await open()
  for (;;) await step()
} catch (error) {
  fail(error)
}
