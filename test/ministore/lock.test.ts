import { mkdir, readdir, stat, symlink, unlink } from 'node:fs/promises'
import { join, relative } from 'node:path'

import { describe, expect, test } from 'vitest'

import { type FileStat, MiniStore, MiniStoreError, nodeFileSystem } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect, take } from '../support/consume.ts'
import { writeJournal } from '../support/journals.ts'
import { Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { RemoteStore } from '../support/remote-store.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const locked = { code: 'ERR_MINISTORE_LOCKED' }

async function heldJournal(): Promise<{ directory: string; path: string; store: MiniStore<number> }> {
  const directory = await temporaryDirectory()
  await mkdir(join(directory, 'state'))
  const path = join(directory, 'state/journal.jsonl')
  await writeJournal(path, [[1, 2]])
  return { directory, path, store: await MiniStore.open<number>(path) }
}

describe('a second writer in the same process is refused at once', () => {
  test.each<{ name: string; other: (directory: string, path: string) => Promise<string> }>([
    { name: 'the same path', other: (_, path) => Promise.resolve(path) },
    { name: 'a relative path', other: (_, path) => Promise.resolve(relative(process.cwd(), path)) },
    {
      name: 'a path with dots in it',
      other: (directory) => Promise.resolve(`${directory}/./state/../state/journal.jsonl`),
    },
    {
      name: 'a symbolic link to the directory',
      other: async (directory) => {
        await symlink(join(directory, 'state'), join(directory, 'linked'))
        return join(directory, 'linked/journal.jsonl')
      },
    },
    {
      name: 'a symbolic link to the file',
      other: async (directory, path) => {
        await symlink(path, join(directory, 'linked.jsonl'))
        return join(directory, 'linked.jsonl')
      },
    },
    {
      name: 'a symbolic link to a symbolic link to the file, in a linked directory',
      other: async (directory) => {
        await symlink(join(directory, 'state'), join(directory, 'linked'))
        await symlink('state/journal.jsonl', join(directory, 'one.jsonl'))
        await symlink('../one.jsonl', join(directory, 'state/two.jsonl'))
        return join(directory, 'linked/two.jsonl')
      },
    },
  ])('by $name', async ({ other }) => {
    const { directory, path, store } = await heldJournal()
    const second = await other(directory, path)
    for (const options of [{}, { lock: false }]) {
      const refusal = MiniStore.open(second, options)
      await expect(refusal).rejects.toBeInstanceOf(MiniStoreError)
      await expect(refusal).rejects.toMatchObject(locked)
    }
    // The refusals have not affected the holder.
    expect(await store.append(3)).toBe(3)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    await store.close()
    await using next = await MiniStore.open<number>(second)
    expect(await next.append(4)).toBe(4)
  })

  test('one of many that open at the same moment wins', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => MiniStore.open(path)))
    const stores = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    expect(stores).toHaveLength(1)
    for (const outcome of outcomes)
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject(locked)
    await stores[0]?.close()
  })

  test('while the first is still opening, and the lock is free again if that opening fails', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const gate = new Gate()
    // Once it has the lock, recovery looks for the active segment first.
    const fs = new ObservedFileSystem(async ({ operation, path: file }) => {
      if (operation !== 'open' || file !== path) return
      await gate.wait()
      throw new Error('EIO: i/o error, open')
    })
    const first = MiniStore.open(path, { fileSystem: fs })
    await gate.reached
    await expect(MiniStore.open(path, { fileSystem: fs })).rejects.toMatchObject(locked)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    gate.open()
    await expect(first).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(fs.openFiles).toBe(0)
    await using store = await MiniStore.open(path)
    expect(store.lastSequence).toBe(0)
  })

  test('through another FileSystem object too: the kernel lock covers what the registry does not', async () => {
    const { path, store } = await heldJournal()
    const fs = new ObservedFileSystem()
    await expect(MiniStore.open(path, { fileSystem: fs })).rejects.toMatchObject(locked)
    expect(fs.openFiles).toBe(0)
    await store.close()
  })

  test('but not for another journal whose inode differs only in digits that a number would round', async () => {
    // NTFS keeps the reuse count of a file number in its upper 16 bits.
    let inode = 40n << 48n
    const inodes = new Map<unknown, bigint>()
    class LongInodes extends ObservedFileSystem {
      #long(found: FileStat): FileStat {
        const long = inodes.get(found.inode) ?? ++inode
        inodes.set(found.inode, long)
        return { ...found, inode: long }
      }

      override async stat(path: string): Promise<FileStat> {
        return this.#long(await super.stat(path))
      }

      override async open(
        ...parameters: Parameters<ObservedFileSystem['open']>
      ): ReturnType<ObservedFileSystem['open']> {
        const file = await super.open(...parameters)
        const asked = file.stat.bind(file)
        return Object.assign(file, { stat: async () => this.#long(await asked()) })
      }
    }
    const fileSystem = new LongInodes()
    const directory = await temporaryDirectory()
    const stores: Array<MiniStore<number>> = []
    for (const n of [1, 2, 3, 4]) {
      const store = await MiniStore.open<number>(join(directory, `${n}/journal.jsonl`), { fileSystem })
      await store.append(n)
      stores.push(store)
    }
    for (const [at, { path }] of stores.entries()) {
      expect(await MiniStore.replay(path, { fileSystem })).toEqual([at + 1])
    }
    for (const store of stores) await store.close()
  })

  test('but not for another journal in the same directory', async () => {
    const directory = await temporaryDirectory()
    await using one = await MiniStore.open<number>(join(directory, 'one.jsonl'))
    await using two = await MiniStore.open<number>(join(directory, 'two.jsonl'))
    expect(await Promise.all([one.append(1), two.append(1)])).toEqual([1, 1])
  })
})

