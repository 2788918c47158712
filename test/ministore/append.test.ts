import { constants } from 'node:buffer'
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, onTestFinished, test, vi } from 'vitest'

import {
  type Codec,
  type FileSystem,
  MiniStore,
  MiniStoreError,
  nodeFileSystem,
  type OpenOptions,
} from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const MEBIBYTE = 1024 * 1024

type Options = OpenOptions & { readonly schema?: StandardSchemaV1 }

/** Opens a store in a new directory; it is closed when the test has finished. */
async function openStore(options: Options = {}): Promise<{ store: MiniStore; path: string }> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  const store = await MiniStore.open(path, options as OpenOptions)
  onTestFinished(() => store.close())
  return { store, path }
}

/** The lines of the active segment after its header. */
function linesIn(path: string): string[] {
  const [header, ...lines] = readFileSync(path, 'utf8').split('\n')
  expect(header).toMatch(/^\/\/ MINISTORE JOURNAL v/)
  expect(lines.pop()).toBe('')
  return lines
}

/** A real file system whose `dataSync` waits until the test releases it. */
function gatedFileSystem(): {
  fileSystem: FileSystem
  /** Resolves at the next call of `dataSync`, with the function that releases it. */
  nextSync: () => Promise<() => void>
  syncsAsked: () => number
} {
  const events = new EventEmitter()
  let asked = 0
  const fileSystem: FileSystem = {
    ...nodeFileSystem,
    open: async (path, mode) => {
      const file = await nodeFileSystem.open(path, mode)
      const dataSync = file.dataSync.bind(file)
      file.dataSync = async () => {
        asked += 1
        await new Promise<void>((release) => events.emit('sync', release))
        return dataSync()
      }
      return file
    },
  }
  return {
    fileSystem,
    nextSync: async () => {
      const [release] = (await once(events, 'sync')) as [() => void]
      return release
    },
    syncsAsked: () => asked,
  }
}

/** The file-system operations during the task, as "operation path". */
async function operationsDuring(files: SimulatedFileSystem, task: () => Promise<unknown>): Promise<string[]> {
  const trace: string[] = []
  const stop = files.onOperation(({ operation, path }) => trace.push(`${operation} ${path}`))
  await task()
  stop()
  return trace
}

/** A string whose JSON has exactly this many bytes. */
function textOfJsonBytes(bytes: number): string {
  return 'x'.repeat(bytes - 2)
}

