import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { StateManager } from '../../src/ministate/index.ts'
import { readState } from '../../src/cli/read-state.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const definition = {
  initialState: (): number[] => [],
  mutator: (state: number[], mutation: number): void => void state.push(mutation),
}

test('reads a state that a manager has open, and changes nothing', async () => {
  const directory = await temporaryDirectory()
  await using manager = await StateManager.open(directory, definition)
  expect(await readState(directory, definition)).toEqual({ state: [], sequence: 0 })
  for (const mutation of [1, 2, 3]) await manager.apply(mutation)
  expect(await readState(directory, definition)).toEqual({ state: [1, 2, 3], sequence: 3 })
  await manager.compact()
  await manager.apply(4)
  const names = await readdir(directory)
  expect(await readState(directory, definition)).toEqual({ state: [1, 2, 3, 4], sequence: 4 })
  expect(await readdir(directory)).toEqual(names)
})

test('returns the initial state for a missing directory, and creates none', async () => {
  const directory = join(await temporaryDirectory(), 'missing')
  expect(await readState(directory, definition)).toEqual({ state: [], sequence: 0 })
  await expect(readdir(directory)).rejects.toMatchObject({ code: 'ENOENT' })
})

test('starts over when a compaction drops records that it was about to read', async () => {
  const directory = await temporaryDirectory()
  await using manager = await StateManager.open(directory, { ...definition, snapshots: { keep: 1 } })
  for (const mutation of [1, 2]) await manager.apply(mutation)
  await manager.createSnapshot()
  for (const mutation of [3, 4]) await manager.apply(mutation)
  const files = new ObservedFileSystem()
  let isCompacted = false
  // The journal is opened after the old snapshot has been read.
  files.hook = async ({ operation, path }) => {
    if (isCompacted || operation !== 'open' || !path.endsWith('journal.jsonl')) return
    isCompacted = true
    await manager.compact()
  }
  expect(await readState(directory, definition, files)).toEqual({ state: [1, 2, 3, 4], sequence: 4 })
  expect(isCompacted).toBe(true)
})

test('reports journal and snapshots that do not fit together, as opening does', async () => {
  const directory = await temporaryDirectory()
  const manager = await StateManager.open(directory, { ...definition, snapshots: { keep: 1 } })
  for (const mutation of [1, 2]) await manager.apply(mutation)
  await manager.compact()
  await manager.close()
  const snapshot = join(directory, 'snapshot-2.json')
  const whole = await readFile(snapshot)

  await writeFile(snapshot, 'no snapshot')
  const gap = await readState(directory, definition).catch((error: unknown) => error)
  expect(gap).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP' })
  expect((gap as Error).message).toMatch(/mutations 1 to 2 are missing\. Damaged: snapshot-2\.json/)
  await writeFile(snapshot, whole)

  await writeFile(join(directory, 'snapshot-99.json'), '')
  await expect(readState(directory, definition)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', sequence: 99 })
  await rm(join(directory, 'snapshot-99.json'))

  expect(await readState(directory, definition)).toEqual({ state: [1, 2], sequence: 2 })
  for (const name of ['journal.jsonl', 'journal.jsonl.seal']) await rm(join(directory, name))
  const names = await readdir(directory)
  await expect(readState(directory, definition)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', sequence: 2 })
  expect(await readdir(directory)).toEqual(names)
})

test('falls back to the journal when every snapshot is damaged, as opening does', async () => {
  const directory = await temporaryDirectory()
  const manager = await StateManager.open(directory, definition)
  for (const mutation of [1, 2]) await manager.apply(mutation)
  await manager.createSnapshot()
  await manager.close()
  await writeFile(join(directory, 'snapshot-2.json'), 'no snapshot')
  expect(await readState(directory, definition)).toEqual({ state: [1, 2], sequence: 2 })
})