describe.each([
  { where: 'another process', start: () => RemoteStore.inProcess(), freesFiles: true },
  // Bun leaves the files of a terminated worker open, so its locks last until the process ends.
  { where: 'a worker thread', start: () => RemoteStore.inThread(), freesFiles: !('bun' in process.versions) },
])('a writer in $where', ({ start, freesFiles }) => {
  test('is refused while this writer holds the journal, and admitted once it has closed', async () => {
    const { path, store } = await heldJournal()
    const other = start()
    await expect(other.open(path)).rejects.toMatchObject(locked)
    expect(await store.append(3)).toBe(3)
    await expect(other.open(path)).rejects.toMatchObject(locked)
    await store.close()
    expect(await other.open(path)).toMatchObject({ firstSequence: 1, lastSequence: 3 })
    expect(await other.append(4)).toBe(4)
  })

  test('keeps this writer out until it closes', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const other = start()
    await other.open(path)
    await other.append(1)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    await other.close()
    await using store = await MiniStore.open(path)
    expect(store.lastSequence).toBe(1)
  })

  test.runIf(freesFiles)('keeps this writer out until it is killed, and its acknowledged records are there', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const other = start()
    await other.open(path)
    await other.appendAll(['a', 'b'])
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    await other.kill()
    await using store = await MiniStore.open<string>(path)
    expect(await store.replay()).toEqual(['a', 'b'])
    expect(await store.append('c')).toBe(3)
  })

  test('does not block readers in either process, which never need the lock', async () => {
    const { path, store } = await heldJournal()
    const reader = start()
    expect(await reader.replay(path)).toEqual([1, 2])
    const writer = start()
    await store.close()
    await writer.open(path)
    await writer.append(3)
    expect(await MiniStore.replay(path)).toEqual([1, 2, 3])
    expect(await reader.replay(path)).toEqual([1, 2, 3])
  })
})

describe('readers', () => {
  test('take no lock, create no file and keep no writer out', async () => {
    const { path, store } = await heldJournal()
    await store.close()
    const operations = new Set<string>()
    const fs = new ObservedFileSystem(({ operation }) => void operations.add(operation))
    const iterator = MiniStore.stream<number>(path, { fileSystem: fs }).values()
    expect(await take(iterator, 1)).toEqual([1])
    await using writer = await MiniStore.open<number>(path)
    await writer.append(3)
    expect(await collect(iterator)).toEqual([2])
    const changing = [
      'lock',
      'write',
      'rename',
      'unlink',
      'makeDirectory',
      'truncate',
      'sync',
      'dataSync',
      'syncDirectory',
    ]
    expect(changing.filter((operation) => operations.has(operation))).toEqual([])
  })
})

