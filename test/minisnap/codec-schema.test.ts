import { describe, expect, test } from 'vitest'
import * as z from 'zod'

import { type Codec, SnapStore, type SnapStoreOptions } from '../../src/minisnap/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** Stores strings unchanged, so that a test chooses the output of the codec. */
const asItIs: Codec<string> = { encode: (text) => text, decode: (text) => text }
const fileOf = (files: SimulatedFileSystem): string => files.readFile('/snaps/snapshot-1.json').toString()

function newStore<Input, Output>(options: SnapStoreOptions<Input, Output>): {
  readonly files: SimulatedFileSystem
  readonly store: SnapStore<Output, Input>
} {
  const files = new SimulatedFileSystem()
  return { files, store: new SnapStore<Output, Input>('/snaps', { ...options, fileSystem: files }) }
}

describe('a codec', () => {
  test('stores values that JSON alone does not preserve', async () => {
    const { store } = newStore<Map<string, Date>, Map<string, Date>>({
      codec: {
        encode: (map) => JSON.stringify([...map].map(([key, date]) => [key, date.getTime()])),
        decode: (text) => new Map((JSON.parse(text) as Array<[string, number]>).map(([key, ms]) => [key, new Date(ms)])),
      },
    })
    const state = new Map([['born', new Date(12)]])
    await store.create(state, 1)
    expect((await store.restore())?.state).toEqual(state)
  })

  const lines = ['{"a":1}', '[1, 2 ]\t', '{}', '[]', '["ä€😀", "\\ud83d"]', '{"a":1}\r']

  test.each(lines)('returns %j, which is stored unchanged', async (text) => {
    const { files, store } = newStore({ codec: asItIs })
    await store.create(text, 1)
    expect(fileOf(files)).toContain(`"state":${text}}\n`)
    expect(JSON.parse(fileOf(files))).toHaveProperty('state', JSON.parse(text))
    expect((await store.restore())?.state).toBe(text)
    await expect(store.verify(1)).resolves.toBeUndefined()
  })

  test.each([
    '', '1', 'null', '"text"', 'text', ' {}', '\ufeff{}', '{"a":1', '{a:1}', '[1]]', '{"a":\n1}', '["\ud83d"]', '\0',
    'base64==', '[,]', '}\n{',
  ])('returns %j, which is stored as a JSON string', async (text) => {
    const { files, store } = newStore({ codec: asItIs })
    await store.create(text, 1)
    expect(JSON.parse(fileOf(files))).toHaveProperty('state', text)
    expect(fileOf(files).indexOf('\n')).toBe(fileOf(files).length - 1)
    expect((await store.restore())?.state).toBe(text)
  })

  test('that throws or returns no string is an error, and no older snapshot is restored instead', async () => {
    let isBroken = false
    const { store } = newStore<string, string>({
      codec: {
        encode: (state) => (state === 'number' ? (1 as never) : fail(state === 'bad', state)),
        decode: (text) => fail(isBroken, text),
      },
    })
    await store.create('good', 1)
    await expect(store.create('bad', 2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CODEC', cause: { message: 'broken' } })
    await expect(store.create('number', 2)).rejects.toThrow(/codec's encode to return a text, got number/)
    await store.create('better', 2)
    isBroken = true
    await expect(store.restore()).rejects.toMatchObject({ code: 'ERR_MINISTORE_CODEC', sequence: 2 })
  })
})

describe('a schema', () => {
  const schema = z.object({ total: z.string().transform(Number), note: z.string().default('none') })

  test('validates the state at the call; its input is stored and its output restored', async () => {
    const files = new SimulatedFileSystem()
    const store = new SnapStore('/snaps', { schema, fileSystem: files })
    await store.create({ total: '12' }, 1)
    expect(fileOf(files)).toContain('"state":{"total":"12"}}')
    expect(await store.restore()).toEqual({ state: { total: 12, note: 'none' }, sequence: 1, damaged: [] })
  })

  test('refuses an invalid state with its issues', async () => {
    const { store } = newStore({ schema })
    const created = store.create({ total: 12 } as never, 1)
    await expect(created).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA', issues: [{ path: ['total'] }] })
    await expect(created).rejects.toThrow(/^The state fails the schema: .* at total$/)
    expect(await store.exists()).toBe(false)
  })

  test('that refuses a stored state is an error, and no older snapshot is restored instead', async () => {
    const files = new SimulatedFileSystem()
    const untyped = new SnapStore('/snaps', { fileSystem: files })
    await untyped.create({ total: '1' }, 1)
    await untyped.create({ total: 2 }, 2)
    const store = new SnapStore('/snaps', { schema, fileSystem: files })
    await expect(store.restore()).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA', sequence: 2 })
    await expect(store.restore()).rejects.toThrow(/snapshot-2\.json fails the schema/)
    expect(await store.restore({ atMost: 1 })).toMatchObject({ state: { total: 1 } })
  })

  test('that is asynchronous is awaited, in call order', async () => {
    const slow = z.object({ n: z.number().refine((n) => Promise.resolve(n < 10)) })
    // On a real disk, where a rejection would count as unhandled long before the turn of its call.
    const store = new SnapStore(await temporaryDirectory(), { schema: slow })
    const results = await Promise.allSettled([store.create({ n: 1 }, 1), store.create({ n: 10 }, 2), store.create({ n: 3 }, 3)])
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect((await store.list()).map(({ sequence }) => sequence)).toEqual([3, 1])
    expect(await store.restore()).toMatchObject({ state: { n: 3 } })
  })

  test('validates the decoded state', async () => {
    const store = new SnapStore('/snaps', {
      codec: { encode: (state) => JSON.stringify([state]), decode: (text) => (JSON.parse(text) as unknown[])[0] },
      schema,
      fileSystem: new SimulatedFileSystem(),
    })
    await store.create({ total: '7', note: 'x' }, 1)
    expect((await store.restore())?.state).toEqual({ total: 7, note: 'x' })
  })
})

describe('options', () => {
  test.each([
    [{ keep: 0 }, /Expected `keep` to be a whole number, 1 or greater, got 0/],
    [{ keep: '2' }, /Expected `keep`/],
    [{ kep: 2 }, /Unknown option `kep`: did you mean `keep`\?/],
    [{ codec: { encode: String } }, /Expected `codec` to have encode and decode/],
    [{ schema: {} }, /Expected `schema` to be a Standard Schema/],
    [{ fileSystem: {} }, /Expected `fileSystem` to be a FileSystem/],
    [null, /Expected options to be an object/],
  ])('%j are refused', (options, message) => {
    expect(() => new SnapStore('/snaps', options as never)).toThrow(message)
  })

  test.each(['', 'a\0b', 7, undefined])('%j is refused for a directory', (path) => {
    expect(() => new SnapStore(path as never)).toThrow(/Expected `directory` to be a non-empty string without NUL/)
  })

  test('a relative directory is resolved against the current working directory at the call', () => {
    expect(new SnapStore('some/where').directory).toBe(`${process.cwd()}/some/where`)
  })
})

function fail<T>(isBroken: boolean, otherwise: T): T {
  if (isBroken) throw new Error('broken')
  return otherwise
}
