import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { type FileStat, type FileSystem, MiniStore, type OpenOptions } from '../../src/index.ts'
import { inspectJournal } from '../../src/maintenance/inspect.ts'
import { MiniQueue } from '../../src/miniqueue/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { ministore } from '../cli/run-command.ts'
import { elsewhere } from '../support/elsewhere.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const path = '/data/journal.jsonl'

async function openPadded(
  options: OpenOptions = {},
  files = new SimulatedFileSystem(),
): Promise<{ readonly files: SimulatedFileSystem; readonly store: MiniStore }> {
  return { files, store: await MiniStore.open(path, { preallocate: 4096, ...options, fileSystem: files }) }
}

/** The lines of the active segment without its header, and the number of NUL bytes after them. */
function contentOf(files: SimulatedFileSystem, at = path): { readonly lines: string; readonly padding: number } {
  const text = files.readFile(at).toString()
  const data = text.replace(/\0+$/, '')
  return { lines: data.slice(data.indexOf('\n') + 1), padding: text.length - data.length }
}

function usedBytes(files: SimulatedFileSystem): number {
  return [...files.snapshot().values()].reduce((sum, bytes) => sum + bytes.length, 0)
}

const headerBytes = '// MINISTORE JOURNAL v0.3.0 seq=1 id=0123456789abcdef\n'.length

