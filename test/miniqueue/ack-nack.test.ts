import { describe, expect, test } from 'vitest'

import type { Message } from '../../src/miniqueue/index.ts'
import { turn } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'
import { codeOf, countsOf, directory, errorOf, journalFile, openQueue, receiveOne, recordsOf, reopenKilled, type TestQueue } from './support.ts'

describe('ack', () => {
  test('removes the message, durably when it resolves', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('x')
    await (await receiveOne(queue)).ack()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    const survivor = await openQueue({ files: files.afterCrash({ keep: 'none' }), clock })
    expect(countsOf(survivor.queue)).toEqual([0, 0, 0, 0])
    await survivor.queue.close()
    await queue.close()
  })

  test('a second ack, nack or extend is refused, during the first as well', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    const first = message.ack()
    for (const isLater of [false, true]) {
      if (isLater) await first
      expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_MESSAGE_SETTLED')
      expect(await codeOf(message.nack())).toBe('ERR_MINISTORE_MESSAGE_SETTLED')
      expect(() => message.extend(5)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_MESSAGE_SETTLED' }))
    }
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['enqueue', 'deliver', 'ack'])
    expect(message.leaseEndsInMs).toBe(0)
    await queue.close()
  })

  test('is refused after the lease is lost, and the new holder keeps the message', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('x')
    const late = await receiveOne(queue)
    clock.advance(30_000)
    const second = await receiveOne(queue)
    for (const call of [late.ack(), late.nack()]) {
      expect(await errorOf(call)).toMatchObject({
        code: 'ERR_MINISTORE_LEASE_LOST',
        message: 'The lease of message 1 has ended, so another receiver may have the message',
      })
    }
    expect(() => late.extend(5)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_LEASE_LOST' }))
    await second.ack()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
  })

  test('keeps the lease from ending while it is being written', async () => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 1 })
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    clock.advance(29_999)
    const acked = message.ack()
    clock.advance(1_000_000)
    expect([message.leaseEndsInMs, message.signal.aborted]).toEqual([1, false])
    await acked
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    expect(recordsOf(files).at(-1)).toEqual({ op: 'ack', ids: [1] })
    await queue.close()
  })

  test('on a full disk leaves the lease running, and may be called again', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    clock.advance(10_000)
    const full = files.failOn({ operation: 'write', path: journalFile, times: 'always' }, 'ENOSPC')
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_IO')
    expect(await codeOf(message.nack())).toBe('ERR_MINISTORE_IO')
    expect([message.leaseEndsInMs, ...countsOf(queue)]).toEqual([20_000, 0, 0, 1, 0])
    full.remove()
    await message.ack()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
  })

  test('on a disk that stays full, does not change the end of the lease', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    clock.advance(10_000)
    const full = files.failOn({ operation: 'write', path: journalFile, times: 'always' }, 'ENOSPC')
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_IO')
    clock.advance(20_000)
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_LEASE_LOST')
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    full.remove()
    expect((await receiveOne(queue)).attempt).toBe(2)
    await queue.close()
  })
})