describe('append', () => {
  test('returns 1, 2, 3 … and continues from there when the journal is reopened', async () => {
    const { store, path } = await openStore()
    expect(store).toMatchObject({ firstSequence: 1, lastSequence: 0 })
    expect(await store.append('one')).toBe(1)
    expect(await store.append('two')).toBe(2)
    expect(store).toMatchObject({ firstSequence: 1, lastSequence: 2 })
    await store.close()

    await using again = await MiniStore.open(path)
    expect(again).toMatchObject({ firstSequence: 1, lastSequence: 2 })
    expect(await again.append('three')).toBe(3)
    expect(await again.replay()).toEqual(['one', 'two', 'three'])
  })

  test('writes a record as one line of plain JSON', async () => {
    const { store, path } = await openStore()
    const record = { text: 'a\nb\r\u0000\u2028', list: [1, null, true], nested: { empty: {} } }
    await store.append(record)
    expect(linesIn(path)).toEqual([JSON.stringify(record)])
    expect(await store.replay()).toEqual([record])
  })

  test.each([[null], [true], [0], [-1.5e-7], [''], ['é€😀'], ['\uD83D'], [[]], [{}], [{ toJSON: 1 }]])(
    'of %j is read back as it was',
    async (record) => {
      const { store } = await openStore()
      await store.append(record)
      expect(await store.replay()).toEqual([record])
    },
  )

  test('of 200 overlapping calls, mixed with appendAll, keeps call order everywhere', async () => {
    const { store, path } = await openStore()
    const written: string[] = []
    const answered: number[] = []
    const numbers: number[] = []
    const calls = Array.from({ length: 200 }, async (_, call) => {
      if (call % 3 !== 0) {
        written.push(`${call}`)
        numbers.push(await store.append(`${call}`))
      } else {
        const batch = Array.from({ length: 1 + (call % 4) }, (__, at) => `${call}.${at}`)
        written.push(...batch)
        const { first, last } = await store.appendAll(batch)
        expect(last - first + 1).toBe(batch.length)
        for (let sequence = first; sequence <= last; sequence++) numbers.push(sequence)
      }
      answered.push(call)
    })
    await Promise.all(calls)
    expect(answered).toEqual(Array.from({ length: 200 }, (_, call) => call))
    expect(numbers).toEqual(Array.from({ length: written.length }, (_, at) => at + 1))
    expect(linesIn(path)).toEqual(written.map((record) => JSON.stringify(record)))
    expect(store.lastSequence).toBe(written.length)
  })

  test('captures the record at the call', async () => {
    const { store, path } = await openStore()
    const record = { value: 1, list: [1] }
    const appending = store.append(record)
    record.value = 2
    record.list.push(2)
    await appending
    expect(linesIn(path)).toEqual(['{"value":1,"list":[1]}'])
  })

  test('captures the record at the call, however long its schema takes', async () => {
    let allow = (): void => expect.unreachable()
    const schema = standardSchema(
      (value) =>
        new Promise((resolve) => {
          allow = () => resolve({ value })
        }),
    )
    const { store, path } = await openStore({ schema })
    const record = { value: 1 }
    const appending = store.append(record)
    record.value = 2
    allow()
    await appending
    expect(linesIn(path)).toEqual(['{"value":1}'])
  })

  test('keeps call order when the schema accepts a later record first', async () => {
    const allow: Array<() => void> = []
    const schema = standardSchema((value) => new Promise((resolve) => allow.push(() => resolve({ value }))))
    const { store, path } = await openStore({ schema })
    const appending = [store.append('first'), store.append('second')]
    expect(allow).toHaveLength(2)
    allow[1]?.()
    await nextTurn()
    allow[0]?.()
    expect(await Promise.all(appending)).toEqual([1, 2])
    expect(linesIn(path)).toEqual(['"first"', '"second"'])
  })

  test('is one write and one data sync of the journal, and nothing else', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    for (const record of ['small', 'x'.repeat(MEBIBYTE)]) {
      expect(await operationsDuring(files, () => store.append(record))).toEqual([
        'write /journal.jsonl',
        'dataSync /journal.jsonl',
      ])
    }
  })

  test('of three overlapping calls is three writes, each synced before the next', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    const appends = (): Promise<unknown> => Promise.all([1, 2, 3].map((record) => store.append(record)))
    const one = ['write /journal.jsonl', 'dataSync /journal.jsonl']
    expect(await operationsDuring(files, appends)).toEqual([...one, ...one, ...one])
  })

  test('is acknowledged, and counted, only after its data sync', async () => {
    const { fileSystem, nextSync } = gatedFileSystem()
    const { store } = await openStore({ fileSystem })
    let isAcknowledged = false
    const asked = nextSync()
    const appending = store.append('record').then(() => (isAcknowledged = true))
    const release = await asked
    await nextTurn()
    expect(isAcknowledged).toBe(false)
    expect(store.lastSequence).toBe(0)
    expect(await store.replay()).toEqual([])
    release()
    await appending
    expect(store.lastSequence).toBe(1)
    expect(await store.replay()).toEqual(['record'])
  })
})

