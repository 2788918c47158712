import { AsyncLocalStorage } from 'node:async_hooks'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'
import * as z from 'zod'

import { MiniStore, MiniStoreError, replicate } from '../../src/index.ts'
import { StateManager, StateView } from '../../src/ministate/index.ts'
import { createTables, type PostgresClient, PostgresJournal, PostgresSnapshots, tablesSql } from '../../src/postgres/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { newName, openPGlite, ScriptedClient } from './pglite.ts'

const database = await openPGlite()

const open = (name = newName()): Promise<PostgresJournal<number>> => PostgresJournal.open<number>(database, name)
async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
const numbers = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, index) => first + index)

describe('createTables', () => {
  test('may be repeated, also at once, and in another schema', async () => {
    await createTables(database)
    await Promise.all([1, 2, 3].map(() => createTables(database, { schema: 'a "strange" one' })))
    const there = await PostgresJournal.open<number>(database, 'same name', { databaseSchema: 'a "strange" one' })
    const here = await open('same name')
    await there.append(1)
    expect([here.lastSequence, (await open('same name')).lastSequence]).toEqual([0, 0])
    expect(here.id).not.toBe(there.id)
  })

  test('asks for no right if the tables exist', async () => {
    const client = new ScriptedClient(database)
    await createTables(client)
    expect(client.seen).toHaveLength(1)
  })

  test('takes it for done if another session creates the same at this moment', async () => {
    const client = new ScriptedClient(database)
    const taken = Object.assign(new Error('duplicate key value'), { code: '23505' })
    client.script.push({ on: 'other' }, { on: 'other', lost: taken })
    await createTables(client, { schema: 'raced' })
    await PostgresJournal.open(database, 'one', { databaseSchema: 'raced' })
    const denied = Object.assign(new Error('permission denied'), { code: '42501' })
    client.script.push({ on: 'other' }, { on: 'other', instead: denied })
    await expect(createTables(client, { schema: 'denied' })).rejects.toBe(denied)
  })

  test('is printed as SQL', async () => {
    await database.exec(tablesSql({ schema: 'printed' }))
    await database.exec(tablesSql({ schema: 'printed' }))
    expect((await PostgresJournal.open(database, 'one', { databaseSchema: 'printed' })).lastSequence).toBe(0)
  })

  test.each<[string, object]>([['a misspelled option', { shema: 'x' }], ['an empty name', { schema: '' }], ['a name that is cut off', { schema: 'x'.repeat(64) }]])(
    'refuses %s', async (_, options) => {
      await expect(createTables(database, options)).rejects.toThrow(TypeError)
      expect(() => tablesSql(options)).toThrow(TypeError)
    },
  )
})

