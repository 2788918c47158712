import { execFile } from 'node:child_process'
import { subscribe, tracingChannel, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, onTestFinished, test, vi } from 'vitest'

import {
  type AppendTrace,
  MiniStore,
  type PoisonMessage,
  type RecoverTrace,
  type RotateTrace,
} from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory, temporaryProgram } from '../support/temporary-directory.ts'

type EventName = 'start' | 'end' | 'asyncStart' | 'asyncEnd' | 'error'

interface TraceEvent<Context> {
  readonly event: EventName
  /** A copy of the message at the time of the event. */
  readonly seen: Context & { readonly error?: unknown; readonly result?: unknown }
  /** The message object itself, the same for all events of one call. */
  readonly context: object
}

/** Collects the events of a tracing channel from now on, for the journal at this path only. */
function listen<Context extends { readonly path: string }>(
  channel: 'ministore:append' | 'ministore:rotate' | 'ministore:recover',
  path: string,
): Array<TraceEvent<Context>> {
  const events: Array<TraceEvent<Context>> = []
  const on =
    (event: EventName) =>
    (message: object): void => {
      const context = message as Context
      if (context.path === path) events.push({ event, seen: { ...context }, context })
    }
  const tracing = tracingChannel<object, object>(channel)
  const subscribers = {
    start: on('start'),
    end: on('end'),
    asyncStart: on('asyncStart'),
    asyncEnd: on('asyncEnd'),
    error: on('error'),
  }
  tracing.subscribe(subscribers)
  onTestFinished(() => {
    tracing.unsubscribe(subscribers)
  })
  return events
}

/** Collects the messages of the poison channel from now on. */
function listenToPoison(): PoisonMessage[] {
  const messages: PoisonMessage[] = []
  const listener = (message: unknown): void => void messages.push(message as PoisonMessage)
  subscribe('ministore:poison', listener)
  onTestFinished(() => {
    unsubscribe('ministore:poison', listener)
  })
  return messages
}

const settled: EventName[] = ['start', 'end', 'asyncStart', 'asyncEnd']
const failed: EventName[] = ['start', 'end', 'error', 'asyncStart', 'asyncEnd']

function names(events: ReadonlyArray<{ readonly event: EventName }>): EventName[] {
  return events.map(({ event }) => event)
}

async function journalPath(): Promise<string> {
  return join(await temporaryDirectory(), 'journal.jsonl')
}