describe('appendAll', () => {
  test('returns the range of its sequence numbers', async () => {
    const { store, path } = await openStore()
    expect(await store.appendAll(['a', 'b', 'c'])).toEqual({ first: 1, last: 3 })
    expect(await store.appendAll(['d'])).toEqual({ first: 4, last: 4 })
    expect(linesIn(path)).toEqual(['"a"', '"b"', '"c"', '"d"'])
  })

  test('of an empty list writes nothing and returns the empty range before the next number', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    await store.append('one')
    const trace = await operationsDuring(files, async () => {
      expect(await store.appendAll([])).toEqual({ first: 2, last: 1 })
    })
    expect(trace).toEqual([])
  })

  test('of an empty list, after pending appends, returns the empty range after them', async () => {
    const { store } = await openStore()
    const calls = [store.append('one'), store.appendAll([]), store.append('two')]
    expect(await Promise.all(calls)).toEqual([1, { first: 2, last: 1 }, 2])
  })

  test('is one write and one data sync, however many records', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    const records = Array.from({ length: 1000 }, (_, at) => ({ at }))
    expect(await operationsDuring(files, () => store.appendAll(records))).toEqual([
      'write /journal.jsonl',
      'dataSync /journal.jsonl',
    ])
    expect(await store.replay()).toEqual(records)
  })

  test('accepts any iterable', async () => {
    const { store } = await openStore()
    await store.appendAll(new Set(['a', 'b']))
    await store.appendAll(
      (function* () {
        yield 'c'
        yield 'd'
      })(),
    )
    expect(await store.replay()).toEqual(['a', 'b', 'c', 'd'])
  })

  test('captures the list and its records at the call', async () => {
    const { store, path } = await openStore()
    const records = [{ value: 1 }, { value: 2 }]
    const appending = store.appendAll(records)
    for (const record of records) record.value = 0
    records.push({ value: 3 })
    expect(await appending).toEqual({ first: 1, last: 2 })
    expect(linesIn(path)).toEqual(['{"value":1}', '{"value":2}'])
  })

  test('of an iterable that throws rejects with the thrown value and writes nothing', async () => {
    const { store, path } = await openStore()
    const thrown = new Error('the source broke')
    const records = (function* () {
      yield 'a'
      throw thrown
    })()
    await expect(store.appendAll(records)).rejects.toBe(thrown)
    expect(linesIn(path)).toEqual([])
    expect(await store.append('b')).toBe(1)
  })

  test.each<[what: string, records: unknown]>([
    ['undefined', undefined],
    ['a number', 5],
    ['an object', { value: 1 }],
    [
      'an asynchronous iterable',
      (async function* () {
        yield 'lost'
      })(),
    ],
  ])('of %s, which is not iterable, is a TypeError and not an empty list', async (_what, records) => {
    const { store, path } = await openStore()
    const error: unknown = await store
      .appendAll(records as Iterable<unknown>)
      .catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(TypeError)
    expect((error as Error).message).toMatch(/^Expected .*iterable.*, got/)
    expect(linesIn(path)).toEqual([])
  })
})

describe('the size of a record', () => {
  test.each([2, 3, 1000, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, MEBIBYTE + 1, 16 * MEBIBYTE])(
    'may be %i bytes by default',
    async (bytes) => {
      const { store, path } = await openStore()
      const record = textOfJsonBytes(bytes)
      await store.append('before')
      const size = readFileSync(path).length
      expect(await store.append(record)).toBe(2)
      expect(await store.append('after')).toBe(3)
      expect(readFileSync(path).length).toBe(size + bytes + 1 + '"after"\n'.length)
      const [before, read, after] = await store.replay()
      expect([before, after]).toEqual(['before', 'after'])
      // Compared with ===, because a failed toEqual would print megabytes.
      expect(read === record).toBe(true)
      expect((await MiniStore.replay(path))[1] === record).toBe(true)
    },
  )

  test('may be one byte', async () => {
    const { store } = await openStore({ maxRecordBytes: 1 })
    expect(await store.append(7)).toBe(1)
    expect(await store.replay()).toEqual([7])
  })

  test('may be 16 MiB by default, and not a byte more', async () => {
    const { store, path } = await openStore()
    await expect(store.append(textOfJsonBytes(16 * MEBIBYTE + 1))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_RECORD_TOO_LARGE',
      message: expect.stringMatching(/16777216.*16777217/) as string,
    })
    expect(linesIn(path)).toEqual([])
  })

  test.each(['ascii', 'é', '€', '😀', 'aé€😀'])(
    'is counted in bytes of UTF-8, exactly, without the line feed: %s',
    async (text) => {
      const bytes = Buffer.byteLength(JSON.stringify(text))
      const { store, path } = await openStore({ maxRecordBytes: bytes })
      expect(await store.append(text)).toBe(1)
      await store.close()

      await using narrower = await MiniStore.open(path, { maxRecordBytes: bytes - 1 })
      const before = readFileSync(path)
      await expect(narrower.append(text)).rejects.toMatchObject({
        code: 'ERR_MINISTORE_RECORD_TOO_LARGE',
        message: expect.stringMatching(
          new RegExp(`at most ${bytes - 1} bytes.*got one of ${bytes}$`),
        ) as string,
      })
      expect(readFileSync(path)).toEqual(before)
      // Existing records stay readable whatever the limit is now.
      expect(await narrower.replay()).toEqual([text])
    },
  )

  test('is counted in bytes for three-byte characters, where only the string length is below the limit', async () => {
    const { store } = await openStore({ maxRecordBytes: 10 })
    await expect(store.append('€€€')).rejects.toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE', message: /got one of 11$/ })
    expect(await store.append('€€')).toBe(1)
  })

  test('may add up to many mebibytes in one appendAll: each record is written once', async () => {
    const { store, path } = await openStore()
    const records = Array.from({ length: 7 }, (_, n) => String(n).repeat(600 * 1024))
    expect(await store.appendAll(records)).toEqual({ first: 1, last: 7 })
    expect(await store.appendAll(['after'])).toEqual({ first: 8, last: 8 })
    expect((await store.replay()).map((record) => String(record).slice(0, 5))).toEqual([
      '00000', '11111', '22222', '33333', '44444', '55555', '66666', 'after',
    ])
    await store.close()
    expect(await MiniStore.replay(path)).toHaveLength(8)
  })

  test('is limited for each record of appendAll, not for their sum', async () => {
    const { store } = await openStore({ maxRecordBytes: 5 })
    expect(await store.appendAll(['abc', 'def', 'ghi'])).toEqual({ first: 1, last: 3 })
    await expect(store.appendAll(['abc', 'defg'])).rejects.toMatchObject({
      code: 'ERR_MINISTORE_RECORD_TOO_LARGE',
    })
  })
})