describe('records', () => {
  test('are lines of text in a table that psql can read', async () => {
    const name = newName()
    const journal = await PostgresJournal.open<object>(database, name)
    await journal.appendAll([{ text: 'a\nb \u0000 €' }, { text: 'two' }])
    const { rows } = await database.query('select sequence, line from ministore.records where journal = $1 order by sequence', [name])
    expect(rows).toEqual([{ sequence: 1, line: '{"text":"a\\nb \\u0000 €"}' }, { sequence: 2, line: '{"text":"two"}' }])
  })

  test('of a schema are checked on append and transformed on reading, also by an asynchronous one', async () => {
    const name = newName()
    const schema = z.object({ at: z.string().transform(async (text) => new Date(text)) })
    const journal = await PostgresJournal.open(database, name, { schema })
    await journal.append({ at: '2026-01-01T00:00:00Z' })
    await expect(journal.append({ at: 5 as never })).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    await expect(journal.appendAll([{ at: '2026-01-01' }, { at: 5 as never }])).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    const reader = await PostgresJournal.read(database, name, { schema })
    expect((await reader.replay()).map(({ at }) => at.getTime())).toEqual([Date.UTC(2026, 0, 1)])
  })

  test('of a codec are its text; a NUL, a line feed and half a surrogate pair are refused', async () => {
    const codec = { encode: (value: string): string => value, decode: (line: string): string => line }
    const journal = await PostgresJournal.open(database, newName(), { codec })
    for (const text of ['a\0b', 'a\nb', 'a\ud800b']) {
      await expect(journal.append(text)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CODEC' })
    }
    await journal.append(`'quoted' \\ {"json"`)
    expect(await journal.replay()).toEqual([`'quoted' \\ {"json"`])
  })

  test('have a maximum size', async () => {
    const journal = await PostgresJournal.open<string>(database, newName(), { maxRecordBytes: 10 })
    await expect(journal.append('123456789')).rejects.toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' })
    await journal.append('12345678')
    await expect(PostgresJournal.open(database, newName(), { maxRecordBytes: 2 ** 30 })).rejects.toThrow(RangeError)
  })

  test('that are too large together are refused before they are sent', async () => {
    const client = new ScriptedClient(database)
    const codec = { encode: (text: string): string => text, decode: (line: string): string => line }
    const journal = await PostgresJournal.open(client, newName(), { codec, maxRecordBytes: 2 ** 28 })
    client.seen.length = 0
    const large = 'x'.repeat(2 ** 26)
    await expect(journal.appendAll([large, large, large, large])).rejects.toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' })
    expect(client.seen).toEqual([])
  })

  test('of large sizes make pages of their own, and many small ones several pages', async () => {
    const client = new ScriptedClient(database)
    const journal = await PostgresJournal.open<string>(client, newName())
    await journal.appendAll(['a', 'b'.repeat(3_000_000), 'c', ...numbers(4, 5000).map(String)])
    client.seen.length = 0
    const lengths = (await journal.replay()).map(({ length }) => length)
    expect(lengths.slice(0, 3)).toEqual([1, 3_000_000, 1])
    expect(lengths).toHaveLength(5000)
    expect(client.seen.filter((kind) => kind === 'page')).toHaveLength(4)
  })
})

describe('stream, entries, bytes and replay', () => {
  test('give the same records, in a range', async () => {
    const journal = await open()
    await journal.appendAll(numbers(1, 9))
    expect(await journal.replay({ from: 3, to: 5 })).toEqual([3, 4, 5])
    expect(await collect(journal.entries({ from: 8 }))).toEqual([{ sequence: 8, record: 8 }, { sequence: 9, record: 9 }])
    expect(await new Response(journal.bytes({ from: 8 })).text()).toBe('8\n9\n')
    expect(() => journal.stream({ from: 0 })).toThrow(RangeError)
    expect(() => journal.bytes({ salvage: () => {} } as never)).toThrow(TypeError)
  })

  test('give bytes in blocks of whole lines, of 64 KiB at most unless one line is longer', async () => {
    const journal = await PostgresJournal.open<string>(database, newName())
    const records = [...numbers(1, 20_000).map((n) => `ä ${n}`), '€'.repeat(100_000), 'end']
    await journal.appendAll(records)
    const blocks = await collect(journal.bytes())
    expect(Buffer.concat(blocks).toString()).toBe(records.map((record) => `${JSON.stringify(record)}\n`).join(''))
    expect(blocks.filter(({ length }) => length > 65_536)).toHaveLength(1)
    expect(blocks.every((block) => block.at(-1) === 10 && block.length === block.buffer.byteLength)).toBe(true)
    expect(blocks.length).toBeLessThan(20)
  })

  test('end at a damaged line after the records before it, or skip it with salvage', async () => {
    const name = newName()
    const journal = await open(name)
    await journal.appendAll(numbers(1, 5))
    await database.query(`update ministore.records set line = '{' where journal = $1 and sequence in (3, 4)`, [name])
    const seen: number[] = []
    const reading = (async () => {
      for await (const record of journal.stream()) seen.push(record)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', sequence: 3 })
    expect(seen).toEqual([1, 2])
    const damages: Array<number | undefined> = []
    const entries = journal.entries({ salvage: ({ sequence }) => void damages.push(sequence) })
    expect((await collect(entries)).map(({ sequence }) => sequence)).toEqual([1, 2, 5])
    expect(damages).toEqual([3, 4])
    await expect(collect(journal.bytes())).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', sequence: 3 })
  })

  test('run the codec in the context in which they were created', async () => {
    const context = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const decode = (line: string): number => (seen.push(context.getStore()), Number(line))
    const journal = await PostgresJournal.open(database, newName(), { codec: { encode: String, decode } })
    await journal.append(1)
    seen.length = 0
    const stream = context.run('mine', () => journal.stream())
    expect(await collect(stream)).toEqual([1])
    expect(seen).toEqual(['mine'])
  })

  test('of a closed journal are refused, and its followers end', async () => {
    const journal = await open()
    await journal.append(1)
    const following = collect(journal.stream({ follow: true }))
    await journal.append(2)
    const reader = await PostgresJournal.read<number>(database, journal.name, { pollIntervalMs: 5 })
    const reading = collect(reader.stream({ follow: true }))
    await expect.poll(() => reader.refresh().then(() => reader.lastSequence)).toBe(2)
    await Promise.all([journal.close(), reader.close()])
    expect([await following, await reading]).toEqual([[1, 2], [1, 2]])
    expect(() => journal.stream()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CLOSED' }))
    await expect(journal.append(3)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
    await expect(journal.refresh()).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
  })

  test('that follow a writer end with an error when it is fenced', async () => {
    const name = newName()
    const journal = await open(name)
    const following = collect(journal.stream({ follow: true }))
    const other = await open(name)
    await other.append(1)
    await expect(journal.append(9)).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    await expect(following).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  })
})

describe('a reader', () => {
  test('changes nothing, and fences nobody', async () => {
    const name = newName()
    const journal = await open(name)
    const reader = await PostgresJournal.read<number>(database, name)
    for (const call of [
      () => reader.append(1 as never), () => reader.appendAll([]), () => reader.truncateBefore(1), async () => reader.prepare(1 as never),
      () => reader.adopt({ id: '0123456789abcdef', firstSequence: 1 }), () => new PostgresSnapshots<number>(reader).create(1, 0),
    ]) await expect(call()).rejects.toThrow(TypeError)
    expect(await journal.append(1)).toBe(1)
    await reader.refresh()
    expect([reader.lastSequence, reader.id, reader.name]).toEqual([1, journal.id, name])
  })

  test('of a journal that does not exist is empty, and follows it once it does', async () => {
    const name = newName()
    const reader = await PostgresJournal.read<number>(database, name, { pollIntervalMs: 5 })
    expect([reader.id, reader.firstSequence, reader.lastSequence, await reader.replay()]).toEqual([undefined, 1, 0, []])
    const following = collect(reader.stream({ follow: true, to: 2 }))
    const journal = await open(name)
    await journal.appendAll([1, 2, 3])
    expect(await following).toEqual([1, 2])
    expect(reader.id).toBe(journal.id)
  })

  test('notices that another journal has taken the place of its own', async () => {
    const name = newName()
    await (await open(name)).append(1)
    const reader = await PostgresJournal.read<number>(database, name, { pollIntervalMs: 5 })
    const following = collect(reader.stream({ follow: true }))
    const removal = `with gone as (delete from ministore.records where journal = $1) delete from ministore.journals where name = $1`
    await database.query(removal, [name])
    await expect(reader.refresh()).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL' })
    await (await open(name)).append(1)
    await expect(reader.refresh()).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL' })
    await expect(following).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL' })
  })

  test('is woken by `listen` of the client, long before it would poll, and ends that', async () => {
    const name = newName()
    const ended: string[] = []
    const client: PostgresClient = {
      query: (text, values) => database.query(text, values),
      listen: async (channel, callback) => {
        const end = await database.listen(channel, callback)
        return { unlisten: async () => (await end(), ended.push(channel)) }
      },
    }
    const journal = await PostgresJournal.open<number>(client, name)
    const reader = await PostgresJournal.read<number>(client, name, { pollIntervalMs: 1_000_000 })
    const stream = reader.stream({ follow: true }).values()
    const first = stream.next()
    await journal.append(1)
    expect(await first).toEqual({ done: false, value: 1 })
    const second = stream.next()
    await journal.appendAll([2, 3])
    expect(await second).toEqual({ done: false, value: 2 })
    await stream.return()
    await journal.close()
    await expect.poll(() => ended).toHaveLength(1)
  })

  test('polls if its client cannot listen', async () => {
    const name = newName()
    const client: PostgresClient = {
      query: (text, values) => database.query(text, values),
      listen: () => Promise.reject(new Error('no such thing')),
    }
    const reader = await PostgresJournal.read<number>(client, name, { pollIntervalMs: 5 })
    const following = collect(reader.stream({ follow: true, to: 1 }))
    await (await open(name)).append(1)
    expect(await following).toEqual([1])
  })
})

describe('truncateBefore', () => {
  test('removes the rows, in several statements if there are many', async () => {
    const name = newName()
    const client = new ScriptedClient(database)
    const journal = await PostgresJournal.open<number>(client, name)
    await journal.appendAll(numbers(1, 25_000))
    client.seen.length = 0
    await journal.truncateBefore(24_999)
    expect(client.seen).toEqual(['truncate', 'truncate', 'truncate'])
    expect([journal.firstSequence, await journal.replay()]).toEqual([24_999, [24_999, 25_000]])
    const { rows } = await database.query('select count(*)::int as count from ministore.records where journal = $1', [name])
    expect(rows).toEqual([{ count: 2 }])
    await expect(journal.truncateBefore(25_002)).rejects.toThrow(RangeError)
  })
})

describe('options and arguments', () => {
  test.each<[string, () => Promise<unknown>]>([
    ['a client without query', () => PostgresJournal.open({} as never, 'x')],
    ['no client', () => PostgresJournal.read(undefined as never, 'x')],
    ['an empty name', () => PostgresJournal.open(database, '')],
    ['a name with NUL', () => PostgresJournal.open(database, 'a\0')],
    ['a long name', () => PostgresJournal.open(database, 'x'.repeat(256))],
    ['a misspelled option', () => PostgresJournal.open(database, 'x', { timeoutMS: 1 } as never)],
    ['an option of a writer for a reader', () => PostgresJournal.read(database, 'x', { maxRecordBytes: 1 } as never)],
    ['a schema that is the name of one', () => PostgresJournal.open(database, 'x', { schema: 'ministore' } as never)],
    ['snapshots of something else', async () => new PostgresSnapshots({} as never)],
  ])('%s is refused with a TypeError', async (_, call) => {
    await expect(call()).rejects.toThrow(TypeError)
  })
})

test('replicate moves a local journal into the tables, and deletes it here', async () => {
  const path = join(await temporaryDirectory(), 'edge.jsonl')
  await using source = await MiniStore.open<number>(path, { maxBytesPerSegment: 2000 })
  await source.appendAll(numbers(1, 300))
  await source.rotate()
  await source.truncateBefore(100)
  const begin = source.firstSequence
  const name = newName()
  const target = await open(name)
  expect(await replicate(source, target, { follow: false, truncate: true })).toEqual({ first: begin, last: 300, copied: 301 - begin })
  expect([target.id, target.firstSequence, target.lastSequence]).toEqual([source.id, begin, 300])
  expect(source.firstSequence).toBeGreaterThan(begin)
  // Another target process goes on, and follows.
  const stop = new AbortController()
  const again = await open(name)
  const following = replicate(source, again, { truncate: true, signal: stop.signal })
  await source.appendAll(numbers(301, 400))
  await expect.poll(() => again.lastSequence).toBe(400)
  stop.abort()
  expect((await following).copied).toBe(100)
  expect(await again.replay()).toEqual(numbers(begin, 400))
  await expect(replicate(source, target, { follow: false })).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  // And back: the tables are a source like any other.
  const copy = await MiniStore.open<number>(join(await temporaryDirectory(), 'copy.jsonl'))
  await replicate(await PostgresJournal.read(database, name), copy, { follow: false })
  expect([copy.id, await copy.replay({ from: 399 })]).toEqual([source.id, [399, 400]])
  await copy.close()
})

describe('a state over the tables', () => {
  const options = {
    initialState: () => ({ total: 0, applied: 0 }),
    mutator: (state: { total: number; applied: number }, by: number) => {
      state.total += by
      state.applied += 1
    },
  }
  const openState = async (name: string): Promise<StateManager<{ total: number; applied: number }, number>> => {
    const journal = await open(name)
    return await StateManager.over(journal, new PostgresSnapshots(journal, { keep: 2 }), options)
  }

  test('is the same on another machine, also after compactions, and the first machine is fenced', async () => {
    const name = newName()
    const first = await openState(name)
    for (const round of [1, 2, 3]) {
      await first.applyAll(numbers(1, 10))
      expect((await first.compact()).sequence).toBe(10 * round)
    }
    await first.apply(5)
    const second = await openState(name)
    expect(second.state).toEqual({ total: 170, applied: 31 })
    expect(second.recovery).toMatchObject({ snapshotSequence: 30, replayed: 1 })
    await second.apply(1)
    await expect(first.apply(9)).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    await expect(first.compact()).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect(first.state).toEqual({ total: 170, applied: 31 })
    expect((await openState(name)).state).toEqual({ total: 171, applied: 32 })
  })

  test('is followed by a view through a reader', async () => {
    const name = newName()
    const state = await openState(name)
    await state.apply(1)
    const reader = await PostgresJournal.read<number>(database, name, { pollIntervalMs: 5 })
    const view = await StateView.open(reader, options)
    const sequence = await state.apply(2)
    await view.caughtUp({ sequence })
    expect(view.state).toEqual({ total: 3, applied: 2 })
    await view.close()
    await state.close()
  })

  test('takes over while another one compacts', async () => {
    const name = newName()
    const first = await openState(name)
    await first.applyAll(numbers(1, 20))
    const journal = await open(name)
    // Between the opening of the journal and of its state, a third one takes over, writes and compacts.
    const third = await openState(name)
    await third.applyAll(numbers(1, 5))
    await third.compact()
    const snapshots = new PostgresSnapshots<{ total: number; applied: number }>(journal)
    await expect(StateManager.over(journal, snapshots, options)).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect((await openState(name)).state).toEqual({ total: 225, applied: 25 })
  })
})

test('errors are those of the library', async () => {
  const journal = await open()
  const error: unknown = await journal.append(1, { expectedSequence: 5 }).catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(MiniStoreError)
  expect(error).toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_CONFLICT', sequence: 0, expectedSequence: 5 })
})

test('the package itself loads nothing of this, and this loads no client', () => {
  const hooks = 'export const load = (url, context, next) => (process._rawDebug(url), next(url, context))'
  const program = `
    import { register } from 'node:module'
    register('data:text/javascript,${encodeURIComponent(hooks)}')
    await import('@mini-ts/ministore')
    process._rawDebug('then')
    await import('@mini-ts/ministore/postgres')`
  const root = join(import.meta.dirname, '../..')
  const { stderr, status } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], { cwd: root, encoding: 'utf8' })
  expect(status).toBe(0)
  const [before = '', after = ''] = stderr.split('then\n')
  expect(before).toContain('/dist/index.js')
  expect(before).not.toContain('/dist/postgres/')
  expect(after).toContain('/dist/postgres/index.js')
  expect(after.split('\n').filter((url) => url.includes('node_modules') || !url.includes('/dist/'))).toEqual([''])
})
