import { describe, expect, test } from 'vitest'

import { type BackoffFunction, type NackOptions, PermanentFailure } from '../../src/miniqueue/index.ts'
import { codeOf, countsOf, heldHandler, journalFile, openQueue, quiet, receiveOne, recordsOf } from './support.ts'

const hourMs = 3_600_000

describe('a handler keeps its message', () => {
  test('for as long as it runs, also when the event loop is blocked', async () => {
    const { queue, clock } = await openQueue({ maxAttempts: 1 })
    await queue.enqueue('slow')
    const held = heldHandler()
    const run = queue.process(held.handler)
    await held.called(1)
    const { message } = held.calls[0] ?? expect.unreachable()
    // Both clocks go on, and no timer rings in between.
    clock.advance(hourMs)
    expect([message.signal.aborted, message.leaseEndsInMs, countsOf(queue)]).toEqual([false, Infinity, [0, 0, 1, 0]])
    expect(queue.stats().oldestInFlightMs).toBe(hourMs)
    message.extend(5)
    clock.advance(hourMs)
    held.calls[0]?.resolve()
    await quiet()
    expect([...countsOf(queue), queue.stats().oldestInFlightMs]).toEqual([0, 0, 0, 0, undefined])
    await queue.close()
    await run
    expect(clock.timers).toBe(0)
  })

  test('until `handlerTimeoutMs`: then its signal fires and the message comes again, its attempt used up', async () => {
    const { queue, clock } = await openQueue({ maxAttempts: 2 })
    await queue.enqueue('slow')
    const held = heldHandler()
    const run = queue.process(held.handler, { concurrency: 2, handlerTimeoutMs: hourMs })
    await held.called(1)
    expect(held.calls[0]?.message.leaseEndsInMs).toBe(hourMs)
    clock.advance(hourMs - 1)
    expect(held.calls[0]?.message.signal.aborted).toBe(false)
    clock.advance(1)
    expect(held.calls[0]?.message.signal.reason).toMatchObject({ code: 'ERR_MINISTORE_LEASE_LOST' })
    await held.called(2)
    expect(held.calls[1]?.message.attempt).toBe(2)
    clock.advance(hourMs)
    await quiet()
    expect(queue.deadLetters()).toMatchObject([{ attempts: 2, reason: 'its lease ended in the last attempt' }])
    for (const { resolve } of held.calls) resolve()
    await queue.close()
    await run
  })

  test('and can extend its time', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('slow')
    const held = heldHandler()
    const run = queue.process(held.handler, { handlerTimeoutMs: 1000 })
    await held.called(1)
    const { message } = held.calls[0] ?? expect.unreachable()
    clock.advance(999)
    message.extend(1000)
    clock.advance(999)
    expect([message.signal.aborted, message.leaseEndsInMs]).toEqual([false, 1])
    held.calls[0]?.resolve()
    await quiet()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
    await run
  })

  test('but no longer than it runs: if the ack that it did not wait for fails, the message comes again', async () => {
    const { queue, clock, files } = await openQueue()
    await queue.enqueue('x')
    const refused: string[] = []
    const attempts: number[] = []
    const run = queue.process((_, message) => {
      attempts.push(message.attempt)
      if (message.attempt > 1) return
      files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
      void codeOf(message.ack()).then((code) => refused.push(code))
    })
    await quiet()
    expect([refused, attempts, countsOf(queue)]).toEqual([['ERR_MINISTORE_IO'], [1], [0, 0, 1, 0]])
    clock.advance(30_000)
    await quiet()
    expect([attempts, countsOf(queue)]).toEqual([[1, 2], [0, 0, 0, 0]])
    await queue.close()
    await run
  })

  test('but no longer than it runs: if its backoff throws, the message comes again', async () => {
    const backoff = (): number => {
      throw new Error('no backoff')
    }
    const { queue, clock, told } = await openQueue({ backoff })
    await queue.enqueue('x')
    const attempts: number[] = []
    const run = queue.process((_, { attempt }) => {
      attempts.push(attempt)
      if (attempt === 1) throw new Error('bad')
    })
    await quiet()
    clock.advance(29_999)
    await quiet()
    expect([attempts, told]).toMatchObject([[1], [{ message: 'no backoff' }]])
    clock.advance(1)
    await quiet()
    expect(attempts).toEqual([1, 2])
    await queue.close()
    await run
  })

  test.each<[object, typeof TypeError]>([
    [{ handlerTimeoutMs: 0 }, RangeError], [{ handlerTimeoutMs: '1 h' }, TypeError], [{ drainMs: -1 }, RangeError],
  ])('invalid options are refused: %o', async (options, error) => {
    const { queue } = await openQueue()
    await expect(queue.process(() => {}, options)).rejects.toThrow(error)
    await queue.close()
  })
})