test('a reader ignores an inaccessible lock file while this thread writes another journal', async () => {
  const files = new SimulatedFileSystem()
  await writeJournal('/data/read.jsonl', [[1, 2]], { fileSystem: files })
  await using store = await MiniStore.open<number>('/data/written.jsonl', { fileSystem: files })
  const fault = files.failOn({ operation: 'stat', path: '/data/read.jsonl.lock', times: 'always' }, 'EACCES')
  expect(await MiniStore.replay('/data/read.jsonl', { fileSystem: files })).toEqual([1, 2])
  expect(fault.hits).toBeGreaterThan(0)
  expect(store.lastSequence).toBe(0)
})

describe('without the kernel lock', () => {
  const noLock = (): ObservedFileSystem =>
    new ObservedFileSystem(({ operation }) => {
      if (operation === 'lock')
        throw Object.assign(new Error('ENOLCK: no locks available'), { code: 'ENOLCK' })
    })

  test('open fails with ERR_MINISTORE_LOCK_UNAVAILABLE and changes nothing', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const fs = noLock()
    const refusal = MiniStore.open(path, { fileSystem: fs })
    await expect(refusal).rejects.toMatchObject({
      code: 'ERR_MINISTORE_LOCK_UNAVAILABLE',
      path,
      cause: { code: 'ENOLCK' },
    })
    await expect(refusal).rejects.toThrow(/lock: false/)
    expect(fs.openFiles).toBe(0)
    expect(await fs.list(join(path, '..'))).toEqual(['journal.jsonl.lock'])
    await using store = await MiniStore.open(path)
    expect(store.recovery.isNew).toBe(true)
  })

  test('lock: false still opens and never requests it; a second open in the same thread is refused', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const fs = noLock()
    const store = await MiniStore.open<number>(path, { fileSystem: fs, lock: false })
    expect(await store.append(1)).toBe(1)
    await expect(MiniStore.open(path, { fileSystem: fs, lock: false })).rejects.toMatchObject(locked)
    await expect(MiniStore.open(path, { fileSystem: fs })).rejects.toMatchObject(locked)
    await store.close()
    await using next = await MiniStore.open<number>(path, { fileSystem: fs, lock: false })
    expect(next.lastSequence).toBe(1)
  })

  test('lock: false takes no kernel lock: an outside writer with a lock is admitted', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await using store = await MiniStore.open<number>(path, { lock: false })
    const other = RemoteStore.inProcess()
    expect(await other.open(path)).toMatchObject({ lastSequence: 0 })
    await other.close()
    expect(store.lastSequence).toBe(0)
  })
})

describe('the lock', () => {
  test('is freed when closing fails', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const fs = new ObservedFileSystem()
    const store = await MiniStore.open<number>(path, { fileSystem: fs })
    await store.append(1)
    fs.hook = ({ operation }) => {
      if (operation === 'rename') throw Object.assign(new Error('EIO: i/o error, rename'), { code: 'EIO' })
    }
    await expect(store.close()).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(fs.openFiles).toBe(0)
    await using next = await MiniStore.open<number>(path)
    expect(next.lastSequence).toBe(1)
  })

  test('is freed when opening finds damage', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeJournal(path, [[1], [2]])
    const fs = new ObservedFileSystem()
    await fs.rename(`${path}.001`, `${path}.003`)
    await fs.rename(path, `${path}.001`)
    await expect(MiniStore.open(path, { fileSystem: fs })).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
    })
    expect(fs.openFiles).toBe(0)
    await fs.rename(`${path}.001`, path)
    await fs.rename(`${path}.003`, `${path}.001`)
    await using store = await MiniStore.open(path, { fileSystem: fs })
    expect(store.lastSequence).toBe(2)
  })

  test('is a file that remains when the store is closed', async () => {
    const { path, store } = await heldJournal()
    await store.close()
    const fs = new ObservedFileSystem()
    expect(await fs.list(join(path, '..'))).toContain('journal.jsonl.lock')
  })
})

