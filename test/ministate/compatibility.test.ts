import { cp, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

interface State {
  total: number
  names: string[]
}

/** A state of an earlier release: snapshots of 2 and 3 mutations, and a fourth mutation. */
const fixture = join(import.meta.dirname, '../fixtures/state-v0.3.0')

async function copyOfFixture(): Promise<string> {
  const directory = await temporaryDirectory()
  await cp(fixture, directory, { recursive: true })
  return directory
}

const open = (directory: string): Promise<StateManager<State, { add: number; name: string }>> =>
  StateManager.open(directory, {
    initialState: (): State => ({ total: 0, names: [] }),
    mutator: (state, { add, name }: { add: number; name: string }) => {
      state.total += add
      state.names.push(name)
    },
  })

test('a state of version 0.3.0 opens, can rebuild past states and accepts mutations', async () => {
  await using manager = await open(await copyOfFixture())
  expect(manager.state).toEqual({ total: 10, names: ['Ada', 'Žofie', '李', '😀'] })
  expect(manager.recovery).toMatchObject({ snapshotSequence: 3, replayed: 1, damagedSnapshots: [] })
  expect(await manager.stateAt(2)).toEqual({ total: 3, names: ['Ada', 'Žofie'] })
  expect(await manager.apply({ add: 5, name: 'new' })).toBe(5)
})

test('without its newest snapshot it opens from the older one', async () => {
  const directory = await copyOfFixture()
  await rm(join(directory, 'snapshot-3.json'))
  await using manager = await open(directory)
  expect(manager.recovery).toMatchObject({ snapshotSequence: 2, replayed: 2 })
  expect(manager.state.total).toBe(10)
})

test('its snapshots can be read, and the current version writes the same bytes', async () => {
  const directory = await temporaryDirectory()
  const found = await new SnapStore<State>(fixture).restore()
  expect(found).toEqual({ sequence: 3, state: { total: 6, names: ['Ada', 'Žofie', '李'] }, damaged: [] })
  await new SnapStore<State>(directory).create({ total: 6, names: ['Ada', 'Žofie', '李'] }, 3)
  const name = 'snapshot-3.json'
  expect(await readdir(directory)).toEqual([name])
  expect(await readFile(join(directory, name))).toEqual(await readFile(join(fixture, name)))
})

test('its snapshots name no journal; new ones name the journal, which got an identity', async () => {
  const directory = await copyOfFixture()
  const manager = await open(directory)
  await manager.apply({ add: 5, name: 'new' })
  await manager.createSnapshot()
  await manager.close()
  const store = await MiniStore.open(join(directory, 'journal.jsonl'))
  const { id } = store
  await store.close()
  const snapshots = new SnapStore<State>(directory)
  expect([(await snapshots.restore({ atMost: 3 }))?.journal, (await snapshots.restore())?.journal]).toEqual([undefined, id])
  await using again = await open(directory)
  expect(again.recovery).toMatchObject({ snapshotSequence: 5, replayed: 0 })
})
