import { getEventListeners } from 'node:events'

import { describe, expect, test } from 'vitest'

import { turn } from '../support/consume.ts'
import { codeOf, countsOf, openQueue, payloadsOf, receiveOne, recordsOf, reopenKilled } from './support.ts'

const forever = Number.POSITIVE_INFINITY

describe('receive', () => {
  test('returns up to max messages in order, with one record', async () => {
    const { queue, files } = await openQueue()
    for (const payload of ['a', 'b', 'c']) await queue.enqueue(payload)
    const messages = await queue.receive({ max: 2 })
    expect(messages.map(({ payload }) => payload)).toEqual(['a', 'b'])
    expect(recordsOf(files).slice(3)).toEqual([{ op: 'deliver', ids: [1, 2] }])
    expect(await payloadsOf(queue)).toEqual(['c'])
    expect(await queue.receive()).toEqual([])
    await queue.close()
  })

  test('counts the attempt durably before it hands anything out', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('x')
    await queue.receive()
    const survivor = await openQueue({ files: files.afterCrash({ keep: 'none' }), clock })
    expect((await receiveOne(survivor.queue)).attempt).toBe(2)
    await survivor.queue.close()
    await queue.close()
  })

  test('gives a message to only one of many calls', async () => {
    const { queue } = await openQueue()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }, { payload: 'c' }])
    const received = await Promise.all([queue.receive({ max: 2 }), queue.receive({ max: 2 }), queue.receive({ max: 2 })])
    expect(received.map((messages) => messages.map(({ payload }) => payload))).toEqual([['a', 'b'], ['c'], []])
    await queue.close()
  })

  test('is served after earlier calls', async () => {
    const { queue } = await openQueue()
    const [, messages] = await Promise.all([queue.enqueue('a'), queue.receive()])
    expect(messages).toHaveLength(1)
    await queue.close()
  })

  test.each([
    [{ max: 0 }, RangeError],
    [{ waitMs: -1 }, RangeError],
    [{ waitMs: '5' }, TypeError],
    [{ signal: {} }, TypeError],
    [{ wait: 5 }, TypeError],
  ])('refuses invalid options: %o', async (options, error) => {
    const { queue } = await openQueue()
    await expect(queue.receive(options as object)).rejects.toThrow(error)
    await queue.close()
  })
})

