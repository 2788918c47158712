import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { rename } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, onTestFinished, test, vi } from 'vitest'

import type { JournalEntry, MiniStore } from '../../src/index.ts'
import { MiniStoreError } from '../../src/index.ts'
import { type JournalRange, StateManager } from '../../src/ministate/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect, outcomeOf, take, turn } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'
import { elsewhere } from '../support/elsewhere.ts'
import { type Call, descriptorsIn, Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { RemoteStore } from '../support/remote-store.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { type Add, errorOf, type Sums } from './support.ts'
import { adding, appendTo, openJournal, openManager, openView, type SumView, sumsOf } from './view-support.ts'

const path = '/log/journal.jsonl'

async function newJournal(last = 0, maxBytes?: number): Promise<{ files: SimulatedFileSystem; store: MiniStore<Add> }> {
  const files = new SimulatedFileSystem()
  const store = await openJournal(path, files, maxBytes)
  await appendTo(store, last)
  return { files, store }
}

/** Whether a promise is settled once all ready tasks have run. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  const settle = (): void => {
    settled = true
  }
  promise.then(settle, settle)
  for (let turns = 0; turns < 10; turns++) await turn()
  return settled
}

function numbered(first: number, last: number): Array<JournalEntry<Add>> {
  return Array.from({ length: last - first + 1 }, (_, at) => ({ sequence: first + at, record: { by: first + at } }))
}

describe.each(['an open store', 'a path', 'a path in another process'] as const)('a projection of %s', (kind) => {
  const openOn = (files: SimulatedFileSystem, store: MiniStore<Add>, options = {}): Promise<SumView> => {
    const fileSystem = kind === 'a path in another process' ? elsewhere(files) : files
    return kind === 'an open store' ? openView(store, options) : openView(path, { fileSystem, pollIntervalMs: 5, ...options })
  }

  test('has folded everything that was there when it opens, and follows over rotations', async () => {
    const { files, store } = await newJournal(5, 80)
    await using view = await openOn(files, store)
    expect([view.sequence, view.state.sums]).toEqual([5, sumsOf(5)])
    await appendTo(store, 40)
    expect(store.segments.length).toBeGreaterThan(3)
    expect(await view.caughtUp()).toBe(40)
    expect(view.state.sums).toEqual(sumsOf(40))
    await store.close()
  })

  test('follows while the records that it has folded are dropped', async () => {
    const { files, store } = await newJournal(5, 80)
    await using view = await openOn(files, store)
    for (let last = 10; last <= 60; last += 5) {
      await appendTo(store, last)
      await view.caughtUp({ sequence: last })
      await store.rotate()
      await store.truncateBefore(last + 1)
    }
    expect([store.firstSequence, view.state.sums]).toEqual([61, sumsOf(60)])
    await store.close()
  })

  test('gives each change only after it has folded it', async () => {
    const { files, store } = await newJournal(3)
    await using view = await openOn(files, store)
    const seen: Array<JournalEntry<Add>> = []
    const consuming = (async () => {
      for await (const entry of view.changes({ from: 2, to: 12, follow: true })) {
        expect(view.sequence).toBeGreaterThanOrEqual(entry.sequence)
        seen.push(entry)
      }
    })()
    await appendTo(store, 20)
    await consuming
    expect(seen).toEqual(numbered(2, 12))
    await view.caughtUp()
    expect(await collect(view.changes())).toEqual(numbered(1, 20))
    expect(await collect(view.changes({ from: 19, to: 30 }))).toEqual(numbered(19, 20))
    expect(await collect(view.changes({ from: 21 }))).toEqual([])
    await store.close()
  })
})

describe('caughtUp', () => {
  test('waits for the last record of the call, or for the given one', async () => {
    const { store } = await newJournal(2)
    await using view = await openView(store)
    expect(await view.caughtUp()).toBe(2)
    expect(await view.caughtUp({ sequence: 0 })).toBe(2)
    const fourth = view.caughtUp({ sequence: 4 })
    const fifth = view.caughtUp({ sequence: 5 })
    await appendTo(store, 3)
    expect(await view.caughtUp()).toBe(3)
    expect(await isSettled(fourth)).toBe(false)
    await appendTo(store, 4)
    expect(await fourth).toBe(4)
    expect(await isSettled(fifth)).toBe(false)
    await appendTo(store, 5)
    expect(await fifth).toBe(5)
    await store.close()
  })

  test('rejects with the reason of its signal, and leaves nothing behind on it', async () => {
    const { store } = await newJournal(1)
    await using view = await openView(store)
    const abort = new AbortController()
    const remove = vi.spyOn(abort.signal, 'removeEventListener')
    const waiting = view.caughtUp({ sequence: 9, signal: abort.signal })
    await isSettled(waiting)
    abort.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
    await expect(view.caughtUp({ signal: abort.signal })).rejects.toThrow('enough')
    const quick = new AbortController()
    const removed = vi.spyOn(quick.signal, 'removeEventListener')
    await view.caughtUp({ signal: quick.signal })
    expect(remove.mock.calls.length + removed.mock.calls.length).toBeGreaterThan(0)
    await store.close()
  })

  test('rejects with CLOSED when the view is closed, before and after', async () => {
    const { store } = await newJournal(1)
    const view = await openView(store)
    const waiting = errorOf(view.caughtUp({ sequence: 9 }))
    await view.close()
    expect((await waiting).code).toBe('ERR_MINISTORE_CLOSED')
    expect((await errorOf(view.caughtUp())).code).toBe('ERR_MINISTORE_CLOSED')
    expect((await errorOf(view.caughtUp({ sequence: 1 }))).code).toBe('ERR_MINISTORE_CLOSED')
    expect(() => view.changes()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CLOSED' }))
    expect(view.state.sums).toEqual([1])
    // The journal belongs to the caller.
    expect(await store.append({ by: 2 })).toBe(2)
    await store.close()
  })

  test('rejects once the journal is closed, after the view has folded the rest; that is no error', async () => {
    const { store } = await newJournal(1)
    const onError = vi.fn()
    await using view = await openView(store, { onError })
    const ninth = errorOf(view.caughtUp({ sequence: 9 }))
    await appendTo(store, 8)
    await store.close()
    expect(await ninth).toMatchObject({ code: 'ERR_MINISTORE_CLOSED', message: 'The journal was closed' })
    expect(view.state.sums).toEqual(sumsOf(8))
    expect(await view.caughtUp({ sequence: 8 })).toBe(8)
    expect(onError).not.toHaveBeenCalled()
  })
})

describe('a journal that is closed already', () => {
  test.each([0, 3])('is refused, with %s records', async (last) => {
    const { store } = await newJournal(last)
    await store.close()
    const onError = vi.fn()
    expect((await errorOf(openView(store, { onError }))).code).toBe('ERR_MINISTORE_CLOSED')
    expect(onError).not.toHaveBeenCalled()
  })
})

describe('a journal at a path that is missing', () => {
  test('is empty until it is there', async () => {
    const files = new SimulatedFileSystem()
    await using view = await openView(path, { fileSystem: elsewhere(files), pollIntervalMs: 5 })
    expect([view.sequence, view.state.sums]).toEqual([0, []])
    expect(await view.caughtUp()).toBe(0)
    const store = await openJournal(path, files)
    await appendTo(store, 3)
    expect(await view.caughtUp({ sequence: 3 })).toBe(3)
    await store.close()
  })
})

describe('a mutator that throws', () => {
  /** Changes the state and then throws at one record. */
  const failingAt = (at: number) => (state: Sums, { by }: Add, { sequence }: { sequence: number }): void => {
    state.sums.push((state.sums.at(-1) ?? 0) + by)
    if (sequence === at) throw new Error('no')
  }

  test('stops the view; the state before it can be read, not half changed', async () => {
    const { store } = await newJournal(3)
    const onError = vi.fn()
    await using view = await openView(store, { mutator: failingAt(5), onError })
    const waiting = errorOf(view.caughtUp({ sequence: 9 }))
    await appendTo(store, 9)
    const error = await waiting
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR', sequence: 5 })
    expect([view.sequence, view.state.sums, view.snapshot().sums]).toEqual([4, sumsOf(4), sumsOf(4)])
    expect(onError.mock.calls).toEqual([[error]])
    expect(await view.caughtUp({ sequence: 4 })).toBe(4)
    expect(await errorOf(view.caughtUp())).toBe(error)
    expect(await errorOf(view.caughtUp({ sequence: 5 }))).toBe(error)
    // What was folded is still given, then the error.
    expect(await collect(view.changes())).toEqual(numbered(1, 4))
    const followed = await outcomeOf(view.changes({ from: 3, follow: true }))
    expect(followed).toEqual({ items: numbered(3, 4), error })
    await store.close()
  })

  test('shows no half-changed state while the one before it is rebuilt', async () => {
    const files = new ObservedFileSystem()
    const directory = await temporaryDirectory()
    const store = await openJournal(join(directory, 'journal.jsonl'))
    await appendTo(store, 4)
    const gate = new Gate()
    let isGated = false
    files.hook = ({ operation }: Call) => (isGated && operation === 'open' ? gate.wait() : undefined)
    await using view = await openView(store.path, {
      fileSystem: files,
      onError: () => {},
      mutator: (state, add, context) => {
        isGated = context.sequence === 5
        failingAt(5)(state, add, context)
      },
    })
    await appendTo(store, 5)
    await gate.reached
    expect(() => view.state).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_MUTATOR', sequence: 5 }))
    expect(() => view.snapshot()).toThrow(MiniStoreError)
    isGated = false
    gate.open()
    await errorOf(view.caughtUp({ sequence: 5 }))
    expect(view.state.sums).toEqual(sumsOf(4))
    await store.close()
  })

  test('is rebuilt from the nearest own snapshot', async () => {
    const { files, store } = await newJournal(3)
    const folded: number[] = []
    await using view = await openView(store, {
      fileSystem: files,
      snapshots: { directory: '/view', everyMutations: 2 },
      onError: () => {},
      mutator: (state, add, context) => {
        folded.push(context.sequence)
        failingAt(6)(state, add, context)
      },
    })
    await appendTo(store, 6)
    await errorOf(view.caughtUp({ sequence: 6 }))
    expect(view.state.sums).toEqual(sumsOf(5))
    expect(folded).toEqual([1, 2, 3, 4, 5, 6, 5])
    await store.close()
  })

  test('and also closes the view leaves no half-changed state, and no snapshot of one', async () => {
    const { files, store } = await newJournal(3)
    const abort = new AbortController()
    const onError = vi.fn()
    const view = await openView(store, {
      fileSystem: files,
      snapshots: { directory: '/view' },
      signal: abort.signal,
      onError,
      mutator: (state, add, context) => {
        if (context.sequence === 4) abort.abort(new Error('enough'))
        failingAt(4)(state, add, context)
      },
    })
    const waiting = view.caughtUp({ sequence: 4 })
    await appendTo(store, 4)
    await expect(waiting).rejects.toThrow('enough')
    await view.close()
    expect([view.sequence, view.state.sums]).toEqual([3, sumsOf(3)])
    expect(files.names('/view')).toEqual(['view.lock'])
    expect(onError.mock.calls).toEqual([[expect.objectContaining({ code: 'ERR_MINISTORE_MUTATOR', sequence: 4 })]])
    await store.close()
  })

  test.each([0, 2, 4, 6])('leaves no half-changed state if a close comes %s microtasks after its record', async (ticks) => {
    let give: ReadableStreamDefaultController<JournalEntry<Add>> | undefined
    const entries = ({ from = 1, follow, signal }: JournalRange = {}): ReadableStream<JournalEntry<Add>> =>
      new ReadableStream({
        start: (controller) => {
          signal?.addEventListener('abort', () => controller.error(signal.reason))
          for (const entry of numbered(from, 1)) controller.enqueue(entry)
          if (follow === true) give = controller
          else controller.close()
        },
      })
    const files = new SimulatedFileSystem()
    const log = { firstSequence: 1, lastSequence: 1, entries } as never
    const view = await openView(log, {
      fileSystem: files, snapshots: { directory: '/view' }, mutator: failingAt(2), onError: () => {},
    })
    await turn()
    give?.enqueue({ sequence: 2, record: { by: 2 } })
    for (let tick = 0; tick < ticks; tick++) await Promise.resolve()
    await view.close()
    expect([view.sequence, view.state.sums]).toEqual([1, sumsOf(1)])
    const written = files.names('/view').filter((name) => name !== 'view.lock')
    for (const name of written) expect(files.readFile(`/view/${name}`).toString()).toContain('{"sums":[1]}')
  })

  test('stays lost if the records before it are gone', async () => {
    const { store } = await newJournal(3)
    await using view = await openView(store, { mutator: failingAt(5), onError: () => {} })
    await store.rotate()
    await store.truncateBefore(4)
    await appendTo(store, 5)
    const error = await errorOf(view.caughtUp({ sequence: 5 }))
    expect(error.code).toBe('ERR_MINISTORE_MUTATOR')
    expect(() => view.state).toThrow(error)
    expect(view.sequence).toBe(4)
    await store.close()
  })

  test('makes open reject, and is not told to onError', async () => {
    const { files, store } = await newJournal(5)
    const onError = vi.fn()
    const options = { mutator: failingAt(5), onError, fileSystem: files, snapshots: { directory: '/view' } }
    expect(await errorOf(openView(store, options))).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR', sequence: 5 })
    expect(onError).not.toHaveBeenCalled()
    // The lock is free again.
    const view = await openView(store, { ...options, ...adding })
    await view.close()
    await store.close()
  })
})

