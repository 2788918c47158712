import { constants } from 'node:buffer'

import { describe, expect, test, vi } from 'vitest'

import { bytesOf, refuseFull } from '../../src/miniqueue/enqueueing.ts'
import { MiniQueue, type QueueOptions } from '../../src/miniqueue/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { SteppedClock } from '../crash/queue/clock.ts'
import {
  codeOf, countsOf, directory, errorOf, journalFile, openQueue, payloadsOf, receiveOne, recordsOf, reopenKilled, type TestQueue,
} from './support.ts'

describe('enqueue', () => {
  test('returns ascending ids, and messages are delivered unchanged', async () => {
    const { queue, clock } = await openQueue()
    const enqueuedAt = new Date(clock.wallMs())
    expect([await queue.enqueue('one'), await queue.enqueue('two')]).toEqual([1, 2])
    clock.advance(500)
    const messages = await queue.receive({ max: 10 })
    expect(messages.map(({ id, payload, attempt }) => ({ id, payload, attempt }))).toEqual([
      { id: 1, payload: 'one', attempt: 1 },
      { id: 2, payload: 'two', attempt: 1 },
    ])
    expect(messages[0]?.enqueuedAt).toEqual(enqueuedAt)
    await queue.close()
  })

  test('is durable when it resolves', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('kept')
    const survivor = await openQueue({ files: files.afterCrash({ keep: 'none' }), clock })
    expect(await payloadsOf(survivor.queue)).toEqual(['kept'])
    await survivor.queue.close()
    await queue.close()
  })

  test('keeps every kind of JSON, read at the time of the call', async () => {
    const files = new SimulatedFileSystem()
    const queue = await MiniQueue.open(directory, { fileSystem: files, clock: new SteppedClock() })
    const tags = ['a']
    const payloads: unknown[] = [null, 0, '', false, [], {}, { tags, deep: [[{ é: '😀\n"' }]], ['__proto__']: 1 }]
    const kept: unknown = JSON.parse(JSON.stringify(payloads))
    const enqueued = payloads.map((payload) => queue.enqueue(payload))
    tags.push('too late')
    await Promise.all(enqueued)
    expect((await queue.receive({ max: 10 })).map(({ payload }) => payload)).toEqual(kept)
    await queue.close()
  })

  test('hands out copies: changes by one receiver do not affect any other', async () => {
    const queue = await MiniQueue.open<{ list: number[] }>(directory, {
      fileSystem: new SimulatedFileSystem(), clock: new SteppedClock(), maxAttempts: 2,
    })
    await queue.enqueue({ list: [1] })
    const first = await receiveOne(queue)
    first.payload.list.push(2)
    await first.nack({ delayMs: 0 })
    const second = await receiveOne(queue)
    expect(second.payload).toEqual({ list: [1] })
    second.payload.list.push(3)
    await second.nack()
    queue.deadLetters()[0]?.payload.list.push(4)
    expect(queue.deadLetters()[0]?.payload).toEqual({ list: [1] })
    await queue.close()
  })

  test('serializes a payload once and parses it once', async () => {
    const text = 'a payload of more than a thousand characters, '.repeat(50)
    let asked = 0
    const payload = { toJSON: () => (asked++, { text }) }
    const stringify = vi.spyOn(JSON, 'stringify')
    const parse = vi.spyOn(JSON, 'parse')
    /** How often the payload was serialized and parsed since the last call. */
    const countCalls = (): [stringified: number, parsed: number] => {
      const counts: [number, number] = [
        stringify.mock.results.filter(({ value }) => typeof value === 'string' && value.includes(text)).length,
        parse.mock.calls.filter(([given]) => given.includes(text)).length,
      ]
      stringify.mockClear()
      parse.mockClear()
      return counts
    }
    try {
      const opened = await openQueue()
      const { queue } = opened
      await queue.enqueue(payload as never, { priority: 2, dedupeKey: 'k' })
      expect([asked, countCalls()]).toEqual([1, [1, 1]])
      await queue.enqueueAll([{ payload: payload as never }, { payload: payload as never, delayMs: 5 }])
      expect([asked, countCalls()]).toEqual([3, [2, 2]])
      const [first] = await queue.receive({ max: 9 })
      await queue.receive({ max: 9 })
      countCalls()
      // A receiver that waits gets the message of the next enqueue with the same write.
      const waiting = queue.receive({ waitMs: 1000 })
      await queue.enqueue(payload as never)
      expect([asked, (await waiting)[0]?.payload]).toEqual([4, { text }])
      // One of each is for the copy that the receiver may change.
      expect(countCalls()).toEqual([2, 2])
      // The line that was composed is the one that JSON.stringify gives for the mutation.
      const lines = opened.files.readFile(journalFile).toString().split('\n').slice(1, -1)
      for (const line of lines) expect(JSON.stringify(JSON.parse(line))).toBe(line)
      await first?.ack()
      await queue.close()
    } finally {
      vi.restoreAllMocks()
    }
  })

  test('delivers what a reopened queue delivers', async () => {
    const payloads: unknown[] = [
      -0, 1e21, 1e-7, Number.NaN, '\ud800', '\u2028 "\\"', null, [undefined, () => 1], new Date(0), { a: undefined, b: -0 },
      JSON.parse('{"__proto__":{"n":1},"2":0,"1":0}'), { toJSON: () => 'given' }, [], {}, '', false,
    ]
    const opened = await openQueue()
    await opened.queue.enqueueAll(payloads.map((payload) => ({ payload: payload as string })))
    const reopened = await reopenKilled(opened)
    const delivered = await payloadsOf(opened.queue)
    expect(delivered).toEqual(payloads.map((payload): unknown => JSON.parse(JSON.stringify(payload))))
    expect((await payloadsOf(reopened.queue)).map((payload) => JSON.stringify(payload))).toEqual(
      delivered.map((payload) => JSON.stringify(payload)),
    )
    await Promise.all([opened.queue.close(), reopened.queue.close()])
  })

  test('refuses values without a JSON form or too deep for a snapshot, and writes nothing', async () => {
    const { queue, files } = await openQueue()
    const cycle: unknown[] = []
    cycle.push(cycle)
    const deep: unknown = JSON.parse('['.repeat(600) + ']'.repeat(600))
    for (const payload of [undefined, () => 1, Symbol('s'), 1n, cycle, deep]) {
      expect(await codeOf(queue.enqueue(payload as string))).toBe('ERR_MINISTORE_NOT_SERIALIZABLE')
    }
    const fine: unknown = JSON.parse('['.repeat(500) + ']'.repeat(500))
    expect(await queue.enqueue(fine as string)).toBe(1)
    await queue.compact()
    expect(files.names(directory)).toContain('snapshot-1.json')
    await queue.close()
  })

  test('refuses a payload of more than maxPayloadBytes', async () => {
    const { queue, files } = await openQueue({ maxPayloadBytes: 10 })
    const error = await errorOf(queue.enqueue('é'.repeat(5)))
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_RECORD_TOO_LARGE',
      message: 'Expected a payload of at most 10 bytes (maxPayloadBytes), got one of 12',
    })
    expect(recordsOf(files)).toEqual([])
    expect(await queue.enqueue('é'.repeat(4))).toBe(1)
    await queue.close()
  })

  test('a toJSON that closes the queue is too late for its own message', async () => {
    const { queue, files } = await openQueue()
    let closed: Promise<void> | undefined
    const payload = { toJSON: () => ((closed = queue.close()), 'closing') }
    expect(await codeOf(queue.enqueue(payload as never))).toBe('ERR_MINISTORE_CLOSED')
    await closed
    expect(recordsOf(files)).toEqual([])
  })

  test.each([
    [{ delayMs: -1 }, RangeError],
    [{ delayMs: 0.5 }, RangeError],
    [{ priority: 'high' }, TypeError],
    [{ dedupeKey: 5 }, TypeError],
    [{ dedupeKey: '' }, RangeError],
    [{ dedupeKey: 'k'.repeat(1025) }, RangeError],
    [{ delay: 5 }, TypeError],
  ])('refuses invalid options: %o', async (options, error) => {
    const { queue } = await openQueue()
    await expect(queue.enqueue('x', options as object)).rejects.toThrow(error)
    await queue.close()
  })
})

