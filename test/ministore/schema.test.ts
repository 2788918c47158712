import { appendFile, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import * as v from 'valibot'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import * as z from 'zod'

import { MiniStore, type MiniStoreError, PreparedRecord } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** The input of the schema: dates as strings, an optional role. */
interface UserInput {
  readonly name: string
  readonly born: string
  readonly role?: 'admin' | 'guest' | undefined
}

/** The output of the schema. */
interface User {
  readonly name: string
  readonly born: Date
  readonly role: 'admin' | 'guest'
}

const zodUser = z.object({
  name: z.string().trim().min(1),
  born: z.iso.date().transform((text) => new Date(text)),
  role: z.enum(['admin', 'guest']).default('guest'),
})

const valibotUser = v.object({
  name: v.pipe(v.string(), v.trim(), v.minLength(1)),
  born: v.pipe(
    v.string(),
    v.isoDate(),
    v.transform((text) => new Date(text)),
  ),
  role: v.optional(v.picklist(['admin', 'guest']), 'guest'),
})

/** The same schema written by hand, and asynchronous. */
const asyncUser: StandardSchemaV1<UserInput, User> = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: async (value) => {
      await nextTurn()
      const { name, born, role = 'guest' } = value as UserInput
      const trimmed = typeof name === 'string' ? name.trim() : ''
      if (trimmed === '') return { issues: [{ message: 'Expected a name', path: ['name'] }] }
      if (!/^\d{4}-\d\d-\d\d$/.test(born))
        return { issues: [{ message: 'Expected a date', path: [{ key: 'born' }] }] }
      return { value: { name: trimmed, born: new Date(born), role } }
    },
  },
}

const schemas: Array<[vendor: string, schema: StandardSchemaV1<UserInput, User>]> = [
  ['zod', zodUser],
  ['valibot', valibotUser],
  ['a hand-made asynchronous schema', asyncUser],
]

async function journalPath(): Promise<string> {
  return join(await temporaryDirectory(), 'journal.jsonl')
}

async function linesIn(path: string): Promise<string[]> {
  return (await readFile(path, 'utf8')).split('\n').slice(1, -1)
}

async function collect<T>(
  stream: AsyncIterable<T>,
): Promise<{ items: T[]; error: MiniStoreError | undefined }> {
  const items: T[] = []
  try {
    for await (const item of stream) items.push(item)
  } catch (error) {
    return { items, error: error as MiniStoreError }
  }
  return { items, error: undefined }
}

const ada: UserInput = { name: ' Ada ', born: '1815-12-10', role: 'admin' }
const bob: UserInput = { name: 'Bob', born: '1990-01-02' }
const readAda: User = { name: 'Ada', born: new Date('1815-12-10'), role: 'admin' }
const readBob: User = { name: 'Bob', born: new Date('1990-01-02'), role: 'guest' }