describe('the error that stops a view', () => {
  test('becomes a process warning without onError', async () => {
    const { store } = await newJournal(1)
    const warned = once(process, 'warning')
    await using view = await openView(store, {
      mutator: (state, _add, { sequence }) => {
        if (sequence === 2) throw new Error('no')
        return state
      },
    })
    await appendTo(store, 2)
    expect(await warned).toEqual([expect.objectContaining({ code: 'ERR_MINISTORE_MUTATOR' })])
    expect(view.sequence).toBe(1)
    await store.close()
  })

  test('is told by a source that fails; the state stays readable', async () => {
    const { files, store } = await newJournal(3)
    const failed = deferred<unknown>()
    await using view = await openView(path, { fileSystem: elsewhere(files), pollIntervalMs: 5, onError: failed.resolve })
    await store.close()
    files.writeFile(path, Buffer.concat([files.readFile(path), Buffer.from('{"by":4}\nbroken\n{"by":6}\n')]))
    expect(await failed.promise).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    expect(view.state.sums).toEqual(sumsOf(4))
    expect((await errorOf(view.caughtUp({ sequence: 5 }))).code).toBe('ERR_MINISTORE_CORRUPT')
  })
})

describe('a gap', () => {
  test('at open is refused: no snapshot covers the records that were dropped', async () => {
    const { files, store } = await newJournal(4)
    await store.rotate()
    await store.truncateBefore(5)
    expect(await errorOf(openView(store))).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP', sequence: 1 })
    expect(await errorOf(openView(path, { fileSystem: elsewhere(files) }))).toMatchObject({ sequence: 1 })
    await store.close()
  })

  test('behind a live view stops it', async () => {
    const { files, store } = await newJournal(4, 60)
    const blocked = new Gate()
    let isHeld = false
    const slow = elsewhere(files)
    const failed = deferred<unknown>()
    await using view = await openView(path, {
      fileSystem: {
        ...slow,
        open: async (...given) => {
          if (isHeld) await blocked.wait()
          return await slow.open(...given)
        },
      },
      pollIntervalMs: 1,
      onError: failed.resolve,
    })
    isHeld = true
    await appendTo(store, 9)
    await blocked.reached
    await store.rotate()
    await store.truncateBefore(10)
    blocked.open()
    isHeld = false
    expect(await failed.promise).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP' })
    expect(view.state.sums).toEqual(sumsOf(view.sequence))
    await store.close()
  })

  test('in what another log gives is refused', async () => {
    const entries = (): ReadableStream<JournalEntry<Add>> => ReadableStream.from([...numbered(1, 2), ...numbered(4, 4)])
    const log = { firstSequence: 1, lastSequence: 4, entries } as never
    expect(await errorOf(openView(log))).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP', sequence: 3 })
  })
})

