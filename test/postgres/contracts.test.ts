import { describe, expect, test } from 'vitest'

import { PostgresJournal, PostgresSnapshots } from '../../src/postgres/index.ts'
import {
  type ContractRecord, type ContractState, journalContract, type JournalSubject, snapshotsContract, type SnapshotsSubject,
} from '../../src/testing/index.ts'
import { newName, openPGlite } from './pglite.ts'

const client = await openPGlite()

async function journalSubject(): Promise<JournalSubject> {
  const name = newName()
  const open = (): Promise<PostgresJournal<ContractRecord>> => PostgresJournal.open<ContractRecord>(client, name)
  return {
    journal: await open(),
    reopen: open,
    takeOver: open,
    reader: () => PostgresJournal.read<ContractRecord>(client, name, { pollIntervalMs: 5 }),
  }
}

async function snapshotsSubject(keep: number): Promise<SnapshotsSubject> {
  const name = newName()
  const journal = await PostgresJournal.open(client, name)
  const open = (): PostgresSnapshots<ContractState> => new PostgresSnapshots<ContractState>(journal, { keep })
  return {
    snapshots: open(),
    reopen: () => Promise.resolve(open()),
    damage: async (sequence) => {
      const change = `update ministore.snapshots set state = replace(state, 'state', 'stale') where journal = $1 and sequence = $2`
      const { affectedRows } = await client.query(change, [name, sequence])
      expect(affectedRows).toBe(1)
    },
  }
}

describe('PostgresJournal keeps the contract of a journal:', () => {
  test.each(journalContract(journalSubject).map(({ name, run }) => [name, run] as const))('%s', async (_name, run) => {
    await expect(run()).resolves.toBeUndefined()
  })
})

describe.each([1, 2, 3])('PostgresSnapshots that keep %d keep the contract of snapshots:', (keep) => {
  test.each(snapshotsContract(() => snapshotsSubject(keep)).map(({ name, run }) => [name, run] as const))('%s', async (_name, run) => {
    await expect(run()).resolves.toBeUndefined()
  })
})