describe.each(schemas)('%s', (_vendor, schema) => {
  test('accepts its input when appending and returns its output when reading', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { schema })
    expect(await store.append(ada)).toBe(1)
    expect(await store.appendAll([bob, ada])).toEqual({ first: 2, last: 3 })
    const users = [readAda, readBob, readAda]
    const numbered = users.map((record, at) => ({ sequence: at + 1, record }))

    expect(await store.replay()).toEqual(users)
    expect(await collect(store.stream())).toEqual({ items: users })
    expect(await collect(store.entries())).toEqual({ items: numbered })
    expect(await MiniStore.replay(path, { schema })).toEqual(users)
    expect(await collect(MiniStore.stream(path, { schema }))).toEqual({ items: users })
    expect(await collect(MiniStore.entries(path, { schema, from: 2 }))).toEqual({ items: numbered.slice(1) })
    const reader = store.stream().getReader()
    expect(await reader.read()).toEqual({ done: false, value: readAda })
    await reader.cancel()
  })

  test('keeps the input on disk, so that its transformations run once, when reading', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { schema })
    await store.appendAll([ada, bob])
    expect(await linesIn(path)).toEqual([JSON.stringify(ada), JSON.stringify(bob)])
    // Without a schema the same journal returns the input.
    expect(await MiniStore.replay(path)).toEqual([ada, bob])
  })

  test('returns its output to followers', async () => {
    await using store = await MiniStore.open(await journalPath(), { schema })
    await store.append(ada)
    const follower = store.stream({ follow: true }).values()
    expect(await follower.next()).toEqual({ done: false, value: readAda })
    const waiting = follower.next()
    await store.append(bob)
    expect(await waiting).toEqual({ done: false, value: readBob })
    await follower.return()
  })

  test('refuses an invalid record with its issues, and nothing is written', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { schema })
    for (const [bad, key] of [
      [{ ...bob, name: ' ' }, 'name'],
      [{ ...bob, born: 'then' }, 'born'],
    ] as const) {
      const appending = store.append(bad)
      await expect(appending).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA', sequence: undefined })
      const { message, issues } = (await appending.catch((error: unknown) => error)) as MiniStoreError
      expect(message).toMatch(new RegExp(`^The record fails the schema: .+ at ${key}$`))
      expect(issues).toHaveLength(1)
    }
    expect(await linesIn(path)).toEqual([])
    expect(await store.append(bob)).toBe(1)
  })

  test('ends a stream at an invalid record, with its position, after the good ones', async () => {
    const path = await journalPath()
    const bad = { name: '', born: '1990-01-02' }
    await using store = await MiniStore.open(path)
    await store.appendAll([ada, bob, bad, ada])
    const offset = (await readFile(path)).indexOf(JSON.stringify(bad))
    const { items, error } = await collect(MiniStore.stream(path, { schema }))
    expect(items).toEqual([readAda, readBob])
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_SCHEMA',
      path,
      segment: 'journal.jsonl',
      line: 4,
      offset,
      sequence: 3,
      message: expect.stringMatching(/journal\.jsonl, line 4, fails the schema: .+ at name$/) as string,
    })
    await expect(MiniStore.replay(path, { schema })).rejects.toMatchObject({
      code: 'ERR_MINISTORE_SCHEMA',
      sequence: 3,
    })
    expect(await collect(MiniStore.stream(path, { schema, to: 2 }))).toEqual({ items: [readAda, readBob] })
  })

  test('skips an invalid record with salvage, and reports it', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await store.appendAll([ada, { name: '' }, { born: 'then' }, bob])
    const salvage = vi.fn<(damage: MiniStoreError) => void>()
    expect(await collect(MiniStore.entries(path, { schema, salvage }))).toEqual({
      items: [
        { sequence: 1, record: readAda },
        { sequence: 4, record: readBob },
      ],
    })
    expect(salvage.mock.calls).toMatchObject([
      [{ code: 'ERR_MINISTORE_SCHEMA', sequence: 2 }],
      [{ code: 'ERR_MINISTORE_SCHEMA', sequence: 3 }],
    ])
  })

  test('does not prevent opening a journal whose records became invalid: reading reports them', async () => {
    const path = await journalPath()
    const before = await MiniStore.open(path)
    await before.append('not a user')
    await before.close()
    await using store = await MiniStore.open(path, { schema })
    expect(await store.append(bob)).toBe(2)
    await expect(store.replay()).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA', sequence: 1, line: 2 })
    expect(await collect(store.stream({ from: 2 }))).toEqual({ items: [readBob] })
  })
})

