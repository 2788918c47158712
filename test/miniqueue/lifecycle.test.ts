import { describe, expect, test, vi } from 'vitest'

import { type Clock, type Message, MiniQueue, type QueueOptions } from '../../src/miniqueue/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import type { SteppedClock } from '../crash/queue/clock.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { codeOf, countsOf, directory, errorOf, journalFile, openQueue, payloadsOf, receiveOne, reopenKilled } from './support.ts'

describe('open', () => {
  test('creates an empty queue with the defaults on the real disk', async () => {
    const path = await temporaryDirectory()
    const queue = await MiniQueue.open<{ n: number }>(`${path}/made/here`)
    expect(queue.directory).toBe(`${path}/made/here`)
    expect(queue.recovery).toMatchObject({ replayed: 0, snapshotSequence: undefined })
    expect(await queue.enqueue({ n: 1 })).toBe(1)
    const message = await receiveOne(queue)
    expect(message.leaseEndsInMs).toBeGreaterThan(29_000)
    expect(Math.abs(message.enqueuedAt.getTime() - Date.now())).toBeLessThan(60_000)
    await message.nack()
    expect(queue.stats()).toMatchObject({ ready: 0, delayed: 1, inFlight: 0, dead: 0 })
    await queue.close()
  })

  test('waits for due messages with the system clock', async () => {
    const queue = await MiniQueue.open<string>(await temporaryDirectory())
    await queue.enqueue('soon', { delayMs: 20 })
    const [message] = await queue.receive({ waitMs: 20_000 })
    expect(message?.payload).toBe('soon')
    expect(await queue.receive({ waitMs: 5 })).toEqual([])
    await queue.close()
  })

  test('restores everything from the journal and from a snapshot', async () => {
    const opened = await openQueue({ maxAttempts: 1 })
    const { queue } = opened
    await queue.enqueueAll([
      { payload: 'dead' }, { payload: 'low' }, { payload: 'high', priority: 1 }, { payload: 'later', delayMs: 50 },
    ])
    const [first] = await queue.receive({ max: 2 })
    await first?.ack()
    for (const compacts of [false, true]) {
      if (compacts) await queue.compact()
      const again = await reopenKilled(opened, { maxAttempts: 5 })
      expect(again.queue.recovery.snapshotSequence === undefined).toBe(!compacts)
      expect(countsOf(again.queue)).toEqual([2, 1, 0, 0])
      expect(await payloadsOf(again.queue)).toEqual(['dead', 'low'])
      await again.queue.close()
    }
    await queue.close()
  })

  test('a directory can have one open queue at a time', async () => {
    const { queue, files, clock } = await openQueue()
    expect(await codeOf(openQueue({ files, clock }))).toBe('ERR_MINISTORE_LOCKED')
    await queue.close()
    await (await openQueue({ files, clock })).queue.close()
  })

  test('refuses a directory that holds another kind of state, and frees its lock', async () => {
    const files = new SimulatedFileSystem()
    const open = () => StateManager.open<{ n: number }, number>(directory, {
      initialState: () => ({ n: 0 }),
      mutator: (state, by) => {
        state.n += by
      },
      fileSystem: files,
    })
    const other = await open()
    await other.apply(1)
    await other.close()
    expect(await codeOf(openQueue({ files }))).toBe('ERR_MINISTORE_MUTATOR')
    const again = await open()
    await again.compact()
    await again.close()
    const error = await errorOf(openQueue({ files }))
    expect(error.code).toBe('ERR_MINISTORE_CORRUPT')
    expect(error.message).toBe(
      'The state in /jobs is not that of a queue: it has no `nextId`, no `nextOrder`, no `messages`, no `dead`, no `keys`, no `expiring`',
    )
    await (await open()).close()
  })

  test.each<[object, RegExp]>([
    [{ visibilityTimeoutMs: 0 }, /`visibilityTimeoutMs` to be a whole number, from 1/],
    [{ visibilityTimeout: 5 }, /Unknown option `visibilityTimeout`: did you mean `visibilityTimeoutMs`/],
    [{ maxAttempts: 0 }, /`maxAttempts`/],
    [{ maxAttempts: -Infinity }, /`maxAttempts`/],
    [{ maxDepth: 1.5 }, /`maxDepth`/],
    [{ maxPayloadBytes: 2 ** 30 }, /`maxPayloadBytes`/],
    [{ dedupeWindowMs: '1 h' }, /`dedupeWindowMs`/],
    [{ backoff: 5 }, /`backoff` to be an object or a function/],
    [{ backoff: { factor: 0.5 } }, /`factor` to be a number, 1 or greater, got 0.5/],
    [{ backoff: { jitter: 2 } }, /`jitter` to be a number, from 0 to 1, got 2/],
    [{ backoff: { jitter: 'much' } }, /`jitter` to be a number, got `"much"`/],
    [{ backoff: { initialMs: Number.NaN } }, /`initialMs`/],
    [{ backoff: { max: 5 } }, /Unknown option `max`: did you mean `maxMs`/],
    [{ compaction: { ratio: 0 } }, /`ratio`/],
    [{ compaction: { minBytes: 0 } }, /`minBytes`/],
    [{ compaction: true }, /`compaction` to be an object/],
    [{ journal: { maxSegments: 5 } }, /maxSegments/],
    [{ journal: { codec: {} } }, /Unknown option `codec`/],
    [{ journal: { preallocate: -1 } }, /`preallocate`/],
    [{ keepSnapshots: 0 }, /`keepSnapshots`/],
    [{ clock: { wallMs: Date.now } }, /`clock` to have wallMs, monotonicMs, setTimer/],
    [{ random: 0.5 }, /`random` to be a function/],
    [{ onError: 'ignore' }, /`onError` to be a function/],
    [{ fileSystem: {} }, /`fileSystem`/],
  ])('refuses invalid options before it touches the disk: %o', async (options, message) => {
    await expect(MiniQueue.open(directory, options as QueueOptions)).rejects.toThrow(message)
  })

  const broken = new Error('no battery')
  const noClock = (): never => {
    throw broken
  }

  test.each<[string, (clock: SteppedClock) => Partial<Clock>, { readonly message?: string }]>([
    ['has no wall clock', () => ({ wallMs: noClock }), broken],
    ['has no monotonic clock', () => ({ monotonicMs: noClock }), broken],
    ['returns an invalid time', () => ({ wallMs: () => Number.NaN }), { message: 'Expected `clock.wallMs` to give milliseconds, got `NaN` (number)' }],
    ['gives times that no date can be', () => ({ wallMs: () => 8.7e15 }), { message: 'Expected `clock.wallMs` to give milliseconds, got `8700000000000000` (number)' }],
    ['gives no times', () => ({ monotonicMs: () => 'noon' as never }), { message: 'Expected `clock.monotonicMs` to give milliseconds, got `"noon"` (string)' }],
    ['fails when it is asked again', (clock) => {
      let asked = 0
      return { wallMs: () => (asked++ < 1 ? clock.wallMs() : noClock()) }
    }, broken],
    ['has no timers, on a full disk', () => ({ setTimer: noClock }), broken],
  ])('frees the lock when a clock %s', async (name, parts, error) => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 2 })
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
    await receiveOne(queue)
    await queue.close()
    const full = name.endsWith('full disk') ? files.failOn({ operation: 'write', path: journalFile }, 'ENOSPC') : undefined
    const { wallMs, monotonicMs, setTimer } = clock
    const failing = openQueue({ files, maxAttempts: 1, clock: { wallMs, monotonicMs, setTimer, ...parts(clock) } as SteppedClock })
    await expect(failing).rejects.toMatchObject(error)
    full?.remove()
    const again = await openQueue({ files, clock, maxAttempts: 2 })
    expect([...countsOf(again.queue), clock.timers]).toEqual([2, 0, 0, 0, 0])
    await again.queue.close()
  })

  test('leaves no timer when the write that buries exhausted messages has an unknown outcome', async () => {
    const { queue, files, clock } = await openQueue({ maxAttempts: 2 })
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
    await receiveOne(queue)
    await queue.close()
    const stop = files.onOperation(({ operation, path }) => {
      if (operation === 'write' && path === journalFile) files.failOn({ operation: 'dataSync', path }, 'EIO')
    })
    expect(await codeOf(openQueue({ files, clock, maxAttempts: 1 }))).toBe('ERR_MINISTORE_OUTCOME_UNKNOWN')
    stop()
    expect(clock.timers).toBe(0)
    await (await openQueue({ files, clock, maxAttempts: 2 })).queue.close()
  })

  test.each(['', 5, undefined])('refuses %o for a directory', async (path) => {
    await expect(MiniQueue.open(path as string)).rejects.toThrow(/`directory` to be a non-empty string/)
  })
})