describe('a view that cannot keep up', () => {
  test('reads no further than it folds', async () => {
    let given = 0
    const entries = (range: JournalRange = {}): ReadableStream<JournalEntry<Add>> =>
      new ReadableStream(
        {
          pull: (controller) => {
            given += 1
            if (given > 1000) return new Promise(() => {})
            controller.enqueue({ sequence: given, record: { by: given } })
            return undefined
          },
          start: (controller) => range.signal?.addEventListener('abort', () => controller.error(range.signal?.reason)),
        },
        { highWaterMark: 0 },
      )
    const ahead: number[] = []
    const log = { firstSequence: 1, lastSequence: 1000, entries } as never
    await using view = await openView(log, {
      mutator: (state, _add, { sequence }) => {
        ahead.push(given - sequence)
        return state
      },
    })
    expect(view.sequence).toBe(1000)
    expect(Math.max(...ahead)).toBeLessThanOrEqual(1)
  })

  test('lets timers run while it folds', async () => {
    const { store } = await newJournal(0)
    await store.appendAll(Array.from({ length: 40 }, (_, at) => ({ by: at + 1 })))
    let ticks = 0
    const timer = setInterval(() => (ticks += 1), 1)
    onTestFinished(() => clearInterval(timer))
    const mutator = (state: Sums): void => {
      const began = performance.now()
      while (performance.now() - began < 3) state.sums.length = 0
    }
    await using view = await openView(store, { mutator })
    expect(view.sequence).toBe(40)
    expect(ticks).toBeGreaterThan(2)
    await store.close()
  })

  test('costs a slow consumer of its changes nothing but a place in the journal', async () => {
    const { store } = await newJournal(2)
    await using view = await openView(store)
    const entries = view.changes({ follow: true })[Symbol.asyncIterator]()
    expect(await take(entries, 1)).toEqual(numbered(1, 1))
    const reads = vi.spyOn(store, 'entries')
    await appendTo(store, 500)
    await view.caughtUp()
    expect(reads).not.toHaveBeenCalled()
    expect(await take(entries, 499)).toEqual(numbered(2, 500))
    await entries.return?.()
    await store.close()
  })
})