describe('a schema', () => {
  test('validates the record as it will be read back, not as it is in memory', async () => {
    await using store = await MiniStore.open(await journalPath(), { schema: z.object({ at: z.date() }) })
    // JSON turns a Date into a string, which this schema would refuse when reading.
    await expect(store.append({ at: new Date() })).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    expect(store.lastSequence).toBe(0)
  })

  test('accepts only records that can be read back', async () => {
    const schema = z.object({ at: z.coerce.date(), note: z.string().optional() })
    await using store = await MiniStore.open(await journalPath(), { schema })
    const at = new Date('2026-01-02T03:04:05.678Z')
    await store.append({ at })
    await store.append({ at: at.toISOString(), note: undefined })
    expect(await store.replay()).toEqual([{ at }, { at }])
  })

  test('whose output is not its own input is applied once, and not to its output', async () => {
    const path = await journalPath()
    const schema = z.string().transform((text) => text.length)
    await using store = await MiniStore.open(path, { schema })
    await store.append('four')
    await store.append('sixsix')
    expect(await store.replay()).toEqual([4, 6])
    await store.close()
    await using again = await MiniStore.open(path, { schema })
    expect(await again.append('x')).toBe(3)
    expect(await again.replay()).toEqual([4, 6, 1])
  })

  test('is called once for each appended record and once for each record read', async () => {
    const validate = vi.fn<(value: unknown) => { value: unknown }>((value) => ({ value }))
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
    await using store = await MiniStore.open(await journalPath(), { schema })
    await store.appendAll(['a', 'b'])
    expect(validate.mock.calls).toEqual([['a'], ['b']])
    validate.mockClear()
    expect(await store.replay()).toEqual(['a', 'b'])
    expect(validate.mock.calls).toEqual([['a'], ['b']])
  })

  test('works with a codec: it receives the decoded value', async () => {
    const path = await journalPath()
    const codec = {
      encode: ({ at }: { at: Date }) => at.toISOString(),
      decode: (line: string): { at: Date } => ({ at: new Date(line) }),
    }
    const schema = z.object({ at: z.date().min(new Date('2020-01-01')) })
    await using store = await MiniStore.open(path, { schema, codec })
    const at = new Date('2026-01-02T03:04:05.678Z')
    await store.append({ at })
    await expect(store.append({ at: new Date('2019-01-01') })).rejects.toMatchObject({
      code: 'ERR_MINISTORE_SCHEMA',
    })
    expect(await linesIn(path)).toEqual([at.toISOString()])
    expect(await store.replay()).toEqual([{ at }])
  })

  test.each([
    [
      'throws',
      () => {
        throw new Error('validator broke')
      },
    ],
    ['rejects', () => Promise.reject(new Error('validator broke'))],
  ] as const)('that %s when reading ends the stream with the place of the record', async (_how, fail) => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await store.appendAll(['good', 'bad', 'good'])
    const validate = (value: unknown): Promise<never> | { value: unknown } =>
      value === 'bad' ? fail() : { value }
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
    const { items, error } = await collect(MiniStore.stream(path, { schema }))
    expect(items).toEqual(['good'])
    expect(error).toMatchObject({
      code: 'ERR_MINISTORE_SCHEMA',
      segment: 'journal.jsonl',
      line: 3,
      sequence: 2,
      cause: expect.objectContaining({ message: 'validator broke' }) as Error,
    })
  })

  test.each([
    ['undefined', undefined, '`undefined`'],
    ['null', null, '`null`'],
    ['a number', 1, '`1`'],
    ['a promise of nothing', Promise.resolve(), '`undefined`'],
  ])('whose validate returns %s instead of a result refuses the record', async (_what, result, shown) => {
    const path = await journalPath()
    const schema = { '~standard': { version: 1, vendor: 'test', validate: () => result } } as unknown as StandardSchemaV1
    await using store = await MiniStore.open(path, { schema })
    await expect(store.append('record')).rejects.toMatchObject({
      code: 'ERR_MINISTORE_SCHEMA',
      message: expect.stringContaining(`expected its validate to give a result, got ${shown}`) as string,
    })
    expect(await linesIn(path)).toEqual([])
  })

  test('is not called for a line that is not JSON: that is corruption', async () => {
    const path = await journalPath()
    const store = await MiniStore.open(path)
    await store.append('good')
    await store.close()
    await appendFile(path, '{"cut\n')
    const { items, error } = await collect(MiniStore.stream(path, { schema: z.string() }))
    expect(items).toEqual(['good'])
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', line: 3, sequence: 2 })
  })
})