describe('the tracing channel ministore:append', () => {
  test('publishes an append: path, bytes, records, and the sequence number once it is durable', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    const size = readFileSync(path).length
    const events = listen<AppendTrace>('ministore:append', path)
    await store.append('é')
    expect(names(events)).toEqual(settled)
    const bytes = readFileSync(path).length - size
    expect(bytes).toBe(Buffer.byteLength('"é"\n'))
    const [start, end, ...done] = events.map(({ seen }) => seen)
    const waitMs = expect.any(Number) as number
    expect(start).toEqual({ path, bytes, records: 1, waitMs })
    expect(end).toEqual({ path, bytes, records: 1, waitMs })
    for (const seen of done) expect(seen).toEqual({ path, bytes, records: 1, waitMs, sequence: 1, result: 1 })
  })

  test('says how long an append has waited for its turn', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    const events = listen<AppendTrace>('ministore:append', '/journal.jsonl')
    let now = 1000
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now)
    onTestFinished(() => clock.mockRestore())
    // Each append syncs once, which takes 7 ms here.
    files.onOperation(({ operation }) => {
      if (operation === 'dataSync') now += 7
    })
    await Promise.all(['a', 'b', 'c'].map((record) => store.append(record)))
    expect(events.filter(({ event }) => event === 'start').map(({ seen }) => seen.waitMs)).toEqual([0, 7, 14])
  })

  test('publishes an appendAll as one call, with the last sequence number', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await store.append('before')
    const events = listen<AppendTrace>('ministore:append', path)
    await store.appendAll(['a', 'b', 'c'])
    expect(names(events)).toEqual(settled)
    expect(events.at(-1)?.seen).toMatchObject({ path, bytes: 12, records: 3, sequence: 4 })
  })

  test('publishes nothing for an empty appendAll', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    const events = listen<AppendTrace>('ministore:append', path)
    await store.appendAll([])
    expect(events).toEqual([])
  })

  test('publishes overlapping appends one after another, each with its own context', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    const events = listen<AppendTrace>('ministore:append', path)
    await Promise.all(['a', 'b', 'c'].map((record) => store.append(record)))
    expect(names(events)).toEqual([...settled, ...settled, ...settled])
    expect(new Set(events.map(({ context }) => context)).size).toBe(3)
    const ends = events.filter(({ event }) => event === 'asyncEnd')
    expect(ends.map(({ seen }) => seen.sequence)).toEqual([1, 2, 3])
  })

  test('publishes a failure with the error of the caller and no sequence number', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    files.failOn({ operation: 'write' }, 'ENOSPC')
    const events = listen<AppendTrace>('ministore:append', '/journal.jsonl')
    const error: unknown = await store.append('record').catch((thrown: unknown) => thrown)
    expect(names(events)).toEqual(failed)
    for (const { seen } of events.slice(2)) {
      expect(seen.error).toBe(error)
      expect(seen).toMatchObject({ records: 1, error: { code: 'ERR_MINISTORE_IO' } })
      expect(seen.sequence).toBeUndefined()
    }
  })

  test('publishes a record that an asynchronous schema refuses', async () => {
    const path = await journalPath()
    const validate = async (): Promise<StandardSchemaV1.FailureResult> => ({ issues: [{ message: 'never' }] })
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
    await using store = await MiniStore.open(path, { schema })
    const events = listen<AppendTrace>('ministore:append', path)
    await expect(store.append('record')).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    expect(names(events)).toEqual(failed)
    expect(events.at(-1)?.seen.error).toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
  })

  test('does not change the result of append', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    expect(await store.append('unheard')).toBe(1)
    listen<AppendTrace>('ministore:append', path)
    expect(await store.append('heard')).toBe(2)
    expect(await store.replay()).toEqual(['unheard', 'heard'])
  })
})

describe('the tracing channel ministore:rotate', () => {
  test('publishes a rotation: the sealed segment and the first sequence number of the next', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await store.appendAll(['a', 'b'])
    const events = listen<RotateTrace>('ministore:rotate', path)
    await store.rotate()
    expect(names(events)).toEqual(settled)
    expect(events[0]?.seen).toEqual({ path, segment: 'journal.jsonl.001', sequence: 3 })
    expect(store.segments[0]?.path).toBe(`${path}.001`)
    await store.append('c')
    await store.rotate()
    expect(events.at(-1)?.seen).toMatchObject({ path, segment: 'journal.jsonl.002', sequence: 4 })
  })

  test('publishes nothing while the active segment is empty', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    const events = listen<RotateTrace>('ministore:rotate', path)
    await store.rotate()
    expect(events).toEqual([])
  })

  test('publishes the rotation of an append within that append', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { maxBytesPerSegment: 1 })
    await store.append('a')
    const told: string[] = []
    const on =
      (what: string) =>
      (message: object): void => {
        if ((message as { path: string }).path === path) told.push(what)
      }
    for (const channel of ['append', 'rotate']) {
      for (const event of ['start', 'asyncEnd']) {
        const name = `tracing:ministore:${channel}:${event}`
        const listener = on(`${channel} ${event}`) as (message: unknown) => void
        subscribe(name, listener)
        onTestFinished(() => {
          unsubscribe(name, listener)
        })
      }
    }
    await store.append('b')
    expect(told).toEqual(['append start', 'rotate start', 'rotate asyncEnd', 'append asyncEnd'])
  })

  test('publishes a failure', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    await store.append('a')
    files.failOn({ operation: 'open', path: '/journal.jsonl.next' }, 'EMFILE')
    const events = listen<RotateTrace>('ministore:rotate', '/journal.jsonl')
    const error: unknown = await store.rotate().catch((thrown: unknown) => thrown)
    expect(names(events)).toEqual(failed)
    expect(events.at(-1)?.seen.error).toBe(error)
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'EMFILE' } })
  })
})