describe('changes that follow', () => {
  test('end when the view is closed, with all that it has folded', async () => {
    const { store } = await newJournal(2)
    const view = await openView(store)
    const waiting = collect(view.changes({ follow: true }))
    const late = view.changes({ follow: true })[Symbol.asyncIterator]()
    await take(late, 1)
    await appendTo(store, 6)
    await view.caughtUp()
    await view.close()
    expect(await waiting).toEqual(numbered(1, 6))
    expect(await take(late, 9)).toEqual(numbered(2, 6))
    await store.close()
  })

  test('end with the reason of their signal, and at a cancel while they wait', async () => {
    const { store } = await newJournal(1)
    await using view = await openView(store)
    const abort = new AbortController()
    const outcome = outcomeOf(view.changes({ follow: true, signal: abort.signal }))
    const reader = view.changes({ follow: true }).getReader()
    await reader.read()
    const pending = reader.read()
    await isSettled(outcome)
    abort.abort(new Error('enough'))
    expect(await outcome).toEqual({ items: numbered(1, 1), error: new Error('enough') })
    await reader.cancel()
    expect(await pending).toEqual({ done: true, value: undefined })
    await store.close()
  })
})

describe('changes of a journal that ends, and of consumers that leave', () => {
  test('still give what was folded when the journal is closed, and then end', async () => {
    const { store } = await newJournal(5)
    await using view = await openView(store)
    const entries = view.changes({ follow: true })[Symbol.asyncIterator]()
    await take(entries, 1)
    const unread = view.changes({ follow: true })
    const waiting = errorOf(view.caughtUp({ sequence: 9 }))
    await store.close()
    await waiting
    expect(await take(entries, 9)).toEqual(numbered(2, 5))
    expect((await outcomeOf(unread)).error).toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
  })

  test.each([false, true])('can be left while they wait, without an answer to that wait; kept: %s', async (preventCancel) => {
    const { store } = await newJournal(1)
    await using view = await openView(store)
    const stream = view.changes({ follow: true })
    const entries = stream.values({ preventCancel })
    await entries.next()
    const pending = entries.next()
    expect(await isSettled(pending)).toBe(false)
    expect(await entries.return?.()).toEqual({ done: true, value: undefined })
    expect(await pending).toEqual({ done: true, value: undefined })
    expect(await entries.next()).toEqual({ done: true, value: undefined })
    expect(stream.locked).toBe(false)
    await store.close()
  })

  test('end with the reason of their signal also after the view was closed', async () => {
    const { store } = await newJournal(3)
    const view = await openView(store)
    const abort = new AbortController()
    const entries = view.changes({ follow: true, signal: abort.signal })[Symbol.asyncIterator]()
    await entries.next()
    await view.close()
    abort.abort(new Error('mine'))
    await expect(entries.next()).rejects.toThrow('mine')
    await store.close()
  })

  test('end with the reason of a signal also if there is nothing to give', async () => {
    const { store } = await newJournal()
    await using view = await openView(store)
    const outcome = await outcomeOf(view.changes({ signal: AbortSignal.abort(new Error('mine')) }))
    expect(outcome).toEqual({ items: [], error: new Error('mine') })
    await store.close()
  })

  test('decode in the asynchronous context of the call', async () => {
    const { files, store } = await newJournal(1)
    await store.close()
    const context = new AsyncLocalStorage<string>()
    const seen = new Set<string | undefined>()
    const decode = (line: string): Add => {
      seen.add(context.getStore())
      return JSON.parse(line) as Add
    }
    await using view = await openView(path, { fileSystem: files, codec: { decode } })
    seen.clear()
    const entries = context.run('call', () => view.changes({ follow: true }))[Symbol.asyncIterator]()
    await context.run('consumer', () => entries.next())
    expect([...seen]).toEqual(['call'])
    await entries.return?.()
  })
})

