import { setTimeout as sleep } from 'node:timers/promises'

import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import { createTables, type PostgresClient, PostgresJournal } from '../../src/postgres/index.ts'
import { Cluster } from './cluster.ts'
import { expectAll, openLog, poolOf, reason } from './logs.ts'

/**
 * A primary with a synchronous standby, and a client that finds the one that can be written, as a pooler or
 * postgres.js with several hosts does.
 */
interface Pair {
  readonly primary: Cluster
  readonly standby: Cluster
  readonly client: PostgresClient
}

let pair: Pair

async function createPair(): Promise<Pair> {
  const primary = await Cluster.start()
  const standby = await Cluster.start({ from: primary })
  await primary.query(`alter system set synchronous_standby_names = 'standby'`)
  await primary.query('select pg_reload_conf()')
  await expect.poll(async () => (await primary.query('select from pg_stat_replication where sync_state = $1', ['sync'])).length, { timeout: 20_000 }).toBe(1)
  const pools = [primary, standby].map((cluster) => poolOf(cluster, { max: 10 }))
  const client: PostgresClient = {
    query: async (text, values) => {
      const failures: unknown[] = []
      for (const pool of pools) {
        try {
          return await pool.query(text, values)
        } catch (error) {
          failures.push(error)
          if (!['25006', 'ECONNREFUSED'].includes((error as { readonly code?: string }).code ?? '')) throw error
        }
      }
      throw failures.at(-1)
    },
  }
  await createTables(client)
  return { primary, standby, client }
}

const fleet: Cluster[] = []

describe.skipIf(reason !== undefined)('with a synchronous standby', () => {
  beforeEach(async () => {
    pair = await createPair()
    fleet.push(pair.primary, pair.standby)
  })
  afterEach(() => Promise.all(fleet.splice(0).map((cluster) => cluster.remove())))

  /** The server processes whose commit waits for the standby. */
  const waiting = async (): Promise<number[]> =>
    (await pair.primary.query<{ pid: number }>(`select pid from pg_stat_activity where wait_event = 'SyncRep'`)).map(({ pid }) => pid)

  const promote = async (): Promise<void> => {
    await pair.primary.kill()
    await pair.standby.restart()
    await pair.standby.query('select pg_promote()')
  }

  /** Appends while the standby is down, and cuts off the wait for it. Then the standby becomes the leader. */
  async function failOver(client: PostgresClient): Promise<{ readonly isAcknowledgedBefore: boolean; readonly records: readonly string[]; readonly outcome: PromiseSettledResult<number> }> {
    const journal = await PostgresJournal.open<string>(client, 'orders', { timeoutMs: 30_000 })
    await journal.append('one')
    await pair.standby.kill()
    let isAcknowledgedBefore = false
    const appending = journal.append('two').then((sequence) => {
      isAcknowledgedBefore = true
      return sequence
    })
    appending.catch(() => {})
    await expect.poll(() => waiting().then(({ length }) => length), { timeout: 10_000 }).toBe(1)
    const [pid] = await waiting()
    await pair.primary.query('select pg_terminate_backend($1)', [pid])
    // The commit is visible now, and only here.
    await expect.poll(() => pair.primary.query('select from ministore.records').then(({ length }) => length)).toBe(2)
    await sleep(1500)
    const before = isAcknowledgedBefore
    await promote()
    const [outcome] = await Promise.allSettled([appending])
    const records = (await (await PostgresJournal.read<string>(client, 'orders', { timeoutMs: 30_000 })).replay())
    return { isAcknowledgedBefore: before, records, outcome }
  }

  test('a commit whose wait was cut off is acknowledged only once the new leader has it', async () => {
    const { isAcknowledgedBefore, records, outcome } = await failOver(pair.client)
    expect(isAcknowledgedBefore).toBe(false)
    expect(outcome).toMatchObject({ status: 'fulfilled', value: 2 })
    expect(records).toEqual(['one', 'two'])
  })

  test('a deciding select instead of a write would acknowledge a record that is lost', async () => {
    const { client } = pair
    const defective: PostgresClient = {
      query: (text, values) => {
        if (!text.includes('set epoch = epoch') || text.includes('insert')) return client.query(text, values)
        return client.query(`select id, epoch, writer, first, last, 'on' as commit from ministore.journals where name = $1::text`, values)
      },
    }
    const { isAcknowledgedBefore, records } = await failOver(defective)
    expect(isAcknowledgedBefore).toBe(true)
    expect(records).toEqual(['one'])
  })

  test('a wait that is cancelled gives a warning, and makes the outcome unknown', async () => {
    const pool = poolOf(pair.primary)
    const journal = await PostgresJournal.open<string>(pool, 'cancelled')
    await pair.standby.kill()
    const appending = journal.append('one')
    appending.catch(() => {})
    await expect.poll(() => waiting().then(({ length }) => length)).toBe(1)
    const [pid] = await waiting()
    await pair.primary.query('select pg_cancel_backend($1)', [pid])
    await expect(appending).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN', cause: { message: expect.stringContaining('standby') as string } })
    await expect(journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
  })

  test('a failover under apply loses nothing, writes nothing twice, and the manager goes on', async () => {
    const state = await openLog(pair.client, 'failover', 60_000)
    const acknowledged = new Map<number, string>()
    const stop = new AbortController()
    const applying = (async () => {
      for (let n = 1; !stop.signal.aborted; n++) acknowledged.set(await state.apply(`id-${n}`), `id-${n}`)
    })()
    await expect.poll(() => acknowledged.size, { timeout: 20_000 }).toBeGreaterThan(50)
    await pair.primary.kill()
    await pair.standby.query('select pg_promote()')
    await pair.standby.query(`alter system reset synchronous_standby_names`)
    const before = acknowledged.size
    await expect.poll(() => acknowledged.size, { timeout: 30_000 }).toBeGreaterThan(before + 50)
    stop.abort()
    await applying
    const { state: found } = await openLog(pair.client, 'failover')
    expectAll(found.ids, acknowledged)
    expect(found.ids).toHaveLength(acknowledged.size)
  })
})

test.skipIf(reason !== undefined)('a server with fsync = off is refused', async () => {
  const careless = await Cluster.start({ settings: ['fsync=off'] })
  try {
    const pool = poolOf(careless)
    await createTables(pool)
    await expect(PostgresJournal.open(pool, 'x')).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', message: expect.stringContaining('fsync') as string })
  } finally {
    await careless.remove()
  }
})
