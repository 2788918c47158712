import * as fs from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as delay } from 'node:timers/promises'

import { isObject, shown } from '../options.ts'
import {
  type File, type FileAccess, type FileStat, type FileSystem, irregularFile, isNotFound, type OpenMode,
  systemErrorCode,
} from './file-system.ts'

/**
 * Writes up to this many bytes go to the page cache on the calling thread: copying them takes less time than
 * the hop through the thread pool and back. Larger ones would hold up the event loop.
 */
const maxInlineWriteBytes = 128 * 1024

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_DIRECTORY } = fs.constants

/**
 * Should a FIFO or a terminal take a file's place after it was looked at, opening it neither waits nor makes it the
 * terminal of this process. On Windows these flags are undefined, which counts as 0 here.
 */
const harmless = fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY

const flags: Record<Exclude<OpenMode, 'create'>, number> = {
  read: O_RDONLY | harmless,
  write: O_RDWR | harmless,
  ensure: O_RDWR | O_NOFOLLOW | harmless,
  directory: O_RDONLY | O_DIRECTORY,
}

/**
 * The file system of this machine through `node:fs`.
 *
 * What `sync` means is the platform's affair: on Linux `fsync`/`fdatasync`; on macOS libuv issues
 * `F_FULLFSYNC`, which also empties the drive's cache; on Windows `FlushFileBuffers`. Windows has no
 * way to sync a directory: there `syncDirectory` does nothing and NTFS's own journal orders the names.
 *
 * Descriptors are used with the callback API: a `FileHandle` of `node:fs/promises` costs more per call, and
 * closes itself when it is garbage collected.
 */
export const nodeFileSystem: FileSystem = {
  open,
  list: (directory) => call((done) => fs.readdir(directory, done)),
  stat,
  realPath: (path) => call((done) => fs.realpath.native(path, done)),
  rename: async (from, to) => {
    assertRegular(from)
    assertRegular(to)
    await persistently(() => call<void>((done) => fs.rename(from, to, done)))
  },
  unlink: async (path) => {
    assertRegular(path)
    await persistently(() => call<void>((done) => fs.unlink(path, done)))
  },
  makeDirectory: (path) => call((done) => fs.mkdir(path, done)),
  syncDirectory: async (path) => {
    if (process.platform === 'win32') return
    const directory = await nodeFileSystem.open(path, 'directory')
    try {
      await directory.sync()
    } finally {
      await directory.close()
    }
  },
  lock: async (file) => {
    if (!(file instanceof NodeFile)) throw new TypeError('Expected a file opened by nodeFileSystem')
    return loadKernelLock().tryLock(file.descriptor, lockedOffset, 1)
  },
  watch,
}

class NodeFile implements File {
  readonly descriptor: number

  constructor(descriptor: number) {
    this.descriptor = descriptor
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return call((done) => fs.read(this.descriptor, buffer, 0, buffer.length, position, done))
  }

  write(bytes: Uint8Array, position: number): number | Promise<number> {
    if (bytes.length <= maxInlineWriteBytes) return this.#writeInline(bytes, position)
    return call((done) => fs.write(this.descriptor, bytes, 0, bytes.length, position, done))
  }