describe('a store with preallocate', () => {
  test('writes NUL bytes ahead with the first append, and overwrites them in place', async () => {
    const { files, store } = await openPadded()
    expect(contentOf(files)).toEqual({ lines: '', padding: 0 })
    await store.append(1)
    expect(contentOf(files)).toEqual({ lines: '1\n', padding: 4096 - headerBytes - 2 })
    const operations: string[] = []
    files.onOperation(({ operation, length, position }) => operations.push(`${operation} ${length ?? ''}@${position ?? ''}`))
    expect(await store.append('two')).toBe(2)
    expect(operations).toEqual([`write 6@${headerBytes + 2}`, 'dataSync @'])
    expect(files.readFile(path).length).toBe(4096)
    expect(await store.replay()).toEqual([1, 'two'])
    expect(store.segments.map(({ bytes }) => bytes)).toEqual([headerBytes + 8])
  })

  test('writes the next padding together with the line that no longer fits', async () => {
    const { files, store } = await openPadded({ preallocate: 100 })
    const operations: string[] = []
    files.onOperation(({ operation }) => operations.push(operation))
    for (let n = 0; n < 20; n++) await store.append('0123456789')
    expect(operations).toEqual(Array.from({ length: 20 }, () => ['write', 'dataSync']).flat())
    expect(contentOf(files).lines.length).toBe(20 * 13)
    expect(files.readFile(path).length).toBe(400)
  })

  test('pads to a record larger than a step, and no further than a segment may be', async () => {
    const { files, store } = await openPadded({ preallocate: 64, maxBytesPerSegment: 300 })
    await store.append('x'.repeat(150))
    expect(files.readFile(path).length).toBe(256)
    await store.append('y'.repeat(60))
    expect(files.readFile(path).length).toBe(300)
    await store.append('z'.repeat(400))
    expect(contentOf(files).padding).toBe(0)
    await store.close()
    expect(await MiniStore.replay(path, { fileSystem: files })).toEqual(['x'.repeat(150), 'y'.repeat(60), 'z'.repeat(400)])
  })

  test('true is 64 KiB', async () => {
    const { files, store } = await openPadded({ preallocate: true })
    await store.append(1)
    expect(files.readFile(path).length).toBe(64 * 1024)
  })

  test.each(['close', 'rotate', 'appendAll'] as const)('cuts the padding off, and syncs the cut, before %s goes on', async (call) => {
    const { files, store } = await openPadded()
    await store.append(1)
    const operations: string[] = []
    files.onOperation(({ operation, path: at }) => {
      if (['truncate', 'sync', 'dataSync', 'write', 'rename', 'create'].includes(operation)) operations.push(`${operation} ${at}`)
    })
    if (call === 'close') await store.close()
    if (call === 'rotate') await store.rotate()
    if (call === 'appendAll') await store.appendAll([2, 3])
    expect(operations.slice(0, 2)).toEqual([`truncate ${path}`, `sync ${path}`])
    expect(contentOf(files).padding).toBe(0)
  })

  test('keeps the padding when truncateBefore deletes sealed segments', async () => {
    const { files, store } = await openPadded()
    await store.append(1)
    await store.rotate()
    await store.append(2)
    const before = contentOf(files)
    expect(before.padding).toBeGreaterThan(0)
    await store.truncateBefore(2)
    expect(store.firstSequence).toBe(2)
    expect(contentOf(files)).toEqual(before)
  })

  test('keeps the padding for an appendAll of one record, and writes it again after one of several', async () => {
    const { files, store } = await openPadded()
    await store.append(1)
    await store.appendAll([2])
    expect(contentOf(files)).toMatchObject({ lines: '1\n2\n', padding: 4096 - headerBytes - 4 })
    await store.appendAll([3, 4])
    expect(contentOf(files)).toEqual({ lines: '1\n2\n3\n4\n', padding: 0 })
    await store.append(5)
    expect(contentOf(files)).toMatchObject({ lines: '1\n2\n3\n4\n5\n', padding: 4096 - headerBytes - 10 })
    await store.close()
    expect(contentOf(files)).toEqual({ lines: '1\n2\n3\n4\n5\n', padding: 0 })
  })

  test('begins each segment without padding, and leaves none in a sealed one', async () => {
    const { files, store } = await openPadded({ maxBytesPerSegment: 100 })
    for (let n = 0; n < 12; n++) await store.append('0123456789')
    expect(store.segments.length).toBeGreaterThan(3)
    for (const { path: at, isSealed, bytes } of store.segments) {
      if (isSealed) expect(files.readFile(at).length).toBe(bytes)
    }
    await store.close()
    expect(await MiniStore.replay(path, { fileSystem: files })).toHaveLength(12)
  })

  test('is rolled back after a failed write, and pads again', async () => {
    const { files, store } = await openPadded()
    await store.append(1)
    files.failOn({ operation: 'write', path }, 'EIO')
    await expect(store.append(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(contentOf(files)).toEqual({ lines: '1\n', padding: 0 })
    expect(await store.append(3)).toBe(2)
    expect(contentOf(files)).toMatchObject({ lines: '1\n3\n', padding: 4096 - headerBytes - 4 })
  })

  test('goes on without padding where there is room only for the record', async () => {
    const { files, store } = await openPadded()
    files.capacityBytes = usedBytes(files) + 500
    for (const n of [1, 2, 3]) expect(await store.append(n)).toBe(n)
    expect(contentOf(files)).toEqual({ lines: '1\n2\n3\n', padding: 0 })
    await expect(store.append('x'.repeat(600))).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    files.capacityBytes = Number.POSITIVE_INFINITY
    expect(await store.append(4)).toBe(4)
    expect(contentOf(files).padding).toBeGreaterThan(0)
  })

  test('a cut that fails before an appendAll writes nothing, and one that is not synced ends the writer', async () => {
    const { files, store } = await openPadded()
    await store.append(1)
    files.failOn({ operation: 'truncate', path }, 'EIO')
    await expect(store.appendAll([2, 3])).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(await store.append(4)).toBe(2)
    files.failOn({ operation: 'sync', path }, 'EIO')
    await expect(store.appendAll([5, 6])).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await expect(store.append(7)).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await store.close()
    expect(await MiniStore.replay(path, { fileSystem: files.afterKill() })).toEqual([1, 4])
  })

  test('a cut whose sync fails is the end of the writer, also for appends that wait while it closes', async () => {
    const { files, store } = await openPadded()
    await store.append(1)
    files.failOn({ operation: 'sync', path }, 'EIO')
    const failing = store.appendAll([2, 3])
    const behind = store.append(4)
    const closing = store.close()
    await expect(failing).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await expect(behind).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await closing
  })

  test('rejects close with IO if the cut cannot be synced, and the records are there', async () => {
    const { files, store } = await openPadded()
    await store.append(1)
    files.failOn({ operation: 'sync', path }, 'EIO')
    const seal = files.readFile(`${path}.seal`)
    await expect(store.close()).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(files.readFile(`${path}.seal`)).toEqual(seal)
    expect(await MiniStore.replay(path, { fileSystem: files.afterCrash({ keep: 'none' }) })).toEqual([1])
  })

  test.each([-1, 1.5, Number.NaN, 2 ** 24 + 1, '64k', null, {}])('refuses %s', async (preallocate) => {
    const files = new SimulatedFileSystem()
    const opening = MiniStore.open(path, { fileSystem: files, preallocate: preallocate as never })
    await expect(opening).rejects.toThrow(/^Expected `preallocate` to be /)
    expect([...files.snapshot().keys()]).toEqual([])
  })
})

describe('a journal that a crash left with padding', () => {
  async function crashed(): Promise<SimulatedFileSystem> {
    const { files, store } = await openPadded()
    await store.append(1)
    await store.append({ text: 'two' })
    return files.afterKill()
  }

  test.each([undefined, true, 100])('opens with preallocate: %s, without a torn tail and without evidence', async (preallocate) => {
    const files = await crashed()
    expect(contentOf(files).padding).toBeGreaterThan(0)
    const store = await MiniStore.open(path, { fileSystem: files, preallocate })
    expect(store.recovery).toMatchObject({ isNew: false, torn: undefined, removedFiles: [] })
    expect(contentOf(files)).toEqual({ lines: '1\n{"text":"two"}\n', padding: 0 })
    expect(files.names('/data').filter((name) => name.includes('torn'))).toEqual([])
    expect(await store.append(3)).toBe(3)
    await store.close()
    expect(await MiniStore.replay(path, { fileSystem: files.afterCrash({ keep: 'none' }) })).toEqual([1, { text: 'two' }, 3])
  })

  test('is read as it is by readers, which change nothing', async () => {
    const files = elsewhere(await crashed())
    const reader = await MiniStore.read(path, { fileSystem: files })
    expect([reader.firstSequence, reader.lastSequence]).toEqual([1, 2])
    expect(await MiniStore.replay(path, { fileSystem: files })).toEqual([1, { text: 'two' }])
    expect(await MiniStore.replay(path, { fileSystem: files, from: 2 })).toEqual([{ text: 'two' }])
  })

  test('keeps as evidence only what was written of the last line', async () => {
    const files = await crashed()
    const bytes = files.readFile(path)
    const end = bytes.indexOf(0)
    bytes.write('{"half', end)
    files.writeFile(path, bytes)
    const store = await MiniStore.open(path, { fileSystem: files })
    expect(store.recovery.torn).toMatchObject({ sequence: 3, offset: end, bytes: 6 })
    expect(files.readFile(`${path}.torn-3`).toString()).toBe('{"half')
    await store.close()
  })

  test('is torn if the line behind NUL bytes is the last one, and damaged if another follows', async () => {
    const files = await crashed()
    const bytes = files.readFile(path)
    const end = bytes.indexOf(0)
    bytes.write('lost"\n', end + 600)
    files.writeFile(path, bytes)
    const torn = await MiniStore.open(path, { fileSystem: files.afterKill() })
    expect(torn.recovery.torn).toMatchObject({ sequence: 3, offset: end, bytes: 606 })
    bytes.write('"more"\n', end + 606)
    files.writeFile(path, bytes)
    await expect(MiniStore.open(path, { fileSystem: files })).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    expect(files.readFile(path)).toEqual(bytes)
  })

  test('is sound for inspect, verify and repair of the command line', async () => {
    const directory = await temporaryDirectory()
    const journal = join(directory, 'journal.jsonl')
    const files = await crashed()
    await mkdir(directory, { recursive: true })
    await writeFile(journal, files.readFile(path))
    const verified = await ministore(['verify', '--json', journal])
    expect([verified.code, JSON.parse(verified.stdout)]).toEqual([0, expect.objectContaining({ isSound: true, records: 2, torn: null })])
    expect(await ministore(['cat', journal])).toMatchObject({ code: 0, stdout: '1\n{"text":"two"}\n' })
    const repaired = await ministore(['repair', '--write', journal])
    expect([repaired.code, repaired.stdout]).toEqual([0, expect.stringContaining('nothing to repair')])
    const { size } = await stat(journal)
    const cut = await ministore(['repair', '--truncate-at', '2', '--write', journal])
    expect(cut.code, cut.stderr).toBe(0)
    expect((await readFile(journal, 'utf8')).split('\n').slice(1)).toEqual(['1', ''])
    expect(size).toBe(4096)
  })
})

describe('a follower of a padded journal in another process', () => {
  test('sees each record, though size and time of change stay the same', async () => {
    const { files, store } = await openPadded()
    await store.append(0)
    const other = elsewhere(files)
    // A clock so coarse that no change shows.
    const coarse = (found: FileStat): FileStat => ({ ...found, changedMs: 1 })
    const fileSystem: FileSystem = {
      ...other,
      stat: async (at) => coarse(await other.stat(at)),
      open: async (at, mode, access) => {
        const file = await other.open(at, mode, access)
        const read = (buffer: Uint8Array, position: number): Promise<number> => file.read(buffer, position)
        return { ...file, read, stat: async () => coarse(await file.stat()), close: () => file.close() }
      },
    }
    const follower = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 1, fileSystem }).values()
    for (let n = 0; n < 5; n++) {
      expect(await follower.next()).toEqual({ done: false, value: n })
      await store.append(n + 1)
    }
    await follower.return?.()
    await store.close()
  })

  test('goes on over rotations and appendAll', async () => {
    const { files, store } = await openPadded({ maxBytesPerSegment: 120 })
    const follower = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 1, fileSystem: elsewhere(files) }).values()
    const seen: unknown[] = []
    const reading = (async () => {
      while (seen.length < 40) seen.push((await follower.next()).value)
    })()
    for (let n = 0; n < 40; n += 4) {
      await store.append(n)
      await store.appendAll([n + 1, n + 2])
      await store.append(n + 3)
    }
    await reading
    expect(seen).toEqual(Array.from({ length: 40 }, (_, n) => n))
    await follower.return?.()
    await store.close()
  })

  test('waits at half a line inside the padding', async () => {
    const { files, store } = await openPadded()
    await store.append('whole')
    const bytes = files.readFile(path)
    const end = bytes.indexOf(0)
    const half = files.afterKill()
    const image = Buffer.from(bytes)
    image.write('"ha', end)
    half.writeFile(path, image)
    const follower = MiniStore.stream(path, { follow: true, pollIntervalMs: 1, fileSystem: elsewhere(half) }).values()
    expect(await follower.next()).toEqual({ done: false, value: 'whole' })
    const next = follower.next()
    expect(await Promise.race([next, new Promise((resolve) => setTimeout(resolve, 30, 'waits'))])).toBe('waits')
    image.write('"half"\n', end)
    half.writeFile(path, image)
    expect(await next).toEqual({ done: false, value: 'half' })
    await follower.return?.()
  })
})

