import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { Client } from 'pg'
import sqlOf from 'postgres'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'

import { createTables, type PostgresClient, PostgresJournal, PostgresSnapshots } from '../../src/postgres/index.ts'
import { type ContractRecord, type ContractState, journalContract, snapshotsContract } from '../../src/testing/index.ts'
import { Cluster } from './cluster.ts'
import { expectAll, openLog, poolOf, reason } from './logs.ts'
import { newName } from './pglite.ts'
import { pickSeed, seededRandom } from '../support/seeded-random.ts'

const server = reason === undefined ? await Cluster.start() : undefined
afterAll(() => server?.remove())

const pool = poolOf(server)
if (server !== undefined) await createTables(pool)

describe.skipIf(reason !== undefined)('on a real server', () => {
  describe.each<[string, () => Promise<PostgresClient>]>([
    ['a pool of pg', () => Promise.resolve(pool)],
    ['a client of pg', async () => {
      const client = new Client(server?.address)
      await client.connect()
      onTestFinished(() => client.end())
      return client
    }],
    ['postgres.js', () => {
      const sql = sqlOf(server?.url ?? '', { max: 5, onnotice: () => {} })
      onTestFinished(() => sql.end())
      return Promise.resolve({
        query: async (text, values) => ({ rows: await sql.unsafe(text, values) }),
        listen: (channel, callback) => sql.listen(channel, callback),
      } satisfies PostgresClient)
    }],
  ])('through %s, the contracts hold:', (_, connect) => {
    const journals = journalContract(async () => {
      const [client, name] = [await connect(), newName()]
      const open = (): Promise<PostgresJournal<ContractRecord>> => PostgresJournal.open<ContractRecord>(client, name)
      const reader = (): Promise<PostgresJournal<ContractRecord, never>> => PostgresJournal.read<ContractRecord>(client, name, { pollIntervalMs: 5 })
      return { journal: await open(), reopen: open, takeOver: open, reader }
    })
    const snapshots = snapshotsContract(async () => {
      const journal = await PostgresJournal.open(await connect(), newName())
      const open = (): PostgresSnapshots<ContractState> => new PostgresSnapshots<ContractState>(journal, { keep: 2 })
      return { snapshots: open(), reopen: () => Promise.resolve(open()) }
    })
    test.each([...journals, ...snapshots].map(({ name, run }) => [name, run] as const))('%s', async (_name, run) => {
      await expect(run()).resolves.toBeUndefined()
    })
  })

  test('a session with synchronous_commit = off is refused, wherever it is in a pool', async () => {
    const name = newName()
    const journal = await PostgresJournal.open<string>(pool, name)
    await expect(PostgresJournal.open(poolOf(server, { options: '-c synchronous_commit=off' }), name)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(await journal.append('still the writer')).toBe(1)
  })

  test('a database with another encoding is refused', async () => {
    await server?.query(`create database latin encoding 'LATIN1' locale 'C' template template0`)
    const latin = poolOf(server, { database: 'latin' })
    await createTables(latin)
    const opening = PostgresJournal.open(latin, 'x')
    await expect(opening).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', message: expect.stringContaining('LATIN1') as string })
  })

  test('createTables may run in many sessions at once', async () => {
    await Promise.all(Array.from({ length: 5 }, () => createTables(pool, { schema: 'raced' })))
    expect((await PostgresJournal.open(pool, 'x', { databaseSchema: 'raced' })).lastSequence).toBe(0)
  })

  test('another machine opens with an empty disk after compact()', async () => {
    const name = newName()
    const here = await openLog(pool, name)
    for (let n = 1; n <= 25; n++) {
      await here.apply(`a-${n}`)
      if (n % 10 === 0) await here.compact()
    }
    const there = await openLog(poolOf(server), name)
    expect(there.state.ids).toEqual(Array.from({ length: 25 }, (_, index) => `a-${index + 1}`))
    expect(there.recovery).toMatchObject({ snapshotSequence: 20, replayed: 5 })
    await expect(here.apply('late')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  })

  test('20 times kill -9 under apply: one manager goes on, nothing is lost, nothing is twice', async () => {
    const name = newName()
    const state = await openLog(pool, name, 60_000)
    const acknowledged = new Map<number, string>()
    const random = seededRandom(pickSeed('kills of the server'))
    const stop = new AbortController()
    const applying = (async () => {
      for (let n = 1; !stop.signal.aborted; n++) {
        acknowledged.set(await state.apply(`id-${n}`), `id-${n}`)
        if (n % 500 === 0) await state.compact()
      }
    })()
    for (let kill = 1; kill <= 20; kill++) {
      const { size } = acknowledged
      await expect.poll(() => acknowledged.size, { timeout: 30_000, interval: 10 }).toBeGreaterThan(size)
      await sleep(random(200))
      await server?.kill()
      await server?.restart()
    }
    const before = acknowledged.size
    await expect.poll(() => acknowledged.size, { timeout: 30_000 }).toBeGreaterThan(before)
    stop.abort()
    await applying
    expect(state.state.ids).toHaveLength(acknowledged.size)
    const { state: found } = await openLog(poolOf(server), name)
    expectAll(found.ids, acknowledged)
    expect(found.ids).toHaveLength(acknowledged.size)
    console.log(`20 kills of the server: ${acknowledged.size} acknowledged, 0 lost, 0 twice`)
  })

  test('an outage longer than timeoutMs: the unknown mutation is there once or not at all, and a fresh open goes on', async () => {
    const name = newName()
    const state = await openLog(pool, name, 1000)
    const acknowledged = new Map<number, string>()
    const failing = (async () => {
      for (let n = 1; ; n++) acknowledged.set(await state.apply(`id-${n}`), `id-${n}`)
    })()
    await sleep(200)
    await server?.kill()
    await expect(failing).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    await expect(state.apply('later')).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await server?.restart()
    const again = await openLog(pool, name)
    expect(again.sequence - acknowledged.size).toBeOneOf([0, 1])
    expect(await again.apply('next')).toBe(again.sequence)
    expectAll(again.state.ids, acknowledged)
  })

  /** Starts a writer in a process of its own. */
  function writer(journal: string, name: string, mode: 'once' | 'race', onMessage: (message: WriterMessage) => void): ChildProcess {
    const child = fork(join(import.meta.dirname, 'writer.js'), [server?.url ?? '', journal, name, mode])
    onTestFinished(() => void child.kill('SIGKILL'))
    child.on('message', onMessage)
    return child
  }

  test('a writer that was stopped while another one took over finds every call FENCED, and changes no row', async () => {
    const name = newName()
    const acknowledged = new Map<number, string>()
    let calls: WriterMessage | undefined
    const child = writer(name, 'a', 'once', (message) => {
      if ('sequence' in message) acknowledged.set(message.sequence, message.id)
      if ('calls' in message) calls = message
    })
    await expect.poll(() => acknowledged.size, { timeout: 30_000 }).toBeGreaterThan(20)
    child.kill('SIGSTOP')
    const state = await openLog(pool, name)
    for (let n = 1; n <= 20; n++) acknowledged.set(await state.apply(`b-${n}`), `b-${n}`)
    await state.compact()
    child.kill('SIGCONT')
    await expect.poll(() => calls, { timeout: 60_000 }).toBeDefined()
    const fenced = 'ERR_MINISTORE_FENCED'
    expect(calls).toMatchObject({ calls: { first: fenced, apply: fenced, applyAll: fenced, compact: fenced, createSnapshot: fenced } })
    expect(await state.apply('b-21')).toBe(state.sequence)
    acknowledged.set(state.sequence, 'b-21')
    const { state: found } = await openLog(pool, name)
    expectAll(found.ids, acknowledged)
    expect(found.ids).toHaveLength(acknowledged.size)
  })

  test('two writers racing for 30 s, with a compaction every 50: nothing is lost, twice, or at another number', async () => {
    const name = newName()
    const acknowledged = new Map<number, string>()
    const codes = new Map<string, number>()
    const children = ['a', 'b'].map((id) =>
      writer(name, id, 'race', (message) => {
        if ('sequence' in message) {
          expect(acknowledged.has(message.sequence), `mutation ${message.sequence} twice`).toBe(false)
          acknowledged.set(message.sequence, message.id)
        } else if ('code' in message) {
          codes.set(message.code, (codes.get(message.code) ?? 0) + 1)
        }
      }),
    )
    await sleep(30_000)
    for (const child of children) {
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    }
    const { state } = await openLog(pool, name)
    expectAll(state.ids, acknowledged)
    expect([...codes.keys()].filter((code) => code !== 'ERR_MINISTORE_FENCED')).toEqual([])
    const writers = new Set(state.ids.map((id) => id.slice(0, 1)))
    expect(writers).toEqual(new Set(['a', 'b']))
    console.log(`two writers: ${acknowledged.size} acknowledged, ${codes.get('ERR_MINISTORE_FENCED') ?? 0} times fenced, 0 lost, 0 twice`)
    expect(acknowledged.size).toBeGreaterThan(500)
  })
})

type WriterMessage =
  | { readonly id: string; readonly sequence: number }
  | { readonly calls: Readonly<Record<string, string>>; readonly applied: number }
  | { readonly code: string; readonly message: string }
