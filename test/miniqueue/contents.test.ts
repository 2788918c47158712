import { describe, expect, test } from 'vitest'

import type { MessagesOptions, ProcessOptions } from '../../src/miniqueue/index.ts'
import { codeOf, countsOf, heldHandler, journalFile, openQueue, payloadsOf, quiet, receiveOne, recordsOf, reopenKilled } from './support.ts'

describe('messages', () => {
  /** One message of each state, and one more that is ready: ids 1 dead, 2 in flight, 3 and 5 ready, 4 delayed. */
  async function withAll() {
    const opened = await openQueue()
    const { queue } = opened
    await queue.enqueueAll([
      { payload: 'dead', headers: { a: 'b' } }, { payload: 'inFlight' }, { payload: 'ready', maxAttempts: 3, dedupeKey: 'k' },
      { payload: 'delayed', delayMs: 50 }, { payload: 'first', priority: 9 },
    ])
    const [first, dead, ...others] = await queue.receive({ max: 4 })
    await first?.nack({ delayMs: 0, reason: 'later' })
    await dead?.nack({ dead: true, reason: 'bad' })
    await others[1]?.nack({ delayMs: 0 })
    return opened
  }

  test('lists copies of all messages by id, with what is known of each', async () => {
    const { queue, clock } = await withAll()
    const none = { headers: {}, dedupeKey: undefined, maxAttempts: undefined, reason: undefined, dueAt: undefined }
    const enqueuedAt = new Date(clock.wallMs())
    expect(queue.messages()).toEqual([
      { ...none, id: 1, state: 'dead', payload: 'dead', priority: 0, attempts: 1, headers: { a: 'b' }, enqueuedAt, reason: 'bad' },
      { ...none, id: 2, state: 'inFlight', payload: 'inFlight', priority: 0, attempts: 1, enqueuedAt },
      { ...none, id: 3, state: 'ready', payload: 'ready', priority: 0, attempts: 1, maxAttempts: 3, dedupeKey: 'k', enqueuedAt },
      { ...none, id: 4, state: 'delayed', payload: 'delayed', priority: 0, attempts: 0, enqueuedAt, dueAt: new Date(clock.wallMs() + 50) },
      { ...none, id: 5, state: 'ready', payload: 'first', priority: 9, attempts: 1, enqueuedAt, reason: 'later' },
    ])
    await queue.close()
  })

  test.each<[MessagesOptions, number[]]>([
    [{ state: 'ready' }, [3, 5]], [{ state: 'delayed' }, [4]], [{ state: 'inFlight' }, [2]], [{ state: 'dead' }, [1]],
    [{ from: 3 }, [3, 4, 5]], [{ from: 2, limit: 2 }, [2, 3]], [{ state: 'ready', from: 4 }, [5]], [{ state: 'ready', limit: 1 }, [3]],
    [{ from: 9 }, []], [{ limit: Infinity }, [1, 2, 3, 4, 5]],
  ])('lists by state and by page: %o', async (options, ids) => {
    const { queue } = await withAll()
    expect(queue.messages(options).map(({ id }) => id)).toEqual(ids)
    await queue.close()
  })

  test('changes neither order nor attempts, and writes nothing', async () => {
    const { queue, files, clock } = await withAll()
    const records = recordsOf(files).length
    clock.advance(50)
    expect(queue.messages({ state: 'ready' }).map(({ id }) => id)).toEqual([3, 4, 5])
    const seen = (await queue.receive({ max: 9 })).map(({ payload, attempt }) => `${payload}${attempt}`)
    expect([seen, recordsOf(files).length]).toEqual([['first2', 'ready2', 'delayed1'], records + 1])
    await queue.close()
  })

  test.each<[object, string]>([
    [{ state: 'gone' }, 'Expected `state` to be one of ready, delayed, inFlight, dead'], [{ from: 0 }, '`from`'], [{ limit: 0 }, '`limit`'],
    [{ max: 5 }, 'Unknown option `max`'],
  ])('refuses invalid options: %o', async (options, message) => {
    const { queue } = await openQueue()
    expect(() => queue.messages(options)).toThrow(message)
    await queue.close()
  })
})

