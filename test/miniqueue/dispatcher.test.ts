import { describe, expect, onTestFinished, test } from 'vitest'

import { Dispatcher } from '../../src/miniqueue/dispatcher.ts'
import { QueueLog } from '../../src/miniqueue/log.ts'
import type { Lease } from '../../src/miniqueue/leases.ts'
import type { NewMessage } from '../../src/miniqueue/state.ts'
import { queueSettings } from '../../src/miniqueue/settings.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { SteppedClock } from '../crash/queue/clock.ts'
import { turn } from '../support/consume.ts'
import { directory } from './support.ts'

interface Waiting {
  readonly log: QueueLog
  readonly dispatcher: Dispatcher
  readonly clock: SteppedClock
  readonly files: SimulatedFileSystem
  /** Waits for at most this many messages, and records under a name what arrived. */
  readonly wait: (name: string, max: number, options?: { readonly waitMs?: number; readonly signal?: AbortSignal }) => void
  readonly enqueue: (...messages: ReadonlyArray<Partial<NewMessage>>) => Promise<void>
  /** The messages received, by name; undefined for a call that still waits. */
  readonly came: () => Promise<Record<string, number[] | string | undefined>>
}

async function open(): Promise<Waiting> {
  const [files, clock] = [new SimulatedFileSystem(), new SteppedClock()]
  const settings = queueSettings({ fileSystem: files, clock, visibilityTimeoutMs: 1000 })
  const log = await QueueLog.open(directory, settings)
  const dispatcher = new Dispatcher(log, settings)
  onTestFinished(async () => {
    dispatcher.stop()
    dispatcher.end()
    await log.close()
  })
  const seen: Record<string, number[] | string | undefined> = {}
  return {
    log,
    dispatcher,
    clock,
    files,
    wait: (name, max, { waitMs = Number.POSITIVE_INFINITY, signal } = {}) => {
      seen[name] = undefined
      const note = (leases: readonly Lease[]): void => void (seen[name] = leases.map(({ id }) => id))
      dispatcher.receive({ max: () => max, waitMs, signal, isHanded: true }).then(
        note, (error: unknown) => void (seen[name] = String(error)),
      )
    },
    enqueue: async (...messages) => {
      const step = { op: 'enqueue', at: clock.wallMs(), messages: messages.map((message) => ({ payload: 'x', bytes: 3, ...message })) } as const
      await log.inTurn(() => dispatcher.enqueue(step, JSON.stringify(step)))
    },
    came: async () => {
      await turn()
      await turn()
      return seen
    },
  }
}

/** The ways in which messages become ready while calls wait. */
const ways: ReadonlyArray<readonly [name: string, bring: (waiting: Waiting, count: number) => Promise<void>]> = [
  ['they are enqueued', async ({ enqueue }, count) => enqueue(...Array.from({ length: count }, () => ({})))],
  ['they are enqueued in a write of their own, being large', async ({ enqueue }, count) => {
    await enqueue(...Array.from({ length: count }, () => ({ bytes: 1024 * 1024 })))
  }],
  ['they are due', async ({ enqueue, clock }, count) => {
    await enqueue(...Array.from({ length: count }, () => ({ dueAt: clock.wallMs() + 50 })))
    clock.advance(50)
  }],
]

describe.each(ways)('a waiting call is woken when %s', { timeout: 2000 }, (_, bring) => {
  test('though the first call has stopped waiting', async () => {
    const waiting = await open()
    waiting.wait('full', 0)
    waiting.wait('second', 1)
    await turn()
    await bring(waiting, 1)
    expect(await waiting.came()).toEqual({ full: expect.any(Array) as number[], second: [1] })
  })

  test('though the first call is gone', async () => {
    const waiting = await open()
    const controller = new AbortController()
    waiting.wait('gone', 1, { signal: controller.signal })
    waiting.wait('second', 1)
    await turn()
    controller.abort('left')
    await bring(waiting, 1)
    expect(await waiting.came()).toEqual({ gone: 'left', second: [1] })
  })

  test('though the first call leaves while its delivery is written', async () => {
    const waiting = await open()
    const controller = new AbortController()
    waiting.wait('gone', 1, { signal: controller.signal })
    waiting.wait('second', 1)
    await turn()
    const stop = waiting.files.onOperation(({ operation, path }) => {
      if (operation === 'dataSync' && path.endsWith('.jsonl') && waiting.files.readFile(path).includes('deliver')) controller.abort('left')
    })
    await bring(waiting, 1)
    expect(await waiting.came()).toEqual({ gone: 'left', second: [1] })
    stop()
  })

  test('each in its turn, as long as there are messages', async () => {
    const waiting = await open()
    for (const name of ['first', 'second', 'third', 'fourth']) waiting.wait(name, name === 'second' ? 2 : 1)
    await turn()
    await bring(waiting, 4)
    expect(await waiting.came()).toEqual({ first: [1], second: [2, 3], third: [4], fourth: undefined })
    await bring(waiting, 1)
    expect(await waiting.came()).toMatchObject({ fourth: [5] })
  })

  test('though the delivery to the first call cannot be written', async () => {
    const waiting = await open()
    waiting.wait('first', 1)
    waiting.wait('second', 1)
    await turn()
    let isFailed = false
    const stop = waiting.files.onOperation(({ operation, path }) => {
      if (isFailed || operation !== 'write' || !path.endsWith('.jsonl')) return
      const { depth, delayed, inFlight } = waiting.log.messages
      if (depth - delayed - inFlight.size === 0) return
      isFailed = true
      waiting.files.failOn({ operation: 'write', path }, 'ENOSPC')
    })
    await bring(waiting, 1)
    const { first, second } = await waiting.came()
    stop()
    // Messages delivered by the write that enqueues them have no separate delivery that could fail.
    expect([first, second]).toEqual(isFailed ? [expect.stringContaining('ENOSPC'), [1]] : [[1], undefined])
  })
})

describe('a waiting call is woken', { timeout: 2000 }, () => {
  test('when a lease ends, and when a message is requeued', async () => {
    const waiting = await open()
    await waiting.enqueue({}, {})
    const leases = await waiting.dispatcher.receive({ max: () => 2, waitMs: 0, signal: undefined, isHanded: false })
    waiting.wait('first', 1)
    waiting.wait('second', 1)
    await turn()
    waiting.dispatcher.requeue(leases.slice(0, 1))
    expect(await waiting.came()).toEqual({ first: [1], second: undefined })
    waiting.clock.advance(1000)
    // The lease of the first call's message ends at the same time.
    expect(await waiting.came()).toEqual({ first: [1], second: [1] })
  })

  test('at the end of its time, with nothing or with a message that becomes ready at that moment', async () => {
    const waiting = await open()
    await waiting.enqueue({ dueAt: waiting.clock.wallMs() + 50 })
    waiting.wait('early', 1, { waitMs: 49 })
    waiting.wait('just', 1, { waitMs: 50 })
    waiting.wait('late', 1, { waitMs: 50 })
    await turn()
    // The clock advances while the first wait is ended, so the others' time is over before they are
    // checked.
    waiting.clock.advance(50)
    expect(await waiting.came()).toEqual({ early: [], just: undefined, late: undefined })
    waiting.clock.advance(0)
    expect(await waiting.came()).toEqual({ early: [], just: [1], late: [] })
  })
})
