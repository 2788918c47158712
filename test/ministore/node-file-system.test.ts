import { execFileSync } from 'node:child_process'
import type * as NodeFs from 'node:fs'
import { type FSWatcher, rmSync, writeFileSync } from 'node:fs'
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'

import { deviceOf, persistently } from '../../src/fs/node.ts'
import { type FileAccess, MiniStore, nodeFileSystem } from '../../src/index.ts'
import { descriptorsIn } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** Hooks into the Node calls of the port, so that tests can watch, fail or precede them. */
const hooks: {
  beforeOpen: (() => void) | undefined
  /** The error code with which each of these calls fails. */
  fails: Map<string, string>
  /** Each permission or owner change, with the permissions of the file before it. */
  changes: string[]
  /** The renames and removals. */
  calls: string[]
  /** How long each call of `statSync` takes longer, and how many calls of `stat` there were. */
  waitMs: number
  pooled: number
  watcher: FSWatcher | undefined
} = vi.hoisted(() => ({
  beforeOpen: undefined, fails: new Map(), changes: [], calls: [], waitMs: 0, pooled: 0, watcher: undefined,
}))

vi.mock('node:fs', async (load) => {
  const actual = await load<typeof NodeFs>()
  const octal = (descriptor: number): string => (actual.fstatSync(descriptor).mode & 0o777).toString(8)
  const failing = (call: string, done: (error: Error) => void): boolean => {
    const code = hooks.fails.get(call)
    if (code !== undefined) setImmediate(done, Object.assign(new Error(code), { code }))
    return code !== undefined
  }
  const beforeOpen = (): void => {
    const before = hooks.beforeOpen
    hooks.beforeOpen = undefined
    before?.()
  }
  return {
    ...actual,
    open: (...words: Parameters<typeof actual.open>): void => {
      beforeOpen()
      actual.open(...words)
    },
    openSync: (...words: Parameters<typeof actual.openSync>): number => {
      beforeOpen()
      return actual.openSync(...words)
    },
    stat: (...words: Parameters<typeof actual.stat>): void => {
      hooks.pooled++
      actual.stat(...words)
    },
    statSync: (...words: Parameters<typeof actual.statSync>): unknown => {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, hooks.waitMs)
      return actual.statSync(...words)
    },
    fchown: (...words: Parameters<typeof actual.fchown>): void => {
      hooks.changes.push(`${octal(words[0])} chown ${words[1]}:${words[2]}`)
      if (!failing('fchown', words[3])) actual.fchown(...words)
    },
    fchmod: (...words: Parameters<typeof actual.fchmod>): void => {
      hooks.changes.push(`${octal(words[0])} chmod ${Number(words[1]).toString(8)}`)
      if (!failing('fchmod', words[2])) actual.fchmod(...words)
    },
    rename: (...words: Parameters<typeof actual.rename>): void => {
      hooks.calls.push('rename')
      if (!failing('rename', words[2])) actual.rename(...words)
    },
    unlink: (...words: Parameters<typeof actual.unlink>): void => {
      hooks.calls.push('unlink')
      if (!failing('unlink', words[1])) actual.unlink(...words)
    },
    watch: (...words: Parameters<typeof actual.watch>): FSWatcher => (hooks.watcher = actual.watch(...words)),
  }
})

beforeEach(() => {
  hooks.fails.clear()
  hooks.changes = []
  hooks.calls = []
  hooks.waitMs = 0
  hooks.pooled = 0
})

test('a look at metadata runs on this thread; after one that had to wait, the next hundred do not', async () => {
  const path = join(await temporaryDirectory(), 'file')
  await writeFile(path, 'text')
  /** Whether a look went through the thread pool. */
  const isPooled = async (): Promise<boolean> => {
    hooks.pooled = 0
    expect(await nodeFileSystem.stat(path)).toMatchObject({ size: 4 })
    return hooks.pooled > 0
  }
  hooks.waitMs = 2
  // A busy machine holds up calls too, so these looks need not begin on this thread.
  while (await isPooled());
  hooks.waitMs = 0
  for (let look = 1; look <= 100; look++) expect(await isPooled(), String(look)).toBe(true)
  expect(await isPooled()).toBe(false)
  await expect(nodeFileSystem.stat(`${path}2`)).rejects.toMatchObject({ code: 'ENOENT', syscall: 'stat' })
})

