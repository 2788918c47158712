import { describe, expect, test } from 'vitest'

import { type CloseOptions, type MiniQueue, PermanentFailure } from '../../src/miniqueue/index.ts'
import {
  codeOf, countsOf, heldHandler, journalFile, openQueue, quiet, receiveOne, recordsOf, reopenKilled, type TestQueue,
} from './support.ts'

type Held = ReturnType<typeof heldHandler>

/** How a run is stopped: by its signal, or by closing the queue. */
const ways: ReadonlyArray<readonly [name: string, stop: Stop]> = [
  ['its signal', ({ controller }) => {
    controller.abort(new Error('deploy'))
    return Promise.resolve()
  }],
  ['close()', ({ queue }, options) => queue.close(options)],
]

type Stop = (running: { readonly queue: MiniQueue<string>; readonly controller: AbortController }, options?: CloseOptions) => Promise<void>

interface Running extends TestQueue {
  readonly held: Held
  readonly controller: AbortController
  readonly run: Promise<void>
  readonly isOver: () => boolean
}

/** A run whose two handlers are pending, with one more message behind them. */
async function running(options: { readonly drainMs?: number; readonly maxAttempts?: number } = {}): Promise<Running> {
  const { drainMs, maxAttempts = 1 } = options
  const opened = await openQueue({ maxAttempts })
  await opened.queue.enqueueAll(['a', 'b', 'never begun'].map((payload) => ({ payload })))
  const held = heldHandler()
  const controller = new AbortController()
  let isOver = false
  const run = opened.queue.process(held.handler, { concurrency: 2, signal: controller.signal, drainMs })
  void run.then(() => (isOver = true))
  await held.called(2)
  return { ...opened, held, controller, run, isOver: () => isOver }
}

/** What a process that opens the queue next finds: payloads with their attempts, then the dead letters. */
async function found(opened: TestQueue): Promise<unknown> {
  const { queue } = await reopenKilled(opened, { maxAttempts: 1 })
  const messages = (await queue.receive({ max: 9 })).map(({ payload, attempt }) => `${payload}${attempt}`)
  const dead = queue.deadLetters().map(({ payload, attempts }) => `${payload}${attempts}`)
  await queue.close()
  return [messages, dead]
}