describe('an asynchronous schema', () => {
  /** A schema whose results the test supplies. */
  function schemaOnRequest(): {
    schema: StandardSchemaV1
    answers: Array<{ value: unknown; accept: () => void; refuse: () => void }>
  } {
    const answers: Array<{ value: unknown; accept: () => void; refuse: () => void }> = []
    const validate: StandardSchemaV1.Props['validate'] = (value) =>
      new Promise((resolve) => {
        const accept = (): void => resolve({ value })
        const refuse = (): void => resolve({ issues: [{ message: 'refused' }] })
        answers.push({ value, accept, refuse })
      })
    return { schema: { '~standard': { version: 1, vendor: 'test', validate } }, answers }
  }

  /** Collects unhandled rejections from now on; vitest does not see them. */
  function collectUnhandled(): unknown[] {
    const unhandled: unknown[] = []
    const others = process.listeners('unhandledRejection')
    const listener = (reason: unknown): void => void unhandled.push(reason)
    process.removeAllListeners('unhandledRejection')
    process.on('unhandledRejection', listener)
    onTestFinished(() => {
      process.off('unhandledRejection', listener)
      for (const other of others) process.on('unhandledRejection', other)
    })
    return unhandled
  }

  test.each([['append'], ['appendAll']] as const)(
    'that refuses a record of %s before its turn has come rejects that call and nothing else',
    async (method) => {
      const unhandled = collectUnhandled()
      const { schema, answers } = schemaOnRequest()
      await using store = await MiniStore.open(await journalPath(), { schema })
      const first = store.append('slow')
      const second = method === 'append' ? store.append('bad') : store.appendAll(['bad', 'bad too'])
      const outcome = Promise.allSettled([second])
      const [slow, ...bad] = answers
      for (const { refuse } of bad) refuse()
      // Long enough for Node to report a rejection without a handler.
      await nextTurn()
      await nextTurn()
      slow?.accept()
      expect(await first).toBe(1)
      expect(await outcome).toMatchObject([{ status: 'rejected', reason: { code: 'ERR_MINISTORE_SCHEMA' } }])
      expect(unhandled).toEqual([])
    },
  )

  test('that refuses a prepared record leaves no unhandled rejection, appended or not', async () => {
    const unhandled = collectUnhandled()
    await using store = await MiniStore.open(await journalPath())
    const prepared = new PreparedRecord('1', Promise.reject(new Error('refused')))
    expect(() => new PreparedRecord('', Promise.reject(new Error('refused')))).toThrow(TypeError)
    await expect(store.appendAll([prepared, undefined])).rejects.toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' })
    await nextTurn()
    await nextTurn()
    expect(unhandled).toEqual([])
    await expect(store.appendAll([prepared])).rejects.toThrow('refused')
  })

  test('that refuses records after their store was closed meanwhile has no effect', async () => {
    const unhandled = collectUnhandled()
    const { schema, answers } = schemaOnRequest()
    const store = await MiniStore.open(await journalPath(), { schema })
    let closing: Promise<void> | undefined
    function* closesBetween(): Generator<string> {
      yield 'a'
      closing = store.close()
      yield 'b'
    }
    await expect(store.appendAll(closesBetween())).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    for (const { refuse } of answers) refuse()
    await closing
    await nextTurn()
    await nextTurn()
    expect(answers).toHaveLength(2)
    expect(unhandled).toEqual([])
  })

  test('is awaited before later records are written', async () => {
    const path = await journalPath()
    const { schema, answers } = schemaOnRequest()
    await using store = await MiniStore.open(path, { schema })
    const appending = [store.append('a'), store.append('b')]
    answers[1]?.accept()
    await nextTurn()
    expect(await linesIn(path)).toEqual([])
    answers[0]?.accept()
    expect(await Promise.all(appending)).toEqual([1, 2])
    expect(await linesIn(path)).toEqual(['"a"', '"b"'])
  })

  test('is awaited by close', async () => {
    const path = await journalPath()
    const { schema, answers } = schemaOnRequest()
    const store = await MiniStore.open(path, { schema })
    const appending = store.append('a')
    const closing = store.close()
    answers[0]?.accept()
    expect(await appending).toBe(1)
    await closing
    expect(await linesIn(path)).toEqual(['"a"'])
  })

  test('reads many records in order', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    const records = Array.from({ length: 5000 }, (_, at) => ({ name: `user ${at}`, born: '2000-01-01' }))
    await store.appendAll(records)
    const { items, error } = await collect(MiniStore.stream(path, { schema: asyncUser }))
    expect(error).toBeUndefined()
    expect(items.map(({ name }) => name)).toEqual(records.map(({ name }) => name))
  })
})

test('the message names the path of an issue if it has one', async () => {
  const messages: string[] = []
  for (const path of [undefined, [], ['a', { key: 'b' }, 0, Symbol('c')]]) {
    const validate = (): StandardSchemaV1.FailureResult => ({ issues: [path === undefined ? { message: 'no' } : { message: 'no', path }] })
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
    await using store = await MiniStore.open('/journal.jsonl', { schema, fileSystem: new SimulatedFileSystem() })
    const error: unknown = await store.append('a').catch((thrown: unknown) => thrown)
    messages.push((error as Error).message)
  }
  expect(messages).toEqual([
    'The record fails the schema: no',
    'The record fails the schema: no',
    'The record fails the schema: no at a.b.0.Symbol(c)',
  ])
})