/** A Standard Schema around a function. */
function standardSchema(validate: StandardSchemaV1.Props['validate']): StandardSchemaV1 {
  return { '~standard': { version: 1, vendor: 'test', validate } }
}

/** A codec that encodes the record `bad` as this text and every other record as JSON. */
function codecThatGives(text: unknown): Codec {
  return {
    encode: (record) => (record === 'bad' ? (text as string) : JSON.stringify(record)),
    decode: JSON.parse,
  }
}

const cyclic: Record<string, unknown> = {}
cyclic['self'] = cyclic

const noBad = standardSchema((value) =>
  value === 'bad' ? { issues: [{ message: 'no bad ones' }] } : { value },
)
const noBadLater = standardSchema(async (value) => {
  await nextTurn()
  return value === 'bad' ? { issues: [{ message: 'no bad ones', path: ['a', { key: 0 }] }] } : { value }
})
const throwing = standardSchema((value) => {
  if (value === 'bad') throw new Error('validator broke')
  return { value }
})
const rejecting = standardSchema(async (value) => {
  if (value === 'bad') throw new Error('validator broke later')
  return { value }
})
const throwingCodec: Codec = {
  encode: (record) => {
    if (record === 'bad') throw new Error('encoder broke')
    return JSON.stringify(record)
  },
  decode: JSON.parse,
}

interface Refused {
  readonly what: string
  readonly record: unknown
  readonly code: string
  readonly message: RegExp
  readonly options?: Options
}

const notSerializable = 'ERR_MINISTORE_NOT_SERIALIZABLE'
const codecError = 'ERR_MINISTORE_CODEC'
const schemaError = 'ERR_MINISTORE_SCHEMA'

