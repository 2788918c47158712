import { describe, expect, test } from 'vitest'

import type { EnqueueOptions } from '../../src/miniqueue/index.ts'
import { countsOf, openQueue, receiveOne, recordsOf, reopenKilled, type TestQueue } from './support.ts'

/** What a killed process leaves, from the journal and from a snapshot. */
async function* survivors(opened: TestQueue): AsyncGenerator<TestQueue> {
  for (const compacts of [false, true]) {
    if (compacts) await opened.queue.compact()
    const again = await reopenKilled(opened)
    yield again
    await again.queue.close()
  }
  await opened.queue.close()
}

describe('headers', () => {
  const headers = { traceparent: '00-0af7-b7ad-01', 'ä €': '😀\n', ['__proto__']: 'own', toJSON: 'text' }

  test('are stored with the message and given to its receivers, in every attempt and after a crash', async () => {
    const opened = await openQueue()
    await opened.queue.enqueue('a', { headers })
    expect(recordsOf(opened.files)).toMatchObject([{ messages: [{ payload: 'a', headers }] }])
    await (await receiveOne(opened.queue)).nack({ delayMs: 0 })
    for await (const { queue } of survivors(opened)) {
      const message = await receiveOne(queue)
      expect(Object.entries(message.headers)).toEqual(Object.entries(headers))
      await message.nack({ dead: true })
      expect(Object.entries(queue.deadLetters()[0]?.headers ?? {})).toEqual(Object.entries(headers))
      await queue.redrive('all')
      expect(Object.entries((await receiveOne(queue)).headers)).toEqual(Object.entries(headers))
    }
  })

  test('are copies, and fixed when enqueue is called', async () => {
    const { queue } = await openQueue()
    const given = { a: '1' }
    const enqueued = queue.enqueue('x', { headers: given })
    given.a = '2'
    await enqueued
    const message = await receiveOne(queue)
    Object.assign(message.headers, { a: '3' })
    await message.nack({ delayMs: 0 })
    expect((await receiveOne(queue)).headers).toEqual({ a: '1' })
    await queue.close()
  })

  test('are empty without any, and take no room on the disk then', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b', headers: {} }])
    expect((await queue.receive({ max: 2 })).map((message) => message.headers)).toEqual([{}, {}])
    expect(JSON.stringify(recordsOf(files))).not.toContain('headers')
    await queue.close()
  })

  test.each<[unknown, string]>([
    ['text', '`headers` to be an object'], [['a'], '`headers` to be an object, got an array'], [null, '`headers`'],
    [{ n: 1 }, 'Expected the header `n` to be a string, got `1` (number)'], [{ a: undefined }, 'Expected the header `a`'],
    [{ a: 'x'.repeat(16_384) }, 'Expected `headers` to be at most 16384 bytes of JSON, got 16392'],
  ])('are refused before anything is written if they are no texts: %o', async (given, message) => {
    const { queue, files } = await openQueue()
    await expect(queue.enqueue('x', { headers: given } as EnqueueOptions)).rejects.toThrow(message)
    expect(recordsOf(files)).toEqual([])
    await queue.close()
  })
})

describe('maxAttempts of a message', () => {
  test('takes the place of that of the queue, for fewer attempts and for more', async () => {
    const { queue } = await openQueue({ maxAttempts: 2 })
    await queue.enqueueAll([
      { payload: 'once', maxAttempts: 1 }, { payload: 'twice' }, { payload: 'thrice', maxAttempts: 3 },
      { payload: 'for ever', maxAttempts: Infinity },
    ])
    const dead: string[][] = []
    for (let round = 1; round <= 4; round++) {
      for (const message of await queue.receive({ max: 4 })) await message.nack({ delayMs: 0 })
      dead.push(queue.deadLetters().map(({ payload }) => payload))
    }
    expect(dead).toEqual([['once'], ['once', 'twice'], ['once', 'twice', 'thrice'], ['once', 'twice', 'thrice']])
    await queue.close()
  })

  test('is durable: it counts at the end of a lease, and when a queue is opened after its last attempt', async () => {
    const opened = await openQueue()
    await opened.queue.enqueueAll([{ payload: 'once', maxAttempts: 1 }, { payload: 'often' }])
    await opened.queue.receive({ max: 2 })
    for await (const { queue } of survivors(opened)) {
      expect(queue.deadLetters()).toMatchObject([{ payload: 'once', reason: 'its process ended in the last attempt' }])
      await queue.redrive('all')
      await receiveOne(queue)
      const again = await receiveOne(queue)
      expect([again.payload, again.attempt]).toEqual(['once', 1])
      await again.nack()
      expect(queue.deadLetters()).toMatchObject([{ payload: 'once', attempts: 1 }])
    }
    opened.clock.advance(30_000)
  })

  test('is used up at the end of a lease', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueueAll([{ payload: 'once', maxAttempts: 1 }, { payload: 'often' }])
    await queue.receive({ max: 2 })
    clock.advance(30_000)
    await queue.purge()
    expect(queue.deadLetters()).toMatchObject([{ payload: 'once' }])
    expect(countsOf(queue)).toEqual([0, 0, 0, 1])
    await queue.close()
  })

  test.each([0, 1.5, -Infinity, '3', null])('is refused if it is no number of attempts: %o', async (maxAttempts) => {
    const { queue } = await openQueue()
    await expect(queue.enqueue('x', { maxAttempts } as EnqueueOptions)).rejects.toThrow('`maxAttempts`')
    await queue.close()
  })
})
