import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createContext, runInContext } from 'node:vm'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, test } from 'vitest'

import { MiniStore } from '../src/index.ts'
import { SnapStore } from '../src/minisnap/index.ts'
import { StateManager } from '../src/ministate/index.ts'
import { type FileSystem, SimulatedFileSystem } from '../src/testing/index.ts'
import { openQueue } from './miniqueue/support.ts'
import { openSums } from './ministate/support.ts'
import { temporaryDirectory } from './support/temporary-directory.ts'

/**
 * Another realm: its Error, Promise and other built-ins are classes of their own, as in Jest, jsdom
 * and happy-dom. It also has a hand-made AbortController, like that of a polyfill.
 */
const realm = createContext({})
runInContext(
  `
  class AbortSignal {
    aborted = false
    reason = undefined
    listeners = new Set()
    addEventListener(type, listener) { this.listeners.add(listener) }
    removeEventListener(type, listener) { this.listeners.delete(listener) }
  }
  globalThis.AbortController = class {
    signal = new AbortSignal()
    abort(reason) {
      this.signal.aborted = true
      this.signal.reason = reason
      for (const listener of [...this.signal.listeners]) listener({ type: 'abort' })
    }
  }
  globalThis.errorLike = (error) => Object.assign(new Error(error.message), { ...error })
  globalThis.refuse = (reason) => Promise.reject(reason)
  globalThis.late = (value) => Promise.resolve(value)
  `,
  realm,
)

interface ForeignController {
  readonly signal: AbortSignal & { readonly listeners: ReadonlySet<unknown> }
  abort(reason: unknown): void
}

const foreignController = (): ForeignController => runInContext('new AbortController()', realm) as ForeignController
const foreignError = realm['errorLike'] as (error: object) => object
const foreignRejection = realm['refuse'] as (reason: unknown) => Promise<never>
const foreignPromise = realm['late'] as <T>(value: T) => Promise<T>

/** A file system whose errors and promises come from the other realm. */
function foreignFileSystem(files: object): FileSystem {
  return new Proxy(files, {
    get(target, name) {
      const method: unknown = Reflect.get(target, name, target)
      if (typeof method !== 'function') return method
      return (...given: unknown[]): unknown => {
        const answer: unknown = Reflect.apply(method, target, given.map((value) => originals.get(value as object) ?? value))
        if (!(answer instanceof Promise)) return answer
        return answer.then(
          (value: unknown) => foreignPromise(isFile(value) ? foreignFile(value) : value),
          (error: unknown) => foreignRejection(foreignError(error as object)),
        )
      }
    },
  }) as FileSystem
}

const originals = new WeakMap<object, object>()

function isFile(value: unknown): value is object {
  return typeof value === 'object' && value !== null && 'dataSync' in value
}

function foreignFile(file: object): object {
  const foreign = foreignFileSystem(file)
  originals.set(foreign, file)
  return foreign
}

async function errorOf(failing: Promise<unknown>): Promise<{ readonly code?: string; readonly message: string }> {
  return (await failing.then(
    () => expect.unreachable('it was expected to reject'),
    (thrown: unknown) => thrown,
  )) as { readonly code?: string; readonly message: string }
}

