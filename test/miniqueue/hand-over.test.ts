import { describe, expect, test } from 'vitest'

import type { Message } from '../../src/miniqueue/index.ts'
import { turn } from '../support/consume.ts'
import {
  codeOf, countsOf, journalFile, openQueue, receiveOne, recordsOf, type TestQueue,
} from './support.ts'

const wait = { waitMs: 1000 }

function told(messages: ReadonlyArray<Message<string>>): Array<[payload: string, attempt: number]> {
  return messages.map(({ payload, attempt }) => [payload, attempt])
}

/** A receive call that is aborted as soon as its delivery is being written. */
function impatient({ queue, files }: TestQueue): { readonly left: () => Promise<void> } {
  const controller = new AbortController()
  const waiting = queue.receive({ ...wait, signal: controller.signal })
  const reason = waiting.then(() => expect.unreachable('it was expected to reject'), (error: unknown) => error)
  const stop = files.onOperation(({ operation }) => operation === 'dataSync' && controller.abort(new Error('gone')))
  return {
    left: async () => {
      stop()
      expect(await reason).toMatchObject({ message: 'gone' })
    },
  }
}

describe('a message for a waiting call', () => {
  test('is delivered with the record that enqueues it', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive(wait)
    await turn()
    expect(await queue.enqueue('x')).toBe(1)
    expect(told(await waiting)).toEqual([['x', 1]])
    expect(recordsOf(files)).toMatchObject([
      { op: 'batch', steps: [{ op: 'enqueue', messages: [{ payload: 'x' }] }, { op: 'deliver', ids: [1] }] },
    ])
    expect(countsOf(queue)).toEqual([0, 0, 1, 0])
    await queue.close()
    const again = await openQueue({ files })
    expect((await receiveOne(again.queue)).attempt).toBe(2)
    await again.queue.close()
  })

  test('is durable before it is handed out', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive(wait)
    await turn()
    const failed = files.failOn({ operation: 'dataSync' }, 'EIO')
    expect(await codeOf(queue.enqueue('x'))).toBe('ERR_MINISTORE_OUTCOME_UNKNOWN')
    expect(failed.hits).toBe(1)
    expect(await codeOf(waiting)).toBe('ERR_MINISTORE_POISONED')
    await queue.close()
  })

  test('is chosen by priority and place when several are enqueued', async () => {
    const { queue, files } = await openQueue()
    const waiting = [queue.receive({ ...wait, max: 2 }), queue.receive(wait)]
    await turn()
    const ids = await queue.enqueueAll([
      { payload: 'a' }, { payload: 'b', priority: 1 }, { payload: 'later', priority: 9, delayMs: 1000 },
      { payload: 'c' }, { payload: 'd', priority: 1 },
    ])
    expect(ids).toEqual([1, 2, 3, 4, 5])
    expect((await Promise.all(waiting)).map(told)).toEqual([[['b', 1], ['d', 1]], [['a', 1]]])
    expect(recordsOf(files)).toMatchObject([{ steps: [{ op: 'enqueue' }, { op: 'deliver', ids: [2, 5, 1] }] }])
    expect(countsOf(queue)).toEqual([1, 1, 3, 0])
    expect((await receiveOne(queue)).payload).toBe('c')
    await queue.close()
  })

  test('that cannot be written leaves the call waiting', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive(wait)
    await turn()
    const full = files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC')
    expect(await codeOf(queue.enqueue('a'))).toBe('ERR_MINISTORE_IO')
    expect([full.hits, ...countsOf(queue)]).toEqual([1, 0, 0, 0, 0])
    await queue.enqueue('b')
    expect(told(await waiting)).toEqual([['b', 1]])
    await queue.close()
  })

  test('becomes ready if the call has left meanwhile, and its attempt is refunded', async () => {
    const opened = await openQueue()
    const { queue, files } = opened
    const gone = impatient(opened)
    await turn()
    await queue.enqueue('x')
    await gone.left()
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    expect((await receiveOne(queue)).attempt).toBe(1)
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['batch', 'return', 'deliver'])
    await queue.close()
  })

  test('goes to the next waiting call if the first has left meanwhile', async () => {
    const opened = await openQueue()
    const gone = impatient(opened)
    const next = opened.queue.receive(wait)
    await turn()
    await opened.queue.enqueue('x')
    await gone.left()
    expect(told(await next)).toEqual([['x', 1]])
    expect(recordsOf(opened.files)).toHaveLength(1)
    await opened.queue.close()
  })

  test('stays in the queue without an attempt when the queue is closed during its write', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive(wait)
    await turn()
    const enqueued = queue.enqueue('x')
    const closed = queue.close()
    expect(await waiting).toEqual([])
    expect(await enqueued).toBe(1)
    await closed
    const again = await openQueue({ files, maxAttempts: 1 })
    expect((await receiveOne(again.queue)).attempt).toBe(1)
    await again.queue.close()
  })

  test('waits its turn behind ready messages', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueue('first', { delayMs: 500 })
    const waiting = queue.receive(wait)
    await turn()
    // The first message is due, but no call has promoted it since.
    clock.jump(500)
    await queue.enqueue('second')
    expect(told(await waiting)).toEqual([['first', 1]])
    expect((await receiveOne(queue)).payload).toBe('second')
    await queue.close()
  })

  test('has its own record when it is long', async () => {
    const { queue, files } = await openQueue({ maxPayloadBytes: 2 ** 21 })
    const waiting = queue.receive(wait)
    await turn()
    await queue.enqueue('x'.repeat(2 ** 20))
    expect((await waiting).length).toBe(1)
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['enqueue', 'deliver'])
    await queue.close()
  })

  test('has its own record when there are many with long keys', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive({ ...wait, max: 2000 })
    await turn()
    await queue.enqueueAll(Array.from({ length: 1100 }, (_, n) => ({ payload: '', dedupeKey: String(n).padStart(1000) })))
    expect((await waiting).length).toBe(1100)
    expect(recordsOf(files).map(({ op }) => op)).toEqual(['enqueue', 'deliver'])
    await queue.close()
  })

  test('is not enqueued twice for a key that is taken', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive({ ...wait, max: 5 })
    await turn()
    expect(await queue.enqueueAll([{ payload: 'a', dedupeKey: 'k' }, { payload: 'b', dedupeKey: 'k' }, { payload: 'c' }]))
      .toEqual([1, 1, 2])
    expect(told(await waiting)).toEqual([['a', 1], ['c', 1]])
    expect(recordsOf(files)).toHaveLength(1)
    await queue.close()
  })
})

test('a waiting call is served before a call that arrives when a message is ready', async () => {
  const { queue } = await openQueue()
  await queue.enqueue('x')
  const message = await receiveOne(queue)
  const first = queue.receive(wait)
  await turn()
  const nacked = message.nack({ delayMs: 0 })
  expect(await queue.receive()).toEqual([])
  expect(told(await first)).toEqual([['x', 2]])
  await nacked
  await queue.close()
})