test('an inspection tells the size without the padding', async () => {
  const { files, store } = await openPadded()
  await store.append(1)
  const found = await inspectJournal(elsewhere(files), path, { isQuick: false })
  expect(JSON.stringify(found)).not.toContain('4096')
  await store.close()
})

describe('on a full disk that cannot even cut a file', () => {
  test.each([undefined, 4096])('a padded journal opens, appends and closes with preallocate: %s', async (preallocate) => {
    const { files: killed, store: dead } = await openPadded()
    await dead.append(1)
    const files = killed.afterKill()
    const full = files.failOn({ operation: 'truncate', path, times: 'always' }, 'ENOSPC')
    const store = await MiniStore.open(path, { fileSystem: files, preallocate })
    expect(await store.append(2)).toBe(2)
    for (const refused of [store.appendAll([3, 4]), store.rotate()]) {
      await expect(refused).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    }
    await store.close()
    expect(contentOf(files).padding).toBeGreaterThan(0)
    full.remove()
    const again = await MiniStore.open(path, { fileSystem: files.afterCrash({ keep: 'none' }) })
    expect(await again.replay()).toEqual([1, 2])
    await again.close()
  })

  test('an old journal that ends in NUL bytes opens as it is, and is not sealed with them', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(path, '// MINISTORE JOURNAL v0.2.0 seq=1\n1\n\0\0\0')
    files.failOn({ operation: 'truncate', path, times: 'always' }, 'ENOSPC')
    const store = await MiniStore.open(path, { fileSystem: files })
    expect([store.id, store.segments.length, await store.append(2)]).toEqual([undefined, 1, 2])
    await store.close()
    expect(await MiniStore.replay(path, { fileSystem: files })).toEqual([1, 2])
  })
})