const refused: Refused[] = [
  { what: 'undefined', record: undefined, code: notSerializable, message: /got undefined/ },
  { what: 'a function', record: () => 1, code: notSerializable, message: /got a function/ },
  { what: 'a symbol', record: Symbol('mine'), code: notSerializable, message: /got a symbol/ },
  { what: 'a cycle', record: cyclic, code: notSerializable, message: /no JSON form.*(?:circular|cyclic)/i },
  { what: 'a BigInt', record: 1n, code: notSerializable, message: /no JSON form.*BigInt/ },
  { what: 'a BigInt inside', record: { a: [1n] }, code: notSerializable, message: /no JSON form.*BigInt/ },
  {
    what: 'a toJSON that throws',
    record: {
      toJSON: () => {
        throw new Error('toJSON broke')
      },
    },
    code: notSerializable,
    message: /no JSON form: toJSON broke/,
  },
  {
    what: 'a toJSON that gives undefined',
    record: { toJSON: () => undefined },
    code: notSerializable,
    message: /no JSON form: got undefined from its toJSON/,
  },
  {
    what: 'one that is too large',
    record: 'x'.repeat(99),
    options: { maxRecordBytes: 100 },
    code: 'ERR_MINISTORE_RECORD_TOO_LARGE',
    message: /at most 100 bytes \(maxRecordBytes\), got one of 101/,
  },
  {
    what: 'one whose codec text is too large',
    record: 'bad',
    options: { maxRecordBytes: 100, codec: codecThatGives('é'.repeat(51)) },
    code: 'ERR_MINISTORE_RECORD_TOO_LARGE',
    message: /at most 100 bytes \(maxRecordBytes\), got one of 102/,
  },
  {
    what: 'one that fails the schema',
    record: 'bad',
    options: { schema: noBad },
    code: schemaError,
    message: /no bad ones/,
  },
  {
    what: 'one that fails an asynchronous schema',
    record: 'bad',
    options: { schema: noBadLater },
    code: schemaError,
    message: /no bad ones at a\.0/,
  },
  {
    what: 'one whose schema throws',
    record: 'bad',
    options: { schema: throwing },
    code: schemaError,
    message: /validator broke/,
  },
  {
    what: 'one whose schema rejects',
    record: 'bad',
    options: { schema: rejecting },
    code: schemaError,
    message: /validator broke later/,
  },
  {
    what: 'one whose codec throws',
    record: 'bad',
    options: { codec: throwingCodec },
    code: codecError,
    message: /encode threw: encoder broke/,
  },
  {
    what: 'codec text with a line feed',
    record: 'bad',
    options: { codec: codecThatGives('a\nb') },
    code: codecError,
    message: /a line feed at 1/,
  },
  {
    what: 'codec text with a NUL',
    record: 'bad',
    options: { codec: codecThatGives('ab\0') },
    code: codecError,
    message: /a NUL at 2/,
  },
  {
    what: 'codec text that is empty',
    record: 'bad',
    options: { codec: codecThatGives('') },
    code: codecError,
    message: /an empty text/,
  },
  {
    what: 'a codec result of undefined',
    record: 'bad',
    options: { codec: codecThatGives(undefined) },
    code: codecError,
    message: /got undefined/,
  },
  {
    what: 'a codec result of null',
    record: 'bad',
    options: { codec: codecThatGives(null) },
    code: codecError,
    message: /got null/,
  },
  {
    what: 'a codec result of bytes',
    record: 'bad',
    options: { codec: codecThatGives(Buffer.from('a')) },
    code: codecError,
    message: /got object/,
  },
  {
    what: 'a codec result that is a promise',
    record: 'bad',
    options: { codec: codecThatGives(Promise.resolve('a')) },
    code: codecError,
    message: /got a promise/,
  },
  {
    what: 'codec text with a high surrogate alone',
    record: 'bad',
    options: { codec: codecThatGives('a\uD83D') },
    code: codecError,
    message: /half a surrogate pair/,
  },
  {
    what: 'codec text with a low surrogate alone',
    record: 'bad',
    options: { codec: codecThatGives('\uDE00a') },
    code: codecError,
    message: /half a surrogate pair/,
  },
]

describe('a record that is refused', () => {
  test.each(refused)(
    '$what: rejects, writes nothing and uses no sequence number',
    async ({ record, options, code, message }) => {
      const { store, path } = await openStore(options)
      await store.append('before')
      const bytes = await readFile(path)
      const error: unknown = await store.append(record).catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(MiniStoreError)
      expect(error).toMatchObject({ code, message: expect.stringMatching(message) as string })
      expect(await readFile(path)).toEqual(bytes)
      expect(store.lastSequence).toBe(1)
      expect(await store.append('after')).toBe(2)
      expect(await store.replay()).toEqual(['before', 'after'])
    },
  )

  test.each(refused)(
    '$what: among those of appendAll none is written',
    async ({ record, options, code, message }) => {
      const { store, path } = await openStore(options)
      await store.append('before')
      const bytes = await readFile(path)
      await expect(store.appendAll(['good', record, 'good'])).rejects.toMatchObject({
        code,
        message: expect.stringMatching(message) as string,
      })
      expect(await readFile(path)).toEqual(bytes)
      expect(await store.appendAll(['after'])).toEqual({ first: 2, last: 2 })
    },
  )

  test.each(refused)(
    '$what: among overlapping appends only it rejects',
    async ({ record, options, code }) => {
      const { store, path } = await openStore(options)
      const settled = await Promise.allSettled([store.append('a'), store.append(record), store.append('b')])
      expect(settled).toMatchObject([
        { status: 'fulfilled', value: 1 },
        { status: 'rejected', reason: { code } },
        { status: 'fulfilled', value: 2 },
      ])
      expect(linesIn(path)).toEqual(['"a"', '"b"'])
    },
  )

  test('keeps the thrown value as its cause', async () => {
    const thrown = new Error('mine')
    const { store } = await openStore()
    const record = {
      toJSON: () => {
        throw thrown
      },
    }
    await expect(store.append(record)).rejects.toMatchObject({ cause: thrown })
  })

  test('keeps the issues of the schema', async () => {
    const { store } = await openStore({ schema: noBadLater })
    await expect(store.append('bad')).rejects.toMatchObject({
      issues: [{ message: 'no bad ones', path: ['a', { key: 0 }] }],
    })
  })

  test('for its size is refused even beyond the maximum string length', async () => {
    const { store, path } = await openStore({ maxRecordBytes: constants.MAX_STRING_LENGTH - 1 })
    const half = 'x'.repeat(constants.MAX_STRING_LENGTH / 2)
    await expect(store.append([half, half])).rejects.toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' })
    expect(linesIn(path)).toEqual([])
  })
})