describe.each(ways)('a run stopped by %s', (_, stop) => {
  test('hands out nothing more, and lets its handlers go on for 30 s before the signals fire', async () => {
    const opened = await running()
    const { held, clock, queue, run, isOver } = opened
    const stopped = stop(opened)
    clock.advance(29_999)
    await quiet()
    expect(held.calls.map(({ message }) => message.signal.aborted)).toEqual([false, false])
    held.calls[0]?.resolve()
    await quiet()
    expect([isOver(), held.calls.length]).toEqual([false, 2])
    clock.advance(1)
    expect(held.calls[1]?.message.signal.aborted).toBe(true)
    held.calls[1]?.resolve()
    await Promise.all([run, stopped])
    expect([...countsOf(queue), clock.timers]).toEqual([1, 0, 0, 0, 0])
    await queue.close()
    expect(await found(opened)).toEqual([['never begun1'], []])
  })

  test('ends at once when its handlers end, and leaves no timer', async () => {
    const opened = await running()
    const stopped = stop(opened)
    for (const { resolve } of opened.held.calls) resolve()
    await Promise.all([opened.run, stopped])
    expect(opened.clock.timers).toBe(0)
    await opened.queue.close()
    expect(await found(opened)).toEqual([['never begun1'], []])
  })

  test('gives the attempt back to a handler that fails after its signal has fired, with one record, first in line', async () => {
    const opened = await running({ drainMs: 100 })
    const { held, clock, files, run } = opened
    const stopped = stop(opened)
    clock.advance(100)
    const { signal } = held.calls[0]?.message ?? expect.unreachable()
    held.calls[0]?.reject(signal.reason)
    held.calls[1]?.resolve()
    await Promise.all([run, stopped])
    expect(recordsOf(files).at(-1)).toMatchObject({
      op: 'batch', steps: [{ op: 'ack', ids: [2] }, { op: 'return', ids: [1] }, { op: 'nack', id: 1 }],
    })
    await opened.queue.close()
    expect(await found(opened)).toEqual([['a1', 'never begun1'], []])
  })

  test('three times in a row buries no message whose handler honours its signal', async () => {
    let opened = await running({ drainMs: 0 })
    for (let deploy = 1; deploy <= 3; deploy++) {
      const { queue, files, clock, held, run } = opened
      const stopped = stop(opened)
      for (const { message, reject } of held.calls) reject(message.signal.reason)
      await Promise.all([run, stopped])
      await queue.close()
      const next = await openQueue({ files, clock, maxAttempts: 1 })
      const again = heldHandler()
      const controller = new AbortController()
      const nextRun = next.queue.process(again.handler, { concurrency: 2, signal: controller.signal, drainMs: 0 })
      await again.called(2)
      expect(again.calls.map(({ message }) => [message.payload, message.attempt])).toEqual([['a', 1], ['b', 1]])
      opened = { ...next, held: again, controller, run: nextRun, isOver: () => false }
    }
    for (const { resolve } of opened.held.calls) resolve()
    await Promise.all([opened.run, stop(opened), opened.queue.close()])
    expect(opened.queue.stats()).toMatchObject({ ready: 1, dead: 0 })
  })

  test('counts the attempt of a handler that fails before its signal fires', async () => {
    const opened = await running()
    const stopped = stop(opened)
    opened.held.calls[0]?.reject(new Error('bad'))
    opened.held.calls[1]?.resolve()
    await Promise.all([opened.run, stopped])
    await opened.queue.close()
    expect(await found(opened)).toEqual([['never begun1'], ['a1']])
  })

  test('counts the attempt if the process is killed before the failure is durable', async () => {
    const opened = await running({ drainMs: 0 })
    const { held, files, run } = opened
    const stopped = stop(opened)
    const before = files.afterKill()
    for (const { message, reject } of held.calls) reject(message.signal.reason)
    await Promise.all([run, stopped])
    expect(await found({ ...opened, files: before })).toEqual([['never begun1'], ['a1', 'b1']])
    await opened.queue.close()
    expect(await found(opened)).toEqual([['a1', 'b1', 'never begun1'], []])
  })

  test('buries the message of a PermanentFailure all the same', async () => {
    const opened = await running({ drainMs: 0, maxAttempts: 5 })
    const stopped = stop(opened)
    opened.held.calls[0]?.reject(new PermanentFailure('no such address'))
    opened.held.calls[1]?.resolve()
    await Promise.all([opened.run, stopped])
    await opened.queue.close()
    expect(opened.queue.deadLetters()).toMatchObject([{ payload: 'a', reason: 'no such address', attempts: 1 }])
  })

  test('gives the attempt back to a handler that nacks after its signal has fired', async () => {
    const opened = await running({ drainMs: 0 })
    const { held, run } = opened
    const stopped = stop(opened)
    await held.calls[0]?.message.nack({ reason: 'no time' })
    await held.calls[1]?.message.nack({ delayMs: 60_000 })
    for (const { resolve } of held.calls) resolve()
    await Promise.all([run, stopped])
    await opened.queue.close()
    expect(countsOf(opened.queue)).toEqual([2, 1, 0, 0])
    opened.clock.advance(60_000)
    expect(await found(opened)).toEqual([['a1', 'b1', 'never begun1'], []])
  })

  test('waits 5 s for a handler that ignores its signal; later acks reject, and its attempt is used up', async () => {
    const opened = await running({ drainMs: 0 })
    const { held, clock, run, isOver } = opened
    const stopped = stop(opened)
    const [first, second] = held.calls.map(({ message }) => message)
    clock.advance(4999)
    await first?.ack()
    await quiet()
    expect(isOver()).toBe(false)
    clock.advance(1)
    await Promise.all([run, stopped])
    expect(await codeOf(second?.ack() ?? expect.unreachable())).toBe('ERR_MINISTORE_LEASE_LOST')
    held.calls[1]?.reject(new Error('too late'))
    await opened.queue.close()
    expect([opened.told, clock.timers]).toEqual([[], 0])
    expect(await found(opened)).toEqual([['never begun1'], ['b1']])
  })

  test('stopped once more with less time, ends its drain earlier', async () => {
    const opened = await running()
    const stopped = stop(opened)
    const closed = opened.queue.close({ drainMs: 10 })
    // More time does not make it longer.
    expect(opened.queue.close({ drainMs: 60_000 })).toBe(closed)
    opened.clock.advance(10)
    expect(opened.held.calls.map(({ message }) => message.signal.aborted)).toEqual([true, true])
    for (const { resolve } of opened.held.calls) resolve()
    await Promise.all([opened.run, stopped, closed])
  })
})