describe('nack', () => {
  test('without a delay uses the backoff, which grows each time up to its limit', async () => {
    const backoff = { initialMs: 100, factor: 3, maxMs: 500, jitter: 0 }
    const { queue, clock } = await openQueue({ maxAttempts: 10, backoff })
    await queue.enqueue('x')
    for (const wait of [100, 300, 500, 500]) {
      await (await receiveOne(queue)).nack()
      clock.advance(wait - 1)
      expect(countsOf(queue)).toEqual([0, 1, 0, 0])
      clock.advance(1)
      expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    }
    await queue.close()
  })

  test('the jitter shortens the wait by up to its share', async () => {
    const { queue, files, clock } = await openQueue({ backoff: { initialMs: 1000, jitter: 0.5 }, random: () => 0.5 })
    await queue.enqueue('x')
    await (await receiveOne(queue)).nack()
    expect(recordsOf(files).at(-1)).toEqual({ op: 'nack', id: 1, dueAt: clock.wallMs() + 750 })
    await queue.close()
  })

  test('accepts a backoff function of the attempt, and checks its result', async () => {
    const waits = [5, Number.NaN, -1, 'soon'] as number[]
    const asked: number[] = []
    const { queue, clock } = await openQueue({
      maxAttempts: 10,
      backoff: (attempt) => {
        asked.push(attempt)
        return waits.shift() ?? 0
      },
    })
    await queue.enqueue('x')
    await (await receiveOne(queue)).nack()
    clock.advance(5)
    const message = await receiveOne(queue)
    for (let n = 0; n < 3; n++) await expect(message.nack()).rejects.toThrow(/`backoff` to give milliseconds, 0 or more/)
    await message.nack()
    expect(asked).toEqual([1, 2, 2, 2, 2])
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await queue.close()
  })

  test('returns the message to its old place when it is due', async () => {
    const { queue, clock } = await openQueue()
    for (const payload of ['a', 'b', 'c']) await queue.enqueue(payload)
    await (await receiveOne(queue)).nack({ delayMs: 10 })
    expect((await receiveOne(queue)).payload).toBe('b')
    clock.advance(10)
    expect((await queue.receive({ max: 2 })).map(({ payload }) => payload)).toEqual(['a', 'c'])
    await queue.close()
  })

  test('is durable with its delay and reason', async () => {
    const opened = await openQueue()
    await opened.queue.enqueue('x')
    await (await receiveOne(opened.queue)).nack({ delayMs: 1000, reason: 'r'.repeat(2000) })
    expect(recordsOf(opened.files).at(-1)).toMatchObject({ op: 'nack', reason: 'r'.repeat(1000) })
    const again = await reopenKilled(opened)
    expect(countsOf(again.queue)).toEqual([0, 1, 0, 0])
    opened.clock.advance(1000)
    expect((await receiveOne(again.queue)).attempt).toBe(2)
    await Promise.all([opened.queue.close(), again.queue.close()])
  })

  test.each([
    [{ delayMs: -1 }, RangeError],
    [{ reason: new Error('no text') }, TypeError],
    [{ delay: 1 }, TypeError],
  ])('refuses invalid options and leaves the lease unchanged: %o', async (options, error) => {
    const { queue } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    await expect(message.nack(options as object)).rejects.toThrow(error)
    await message.ack()
    await queue.close()
  })
})

describe('extend', () => {
  test('makes the lease end later, counted from now, and never earlier', async () => {
    const { queue, files, clock } = await openQueue({ visibilityTimeoutMs: 1000 })
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    clock.advance(900)
    message.extend(5000)
    expect(message.leaseEndsInMs).toBe(5000)
    message.extend(10)
    expect(message.leaseEndsInMs).toBe(5000)
    clock.advance(4999)
    expect(countsOf(queue)).toEqual([0, 0, 1, 0])
    clock.advance(1)
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    expect(recordsOf(files)).toHaveLength(2)
    await queue.close()
  })

  test('accepts more than 25 days', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    message.extend(60 * 86_400_000)
    clock.advance(60 * 86_400_000 - 1)
    expect(message.leaseEndsInMs).toBe(1)
    clock.advance(1)
    expect(message.signal.aborted).toBe(true)
    await queue.close()
  })

  test.each([0, -1, 0.5, Number.NaN, 1e14])('refuses %d', async (ms) => {
    const { queue } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    expect(() => message.extend(ms)).toThrow(RangeError)
    expect(message.leaseEndsInMs).toBe(30_000)
    await queue.close()
  })
})