test('old journals whose header could not be replaced get no padding', async () => {
  const files = new SimulatedFileSystem()
  files.writeFile(path, '// MINISTORE JOURNAL v0.2.0 seq=1\n1\n')
  files.capacityBytes = usedBytes(files) + 10
  const store = await MiniStore.open(path, { fileSystem: files, preallocate: 64 })
  expect(store.id).toBeUndefined()
  files.capacityBytes = Number.POSITIVE_INFINITY
  await store.append(2)
  expect(contentOf(files)).toEqual({ lines: '1\n2\n', padding: 0 })
  await store.close()
})

test('a state and a queue take the option for their journals', async () => {
  const files = new SimulatedFileSystem()
  const options = { journal: { preallocate: 4096 }, fileSystem: files }
  const state = await StateManager.open('/state', { initialState: () => 0, mutator: (sum: number, by: number) => sum + by, ...options })
  await state.apply(5)
  const queue = await MiniQueue.open<string>('/queue', options)
  await queue.enqueue('job')
  for (const directory of ['/state', '/queue']) {
    expect(files.readFile(`${directory}/journal.jsonl`).length).toBe(4096)
  }
  await Promise.all([state.close(), queue.close()])
  for (const directory of ['/state', '/queue']) {
    expect(contentOf(files, `${directory}/journal.jsonl`).padding).toBe(0)
  }
})
