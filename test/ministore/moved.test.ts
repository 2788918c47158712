import { cp, mkdir, readdir, readFile, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { fileSystemOf } from '../../src/ministore/ministore.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { descriptorsIn, ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const moved = { name: 'MiniStoreError', code: 'ERR_MINISTORE_MOVED' }

interface Setup {
  readonly directory: string
  readonly path: string
  readonly old: MiniStore<string>
}

/** A store whose journal has two sealed segments, in its own directory `live`. */
async function openStore(): Promise<Setup> {
  const directory = join(await temporaryDirectory(), 'live')
  await mkdir(directory)
  const path = join(directory, 'journal.jsonl')
  const old = await MiniStore.open<string>(path)
  for (const record of ['old-1', 'old-2']) {
    await old.append(record)
    await old.rotate()
  }
  await old.append('old-3')
  return { directory, path, old }
}

/** Ways to replace the files of an open journal; each leaves another journal at its path. */
const ways: Array<[string, (setup: Setup) => Promise<MiniStore<string>>]> = [
  [
    'the directory is removed and created again',
    async ({ directory, path }) => {
      await rm(directory, { recursive: true })
      return await fresh(path)
    },
  ],
  [
    'the directory is moved away and another one has its name',
    async ({ directory, path }) => {
      await rename(directory, `${directory}.away`)
      return await fresh(path)
    },
  ],
  [
    'the files are removed one by one, and the lock file with them',
    async ({ directory, path }) => {
      for (const name of await readdir(directory)) await unlink(join(directory, name))
      return await fresh(path)
    },
  ],
  [
    'a backup is restored over it',
    async ({ directory, path }) => {
      const backup = `${directory}.backup`
      await cp(directory, backup, { recursive: true })
      await rm(directory, { recursive: true })
      await rename(backup, directory)
      return await MiniStore.open<string>(path)
    },
  ],
]

async function fresh(path: string): Promise<MiniStore<string>> {
  const store = await MiniStore.open<string>(path)
  await store.append('precious-1')
  await store.rotate()
  await store.append('precious-2')
  return store
}

async function contents(directory: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const name of await readdir(directory)) found[name] = await readFile(join(directory, name), 'utf8')
  return found
}

describe.each(ways)('when %s', (_, replace) => {
  test.each<[string, (store: MiniStore<string>) => Promise<unknown>]>([
    ['rotate', (store) => store.rotate()],
    ['truncateBefore', (store) => store.truncateBefore(3)],
    ['an append that has to rotate', (store) => store.append('x'.repeat(2_000_000))],
    ['close', (store) => store.close()],
  ])('%s of the writer that had it open changes nothing there', async (name, change) => {
    const directory = join(await temporaryDirectory(), 'live')
    const path = join(directory, 'journal.jsonl')
    const old = await MiniStore.open<string>(path, { maxBytesPerSegment: 1_000_000 })
    await old.append('old-1')
    await old.rotate()
    await old.append('old-2')
    const current = await replace({ directory, path, old })
    const records = await current.replay()
    const before = await contents(directory)
    await expect(change(old)).rejects.toMatchObject({ ...moved, path })
    // From here on only close() works, and it changes nothing either.
    if (name !== 'close') {
      await expect(old.append('late')).rejects.toMatchObject(moved)
      await old.close()
    }
    expect(await contents(directory)).toEqual(before)
    expect(descriptorsIn(`${directory}.away`)).toBe(0)
    // The other journal is intact and accepts appends.
    expect(await current.replay()).toEqual(records)
    await current.append('next')
    await current.close()
    expect(await MiniStore.replay(path)).toEqual([...records, 'next'])
  })
})

test('a switched link to the directory leaves the other directory unchanged', async () => {
  const base = await temporaryDirectory()
  for (const name of ['one', 'two']) {
    await using store = await MiniStore.open<string>(join(base, name, 'journal.jsonl'))
    await store.append(name)
  }
  await symlink('one', join(base, 'current'))
  const path = join(base, 'current/journal.jsonl')
  const old = await MiniStore.open<string>(path)
  await old.append('before')
  await unlink(join(base, 'current'))
  await symlink('two', join(base, 'current'))
  const before = await contents(join(base, 'two'))
  await expect(old.rotate()).rejects.toMatchObject(moved)
  await old.close()
  expect(await contents(join(base, 'two'))).toEqual(before)
  expect(await MiniStore.replay(join(base, 'one/journal.jsonl'))).toEqual(['one', 'before'])
})

test('a reader finds the journal in its moved directory while the writer has it open', async () => {
  const { directory, old } = await openStore()
  await rename(directory, `${directory}-moved`)
  expect(await MiniStore.replay(join(`${directory}-moved`, 'journal.jsonl'))).toEqual(['old-1', 'old-2', 'old-3'])
  await expect(old.close()).rejects.toMatchObject(moved)
})

test('an active segment that another file has replaced is neither sealed nor renamed', async () => {
  const { path, old } = await openStore()
  const before = await readFile(path, 'utf8')
  await rename(path, `${path}.elsewhere`)
  await writeFile(path, before)
  await expect(old.close()).rejects.toMatchObject(moved)
  expect(await readFile(path, 'utf8')).toBe(before)
  expect(await readdir(join(path, '..'))).not.toContain('journal.jsonl.seal')
})

