import { describe, expect, test } from 'vitest'

import type { Message } from '../../src/miniqueue/index.ts'
import { turn } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'
import { codeOf, countsOf, journalFile, openQueue, receiveOne, recordsOf, reopenKilled, type TestQueue } from './support.ts'

// The deliveries of these messages are written, but no caller receives them. With one attempt
// allowed, the messages would become dead letters without being seen.
const maxAttempts = 1

async function openWith(payloads: readonly string[]): Promise<TestQueue> {
  const opened = await openQueue({ maxAttempts })
  await opened.queue.enqueueAll(payloads.map((payload) => ({ payload })))
  return opened
}

/** Expects a reopened queue to deliver these payloads, each in its first attempt. */
async function expectFresh(opened: TestQueue, payloads: readonly string[]): Promise<void> {
  const { queue } = await openQueue({ maxAttempts, files: opened.files, clock: opened.clock })
  const messages = await queue.receive({ max: 10 })
  expect(messages.map(({ payload, attempt }) => [payload, attempt])).toEqual(payloads.map((payload) => [payload, 1]))
  expect(queue.stats().dead).toBe(0)
  await Promise.all(messages.map((message) => message.ack()))
  await queue.close()
}

describe('attempts of messages that were never handed out are refunded', () => {
  test('when the stream that prefetched them is left', async () => {
    const opened = await openWith(['a', 'b', 'c'])
    for await (const message of opened.queue.consume({ prefetch: 3 })) {
      await message.ack()
      break
    }
    await opened.queue.close()
    expect(recordsOf(opened.files).at(-1)).toEqual({ op: 'return', ids: [2, 3] })
    await expectFresh(opened, ['b', 'c'])
  })

  test('when the queue closes before their stream is read further', async () => {
    const opened = await openWith(['a', 'b', 'c'])
    const reader = opened.queue.consume({ prefetch: 3 }).getReader()
    const { value } = await reader.read()
    await value?.ack()
    await opened.queue.close()
    expect(recordsOf(opened.files).at(-1)).toEqual({ op: 'return', ids: [2, 3] })
    await expectFresh(opened, ['b', 'c'])
    expect(await reader.read()).toEqual({ done: true, value: undefined })
  })

  test('when the receive call is aborted during the delivery', async () => {
    const opened = await openWith(['a'])
    const controller = new AbortController()
    const stop = opened.files.onOperation(({ operation }) => operation === 'dataSync' && controller.abort(new Error('late')))
    await expect(opened.queue.receive({ signal: controller.signal })).rejects.toThrow('late')
    stop()
    await opened.queue.close()
    await expectFresh(opened, ['a'])
  })

  test('when the queue is closed during the delivery', async () => {
    const opened = await openWith(['a'])
    const received = opened.queue.receive()
    await opened.queue.close()
    expect(await received).toEqual([])
    await expectFresh(opened, ['a'])
  })

  test('when the lease ends before the message is handed out', async () => {
    const opened = await openWith(['a', 'b'])
    const reader = opened.queue.consume({ prefetch: 2 }).getReader()
    const { value } = await reader.read()
    await value?.ack()
    opened.clock.advance(30_000)
    expect(countsOf(opened.queue)).toEqual([1, 0, 0, 0])
    await opened.queue.close()
    await expectFresh(opened, ['b'])
  })

  test('but not those of messages that were handed out, once or again', async () => {
    const opened = await openWith(['a', 'b', 'c'])
    for await (const message of opened.queue.consume({ prefetch: 3 })) {
      expect(message.payload).toBe('a')
      break
    }
    expect((await receiveOne(opened.queue)).payload).toBe('b')
    await opened.queue.close()
    expect(recordsOf(opened.files).slice(-2)).toEqual([{ op: 'return', ids: [2, 3] }, { op: 'deliver', ids: [2] }])
    const { queue } = await openQueue({ maxAttempts, files: opened.files, clock: opened.clock })
    expect(queue.deadLetters().map(({ payload, attempts }) => [payload, attempts])).toEqual([['a', 1], ['b', 1]])
    expect(countsOf(queue)).toEqual([1, 0, 0, 2])
    await queue.close()
  })
})

test('closing writes nothing when there are no such messages', async () => {
  const { queue, files } = await openWith(['a'])
  await (await receiveOne(queue)).ack()
  const records = recordsOf(files).length
  await queue.close()
  expect(recordsOf(files)).toHaveLength(records)
})