  #writeInline(bytes: Uint8Array, position: number): number | Promise<number> {
    try {
      return fs.writeSync(this.descriptor, bytes, 0, bytes.length, position)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  truncate(length: number): Promise<void> {
    return call((done) => fs.ftruncate(this.descriptor, length, done))
  }

  sync(): Promise<void> {
    return call((done) => fs.fsync(this.descriptor, done))
  }

  dataSync(): Promise<void> {
    return call((done) => fs.fdatasync(this.descriptor, done))
  }

  stat(): Promise<FileStat> {
    return call<fs.BigIntStats>((done) => fs.fstat(this.descriptor, { bigint: true }, done)).then(toFileStat)
  }

  close(): Promise<void> {
    return call((done) => fs.close(this.descriptor, done))
  }
}

async function open(path: string, mode: OpenMode, access?: FileAccess): Promise<File> {
  if (mode === 'directory') return new NodeDirectory(await openDescriptor(path, flags[mode]))
  if (mode === 'create') return create(path, access)
  assertRegular(path, { isLinkRefused: mode === 'ensure' })
  try {
    return await openRegular(path, flags[mode])
  } catch (error) {
    if (mode !== 'ensure' || !isNotFound(error)) throw error
  }
  try {
    return await create(path, access)
  } catch (error) {
    // Another process made it at the same moment.
    if (systemErrorCode(error) === 'EEXIST') return open(path, mode, access)
    throw error
  }
}

async function openRegular(path: string, flag: number): Promise<File> {
  const descriptor = await openDescriptor(path, flag)
  const file = new NodeFile(descriptor)
  try {
    // On this thread: what was just opened is in the kernel's cache.
    const irregular = irregularFile(path, typeOf(fs.fstatSync(descriptor)))
    if (irregular !== undefined) throw irregular
    return file
  } catch (error) {
    await file.close().catch(() => {})
    throw error
  }
}

function openDescriptor(path: string, flag: number, permissions = 0o666): Promise<number> {
  return call((done) => fs.open(path, flag, permissions, done))
}

/** O_EXCL refuses whatever is there, symbolic links too. */
async function create(path: string, access: FileAccess = {}): Promise<File> {
  const { mode } = access
  // Windows has other rights, which a new file takes from its directory.
  const isGiven = mode !== undefined && process.platform !== 'win32'
  const descriptor = await openDescriptor(path, O_RDWR | O_CREAT | O_EXCL, isGiven ? mode & 0o600 : 0o666)
  const file = new NodeFile(descriptor)
  if (!isGiven) return file
  try {
    await giveAccess(descriptor, { ...access, mode: mode & 0o777 })
    return file
  } catch (error) {
    await file.close().catch(() => {})
    await call((done) => fs.unlink(path, done)).catch(() => {})
    throw error
  }
}

/** The owner first: the permissions are meant for the final one, and the group's for no other group. */
async function giveAccess(descriptor: number, access: FileAccess & { readonly mode: number }): Promise<void> {
  const made = fs.fstatSync(descriptor)
  const { mode, uid = made.uid, gid = made.gid } = access
  let isGroupSame = made.gid === gid
  if (made.uid !== uid || !isGroupSame) {
    isGroupSame = (await isPermitted((done) => fs.fchown(descriptor, uid, gid, done))) || isGroupSame
    // Whoever may not give a file away may still give it to a group of its own.
    isGroupSame ||= await isPermitted((done) => fs.fchown(descriptor, made.uid, gid, done))
  }
  const permissions = isGroupSame ? mode : mode & 0o707
  if ((made.mode & 0o777) !== permissions) await isPermitted((done) => fs.fchmod(descriptor, permissions, done))
}

/**
 * Makes a change of owner or permissions; false where the user or the file system may not have it (also: a user that
 * this container does not know). The file then stays narrower than asked.
 */
async function isPermitted(change: (done: (error: Error | null) => void) => void): Promise<boolean> {
  try {
    await call<void>(change)
    return true
  } catch (error) {
    if (['EPERM', 'EACCES', 'EINVAL', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'].includes(systemErrorCode(error) ?? '')) return false
    throw error
  }
}

const longestRetryMs = 2000

/**
 * Repeats a change of names that Windows refuses while a virus scanner or an indexer has the file open, with growing
 * pauses, as graceful-fs does; mostly it works within some milliseconds. A refused change has changed nothing. The last
 * error counts. Elsewhere these errors stay as they are, so nothing is repeated.
 *
 * @param machine replaces platform and clock in tests.
 */
export async function persistently<T>(
  change: () => Promise<T>,
  machine: { readonly platform: string; readonly sleep: (ms: number) => Promise<unknown> } = {
    platform: process.platform,
    sleep: delay,
  },
): Promise<T> {
  for (let pauseMs = 10, waitedMs = 0; ; waitedMs += pauseMs, pauseMs = Math.min(2 * pauseMs, 200)) {
    try {
      return await change()
    } catch (error) {
      const isOfTheMoment = ['EPERM', 'EACCES', 'EBUSY'].includes(systemErrorCode(error) ?? '')
      if (machine.platform !== 'win32' || !isOfTheMoment || waitedMs >= longestRetryMs) throw error
      await machine.sleep(pauseMs)
    }
  }
}

function stat(path: string): Promise<FileStat> {
  return call<fs.BigIntStats>((done) => fs.stat(path, { bigint: true }, done)).then(toFileStat)
}

/** @throws {MiniStoreError} if there is something at the path that is neither a regular file nor a link to one. */
function assertRegular(path: string, { isLinkRefused = false } = {}): void {
  // On this thread: a look at a name takes less time than the hop through the thread pool.
  const look = { throwIfNoEntry: false } as const
  let found: fs.Stats | undefined
  try {
    found = fs.lstatSync(path, look)
    if (found?.isSymbolicLink() === true && !isLinkRefused) found = fs.statSync(path, look)
  } catch {
    // The call that follows fails as well, and says why.
    return
  }
  const irregular = found === undefined ? undefined : irregularFile(path, typeOf(found))
  if (irregular !== undefined) throw irregular
}

function typeOf(stats: fs.Stats): Pick<FileStat, 'mode' | 'isDirectory'> {
  return { mode: stats.mode, isDirectory: stats.isDirectory() }
}

/** A directory held open: to sync its names, and to tell it from another one at its path. */
class NodeDirectory extends NodeFile {
  override sync(): Promise<void> {
    return process.platform === 'win32' ? Promise.resolve() : super.sync()
  }
}

function watch(directory: string, onChange: () => void): () => void {
  try {
    const watcher = fs.watch(directory, { persistent: false }, () => onChange())
    // A watch is a hint: when it breaks (directory gone, too many watches) its user polls on.
    watcher.on('error', () => watcher.close())
    return () => watcher.close()
  } catch {
    // Likewise when there are no watches to be had at all.
    return () => {}
  }
}

interface KernelLock {
  tryLock(descriptor: number, offset: number, length: number): boolean
}

/**
 * The byte that is locked. On Windows a lock keeps others from reading what it covers, so it lies far beyond the data of
 * any segment. Releases up to 0.3 lock the whole file, which covers this byte too.
 */
const lockedOffset = 2 ** 52

let kernelLock: KernelLock | undefined

/**
 * Loaded only when a writer asks for it, so that readers and `lock: false` work on platforms for which
 * `fs-native-extensions` ships no binary.
 */
function loadKernelLock(): KernelLock {
  kernelLock ??= createRequire(import.meta.url)('fs-native-extensions') as KernelLock
  return kernelLock
}

/** As numbers, the identities of two files may be rounded to one. */
function toFileStat(stats: fs.BigIntStats): FileStat {
  return {
    size: Number(stats.size),
    isDirectory: stats.isDirectory(),
    mode: Number(stats.mode),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    device: deviceOf(stats.dev),
    inode: stats.ino,
    changedMs: Number(stats.ctimeNs) / 1e6,
  }
}

/**
 * The number of a device, the same for a path and for an open file. On Windows it is a volume's serial number, of which
 * some versions of Node give 64 bits for a path and 32 for an open file (https://github.com/libuv/libuv/pull/4698), and
 * older ones a sign for one of the two.
 */
export function deviceOf(number: bigint, platform: string = process.platform): bigint {
  return platform === 'win32' ? BigInt.asUintN(32, number) : number
}

/** A callback-style system call as a promise. Interrupted calls (`EINTR`) are libuv's to repeat. */
function call<T>(start: (done: (error: Error | null, value?: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error) reject(error)
      else resolve(value as T)
    })
  })
}

/** Where files live; for tests, see `@mini-ts/ministore/testing`. */
export interface FileSystemOption {
  /** @default the file system of this machine */
  readonly fileSystem?: FileSystem | undefined
}

/** @throws {TypeError} unless it is a file system or undefined. */
export function fileSystemOption(value: unknown): FileSystem {
  if (value === undefined) return nodeFileSystem
  if (!isObject(value) || typeof Reflect.get(value, 'syncDirectory') !== 'function') {
    throw new TypeError(`Expected \`fileSystem\` to be a FileSystem, got ${shown(value)}`)
  }
  return value as FileSystem
}
