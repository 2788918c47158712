import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, test } from 'vitest'
import * as z from 'zod'

import { MiniStore } from '../../src/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import {
  addOnes, changesOf, damageSnapshot, directory, errorOf, journalFile, openSums, stateOn, type SumOptions, type Sums,
} from './support.ts'

/** A state with snapshots at 2 and 4 and five mutations, compacted on request. */
async function withTwoSnapshots(options: { readonly isCompacted?: boolean } = {}): Promise<SimulatedFileSystem> {
  const { files, manager } = await openSums()
  for (const count of [2, 2]) {
    await addOnes(manager, count)
    if (options.isCompacted === true) await manager.compact()
    else await manager.createSnapshot()
  }
  await addOnes(manager, 1)
  await manager.close()
  return files
}

describe('opening', () => {
  test('creates the directory, an empty journal and the initial state', async () => {
    const { files, manager } = await openSums()
    expect(manager.recovery).toEqual({
      journal: expect.objectContaining({ isNew: true }) as unknown,
      snapshotSequence: undefined,
      replayed: 0,
      damagedSnapshots: [],
    })
    expect(files.names(directory).filter((name) => name.startsWith('snapshot'))).toEqual([])
    await manager.close()
  })

  test.each([
    ['drops a property', z.object({ sums: z.array(z.number()) })],
    ['adds a default', z.object({ sums: z.array(z.number()), unit: z.string().default('€') })],
    ['takes its time', z.object({ sums: z.array(z.number()) }).refine((state) => Promise.resolve('sums' in state))],
  ])('restores the state of a snapshot unchanged even if its schema %s', async (_what, schema) => {
    const initialState = (): Sums & { note?: string } => ({ sums: [], note: 'kept' })
    const options = { initialState, snapshots: { schema: schema as unknown as StandardSchemaV1<Sums> } }
    const { files, manager } = await openSums(options)
    await addOnes(manager, 2)
    await manager.compact()
    expect(manager.state).toEqual({ sums: [1, 2], note: 'kept' })
    await manager.close()
    const again = await openSums({ files, ...options })
    expect(again.manager.recovery.snapshotSequence).toBe(2)
    expect(again.manager.state).toEqual({ sums: [1, 2], note: 'kept' })
    await again.manager.close()
  })

  test('refuses a state that fails the snapshot schema, on writing and on reading', async () => {
    const least = (length: number): SumOptions => ({ snapshots: { schema: z.object({ sums: z.array(z.number()).min(length) }) } })
    const { files, manager } = await openSums(least(2))
    await addOnes(manager, 1)
    expect(await errorOf(manager.createSnapshot())).toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    await addOnes(manager, 1)
    await manager.createSnapshot()
    await manager.close()
    expect(await errorOf(openSums({ files, ...least(3) }))).toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
  })

  test('rebuilds the state from the newest snapshot and the mutations after it', async () => {
    const files = await withTwoSnapshots()
    let mutations = 0
    const { manager } = await openSums({
      files,
      mutator: ({ sums }, { by }) => {
        mutations += 1
        sums.push((sums.at(-1) ?? 0) + by)
      },
    })
    expect(manager.state.sums).toEqual([1, 2, 3, 4, 5])
    expect(manager.sequence).toBe(5)
    expect(manager.recovery).toMatchObject({ snapshotSequence: 4, replayed: 1, damagedSnapshots: [] })
    expect(mutations).toBe(1)
    expect(await manager.apply({ by: 1 })).toBe(6)
    await manager.close()
  })

  test('again after closing changes nothing', async () => {
    const files = await withTwoSnapshots()
    await (await openSums({ files })).manager.close()
    const changes = changesOf(files)
    const before = files.snapshot()
    await (await openSums({ files })).manager.close()
    // Bytes after the seal are cut and written again unchanged.
    expect(changes.filter((change) => !/^sync|^open .*lock$|(?:truncate|write) .*journal\.jsonl$/.test(change))).toEqual([])
    expect(files.snapshot()).toEqual(before)
  })

  test('is refused while the state is open', async () => {
    const { files, manager } = await openSums()
    expect(await errorOf(openSums({ files }))).toMatchObject({ code: 'ERR_MINISTORE_LOCKED' })
    await manager.close()
  })

  test('removes a partial snapshot left by a crash', async () => {
    const files = await withTwoSnapshots()
    files.writeFile(`${directory}/snapshot-5.json.tmp`, '{"seq":5')
    const { manager } = await openSums({ files })
    expect(files.names(directory).filter((name) => name.endsWith('.tmp'))).toEqual([])
    expect(manager.sequence).toBe(5)
    await manager.close()
  })

  test('resolves a relative directory at the time of the call', async () => {
    const files = new SimulatedFileSystem()
    const manager = await StateManager.open('relative', { initialState: () => 0, mutator: () => 1, fileSystem: files })
    const { path } = await manager.createSnapshot()
    expect(path).toMatch(/^\/.*\/relative\/snapshot-0\.json$/)
    await manager.close()
  })
})

