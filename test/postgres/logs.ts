import { Pool, type PoolConfig } from 'pg'
import { afterAll, expect } from 'vitest'

import { StateManager } from '../../src/ministate/index.ts'
import { type PostgresClient, PostgresJournal, PostgresSnapshots } from '../../src/postgres/index.ts'
import { type Cluster, postgres } from './cluster.ts'

/** Why there is no server, if there is none. */
export const reason: string | undefined = 'missing' in postgres ? postgres.missing : undefined
if (reason !== undefined) console.log(`skipped: ${reason}`)

const pools: Pool[] = []
afterAll(() => Promise.all(pools.map((pool) => pool.end())))

/** A pool of connections, closed after the tests of the file. */
export function poolOf(cluster: Cluster | undefined, options: PoolConfig = {}): Pool {
  const pool = new Pool({ ...cluster?.address, max: 5, ...options })
  // A server that is killed ends its idle connections.
  pool.on('error', () => {})
  pools.push(pool)
  return pool
}

/** The ids of all mutations, in order. */
export interface Log {
  readonly ids: string[]
}

/** Opens a state that is the list of its mutations, and takes it over. */
export async function openLog(client: PostgresClient, name: string, timeoutMs = 30_000): Promise<StateManager<Log, string>> {
  const journal = await PostgresJournal.open<string>(client, name, { timeoutMs })
  return await StateManager.over(journal, new PostgresSnapshots<Log>(journal), {
    initialState: (): Log => ({ ids: [] }),
    mutator: (state, id) => void state.ids.push(id),
  })
}

/** Checks that every acknowledged mutation is at its number, and that none is there twice. */
export function expectAll(ids: readonly string[], acknowledged: ReadonlyMap<number, string>): void {
  for (const [sequence, id] of acknowledged) expect(ids[sequence - 1], `mutation ${sequence}`).toBe(id)
  expect(new Set(ids).size).toBe(ids.length)
}