describe('an attempt is refunded once', () => {
  /** A message's second attempt is prefetched in an unread stream; its first was handed out. */
  async function withUnread(): Promise<TestQueue & { readonly reader: ReadableStreamDefaultReader<Message<string>> }> {
    const opened = await openQueue({ maxAttempts: 3 })
    const { queue } = opened
    await queue.enqueueAll([{ payload: 'first', priority: 1 }, { payload: 'unread' }])
    const messages = await queue.receive({ max: 2 })
    await Promise.all(messages.map((message) => message.nack({ delayMs: 0 })))
    const reader = queue.consume({ prefetch: 2 }).getReader()
    await (await reader.read()).value?.ack()
    return { ...opened, reader }
  }

  /** Expects attempt 2 to be the next one after the close. */
  async function expectSecond({ files, clock }: TestQueue): Promise<void> {
    expect(recordsOf(files).filter(({ op }) => op === 'return')).toEqual([{ op: 'return', ids: [2] }])
    const { queue } = await openQueue({ files, clock })
    expect(await receiveOne(queue)).toMatchObject({ payload: 'unread', attempt: 2 })
    await queue.close()
  }

  /** Closes the queue while one of its handlers runs until the test ends it. */
  async function closeWithHandler(opened: TestQueue, meanwhile: () => Promise<unknown>): Promise<void> {
    const { queue } = opened
    const held = deferred()
    const runs = [
      queue.process((_, message) => {
        message.extend(1_000_000)
        return held.promise
      }),
      queue.process(() => {}),
    ]
    await turn()
    await queue.enqueue('held')
    await turn()
    const closed = queue.close()
    await turn()
    await meanwhile()
    await turn()
    held.resolve()
    await Promise.all([...runs, closed])
  }

  test('when streams and handlers end with the queue', async () => {
    const opened = await withUnread()
    const runs = [opened.queue.process(() => {}), opened.queue.process(() => {})]
    await turn()
    await opened.queue.close()
    await Promise.all(runs)
    await expectSecond(opened)
  })

  test('when its stream is read while the queue closes', async () => {
    const opened = await withUnread()
    await closeWithHandler(opened, () => opened.reader.read())
    await expectSecond(opened)
  })

  test('when its lease ends while the queue closes', async () => {
    const opened = await withUnread()
    await closeWithHandler(opened, async () => opened.clock.advance(30_000))
    await expectSecond(opened)
  })

  test('when a signal listener also closes the queue', async () => {
    const opened = await withUnread()
    const { queue } = opened
    await queue.enqueue('other')
    const message = await receiveOne(queue)
    const closings: Array<Promise<void>> = []
    const refused: Array<Promise<string>> = []
    message.signal.addEventListener('abort', () => {
      closings.push(queue.close())
      refused.push(codeOf(queue.enqueue('x')))
    })
    const closing = queue.close()
    expect(closings).toEqual([closing])
    expect(closings[0]).toBe(closing)
    await closing
    expect(await Promise.all(refused)).toEqual(['ERR_MINISTORE_CLOSED'])
    await expectSecond(opened)
  })
})

test('the attempt of a message purged before the refund is not refunded', async () => {
  const opened = await openWith(['a', 'b', 'c'])
  const calls: Array<Promise<number>> = []
  for await (const message of opened.queue.consume({ prefetch: 3 })) {
    await message.nack()
    // The turns of these calls come before the return.
    calls.push(opened.queue.enqueue('d'), opened.queue.purge())
    break
  }
  expect(await Promise.all(calls)).toEqual([4, 3])
  await opened.queue.close()
  expect(recordsOf(opened.files).map(({ op }) => op)).toEqual(['enqueue', 'deliver', 'bury', 'enqueue', 'purge'])
})

test('on a full disk the failure is reported; the next delivery reuses the written attempt, after a restart it counts one more', async () => {
  const opened = await openWith(['a', 'b'])
  let full: { readonly hits: number } | undefined
  for await (const message of opened.queue.consume({ prefetch: 2 })) {
    await message.ack()
    full = opened.files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
    break
  }
  await turn()
  expect([full?.hits, opened.told]).toMatchObject([1, [{ code: 'ERR_MINISTORE_IO' }]])
  const killed = await reopenKilled(opened, { maxAttempts: 2 })
  expect((await receiveOne(killed.queue)).attempt).toBe(2)
  expect((await receiveOne(opened.queue)).attempt).toBe(1)
  await Promise.all([opened.queue.close(), killed.queue.close()])
})

test('on a full disk the queue still closes, reports the failure, and the attempts count', async () => {
  const opened = await openWith(['a', 'b'])
  const reader = opened.queue.consume({ prefetch: 2 }).getReader()
  await (await reader.read()).value?.ack()
  const full = opened.files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
  await opened.queue.close()
  expect([full.hits, opened.told]).toMatchObject([1, [{ code: 'ERR_MINISTORE_IO' }]])
  const { queue } = await openQueue({ maxAttempts: 2, files: opened.files, clock: opened.clock })
  expect((await receiveOne(queue)).attempt).toBe(2)
  await queue.close()
})

test('a failed fsync of the return is reported, and the queue is closed', async () => {
  const opened = await openWith(['a'])
  const controller = new AbortController()
  const stop = opened.files.onOperation(({ operation }) => operation === 'dataSync' && controller.abort())
  await opened.queue.receive({ signal: controller.signal }).catch(() => {})
  stop()
  opened.files.failOn({ operation: 'dataSync' }, 'EIO')
  await opened.queue.close()
  expect(opened.told).toMatchObject([{ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' }])
  expect(opened.clock.timers).toBe(0)
})

test('after a kill, attempts of messages in a stream are not refunded', async () => {
  const opened = await openWith(['a', 'b'])
  const reader = opened.queue.consume({ prefetch: 2 }).getReader()
  const { value } = await reader.read()
  await value?.ack()
  const again = await reopenKilled(opened, { maxAttempts: 2 })
  expect((await receiveOne(again.queue)).attempt).toBe(2)
  await Promise.all([opened.queue.close(), again.queue.close()])
})