describe('a read replica', () => {
  test('begins at the newest snapshot of the manager, and follows it', async () => {
    const files = new SimulatedFileSystem()
    const manager = await openManager('/state', { fileSystem: files })
    await appendTo(manager, 6)
    await manager.compact()
    await appendTo(manager, 8)
    const folded: number[] = []
    await using view = await openView('/state', {
      fileSystem: elsewhere(files),
      pollIntervalMs: 5,
      mutator: (state, add, { sequence }) => {
        folded.push(sequence)
        return adding.mutator(state, add, { sequence })
      },
    })
    expect([view.sequence, view.state, folded]).toEqual([8, manager.state, [7, 8]])
    await appendTo(manager, 12)
    expect(await view.caughtUp()).toBe(12)
    expect([view.state, folded]).toEqual([manager.state, [7, 8, 9, 10, 11, 12]])
    await manager.close()
  })

  test.each([false, true])('equals a manager that compacts all the time; in another process: %s', async (isElsewhere) => {
    const files = new SimulatedFileSystem()
    const manager = await openManager('/state', { fileSystem: files, journal: { maxBytesPerSegment: 60 }, snapshots: { keep: 1 } })
    const fileSystem = isElsewhere ? elsewhere(files) : files
    await using view = await openView('/state', { fileSystem, pollIntervalMs: 1 })
    for (let last = 3; last <= 300; last += 3) {
      await appendTo(manager, last)
      await manager.compact()
      if (last % 60 === 0) {
        expect(await view.caughtUp({ sequence: last })).toBe(last)
        expect(view.state).toEqual(manager.state)
      }
      expect(view.state.sums).toEqual(sumsOf(view.sequence))
    }
    await manager.close()
  })

  test('goes on with the newer snapshot when its next record is gone', async () => {
    const directory = await temporaryDirectory()
    const files = new ObservedFileSystem()
    const manager = await openManager(directory, { snapshots: { keep: 1 } })
    await appendTo(manager, 3)
    await using view = await openView(directory, { fileSystem: files, pollIntervalMs: 1 })
    const gate = new Gate()
    files.hook = ({ operation, path: at }: Call) => {
      const isLook = operation === 'stat' || operation === 'open'
      return isLook && at.endsWith('journal.jsonl') ? gate.wait() : undefined
    }
    await appendTo(manager, 6)
    await gate.reached
    await manager.compact()
    await appendTo(manager, 9)
    await manager.compact()
    await appendTo(manager, 10)
    const follower = outcomeOf(view.changes({ from: 4, follow: true }))
    files.hook = () => {}
    gate.open()
    expect(await view.caughtUp({ sequence: 10 })).toBe(10)
    expect(view.state).toEqual(manager.state)
    expect((await follower).error).toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE' })
    await manager.close()
  })

  test('changes nothing in the directory of the state, not even what a crash has left', async () => {
    const directory = await temporaryDirectory()
    const manager = await openManager(directory, { snapshots: { keep: 1 } })
    await appendTo(manager, 4)
    await manager.compact()
    await rename(join(directory, 'snapshot-4.json'), join(directory, 'snapshot-9.json.tmp'))
    await appendTo(manager, 5)
    await manager.createSnapshot()
    const changed: string[] = []
    const files = new ObservedFileSystem(({ operation, path: at }) => {
      if (['rename', 'unlink', 'makeDirectory', 'write', 'truncate', 'lock'].includes(operation) && at.startsWith(directory)) {
        changed.push(`${operation} ${at}`)
      }
    })
    const before = (await files.list(directory)).toSorted()
    const own = join(await temporaryDirectory(), 'view')
    const view = await openView(directory, { fileSystem: files, snapshots: { directory: own, everyMutations: 1 } })
    await appendTo(manager, 8)
    await view.caughtUp()
    await view.close()
    expect(changed).toEqual([])
    expect((await files.list(directory)).toSorted()).toEqual(before)
    expect(await files.list(own)).toContain('snapshot-8.json')
    await manager.close()
  })

  test('reads the snapshots with the codec of the manager', async () => {
    const files = new SimulatedFileSystem()
    const codec = { encode: ({ sums }: Sums) => sums.join(), decode: (text: string) => ({ sums: text.split(',').map(Number) }) }
    const manager = await openManager('/state', { fileSystem: files, snapshots: { codec } })
    await appendTo(manager, 4)
    await manager.compact()
    await using view = await openView('/state', { fileSystem: files, snapshots: { codec } })
    expect(view.state.sums).toEqual(sumsOf(4))
    await manager.close()
  })

  test('of a journal that has lost its end is refused', async () => {
    const files = new SimulatedFileSystem()
    const manager = await openManager('/state', { fileSystem: files })
    await appendTo(manager, 4)
    await manager.createSnapshot()
    await manager.close()
    files.writeFile('/state/journal.jsonl', '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n')
    expect((await errorOf(openView('/state', { fileSystem: files }))).code).toBe('ERR_MINISTORE_SNAPSHOT_AHEAD')
  })
})