describe('cancel', () => {
  test('removes a ready or a delayed message for good, frees its key, and keeps the order of the others', async () => {
    const opened = await openQueue()
    const { queue, clock } = opened
    await queue.enqueueAll(['a', 'b', 'c', 'd', 'e'].map((payload) => ({ payload, dedupeKey: payload })))
    await queue.enqueueAll([{ payload: 'later', delayMs: 50 }, { payload: 'soon', delayMs: 20 }, { payload: 'last', delayMs: 60 }])
    expect(await Promise.all([queue.cancel(2), queue.cancel(6), queue.cancel(5)])).toEqual([true, true, true])
    expect(countsOf(queue)).toEqual([3, 2, 0, 0])
    expect(await queue.enqueue('b again', { dedupeKey: 'b' })).toBe(9)
    clock.advance(60)
    const killed = await reopenKilled(opened)
    for (const each of [queue, killed.queue]) {
      expect(await payloadsOf(each)).toEqual(['a', 'c', 'd', 'soon', 'last', 'b again'])
      await each.close()
    }
  })

  test('resolves with false and writes nothing if the message is in flight, dead or gone', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll(['in flight', 'dead', 'gone'].map((payload) => ({ payload })))
    const messages = await queue.receive({ max: 3 })
    await messages[1]?.nack({ dead: true })
    await messages[2]?.ack()
    const records = recordsOf(files).length
    expect([await queue.cancel(1), await queue.cancel(2), await queue.cancel(3), await queue.cancel(4)]).toEqual([false, false, false, false])
    expect(recordsOf(files)).toHaveLength(records)
    await messages[0]?.ack()
    await queue.close()
  })

  test('rejects and changes nothing if the write fails', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll([{ payload: 'a', dedupeKey: 'k' }, { payload: 'b' }])
    files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
    expect(await codeOf(queue.cancel(1))).toBe('ERR_MINISTORE_IO')
    expect(await queue.enqueue('again', { dedupeKey: 'k' })).toBe(1)
    expect(await payloadsOf(queue)).toEqual(['a', 'b'])
    await queue.close()
    expect(await codeOf(queue.cancel(1))).toBe('ERR_MINISTORE_CLOSED')
  })

  test.each([0, 'all', undefined])('refuses %o for an id', async (id) => {
    const { queue } = await openQueue()
    await expect(queue.cancel(id as number)).rejects.toThrow('`id`')
    await queue.close()
  })

  test('many in any order leave the others in order', async () => {
    const { queue } = await openQueue()
    const priorities = Array.from({ length: 60 }, (_, n) => (n * 7) % 5)
    await queue.enqueueAll(priorities.map((priority, n) => ({ payload: String(n + 1), priority, delayMs: n % 3 === 0 ? 1 + ((n * 11) % 17) : 0 })))
    const gone = new Set(Array.from({ length: 30 }, (_, n) => ((n * 13) % 60) + 1))
    await Promise.all([...gone].map((id) => queue.cancel(id)))
    const left = priorities.map((priority, n) => ({ id: n + 1, priority })).filter(({ id }) => !gone.has(id) && (id - 1) % 3 !== 0)
    const expected = left.toSorted((one, other) => other.priority - one.priority || one.id - other.id).map(({ id }) => String(id))
    expect(await payloadsOf(queue)).toEqual(expected)
    await queue.close()
  })
})

describe('idle', () => {
  test('resolves when no message waits or is in flight; dead letters do not count', async () => {
    const { queue, clock } = await openQueue()
    await queue.idle()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'later', delayMs: 5 }, { payload: 'dead' }])
    let isIdle = false
    const idle = queue.idle().then(() => (isIdle = true))
    const [a, dead] = await queue.receive({ max: 2 })
    await a?.ack()
    await dead?.nack({ dead: true })
    clock.advance(5)
    const later = await receiveOne(queue)
    await quiet()
    expect(isIdle).toBe(false)
    await later.ack()
    await idle
    await queue.enqueue('b')
    const purged = queue.idle()
    await queue.purge()
    await purged
    await queue.close()
  })

  test('rejects when the queue is closed, or can no longer write', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('a')
    const closed = codeOf(queue.idle())
    await queue.close()
    expect([await closed, await codeOf(queue.idle())]).toEqual(['ERR_MINISTORE_CLOSED', 'ERR_MINISTORE_CLOSED'])
    const again = await openQueue({ files })
    const poisoned = codeOf(again.queue.idle())
    files.failOn({ operation: 'dataSync' }, 'EIO')
    await codeOf(again.queue.enqueue('b'))
    expect([await poisoned, await codeOf(again.queue.idle())]).toEqual(['ERR_MINISTORE_POISONED', 'ERR_MINISTORE_POISONED'])
    await again.queue.close()
  })
})

describe('pause', () => {
  test('suspends every delivery until resume; acks, nacks and enqueues go on', async () => {
    const { queue, files } = await openQueue()
    const held = heldHandler()
    const run = queue.process(held.handler)
    const reader = queue.consume().getReader()
    await queue.enqueue('a')
    await held.called(1)
    const read = reader.read()
    await quiet()
    queue.pause()
    expect(queue.isPaused).toBe(true)
    await queue.enqueueAll([{ payload: 'b' }, { payload: 'c' }])
    held.calls[0]?.resolve()
    await quiet()
    expect([await queue.receive(), held.calls.length, countsOf(queue)]).toEqual([[], 1, [2, 0, 0, 0]])
    expect(recordsOf(files).at(-1)).toEqual({ op: 'ack', ids: [1] })
    queue.resume()
    await held.called(2)
    expect([queue.isPaused, (await read).value?.payload, held.calls[1]?.message.payload]).toEqual([false, 'b', 'c'])
    await (await read).value?.ack()
    held.calls[1]?.resolve()
    await queue.close()
    await run
  })

  test('ends with the process', async () => {
    const opened = await openQueue()
    opened.queue.pause()
    await opened.queue.enqueue('a')
    const killed = await reopenKilled(opened)
    expect([killed.queue.isPaused, await payloadsOf(killed.queue)]).toEqual([false, ['a']])
    await Promise.all([opened.queue.close(), killed.queue.close()])
  })
})