test('a next segment that another file has replaced ends the rotation before it has renamed anything', async () => {
  const directory = await temporaryDirectory()
  const path = join(directory, 'journal.jsonl')
  const fs = new ObservedFileSystem()
  const store = await MiniStore.open<string>(path, { fileSystem: fs })
  await store.append('one')
  fs.hook = async ({ operation, path: at }) => {
    if (operation !== 'sync' || at !== `${path}.next`) return
    await rename(at, join(directory, 'away'))
    await writeFile(at, 'of another')
  }
  await expect(store.rotate()).rejects.toMatchObject(moved)
  await store.close()
  expect((await readdir(directory)).toSorted()).toEqual(['away', ...['', '.lock', '.next'].map((end) => `journal.jsonl${end}`)])
  expect(await readFile(`${path}.next`, 'utf8')).toBe('of another')
})

test('a store whose lock file was removed continues: any process may create the file again', async () => {
  const { path, old } = await openStore()
  await unlink(`${path}.lock`)
  await old.rotate()
  await old.append('old-4')
  await old.close()
  expect(await MiniStore.replay(path)).toEqual(['old-1', 'old-2', 'old-3', 'old-4'])
})

test('a state whose directory was replaced writes no snapshot there, and stays readable', async () => {
  const directory = join(await temporaryDirectory(), 'state')
  const definition = { initialState: () => ({ sum: 0 }), mutator: (state: { sum: number }, by: number) => void (state.sum += by) }
  const old = await StateManager.open(directory, definition)
  await old.apply(1)
  await rm(directory, { recursive: true })
  const current = await StateManager.open(directory, definition)
  await current.apply(10)
  const before = await contents(directory)
  await expect(old.createSnapshot()).rejects.toMatchObject(moved)
  await expect(old.compact()).rejects.toMatchObject(moved)
  await expect(old.apply(2)).rejects.toMatchObject(moved)
  expect(old.state).toEqual({ sum: 1 })
  await old.close()
  expect(await contents(directory)).toEqual(before)
  await current.compact()
  await current.close()
})

test('the comparison is made before every rename and removal', async () => {
  const files = new SimulatedFileSystem()
  const store = await MiniStore.open<number>('/data/journal.jsonl', { fileSystem: files, maxSegments: 2 })
  for (let record = 1; record <= 3; record++) await store.append(record)
  const compared = new Set<string>()
  const unguarded: string[] = []
  files.onOperation(({ operation, path, mode }) => {
    if (operation === 'stat') compared.add(path)
    if (!['rename', 'unlink'].includes(operation) && mode !== 'create' && mode !== 'ensure') return
    const isCompared = compared.has('/data') && [...compared].some((at) => at.startsWith('/data/journal.jsonl'))
    if (!isCompared) unguarded.push(`${operation} ${path}`)
    compared.clear()
  })
  await store.rotate()
  await store.append(4)
  await store.rotate()
  await store.close()
  expect(unguarded).toEqual([])
})

test('once a move is detected every rename and removal is refused, even if the directory is back', async () => {
  const files = new SimulatedFileSystem()
  const store = await MiniStore.open<number>('/data/journal.jsonl', { fileSystem: files })
  const names = fileSystemOf(store)
  await files.rename('/data', '/away')
  await files.makeDirectory('/data')
  await expect(names.makeDirectory('/data/snapshots')).rejects.toMatchObject(moved)
  expect(files.names('/data')).toEqual([])
  await files.rename('/away', '/data')
  const before = files.names('/data')
  await expect(names.makeDirectory('/data/snapshots')).rejects.toMatchObject(moved)
  await expect(names.open('/data/other', 'ensure')).rejects.toMatchObject(moved)
  await expect(store.append(1)).rejects.toMatchObject(moved)
  await store.close()
  expect(files.names('/data')).toEqual(before)
})

test('overlapping renames and removals wait for one another: a rotation by the same writer is not taken for a move', async () => {
  const files = new SimulatedFileSystem()
  const store = await MiniStore.open<number>('/data/journal.jsonl', { fileSystem: files })
  const names = fileSystemOf(store)
  for (let record = 1; record <= 5; record++) {
    await store.append(record)
    const rotation = { isDone: false }
    const rotating = store.rotate().finally(() => (rotation.isDone = true))
    while (!rotation.isDone) await (await names.open('/data/beside', 'ensure')).close()
    await rotating
  }
  await store.close()
  expect(await MiniStore.replay('/data/journal.jsonl', { fileSystem: files })).toEqual([1, 2, 3, 4, 5])
})

test.each(['a rotation', 'an open'])('%s that gives the active name to a file planted in place of .next says so', async (what) => {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  // Between the comparison and the rename: no system call can do both in one step.
  const fs = new ObservedFileSystem(async ({ operation, path: file }) => {
    if (operation !== 'rename' || file !== `${path}.next`) return
    await unlink(file)
    await writeFile(file, '')
  })
  if (what === 'an open') {
    await expect(MiniStore.open(path, { fileSystem: fs })).rejects.toMatchObject(moved)
  } else {
    await (await MiniStore.open<string>(path)).close()
    const store = await MiniStore.open<string>(path, { fileSystem: fs })
    await store.append('one')
    await expect(store.rotate()).rejects.toMatchObject(moved)
    await expect(store.append('two')).rejects.toMatchObject(moved)
    await store.close()
  }
  expect(fs.openFiles).toBe(0)
})