describe('the tracing channel ministore:recover', () => {
  test('publishes each open, with the report once it has succeeded', async () => {
    const path = await journalPath()
    const events = listen<RecoverTrace>('ministore:recover', path)
    const first = await MiniStore.open(path)
    expect(names(events)).toEqual(settled)
    expect(events[0]?.seen).toEqual({ path })
    expect(events.at(-1)?.seen.report).toBe(first.recovery)
    expect(events.at(-1)?.seen.report).toMatchObject({ isNew: true })
    await first.close()

    events.length = 0
    await using second = await MiniStore.open(path)
    expect(names(events)).toEqual(settled)
    expect(events.at(-1)?.seen.report).toBe(second.recovery)
    expect(events.at(-1)?.seen.report).toMatchObject({ isNew: false })
  })

  test('publishes damage without a report', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/journal.jsonl', 'not a journal\n')
    const events = listen<RecoverTrace>('ministore:recover', '/journal.jsonl')
    const error: unknown = await MiniStore.open('/journal.jsonl', { fileSystem: files }).catch(
      (thrown: unknown) => thrown,
    )
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    expect(names(events)).toEqual(failed)
    expect(events.at(-1)?.seen.error).toBe(error)
    expect(events.at(-1)?.seen.report).toBeUndefined()
  })

  test('publishes nothing for readers, which do not recover', async () => {
    const path = await journalPath()
    await (await MiniStore.open(path)).close()
    const events = listen<RecoverTrace>('ministore:recover', path)
    expect(await MiniStore.replay(path)).toEqual([])
    expect(events).toEqual([])
  })
})

describe('the channel ministore:poison', () => {
  test('publishes once, with the error that all later calls have as their cause', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    const messages = listenToPoison()
    await store.append('a')
    expect(messages).toEqual([])
    files.failOn({ operation: 'dataSync' }, 'EIO')
    const [inFlight, queued] = await Promise.allSettled([store.append('b'), store.append('c')])
    await expect(store.rotate()).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    expect(messages).toHaveLength(1)
    expect(messages[0]).toMatchObject({
      path: '/journal.jsonl',
      error: {
        name: 'MiniStoreError',
        code: 'ERR_MINISTORE_POISONED',
        cause: { code: 'EIO', syscall: 'fdatasync' },
      },
    })
    expect(inFlight).toMatchObject({ reason: { code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' } })
    expect(queued).toMatchObject({ reason: { code: 'ERR_MINISTORE_POISONED' } })
    expect(queued.status === 'rejected' && (queued.reason as Error).cause).toBe(messages[0]?.error)
  })

  test('publishes a write that could not be rolled back, and a rotation whose sync failed', async () => {
    const messages = listenToPoison()
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/written.jsonl', { fileSystem: files })
    files.failOn({ operation: 'write' }, 'ENOSPC')
    files.failOn({ operation: 'truncate' }, 'EIO')
    await expect(store.append('a')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })

    await using other = await MiniStore.open('/rotated.jsonl', { fileSystem: files })
    await other.append('a')
    files.failOn({ operation: 'sync', path: '/rotated.jsonl.next' }, 'EIO')
    await expect(other.rotate()).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    expect(messages.map(({ path }) => path)).toEqual(['/written.jsonl', '/rotated.jsonl'])
    expect(messages[0]?.error.message).toMatch(/roll back a failed write/)
    expect(messages[1]?.error.message).toMatch(/rotate/)
  })

  test('publishes nothing for a failure that the store survives', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    const messages = listenToPoison()
    files.failOn({ operation: 'write' }, 'ENOSPC')
    await expect(store.append('a')).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(messages).toEqual([])
  })
})