describe('priority', () => {
  test('higher priorities come first, and within a priority the first enqueued', async () => {
    const { queue } = await openQueue()
    for (const [payload, priority] of [['a', 0], ['b', 5], ['c', -1], ['d', 5], ['e', 0]] as const) {
      await queue.enqueue(payload, { priority })
    }
    expect(await payloadsOf(queue)).toEqual(['b', 'd', 'a', 'e', 'c'])
    await queue.close()
  })
})

describe('delayMs', () => {
  test('a message is delivered once the wall clock reaches its due time, not before', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('later', { delayMs: 1000 })
    expect(countsOf(queue)).toEqual([0, 1, 0, 0])
    clock.advance(999)
    expect(await queue.receive()).toEqual([])
    clock.advance(1)
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    expect(await payloadsOf(queue)).toEqual(['later'])
    await queue.close()
  })

  test('the delay continues after a restart', async () => {
    const opened = await openQueue()
    await opened.queue.enqueue('later', { delayMs: 1000 })
    opened.clock.advance(400)
    const again = await reopenKilled(opened)
    expect(countsOf(again.queue)).toEqual([0, 1, 0, 0])
    opened.clock.advance(600)
    expect(await payloadsOf(again.queue)).toEqual(['later'])
    await Promise.all([opened.queue.close(), again.queue.close()])
  })

  test('a wall clock that is set forward makes it due', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('in a day', { delayMs: 86_400_000 })
    clock.jump(86_400_000)
    expect(await payloadsOf(queue)).toEqual(['in a day'])
    await queue.close()
  })

  test('a waiting receive notices within 30 s that the wall clock was set forward', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('in a day', { delayMs: 86_400_000 })
    const received = queue.receive({ waitMs: Number.POSITIVE_INFINITY })
    await queue.compact()
    clock.jump(86_400_000)
    clock.advance(30_000)
    expect((await received).map(({ payload }) => payload)).toEqual(['in a day'])
    await queue.close()
  })

  test('a ready message stays ready when the wall clock is set back', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('soon', { delayMs: 10 })
    clock.advance(10)
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    clock.jump(-86_400_000)
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    expect(await payloadsOf(queue)).toEqual(['soon'])
    await queue.close()
  })

  test('delays of more than 25 days work', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('in 100 days', { delayMs: 100 * 86_400_000 })
    const received = queue.receive({ waitMs: 200 * 86_400_000 })
    await queue.compact()
    clock.advance(100 * 86_400_000 - 1)
    expect(countsOf(queue)).toEqual([0, 1, 0, 0])
    clock.advance(1)
    expect(await received).toHaveLength(1)
    await queue.close()
  })
})

