import { cp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect } from '../support/consume.ts'
import { crc32Of, idAt, writeJournal, writeOldJournal, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const journalPath = async (): Promise<string> => join(await temporaryDirectory(), 'journal.jsonl')
const isId = expect.stringMatching(/^[0-9a-f]{16}$/) as string
const other = '00000000deadbeef'

describe('the identity of a journal', () => {
  test('is random, and the same in all segments, after deletions and across restarts', async () => {
    const path = await journalPath()
    const store = await MiniStore.open(path, { maxBytesPerSegment: 1 })
    const { id } = store
    expect(id).toEqual(isId)
    for (let n = 1; n <= 4; n++) await store.append(n)
    await store.truncateBefore(3)
    await store.rotate()
    await store.truncateBefore(5)
    await store.close()
    expect(store.id).toBe(id)
    await using again = await MiniStore.open(path)
    expect([again.id, again.firstSequence]).toEqual([id, 5])
    for (const { path: segment } of again.segments) expect(await idAt(segment)).toBe(id)
    await using one = await MiniStore.open(await journalPath())
    expect(one.id).not.toBe(id)
  })

  test('costs no file operation when a journal that has one is opened', async () => {
    const files = new SimulatedFileSystem()
    const store = await MiniStore.open('/j', { fileSystem: files })
    await store.append(1)
    await store.close()
    const changes: string[] = []
    files.onOperation(({ operation, path, changesDisk }) => {
      if (changesDisk || /sync/i.test(operation)) changes.push(`${operation} ${path}`)
    })
    const again = await MiniStore.open('/j', { fileSystem: files })
    expect(changes).toEqual(['syncDirectory /', 'open /j.lock', 'truncate /j', 'sync /j', 'syncDirectory /'])
    await again.close()
  })

  test('survives a program of version 0.2 that appends and rotates: the next open puts it into the active segment', async () => {
    const path = await journalPath()
    await writeJournal(path, [['a', 'b']])
    const id = await idAt(path)
    await rename(path, `${path}.001`)
    await rm(`${path}.seal`)
    await writeSegment(path, `// MINISTORE JOURNAL v0.2.0 seq=3 prev=${await crc32Of(`${path}.001`)}`, ['"c"'])
    await using store = await MiniStore.open<string>(path)
    expect(store.id).toBe(id)
    expect(await idAt(path)).toBe(id)
    expect(store.segments.map((segment) => basename(segment.path))).toEqual(['journal.jsonl.001', 'journal.jsonl.002', 'journal.jsonl'])
    await store.append('d')
    expect(await store.replay()).toEqual(['a', 'b', 'c', 'd'])
  })

  test('is a new one if an older program has deleted every segment that had the old one', async () => {
    const path = await journalPath()
    await writeJournal(path, [['a', 'b']])
    const id = await idAt(path)
    await rm(`${path}.seal`)
    await writeSegment(path, '// MINISTORE JOURNAL v0.2.0 seq=3 prev=00000000', ['"c"'])
    await using store = await MiniStore.open<string>(path)
    expect(store.id).toEqual(isId)
    expect(store.id).not.toBe(id)
    expect([store.firstSequence, store.lastSequence]).toEqual([3, 3])
  })

  test('is given to a journal whose sequence numbers are not used up, and no other fails to open', async () => {
    const files = new SimulatedFileSystem()
    const last = Number.MAX_SAFE_INTEGER
    files.writeFile('/j', `// MINISTORE JOURNAL v0.2.0 seq=${last}\n"last"\n`)
    await using store = await MiniStore.open('/j', { fileSystem: files })
    expect([store.id, store.lastSequence]).toEqual([undefined, last])
    expect(store.segments).toHaveLength(1)
  })

  test('is given by the next rotation after a full disk, and truncateBefore needs no room', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/j.001', '// MINISTORE JOURNAL v0.2.0 seq=1\n1\n')
    files.writeFile('/j', '// MINISTORE JOURNAL v0.2.0 seq=2 prev=00000000\n2\n')
    const full = files.failOn(({ operation, path }) => operation === 'write' && path === '/j.next', 'ENOSPC')
    const store = await MiniStore.open('/j', { fileSystem: files })
    expect([store.id, store.segments.length]).toEqual([undefined, 2])
    await store.truncateBefore(2)
    await store.append(3)
    expect(await store.replay()).toEqual([2, 3])
    await expect(store.rotate()).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(store.id).toBeUndefined()
    full.remove()
    await store.rotate()
    const { id } = store
    expect(id).toEqual(isId)
    await store.close()
    const again = await MiniStore.open('/j', { fileSystem: files })
    expect([again.id, await again.replay()]).toEqual([id, [2, 3]])
    await again.close()
  })

  test('is told by a read-only journal, whose streams refuse another journal at the path', async () => {
    const path = await journalPath()
    const reader = await MiniStore.read<number>(path)
    expect(reader.id).toBeUndefined()
    await writeJournal(path, [[1, 2]])
    await reader.refresh()
    expect(reader.id).toBe(await idAt(path))
    expect(await reader.replay()).toEqual([1, 2])
    await rm(dirname(path), { recursive: true })
    await writeJournal(path, [[7, 8, 9]])
    const foreign = { code: 'ERR_MINISTORE_FOREIGN_JOURNAL', path }
    await expect(reader.replay()).rejects.toMatchObject(foreign)
    await expect(reader.refresh()).rejects.toMatchObject(foreign)
    expect([reader.firstSequence, reader.lastSequence]).toEqual([1, 2])
  })

  test.each(['v0.2.0', 'rust-v0.1.0', 'rust-v0.1.4'])('%s is read without one, and nothing is changed', async (fixture) => {
    const directory = await temporaryDirectory()
    await cp(join(import.meta.dirname, '../fixtures', fixture), directory, { recursive: true })
    const names = await readdir(directory)
    const reader = await MiniStore.read(join(directory, 'journal.jsonl'))
    expect(reader.id).toBeUndefined()
    expect((await collect(reader.stream())).length).toBeGreaterThan(5)
    expect(await readdir(directory)).toEqual(names)
  })
})