test('create refuses every existing name, including a dangling link, and leaves it unchanged', async () => {
  const directory = await temporaryDirectory()
  const [file, link] = [join(directory, 'file'), join(directory, 'link')]
  await writeFile(file, 'kept')
  await symlink(join(directory, 'nowhere'), link)
  await mkdir(join(directory, 'directory'))
  for (const path of [file, link, join(directory, 'directory')]) {
    await expect(nodeFileSystem.open(path, 'create'), path).rejects.toMatchObject({ code: 'EEXIST' })
  }
  expect(await readFile(file, 'utf8')).toBe('kept')
  await expect(readFile(join(directory, 'nowhere'))).rejects.toMatchObject({ code: 'ENOENT' })
})

test.skipIf(process.platform === 'win32')(
  'a FIFO that replaces a file between the check and the open is refused without waiting',
  async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'file')
    for (const mode of ['read', 'write', 'ensure'] as const) {
      await writeFile(path, '')
      hooks.beforeOpen = () => {
        rmSync(path)
        execFileSync('mkfifo', [path])
      }
      await expect(nodeFileSystem.open(path, mode), mode).rejects.toMatchObject({
        code: 'ERR_MINISTORE_IO',
        message: `${path} is a FIFO, expected a regular file`,
      })
      rmSync(path)
    }
    expect(descriptorsIn(directory)).toBe(0)
  },
)

describe.skipIf(process.platform === 'win32')('a file created with the permissions and the owner of another', () => {
  const me = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
  const other = { uid: me.uid, gid: me.gid + 1 }

  /** Creates a file and resolves with its permissions. */
  async function made(access: FileAccess): Promise<string> {
    const path = join(await temporaryDirectory(), 'file')
    const file = await nodeFileSystem.open(path, 'create', access)
    const { mode = 0 } = await file.stat()
    await file.close()
    return (mode & 0o777).toString(8)
  }

  test('is private to its creator until it has the owner, and never more open than its final mode', async () => {
    await made({ mode: 0o100644, ...me })
    expect(hooks.changes).toEqual(['600 chmod 644'])
    hooks.changes = []
    expect(await made({ mode: 0o400, ...me })).toBe('400')
    expect(hooks.changes).toEqual([])
  })

  test.skipIf(me.uid !== 0)('gets the owner first, then the permissions', async () => {
    expect(await made({ mode: 0o664, ...other })).toBe('664')
    expect(hooks.changes).toEqual([`600 chown ${other.uid}:${other.gid}`, '600 chmod 664'])
  })

  test('gives no group access when the group may not be set', async () => {
    hooks.fails.set('fchown', 'EPERM')
    expect(await made({ mode: 0o664, uid: me.uid + 1, gid: other.gid })).toBe('604')
    // A change of the group alone was tried too.
    expect(hooks.changes).toEqual([`600 chown ${me.uid + 1}:${other.gid}`, `600 chown ${me.uid}:${other.gid}`, '600 chmod 604'])
  })

  test('keeps the rights of its group when only the owner may not be set', async () => {
    hooks.fails.set('fchown', 'EPERM')
    expect(await made({ mode: 0o664, uid: me.uid + 1, gid: me.gid })).toBe('664')
  })

  test('stays private to its creator on a file system without permissions', async () => {
    hooks.fails.set('fchmod', 'EPERM')
    expect(await made({ mode: 0o644, ...me })).toBe('600')
  })

  test('is removed when an error leaves it incomplete', async () => {
    const directory = await temporaryDirectory()
    hooks.fails.set('fchmod', 'EIO')
    const making = nodeFileSystem.open(join(directory, 'file'), 'create', { mode: 0o644 })
    await expect(making).rejects.toMatchObject({ code: 'EIO' })
    expect(await readdir(directory)).toEqual([])
    expect(descriptorsIn(directory)).toBe(0)
  })
})