describe('waiting', () => {
  test('ends with the first enqueued message, for the call that has waited longest', async () => {
    const { queue } = await openQueue()
    const waiting = [queue.receive({ waitMs: forever }), queue.receive({ waitMs: forever, max: 5 })]
    await queue.enqueue('a')
    await queue.enqueueAll([{ payload: 'b' }, { payload: 'c' }])
    const received = await Promise.all(waiting)
    expect(received.map((messages) => messages.map(({ payload }) => payload))).toEqual([['a'], ['b', 'c']])
    await queue.close()
  })

  test('ends after waitMs with no messages', async () => {
    const { queue, clock } = await openQueue()
    let isOver = false
    const received = queue.receive({ waitMs: 1000 }).finally(() => (isOver = true))
    await queue.purge()
    clock.advance(999)
    await turn()
    expect(isOver).toBe(false)
    clock.advance(1)
    expect(await received).toEqual([])
    expect(clock.timers).toBe(0)
    await queue.close()
  })

  test('for more than 25 days works', async () => {
    const { queue, clock } = await openQueue()
    const received = queue.receive({ waitMs: 40 * 86_400_000 })
    await queue.purge()
    clock.advance(39 * 86_400_000)
    await queue.enqueue('x')
    expect(await received).toHaveLength(1)
    await queue.close()
  })

  test('ends with a message that becomes due, even at the last moment', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('x', { delayMs: 1000 })
    const received = queue.receive({ waitMs: 1000 })
    await queue.compact()
    clock.advance(1000)
    expect((await received).map(({ payload }) => payload)).toEqual(['x'])
    await queue.close()
  })

  test('ends for every waiting call with a message due at the last moment', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueueAll([{ payload: 'a', delayMs: 1000 }, { payload: 'b', delayMs: 1000 }])
    const waiting = [1, 2, 3].map(() => queue.receive({ waitMs: 1000 }))
    await queue.compact()
    clock.advance(1000)
    expect((await Promise.all(waiting)).map((messages) => messages.length)).toEqual([1, 1, 0])
    await queue.close()
  })

  test('at its last moment leaves a due message to a call that has waited longer', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('x', { delayMs: 1000 })
    const longer = queue.receive({ waitMs: 60_000 })
    const shorter = queue.receive({ waitMs: 1000 })
    await queue.compact()
    clock.advance(1000)
    expect([await longer, await shorter].map((messages) => messages.length)).toEqual([1, 0])
    await queue.close()
  })

  test('serves the longest wait first, also when a message becomes due while another is served', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueueAll([{ payload: 'a', delayMs: 100 }, { payload: 'b', delayMs: 105 }])
    const waiting = [1, 2].map(() => queue.receive({ waitMs: 1000 }))
    await turn()
    clock.jump(100)
    const late = queue.receive()
    const stop = files.onOperation(({ operation }) => {
      if (operation === 'dataSync') clock.jump(5)
    })
    const received = await Promise.all([...waiting, late])
    stop()
    expect(received.map((messages) => messages.map(({ payload }) => payload))).toEqual([['a'], ['b'], []])
    await queue.close()
  })

  test('keeps its place when a later call takes the message that it was woken for', async () => {
    const { queue } = await openQueue()
    await queue.enqueue('a')
    const message = await receiveOne(queue)
    const order: string[] = []
    const wait = async (name: string): Promise<void> => {
      const messages = await queue.receive({ waitMs: 60_000 })
      for (const { payload } of messages) order.push(`${name} ${payload}`)
    }
    const waiting = [wait('first'), wait('second')]
    await queue.compact()
    // Each delivery is written before waiting calls are woken; then nothing is left for the second.
    const nacked = message.nack({ delayMs: 0 })
    waiting.push(wait('third'))
    await nacked
    await queue.compact()
    expect(order).toEqual(['first a'])
    await queue.enqueue('b')
    await queue.enqueue('c')
    await Promise.all(waiting)
    expect(order).toEqual(['first a', 'second b', 'third c'])
    await queue.close()
  })

  test('removes its listener from its signal, however it ends', async () => {
    const { queue, clock } = await openQueue()
    const { signal } = new AbortController()
    const waiting = [1, 2, 3].map((n) => queue.receive({ waitMs: n * 1000, signal }))
    await queue.enqueue('x')
    await waiting[0]
    clock.advance(2000)
    await waiting[1]
    expect(getEventListeners(signal, 'abort')).toHaveLength(1)
    await queue.close()
    await waiting[2]
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  test('ends with a message whose lease ends', async () => {
    const { queue, clock } = await openQueue({ visibilityTimeoutMs: 5000 })
    await queue.enqueue('x')
    await queue.receive()
    const received = queue.receive({ waitMs: forever })
    await queue.compact()
    clock.advance(5000)
    expect((await received).map(({ attempt }) => attempt)).toEqual([2])
    await queue.close()
  })

  test('ends with a message that is nacked', async () => {
    const { queue } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    const received = queue.receive({ waitMs: forever })
    await message.nack({ delayMs: 0 })
    expect(await received).toHaveLength(1)
    await queue.close()
  })

  test('ends with a message that is redriven', async () => {
    const { queue } = await openQueue({ maxAttempts: 1 })
    await queue.enqueue('x')
    await (await receiveOne(queue)).nack()
    const received = queue.receive({ waitMs: forever })
    await queue.redrive(1)
    expect(await received).toHaveLength(1)
    await queue.close()
  })

  test('ends with the reason of its signal, and takes no message', async () => {
    const { queue, files } = await openQueue()
    const controller = new AbortController()
    const received = queue.receive({ waitMs: forever, signal: controller.signal })
    await queue.purge()
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(received).rejects.toBe(reason)
    await expect(queue.receive({ signal: controller.signal })).rejects.toBe(reason)
    await queue.enqueue('x')
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['enqueue'])
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await queue.close()
  })

  test('aborted while the delivery is written: the message goes back, and its attempt is used next', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('x')
    const controller = new AbortController()
    const stop = files.onOperation(({ operation }) => operation === 'dataSync' && controller.abort(new Error('late')))
    await expect(queue.receive({ signal: controller.signal })).rejects.toThrow('late')
    stop()
    expect((await receiveOne(queue)).attempt).toBe(1)
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['enqueue', 'deliver'])
    await queue.close()
  })

  test('no timer runs when no call waits and no message is in flight', async () => {
    const { queue, clock } = await openQueue()
    expect(clock.timers).toBe(0)
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b', delayMs: 1000 }])
    expect(clock.timers).toBe(0)
    const message = await receiveOne(queue)
    expect(clock.timers).toBe(1)
    await message.ack()
    expect(clock.timers).toBe(0)
    await queue.close()
  })
})

