import { appendFile, chmod, chown, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { type File, type FileStat, type FileSystem, MiniStore, nodeFileSystem, type OpenMode } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { MiniQueue } from '../../src/miniqueue/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { repairJournal } from '../../src/maintenance/repair.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { editFile, writeJournal } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** The id of another user, which need not exist. Only root may give files to it. */
const other = { uid: 54_321, gid: 54_322 }
const isRoot = process.getuid?.() === 0
if (!isRoot) console.log('access: owners are not tried, for only root may give files away')

/** Permissions and owner of every file in a directory, as text, without directories. */
async function accessIn(directory: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const name of (await readdir(directory)).toSorted()) {
    const { mode, uid, gid } = await stat(join(directory, name))
    found[name] = `${(mode & 0o777).toString(8)} ${uid}:${gid}`
  }
  return found
}

/** The result of {@link accessIn} if all files have these permissions and the test's owner. */
function all(names: readonly string[], mode: string, owner = isRoot ? other : me): Record<string, string> {
  return Object.fromEntries(names.toSorted().map((name) => [name, `${mode} ${owner.uid}:${owner.gid}`]))
}

const me = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }

/** Gives a journal, or all files there, to another user and denies access to all others. */
async function handOver(directory: string, mode = 0o600): Promise<void> {
  for (const name of await readdir(directory)) {
    await chmod(join(directory, name), mode)
    if (isRoot) await chown(join(directory, name), other.uid, other.gid)
  }
}

const state = { initialState: () => ({ total: 0 }), mutator: (held: { total: number }, by: number) => void (held.total += by) }

describe.skipIf(process.platform === 'win32')('new files of a journal have the permissions and the owner of its active segment', () => {
  test('a rotated segment, the seal, and a lock file that is created again', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [[1], [2]])
    await handOver(directory)
    await rm(`${path}.lock`)
    const store = await MiniStore.open(path)
    await store.append(3)
    await store.rotate()
    await store.append(4)
    await store.close()
    const names = ['', '.001', '.002', '.lock', '.seal'].map((ending) => `journal.jsonl${ending}`)
    expect(await accessIn(directory)).toEqual(all(names, '600'))
  })

  test('even when the permissions change while the journal is open', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    const store = await MiniStore.open(path)
    await store.append(1)
    await handOver(directory, 0o640)
    await store.rotate()
    await store.close()
    const names = ['', '.001', '.lock', '.seal'].map((ending) => `journal.jsonl${ending}`)
    expect(await accessIn(directory)).toEqual(all(names, '640'))
  })

  test('the evidence of a torn tail', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [[1]])
    await appendFile(path, 'secret')
    await handOver(directory)
    await (await MiniStore.open(path)).close()
    expect(await accessIn(directory)).toMatchObject(all(['journal.jsonl', 'journal.jsonl.torn-2'], '600'))
  })

  test('an active segment missing after a crash during rotation, and its lock file: those of the newest sealed one', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [[1], [2]])
    await rename(path, `${path}.002`)
    await rm(`${path}.seal`)
    await rm(`${path}.lock`)
    await handOver(directory)
    await chmod(`${path}.001`, 0o666)
    await (await MiniStore.open(path)).close()
    const names = ['', '.002', '.lock', '.seal'].map((ending) => `journal.jsonl${ending}`)
    expect(await accessIn(directory)).toMatchObject(all(names, '600'))
  })

  test('an active segment created beside read-only sealed ones: its owner can still write it', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [[1], [2]])
    await rename(path, `${path}.002`)
    await rm(`${path}.seal`)
    await rm(`${path}.lock`)
    await handOver(directory, 0o444)
    await (await MiniStore.open(path)).close()
    const names = ['', '.lock', '.seal'].map((ending) => `journal.jsonl${ending}`)
    expect(await accessIn(directory)).toMatchObject(all(names, '644'))
  })

  test('the segments that a repair rewrites, its copies, and all files that its recovery creates', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [[1, 2], [3]])
    await editFile(`${path}.001`, (content) => Buffer.from(content.toString().replace('JOURNAL', 'JOURNEY').replace('\n1\n', '\n9\n')))
    await handOver(directory)
    await rm(`${path}.lock`)
    await repairJournal(nodeFileSystem, path)
    const found = await accessIn(directory)
    expect(found).toEqual(all(Object.keys(found), '600'))
    expect(Object.keys(found)).toEqual(
      ['', '.001', '.001.broken', '.broken', '.lock', '.seal', '.seal.broken'].map((ending) => `journal.jsonl${ending}`).toSorted(),
    )
  })

  test('snapshots of a state, automatic ones and those of a compaction', async () => {
    const directory = await temporaryDirectory()
    const first = await StateManager.open(directory, state)
    await first.apply(1)
    await first.close()
    await handOver(directory)
    const manager = await StateManager.open(directory, { ...state, snapshots: { everyMutations: 1 } })
    await manager.apply(2)
    await manager.compact()
    await manager.close()
    const found = await accessIn(directory)
    expect(Object.keys(found)).toContain('snapshot-2.json')
    expect(found).toEqual(all(Object.keys(found), '600'))
  })

  test('a queue, whose snapshots hold its messages', async () => {
    const directory = await temporaryDirectory()
    await (await MiniQueue.open(directory)).close()
    await handOver(directory)
    const queue = await MiniQueue.open(directory)
    await queue.enqueue('secret')
    await queue.compact()
    await queue.close()
    const found = await accessIn(directory)
    expect(Object.keys(found)).toContain('snapshot-1.json')
    expect(found).toEqual(all(Object.keys(found), '600'))
  })

  test('a snapshot without a journal: those of the newest one', async () => {
    const directory = await temporaryDirectory()
    const snaps = new SnapStore(directory, { keep: 3 })
    await snaps.create({ a: 1 }, 1)
    await handOver(directory)
    await snaps.create({ a: 2 }, 1)
    await snaps.create({ a: 3 }, 2)
    expect(await accessIn(directory)).toEqual(all(['snapshot-1.json', 'snapshot-2.json'], '600'))
  })
})

