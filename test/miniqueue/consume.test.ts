import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { getEventListeners, once } from 'node:events'
import { Readable } from 'node:stream'

import { describe, expect, onTestFinished, test } from 'vitest'

import type { Message, MiniQueue } from '../../src/miniqueue/index.ts'
import { turn } from '../support/consume.ts'
import { codeOf, countsOf, openQueue, receiveOne, recordsOf, type TestQueue } from './support.ts'

async function openWith(payloads: readonly string[], options: Parameters<typeof openQueue>[0] = {}): Promise<TestQueue> {
  const opened = await openQueue(options)
  await opened.queue.enqueueAll(payloads.map((payload) => ({ payload })))
  return opened
}

function opsOf({ files }: TestQueue): string[] {
  return recordsOf(files).map(({ op }) => op)
}

describe('consume', () => {
  test('delivers ready and new messages in order, each with a lease', async () => {
    const { queue } = await openWith(['a', 'b'])
    const seen: string[] = []
    for await (const message of queue.consume()) {
      seen.push(message.payload)
      await message.ack()
      if (seen.length === 2) await queue.enqueue('c')
      if (seen.length === 3) break
    }
    expect(seen).toEqual(['a', 'b', 'c'])
    expect(countsOf(queue)).toEqual([0, 0, 0, 0])
    await queue.close()
  })

  test('fetches nothing before the first read, and one message at a time without prefetch', async () => {
    const opened = await openWith(['a', 'b'])
    const reader = opened.queue.consume().getReader()
    await turn()
    expect(opsOf(opened)).toEqual(['enqueue'])
    await reader.read()
    await turn()
    expect(recordsOf(opened.files).slice(1)).toEqual([{ op: 'deliver', ids: [1] }])
    await opened.queue.close()
  })

  test('fetches `prefetch` messages with one record; all of them are in flight', async () => {
    const opened = await openWith(['a', 'b', 'c', 'd'])
    const reader = opened.queue.consume({ prefetch: 3 }).getReader()
    for (const payload of ['a', 'b', 'c']) expect((await reader.read()).value?.payload).toBe(payload)
    expect(countsOf(opened.queue)).toEqual([1, 0, 3, 0])
    expect(recordsOf(opened.files).slice(1)).toEqual([{ op: 'deliver', ids: [1, 2, 3] }])
    await opened.queue.close()
  })

  test('leaving it returns prefetched messages at once, and refunds their attempts', async () => {
    const opened = await openWith(['a', 'b', 'c'])
    for await (const message of opened.queue.consume({ prefetch: 3 })) {
      expect(countsOf(opened.queue)).toEqual([0, 0, 3, 0])
      await message.ack()
      break
    }
    expect(countsOf(opened.queue)).toEqual([2, 0, 0, 0])
    const messages = await opened.queue.receive({ max: 3 })
    expect(messages.map(({ payload, attempt }) => [payload, attempt])).toEqual([['b', 1], ['c', 1]])
    expect(opsOf(opened)).toEqual(['enqueue', 'deliver', 'ack', 'return', 'deliver'])
    await messages[0]?.nack({ delayMs: 0 })
    expect((await receiveOne(opened.queue)).attempt).toBe(2)
    await opened.queue.close()
  })

  test('an abort ends it with its reason, and returns prefetched messages', async () => {
    const { queue } = await openWith(['a', 'b', 'c'])
    const controller = new AbortController()
    const reason = new Error('enough')
    const taken: Array<Message<string>> = []
    const reading = (async () => {
      for await (const message of queue.consume({ prefetch: 2, signal: controller.signal })) {
        taken.push(message)
        controller.abort(reason)
      }
    })()
    await expect(reading).rejects.toBe(reason)
    expect(countsOf(queue)).toEqual([2, 0, 1, 0])
    await taken[0]?.ack()
    const late = queue.consume({ signal: controller.signal })
    await expect(late.getReader().read()).rejects.toBe(reason)
    await queue.close()
  })

  test('an abort while it waits ends the wait', async () => {
    const { queue, clock } = await openQueue()
    const controller = new AbortController()
    const read = queue.consume({ signal: controller.signal }).getReader().read()
    await queue.purge()
    controller.abort(new Error('enough'))
    await expect(read).rejects.toThrow('enough')
    expect(clock.timers).toBe(0)
    await queue.close()
  })

  test('cancelling while it waits ends the wait', async () => {
    const { queue, clock } = await openQueue()
    const reader = queue.consume().getReader()
    const read = reader.read()
    await queue.purge()
    await reader.cancel()
    expect(await read).toEqual({ done: true, value: undefined })
    await queue.enqueue('x')
    expect([...countsOf(queue), clock.timers]).toEqual([1, 0, 0, 0, 0])
    await queue.close()
  })

  test('cancelling while a delivery is written returns its messages', async () => {
    const opened = await openWith(['a'])
    const reader = opened.queue.consume().getReader()
    let cancelled: Promise<void> | undefined
    const stop = opened.files.onOperation(({ operation }) => {
      if (operation === 'dataSync') cancelled = reader.cancel()
    })
    expect(await reader.read()).toEqual({ done: true, value: undefined })
    await cancelled
    stop()
    expect((await receiveOne(opened.queue)).attempt).toBe(1)
    expect(opsOf(opened)).toEqual(['enqueue', 'deliver'])
    await opened.queue.close()
  })

  test('cancelling at the exact moment of a delivery returns its messages', async () => {
    const opened = await openWith(['a'])
    const reader = opened.queue.consume().getReader()
    const cancelled: Array<Promise<void>> = []
    const cancel = (): void => void cancelled.push(reader.cancel())
    subscribe('miniqueue:deliver', cancel)
    onTestFinished(() => void unsubscribe('miniqueue:deliver', cancel))
    expect(await reader.read()).toEqual({ done: true, value: undefined })
    await Promise.all(cancelled)
    unsubscribe('miniqueue:deliver', cancel)
    await turn()
    expect([cancelled.length, ...countsOf(opened.queue)]).toEqual([1, 1, 0, 0, 0])
    expect((await receiveOne(opened.queue)).attempt).toBe(1)
    await opened.queue.close()
  })

  test('removes its listener from its signal, however it ends', async () => {
    const { queue } = await openWith(['a'])
    const { signal } = new AbortController()
    for await (const message of queue.consume({ signal })) {
      await message.ack()
      break
    }
    expect(getEventListeners(signal, 'abort')).toEqual([])
    const read = queue.consume({ signal }).getReader().read()
    const run = queue.process(() => {}, { signal })
    await queue.close()
    await Promise.all([read, run])
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  test('the lease of a message begins when it is taken', async () => {
    const { queue, clock } = await openWith(['a', 'b'])
    const reader = queue.consume({ prefetch: 2 }).getReader()
    await reader.read()
    clock.advance(20_000)
    const { value } = await reader.read()
    expect([value?.payload, value?.leaseEndsInMs]).toEqual(['b', 30_000])
    await queue.close()
  })

  test('a prefetched message goes back after its lease: a stuck reader does not block the others', async () => {
    const opened = await openWith(['a', 'b', 'c'], { maxAttempts: 1 })
    const reader = opened.queue.consume({ prefetch: 2 }).getReader()
    const first = await reader.read()
    first.value?.extend(90_000)
    opened.clock.advance(30_000)
    expect(countsOf(opened.queue)).toEqual([2, 0, 1, 0])
    expect(await receiveOne(opened.queue)).toMatchObject({ payload: 'b', attempt: 1 })
    expect((await reader.read()).value).toMatchObject({ payload: 'c', attempt: 1 })
    await opened.queue.close()
  })

  test('several consumers share the messages', async () => {
    const { queue } = await openWith(Array.from({ length: 20 }, (_, n) => `${n}`))
    const seen: string[] = []
    await Promise.all([1, 2, 3].map(async (prefetch) => {
      for await (const message of queue.consume({ prefetch })) {
        seen.push(message.payload)
        await message.ack()
        if (seen.length === 20) void queue.close()
      }
    }))
    expect(seen.toSorted((left, right) => Number(left) - Number(right))).toEqual(Array.from({ length: 20 }, (_, n) => `${n}`))
  })

  test('closing the queue ends it, waiting or not; prefetched messages are no longer handed out', async () => {
    const { queue } = await openWith(['a', 'b'])
    const readers = [queue.consume({ prefetch: 2 }).getReader(), queue.consume().getReader()]
    expect((await readers[0]?.read())?.value?.payload).toBe('a')
    const waiting = readers[1]?.read()
    await queue.compact()
    await queue.close()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(await readers[0]?.read()).toEqual({ done: true, value: undefined })
  })

  test('is a ReadableStream that pipes', async () => {
    const { queue } = await openWith(['a', 'b', 'c'])
    const seen: string[] = []
    const sink = new WritableStream<Message<string>>({
      write: async (message) => {
        seen.push(message.payload)
        await message.ack()
        if (seen.length === 3) void queue.close()
      },
    })
    await queue.consume({ prefetch: 2 }).pipeTo(sink)
    expect(seen).toEqual(['a', 'b', 'c'])
  })

  test('ends with the error when a delivery cannot be written', async () => {
    const { queue, files } = await openWith(['a'])
    const full = files.failOn({ operation: 'write' }, 'ENOSPC')
    expect(await codeOf(queue.consume().getReader().read())).toBe('ERR_MINISTORE_IO')
    expect(full.hits).toBe(1)
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    expect((await receiveOne(queue)).attempt).toBe(1)
    await queue.close()
  })

  test.each([[{ prefetch: 0 }, RangeError], [{ max: 5 }, TypeError], [{ signal: 1 }, TypeError]])(
    'refuses invalid options: %o',
    async (options, error) => {
      const { queue } = await openQueue()
      expect(() => queue.consume(options as object)).toThrow(error)
      await queue.close()
    },
  )
})

/**
 * Each way begins a read and returns a function that leaves the stream while the read waits. That
 * function resolves when both the leaving call and the read have settled.
 */
type Way = (queue: MiniQueue<string>) => () => Promise<unknown>

const ways: ReadonlyArray<readonly [name: string, begin: Way]> = [
  ['return() of its iterator', (queue) => {
    const iterator = queue.consume()[Symbol.asyncIterator]()
    const next = iterator.next()
    return () => Promise.all([iterator.return?.(), next])
  }],
  ['return() of an iterator that does not cancel', (queue) => {
    const iterator = queue.consume().values({ preventCancel: true })
    const next = iterator.next()
    return () => Promise.all([iterator.return?.(), next])
  }],
  ['destroy() of a Readable from its iterator', (queue) => {
    const readable = Readable.from(queue.consume())
    readable.resume()
    return () => once(readable.destroy(), 'close')
  }],
  ['destroy() of a Readable made of the stream', (queue) => {
    const readable = Readable.fromWeb(queue.consume() as Parameters<typeof Readable.fromWeb>[0])
    readable.resume()
    return () => once(readable.destroy(), 'close')
  }],
  ['releaseLock() of its reader', (queue) => {
    const reader = queue.consume().getReader()
    const read = reader.read()
    return () => {
      reader.releaseLock()
      return Promise.allSettled([read])
    }
  }],
  ['cancel() of its reader', (queue) => {
    const reader = queue.consume().getReader()
    const read = reader.read()
    return () => Promise.all([reader.cancel(), read])
  }],
  ['cancel() of the stream when its reader has let go', (queue) => {
    const stream = queue.consume()
    const reader = stream.getReader()
    const read = reader.read()
    return () => {
      reader.releaseLock()
      return Promise.allSettled([read, stream.cancel()])
    }
  }],
  ['an abort, with a generator around it', (queue) => {
    const controller = new AbortController()
    async function* around(): AsyncGenerator<Message<string>> {
      yield* queue.consume({ signal: controller.signal })
    }
    const generator = around()
    const next = generator.next()
    return () => {
      controller.abort('gone')
      return Promise.allSettled([next, generator.return(undefined)])
    }
  }],
  ['an abort of a pipe', (queue) => {
    const controller = new AbortController()
    const { signal } = controller
    const piped = queue.consume().pipeTo(new WritableStream(), { signal })
    return () => {
      controller.abort('gone')
      return Promise.allSettled([piped])
    }
  }],
  ['an abort of a pipe that does not cancel', (queue) => {
    const controller = new AbortController()
    const { signal } = controller
    const piped = queue.consume().pipeTo(new WritableStream(), { signal, preventCancel: true })
    return () => {
      controller.abort('gone')
      return Promise.allSettled([piped])
    }
  }],
  ['an abort of receive', (queue) => {
    const controller = new AbortController()
    const received = queue.receive({ waitMs: 1000, signal: controller.signal })
    return () => {
      controller.abort('gone')
      return Promise.allSettled([received])
    }
  }],
]

describe('leaving resolves at once and takes no message', { timeout: 2000 }, () => {
  test.each(ways)('by %s while no message arrives', async (_, begin) => {
    const opened = await openQueue({ maxAttempts: 1 })
    const leave = begin(opened.queue)
    await turn()
    await leave()
    await opened.queue.enqueue('later')
    await turn()
    expect(countsOf(opened.queue)).toEqual([1, 0, 0, 0])
    expect(await receiveOne(opened.queue)).toMatchObject({ payload: 'later', attempt: 1 })
    await opened.queue.close()
  })

  test.each(ways)('by %s while a delivery is written', async (_, begin) => {
    const opened = await openWith(['early'], { maxAttempts: 1 })
    let left: Promise<unknown> | undefined
    const stop = opened.files.onOperation(({ operation }) => {
      if (operation === 'dataSync') left ??= leave()
    })
    const leave = begin(opened.queue)
    await turn()
    await (left ?? expect.unreachable('a delivery was expected to be written'))
    stop()
    await turn()
    expect(countsOf(opened.queue)).toEqual([1, 0, 0, 0])
    expect(await receiveOne(opened.queue)).toMatchObject({ payload: 'early', attempt: 1 })
    await opened.queue.close()
  })

  test('by releaseLock() with prefetched messages, which go back', async () => {
    const opened = await openWith(['a', 'b', 'c'], { maxAttempts: 1 })
    const stream = opened.queue.consume({ prefetch: 2 })
    const reader = stream.getReader()
    await (await reader.read()).value?.ack()
    reader.releaseLock()
    expect(countsOf(opened.queue)).toEqual([2, 0, 0, 0])
    expect(await receiveOne(opened.queue)).toMatchObject({ payload: 'b', attempt: 1 })
    // The stream still works: another reader goes on, and releasing the first again has no effect.
    const second = stream.getReader()
    expect((await second.read()).value).toMatchObject({ payload: 'c', attempt: 1 })
    const waiting = second.read()
    await turn()
    reader.releaseLock()
    await opened.queue.enqueue('d')
    expect((await waiting).value).toMatchObject({ payload: 'd', attempt: 1 })
    await opened.queue.close()
  })

  test('by releaseLock() before another reader waits, which gets the next message', async () => {
    const { queue } = await openQueue({ maxAttempts: 1 })
    const stream = queue.consume()
    const first = stream.getReader()
    const left = first.read()
    await turn()
    first.releaseLock()
    const second = stream.getReader()
    const read = second.read()
    await expect(left).rejects.toThrow(TypeError)
    await queue.enqueue('a')
    expect((await read).value).toMatchObject({ payload: 'a', attempt: 1 })
    await queue.close()
  })

  test('by break in a generator around it, between two messages', async () => {
    const opened = await openWith(['a', 'b'], { maxAttempts: 1 })
    async function* around(): AsyncGenerator<Message<string>> {
      for await (const message of opened.queue.consume({ prefetch: 2 })) yield message
    }
    for await (const message of around()) {
      await message.ack()
      break
    }
    expect(countsOf(opened.queue)).toEqual([1, 0, 0, 0])
    expect(await receiveOne(opened.queue)).toMatchObject({ payload: 'b', attempt: 1 })
    await opened.queue.close()
  })
})

describe('its iterator', () => {
  test('resolves overlapping calls of next in order, and all of them when it is left', async () => {
    const { queue } = await openWith(['a', 'b'])
    const iterator = queue.consume()[Symbol.asyncIterator]()
    const calls = [iterator.next(), iterator.next(), iterator.next(), iterator.next()]
    expect((await calls[0])?.value).toMatchObject({ payload: 'a' })
    expect((await calls[1])?.value).toMatchObject({ payload: 'b' })
    await iterator.return?.()
    expect(await Promise.all(calls.slice(2))).toEqual([{ done: true, value: undefined }, { done: true, value: undefined }])
    expect([await iterator.next(), await iterator.return?.()]).toEqual([
      { done: true, value: undefined }, { done: true, value: undefined },
    ])
    await queue.close()
  })

  test('releases the stream when it ends, and reports the final error once', async () => {
    const { queue, files } = await openWith(['a'])
    files.failOn({ operation: 'write' }, 'ENOSPC')
    const stream = queue.consume()
    const iterator = stream[Symbol.asyncIterator]()
    expect(await codeOf(iterator.next())).toBe('ERR_MINISTORE_IO')
    expect([stream.locked, await iterator.next()]).toEqual([false, { done: true, value: undefined }])
    const other = queue.consume()
    const ended = other[Symbol.asyncIterator]().next()
    expect(other.locked).toBe(true)
    await (await ended).value?.ack()
    await queue.close()
  })

  test('is left at the end of its scope', async () => {
    const opened = await openWith(['a', 'b'])
    const stream = opened.queue.consume({ prefetch: 2 })
    {
      await using iterator = stream.values() as AsyncIterableIterator<Message<string>> & AsyncDisposable
      const { value } = (await iterator.next()) as IteratorYieldResult<Message<string>>
      await value.ack()
    }
    expect([stream.locked, ...countsOf(opened.queue)]).toEqual([false, 1, 0, 0, 0])
    await opened.queue.close()
  })
})