describe('enqueueAll', () => {
  test('writes all messages with one record and returns their ids in order', async () => {
    const { queue, files } = await openQueue()
    const ids = await queue.enqueueAll([{ payload: 'a' }, { payload: 'b', priority: 1 }, { payload: 'c', delayMs: 5 }])
    expect(ids).toEqual([1, 2, 3])
    expect(recordsOf(files)).toHaveLength(1)
    expect(await payloadsOf(queue)).toEqual(['b', 'a'])
    await queue.close()
  })

  test('of an empty list returns no ids and writes nothing', async () => {
    const { queue, files } = await openQueue()
    expect(await queue.enqueueAll([])).toEqual([])
    expect(recordsOf(files)).toEqual([])
    await queue.close()
  })

  test('writes nothing when one message is refused', async () => {
    const { queue, files } = await openQueue({ maxPayloadBytes: 10 })
    await expect(queue.enqueueAll([{ payload: 'fine' }, { payload: 'much too long' }])).rejects.toThrow(/at most 10 bytes/)
    await expect(queue.enqueueAll([{ payload: 'fine' }, {} as never])).rejects.toThrow(/with a `payload`, got an object/)
    await expect(queue.enqueueAll([{ payload: 'fine', delay: 5 } as never])).rejects.toThrow(/Unknown option `delay`/)
    await expect(queue.enqueueAll('text' as never)).rejects.toThrow(TypeError)
    await expect(queue.enqueueAll(5 as never)).rejects.toThrow(/`messages` to be iterable/)
    expect(recordsOf(files)).toEqual([])
    await queue.close()
  })

  test('a crash in the middle leaves all of them or none', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('before')
    const found = new Set<number>()
    const states: SimulatedFileSystem[] = []
    files.onOperation(() => states.push(...files.crashStates({ seed: 1, limit: 30 })))
    await queue.enqueueAll(Array.from({ length: 50 }, (_, n) => ({ payload: 'x'.repeat(200) + n })))
    await queue.close()
    for (const state of states) {
      const after = await openQueue({ files: state, clock })
      found.add((await payloadsOf(after.queue)).length)
      await after.queue.close()
    }
    expect(found).toEqual(new Set([1, 51]))
  })
})