describe('a rate limit', () => {
  test.each<[number, number, number]>([[2, 2, 1000], [0.5, 1, 2000], [2.5, 2, 800]])(
    'of %d per second lets %d begin in any %d ms, and the others wait without lease or attempt',
    async (perSecond, count, windowMs) => {
      const { queue, clock } = await openQueue()
      await queue.enqueueAll(Array.from({ length: 9 }, (_, n) => ({ payload: String(n) })))
      const began: number[] = []
      const from = clock.monotonicMs()
      const run = queue.process(() => void began.push(clock.monotonicMs() - from), { concurrency: 4, rateLimit: { perSecond } })
      for (let ms = 0; ms < 3 * windowMs; ms += 50) {
        await quiet()
        const waiting = queue.messages({ state: 'ready' })
        expect(waiting.every(({ attempts }) => attempts === 0)).toBe(true)
        expect(waiting.length + began.length).toBe(9)
        clock.advance(50)
      }
      expect(began).toEqual([0, 1, 2].flatMap((window) => Array<number>(count).fill(window * windowMs)))
      await queue.close()
      await run
      expect(clock.timers).toBe(0)
    },
  )

  test('does not delay a stop, and handlers that are slow need no more than their slots', async () => {
    const { queue } = await openQueue()
    await queue.enqueueAll(['a', 'b', 'c'].map((payload) => ({ payload })))
    const held = heldHandler()
    const controller = new AbortController()
    const run = queue.process(held.handler, { concurrency: 1, rateLimit: { perSecond: 100 }, signal: controller.signal })
    await held.called(1)
    held.calls[0]?.resolve()
    await held.called(2)
    await quiet()
    expect(held.calls).toHaveLength(2)
    controller.abort()
    held.calls[1]?.resolve()
    await run
    const limited = queue.process(() => {}, { rateLimit: { perSecond: 0.001 } })
    await quiet()
    await queue.enqueue('d')
    await quiet()
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await queue.close()
    await limited
  })

  test.each<[unknown, string]>([[{ perSecond: 0 }, '`perSecond`'], [{}, '`perSecond`'], [5, '`rateLimit`'], [{ perMinute: 5 }, 'Unknown option `perMinute`']])(
    'is refused if it is invalid: %o',
    async (rateLimit, message) => {
      const { queue } = await openQueue()
      await expect(queue.process(() => {}, { rateLimit } as ProcessOptions)).rejects.toThrow(message)
      await queue.close()
    },
  )
})

describe('stats', () => {
  test('tells the ages of the oldest message, the oldest that waits and the oldest in flight', async () => {
    const { queue, clock } = await openQueue()
    const ages = (): unknown => {
      const { oldestAgeMs, oldestWaitingAgeMs, oldestInFlightMs } = queue.stats()
      return [oldestAgeMs, oldestWaitingAgeMs, oldestInFlightMs]
    }
    expect(ages()).toEqual([undefined, undefined, undefined])
    await queue.enqueue('a')
    clock.advance(10)
    const a = await receiveOne(queue)
    expect(ages()).toEqual([10, undefined, 0])
    await queue.enqueueAll([{ payload: 'b', delayMs: 1000 }, { payload: 'c' }])
    clock.advance(5)
    expect(ages()).toEqual([15, 5, 5])
    await a.nack({ delayMs: 0 })
    expect(ages()).toEqual([15, 15, undefined])
    await queue.receive({ max: 2 })
    expect(ages()).toEqual([15, 5, 0])
    await queue.cancel(2)
    expect(ages()).toEqual([15, undefined, 0])
    await queue.close()
  })

  test('counts what happened since the queue was opened', async () => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 2 })
    await queue.enqueueAll(['a', 'b', 'c', 'd'].map((payload) => ({ payload })))
    expect(await queue.enqueue('e', { dedupeKey: 'k' })).toBe(await queue.enqueue('e', { dedupeKey: 'k' }))
    const [a, b, c] = await queue.receive({ max: 4 })
    await a?.ack()
    await b?.nack({ delayMs: 0 })
    await c?.nack({ dead: true })
    clock.advance(30_000)
    await queue.receive({ max: 3 })
    expect(queue.stats().sinceOpen).toEqual({ enqueued: 5, acked: 1, failed: 3, dead: 1 })
    await queue.close()
    const again = await openQueue({ files, clock, maxAttempts: 2 })
    // The last attempts of two messages ended with their process.
    expect(again.queue.stats().sinceOpen).toEqual({ enqueued: 0, acked: 0, failed: 2, dead: 2 })
    await again.queue.close()
  })
})