describe('dead letters', () => {
  test('a message nacked in its last attempt becomes one, with all of its details', async () => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 2 })
    const enqueuedAt = new Date(clock.wallMs())
    await queue.enqueue('poison')
    await (await receiveOne(queue)).nack({ reason: 'first', delayMs: 0 })
    clock.advance(5000)
    await (await receiveOne(queue)).nack({ reason: 'second' })
    expect(queue.deadLetters()).toEqual([
      { id: 1, payload: 'poison', reason: 'second', attempts: 2, headers: {}, enqueuedAt, diedAt: new Date(clock.wallMs()) },
    ])
    expect(countsOf(queue)).toEqual([0, 0, 0, 1])
    const survivor = await openQueue({ files: files.afterCrash({ keep: 'none' }), clock })
    expect(survivor.queue.deadLetters()).toEqual(queue.deadLetters())
    await survivor.queue.close()
    await queue.close()
  })

  test('a message whose lease ends in its last attempt becomes one', async () => {
    const { queue, clock } = await openQueue({ maxAttempts: 1 })
    await queue.enqueue('slow')
    const message = await receiveOne(queue)
    clock.advance(30_000)
    expect(message.signal.reason).toMatchObject({ code: 'ERR_MINISTORE_LEASE_LOST' })
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_LEASE_LOST')
    await queue.enqueue('next')
    expect(queue.deadLetters()).toMatchObject([{ id: 1, reason: 'its lease ended in the last attempt', attempts: 1 }])
    expect(countsOf(queue)).toEqual([1, 0, 0, 1])
    await queue.close()
  })

  test('a message that kills its process each time becomes one when the queue is opened', async () => {
    const clock = (await openQueue()).clock
    let { queue, files } = await openQueue({ clock, maxAttempts: 3 })
    await queue.enqueueAll([{ payload: 'poison' }, { payload: 'other' }])
    for (let attempt = 1; attempt <= 3; attempt++) {
      expect(await receiveOne(queue)).toMatchObject({ payload: 'poison', attempt })
      const killed = queue
      ;({ queue, files } = await openQueue({ files: files.afterKill(), clock, maxAttempts: 3 }))
      await killed.close()
    }
    expect(queue.deadLetters()).toMatchObject([
      { payload: 'poison', attempts: 3, reason: 'its process ended in the last attempt' },
    ])
    expect(await receiveOne(queue)).toMatchObject({ payload: 'other', attempt: 1 })
    expect(recordsOf(files).at(-2)).toMatchObject({ op: 'bury', ids: [1] })
    await queue.close()
  })

  test('do not occur with maxAttempts Infinity', async () => {
    const { queue } = await openQueue({ maxAttempts: Number.POSITIVE_INFINITY })
    await queue.enqueue('x')
    for (let n = 0; n < 20; n++) await (await receiveOne(queue)).nack({ delayMs: 0 })
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await queue.close()
  })

  test('a failed burial is reported and retried, and its message is not delivered', async () => {
    const { queue, files, clock, told } = await openQueue({ maxAttempts: 1 })
    await queue.enqueue('x')
    await queue.receive()
    const full = files.failOn({ operation: 'write', path: journalFile, times: 'always' }, 'ENOSPC')
    clock.advance(30_000)
    await expect(queue.enqueue('y')).rejects.toThrow(/ENOSPC/)
    expect(told).toMatchObject([{ code: 'ERR_MINISTORE_IO' }])
    expect([await queue.receive(), countsOf(queue)]).toEqual([[], [0, 0, 1, 0]])
    full.remove()
    clock.advance(30_000)
    await queue.enqueue('y')
    expect(countsOf(queue)).toEqual([1, 0, 0, 1])
    expect(told).toHaveLength(1)
    await queue.close()
  })

  test('a queue on a full disk still opens, and buries later', async () => {
    const opened = await openQueue({ maxAttempts: 1 })
    await opened.queue.enqueueAll([{ payload: 'x' }, { payload: 'y' }])
    await opened.queue.receive()
    const files = opened.files.afterKill()
    const full = files.failOn(
      (operation) => operation.operation === 'write' && operation.path === journalFile && operation.changesDisk,
      'ENOSPC',
    )
    const again = await openQueue({ files, clock: opened.clock, maxAttempts: 1 })
    expect([full.hits > 0, again.told]).toMatchObject([true, [{ code: 'ERR_MINISTORE_IO' }]])
    expect(countsOf(again.queue)).toEqual([1, 0, 1, 0])
    full.remove()
    expect((await receiveOne(again.queue)).payload).toBe('y')
    opened.clock.advance(29_999)
    expect(countsOf(again.queue)).toEqual([0, 0, 2, 0])
    opened.clock.advance(1)
    await again.queue.compact()
    expect(again.queue.deadLetters()).toMatchObject([{ id: 1 }, { id: 2 }])
    await Promise.all([opened.queue.close(), again.queue.close()])
  })

  test('redrive returns one or all: same id, at the end, no attempts', async () => {
    const opened = await openQueue({ maxAttempts: 1 })
    const { queue } = opened
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }, { payload: 'c' }])
    for (const message of await queue.receive({ max: 3 })) await message.nack({ reason: 'no' })
    await queue.enqueue('d')
    expect(await queue.redrive(2)).toBe(1)
    expect(await queue.redrive('all')).toBe(2)
    expect(await queue.redrive('all')).toBe(0)
    expect(countsOf(queue)).toEqual([4, 0, 0, 0])
    const again = await reopenKilled(opened)
    for (const each of [queue, again.queue]) {
      const messages = await each.receive({ max: 9 })
      expect(messages.map(({ id, payload, attempt }) => [id, payload, attempt])).toEqual([
        [4, 'd', 1], [2, 'b', 1], [1, 'a', 1], [3, 'c', 1],
      ])
    }
    await Promise.all([queue.close(), again.queue.close()])
  })

  test('a redriven message does not take back its key from a recently acked message', async () => {
    const opened = await openQueue({ maxAttempts: 1, dedupeWindowMs: 60_000 })
    const { queue, clock } = opened
    const again = (): Promise<number> => queue.enqueue('the same', { dedupeKey: 'k' })
    expect(await again()).toBe(1)
    await (await receiveOne(queue)).nack()
    expect(await again()).toBe(2)
    await (await receiveOne(queue)).ack()
    await queue.redrive(1)
    expect(await again()).toBe(2)
    await (await receiveOne(queue)).ack()
    expect(await again()).toBe(2)
    const killed = await reopenKilled(opened, { dedupeWindowMs: 60_000 })
    expect(await killed.queue.enqueue('the same', { dedupeKey: 'k' })).toBe(2)
    clock.advance(60_000)
    expect(await again()).toBe(3)
    await Promise.all([queue.close(), killed.queue.close()])
  })

  test('discard removes one or all for good', async () => {
    const opened = await openQueue({ maxAttempts: 1 })
    const { queue } = opened
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }, { payload: 'c' }])
    for (const message of await queue.receive({ max: 3 })) await message.nack()
    expect(await queue.discard(2)).toBe(1)
    expect(queue.deadLetters().map(({ id }) => id)).toEqual([1, 3])
    expect([await queue.discard('all'), await queue.discard('all')]).toEqual([2, 0])
    const again = await reopenKilled(opened)
    expect([countsOf(queue), countsOf(again.queue)]).toEqual([[0, 0, 0, 0], [0, 0, 0, 0]])
    await Promise.all([queue.close(), again.queue.close()])
  })

  test('an id that is not a dead letter is refused by its number, and nothing is written', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('alive')
    for (const call of [queue.redrive(1), queue.discard(7)]) {
      expect(await codeOf(call)).toBe('ERR_MINISTORE_NO_SUCH_MESSAGE')
    }
    await expect(queue.redrive('everything' as never)).rejects.toThrow(TypeError)
    await expect(queue.discard(0)).rejects.toThrow(RangeError)
    expect(recordsOf(files)).toHaveLength(1)
    await queue.close()
  })
})

