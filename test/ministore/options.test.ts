import { constants } from 'node:buffer'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, onTestFinished, test } from 'vitest'

import { MiniStore, MiniStoreError } from '../../src/index.ts'
import { nearest, shown } from '../../src/options.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** A function that takes options and a path. It throws or rejects if they are refused. */
interface Entry {
  readonly name: string
  readonly options: readonly string[]
  readonly use: (path: string, options: unknown) => Promise<unknown>
}

const writerOptions = [
  'maxBytesPerSegment',
  'maxSegments',
  'maxRecordBytes',
  'schema',
  'codec',
  'lock',
  'fileSystem',
]
const streamOptions = ['from', 'to', 'signal', 'follow', 'salvage']
const readerOptions = [...streamOptions, 'schema', 'codec', 'pollIntervalMs', 'fileSystem']

/** Opens a store with ten records for a method call, and closes it afterwards. */
async function withStore(path: string, use: (store: MiniStore) => unknown): Promise<void> {
  await using store = await MiniStore.open(path)
  await store.appendAll([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  await use(store)
}

/** Cancels a stream that the test only needs to create. */
function cancelled(stream: ReadableStream): Promise<void> {
  return stream.cancel()
}

// The options are `unknown` on purpose: JavaScript can pass more than the types allow.
const entries: Entry[] = [
  {
    name: 'MiniStore.open',
    options: writerOptions,
    use: async (path, options) => {
      const store = await MiniStore.open(path, options as object)
      onTestFinished(() => store.close())
    },
  },
  {
    name: 'store.stream',
    options: streamOptions,
    use: (path, options) => withStore(path, (store) => cancelled(store.stream(options as object))),
  },
  {
    name: 'store.entries',
    options: streamOptions,
    use: (path, options) => withStore(path, (store) => cancelled(store.entries(options as object))),
  },
  {
    name: 'store.replay',
    options: streamOptions.filter((name) => name !== 'follow'),
    use: (path, options) => withStore(path, (store) => store.replay(options as object)),
  },
  {
    name: 'store.bytes',
    options: streamOptions.filter((name) => name !== 'salvage'),
    use: (path, options) => withStore(path, (store) => cancelled(store.bytes(options as object))),
  },
  {
    name: 'MiniStore.bytes',
    options: readerOptions.filter((name) => name !== 'salvage' && name !== 'schema'),
    use: async (path, options) => cancelled(MiniStore.bytes(path, options as object)),
  },
  {
    name: 'MiniStore.stream',
    options: readerOptions,
    use: async (path, options) => cancelled(MiniStore.stream(path, options as object)),
  },
  {
    name: 'MiniStore.entries',
    options: readerOptions,
    use: async (path, options) => cancelled(MiniStore.entries(path, options as object)),
  },
  {
    name: 'MiniStore.replay',
    options: readerOptions.filter((name) => name !== 'follow'),
    use: (path, options) => MiniStore.replay(path, options as object),
  },
]

async function journalPath(): Promise<string> {
  return join(await temporaryDirectory(), 'journal.jsonl')
}

async function errorOf(failing: Promise<unknown>): Promise<Error> {
  const error: unknown = await failing.then(
    () => expect.unreachable('it was expected to be refused'),
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(Error)
  return error as Error
}

type Kind = typeof TypeError | typeof RangeError

/**
 * Expects refusal as misuse: a built-in error class, and a message with the option, the expected
 * value and the actual value.
 */
async function expectRefused(
  failing: Promise<unknown>,
  expected: { kind: Kind; says: RegExp },
): Promise<void> {
  const error = await errorOf(failing)
  expect(error.constructor).toBe(expected.kind)
  expect(error.message).toMatch(expected.says)
}

const schema = { '~standard': { version: 1, vendor: 'test', validate: (value: unknown) => ({ value }) } }
const functionSchema = Object.assign(() => {}, schema)
const codec = { encode: JSON.stringify, decode: JSON.parse }
const { signal } = new AbortController()

const integerMaximum: Readonly<Record<string, number>> = {
  maxRecordBytes: constants.MAX_STRING_LENGTH - 1,
  pollIntervalMs: 0x7fffffff,
}

const integers = ['maxBytesPerSegment', 'maxSegments', 'maxRecordBytes', 'from', 'to', 'pollIntervalMs']

/** Valid values, by option. */
const valid: Readonly<Record<string, readonly unknown[]>> = {
  maxBytesPerSegment: [1, 2 ** 40, Number.MAX_SAFE_INTEGER],
  maxSegments: [1, 2, Number.MAX_SAFE_INTEGER, Infinity],
  maxRecordBytes: [1, constants.MAX_STRING_LENGTH - 1],
  from: [1, 10],
  to: [1, 10, Number.MAX_SAFE_INTEGER],
  pollIntervalMs: [1, 0x7fffffff],
  schema: [schema, functionSchema],
  codec: [codec],
  lock: [true, false],
  follow: [true, false],
  signal: [signal],
  salvage: [() => {}],
  fileSystem: [],
}

interface Wrong {
  readonly value: unknown
  readonly kind: Kind
  readonly says: RegExp
}

function wrongIntegers(name: string): Wrong[] {
  const most = integerMaximum[name]
  const bounds = most === undefined ? '1 or greater' : `from 1 to ${most}`
  const says = (got: string): RegExp =>
    new RegExp(`^Expected \`${name}\` to be a whole number, ${bounds}, got ${got.replace(/[+.]/g, '\\$&')}$`)
  const outOfRange = [0, -1, 1.5, NaN, -Infinity, 2 ** 53, ...(name === 'maxSegments' ? [] : [Infinity])]
  if (most !== undefined) outOfRange.push(most + 1)
  const others: Array<[unknown, string]> = [
    ['1', '`"1"` \\(string\\)'],
    [1n, '`1` \\(bigint\\)'],
    [null, '`null` \\(object\\)'],
    [true, '`true` \\(boolean\\)'],
    [[1], 'an array'],
    [{}, 'an object'],
    [() => 1, 'a function'],
    [Symbol('one'), '`Symbol\\(one\\)` \\(symbol\\)'],
  ]
  return [
    ...outOfRange.map((value) => ({ value, kind: RangeError, says: says(`${value}`) })),
    ...others.map(([value, got]) => ({
      value,
      kind: TypeError,
      says: new RegExp(`^Expected \`${name}\` to be a whole number, got ${got}$`),
    })),
  ]
}

const wrong: Readonly<Record<string, readonly Wrong[]>> = {
  ...Object.fromEntries(integers.map((name) => [name, wrongIntegers(name)])),
  lock: [0, 'false', null].map((value) => ({
    value,
    kind: TypeError,
    says: /^Expected `lock` to be true or false, got /,
  })),
  follow: [1, 'true', null].map((value) => ({
    value,
    kind: TypeError,
    says: /^Expected `follow` to be true or false, got /,
  })),
  signal: [null, {}, new AbortController()].map((value) => ({
    value,
    kind: TypeError,
    says: /^Expected `signal` to be an AbortSignal, got /,
  })),
  salvage: [null, true, {}].map((value) => ({
    value,
    kind: TypeError,
    says: /^Expected `salvage` to be a function, got /,
  })),
  schema: [null, 'zod', {}, () => {}, { '~standard': {} }, { '~standard': null }].map((value) => ({
    value,
    kind: TypeError,
    says: /^Expected `schema` to be a Standard Schema .*, got /,
  })),
  fileSystem: [null, 'fs', {}].map((value) => ({
    value,
    kind: TypeError,
    says: /^Expected `fileSystem` to be a FileSystem, got /,
  })),
}

const wrongCodecs: unknown[] = [
  null,
  'json',
  {},
  { encode: JSON.stringify },
  { encode: JSON.stringify, decode: 1 },
]

describe.each(entries)('options of $name', ({ name, options, use }) => {
  test('may be left out, be undefined, be empty, or have every name undefined', async () => {
    const nothing = Object.fromEntries(options.map((option) => [option, undefined]))
    for (const none of [undefined, {}, nothing])
      await expect(use(await journalPath(), none)).resolves.not.toThrow()
  })

  test.each<[what: string, given: unknown, got: string]>([
    ['null', null, '`null` \\(object\\)'],
    ['a number', 5, '`5` \\(number\\)'],
    ['a string', 'lock', '`"lock"` \\(string\\)'],
    ['a function', () => {}, 'a function'],
    ['an array', [], 'an array'],
  ])('are refused when they are %s', async (_what, given, got) => {
    const says = new RegExp(`^Expected options to be an object, got ${got}$`)
    await expectRefused(use(await journalPath(), given), { kind: TypeError, says })
  })

  const rightCases = options.flatMap((option) => (valid[option] ?? []).map((value) => ({ option, value })))
  test.each(rightCases)('$option may be $value', async ({ option, value }) => {
    await expect(use(await journalPath(), { [option]: value })).resolves.not.toThrow()
  })

  const wrongCases = options.flatMap((option) => (wrong[option] ?? []).map((bad) => ({ option, ...bad })))
  test.each(wrongCases)('$option must not be $value', async ({ option, value, kind, says }) => {
    const path = await journalPath()
    await expectRefused(use(path, { [option]: value }), { kind, says })
    // A refused call creates nothing.
    if (name === 'MiniStore.open') expect(await readdir(join(path, '..'))).toEqual([])
  })

  if (options.includes('codec')) {
    const methods = name === 'MiniStore.open' ? 'encode and decode' : 'decode'
    test.each(wrongCodecs)(`codec must have ${methods}: %j`, async (value) => {
      const says = new RegExp(`^Expected \`codec\` to have ${methods}, got `)
      await expectRefused(use(await journalPath(), { codec: value }), { kind: TypeError, says })
    })
  }

  if (options.includes('from')) {
    test('to may be from and must not be less', async () => {
      await expect(use(await journalPath(), { from: 3, to: 3 })).resolves.not.toThrow()
      const says = /^Expected `to` to be `from` \(3\) or greater, got 2$/
      await expectRefused(use(await journalPath(), { from: 3, to: 2 }), { kind: RangeError, says })
    })
  }

  test('with an unknown name are refused, with that name and all that are known', async () => {
    const error = await errorOf(use(await journalPath(), { zzzzzzzzzzzz: undefined }))
    expect(error).toBeInstanceOf(TypeError)
    expect(error.message).toMatch(/^Unknown option `zzzzzzzzzzzz`: known are /)
    for (const option of options) expect(error.message).toContain(option)
  })

  test.each(options.flatMap((option) => misspellings(option).map((misspelt) => ({ option, misspelt }))))(
    'with $misspelt for $option are refused, with a hint',
    async ({ option, misspelt }) => {
      await expectRefused(use(await journalPath(), { [misspelt]: valid[option]?.[0] }), {
        kind: TypeError,
        says: new RegExp(`^Unknown option \`${misspelt}\`: did you mean \`${option}\`\\?$`),
      })
    },
  )

  test('are neither retained nor changed', async () => {
    const given = Object.freeze(Object.fromEntries(options.map((option) => [option, valid[option]?.[0]])))
    const before = { ...given }
    await use(await journalPath(), given)
    expect(given).toEqual(before)
  })
})

/** Common misspellings: wrong case, or a letter missing at the end, doubled, added, or swapped. */
function misspellings(option: string): string[] {
  const at = Math.floor(option.length / 2)
  const letter = option.charAt(at)
  return [
    option.toUpperCase(),
    `${option}s`,
    ...(option.length < 4 ? [] : [option.slice(0, -1), option.slice(0, at) + letter + option.slice(at)]),
    ...(option.length < 6
      ? []
      : [option.slice(0, at - 1) + letter + option.charAt(at - 1) + option.slice(at + 1)]),
  ].filter((misspelt) => misspelt !== option)
}

describe('replay into an array', () => {
  test('refuses to follow: that would never end', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await store.append('one')
    const says = /^Expected `follow` to be absent/
    await expectRefused(store.replay({ follow: true } as object), { kind: TypeError, says })
    await expectRefused(MiniStore.replay(path, { follow: true } as object), { kind: TypeError, says })
  })
})

describe('a path', () => {
  const wrongPaths: Array<[unknown, RegExp]> = [
    ['', /^Expected `path` to be a non-empty string without NUL, or a `file:` URL, got `""` \(string\)$/],
    ['a\0b', /^Expected `path` to be .*NUL, .*got /],
    [undefined, /^Expected `path` to be .*, got `undefined` \(undefined\)$/],
    [null, /^Expected `path` to be .*, got `null` \(object\)$/],
    [7, /^Expected `path` to be .*, got `7` \(number\)$/],
    [{ href: 'file:///tmp/journal.jsonl' }, /^Expected `path` to be .*, got an object$/],
    [Buffer.from('journal.jsonl'), /^Expected `path` to be .*, got an object$/],
  ]
  const fromPath = entries.filter(({ name }) => name.startsWith('MiniStore.'))
  const cases = fromPath.flatMap(({ name, use }) =>
    wrongPaths.map(([path, says]) => ({ name, use, path, says })),
  )
  test.each(cases)('given to $name must not be $path', async ({ use, path, says }) => {
    await expectRefused(use(path as string, {}), { kind: TypeError, says })
  })

  test('is made absolute once, when the store is opened', async () => {
    const directory = await temporaryDirectory()
    const before = process.cwd()
    // Each vitest worker is a separate process, so this does not affect other tests.
    process.chdir(directory)
    onTestFinished(() => process.chdir(before))
    await using store = await MiniStore.open('journal.jsonl')
    process.chdir(before)
    expect(store.path).toBe(join(directory, 'journal.jsonl'))
    await store.append('one')
    await store.rotate()
    expect(await store.append('two')).toBe(2)
    expect(await readFile(join(directory, 'journal.jsonl'), 'utf8')).toMatch(/"two"\n$/)
  })

  test('that is a directory cannot be opened, and the error names it', async () => {
    const directory = await temporaryDirectory()
    await expect(MiniStore.open(directory)).rejects.toMatchObject({
      code: 'ERR_MINISTORE_IO',
      path: directory,
      message: expect.stringContaining(directory) as string,
    })
  })
})

describe('truncateBefore', () => {
  test.each(wrongIntegers('sequence'))('refuses $value', async ({ value, kind, says }) => {
    await withStore(await journalPath(), (store) =>
      expectRefused(store.truncateBefore(value as number), { kind, says }),
    )
  })

  test('refuses a number beyond the next one, and accepts the next one', async () => {
    await withStore(await journalPath(), async (store) => {
      const says = /^Expected `sequence` to be at most 11, .*got 12$/
      await expectRefused(store.truncateBefore(12), { kind: RangeError, says })
      await store.truncateBefore(11)
      expect(store.firstSequence).toBe(1)
    })
  })
})

/** The behaviour of a closed store for each of its members; new members must be added. */
const closedBehaviour: Readonly<Record<string, (store: MiniStore, path: string) => Promise<void>>> = {
  append: (store) => expectClosed(() => store.append('late')),
  appendAll: (store) => expectClosed(() => store.appendAll(['late'])),
  writable: (store) => expectClosed(() => store.writable()),
  stream: (store) => expectClosed(() => store.stream()),
  entries: (store) => expectClosed(() => store.entries()),
  bytes: (store) => expectClosed(() => store.bytes()),
  replay: (store) => expectClosed(() => store.replay()),
  prepare: (store) => expectClosed(() => store.prepare('late')),
  preparedEntries: (store) => expectClosed(() => store.preparedEntries()),
  rotate: (store) => expectClosed(() => store.rotate()),
  truncateBefore: (store) => expectClosed(() => store.truncateBefore(1)),
  adopt: (store) => expectClosed(() => store.adopt({ id: '0123456789abcdef', firstSequence: 1 })),
  close: async (store) => expect(await store.close()).toBeUndefined(),
  [Symbol.asyncDispose.toString()]: async (store) =>
    expect(await store[Symbol.asyncDispose]()).toBeUndefined(),
  path: async (store, path) => expect(store.path).toBe(path),
  id: async (store) => expect(store.id).toMatch(/^[0-9a-f]{16}$/),
  firstSequence: async (store) => expect(store.firstSequence).toBe(1),
  lastSequence: async (store) => expect(store.lastSequence).toBe(10),
  segments: async (store, path) =>
    expect(store.segments).toMatchObject([{ path, firstSequence: 1, lastSequence: 10 }]),
  recovery: async (store) => expect(store.recovery.isNew).toBe(true),
}

async function expectClosed(call: () => unknown): Promise<void> {
  const error = await errorOf(Promise.resolve().then(call))
  expect(error).toBeInstanceOf(MiniStoreError)
  expect(error).toMatchObject({
    code: 'ERR_MINISTORE_CLOSED',
    message: expect.stringContaining('is closed') as string,
  })
}

describe('a closed store', () => {
  // The methods that read are inherited.
  const prototypes: object[] = []
  for (let one: object = MiniStore.prototype; one !== Object.prototype; one = Object.getPrototypeOf(one) as object) {
    prototypes.push(one)
  }
  const members = prototypes
    .flatMap((prototype) => Reflect.ownKeys(prototype))
    .map(String)
    .filter((name) => name !== 'constructor')

  test('has its behaviour listed here for every member', () => {
    expect(members.toSorted()).toEqual(Object.keys(closedBehaviour).toSorted())
  })

  test.each(members)('%s is refused, or needs no disk', async (member) => {
    const path = await journalPath()
    let closed: MiniStore | undefined
    await withStore(path, (store) => void (closed = store))
    const names = await readdir(join(path, '..'))
    const bytes = await readFile(path)
    await closedBehaviour[member]?.(closed as MiniStore, path)
    expect(await readdir(join(path, '..'))).toEqual(names)
    expect(await readFile(path)).toEqual(bytes)
    expect.hasAssertions()
  })

  test('is refused by a method before its arguments are checked', async () => {
    let closed: MiniStore | undefined
    await withStore(await journalPath(), (store) => void (closed = store))
    const store = closed as MiniStore
    await expectClosed(() => store.append(undefined))
    await expectClosed(() => store.truncateBefore(-1))
    await expectClosed(() => store.stream({ from: -1 }))
  })
})

test('a hint names an option that differs in two letters, but none that differs in three', () => {
  expect(nearest('lacks', ['lock', 'codec'])).toBe('lock')
  expect(nearest('bicks', ['lock', 'codec'])).toBeUndefined()
  expect(nearest('LOCK', ['locks', 'lock'])).toBe('lock')
})

test('a long string is shown by its first sixty characters', () => {
  expect(shown('x'.repeat(61))).toBe(`\`"${'x'.repeat(60)}"\` (string)`)
})