describe('close', () => {
  test('waits for earlier appends and refuses later ones', async () => {
    const { store, path } = await openStore()
    const answered: string[] = []
    const appending = Array.from({ length: 20 }, async (_, record) => {
      await store.append(record)
      answered.push('append')
    })
    const closing = store.close().then(() => answered.push('close'))
    await expect(store.append('late')).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    await closing
    expect(answered).toEqual([...Array<string>(20).fill('append'), 'close'])
    await Promise.all(appending)
    expect(linesIn(path)).toEqual(Array.from({ length: 20 }, (_, record) => `${record}`))
  })

  test('returns the same promise when called again', async () => {
    const { store } = await openStore()
    const closing = store.close()
    expect(store.close()).toBe(closing)
    await closing
    expect(store.close()).toBe(closing)
    await store[Symbol.asyncDispose]()
  })

  test('frees the lock: the journal can be opened at once', async () => {
    const { store, path } = await openStore()
    await expect(MiniStore.open(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_LOCKED' })
    await store.close()
    await using again = await MiniStore.open(path)
    expect(await again.append('record')).toBe(1)
  })

  test('makes append and appendAll reject and write nothing', async () => {
    const { store, path } = await openStore()
    await store.append('record')
    await store.close()
    const bytes = await readFile(path)
    await expect(store.append('late')).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED', path })
    await expect(store.appendAll(['late'])).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED', path })
    await expect(store.appendAll([])).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED', path })
    expect(await readFile(path)).toEqual(bytes)
  })

  test('seals the written records', async () => {
    const { store, path } = await openStore()
    await store.append('record')
    await store.close()
    const size = (await readFile(path)).length
    expect(await readFile(`${path}.seal`, 'utf8')).toMatch(new RegExp(`^bytes=${size} records=1 `))
    expect((await readdir(join(path, '..'))).toSorted()).toEqual([
      'journal.jsonl',
      'journal.jsonl.lock',
      'journal.jsonl.seal',
    ])
  })

  test('is called by `await using` at the end of its block, even after an error', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const thrown = new Error('from the block')
    const block = async (): Promise<void> => {
      await using store = await MiniStore.open(path)
      await store.append('record')
      throw thrown
    }
    await expect(block()).rejects.toBe(thrown)
    expect(await readFile(`${path}.seal`, 'utf8')).toMatch(/records=1 /)
    await using again = await MiniStore.open(path)
    expect(again.lastSequence).toBe(1)
  })
})

describe('writable', () => {
  test('appends each chunk and requests the next one only once that is durable', async () => {
    const { fileSystem, nextSync, syncsAsked } = gatedFileSystem()
    const { store, path } = await openStore({ fileSystem })
    const append = vi.spyOn(store, 'append')
    const writer = store.writable().getWriter()
    expect(writer.desiredSize).toBe(1)
    let asked = nextSync()
    const writes = ['a', 'b', 'c'].map((chunk) => writer.write(chunk))
    for (const lines of [['"a"'], ['"a"', '"b"'], ['"a"', '"b"', '"c"']]) {
      const release = await asked
      if (lines.length < 3) asked = nextSync()
      await nextTurn()
      expect(append).toHaveBeenCalledTimes(lines.length)
      expect(syncsAsked()).toBe(lines.length)
      expect(linesIn(path)).toEqual(lines)
      expect(store.lastSequence).toBe(lines.length - 1)
      expect(writer.desiredSize).toBe(lines.length - 3)
      release()
      await writes[lines.length - 1]
    }
    await writer.ready
    expect(writer.desiredSize).toBe(1)
  })

  test('accepts a piped stream, and leaves the store open', async () => {
    const { store } = await openStore()
    const records = Array.from({ length: 100 }, (_, at) => ({ at }))
    await ReadableStream.from(records).pipeTo(store.writable())
    expect(await store.replay()).toEqual(records)
    expect(await store.append('more')).toBe(101)
  })

  test('pulls no more from a pipe than it can append', async () => {
    const { fileSystem, nextSync } = gatedFileSystem()
    const { store } = await openStore({ fileSystem })
    let pulled = 0
    const source = new ReadableStream<number>(
      {
        pull: (controller) => {
          pulled += 1
          if (pulled <= 5) controller.enqueue(pulled)
          else controller.close()
        },
      },
      { highWaterMark: 0 },
    )
    let asked = nextSync()
    const piping = source.pipeTo(store.writable())
    for (let record = 1; record <= 5; record++) {
      const release = await asked
      await nextTurn()
      expect(pulled).toBeLessThanOrEqual(record + 1)
      if (record < 5) asked = nextSync()
      release()
    }
    await piping
    expect(await store.replay()).toEqual([1, 2, 3, 4, 5])
  })

  test('copies one journal into another', async () => {
    const { store: from } = await openStore()
    const { store: to } = await openStore()
    await from.appendAll(['a', 'b', 'c', 'd'])
    await from.stream({ from: 2, to: 3 }).pipeTo(to.writable())
    expect(await to.replay()).toEqual(['b', 'c'])
  })

  test('fails with the error of the append, and the store stays usable', async () => {
    const { store, path } = await openStore()
    const writable = store.writable()
    const piping = ReadableStream.from(['a', undefined, 'b']).pipeTo(writable)
    await expect(piping).rejects.toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' })
    await expect(writable.getWriter().closed).rejects.toMatchObject({
      code: 'ERR_MINISTORE_NOT_SERIALIZABLE',
    })
    expect(linesIn(path)).toEqual(['"a"'])
    expect(await store.append('c')).toBe(2)
  })

  test('cancels the source of a pipe with the error of the append', async () => {
    const { store } = await openStore()
    const cancel = vi.fn<(reason: unknown) => void>()
    const source = new ReadableStream<unknown>({
      start: (controller) => {
        // Not closed, because a source that has ended cannot be cancelled.
        for (const record of ['a', undefined, 'b', 'c']) controller.enqueue(record)
      },
      cancel,
    })
    await expect(source.pipeTo(store.writable())).rejects.toBeInstanceOf(MiniStoreError)
    expect(cancel).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' }),
    )
  })

  test('refuses bytes, as `Writable.fromWeb` makes them of strings, and writes nothing', async () => {
    const { store } = await openStore()
    const piping = pipeline(Readable.from(['a']), Writable.fromWeb(store.writable()))
    await expect(piping).rejects.toThrow(/^Expected a chunk to be a record, got bytes: .*objectMode: true/)
    await expect(store.writable().getWriter().write(new Uint8Array([1]))).rejects.toThrow(TypeError)
    expect(store.lastSequence).toBe(0)
    await pipeline(Readable.from(['a']), Writable.fromWeb(store.writable(), { objectMode: true }))
    expect(await store.replay()).toEqual(['a'])
  })

  test('takes bytes that a codec encodes', async () => {
    const codec: Codec<Uint8Array> = {
      encode: (bytes) => Buffer.from(bytes).toString('hex'),
      decode: (text) => new Uint8Array(Buffer.from(text, 'hex')),
    }
    const { store } = await openStore({ codec })
    await pipeline(Readable.from([Buffer.from('a')]), Writable.fromWeb(store.writable()))
    expect(await store.replay()).toEqual([new Uint8Array([0x61])])
  })

  test('aborted or closed leaves the store open, and another writable can be created', async () => {
    const { store } = await openStore()
    const first = store.writable().getWriter()
    await first.write('a')
    await first.abort(new Error('enough'))
    const second = store.writable().getWriter()
    await second.write('b')
    await second.close()
    expect(await store.append('c')).toBe(3)
    expect(await store.replay()).toEqual(['a', 'b', 'c'])
  })

  test('fails at the next chunk when its store is closed meanwhile', async () => {
    const { store, path } = await openStore()
    const writer = store.writable().getWriter()
    await writer.write('a')
    await store.close()
    await expect(writer.write('b')).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    await expect(writer.closed).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    expect(linesIn(path)).toEqual(['"a"'])
  })
})