describe('a lease is paused while an ack or nack is written', () => {
  /** A message with 10 s of lease left; the next write takes a minute and fails with ENOSPC. */
  async function withFailingWrite(): Promise<TestQueue & { readonly message: Message<string> }> {
    const opened = await openQueue()
    await opened.queue.enqueue('x')
    const message = await receiveOne(opened.queue)
    opened.clock.advance(20_000)
    opened.files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
    let writes = 0
    opened.files.onOperation(({ operation }) => {
      if (operation === 'write' && writes++ === 0) opened.clock.advance(60_000)
    })
    return { ...opened, message }
  }

  test.each<[string, (message: Message<string>) => Promise<void>]>([
    ['an ack', (message) => message.ack()],
    ['a nack', (message) => message.nack()],
  ])('and resumes with the remaining time when %s fails', async (_, call) => {
    const { queue, clock, message } = await withFailingWrite()
    expect(await codeOf(call(message))).toBe('ERR_MINISTORE_IO')
    expect([message.leaseEndsInMs, message.signal.aborted]).toEqual([10_000, false])
    expect(countsOf(queue)).toEqual([0, 0, 1, 0])
    clock.advance(9999)
    await message.ack()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
  })

  test('and ends when the remaining time is over', async () => {
    const { queue, clock, message } = await withFailingWrite()
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_IO')
    clock.advance(10_000)
    expect(message.signal.aborted).toBe(true)
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_LEASE_LOST')
    expect((await receiveOne(queue)).attempt).toBe(2)
    await queue.close()
  })

  test('and resumes when the ack of a handler fails', async () => {
    const opened = await openQueue()
    const { queue, files, clock, told } = opened
    const seen: number[] = []
    const run = queue.process((_, { attempt }) => {
      seen.push(attempt)
      if (attempt > 1) return
      clock.advance(20_000)
      files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
      let writes = 0
      files.onOperation(({ operation }) => {
        if (operation === 'write' && writes++ === 0) clock.advance(60_000)
      })
    })
    await queue.enqueue('x')
    while (told.length === 0) await turn()
    // The lease has an end only since the handler ended.
    clock.advance(29_999)
    await turn()
    expect([seen, countsOf(queue)]).toEqual([[1], [0, 0, 1, 0]])
    clock.advance(1)
    while (seen.length === 1) await turn()
    await queue.close()
    await run
    expect(seen).toEqual([1, 2])
  })
})