describe('dedupeKey', () => {
  test('with a live key nothing is written, and the id of its message is returned', async () => {
    const { queue, files, clock } = await openQueue()
    expect(await queue.enqueue('first', { dedupeKey: 'k', delayMs: 10 })).toBe(1)
    expect(await queue.enqueue('second', { dedupeKey: 'k' })).toBe(1)
    clock.advance(10)
    const message = await receiveOne(queue)
    expect(message.payload).toBe('first')
    expect(await queue.enqueue('in flight', { dedupeKey: 'k' })).toBe(1)
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['enqueue', 'deliver'])
    await message.ack()
    expect(await queue.enqueue('after', { dedupeKey: 'k' })).toBe(2)
    await queue.close()
  })

  test('concurrent calls with the same key enqueue one message', async () => {
    const { queue } = await openQueue()
    const ids = await Promise.all(Array.from({ length: 5 }, (_, n) => queue.enqueue(`${n}`, { dedupeKey: 'k' })))
    expect(ids).toEqual([1, 1, 1, 1, 1])
    expect(await payloadsOf(queue)).toEqual(['0'])
    await queue.close()
  })

  test('enqueueAll writes only new messages, and detects duplicate keys within the call', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('old', { dedupeKey: 'a' })
    const ids = await queue.enqueueAll([
      { payload: 'x', dedupeKey: 'b' }, { payload: 'y', dedupeKey: 'a' }, { payload: 'z', dedupeKey: 'b' }, { payload: 'w' },
    ])
    expect(ids).toEqual([2, 1, 2, 3])
    expect(await payloadsOf(queue)).toEqual(['old', 'x', 'w'])
    const count = recordsOf(files).length
    expect(await queue.enqueueAll([{ payload: 'x', dedupeKey: 'a' }, { payload: 'x', dedupeKey: 'b' }])).toEqual([1, 2])
    expect(recordsOf(files)).toHaveLength(count)
    await queue.close()
  })

  test('is kept for dedupeWindowMs after the ack, also through a compaction and a restart', async () => {
    const opened = await openQueue({ dedupeWindowMs: 5000 })
    await opened.queue.enqueue('x', { dedupeKey: 'k' })
    await (await receiveOne(opened.queue)).ack()
    await opened.queue.compact()
    const again = await reopenKilled(opened, { dedupeWindowMs: 5000 })
    opened.clock.advance(4999)
    for (const { queue } of [opened, again]) expect(await queue.enqueue('y', { dedupeKey: 'k' })).toBe(1)
    opened.clock.advance(1)
    for (const { queue } of [opened, again]) expect(await queue.enqueue('y', { dedupeKey: 'k' })).toBe(2)
    await Promise.all([opened.queue.close(), again.queue.close()])
  })

  test('is free once its message is a dead letter or was purged', async () => {
    const { queue } = await openQueue({ maxAttempts: 1, dedupeWindowMs: 5000 })
    await queue.enqueue('x', { dedupeKey: 'k' })
    await (await receiveOne(queue)).nack()
    expect(await queue.enqueue('y', { dedupeKey: 'k' })).toBe(2)
    await queue.purge()
    expect(await queue.enqueue('z', { dedupeKey: 'k' })).toBe(3)
    await queue.close()
  })
})

describe('maxDepth', () => {
  test('refuses messages beyond the limit, counting ready and in-flight ones, and writes nothing', async () => {
    const { queue, files } = await openQueue({ maxDepth: 2, maxAttempts: 1 })
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b', delayMs: 1000, dedupeKey: 'k' }])
    const message = await receiveOne(queue)
    const error = await errorOf(queue.enqueue('c'))
    expect(error.code).toBe('ERR_MINISTORE_QUEUE_FULL')
    expect(error.message).toContain('2 messages and 1 more are more than 2 (maxDepth)')
    expect(await queue.enqueue('again', { dedupeKey: 'k' })).toBe(2)
    expect(recordsOf(files)).toHaveLength(2)
    await message.nack()
    expect(countsOf(queue)).toEqual([0, 1, 0, 1])
    expect(await queue.enqueue('d')).toBe(3)
    expect(await codeOf(queue.redrive('all'))).toBe('ERR_MINISTORE_QUEUE_FULL')
    await queue.close()
  })

  test('is not exceeded by concurrent calls', async () => {
    const { queue } = await openQueue({ maxDepth: 3 })
    const calls = await Promise.allSettled([1, 2, 3, 4, 5].map((n) => queue.enqueue(`${n}`)))
    expect(calls.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'rejected'])
    expect(await codeOf(queue.enqueueAll([{ payload: 'x' }]))).toBe('ERR_MINISTORE_QUEUE_FULL')
    await queue.close()
  })
})