describe('a damaged snapshot', () => {
  test('is skipped for the older one, and reported', async () => {
    const files = await withTwoSnapshots()
    damageSnapshot(files, 4)
    const { manager } = await openSums({ files })
    expect(manager.state.sums).toEqual([1, 2, 3, 4, 5])
    expect(manager.recovery).toMatchObject({ snapshotSequence: 2, replayed: 3 })
    expect(manager.recovery.damagedSnapshots).toMatchObject([
      { code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED', path: `${directory}/snapshot-4.json` },
    ])
    await manager.close()
  })

  test('is skipped after compactions too: the records that the older one needs were kept', async () => {
    const files = await withTwoSnapshots({ isCompacted: true })
    damageSnapshot(files, 4)
    expect(await stateOn(files)).toEqual([1, 2, 3, 4, 5])
  })

  test('is no loss even without an intact one if the journal begins with the first mutation', async () => {
    const files = await withTwoSnapshots()
    damageSnapshot(files, 2)
    damageSnapshot(files, 4)
    const { manager } = await openSums({ files })
    expect(manager.state.sums).toEqual([1, 2, 3, 4, 5])
    expect(manager.recovery).toMatchObject({ snapshotSequence: undefined, replayed: 5 })
    expect(manager.recovery.damagedSnapshots.map(({ path }) => path)).toEqual(
      [4, 2].map((sequence) => `${directory}/snapshot-${sequence}.json`),
    )
    // The next snapshot replaces those that do not count.
    expect(await manager.createSnapshot()).toMatchObject({ sequence: 5 })
    await manager.close()
    expect(await stateOn(files)).toEqual([1, 2, 3, 4, 5])
  })

  test('that a compaction relied on is refused, and the error names the remedy', async () => {
    const files = await withTwoSnapshots({ isCompacted: true })
    const backup = files.readFile(`${directory}/snapshot-4.json`)
    damageSnapshot(files, 2)
    damageSnapshot(files, 4)
    const before = files.snapshot()
    const error = await errorOf(openSums({ files }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP', sequence: 1 })
    expect(error.message).toMatch(/begins with mutation 3.*mutations 1 to 2/)
    expect(error.message).toMatch(/snapshot-4\.json, snapshot-2\.json.*backup/)
    expect(error.cause).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_DAMAGED' })
    expect(files.snapshot()).toEqual(before)
    // The remedy that the error names works.
    files.writeFile(`${directory}/snapshot-4.json`, backup)
    expect(await stateOn(files)).toEqual([1, 2, 3, 4, 5])
  })
})

describe('journal and snapshots that do not fit together are refused, and nothing is changed', () => {
  test('a snapshot ahead of the journal, intact or damaged', async () => {
    const files = await withTwoSnapshots()
    const text = files.readFile(journalFile).toString()
    files.writeFile(journalFile, text.split('\n').slice(0, 4).join('\n') + '\n')
    files.writeFile(`${journalFile}.seal`, '')
    const before = files.snapshot()
    const error = await errorOf(openSums({ files }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', sequence: 4 })
    expect(error.message).toMatch(/snapshot-4\.json.*\b4\b.*\b3\b/)
    expect(namesAndBytes(files)).toEqual(namesAndBytes(before))
    damageSnapshot(files, 4)
    expect(await errorOf(openSums({ files }))).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', sequence: 4 })
  })

  test('snapshots without a journal: none is created, since it would block restoring the missing one', async () => {
    const files = await withTwoSnapshots()
    const backup = files.readFile(journalFile)
    for (const ending of ['', '.seal', '.lock']) await files.unlink(journalFile + ending)
    const names = files.names(directory)
    expect(await errorOf(openSums({ files }))).toMatchObject({ code: 'ERR_MINISTORE_SNAPSHOT_AHEAD', sequence: 4 })
    expect(files.names(directory)).toEqual(names)
    files.writeFile(journalFile, backup)
    expect(await stateOn(files)).toEqual([1, 2, 3, 4, 5])
  })

  test('a gap after the newest intact snapshot', async () => {
    const files = await withTwoSnapshots()
    const store = await MiniStore.open(journalFile, { fileSystem: files })
    await store.rotate()
    await store.append({ by: 1 })
    await store.truncateBefore(6)
    await store.close()
    const error = await errorOf(openSums({ files }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP', sequence: 5 })
    expect(error.message).toMatch(/begins with mutation 6.*ends with 4: mutations 5 to 5 are missing.*backup/)
  })

  test('a gap before the first mutation, without any snapshot', async () => {
    const files = new SimulatedFileSystem()
    const store = await MiniStore.open(journalFile, { fileSystem: files })
    await store.appendAll([{ by: 1 }, { by: 2 }])
    await store.rotate()
    await store.truncateBefore(3)
    await store.close()
    const error = await errorOf(openSums({ files }))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_STATE_GAP', sequence: 1 })
    expect(error.message).toMatch(/begins with mutation 3.*mutations 1 to 2 are missing/)
  })
})

describe('a failed opening frees the lock', () => {
  const failures: ReadonlyArray<readonly [string, (files: SimulatedFileSystem) => void, string]> = [
    [
      'a snapshot that cannot be read',
      (files) => void files.failOn({ path: /snapshot-4/ }, 'EIO'),
      'ERR_MINISTORE_IO',
    ],
    ['a mutation that is not JSON', spoilJournal, 'ERR_MINISTORE_CORRUPT'],
  ]
  test.each(failures)('%s', async (_what, spoil, code) => {
    const files = await withTwoSnapshots()
    spoil(files)
    expect(await errorOf(openSums({ files }))).toMatchObject({ code })
    files.clearFaults()
    const store = await MiniStore.open(journalFile, { fileSystem: files })
    await store.close()
  })

  test('an initialState that throws or returns no state', async () => {
    const files = new SimulatedFileSystem()
    const thrown = new Error('no state')
    const initialState = (): never => {
      throw thrown
    }
    await expect(openSums({ files, initialState })).rejects.toBe(thrown)
    await expect(openSums({ files, initialState: () => undefined as never })).rejects.toThrow(TypeError)
    await expect(openSums({ files, initialState: () => Promise.resolve() as never })).rejects.toThrow('a promise')
    await (await openSums({ files })).manager.close()
  })
})

/** Replaces the last mutation with text that is not JSON, and empties the seal. */
function spoilJournal(files: SimulatedFileSystem): void {
  files.writeFile(journalFile, files.readFile(journalFile).toString().replace(/\{"by":1\}\n$/, '{"by:1}\n'))
  files.writeFile(`${journalFile}.seal`, '')
}

/** All files except the lock and the seal, which opening a journal may create again. */
function namesAndBytes(files: SimulatedFileSystem | ReadonlyMap<string, Buffer>): Array<[string, string]> {
  const snapshot = files instanceof SimulatedFileSystem ? files.snapshot() : files
  return [...snapshot].flatMap(([path, bytes]) =>
    /\.(?:lock|seal)$/.test(path) ? [] : [[path, bytes.toString('latin1')]],
  )
}