describe('purge', () => {
  test('leaves nothing to deliver: waiting messages go, and in-flight ones do not come again', async () => {
    const { queue, clock } = await openQueue({ visibilityTimeoutMs: 1000, dedupeWindowMs: 0 })
    await queue.enqueueAll([
      { payload: 'in flight' }, { payload: 'streamed' }, { payload: 'fetched' }, { payload: 'ready', dedupeKey: 'k' },
      { payload: 'delayed', delayMs: 50 },
    ])
    const message = await receiveOne(queue)
    const reader = queue.consume({ prefetch: 2 }).getReader()
    const streamed = (await reader.read()).value
    expect(countsOf(queue)).toEqual([1, 1, 3, 0])
    expect(await queue.purge()).toBe(2)
    expect(countsOf(queue)).toEqual([0, 0, 3, 0])
    expect(await queue.receive({ max: 10 })).toEqual([])
    clock.advance(50)
    expect(await queue.receive({ max: 10 })).toEqual([])
    // Keys of removed messages are free, and later messages are delivered.
    expect(await queue.enqueue('new', { dedupeKey: 'k' })).toBe(6)
    expect((await queue.receive({ max: 10 })).map(({ payload }) => payload)).toEqual(['new'])
    await message.nack({ delayMs: 0 })
    expect(await receiveOne(queue)).toMatchObject({ payload: 'in flight', attempt: 2 })
    await streamed?.ack()
    clock.advance(1000)
    expect((await queue.receive({ max: 10 })).map(({ payload, attempt }) => [payload, attempt])).toEqual([
      ['in flight', 3], ['fetched', 1], ['new', 2],
    ])
    await queue.close()
  })

  test('removes ready and delayed messages, but neither in-flight messages nor dead letters', async () => {
    const opened = await openQueue({ maxAttempts: 1 })
    const { queue } = opened
    await queue.enqueueAll([
      { payload: 'dead' }, { payload: 'in flight' }, { payload: 'ready' }, { payload: 'delayed', delayMs: 50 },
    ])
    await (await receiveOne(queue)).nack()
    const message = await receiveOne(queue)
    expect(await queue.purge()).toBe(2)
    expect(await queue.purge()).toBe(0)
    expect(countsOf(queue)).toEqual([0, 0, 1, 1])
    const again = await reopenKilled(opened, { maxAttempts: 5 })
    expect(countsOf(again.queue)).toEqual([1, 0, 0, 1])
    await message.ack()
    opened.clock.advance(50)
    expect(countsOf(queue)).toEqual([0, 0, 0, 1])
    await Promise.all([queue.close(), again.queue.close()])
  })

  test('does not lose a message that comes back while it is written', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueueAll([{ payload: 'back' }, { payload: 'gone' }])
    await queue.receive()
    const stop = files.onOperation(({ operation }) => operation === 'dataSync' && clock.advance(30_000))
    expect(await queue.purge()).toBe(1)
    stop()
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    expect((await receiveOne(queue)).payload).toBe('back')
    await queue.close()
  })
})