test('a deleted file is no longer held: another journal may get its inode number', async () => {
  const files = new SimulatedFileSystem()
  await using store = await MiniStore.open<number>('/data/one.jsonl', { fileSystem: files, maxSegments: 1 })
  const { inode } = await files.stat('/data/one.jsonl')
  await store.append(1)
  await store.rotate()
  await using other = await MiniStore.open<number>('/data/two.jsonl', { fileSystem: files })
  const inodes = ['/data/two.jsonl', '/data/two.jsonl.lock'].map(async (path) => (await files.stat(path)).inode)
  expect(await Promise.all(inodes)).toContain(inode)
  expect(await other.append(2)).toBe(1)
})

test('device and inode of a file are exact to the last bit', async () => {
  const { path, store } = await heldJournal()
  const { dev: device, ino: inode } = await stat(path, { bigint: true })
  expect(await nodeFileSystem.stat(path)).toMatchObject({ device, inode })
  const file = await nodeFileSystem.open(path, 'read')
  expect(await file.stat()).toMatchObject({ device, inode })
  await file.close()
  await store.close()
})

describe('a removed lock file allows no second writer', () => {
  test('while the first has its journal open, before a rotation and after', async () => {
    const { path, store } = await heldJournal()
    for (let look = 0; look < 3; look++) {
      await unlink(`${path}.lock`)
      // Inside this process the registry knows the segment; the kernel lock covers all processes.
      await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
      await expect(MiniStore.open(path, { lock: false })).rejects.toMatchObject(locked)
      await expect(MiniStore.open(path, { fileSystem: new ObservedFileSystem() })).rejects.toMatchObject(locked)
      await store.append(look)
      await store.rotate()
    }
    await store.close()
    await using next = await MiniStore.open<number>(path)
    expect(await next.replay()).toEqual([1, 2, 0, 1, 2])
  })

  test('in the middle of a rotation, when there is no active segment', async () => {
    const { directory, path, store } = await heldJournal()
    await store.close()
    const gate = new Gate()
    const fs = new ObservedFileSystem(async ({ operation, path: file }) => {
      if (operation === 'rename' && file === `${path}.next`) await gate.wait()
    })
    const first = await MiniStore.open<number>(path, { fileSystem: fs })
    // Opening renamed nothing, because the active segment existed.
    const rotated = first.rotate()
    await gate.reached
    const names = (await readdir(join(directory, 'state'))).toSorted()
    expect(names).not.toContain('journal.jsonl')
    await unlink(`${path}.lock`)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    // The lock file has been created again, and nothing else has changed.
    expect((await readdir(join(directory, 'state'))).toSorted()).toEqual(names)
    gate.open()
    await rotated
    expect(await first.append(3)).toBe(3)
    await first.close()
    expect(fs.openFiles).toBe(0)
    expect(await MiniStore.replay(path)).toEqual([1, 2, 3])
  })

  test('while the first creates a new journal', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const gate = new Gate()
    const fs = new ObservedFileSystem(async ({ operation, path: file }) => {
      if (operation === 'rename' && file === `${path}.next`) await gate.wait()
    })
    const opening = MiniStore.open<number>(path, { fileSystem: fs })
    await gate.reached
    await unlink(`${path}.lock`)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    gate.open()
    await using first = await opening
    expect(await first.append(1)).toBe(1)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
  })

  test('in the middle of a rotation whose .next was removed too: it holds the newest sealed segment', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const gate = new Gate()
    const fs = new ObservedFileSystem()
    const first = await MiniStore.open<number>(path, { fileSystem: fs })
    await first.append(1)
    await first.rotate()
    await first.append(2)
    let isSealed = false
    fs.hook = async ({ operation, path: file }) => {
      if (operation === 'rename' && file === path) isSealed = true
      else if (isSealed && operation === 'sync') await gate.wait()
    }
    const rotated = first.rotate()
    await gate.reached
    for (const name of ['lock', 'next']) await unlink(`${path}.${name}`)
    await expect(MiniStore.open(path)).rejects.toMatchObject(locked)
    gate.open()
    await expect(rotated).rejects.toMatchObject({ code: 'ERR_MINISTORE_MOVED' })
    await first.close()
    expect(await MiniStore.replay(path)).toEqual([1, 2])
  })

  test('but the next writer whose segment was sealed before it was locked takes the new active one', async () => {
    const { path, store: first } = await heldJournal()
    const gate = new Gate()
    let isFirst = true
    const late = new ObservedFileSystem(async ({ operation, path: file }) => {
      if (!isFirst || operation !== 'lock' || file !== path) return
      isFirst = false
      await gate.wait()
    })
    await unlink(`${path}.lock`)
    const opening = MiniStore.open<number>(path, { fileSystem: late })
    await gate.reached
    await first.rotate()
    await first.append(3)
    await first.close()
    gate.open()
    await using store = await opening
    expect(await store.append(4)).toBe(4)
    expect(await store.replay()).toEqual([1, 2, 3, 4])
    expect(store.segments).toHaveLength(2)
  })

  test('but the next writer opens once the first is done, although it created .next for a journal that now exists', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const gate = new Gate()
    let isFirst = true
    const late = new ObservedFileSystem(async ({ operation, path: file }) => {
      if (!isFirst || operation !== 'open' || file !== `${path}.next`) return
      isFirst = false
      await gate.wait()
    })
    const opening = MiniStore.open<number>(path, { fileSystem: late })
    await gate.reached
    await unlink(`${path}.lock`)
    await writeJournal(path, [[1]])
    gate.open()
    await using store = await opening
    expect(await store.append(2)).toBe(2)
    expect(await store.replay()).toEqual([1, 2])
  })

  test('while an opening that created .next meets a rotation that has created another one', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const [making, looking, renaming] = [new Gate(), new Gate(), new Gate()]
    let step = 'begins'
    const late = new ObservedFileSystem(async ({ operation, path: at }) => {
      if (step === 'begins' && operation === 'open' && at === `${path}.next`) {
        step = 'makes .next'
        await making.wait()
      } else if (step === 'makes .next' && operation === 'list') {
        step = 'has listed'
      } else if (step === 'has listed' && operation === 'stat' && at === path) {
        step = 'looks for the active segment'
        await looking.wait()
      }
    })
    const opening = MiniStore.open<number>(path, { fileSystem: late })
    await making.reached
    await unlink(`${path}.lock`)
    const fs = new ObservedFileSystem()
    const first = await MiniStore.open<number>(path, { fileSystem: fs })
    await first.append(1)
    making.open()
    await looking.reached
    fs.hook = async ({ operation, path: at }) => {
      if (operation === 'rename' && at === `${path}.next`) await renaming.wait()
    }
    const rotated = first.rotate()
    await renaming.reached
    looking.open()
    await expect(opening).rejects.toMatchObject(locked)
    renaming.open()
    await rotated
    expect(await first.append(2)).toBe(2)
    await first.close()
    expect([late.openFiles, fs.openFiles]).toEqual([0, 0])
    expect(await MiniStore.replay(path)).toEqual([1, 2])
  })

  test('a reader in this process still finds the writer, and sees only acknowledged records', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const gate = new Gate()
    const fs = new ObservedFileSystem(async ({ operation }) => {
      if (operation === 'dataSync') await gate.wait()
    })
    const store = await MiniStore.open<number>(path, { fileSystem: fs })
    const appended = store.append(1)
    await gate.reached
    await unlink(`${path}.lock`)
    expect(await MiniStore.replay(path, { fileSystem: fs })).toEqual([])
    gate.open()
    await appended
    expect(await MiniStore.replay(path, { fileSystem: fs })).toEqual([1])
    await store.close()
  })
})