test('ensure opens a file that another process creates at the same moment', async () => {
  const path = join(await temporaryDirectory(), 'file')
  // The first open finds no file; the exclusive creation then finds one.
  hooks.beforeOpen = () => {
    hooks.beforeOpen = () => writeFileSync(path, 'theirs')
  }
  const file = await nodeFileSystem.open(path, 'ensure', { mode: 0o600 })
  expect((await file.stat()).size).toBe(6)
  await file.close()
})

test('an error of a directory watch ends only the watch: a follower still polls', async () => {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  await using store = await MiniStore.open<number>(path)
  await store.append(1)
  // A separate file-system object, as in another process.
  const reader = MiniStore.stream<number>(path, { follow: true, fileSystem: { ...nodeFileSystem }, pollIntervalMs: 5 }).getReader()
  expect((await reader.read()).value).toBe(1)
  const next = reader.read()
  await vi.waitFor(() => expect(hooks.watcher).toBeDefined())
  // An emitter without an error listener throws the emitted error.
  hooks.watcher?.emit('error', Object.assign(new Error('EPERM: operation not permitted, watch'), { code: 'EPERM' }))
  await store.append(2)
  expect((await next).value).toBe(2)
  await reader.cancel()
})

test('a device has the same number on Windows by path and by open file', () => {
  const ofPath = 0x1234_5678_9abc_def0n
  const ofOpenFile = 0x9abc_def0n
  expect(deviceOf(ofPath, 'win32')).toBe(deviceOf(ofOpenFile, 'win32'))
  expect(deviceOf(ofOpenFile - 2n ** 32n, 'win32'), 'with a sign').toBe(ofOpenFile)
  expect(deviceOf(ofPath, 'linux')).toBe(ofPath)
})

describe('a rename or removal that the system refuses temporarily', () => {
  /** Runs a change that is refused this many times; pauses are recorded instead of waited for. */
  async function outcome(refusals: number, code: string, platform: string) {
    const pauses: number[] = []
    let tries = 0
    const change = (): Promise<string> => {
      tries += 1
      return tries > refusals ? Promise.resolve('done') : Promise.reject(Object.assign(new Error(code), { code }))
    }
    const sleep = (ms: number): Promise<void> => {
      pauses.push(ms)
      return Promise.resolve()
    }
    const result = await persistently(change, { platform, sleep }).catch((error: unknown) => (error as { code: string }).code)
    return { result, tries, pauses, waitedMs: pauses.reduce((sum, pause) => sum + pause, 0) }
  }

  test.each(['EPERM', 'EACCES', 'EBUSY'])('is retried on Windows after %s, with growing pauses', async (code) => {
    expect(await outcome(3, code, 'win32')).toMatchObject({ result: 'done', tries: 4, pauses: [10, 20, 40] })
  })

  test('fails after about two seconds, with its error', async () => {
    const { result, tries, waitedMs } = await outcome(Number.POSITIVE_INFINITY, 'EPERM', 'win32')
    expect(result).toBe('EPERM')
    expect(waitedMs).toBeGreaterThanOrEqual(2000)
    expect(waitedMs).toBeLessThan(2500)
    expect(tries).toBeLessThan(20)
  })

  test('is not retried for another error, nor on another platform', async () => {
    expect(await outcome(1, 'ENOENT', 'win32')).toMatchObject({ result: 'ENOENT', tries: 1, pauses: [] })
    expect(await outcome(1, 'EPERM', 'linux')).toMatchObject({ result: 'EPERM', tries: 1, pauses: [] })
  })

  test.each(['rename', 'unlink'] as const)('can be every %s of the port', async (name) => {
    const path = join(await temporaryDirectory(), 'file')
    await writeFile(path, '')
    const platform = vi.spyOn(process, 'platform', 'get').mockReturnValue('win32')
    onTestFinished(() => platform.mockRestore())
    hooks.fails.set(name, 'EBUSY')
    const changing = name === 'rename' ? nodeFileSystem.rename(path, `${path}2`) : nodeFileSystem.unlink(path)
    await vi.waitFor(() => expect(hooks.calls.length).toBeGreaterThan(1))
    hooks.fails.clear()
    await changing
    await expect(nodeFileSystem.stat(path)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})