describe('errors of another realm', () => {
  test('are not instances of the global class: otherwise these tests would prove nothing', () => {
    expect(foreignError(new Error('x')) instanceof Error).toBe(false)
    expect(foreignPromise(1) instanceof Promise).toBe(false)
  })

  test('a journal is created, written, rotated, read and reopened on a file system that throws them', async () => {
    const fileSystem = foreignFileSystem(new SimulatedFileSystem())
    const store = await MiniStore.open('/new/journal.jsonl', { fileSystem })
    expect(await store.append('a')).toBe(1)
    await store.rotate()
    expect(await store.append('b')).toBe(2)
    await store.truncateBefore(2)
    await store.close()
    const again = await MiniStore.open('/new/journal.jsonl', { fileSystem })
    expect(await again.replay()).toEqual(['b'])
    await again.close()
    expect(await MiniStore.replay('/new/journal.jsonl', { fileSystem })).toEqual(['b'])
  })

  test('a full disk and a full quota are recognized by them', async () => {
    const files = new SimulatedFileSystem()
    const store = await MiniStore.open('/journal.jsonl', { fileSystem: foreignFileSystem(files) })
    files.failOn({ operation: 'write' }, 'ENOSPC')
    expect(await errorOf(store.append('a'))).toMatchObject({ code: 'ERR_MINISTORE_IO', message: /no space left/ })
    files.clearFaults()
    files.failOn({ operation: 'write' }, 'EDQUOT')
    expect(await errorOf(store.append('a'))).toMatchObject({ code: 'ERR_MINISTORE_IO', message: /no space left/ })
    files.clearFaults()
    expect(await store.append('a')).toBe(1)
    await store.close()
  })

  test('a state and a queue live on such a file system', async () => {
    const fileSystem = foreignFileSystem(new SimulatedFileSystem())
    for (const sums of [[1], [1, 2]]) {
      const { manager } = await openSums({ fileSystem })
      await manager.apply({ by: 1 })
      await manager.compact()
      expect(manager.snapshot().sums).toEqual(sums)
      await manager.close()
      const { queue } = await openQueue({ fileSystem })
      await queue.enqueue('job')
      expect(await queue.receive({ max: 9 })).toHaveLength(sums.length)
      await queue.close()
    }
  })

  test('an error of another copy of the library counts by its code', async () => {
    const { manager: over } = await openOver({
      append: () => foreignRejection(foreignError({ name: 'MiniStoreError', code: 'ERR_MINISTORE_POISONED', message: 'no' })),
    })
    await expect(over.apply(1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED', message: 'no' })
    await expect(over.apply(1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED', message: 'Only close() works: no' })
    await over.close()
  })
})

/** A manager over a journal with some methods replaced. */
async function openOver(others: { append: () => Promise<number> }): Promise<{ manager: StateManager<number, number> }> {
  const fileSystem = new SimulatedFileSystem()
  const store = await MiniStore.open<number>('/journal.jsonl', { fileSystem })
  const journal = {
    firstSequence: 1,
    lastSequence: 0,
    append: others.append,
    entries: () => store.entries(),
    rotate: () => store.rotate(),
    truncateBefore: (sequence: number) => store.truncateBefore(sequence),
    close: () => store.close(),
  }
  const options = { initialState: () => 0, mutator: (sum: number, by: number) => sum + by }
  return { manager: await StateManager.over(journal, new SnapStore<number>('/', { fileSystem }), options) }
}

describe('a signal of another realm', () => {
  const reason = { why: 'enough' }

  test.each([
    ['a replay', (store: MiniStore, signal: AbortSignal) => store.stream({ signal })],
    ['a follower', (store: MiniStore, signal: AbortSignal) => store.entries({ signal, follow: true })],
    ['a follower by path', (store: MiniStore, signal: AbortSignal) => MiniStore.stream(store.path, { signal, follow: true })],
  ])('ends %s with its reason, and is let go of', async (_, open) => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await using store = await MiniStore.open(path)
    await store.append('a')
    const controller = foreignController()
    const iterator = open(store, controller.signal)[Symbol.asyncIterator]()
    expect(await iterator.next()).toMatchObject({ done: false })
    const next = iterator.next()
    controller.abort(reason)
    const end = await next.catch((error: unknown) => error)
    if (end !== reason) expect(end).toMatchObject({ done: true })
    expect(controller.signal.listeners.size).toBe(0)
    const other = foreignController()
    other.abort(reason)
    await expect(open(store, other.signal)[Symbol.asyncIterator]().next()).rejects.toBe(reason)
  })

  test('ends receive, consume and process of a queue, and is let go of', async () => {
    const { queue } = await openQueue()
    const controller = foreignController()
    const { signal } = controller
    const received = queue.receive({ signal, waitMs: Number.POSITIVE_INFINITY })
    const consumed = queue.consume({ signal })[Symbol.asyncIterator]().next()
    const processed = queue.process(() => {}, { signal })
    controller.abort(reason)
    await expect(received).rejects.toBe(reason)
    await expect(consumed).rejects.toBe(reason)
    await processed
    await expect(queue.receive({ signal })).rejects.toBe(reason)
    await queue.process(() => {}, { signal })
    expect(controller.signal.listeners.size).toBe(0)
    await queue.close()
  })

  test('ends the changes of a state', async () => {
    const { manager } = await openSums()
    const controller = foreignController()
    const next = manager.changes({ follow: true, signal: controller.signal }).getReader().read()
    controller.abort(reason)
    await expect(next).rejects.toBe(reason)
    await manager.close()
  })
})

describe('a promise where a value is due', () => {
  const load = { here: () => Promise.resolve({ a: 1 }), 'of another realm': () => foreignPromise({ a: 1 }) }
  const failing = { 'that rejects': () => Promise.reject(new Error('late')), 'that rejects elsewhere': () => foreignRejection(new Error('late')) }
  // As plain JavaScript may pass them: the compiler would refuse them.
  const promises = Object.entries({ ...load, ...failing }) as unknown as Array<[string, () => never]>
  const refused = { code: 'ERR_MINISTORE_NOT_SERIALIZABLE', message: /promise.*await/ }

  test.each(promises)('is refused as a record, and nothing is written: one %s', async (_, promise) => {
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: new SimulatedFileSystem() })
    expect(await errorOf(store.append(promise()))).toMatchObject(refused)
    expect(await errorOf(store.appendAll(['fine', promise()]))).toMatchObject(refused)
    const writer = store.writable().getWriter()
    writer.closed.catch(() => {})
    expect(await errorOf(writer.write(promise()))).toMatchObject(refused)
    expect(store.lastSequence).toBe(0)
  })

  test.each(promises)('is refused as a record that a codec encodes: one %s', async (_, promise) => {
    const codec = { encode: () => 'text', decode: (line: string) => line }
    await using store = await MiniStore.open('/journal.jsonl', { codec, fileSystem: new SimulatedFileSystem() })
    expect(await errorOf(store.append(promise()))).toMatchObject(refused)
    const late = { encode: promise, decode: (line: string) => line }
    await using other = await MiniStore.open('/other.jsonl', { codec: late, fileSystem: new SimulatedFileSystem() })
    const error = await errorOf(other.append('a'))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CODEC', message: /got a promise$/ })
    expect(other.lastSequence).toBe(0)
  })

  test.each(promises)('is refused as a mutation, a payload and a snapshot: one %s', async (_, promise) => {
    const { manager } = await openSums()
    expect(await errorOf(manager.apply(promise()))).toMatchObject(refused)
    expect(manager.sequence).toBe(0)
    await manager.close()
    const { queue } = await openQueue()
    expect(await errorOf(queue.enqueue(promise()))).toMatchObject(refused)
    expect(await errorOf(queue.enqueueAll([{ payload: promise() }]))).toMatchObject(refused)
    expect(queue.stats().ready).toBe(0)
    await queue.close()
    for (const codec of [undefined, { encode: () => 'text', decode: (text: string): unknown => text }]) {
      const snapshots = new SnapStore('/state', { fileSystem: new SimulatedFileSystem(), codec })
      for (const frozen of [false, true]) {
        expect(await errorOf(snapshots.create(promise(), 1, { frozen }))).toMatchObject(refused)
      }
      expect(await snapshots.exists()).toBe(false)
    }
    const late = new SnapStore('/state', {
      fileSystem: new SimulatedFileSystem(),
      codec: { encode: promise, decode: (text: string): unknown => text },
    })
    expect(await errorOf(late.create({}, 1))).toMatchObject({ code: 'ERR_MINISTORE_CODEC', message: /got a promise$/ })
  })

  test.each(promises)('is refused as an initial state, a new state and a backoff: one %s', async (_, promise) => {
    expect(await errorOf(openSums({ initialState: promise }))).toMatchObject({ message: /initialState.*got a promise/ })
    const { manager } = await openSums({ mutator: promise })
    expect(await errorOf(manager.apply({ by: 1 }))).toMatchObject({ code: 'ERR_MINISTORE_MUTATOR', message: /returned a promise/ })
    await manager.close()
    const { queue } = await openQueue({ backoff: promise })
    await queue.enqueue('job')
    const [message] = await queue.receive()
    expect(await errorOf(message?.nack() as Promise<void>)).toMatchObject({ message: /`backoff`.*got/ })
    await queue.close()
  })

  test.each(promises)('is refused as the output of a schema for a record: one %s', async (_, promise) => {
    const validate = (): StandardSchemaV1.Result<unknown> => ({ value: promise() })
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
    await using store = await MiniStore.open('/journal.jsonl', { schema, fileSystem: new SimulatedFileSystem() })
    expect(await errorOf(store.append('a'))).toMatchObject({ code: 'ERR_MINISTORE_SCHEMA', message: /got a promise$/ })
    expect(store.lastSequence).toBe(0)
  })

  test('of another realm is awaited where one may be: in a schema, validate and a handler', async () => {
    const validate = (value: unknown): Promise<StandardSchemaV1.Result<unknown>> => foreignPromise({ value })
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
    await using store = await MiniStore.open('/journal.jsonl', { schema, fileSystem: new SimulatedFileSystem() })
    await store.append('a')
    expect(await store.replay()).toEqual(['a'])
    const { manager } = await openSums({ validate: () => foreignRejection('no') })
    await expect(manager.apply({ by: 1 })).rejects.toBe('no')
    await manager.close()
    const { queue } = await openQueue({ maxAttempts: 1 })
    await queue.enqueue('job')
    const stop = new AbortController()
    await queue.process(
      () => {
        stop.abort()
        return foreignRejection('failed')
      },
      { signal: stop.signal },
    )
    expect(queue.deadLetters()).toMatchObject([{ reason: 'failed' }])
    await queue.close()
  })
})

test('the built package works where the globals are of another realm, as under Jest and jsdom', async () => {
  const directory = await temporaryDirectory()
  const script = join(import.meta.dirname, 'support/other-globals.js')
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [script, directory], { timeout: 25_000 })
  expect(stderr).toBe('')
  expect(JSON.parse(stdout)).toEqual({
    records: ['a', 'b'],
    followed: ['a', 'b', 'c'],
    followedByPath: ['a', 'b', 'c'],
    reason: 'enough',
    state: 2,
    attempts: [1, 2],
    notFound: 'ERR_MINISTORE_CLOSED',
  })
})