describe('the messages of all channels', () => {
  const channels = ['append', 'rotate', 'recover'].flatMap((name) =>
    [...settled, 'error'].map((event) => `tracing:ministore:${name}:${event}`),
  )

  /** The messages logged as JSON by a subscriber, and the errors of that logging. */
  function log(): Array<{ readonly name: string; readonly told?: object; readonly failure?: unknown }> {
    const logged: ReturnType<typeof log> = []
    for (const name of [...channels, 'ministore:poison']) {
      const listener = (message: unknown): void => {
        try {
          logged.push({ name, told: JSON.parse(JSON.stringify(message)) as object })
        } catch (failure) {
          logged.push({ name, failure })
        }
      }
      subscribe(name, listener)
      onTestFinished(() => void unsubscribe(name, listener))
    }
    return logged
  }

  test('have a JSON form, including failures', async () => {
    const logged = log()
    const path = await journalPath()
    const store = await MiniStore.open(path)
    await store.append('a')
    await store.rotate()
    await store.append('b')
    await store.close()
    await (await MiniStore.open(path)).close()

    const files = new SimulatedFileSystem()
    files.failOn({ operation: 'sync' }, 'EIO')
    await expect(MiniStore.open('/journal.jsonl', { fileSystem: files })).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    files.clearFaults()
    const cyclic: { message: string; input: bigint; self?: object } = { message: 'no', input: 1n }
    cyclic.self = cyclic
    const schema: StandardSchemaV1 = {
      '~standard': { version: 1, vendor: 'test', validate: async (value) => (value === 'bad' ? { issues: [cyclic] } : { value }) },
    }
    await using other = await MiniStore.open('/journal.jsonl', { fileSystem: files, schema })
    await expect(other.append('bad')).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA', issues: [cyclic] })
    await other.append('good')
    files.failOn({ operation: 'sync', path: '/journal.jsonl.next' }, 'EIO')
    await expect(other.rotate()).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })

    expect(logged.filter(({ failure }) => failure !== undefined)).toEqual([])
    expect(new Set(logged.map(({ name }) => name))).toEqual(new Set([...channels, 'ministore:poison']))
    const last = (name: string): unknown => logged.findLast((one) => one.name === name)?.told
    expect(last('tracing:ministore:recover:error')).toMatchObject({
      error: { name: 'MiniStoreError', code: 'ERR_MINISTORE_IO', message: /^Could not open the journal \/journal.jsonl: EIO/ },
    })
    expect(last('tracing:ministore:append:error')).toMatchObject({ error: { message: /no/, code: 'ERR_MINISTORE_SCHEMA' } })
    expect(last('ministore:poison')).toMatchObject({ path: '/journal.jsonl', error: { code: 'ERR_MINISTORE_POISONED' } })
    // They contain no internal objects of the library.
    const keys = new Set(logged.flatMap(({ told = {} }) => Object.keys(told)))
    expect([...keys].toSorted()).toEqual(['bytes', 'error', 'path', 'records', 'report', 'result', 'segment', 'sequence', 'waitMs'])
    for (const { name, told } of logged) expect(name.includes('append') || !('result' in (told ?? {}))).toBe(true)
  })

  test('do not affect the writer when a subscriber throws: Node reports an uncaught exception', async () => {
    const script = `
      import { subscribe } from 'node:diagnostics_channel'
      import { MiniStore } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)}
      let uncaught = 0
      process.on('uncaughtException', (error) => (uncaught += error.message === 'of the subscriber' ? 1 : 100))
      for (const name of ${JSON.stringify(channels)}) subscribe(name, () => { throw new Error('of the subscriber') })
      const store = await MiniStore.open(process.argv[2])
      const sequences = [await store.append('a'), await store.append('b')]
      await store.rotate()
      sequences.push(await store.append('c'))
      await store.close()
      const records = await MiniStore.replay(process.argv[2])
      setImmediate(() => console.log(JSON.stringify({ sequences, records, uncaught })))
    `
    const given = [...(await temporaryProgram(script)), await journalPath()]
    const { stdout } = await promisify(execFile)(process.execPath, given, { timeout: 20_000 })
    // Four events each for an open, three appends and a rotation.
    expect(JSON.parse(stdout)).toEqual({ sequences: [1, 2, 3], records: ['a', 'b', 'c'], uncaught: 20 })
  })
})