describe('close', () => {
  test('waits for earlier calls and refuses later ones', async () => {
    const opened = await openQueue()
    const { queue } = opened
    const enqueued = queue.enqueue('x')
    const closed = queue.close()
    expect(queue.close()).toBe(closed)
    const refused = [
      queue.enqueue('y'), queue.enqueueAll([]), queue.receive(), queue.process(() => {}), queue.redrive('all'),
      queue.discard('all'), queue.purge(), queue.compact(),
    ]
    expect(await Promise.all(refused.map(codeOf))).toEqual(refused.map(() => 'ERR_MINISTORE_CLOSED'))
    expect(() => queue.consume()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CLOSED' }))
    expect(await enqueued).toBe(1)
    await closed
    expect([countsOf(queue), queue.deadLetters()]).toEqual([[1, 0, 0, 0], []])
  })

  test('resolves waiting calls with no messages, even while their delivery is being written', async () => {
    const { queue, files } = await openQueue()
    const waiting = queue.receive({ waitMs: Number.POSITIVE_INFINITY })
    await queue.purge()
    const stop = files.onOperation(({ operation, path }) => {
      if (operation === 'dataSync' && path.endsWith('.jsonl')) void queue.close()
    })
    const enqueued = queue.enqueue('x')
    expect([await waiting, await enqueued]).toEqual([[], 1])
    stop()
    await queue.close()
  })

  test('makes the message of a delivery being written ready again, and does not hand it out', async () => {
    const { queue, files, clock } = await openQueue()
    await queue.enqueue('x')
    let closed: Promise<void> | undefined
    const stop = files.onOperation(({ operation }) => {
      if (operation === 'dataSync') closed ??= queue.close()
    })
    expect(await queue.receive()).toEqual([])
    await closed
    stop()
    const again = await openQueue({ files, clock })
    expect(await payloadsOf(again.queue)).toEqual(['x'])
    await again.queue.close()
  })

  test('fires the signals of in-flight messages; afterwards nothing can be acked or nacked', async () => {
    const { queue, clock } = await openQueue()
    await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
    const [first, second] = (await queue.receive({ max: 2 })) as [Message<string>, Message<string>]
    const { signal } = first
    const acked = first.ack()
    const closed = queue.close()
    expect(signal.reason).toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    await Promise.all([acked, closed])
    expect(second.signal.aborted).toBe(true)
    expect(await codeOf(second.ack())).toBe('ERR_MINISTORE_CLOSED')
    expect(await codeOf(second.nack())).toBe('ERR_MINISTORE_CLOSED')
    expect(() => second.extend(5)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CLOSED' }))
    expect([second.leaseEndsInMs, clock.timers]).toEqual([0, 0])
  })

  test('await using closes', async () => {
    const { files, clock } = await openQueue().then(async (opened) => {
      await using queue = opened.queue
      await queue.enqueue('x')
      return opened
    })
    const again = await openQueue({ files, clock })
    expect(countsOf(again.queue)).toEqual([1, 0, 0, 0])
    await again.queue.close()
  })
})

describe('a disk that fails', () => {
  test('after a failed fsync only close() works: all calls reject, including waiting ones', async () => {
    const { queue, files, told } = await openQueue()
    await queue.enqueue('x')
    const message = await receiveOne(queue)
    const waiting = codeOf(queue.receive({ waitMs: Number.POSITIVE_INFINITY }))
    await queue.purge()
    files.failOn({ operation: 'dataSync' }, 'EIO')
    expect(await codeOf(message.ack())).toBe('ERR_MINISTORE_OUTCOME_UNKNOWN')
    expect(await waiting).toBe('ERR_MINISTORE_POISONED')
    for (const call of [
      queue.enqueue('y'), queue.receive(), queue.receive({ waitMs: 5 }), queue.purge(), queue.redrive('all'), queue.compact(),
      message.ack(),
    ]) {
      expect(await codeOf(call)).toBe('ERR_MINISTORE_POISONED')
    }
    await expect(queue.consume().getReader().read()).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    expect(told).toEqual([])
    await queue.close()
  })

  test('refuses calls while full, and works again when there is room', async () => {
    const { queue, files } = await openQueue()
    await queue.enqueue('x')
    const full = files.failOn({ operation: 'write', times: 'always' }, 'ENOSPC')
    for (const call of [queue.enqueue('y'), queue.enqueueAll([{ payload: 'y' }]), queue.receive(), queue.purge()]) {
      expect(await codeOf(call)).toBe('ERR_MINISTORE_IO')
    }
    expect(countsOf(queue)).toEqual([1, 0, 0, 0])
    full.remove()
    expect(await queue.enqueue('z')).toBe(2)
    expect((await queue.receive({ max: 5 })).map(({ attempt }) => attempt)).toEqual([1, 1])
    await queue.close()
  })

  test('without onError a background failure is a warning, and a throwing onError does no harm', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    for (const onError of [undefined, () => { throw new Error('of the listener') }]) {
      const { queue, files, clock } = await openQueue({ maxAttempts: 1, onError })
      await queue.enqueue('x')
      await queue.receive()
      files.failOn({ operation: 'write' }, 'ENOSPC')
      clock.advance(30_000)
      await queue.enqueue('y')
      await queue.close()
    }
    expect(warn.mock.calls.map(([warning]) => String(warning))).toEqual([
      expect.stringContaining('ENOSPC'), 'Error: of the listener',
    ])
    warn.mockRestore()
  })
})
