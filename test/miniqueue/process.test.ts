import { AsyncLocalStorage } from 'node:async_hooks'
import { getEventListeners } from 'node:events'
import { join } from 'node:path'

import { describe, expect, onTestFinished, test } from 'vitest'

import { MiniQueue } from '../../src/miniqueue/index.ts'
import { turn } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import {
  codeOf, countsOf, errorOf, heldHandler, journalFile, openQueue, quiet, receiveOne, recordsOf, reopenKilled,
} from './support.ts'

describe('process', () => {
  test('acks a message when its handler resolves, until it is stopped', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
    const controller = new AbortController()
    const seen: unknown[] = []
    await queue.process((payload, { attempt }) => {
      seen.push([payload, attempt])
      if (seen.length === 2) controller.abort()
    }, { signal: controller.signal })
    expect(seen).toEqual([['a', 1], ['b', 1]])
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    expect(recordsOf(files).slice(1)).toEqual([
      { op: 'deliver', ids: [1] },
      { op: 'batch', steps: [{ op: 'ack', ids: [1] }, { op: 'deliver', ids: [2] }] },
      { op: 'ack', ids: [2] },
    ])
    await queue.close()
  })

  test('may run many times on one signal without a leak warning', async () => {
    const { queue } = await openQueue()
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const stop = new AbortController()
    const { signal } = stop
    const runs = Array.from({ length: 12 }, () => queue.process(() => {}, { signal }))
    await quiet()
    expect(getEventListeners(signal, 'abort')).toHaveLength(12)
    stop.abort()
    await Promise.all(runs)
    expect(getEventListeners(signal, 'abort')).toEqual([])
    // Node emits the warning in a later step.
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning)
    expect(warnings).toEqual([])
    await queue.close()
  })

  test('nacks a message when its handler throws, with backoff and reason, until it is a dead letter', async () => {
    const { queue, clock } = await openQueue({ maxAttempts: 2, backoff: { initialMs: 500 } })
    await queue.enqueue('poison')
    const attempts: number[] = []
    const run = queue.process((_, { attempt }) => {
      attempts.push(attempt)
      throw new Error(`no ${attempt}`)
    })
    await quiet()
    expect([attempts, countsOf(queue)]).toEqual([[1], [0, 1, 0, 0]])
    clock.advance(499)
    await quiet()
    expect(attempts).toEqual([1])
    clock.advance(1)
    await quiet()
    expect(attempts).toEqual([1, 2])
    expect(queue.deadLetters()).toMatchObject([{ reason: 'no 2', attempts: 2 }])
    await queue.close()
    await run
  })

  test.each([['a text', 'a text'], [undefined, 'undefined'], [Object.create(null), '[Object: null prototype] {}']])(
    'accepts any thrown value as the reason: %o',
    async (thrown: unknown, reason) => {
      const { queue } = await openQueue({ maxAttempts: 1 })
      await queue.enqueue('x')
      const run = queue.process(() => Promise.reject(thrown))
      await quiet()
      expect(queue.deadLetters()).toMatchObject([{ reason }])
      await queue.close()
      await run
    },
  )

  test('runs up to concurrency handlers at once, fetching for all free ones with one record', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll(['a', 'b', 'c', 'd', 'e'].map((payload) => ({ payload })))
    const held = heldHandler()
    const run = queue.process(held.handler, { concurrency: 3 })
    await held.called(3)
    await quiet()
    expect([held.calls.length, ...countsOf(queue)]).toEqual([3, 2, 0, 3, 0])
    held.calls[1]?.resolve()
    await held.called(4)
    expect(held.calls[3]?.message.payload).toBe('d')
    for (const { resolve } of held.calls) resolve()
    await held.called(5)
    held.calls[4]?.resolve()
    await quiet()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    expect(recordsOf(files).slice(1)).toEqual([
      { op: 'deliver', ids: [1, 2, 3] },
      { op: 'batch', steps: [{ op: 'ack', ids: [2] }, { op: 'deliver', ids: [4] }] },
      { op: 'batch', steps: [{ op: 'ack', ids: [1, 3, 4] }, { op: 'deliver', ids: [5] }] },
      { op: 'ack', ids: [5] },
    ])
    await queue.close()
    await run
  })

  test('acks with one record all messages whose handlers end while another record is written', async () => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 2, dedupeWindowMs: 1000 })
    const messages = ['a', 'b', 'c', 'd', 'e'].map((payload) => ({ payload, ...(payload === 'd' && { dedupeKey: 'k' }) }))
    await queue.enqueueAll(messages)
    const held = heldHandler()
    const run = queue.process(held.handler, { concurrency: 5 })
    await held.called(5)
    held.calls[0]?.resolve()
    const stop = files.onOperation(({ operation }) => {
      if (operation !== 'dataSync') return
      stop()
      held.calls[1]?.resolve()
      held.calls[2]?.reject(new Error('bad'))
      held.calls[3]?.resolve()
      held.calls[4]?.resolve()
    })
    await quiet()
    const records = recordsOf(files).slice(2)
    expect(records[0]).toEqual({ op: 'ack', ids: [1] })
    expect(records.slice(1)).toMatchObject([{
      op: 'batch',
      steps: [{ op: 'ack', ids: [2, 5] }, { op: 'nack', id: 3, reason: 'bad' }, { op: 'ack', ids: [4], keysUntil: clock.wallMs() + 1000 }],
    }])
    expect(countsOf(queue)).toEqual([0, 1, 0, 0])
    await queue.close()
    await run
  })

  test('after a stop, pending acks and nacks are written, and nothing more is delivered', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll(['a', 'b'].map((payload) => ({ payload })))
    const held = heldHandler()
    const controller = new AbortController()
    const run = queue.process(held.handler, { signal: controller.signal })
    await held.called(1)
    const before = queue.enqueue('c')
    held.calls[0]?.resolve()
    await Promise.resolve()
    controller.abort()
    await Promise.all([run, before])
    expect(recordsOf(files).at(-1)).toEqual({ op: 'ack', ids: [1] })
    expect(countsOf(queue)).toEqual([2, 0, 0, 0])
    await queue.close()
  })

  test('stopped while a delivery is written, returns its message and refunds the attempt', async () => {
    const opened = await openQueue()
    const { queue, files } = opened
    await queue.enqueueAll(['a', 'b'].map((payload) => ({ payload })))
    const held = heldHandler()
    const controller = new AbortController()
    const run = queue.process(held.handler, { signal: controller.signal })
    await held.called(1)
    const stop = files.onOperation(({ operation }) => {
      if (operation === 'dataSync') controller.abort()
    })
    held.calls[0]?.resolve()
    await run
    stop()
    expect([held.calls.length, ...countsOf(queue)]).toEqual([1, 1, 0, 0, 0])
    expect(recordsOf(files).slice(-2)).toMatchObject([{ op: 'batch' }, { op: 'return', ids: [2] }])
    // Not closed, like a process that ends on a signal.
    const again = await reopenKilled(opened, { maxAttempts: 1 })
    expect((await receiveOne(again.queue)).attempt).toBe(1)
    await Promise.all([queue.close(), again.queue.close()])
  })

  test('stopped while its first delivery is written, resolves when the attempt is refunded', async () => {
    const opened = await openQueue({ maxAttempts: 1 })
    await opened.queue.enqueue('a')
    const controller = new AbortController()
    const stop = opened.files.onOperation(({ operation }) => operation === 'dataSync' && controller.abort())
    await opened.queue.process(() => expect.unreachable(), { signal: controller.signal })
    stop()
    const killed = await reopenKilled(opened, { maxAttempts: 1 })
    expect(countsOf(killed.queue)).toEqual([1, 0, 0, 0])
    await Promise.all([opened.queue.close(), killed.queue.close()])
  })

  test('acks in quick succession deliver as many messages as they ack', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll(Array.from({ length: 3500 }, (_, n) => ({ payload: String(n) })))
    const gates = [deferred(), deferred()]
    const controller = new AbortController()
    let calls = 0
    const run = queue.process(async () => {
      const gate = gates[Math.floor(calls++ / 1500)]
      if (calls === 3500) controller.abort()
      await gate?.promise
    }, { concurrency: 1500, signal: controller.signal })
    await quiet()
    // More messages than one record can ack.
    for (const { resolve } of gates) {
      resolve()
      await quiet()
    }
    await run
    expect(calls).toBe(3500)
    expect(recordsOf(files).filter(({ op }) => op === 'deliver')).toHaveLength(1)
    await queue.close()
  })

  test('a message nacked without a delay comes again in its old place', async () => {
    const { queue } = await openQueue({ backoff: { initialMs: 0 } })
    await queue.enqueueAll(['a', 'b'].map((payload) => ({ payload })))
    const controller = new AbortController()
    const seen: string[] = []
    await queue.process((payload, { attempt }) => {
      seen.push(`${payload}${attempt}`)
      if (payload === 'b') controller.abort()
      else if (attempt < 3) throw new Error('again')
    }, { signal: controller.signal })
    expect(seen).toEqual(['a1', 'a2', 'a3', 'b1'])
    await queue.close()
  })

  test('a handler that stops it is the last one to begin', async () => {
    const opened = await openQueue()
    const { queue, files } = opened
    await queue.enqueueAll(['a', 'b', 'c'].map((payload) => ({ payload })))
    const controller = new AbortController()
    const seen: string[] = []
    await queue.process((payload) => {
      seen.push(payload)
      controller.abort()
    }, { concurrency: 2, signal: controller.signal })
    expect([seen, ...countsOf(queue)]).toEqual([['a'], 2, 0, 0, 0])
    expect(recordsOf(files).slice(2)).toMatchObject([{ op: 'return', ids: [2] }, { op: 'ack', ids: [1] }])
    await queue.close()
  })

  test('a handler that closes the queue is the last one to begin', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueueAll(['a', 'b'].map((payload) => ({ payload })))
    const seen: string[] = []
    const closing: Array<Promise<void>> = []
    await queue.process((payload) => {
      seen.push(payload)
      closing.push(queue.close())
    }, { concurrency: 2 })
    await Promise.all(closing)
    expect(seen).toEqual(['a'])
    const again = await openQueue({ files, clock, maxAttempts: 1 })
    expect((await receiveOne(again.queue)).payload).toBe('b')
    await again.queue.close()
  })

  test('a handler runs in the context of the call, not in that of the handler before it', async () => {
    const { queue } = await openQueue()
    await queue.enqueueAll(['a', 'b', 'c'].map((payload) => ({ payload })))
    const context = new AsyncLocalStorage<string>()
    const controller = new AbortController()
    const seen: unknown[] = []
    await context.run('call', () => queue.process(async (payload) => {
      seen.push(context.getStore())
      context.enterWith(payload)
      await turn()
      if (seen.length === 3) controller.abort()
    }, { signal: controller.signal }))
    expect(seen).toEqual(['call', 'call', 'call'])
    await queue.close()
  })

  test('leaves ready messages to calls that have waited longer', async () => {
    // A real disk takes time: calls made meanwhile have their turn before waiting calls are told
    // that messages are ready.
    await using queue = await MiniQueue.open<string>(join(await temporaryDirectory(), 'jobs'))
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b', priority: -1 }])
    const held = heldHandler()
    const controller = new AbortController()
    const run = queue.process(held.handler, { concurrency: 2, signal: controller.signal })
    await held.called(2)
    const waiting = queue.receive({ waitMs: 60_000 })
    await turn()
    const nacked = held.calls[0]?.message.nack({ delayMs: 0 })
    held.calls[1]?.resolve()
    const [message] = await waiting
    expect(message).toMatchObject({ payload: 'a', attempt: 2 })
    await Promise.all([nacked, message?.ack()])
    held.calls[0]?.resolve()
    controller.abort()
    await run
    expect(held.calls.length).toBe(2)
  })

  test('fetches for all handlers that have become free while it waited', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('a')
    const held = heldHandler()
    const run = queue.process(held.handler, { concurrency: 2 })
    await held.called(1)
    held.calls[0]?.resolve()
    await quiet()
    await queue.enqueueAll([{ payload: 'b' }, { payload: 'c' }])
    await held.called(3)
    expect(recordsOf(files).at(-1)).toMatchObject({ op: 'batch', steps: [{ op: 'enqueue' }, { op: 'deliver', ids: [2, 3] }] })
    for (const { resolve } of held.calls) resolve()
    await quiet()
    await queue.close()
    await run
  })

  test('when a lease is lost the signal fires, and the outcome of the handler is ignored', async () => {
    const { queue, clock, told } = await openQueue({ maxAttempts: 3 })
    await queue.enqueue('slow')
    const held = heldHandler()
    const run = queue.process(held.handler, { concurrency: 2, handlerTimeoutMs: 30_000 })
    await held.called(1)
    const signal = held.calls[0]?.message.signal
    clock.advance(30_000)
    expect(signal?.reason).toMatchObject({ code: 'ERR_MINISTORE_LEASE_LOST' })
    await held.called(2)
    expect(held.calls[1]?.message.attempt).toBe(2)
    held.calls[0]?.reject(new Error('too late'))
    held.calls[1]?.resolve()
    await quiet()
    expect([told, countsOf(queue)]).toEqual([[], [0, 0, 0, 0]])
    await queue.close()
    await run
  })

  test('a handler may ack its message itself', async () => {
    const { queue, told } = await openQueue()
    await queue.enqueueAll([{ payload: 'ack' }, { payload: 'nack' }])
    const run = queue.process(async (payload, message) => {
      if (payload === 'ack') await message.ack()
      else await message.nack({ delayMs: 1000 })
      throw new Error('it is acked already')
    })
    await quiet()
    expect([told, countsOf(queue)]).toEqual([[], [0, 1, 0, 0]])
    await queue.close()
    await run
  })

  test('does nothing if stopped before it begins', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('x')
    await queue.process(() => expect.unreachable(), { signal: AbortSignal.abort() })
    expect(recordsOf(files)).toHaveLength(1)
    await queue.close()
  })

  test('an ack that fails is reported, and the message comes again when its lease ends', async () => {
    const { queue, files, clock, told } = await openQueue()
    await queue.enqueue('x')
    const held = heldHandler()
    const run = queue.process(held.handler)
    await held.called(1)
    const full = files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
    held.calls[0]?.resolve()
    await quiet()
    expect([full.hits, told]).toMatchObject([1, [{ code: 'ERR_MINISTORE_IO' }]])
    expect(countsOf(queue)).toEqual([0, 0, 1, 0])
    clock.advance(30_000)
    await held.called(2)
    held.calls[1]?.resolve()
    await quiet()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
    await run
  })

  test('acks that fail together are reported once, and all messages come again', async () => {
    const { queue, files, clock, told } = await openQueue()
    await queue.enqueueAll(['a', 'b', 'c'].map((payload) => ({ payload })))
    const held = heldHandler()
    const run = queue.process(held.handler, { concurrency: 3 })
    await held.called(3)
    const full = files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
    for (const { resolve } of held.calls) resolve()
    await quiet()
    expect([full.hits, told]).toMatchObject([1, [{ code: 'ERR_MINISTORE_IO' }]])
    expect(countsOf(queue)).toEqual([0, 0, 3, 0])
    clock.advance(30_000)
    await held.called(6)
    expect(held.calls.slice(3).map(({ message }) => [message.payload, message.attempt])).toEqual([['a', 2], ['b', 2], ['c', 2]])
    for (const { resolve } of held.calls) resolve()
    await quiet()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
    await run
  })

  test('more than a thousand handlers that end together need more than one record', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll(Array.from({ length: 2500 }, (_, n) => ({ payload: `${n}` })))
    const run = queue.process(() => {}, { concurrency: 2500 })
    await quiet()
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    const acks = recordsOf(files).filter(({ op }) => op === 'ack')
    expect(acks.map(({ ids }) => (ids as number[]).length)).toEqual([1000, 1000, 500])
    await queue.close()
    await run
  })

  test('rejects when a delivery cannot be written, after its running handlers have ended', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b', priority: 1 }])
    const held = heldHandler()
    let isOver = false
    const other = await receiveOne(queue)
    const run = errorOf(queue.process(held.handler, { concurrency: 2 })).finally(() => (isOver = true))
    await held.called(1)
    const full = files.failOn({ operation: 'write', path: journalFile, nth: 2 }, 'ENOSPC')
    await other.nack({ delayMs: 0 })
    await quiet()
    expect([full.hits, isOver, held.calls[0]?.message.signal.aborted]).toEqual([1, false, true])
    held.calls[0]?.resolve()
    expect((await run).code).toBe('ERR_MINISTORE_IO')
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    await queue.close()
  })

  test('rejects once the queue can no longer write, waiting or not', async () => {
    const { queue, files } = await openQueue()
    const waiting = codeOf(queue.process(() => expect.unreachable()))
    await quiet()
    const failed = files.failOn({ operation: 'dataSync' }, 'EIO')
    expect(await codeOf(queue.enqueue('x'))).toBe('ERR_MINISTORE_OUTCOME_UNKNOWN')
    expect(failed.hits).toBe(1)
    expect(await waiting).toBe('ERR_MINISTORE_POISONED')
    expect(await codeOf(queue.process(() => expect.unreachable()))).toBe('ERR_MINISTORE_POISONED')
    await queue.close()
  })

  test('rejects when the ack of a handler poisons the queue', async () => {
    const { queue, files, told } = await openQueue()
    await queue.enqueue('x')
    const held = heldHandler()
    const run = codeOf(queue.process(held.handler))
    await held.called(1)
    files.failOn({ operation: 'dataSync' }, 'EIO')
    held.calls[0]?.resolve()
    expect(await run).toMatch(/^ERR_MINISTORE_(OUTCOME_UNKNOWN|POISONED)$/)
    expect(told).toEqual([])
    await queue.close()
  })

  test.each([[{ concurrency: 0 }, RangeError], [{ prefetch: 2 }, TypeError], [{ signal: 'stop' }, TypeError]])(
    'refuses invalid options: %o',
    async (options, error) => {
      const { queue } = await openQueue()
      await expect(queue.process(() => {}, options as object)).rejects.toThrow(error)
      await expect(queue.process('handler' as never)).rejects.toThrow('Expected a handler, got `"handler"` (string)')
      await queue.close()
    },
  )
})

test('many runs, receives and streams on one signal do not leak, and remove their listeners', async () => {
  const { queue } = await openQueue()
  const warnings: Error[] = []
  const warn = (warning: Error): void => void warnings.push(warning)
  process.on('warning', warn)
  onTestFinished(() => void process.off('warning', warn))
  const controller = new AbortController()
  const { signal } = controller
  const uses: Array<Promise<unknown>> = []
  for (let n = 0; n < 12; n++) {
    uses.push(queue.process(() => {}, { signal }))
    uses.push(queue.receive({ waitMs: 1000, signal }))
    uses.push(queue.consume({ signal }).getReader().read())
  }
  await turn()
  expect(getEventListeners(signal, 'abort').length).toBeGreaterThanOrEqual(36)
  controller.abort()
  await Promise.allSettled(uses)
  expect([warnings, getEventListeners(signal, 'abort')]).toEqual([[], []])
  await queue.close()
})