describe.skipIf(process.platform === 'win32')('the option `mode`', () => {
  test('sets the permissions of every file of a new journal, whatever the umask', async () => {
    for (const mode of [0o600, 0o660]) {
      const directory = await temporaryDirectory()
      const path = join(directory, 'journal.jsonl')
      const store = await MiniStore.open(path, { mode })
      await store.append(1)
      await store.rotate()
      await store.close()
      const names = ['', '.001', '.lock', '.seal'].map((ending) => `journal.jsonl${ending}`)
      expect(await accessIn(directory)).toEqual(all(names, mode.toString(8), me))
    }
  })

  test('leaves an existing journal unchanged', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [[1]], { mode: 0o640 })
    const store = await MiniStore.open(path, { mode: 0o600 })
    await store.rotate()
    await store.close()
    const names = ['', '.001', '.lock', '.seal'].map((ending) => `journal.jsonl${ending}`)
    expect(await accessIn(directory)).toEqual(all(names, '640', me))
  })

  test('of a new state and of a new queue is that of their snapshots too', async () => {
    const directory = await temporaryDirectory()
    const manager = await StateManager.open(join(directory, 'state'), { ...state, journal: { mode: 0o600 } })
    await manager.apply(1)
    await manager.compact()
    await manager.close()
    const queue = await MiniQueue.open(join(directory, 'queue'), { journal: { mode: 0o600 } })
    await queue.enqueue(1)
    await queue.compact()
    await queue.close()
    for (const name of ['state', 'queue']) {
      const found = await accessIn(join(directory, name))
      expect(Object.keys(found)).toContain('snapshot-1.json')
      expect(found).toEqual(all(Object.keys(found), '600', me))
    }
  })

  test('of snapshots is that of each new one', async () => {
    const directory = await temporaryDirectory()
    await new SnapStore(directory).create({}, 1)
    await new SnapStore(directory, { mode: 0o600 }).create({}, 2)
    expect(await accessIn(directory)).toMatchObject(all(['snapshot-2.json'], '600', me))
  })
})

test('an invalid mode, or one that denies access to the owner, is refused', async () => {
  const open = (mode: unknown): Promise<unknown> => MiniStore.open('/nowhere/journal.jsonl', { mode: mode as number })
  await expect(open('600')).rejects.toThrow(new TypeError('Expected `mode` to be a number such as 0o600, got `"600"` (string)'))
  // 600 is 0o600 written without its prefix.
  for (const [mode, got] of [[600, '0o1130'], [0o400, '0o400'], [-1, '-1'], [0.5, '0.5'], [0o1777, '0o1777']] as const) {
    const expected = `Expected \`mode\` to be from 0o600 to 0o777, reading and writing by the owner included, got ${got}`
    await expect(open(mode)).rejects.toThrow(new RangeError(expected))
    expect(() => new SnapStore('nowhere', { mode })).toThrow(new RangeError(expected))
  }
})

test('the simulated disk keeps permissions and owners, even across crashes', async () => {
  const files = new SimulatedFileSystem()
  const store = await MiniStore.open('/data/journal.jsonl', { fileSystem: files, mode: 0o640 })
  await store.append(1)
  await store.rotate()
  for (const disk of files.crashStates()) {
    const reopened = await MiniStore.open('/data/journal.jsonl', { fileSystem: disk })
    await reopened.close()
    for (const name of disk.names('/data')) expect((await disk.stat(`/data/${name}`)).mode, name).toBe(0o100640)
  }
  await store.close()
})

test('a file system without permissions works as before', async () => {
  class Forgetful extends SimulatedFileSystem {
    override open(path: string, mode: OpenMode): Promise<File> {
      return super.open(path, mode)
    }

    override async stat(path: string): Promise<FileStat> {
      const { size, isDirectory, device, inode } = await super.stat(path)
      return { size, isDirectory, device, inode }
    }
  }
  const forgetful: FileSystem = new Forgetful()
  const store = await MiniStore.open('/data/journal.jsonl', { fileSystem: forgetful, mode: 0o600 })
  await store.append(1)
  await store.rotate()
  await store.close()
  expect(await MiniStore.replay('/data/journal.jsonl', { fileSystem: forgetful })).toEqual([1])
})
