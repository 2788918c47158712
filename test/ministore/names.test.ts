import { appendFile, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { type FileSystem, MiniStore, nodeFileSystem } from '../../src/index.ts'
import { repairJournal } from '../../src/maintenance/repair.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const taken = { code: 'ERR_MINISTORE_NAME_TAKEN' }

/** A directory with one journal, closed, of the records `a` and `b` in two segments. */
async function journalAt(path: string): Promise<SimulatedFileSystem> {
  const files = new SimulatedFileSystem()
  const store = await MiniStore.open(path, { fileSystem: files })
  await store.append('a')
  await store.rotate()
  await store.append('b')
  await store.close()
  return files
}

const bytesOf = (files: SimulatedFileSystem): unknown => [...files.snapshot()].map(([name, bytes]) => [name, bytes.toString()])

describe('a journal named like a file of another journal', () => {
  const names = ['events.001', 'events.002', 'events.2024', 'events.7', 'events.next', 'events.seal', 'events.lock', 'events.seal.tmp']

  test.each(names)('is refused beside that journal: %s', async (name) => {
    const files = await journalAt('/logs/events')
    const before = bytesOf(files)
    const opening = MiniStore.open(`/logs/${name}`, { fileSystem: files })
    await expect(opening).rejects.toMatchObject({ ...taken, path: `/logs/${name}` })
    await expect(opening).rejects.toThrow(`${name} is the name of a file of the journal events`)
    await expect(opening).rejects.toThrow('(events.lock exists)')
    expect(bytesOf(files)).toEqual(before)
    expect(await MiniStore.replay('/logs/events', { fileSystem: files })).toEqual(['a', 'b'])
  })

  test('is refused beside a journal without a lock file, as the Rust crate creates them', async () => {
    const files = await journalAt('/logs/events')
    for (const ending of ['lock', 'seal']) await files.unlink(`/logs/events.${ending}`)
    const opening = MiniStore.open('/logs/events.002', { fileSystem: files })
    await expect(opening).rejects.toMatchObject(taken)
    await expect(opening).rejects.toThrow('(events exists)')
  })

  test.each(['events.2024', 'events.next', 'events.seal'])('prevents the creation of that journal: %s', async (name) => {
    const files = await journalAt(`/logs/${name}`)
    const before = bytesOf(files)
    const opening = MiniStore.open('/logs/events', { fileSystem: files })
    await expect(opening).rejects.toMatchObject({ ...taken, path: '/logs/events' })
    await expect(opening).rejects.toThrow(`${name} is the name of a file of the journal events`)
    await expect(opening).rejects.toThrow(`(${name}.lock exists)`)
    expect(bytesOf(files)).toEqual(before)
    const store = await MiniStore.open(`/logs/${name}`, { fileSystem: files })
    expect(await store.append('c')).toBe(3)
    expect(await store.replay()).toEqual(['a', 'b', 'c'])
    await store.close()
  })

  test('is refused by a repair too', async () => {
    const files = await journalAt('/logs/events')
    const before = bytesOf(files)
    await expect(repairJournal(files, '/logs/events.001')).rejects.toMatchObject(taken)
    expect(bytesOf(files)).toEqual(before)
  })

  test('can be read', async () => {
    const files = await journalAt('/logs/events')
    expect(await MiniStore.replay('/logs/events.001', { fileSystem: files })).toEqual(['a'])
  })
})

describe('a journal', () => {
  test.each(['events.2024', 'events.seal', 'events.001.jsonl', '.001', 'events.torn-5', 'events..5'])(
    'may be named %s if there is no other journal',
    async (name) => {
      const files = await journalAt(`/logs/${name}`)
      const store = await MiniStore.open(`/logs/${name}`, { fileSystem: files })
      expect(await store.replay()).toEqual(['a', 'b'])
      await store.close()
    },
  )

  test('may be named events.2024 beside a directory, or a file that is not a journal', async () => {
    for (const other of ['directory', 'file']) {
      const files = await journalAt('/logs/events.2024')
      if (other === 'directory') await files.makeDirectory('/logs/events')
      else files.writeFile('/logs/events', 'a text\n')
      const store = await MiniStore.open('/logs/events.2024', { fileSystem: files })
      expect(await store.append('c')).toBe(3)
      await store.close()
    }
  })

  test.each([
    ['/logs/a.jsonl', '/logs/b.jsonl'],
    ['/logs/events', '/logs/events.jsonl'],
    ['/logs/events', '/logs/events-2024'],
    ['/logs/events', '/logs/events2024.001'],
    ['/logs/events', '/others/events.001'],
  ])('%s is allowed beside %s', async (one, other) => {
    const files = new SimulatedFileSystem()
    for (const life of [1, 2]) {
      const stores = await Promise.all([one, other].map((path) => MiniStore.open(path, { fileSystem: files })))
      for (const store of stores) {
        expect(await store.append(store.path)).toBe(life)
        await store.rotate()
      }
      for (const store of stores) await store.close()
    }
  })
})

describe.skipIf(process.platform === 'win32')('a name whose longest sibling does not fit into the directory', () => {
  /** The longest suffix of a sibling file: that of torn-line evidence while it is written. */
  const longest = '.torn-9007199254740991-999.tmp'
  /** The maximum length of a name, in bytes, on the file systems of the tests. */
  const limit = 255
  const tooLong = { code: 'ERR_MINISTORE_IO', cause: { code: 'ENAMETOOLONG' } }
  const tooLongText = /^The name of the journal .* is too long: files beside it have names of up to 30 bytes more/

  test.each([
    ['x', 1],
    ['é', 2],
    ['日', 3],
  ])('is refused before anything is created, counted in bytes: of %s', async (character, bytes) => {
    const directory = await temporaryDirectory()
    const fitting = character.repeat(Math.floor((limit - longest.length) / bytes))
    for (const name of [`${fitting}${character}`, character.repeat(Math.floor(245 / bytes)), character.repeat(Math.floor(246 / bytes))]) {
      const opening = MiniStore.open(join(directory, name))
      await expect(opening).rejects.toMatchObject({ ...tooLong, path: join(directory, name) })
      await expect(opening).rejects.toThrow(tooLongText)
      await expect(MiniStore.open(join(directory, 'deep/er', name))).rejects.toMatchObject(tooLong)
      await expect(repairJournal(nodeFileSystem, join(directory, name))).rejects.toMatchObject(tooLong)
      expect(await readdir(directory)).toEqual([])
    }
  })

  test('does not occur with the longest allowed name: its torn lines can be saved, and it can be repaired', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'x'.repeat(limit - longest.length))
    for (const copy of ['', '-2', '-3']) {
      const store = await MiniStore.open(path)
      await store.append('a')
      await store.close()
      await appendFile(path, `"torn${copy}`)
      const again = await MiniStore.open(path)
      expect(basename(String(again.recovery.torn?.savedAs))).toMatch(/\.torn-\d$/)
      await again.close()
    }
    await appendFile(path, 'no record\n')
    await repairJournal(nodeFileSystem, path, { truncateAt: 4 })
    expect((await readdir(directory)).filter((name) => name.endsWith('.broken'))).toHaveLength(2)
  })

  test('depends on the limit of the directory: with a limit of 143 bytes, a shorter name is refused', async () => {
    const directory = await temporaryDirectory()
    const files = new ObservedFileSystem(({ path }) => {
      if (Buffer.byteLength(basename(path)) > 143) throw Object.assign(new Error('name too long'), { code: 'ENAMETOOLONG' })
    })
    const fitting = join(directory, 'x'.repeat(143 - longest.length))
    await expect(MiniStore.open(`${fitting}x`, { fileSystem: files })).rejects.toMatchObject(tooLong)
    expect(await readdir(directory)).toEqual([])
    await (await MiniStore.open(fitting, { fileSystem: files })).close()
    await expect(MiniStore.replay(`${fitting}x`, { fileSystem: files })).resolves.toEqual([])
  })

  test('does not occur for a state, its snapshots and a queue', () => {
    const own = ['journal.jsonl', 'snapshot-9007199254740991.json.tmp']
    for (const name of own) expect(name.length + longest.length).toBeLessThanOrEqual(143)
  })
})

test('a real path that is that of the file after a rotation, as Bun gives it, is not taken for the target of a link', async () => {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  const store = await MiniStore.open<number>(path)
  await store.append(1)
  await store.rotate()
  await store.append(2)
  await store.close()
  let calls = 0
  const fileSystem: FileSystem = {
    ...nodeFileSystem,
    realPath: async (at) => (at === path && ++calls === 1 ? `${path}.001` : await nodeFileSystem.realPath(at)),
  }
  expect(await MiniStore.replay(path, { fileSystem })).toEqual([1, 2])
  expect(calls).toBeGreaterThan(1)
})