describe('stats', () => {
  test('reports the age of the oldest message, dead letters excluded, and the bytes on the disk', async () => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 1 })
    const bytes = () =>
      files.names(directory)
        .filter((name) => /^journal.jsonl(\.\d+)?$|^snapshot-\d+.json$/.test(name))
        .reduce((sum, name) => sum + files.readFile(`${directory}/${name}`).length, 0)
    expect(queue.stats()).toMatchObject({
      ready: 0, delayed: 0, inFlight: 0, dead: 0, oldestAgeMs: undefined, bytesOnDisk: bytes(),
    })
    await queue.enqueue('a')
    clock.advance(100)
    await queue.enqueue('b', { delayMs: 5 })
    const message = await receiveOne(queue)
    clock.advance(10)
    expect(queue.stats()).toMatchObject({ oldestAgeMs: 110, bytesOnDisk: bytes() })
    await message.nack()
    expect(queue.stats().oldestAgeMs).toBe(10)
    await queue.redrive('all')
    expect(queue.stats().oldestAgeMs).toBe(110)
    clock.jump(-1000)
    expect(queue.stats().oldestAgeMs).toBe(0)
    await queue.compact()
    await queue.enqueue('c')
    await queue.compact()
    expect(queue.stats().bytesOnDisk).toBe(bytes())
    await queue.enqueue('d')
    files.failOn({ operation: 'rename', path: /journal/ }, 'EIO')
    await expect(queue.compact()).rejects.toThrow('EIO')
    expect(queue.stats().bytesOnDisk).toBe(bytes())
    await queue.close()
    const again = await openQueue({ files, clock })
    expect(again.queue.stats().bytesOnDisk).toBe(bytes())
    await again.queue.close()
  })

  test('counts stay right while something is being written', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
    const message = await receiveOne(queue)
    const reached = deferred()
    const seen: unknown[] = []
    const stop = files.onOperation(() => {
      seen.push(countsOf(queue))
      reached.resolve()
    })
    const acked = message.ack()
    await reached.promise
    await acked
    stop()
    expect(seen).toEqual(seen.map(() => [1, 0, 1, 0]))
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await turn()
    await queue.close()
  })
})