describe('adopt', () => {
  test('takes on an identity and a first sequence number, durably', async () => {
    const files = new SimulatedFileSystem()
    const store = await MiniStore.open<string>('/j', { fileSystem: files })
    await store.adopt({ id: other, firstSequence: 500 })
    expect([store.id, store.firstSequence, store.lastSequence]).toEqual([other, 500, 499])
    const crashed = files.afterCrash({ keep: 'none' })
    expect(crashed.readFile('/j').toString()).toBe(`// MINISTORE JOURNAL v0.3.0 seq=500 id=${other}\n`)
    expect(await store.append('first')).toBe(500)
    await store.rotate()
    expect(await store.append('second')).toBe(501)
    await store.close()
    const again = await MiniStore.open<string>('/j', { fileSystem: files })
    expect([again.id, await collect(again.entries())]).toEqual([other, [{ sequence: 500, record: 'first' }, { sequence: 501, record: 'second' }]])
    await again.close()
  })

  test('can be repeated while there is no record, and does nothing if the journal has the identity', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open<string>(path)
    await store.adopt({ id: other, firstSequence: 1 })
    const before = await readFile(path, 'utf8')
    await store.adopt({ id: other, firstSequence: 1 })
    expect(await readFile(path, 'utf8')).toBe(before)
    await store.adopt({ id: other, firstSequence: 7 })
    expect(await store.append('record')).toBe(7)
    await store.adopt({ id: other, firstSequence: 1 })
    expect([store.firstSequence, store.lastSequence]).toEqual([7, 7])
  })

  test.each([
    ['has a record', async (store: MiniStore) => void (await store.append(1))],
    ['had a record', async (store: MiniStore) => {
      await store.append(1)
      await store.rotate()
      await store.truncateBefore(2)
    }],
  ])('is refused when the journal %s of another identity, and changes nothing', async (_, use) => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await use(store)
    const [{ id }, before] = [store, await readFile(path, 'utf8')]
    await expect(store.adopt({ id: other, firstSequence: 1 })).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL', path })
    expect([store.id, await readFile(path, 'utf8')]).toEqual([id, before])
    expect(await store.append('next')).toBe(2)
  })

  test('takes its turn among appends', async () => {
    await using store = await MiniStore.open<string>(await journalPath())
    const adopting = store.adopt({ id: other, firstSequence: 10 })
    expect(await store.append('a')).toBe(10)
    await adopting
    expect(store.id).toBe(other)
  })

  test('removes the empty segments of the Rust crate, which would not fit', async () => {
    const path = await journalPath()
    await writeFile(`${path}.000001`, '// MINISTORE JOURNAL v0.1.4\n')
    await writeFile(path, '// MINISTORE JOURNAL v0.1.4\n')
    await using store = await MiniStore.open<string>(path)
    await store.adopt({ id: other, firstSequence: 10 })
    expect(await store.append('a')).toBe(10)
    expect(await MiniStore.replay(path)).toEqual(['a'])
    expect((await readdir(dirname(path))).filter((name) => /\d$/.test(name))).toEqual([])
  })

  test('ends the followers of the journal, in this process and in others', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open<string>(path)
    const followers = [store.stream({ follow: true }), MiniStore.stream(path, { follow: true })].map((stream) => stream.values().next())
    for (const next of followers) next.catch(() => {})
    // A follower that took its first view only now would be one of the adopted journal.
    await delay(500)
    await store.adopt({ id: other, firstSequence: 1 })
    for (const next of followers) await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL' })
  })

  test('rejects a value that is none', async () => {
    await using store = await MiniStore.open(await journalPath())
    for (const id of [undefined, 7, '', 'DEADBEEFDEADBEEF', `${other}0`]) {
      await expect(store.adopt({ id: id as string, firstSequence: 1 })).rejects.toThrow(/Expected `id` to be the id of a journal, 16 lower-case hexadecimal digits, got /)
    }
    await expect(store.adopt({ id: other, firstSequence: 0 })).rejects.toThrow(RangeError)
    await expect(store.adopt({ id: other, firstSequence: '1' as never })).rejects.toThrow(TypeError)
    await expect(store.adopt({ id: other, first: 1 } as never)).rejects.toThrow(/did you mean `firstSequence`|Unknown option `first`/)
    await expect(store.adopt(undefined as never)).rejects.toThrow(TypeError)
    await store.close()
    await expect(store.adopt({ id: other, firstSequence: 1 })).rejects.toMatchObject({ code: 'ERR_MINISTORE_CLOSED' })
  })

  test('after an old journal without records: gives it the identity of the other', async () => {
    const path = await journalPath()
    await writeOldJournal(path, [[]])
    await using store = await MiniStore.open(path)
    await store.adopt({ id: other, firstSequence: 3 })
    expect(await readFile(path, 'utf8')).toBe(`// MINISTORE JOURNAL v0.3.0 seq=3 id=${other}\n`)
  })
})