test('messages beyond the capacity of a snapshot are refused, whatever maxDepth is', () => {
  const queue = { depth: 5, liveBytes: 0.85 * constants.MAX_STRING_LENGTH - 1000, maxDepth: Number.POSITIVE_INFINITY }
  expect(() => refuseFull({ depth: 1, bytes: 900 }, queue)).not.toThrow()
  expect(() => refuseFull({ depth: 1, bytes: 1100 }, queue)).toThrow(
    expect.objectContaining({ code: 'ERR_MINISTORE_QUEUE_FULL', message: expect.stringContaining('and 1100 more are more than') as string }),
  )
})

test.each<[string, string, number]>([
  ['of many bytes', 'k'.repeat(1024), 260_000],
  ['beyond ASCII', '日'.repeat(1024), 90_000],
  ['of quotes', '"'.repeat(1024), 130_000],
  ['of escapes', '\u0001'.repeat(1024), 45_000],
])('keys %s count at their size in a snapshot: twice, and as JSON', (_, key, messagesOnV8) => {
  // The limit follows from the longest string, which is four times as long on Bun.
  const messages = Math.ceil((messagesOnV8 * constants.MAX_STRING_LENGTH) / 536_870_888)
  const bytes = messages * bytesOf([{ payload: 1, bytes: 1, key }])
  expect(bytes).toBeGreaterThan(messages * 2 * (Buffer.byteLength(JSON.stringify(key)) - 2))
  const queue = { depth: 0, liveBytes: 0, maxDepth: Number.POSITIVE_INFINITY }
  expect(() => refuseFull({ depth: messages, bytes }, queue)).toThrow(/The queue is full: about 0 bytes and/)
})

describe('a queue at its maximum size', () => {
  /** A queue whose journal states this payload size in bytes. */
  async function openFull(bytes: number, options: QueueOptions = {}): Promise<TestQueue> {
    const opened = await openQueue()
    await opened.queue.enqueueAll([{ payload: 'large' }, { payload: 'small' }])
    await opened.queue.close()
    const text = opened.files.readFile(journalFile).toString().replace('"bytes":7', `"bytes":${bytes}`)
    opened.files.writeFile(journalFile, text)
    opened.files.writeFile(`${journalFile}.seal`, '')
    return await openQueue({ ...options, files: opened.files, clock: opened.clock })
  }

  const most = Math.floor(0.95 * constants.MAX_STRING_LENGTH)
  const reason = '\u0001'.repeat(1000)

  test.each([[most - 10_000, reason], [most - 5000, '']])('has room for a reason or keeps none: %i', async (bytes, kept) => {
    const { queue, files, clock } = await openFull(bytes, { maxAttempts: 1 })
    expect(await codeOf(queue.enqueue('more'))).toBe('ERR_MINISTORE_QUEUE_FULL')
    const [large, small] = await queue.receive({ max: 2 })
    await large?.nack({ reason })
    expect(queue.deadLetters().map((letter) => letter.reason)).toEqual([kept])
    // Only this message's last lease ends.
    expect(small?.payload).toBe('small')
    clock.advance(30_000)
    await queue.purge()
    expect(recordsOf(files).at(-1)).toMatchObject({ op: 'bury', ids: [2], reason: 'its lease ended in the last attempt' })
    expect(await queue.redrive('all')).toBe(2)
    const [again] = await queue.receive()
    expect(again?.payload).toBe('large')
    await queue.close()
  })

  test('keeps no reason of a nack either, and redelivers the message', async () => {
    const { queue, files } = await openFull(most - 5000)
    await (await receiveOne(queue)).nack({ reason, delayMs: 0 })
    expect(recordsOf(files).at(-1)).toEqual({ op: 'nack', id: 1, reason: '' })
    expect((await receiveOne(queue)).attempt).toBe(2)
    await queue.close()
  })
})