describe('a run that drains', () => {
  test('has the reason of the stop in its signals', async () => {
    for (const [index, code] of [[0, 'deploy'], [1, 'The queue is closed']] as const) {
      const opened = await running({ drainMs: 0 })
      const stopped = ways[index]?.[1](opened)
      expect(opened.held.calls[0]?.message.signal.reason).toMatchObject({ message: code })
      for (const { resolve } of opened.held.calls) resolve()
      await Promise.all([opened.run, stopped, opened.queue.close()])
    }
  })

  test('may enqueue what follows from its work, while the queue closes and as long as it runs', async () => {
    const opened = await running()
    const closed = opened.queue.close()
    expect(await opened.queue.enqueue('follows')).toBe(4)
    expect(await codeOf(opened.queue.receive())).toBe('ERR_MINISTORE_CLOSED')
    for (const { resolve } of opened.held.calls) resolve()
    await Promise.all([opened.run, closed])
    expect(await codeOf(opened.queue.enqueue('late'))).toBe('ERR_MINISTORE_CLOSED')
    expect(await found(opened)).toEqual([['never begun1', 'follows1'], []])
  })

  test('reports the nack of a stopped handler that cannot be written, and the attempt counts', async () => {
    const opened = await running({ drainMs: 0 })
    opened.files.failOn({ operation: 'write', path: journalFile, times: 'always' }, 'ENOSPC')
    const closed = opened.queue.close()
    for (const { message, reject } of opened.held.calls) reject(message.signal.reason)
    await Promise.all([opened.run, closed])
    expect(opened.told).toMatchObject([{ code: 'ERR_MINISTORE_IO' }])
    opened.files.clearFaults()
    expect(await found(opened)).toEqual([['never begun1'], ['a1', 'b1']])
  })

  test('a stop fires the signals of handlers that began together with the stopping one', async () => {
    const { queue } = await openQueue()
    await queue.enqueueAll(['a', 'b'].map((payload) => ({ payload })))
    const controller = new AbortController()
    const reasons: unknown[] = []
    await queue.process(async (payload, { signal }) => {
      if (payload === 'b') controller.abort('enough')
      else await new Promise((resolve) => signal.addEventListener('abort', resolve))
      reasons.push(signal.reason)
    }, { concurrency: 2, signal: controller.signal, drainMs: 0 })
    expect(reasons).toEqual(['enough', 'enough'])
    await queue.close()
  })

})

test('closing fires the signals of received messages at once, and a nack after that uses up no attempt', async () => {
  const opened = await openQueue({ maxAttempts: 1 })
  const { queue } = opened
  await queue.enqueueAll(['received', 'held'].map((payload) => ({ payload })))
  const received = await receiveOne(queue)
  const held = heldHandler()
  const run = queue.process(held.handler)
  await held.called(1)
  const closed = queue.close()
  expect([received, held.calls[0]?.message].map((message) => message?.signal.aborted)).toEqual([true, false])
  await received.nack()
  held.calls[0]?.resolve()
  await Promise.all([run, closed])
  expect(await found(opened)).toEqual([['received1'], []])
})

test.each<[unknown, typeof TypeError]>([
  [{ drainMs: -1 }, RangeError], [{ drainMs: 'soon' }, TypeError], [{ drain: 5 }, TypeError],
])('close refuses invalid options and leaves the queue open: %o', async (options, error) => {
  const { queue } = await openQueue()
  await expect(queue.close(options as CloseOptions)).rejects.toThrow(error)
  expect(await queue.enqueue('x')).toBe(1)
  await queue.close()
})