describe('a lease', () => {
  test('hides its message until it ends; then it is ready in its old place, and nothing is written', async () => {
    const { queue, files, clock } = await openQueue({ visibilityTimeoutMs: 5000 })
    for (const payload of ['a', 'b', 'c']) await queue.enqueue(payload)
    const message = await receiveOne(queue)
    expect(message.leaseEndsInMs).toBe(5000)
    clock.advance(4999)
    expect([message.leaseEndsInMs, message.signal.aborted, ...countsOf(queue)]).toEqual([1, false, 2, 0, 1, 0])
    const records = recordsOf(files).length
    clock.advance(1)
    expect([message.leaseEndsInMs, ...countsOf(queue)]).toEqual([0, 3, 0, 0, 0])
    expect(message.signal.aborted).toBe(true)
    expect(message.signal.reason).toMatchObject({ code: 'ERR_MINISTORE_LEASE_LOST' })
    expect(recordsOf(files)).toHaveLength(records)
    expect((await queue.receive({ max: 3 })).map(({ payload, attempt }) => [payload, attempt])).toEqual([
      ['a', 2], ['b', 1], ['c', 1],
    ])
    await queue.close()
  })

  test('is not affected by a wall clock that jumps', async () => {
    const { queue, clock } = await openQueue({ visibilityTimeoutMs: 5000 })
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    clock.jump(86_400_000)
    clock.advance(1)
    clock.jump(-2 * 86_400_000)
    expect(message.leaseEndsInMs).toBe(4999)
    await message.ack()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
  })

  test('ends on time even if the alarm is late', async () => {
    const { queue, clock } = await openQueue({ visibilityTimeoutMs: 5000 })
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    const now = clock.monotonicMs()
    Object.assign(clock, { monotonicMs: () => now + 5000 })
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_LEASE_LOST')
    expect((await receiveOne(queue)).attempt).toBe(2)
    await queue.close()
  })

  test('ends with its process: everything in flight is ready after a kill, in its place, its attempt counted', async () => {
    const opened = await openQueue()
    for (const payload of ['a', 'b', 'c']) await opened.queue.enqueue(payload)
    await opened.queue.receive({ max: 2 })
    const again = await reopenKilled(opened)
    expect((await again.queue.receive({ max: 3 })).map(({ payload, attempt }) => [payload, attempt])).toEqual([
      ['a', 2], ['b', 2], ['c', 1],
    ])
    await Promise.all([opened.queue.close(), again.queue.close()])
  })

  test('of each of many messages ends at its own time', async () => {
    const { queue, clock } = await openQueue({ visibilityTimeoutMs: 1000 })
    for (let n = 0; n < 20; n++) await queue.enqueue(`${n}`)
    const messages = await queue.receive({ max: 20 })
    messages.forEach((message, n) => message.extend(1000 + ((n * 7) % 20) * 10))
    for (let n = 0; n < 20; n++) {
      clock.advance(n === 0 ? 1000 : 10)
      expect(countsOf(queue)).toEqual([n + 1, 0, 19 - n, 0])
    }
    await queue.close()
  })
})
