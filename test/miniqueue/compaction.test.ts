import { describe, expect, test } from 'vitest'

import { beginning } from '../crash/queue/clock.ts'
import { codeOf, countsOf, directory, openQueue, payloadsOf, receiveOne, reopenKilled, type TestQueue } from './support.ts'

const compaction = { minBytes: 2000, ratio: 2 }

function bytesIn({ files }: TestQueue): number {
  return files.names(directory).reduce((sum, name) => sum + files.readFile(`${directory}/${name}`).length, 0)
}

function snapshotsIn({ files }: TestQueue): string[] {
  return files.names(directory).filter((name) => name.startsWith('snapshot'))
}

describe('compaction', () => {
  test('keeps the files within a small multiple of the live messages, however many pass through', async () => {
    const opened = await openQueue({ compaction })
    let most = 0
    for (let n = 0; n < 300; n++) {
      await opened.queue.enqueue('x'.repeat(100))
      await (await receiveOne(opened.queue)).ack()
      most = Math.max(most, bytesIn(opened))
    }
    // Two almost empty snapshots, two periods of minBytes, the records that exceed it, and headers.
    expect(most).toBeLessThan(2 * compaction.minBytes + 2000)
    expect(most).toBeGreaterThan(compaction.minBytes)
    await opened.queue.close()
  })

  test('uses the ratio when there are many live messages', async () => {
    const opened = await openQueue({ compaction, maxAttempts: 1000 })
    await opened.queue.enqueueAll(Array.from({ length: 100 }, () => ({ payload: 'x'.repeat(100) })))
    let before = 0
    for (let n = 0; n < 1000 && snapshotsIn(opened).length === 0; n++) {
      before = bytesIn(opened)
      await (await receiveOne(opened.queue)).nack({ delayMs: 0, reason: 'x'.repeat(100) })
    }
    // A message is about 200 bytes of JSON, so all of them are ten times minBytes.
    expect(before).toBeGreaterThan(2 * 100 * 200)
    expect(before).toBeLessThan(3 * 100 * 250)
    await opened.queue.close()
  })

  test('happens in the call that crosses the limit, after its own effect is durable', async () => {
    const opened = await openQueue({ compaction: { minBytes: 300, ratio: 1 } })
    const trace: string[] = []
    opened.files.onOperation(({ operation, path, changesDisk }) => {
      if (changesDisk && (operation === 'dataSync' || operation === 'rename')) trace.push(`${operation} ${path}`)
    })
    await opened.queue.enqueue('x'.repeat(100))
    expect(trace).toEqual(['dataSync /jobs/journal.jsonl'])
    await (await receiveOne(opened.queue)).ack()
    const message = opened.queue.enqueue('x'.repeat(400))
    await message
    expect(snapshotsIn(opened)).toHaveLength(1)
    expect(trace.indexOf('rename /jobs/snapshot-4.json.tmp')).toBeGreaterThan(3)
    await opened.queue.close()
  })

  test('that fails does not fail the call; it is reported once and retried after minBytes more', async () => {
    const opened = await openQueue({ compaction: { minBytes: 1000, ratio: 1 } })
    const { queue, files, told } = opened
    const full = files.failOn({ operation: 'write', path: /snapshot/, times: 'always' }, 'ENOSPC')
    let hits = 0
    const appended: number[] = []
    for (let n = 1; n <= 60; n++) {
      await queue.enqueue('x'.repeat(50))
      await (await receiveOne(queue)).ack()
      if (told.length > hits) appended.push(n)
      hits = told.length
    }
    expect(hits).toBeGreaterThanOrEqual(3)
    expect(told[0]).toMatchObject({ code: 'ERR_MINISTORE_IO' })
    // About 210 bytes per iteration.
    for (const [index, n] of appended.slice(1).entries()) expect(n - (appended[index] as number)).toBeGreaterThanOrEqual(4)
    full.remove()
    for (let n = 0; n < 10; n++) await queue.enqueue('x'.repeat(100))
    expect(snapshotsIn(opened)).toHaveLength(1)
    expect(told).toHaveLength(hits)
    expect(countsOf(queue)).toEqual([10, 0, 0, 0])
    await queue.close()
  })

  test('that failed causes no delay once another compaction has succeeded', async () => {
    const opened = await openQueue({ compaction: { minBytes: 1000, ratio: 1 } })
    const { queue, files } = opened
    const rounds = async (count: number): Promise<void> => {
      for (let n = 0; n < count; n++) {
        await queue.enqueue('x'.repeat(50))
        await (await receiveOne(queue)).ack()
      }
    }
    const full = files.failOn({ operation: 'write', path: /snapshot/, times: 'always' }, 'ENOSPC')
    await rounds(60)
    full.remove()
    const { sequence } = await queue.compact()
    // About 210 bytes per iteration: far less than the journal had.
    await rounds(10)
    expect(snapshotsIn(opened).at(-1)).not.toBe(`snapshot-${sequence}.json`)
    await queue.close()
  })

  test('is not postponed forever by a process that dies often', async () => {
    let opened = await openQueue({ compaction })
    for (let life = 0; life < 20; life++) {
      for (let n = 0; n < 5; n++) {
        await opened.queue.enqueue('x'.repeat(100))
        await (await receiveOne(opened.queue)).ack()
      }
      const killed = opened.queue
      opened = await reopenKilled(opened, { compaction })
      await killed.close()
    }
    expect(bytesIn(opened)).toBeLessThan(2 * compaction.minBytes + 2000)
    await opened.queue.close()
  })

  test.each<[string, (opened: TestQueue) => Promise<unknown>]>([
    ['by itself', () => Promise.resolve()],
    ['also after one that was asked for', ({ queue }) => queue.compact()],
    ['also after one that was asked for failed', async ({ queue, files }) => {
      files.failOn({ operation: 'write', path: /snapshot/ }, 'ENOSPC')
      expect(await codeOf(queue.compact())).toBe('ERR_MINISTORE_IO')
    }],
  ])('happens once for every minBytes appended, and not more often, %s', async (_, before) => {
    const opened = await openQueue({ compaction: { minBytes: 2000, ratio: 1 } })
    await opened.queue.enqueueAll(Array.from({ length: 5 }, () => ({ payload: 'x'.repeat(500), delayMs: 1000 })))
    await before(opened)
    let snapshots = 0
    let appended = 0
    opened.files.onOperation((operation) => {
      if (operation.operation === 'rename' && /snapshot/.test(operation.path)) snapshots += 1
    })
    const round = JSON.stringify({ op: 'enqueue', at: beginning, messages: [{ payload: 'x'.repeat(100), bytes: 102 }] }).length
    for (let n = 0; n < 300; n++) {
      const id = await opened.queue.enqueue('x'.repeat(100))
      await (await receiveOne(opened.queue)).ack()
      appended += round + 2 * `{"op":"deliver","ids":[${id}]}`.length
    }
    // The live messages are slightly larger than minBytes.
    expect(snapshots).toBeLessThanOrEqual(appended / 2000)
    expect(snapshots).toBeGreaterThanOrEqual(Math.floor(appended / 5000))
    await opened.queue.close()
  })

  test('counts dead letters and kept keys as live data', async () => {
    const opened = await openQueue({ compaction: { minBytes: 1, ratio: 3 }, maxAttempts: 1, dedupeWindowMs: 1_000_000 })
    const { queue } = opened
    await queue.enqueueAll(Array.from({ length: 20 }, (_, n) => ({ payload: 'x', dedupeKey: `${n}`.repeat(50) })))
    const messages = await queue.receive({ max: 20 })
    await Promise.all(messages.map((message, n) => (n % 2 === 0 ? message.ack() : message.nack())))
    await queue.compact()
    const [before] = snapshotsIn(opened)
    for (let n = 0; n < 10; n++) await queue.enqueue('y')
    expect(snapshotsIn(opened)).toEqual([before])
    await queue.close()
  })

  test('keeps keepSnapshots snapshots, each of which can be opened from', async () => {
    const opened = await openQueue({ keepSnapshots: 3 })
    for (const payload of ['a', 'b', 'c', 'd']) {
      await opened.queue.enqueue(payload)
      await opened.queue.compact()
    }
    expect(snapshotsIn(opened)).toEqual(['snapshot-2.json', 'snapshot-3.json', 'snapshot-4.json'])
    for (const sequence of [3, 4]) opened.files.writeFile(`${directory}/snapshot-${sequence}.json`, 'damaged')
    const again = await reopenKilled(opened)
    expect(again.queue.recovery.damagedSnapshots).toHaveLength(2)
    expect(await payloadsOf(again.queue)).toEqual(['a', 'b', 'c', 'd'])
    await Promise.all([opened.queue.close(), again.queue.close()])
  })

  test('compact() returns a report, and rejects with the error of a failure', async () => {
    const { queue, files, told } = await openQueue()
    await queue.enqueue('x')
    files.failOn({ operation: 'write', path: /snapshot/ }, 'ENOSPC')
    expect(await codeOf(queue.compact())).toBe('ERR_MINISTORE_IO')
    expect(await queue.compact()).toMatchObject({ sequence: 1, firstSequence: 2 })
    expect(told).toEqual([])
    await queue.close()
  })

  test('the state can be read as plain JSON', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('x', { dedupeKey: 'k' })
    await queue.compact()
    expect(JSON.parse(files.readFile(`${directory}/snapshot-1.json`).toString())).toMatchObject({
      seq: 1, state: { messages: { 1: { payload: 'x', attempts: 0, key: 'k' } }, keys: { 'key:k': { id: 1 } } },
    })
    await queue.close()
  })
})
