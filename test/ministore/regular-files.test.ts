import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { appendFile, lstat, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'

import { describe, expect, onTestFinished, test, type TestContext } from 'vitest'

import { MiniStore, nodeFileSystem } from '../../src/index.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { MiniQueue } from '../../src/miniqueue/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { inspectJournal } from '../../src/maintenance/inspect.ts'
import { repairJournal } from '../../src/maintenance/repair.ts'
import { editFile, writeJournal } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** Creates something other than a regular file; false if the system does not allow it. */
type Plant = (path: string) => Promise<boolean>

const kinds: ReadonlyArray<{ readonly kind: string; readonly plant: Plant }> = [
  { kind: 'a directory', plant: (path) => mkdir(path).then(() => true) },
  { kind: 'a FIFO', plant: (path) => made('mkfifo', [path]) },
  { kind: 'a character device', plant: (path) => made('mknod', [path, 'c', '1', '3']) },
  {
    kind: 'a socket',
    plant: async (path) => {
      if (process.platform === 'win32') return false
      const server = createServer().listen(path)
      onTestFinished(() => void server.close())
      await once(server, 'listening')
      return true
    },
  },
]

function made(command: string, words: readonly string[]): Promise<boolean> {
  try {
    execFileSync(command, words, { stdio: 'ignore' })
    return Promise.resolve(true)
  } catch {
    return Promise.resolve(false)
  }
}

/** Skips the test, with a message, if this kind of file cannot be created here. */
function skipUnless(isMade: boolean, context: TestContext, kind: string): void {
  if (!isMade) context.skip(`${kind} cannot be made here`)
}

/** One way to use the files in a directory where something replaces one of the regular files. */
interface Case {
  readonly what: string
  readonly name: string
  /** Whether a live writer first notices that its own file is missing. */
  readonly isMoved?: boolean
  /** Prepares the directory so that only the planted name is missing. */
  readonly prepare?: (path: string) => Promise<unknown>
  /** Uses the files. The name is already planted, unless the case plants it itself. */
  readonly use: (path: string, plant: () => Promise<void>) => Promise<unknown>
}

const open = async (path: string): Promise<void> => (await MiniStore.open(path)).close()
const follow = async (path: string): Promise<unknown> => MiniStore.stream(path, { follow: true }).getReader().read()
const twoSegments = (path: string): Promise<void> => writeJournal(path, [[1, 2], [3]])
const noJournal = async (path: string): Promise<void> => rm(path, { force: true })
const noActiveSegment = async (path: string): Promise<void> => {
  await twoSegments(path)
  await rename(path, `${path}.002`)
  await rm(`${path}.seal`)
}
const tornTail = async (path: string): Promise<void> => {
  await writeJournal(path, [[1, 2]])
  await appendFile(path, 'torn')
}
const damage = async (path: string): Promise<void> => {
  await writeJournal(path, [[1, 2]])
  await rm(`${path}.seal`)
  await editFile(path, (content) => Buffer.from(content.toString().replace('\n2\n', '\n}\n')))
}
const repair = (path: string): Promise<unknown> =>
  repairJournal(nodeFileSystem, path, { truncateAt: 2 })

/** Opens the journal, plants the name, and continues with the open store. */
const live =
  (act: (store: MiniStore) => Promise<unknown>): Case['use'] =>
  async (path, plant) => {
    const store = await MiniStore.open(path)
    try {
      await store.append(4)
      await plant()
      await act(store)
    } finally {
      await store.close().catch(() => {})
    }
  }

const state = { initialState: () => ({ n: 0 }), mutator: (held: { n: number }, by: number) => void (held.n += by) }
const openState = async (path: string): Promise<void> => (await StateManager.open(join(path, '..'), state)).close()
const writeState = async (path: string): Promise<void> => {
  const manager = await StateManager.open(join(path, '..'), state)
  await manager.apply(1)
  await manager.close()
}
const compactState = async (path: string): Promise<void> => {
  const manager = await StateManager.open(join(path, '..'), state)
  try {
    await manager.compact()
  } finally {
    await manager.close()
  }
}
const snaps = (path: string): SnapStore => new SnapStore(join(path, '..'))
const oneSnapshot = (path: string): Promise<unknown> => snaps(path).create({}, 1)

const cases: readonly Case[] = [
  { what: 'open', name: '', use: open },
  { what: 'replay', name: '', use: (path) => MiniStore.replay(path) },
  { what: 'a follower', name: '', use: follow },
  { what: 'inspect', name: '', use: (path) => inspectJournal(nodeFileSystem, path, { isQuick: true }) },
  { what: 'repair', name: '', use: repair },
  { what: 'open', name: '.001', prepare: twoSegments, use: open },
  { what: 'replay', name: '.001', prepare: twoSegments, use: (path) => MiniStore.replay(path) },
  { what: 'a follower', name: '.001', prepare: twoSegments, use: follow },
  { what: 'repair', name: '.001', prepare: twoSegments, use: repair },
  { what: 'open', name: '.seal', prepare: twoSegments, use: open },
  { what: 'replay', name: '.seal', prepare: twoSegments, use: (path) => MiniStore.replay(path) },
  { what: 'a follower', name: '.seal', prepare: twoSegments, use: follow },
  { what: 'inspect', name: '.seal', prepare: twoSegments, use: (path) => inspectJournal(nodeFileSystem, path, { isQuick: true }) },
  { what: 'open', name: '.lock', prepare: twoSegments, use: open },
  { what: 'repair', name: '.lock', prepare: twoSegments, use: repair },
  { what: 'open', name: '.next', prepare: twoSegments, use: open },
  { what: 'open', name: '.seal.tmp', prepare: twoSegments, use: open },
  { what: 'open', name: '.repair.tmp', prepare: twoSegments, use: open },
  { what: 'open', name: '.torn-3', prepare: tornTail, use: open },
  { what: 'open', name: '.torn-3.tmp', prepare: tornTail, use: open },
  { what: 'repair', name: '.broken', prepare: damage, use: repair },
  { what: 'repair', name: '.repair.tmp', prepare: damage, use: repair },
  { what: 'repair', name: '.broken.tmp', prepare: damage, use: repair },
  { what: 'rotate', name: '.002', prepare: twoSegments, use: live((store) => store.rotate()) },
  { what: 'rotate', name: '.next', prepare: twoSegments, use: live((store) => store.rotate()) },
  { what: 'rotate', name: '.seal', prepare: twoSegments, use: live((store) => store.rotate()) },
  { what: 'rotate', name: '', isMoved: true, prepare: twoSegments, use: live((store) => store.rotate()) },
  { what: 'truncateBefore', name: '.001', prepare: twoSegments, use: live((store) => store.truncateBefore(3)) },
  { what: 'close', name: '.seal', prepare: twoSegments, use: live((store) => store.close()) },
  { what: 'close', name: '.seal.tmp', prepare: twoSegments, use: live((store) => store.close()) },
  { what: 'restore', name: '/snapshot-1.json', use: (path) => snaps(path).restore() },
  { what: 'verify', name: '/snapshot-1.json', use: (path) => snaps(path).verify(1) },
  { what: 'create', name: '/snapshot-1.json', use: (path) => snaps(path).create({}, 1) },
  { what: 'create', name: '/snapshot-2.json.tmp', prepare: oneSnapshot, use: (path) => snaps(path).create({}, 2) },
  { what: 'sweep', name: '/snapshot-2.json.tmp', prepare: oneSnapshot, use: (path) => snaps(path).sweep() },
  {
    what: 'create, removing older ones,',
    name: '/snapshot-1.json',
    use: (path) => new SnapStore(join(path, '..'), { keep: 1 }).create({}, 2),
  },
  { what: 'a state', name: '', use: openState },
  { what: 'a state', name: '/snapshot-1.json', prepare: writeState, use: openState },
  { what: 'compact of a state', name: '/snapshot-1.json.tmp', prepare: writeState, use: compactState },
  { what: 'a queue', name: '', use: async (path) => (await MiniQueue.open(join(path, '..'))).close() },
  { what: 'a queue', name: '.seal', prepare: twoSegments, use: async (path) => (await MiniQueue.open(join(path, '..'))).close() },
]

describe.each(kinds)('$kind', ({ kind, plant }) => {
  describe.each([
    { way: 'itself', isLinked: false },
    { way: 'behind a symbolic link', isLinked: true },
  ])('$way', ({ isLinked }) => {
    test.for(cases)('in place of journal.jsonl$name is refused by $what and left unchanged', async (one, context) => {
      const directory = await temporaryDirectory()
      const path = join(directory, 'journal.jsonl')
      const place = one.name.startsWith('/') ? join(directory, one.name) : path + one.name
      const target = isLinked ? join(directory, 'elsewhere') : place
      await one.prepare?.(path)
      let identity: { ino: number; mode: number } | undefined
      const putThere = async (): Promise<void> => {
        await rename(place, join(directory, 'aside')).catch(() => {})
        skipUnless(await plant(target), context, kind)
        if (isLinked) await symlink(target, place)
        identity = await lstat(place)
      }
      // A case with a live store plants the name itself, once the store is open.
      const plantsItself = one.use.length === 2
      if (!plantsItself) await putThere()
      // A link in place of the lock file is refused because it is a link.
      const found = isLinked && one.name === '.lock' ? 'a symbolic link' : kind
      const real = isLinked && one.name === '' && !plantsItself ? target : place
      await expect(one.use(path, putThere)).rejects.toMatchObject({
        name: 'MiniStoreError',
        code: one.isMoved === true ? 'ERR_MINISTORE_MOVED' : 'ERR_MINISTORE_IO',
        message: expect.stringContaining(
          `${real} ${one.isMoved === true ? 'was removed, moved or replaced' : `is ${found}, expected a regular file`}`,
        ) as string,
      })
      const { ino, mode } = await lstat(place)
      expect({ ino, mode }).toEqual({ ino: identity?.ino, mode: identity?.mode })
      expect((await lstat(target)).isFile()).toBe(false)
    })
  })
})

test('a refused open leaves no new files, not even a lock file', async (context) => {
  const directory = await temporaryDirectory()
  await mkdir(join(directory, 'dev'))
  const device = join(directory, 'dev/null')
  // Never the real device: an error here could replace it.
  skipUnless(await made('mknod', [device, 'c', '1', '3']), context, 'a character device')
  await symlink('dev/null', join(directory, 'link'))
  for (const path of [device, join(directory, 'link')]) {
    await expect(MiniStore.open(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
  }
  expect(await readdir(directory)).toEqual(['dev', 'link'])
  expect(await readdir(join(directory, 'dev'))).toEqual(['null'])
  expect((await lstat(device)).isCharacterDevice()).toBe(true)
})

test('a waiting follower ends with an error when a FIFO replaces the journal', async (context) => {
  if ('deno' in process.versions) {
    const reason = 'the watch of a directory on Deno opens each new file, so a FIFO blocks the process'
    console.log(`skipped: ${reason}`)
    context.skip(reason)
  }
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  await writeJournal(path, [[1]])
  const reader = MiniStore.stream(path, { follow: true, pollIntervalMs: 5 }).getReader()
  expect((await reader.read()).value).toBe(1)
  const next = reader.read()
  await rename(path, `${path}.old`)
  skipUnless(await made('mkfifo', [path]), context, 'a FIFO')
  await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', message: expect.stringContaining('is a FIFO') as string })
})

test('a link to a regular file is read as usual', async () => {
  const directory = await temporaryDirectory()
  const path = join(directory, 'journal.jsonl')
  await twoSegments(path)
  await rename(`${path}.001`, join(directory, 'archived'))
  await symlink('archived', `${path}.001`)
  expect(await MiniStore.replay(path)).toEqual([1, 2, 3])
})

describe('a symbolic link in place of a file to be created', () => {
  const places = [
    { name: '.lock', refused: ['victim', 'nowhere'], use: open },
    { name: '.next', use: live((store) => store.rotate()) },
    { name: '.next', refused: ['victim', 'nowhere'], prepare: noJournal, use: open },
    { name: '.next', refused: ['victim', 'nowhere'], prepare: noActiveSegment, use: open },
    { name: '.002', use: live((store) => store.rotate()) },
    { name: '.seal', use: live((store) => store.close()) },
    { name: '.seal.tmp', use: live((store) => store.close()) },
    { name: '.torn-3', prepare: tornTail, use: open },
    { name: '.torn-3.tmp', prepare: tornTail, use: open },
    { name: '.broken', prepare: damage, use: repair },
    { name: '.repair.tmp', prepare: damage, use: repair },
    { name: '.broken.tmp', prepare: damage, use: repair },
    { name: '/snapshot-1.json', use: oneSnapshot },
    { name: '/snapshot-1.json.tmp', use: oneSnapshot },
  ]

  test.each(places)('at $name is never written through, and no file is created at its target', async (one) => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    const place = one.name.startsWith('/') ? join(directory, one.name) : path + one.name
    for (const target of ['victim', 'nowhere']) {
      await (one.prepare ?? twoSegments)(path)
      await writeFile(join(directory, 'victim'), 'precious')
      let identity: number | undefined
      const plant = async (): Promise<void> => {
        await rm(place, { force: true })
        await symlink(target, place)
        identity = (await lstat(place)).ino
      }
      if (one.use.length === 1) await plant()
      const using = one.use(path, plant)
      const isRefused = one.refused?.includes(target) === true
      if (isRefused) await expect(using, target).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
      else await using
      expect(await readFile(join(directory, 'victim'), 'utf8')).toBe('precious')
      expect(await readdir(directory)).not.toContain('nowhere')
      if (isRefused) expect((await lstat(place)).ino).toBe(identity)
      for (const name of await readdir(directory)) await rm(join(directory, name))
    }
  })
})