describe('a message becomes a dead letter at once', () => {
  /** One that looks like a PermanentFailure of another copy of the library. */
  const foreign = Object.assign(new Error('other copy'), { [Symbol.for('@mini-ts/ministore.PermanentFailure')]: true })

  test.each([[new PermanentFailure('no such address', { cause: 5 }), 'no such address'], [foreign, 'other copy']])(
    'when its handler throws a PermanentFailure: %o',
    async (thrown, reason) => {
      const { queue, files } = await openQueue()
      await queue.enqueueAll([{ payload: 'bad' }, { payload: 'good' }])
      const controller = new AbortController()
      await queue.process((payload) => {
        if (payload === 'bad') throw thrown
        controller.abort()
      }, { signal: controller.signal })
      expect(queue.deadLetters()).toMatchObject([{ id: 1, attempts: 1, reason }])
      // The burial makes room for the next message with the same write, as every end of a handler does.
      expect(recordsOf(files)[2]).toMatchObject({ op: 'batch', steps: [{ op: 'bury', ids: [1], reason }, { op: 'deliver', ids: [2] }] })
      await queue.close()
    },
  )

  test('a PermanentFailure is an error with a name, a reason and a cause', () => {
    const failure = new PermanentFailure('why', { cause: 'because' })
    expect(failure).toBeInstanceOf(Error)
    expect([failure.name, failure.message, failure.cause, String(failure)]).toEqual([
      'PermanentFailure', 'why', 'because', 'PermanentFailure: why',
    ])
  })

  test.each<[NackOptions, string]>([
    [{ dead: true, reason: 'no use' }, 'no use'], [{ dead: true }, 'nacked without a reason'],
    [{ dead: true, reason: 'x'.repeat(2000) }, 'x'.repeat(1000)],
  ])('when it is nacked as dead: %o', async (options, reason) => {
    const { queue } = await openQueue()
    await queue.enqueue('bad', { dedupeKey: 'k' })
    await (await receiveOne(queue)).nack(options)
    expect(queue.deadLetters()).toMatchObject([{ attempts: 1, reason }])
    expect(await queue.enqueue('again', { dedupeKey: 'k' })).toBe(2)
    await queue.close()
  })

  test('but not when it is nacked with `dead: false`', async () => {
    const { queue } = await openQueue()
    await queue.enqueue('bad')
    await (await receiveOne(queue)).nack({ dead: false, delayMs: 5 })
    expect(countsOf(queue)).toEqual([0, 1, 0, 0])
    await queue.close()
  })

  test('when `backoff` answers "dead"', async () => {
    const backoff: BackoffFunction = (attempt) => (attempt === 2 ? 'dead' : 0)
    const { queue } = await openQueue({ backoff })
    await queue.enqueue('bad')
    await (await receiveOne(queue)).nack()
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await (await receiveOne(queue)).nack({ reason: 'twice' })
    expect(queue.deadLetters()).toMatchObject([{ attempts: 2, reason: 'twice' }])
    // A delay of the caller's own asks no backoff.
    await queue.redrive('all')
    for (const delayMs of [0, 0]) await (await receiveOne(queue)).nack({ delayMs })
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await queue.close()
  })

  test.each<[object, string]>([
    [{ dead: true, delayMs: 5 }, 'Expected `delayMs` or `dead`, got both'], [{ dead: 'yes' }, '`dead` to be true or false'],
  ])('invalid options of nack are refused, and the lease goes on: %o', async (options, message) => {
    const { queue } = await openQueue()
    await queue.enqueue('x')
    const received = await receiveOne(queue)
    await expect(received.nack(options)).rejects.toThrow(message)
    await received.ack()
    await queue.close()
  })
})