describe('own snapshots', () => {
  const snapshots = { directory: '/view', everyMutations: 4 }
  /** A mutator that notes what it folds. */
  const noting = (folded: number[]) => (state: Sums, add: Add, context: { sequence: number }): void => {
    folded.push(context.sequence)
    adding.mutator(state, add, context)
  }

  test('are made at every so many records and at close; a restart folds only the rest', async () => {
    const { files, store } = await newJournal(10)
    const view = await openView(store, { fileSystem: files, snapshots })
    expect(files.names('/view').toSorted()).toEqual(['snapshot-4.json', 'snapshot-8.json', 'view.lock'])
    await view.close()
    expect(files.names('/view').toSorted()).toEqual(['snapshot-10.json', 'snapshot-8.json', 'view.lock'])
    await appendTo(store, 12)
    const folded: number[] = []
    const again = await openView(store, { fileSystem: files, snapshots, mutator: noting(folded) })
    expect([again.state.sums, folded]).toEqual([sumsOf(12), [11, 12]])
    await again.close()
    await store.close()
  })

  test('are not written again by a view that has folded nothing new', async () => {
    const { files, store } = await newJournal(3)
    await (await openView(store, { fileSystem: files, snapshots })).close()
    const written: string[] = []
    files.onOperation(({ operation, path: at }) => {
      if (operation === 'rename') written.push(at)
    })
    await (await openView(store, { fileSystem: files, snapshots })).close()
    expect(written).toEqual([])
    await store.close()
  })

  test('let a killed view go on from the newest one', async () => {
    const { files, store } = await newJournal(6)
    await openView(store, { fileSystem: files, snapshots })
    await store.close()
    const left = files.afterKill()
    const folded: number[] = []
    await using view = await openView(path, { fileSystem: left, snapshots, mutator: noting(folded) })
    expect([view.state.sums, folded]).toEqual([sumsOf(6), [5, 6]])
  })

  test('cover what the journal no longer has', async () => {
    const { files, store } = await newJournal(8)
    await (await openView(store, { fileSystem: files, snapshots })).close()
    await store.rotate()
    await store.truncateBefore(9)
    await appendTo(store, 10)
    await using view = await openView(store, { fileSystem: files, snapshots })
    expect(view.state.sums).toEqual(sumsOf(10))
    await store.close()
  })

  test('of a replica are used when they are newer than those of the manager, and the other way round', async () => {
    const files = new SimulatedFileSystem()
    const manager = await openManager('/state', { fileSystem: files })
    await appendTo(manager, 3)
    await manager.createSnapshot()
    await appendTo(manager, 6)
    await (await openView('/state', { fileSystem: files, snapshots })).close()
    const foldedBy = async (): Promise<number[]> => {
      const folded: number[] = []
      const view = await openView('/state', { fileSystem: files, snapshots, mutator: noting(folded) })
      expect(view.state).toEqual(manager.state)
      await view.close()
      return folded
    }
    await appendTo(manager, 7)
    expect(await foldedBy()).toEqual([7])
    await appendTo(manager, 9)
    await manager.createSnapshot()
    await appendTo(manager, 10)
    expect(await foldedBy()).toEqual([10])
    await manager.close()
  })

  test('belong to one view at a time', async () => {
    const { files, store } = await newJournal(1)
    const view = await openView(store, { fileSystem: files, snapshots })
    const error = await errorOf(openView(store, { fileSystem: files, snapshots }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_LOCKED', path: '/view' })
    expect((await errorOf(openView(path, { fileSystem: elsewhere(files), snapshots }))).code).toBe('ERR_MINISTORE_LOCKED')
    await view.close()
    await (await openView(store, { fileSystem: files, snapshots })).close()
    await store.close()
  })

  test('ahead of the journal are refused', async () => {
    const { files, store } = await newJournal(5)
    await (await openView(store, { fileSystem: files, snapshots })).close()
    await store.close()
    files.writeFile(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n{"by":1}\n')
    const error = await errorOf(openView(path, { fileSystem: files, snapshots }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', sequence: 5 })
  })

  test('in the directory of a state are refused, because a view would remove the snapshots of the manager', async () => {
    const files = new SimulatedFileSystem()
    const manager = await openManager('/state', { fileSystem: files })
    for (const source of ['/state', '/state/journal.jsonl']) {
      const opening = openView(source, { fileSystem: files, snapshots: { directory: '/state' } })
      await expect(opening).rejects.toThrow(/`snapshots\.directory` to be a directory of the view's own.*\/state/)
    }
    await manager.close()
  })

  test('where those of a manager lie are refused, and nothing there is changed', async () => {
    const { files, store } = await newJournal()
    const manager = await StateManager.over<Sums, Add>(store, new SnapStore('/snapshots', { fileSystem: files }), adding)
    await appendTo(manager, 3)
    await manager.createSnapshot()
    const opening = openView(path, { fileSystem: files, snapshots: { directory: '/snapshots' } })
    await expect(opening).rejects.toThrow(/`snapshots\.directory` to be a directory of the view's own.*no view\.lock/)
    expect(files.names('/snapshots')).toEqual(['snapshot-3.json'])
    await manager.close()
  })

  test('of records in another process are made only after those records are durable', async () => {
    const { files, store } = await newJournal(3)
    const steps: string[] = []
    files.onOperation(({ operation, path: at }) => {
      if (operation === 'dataSync' && at === path) steps.push('sync of the journal')
      if (operation === 'rename' && at.startsWith('/view/')) steps.push('snapshot')
    })
    const there = { fileSystem: elsewhere(files), snapshots: { directory: '/view' } }
    await (await openView(path, there)).close()
    expect(steps).toEqual(['sync of the journal', 'snapshot'])
    await store.close()
  })

  test('that fail are told to snapshots.onError and stop nothing', async () => {
    const { files, store } = await newJournal(3)
    const told: unknown[] = []
    const onError = vi.fn()
    const view = await openView(store, {
      fileSystem: files, onError, snapshots: { directory: '/view', everyMutations: 4, onError: (error) => told.push(error) },
    })
    files.failOn({ operation: 'rename', times: 'always' }, 'ENOSPC')
    await appendTo(store, 5)
    await view.caughtUp()
    expect(told).toEqual([expect.objectContaining({ code: 'ERR_MINISTORE_IO' })])
    await view.close()
    expect(told).toHaveLength(2)
    expect(onError).not.toHaveBeenCalled()
    expect(view.state.sums).toEqual(sumsOf(5))
    await store.close()
  })
})

describe('the signal of open', () => {
  test('ends the opening with its reason', async () => {
    const { store } = await newJournal(1)
    await expect(openView(store, { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
    const abort = new AbortController()
    const opening = openView(store, {
      signal: abort.signal,
      mutator: () => {
        abort.abort(new Error('later'))
      },
    })
    await expect(opening).rejects.toThrow('later')
    await store.close()
  })

  test('closes an open view, and frees its lock', async () => {
    const { files, store } = await newJournal(1)
    const abort = new AbortController()
    const options = { fileSystem: files, snapshots: { directory: '/view' } }
    const onError = vi.fn()
    const view = await openView(store, { ...options, signal: abort.signal, onError })
    const waiting = view.caughtUp({ sequence: 9 })
    abort.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
    await view.close()
    await (await openView(store, options)).close()
    expect(onError).not.toHaveBeenCalled()
    await store.close()
  })
})

describe('options that do not fit', () => {
  test.each<[string, unknown, object, RegExp]>([
    ['no source', undefined, {}, /`source` to be a path or a journal, got `undefined`/],
    ['an empty path', '', {}, /`source` to be a non-empty string/],
    ['another object', {}, {}, /`source` to be a path or a journal, got an object/],
    ['a misspelled option', path, { mutators: () => {} }, /Unknown option `mutators`: did you mean `mutator`/],
    ['no mutator', path, { mutator: undefined }, /`mutator` to be a function/],
    ['snapshots without a directory', path, { snapshots: { codec: { encode: String, decode: Number } } }, /`snapshots.directory`/],
    ['keep without a directory', path, { snapshots: { keep: 2 } }, /`snapshots.directory` beside `keep`/],
    ['keep of nothing', path, { snapshots: { directory: '/view', keep: 0 } }, /`keep` to be a whole number/],
    ['a signal that is none', path, { signal: {} }, /`signal` to be an AbortSignal/],
    ['an interval of no time', path, { pollIntervalMs: 0 }, /`pollIntervalMs` to be a whole number, 1 or greater|from 1/],
  ])('%s', async (_what, source, options, message) => {
    const files = new SimulatedFileSystem()
    await expect(openView(source as string, { fileSystem: files, ...options })).rejects.toThrow(message)
  })

  test('a schema beside a journal that is open', async () => {
    const { store } = await newJournal()
    await expect(openView(store, { pollIntervalMs: 5 })).rejects.toThrow('Expected no `pollIntervalMs` with a journal')
    await store.close()
  })

  test('of caughtUp and changes', async () => {
    const { store } = await newJournal(1)
    await using view = await openView(store)
    await expect(view.caughtUp({ sequence: -1 })).rejects.toThrow(RangeError)
    await expect(view.caughtUp({ seq: 1 } as object)).rejects.toThrow('did you mean `sequence`')
    expect(() => view.changes({ from: 3, to: 2 })).toThrow(RangeError)
    expect(() => view.changes({ salvage: () => {} } as object)).toThrow('Unknown option')
    await store.close()
  })
})

describe('a view of a writer in another process', () => {
  test('follows it over rotations', async () => {
    const directory = await temporaryDirectory()
    const remote = RemoteStore.inProcess()
    const file = join(directory, 'journal.jsonl')
    await remote.open(file, { maxBytesPerSegment: 400 })
    const view = await openView(file)
    for (let by = 1; by <= 60; by++) expect(await view.caughtUp({ sequence: await remote.append({ by }) })).toBe(by)
    expect(view.state.sums).toEqual(sumsOf(60))
    await view.close()
    await remote.close()
    expect(descriptorsIn(directory)).toBe(0)
  })

  test('that is killed at any moment comes back with every record once', { timeout: 120_000 }, async () => {
    const directory = await temporaryDirectory()
    const file = join(directory, 'journal.jsonl')
    const snapshots = { directory: join(directory, 'view'), everyMutations: 2 }
    const store = await openJournal(file, undefined, 300)
    for (let round = 0; round < 3; round++) {
      const killed = RemoteStore.inProcess()
      await killed.openView(file, snapshots)
      expect(await killed.viewed()).toEqual({
        sequence: store.lastSequence, state: numbered(1, store.lastSequence).map(({ record }) => record),
      })
      await appendTo(store, 20 * round + 10 + Math.floor(10 * Math.random()))
      await killed.kill()
      await appendTo(store, 20 * round + 20)
    }
    const folded: number[] = []
    await using view = await openView(file, {
      snapshots,
      mutator: (state, _add, { sequence }) => {
        folded.push(sequence)
        return state
      },
    })
    expect([view.sequence, folded.length < 60]).toEqual([60, true])
    await store.close()
  })

  test('goes on from its own snapshot when the writer was killed', { timeout: 120_000 }, async () => {
    const directory = await temporaryDirectory()
    const own = join(directory, 'view')
    const file = join(directory, 'journal.jsonl')
    for (let round = 0; round < 3; round++) {
      const remote = RemoteStore.inProcess()
      const { lastSequence } = await remote.open(file, { maxBytesPerSegment: 300 })
      const view = await openView(file, { snapshots: { directory: own, everyMutations: 3 } })
      for (let by = lastSequence + 1; by <= lastSequence + 10; by++) await remote.append({ by })
      await view.caughtUp()
      await remote.kill()
      expect(view.state.sums).toEqual(sumsOf(10 * (round + 1)))
      await view.close()
    }
  })
})

test('a closed view leaves nothing open', async () => {
  const directory = await temporaryDirectory()
  const files = new ObservedFileSystem()
  const file = join(directory, 'journal.jsonl')
  const store = await openJournal(file)
  await appendTo(store, 5)
  await store.close()
  const view = await openView(file, { fileSystem: files, snapshots: { directory: join(directory, 'view') } })
  expect(files.openFiles).toBeGreaterThan(0)
  const follower = collect(view.changes({ follow: true }))
  await turn()
  await view.close()
  await follower
  await files.untilOpen(0)
  expect(descriptorsIn(directory)).toBe(0)
})
