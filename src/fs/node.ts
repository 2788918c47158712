import * as fs from 'node:fs'
import { performance } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'

import { hasCode } from '../errors.ts'
import { isObject, shown } from '../options.ts'
import {
  type File, type FileAccess, type FileStat, type FileSystem, irregularFile, type OpenMode,
} from './file-system.ts'
import { loadKernelLock } from './kernel-lock.ts'

/**
 * Largest write, in bytes, that runs on the calling thread (128 KiB). Copying so few bytes into the
 * page cache takes less time than a hop through the thread pool and back. Larger writes would block
 * the event loop. A sync waits for the disk, so it never runs on the calling thread.
 */
const maxInlineWriteBytes = 128 * 1024

/** Largest read, in bytes, that is {@link quick}: a header, a seal or a few new lines. */
const maxInlineReadBytes = 4 * 1024

/**
 * Largest file, in bytes, whose `close` is {@link quick} (1 MiB). If the file was deleted, closing it
 * frees its bytes, which takes milliseconds for a large file.
 */
const maxInlineCloseBytes = 1024 * 1024

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_DIRECTORY } = fs.constants

/**
 * A FIFO or a terminal may take the place of a file after the check. With these flags, opening it
 * does not block and does not make it the controlling terminal of this process. On Windows both
 * flags are undefined, which counts as 0 here.
 */
const harmless = fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY

const flags: Record<Exclude<OpenMode, 'create'>, number> = {
  read: O_RDONLY | harmless,
  write: O_RDWR | harmless,
  ensure: O_RDWR | O_NOFOLLOW | harmless,
  directory: O_RDONLY | O_DIRECTORY,
}

/**
 * The file system of this machine, through `node:fs`.
 *
 * What a sync does depends on the platform. Linux uses `fsync` for `sync` and `fdatasync` for
 * `dataSync`. On macOS libuv issues `F_FULLFSYNC`, which also flushes the cache of the drive.
 * Windows uses `FlushFileBuffers`. Windows cannot sync a directory: there `syncDirectory` does
 * nothing, and the journal of NTFS orders the changes of names.
 *
 * Descriptors are used with the callback API, because a `FileHandle` of `node:fs/promises` costs
 * more per call and closes itself when it is garbage collected.
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
  removeDirectory: (path) => call((done) => fs.rmdir(path, done)),
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
    const tryLock = await loadKernelLock()
    return tryLock(file.descriptor)
  },
  watch,
}

class NodeFile implements File {
  readonly descriptor: number
  readonly #isQuicklyClosed: boolean

  /** @param isQuicklyClosed Whether the file is small and open only for reading. */
  constructor(descriptor: number, isQuicklyClosed = false) {
    this.descriptor = descriptor
    this.#isQuicklyClosed = isQuicklyClosed
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    const later = (): Promise<number> =>
      call((done) => fs.read(this.descriptor, buffer, 0, buffer.length, position, done))
    if (buffer.length > maxInlineReadBytes) return later()
    return quick(() => fs.readSync(this.descriptor, buffer, 0, buffer.length, position), later)
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
    return quick(
      () => toFileStat(fs.fstatSync(this.descriptor, { bigint: true })),
      () => call<fs.BigIntStats>((done) => fs.fstat(this.descriptor, { bigint: true }, done)).then(toFileStat),
    )
  }

  close(): Promise<void> {
    const later = (): Promise<void> => call((done) => fs.close(this.descriptor, done))
    return this.#isQuicklyClosed ? quick(() => fs.closeSync(this.descriptor), later) : later()
  }
}

async function open(path: string, mode: OpenMode, access?: FileAccess): Promise<File> {
  if (mode === 'directory') return new NodeDirectory(await openDescriptor(path, flags[mode]))
  if (mode === 'create') return create(path, access)
  assertRegular(path, { isLinkRefused: mode === 'ensure' })
  try {
    return await openRegular(path, flags[mode])
  } catch (error) {
    if (mode !== 'ensure' || !hasCode(error, 'ENOENT')) throw error
  }
  try {
    return await create(path, access)
  } catch (error) {
    // Another process created the file at the same moment.
    if (hasCode(error, 'EEXIST')) return open(path, mode, access)
    throw error
  }
}

async function openRegular(path: string, flag: number): Promise<File> {
  const later = (): Promise<number> => openDescriptor(path, flag)
  // Only the mode `read` leaves the file as it is, whatever is found at the path.
  const descriptor = await (flag === flags.read ? quick(() => fs.openSync(path, flag), later) : later())
  try {
    // Runs on this thread: the metadata of a file that was just opened is in the kernel's cache.
    const { mode, size } = fs.fstatSync(descriptor)
    const irregular = irregularFile(path, { mode })
    if (irregular !== undefined) throw irregular
    return new NodeFile(descriptor, flag === flags.read && size <= maxInlineCloseBytes)
  } catch (error) {
    await new NodeFile(descriptor).close().catch(() => {})
    throw error
  }
}

function openDescriptor(path: string, flag: number, permissions = 0o666): Promise<number> {
  return call((done) => fs.open(path, flag, permissions, done))
}

/**
 * Creates a file. `O_EXCL` makes this fail if anything exists at the path, including a symbolic
 * link.
 */
async function create(path: string, access: FileAccess = {}): Promise<File> {
  const { mode } = access
  // Windows uses other access rights, which a new file inherits from its directory.
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

/**
 * Sets the owner before the permissions. The permissions are meant for the final owner, and the
 * group permissions only for the requested group.
 */
async function giveAccess(descriptor: number, access: FileAccess & { readonly mode: number }): Promise<void> {
  const made = fs.fstatSync(descriptor)
  const { mode, uid = made.uid, gid = made.gid } = access
  let isGroupSame = made.gid === gid
  if (made.uid !== uid || !isGroupSame) {
    isGroupSame = (await isPermitted((done) => fs.fchown(descriptor, uid, gid, done))) || isGroupSame
    // A process that may not change the owner may still set the group to one of its own groups.
    isGroupSame ||= await isPermitted((done) => fs.fchown(descriptor, made.uid, gid, done))
  }
  const permissions = isGroupSame ? mode : mode & 0o707
  if ((made.mode & 0o777) !== permissions) await isPermitted((done) => fs.fchmod(descriptor, permissions, done))
}

/**
 * Changes owner or permissions. Resolves with `false` if the user or the file system does not allow
 * the change, or if this container does not know the user. The file then stays more restricted than
 * requested.
 */
async function isPermitted(change: (done: (error: Error | null) => void) => void): Promise<boolean> {
  try {
    await call<void>(change)
    return true
  } catch (error) {
    if (hasCode(error, 'EPERM', 'EACCES', 'EINVAL', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP')) return false
    throw error
  }
}

const longestRetryMs = 2000

/**
 * Repeats a change of names that Windows refuses while a virus scanner or an indexer has the file
 * open. Pauses grow between attempts, as in graceful-fs; most changes succeed within a few
 * milliseconds. A refused attempt changes nothing. After about 2 seconds it rejects with the last
 * error. On other platforms these errors do not go away, so nothing is repeated.
 *
 * @param machine Replaces platform and clock in tests.
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
      const isOfTheMoment = hasCode(error, 'EPERM', 'EACCES', 'EBUSY')
      if (machine.platform !== 'win32' || !isOfTheMoment || waitedMs >= longestRetryMs) throw error
      await machine.sleep(pauseMs)
    }
  }
}

function stat(path: string): Promise<FileStat> {
  return quick(
    () => toFileStat(fs.statSync(path, { bigint: true })),
    () => call<fs.BigIntStats>((done) => fs.stat(path, { bigint: true }, done)).then(toFileStat),
  )
}

/**
 * @throws {MiniStoreError} if something other than a regular file, or a link to one, is at the
 *   path.
 */
function assertRegular(path: string, { isLinkRefused = false } = {}): void {
  // Runs on this thread: looking at a name takes less time than a hop through the thread pool.
  const look = { throwIfNoEntry: false } as const
  let found: fs.Stats | undefined
  try {
    found = fs.lstatSync(path, look)
    if (found?.isSymbolicLink() === true && !isLinkRefused) found = fs.statSync(path, look)
  } catch {
    // The call that follows fails as well and reports the reason.
    return
  }
  const irregular = found && irregularFile(path, { mode: found.mode })
  if (irregular !== undefined) throw irregular
}

/**
 * An open directory. It syncs the names in the directory and distinguishes it from another
 * directory at the same path.
 */
class NodeDirectory extends NodeFile {
  override sync(): Promise<void> {
    return process.platform === 'win32' ? Promise.resolve() : super.sync()
  }
}

function watch(directory: string, onChange: () => void): () => void {
  try {
    const watcher = fs.watch(directory, { persistent: false }, () => onChange())
    // A watch is only a hint. If it breaks (directory gone, too many watches), its user continues
    // to poll.
    watcher.on('error', () => watcher.close())
    return () => watcher.close()
  } catch {
    // The same holds if the system cannot provide a watch at all.
    return () => {}
  }
}

/**
 * Keeps device and inode as bigints. As numbers, the identities of two files could round to the
 * same value.
 */
function toFileStat(stats: fs.BigIntStats): FileStat {
  return {
    size: Number(stats.size),
    isDirectory: stats.isDirectory(),
    mode: Number(stats.mode),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    device: deviceOf(stats.dev),
    inode: stats.ino,
    // On Deno, ctime has whole seconds, and mtime is finer. Their sum changes if either does.
    changedMs: Number(stats.ctimeNs + stats.mtimeNs) / 1e6,
  }
}

/**
 * Returns a device number that is the same for a path and for an open file.
 *
 * On Windows the device is the serial number of the volume. Some versions of Node return 64 bits of
 * it for a path and 32 for an open file (https://github.com/libuv/libuv/pull/4698). Older versions
 * return a negative number for one of the two.
 */
export function deviceOf(number: bigint, platform: string = process.platform): bigint {
  return platform === 'win32' ? BigInt.asUintN(32, number) : number
}

/** Number of calls that may still not be {@link quick}, because an earlier one had to wait. */
let slowCalls = 0

/**
 * Makes a call that only reads metadata or a few bytes. While the kernel has these in memory, the
 * call runs on this thread, because a hop through the thread pool and back takes ten times as long
 * as the call.
 *
 * A call that takes longer has waited for a disk or a network. Then the next hundred go through the
 * pool, so that at most one call in a hundred holds up the event loop.
 */
function quick<T>(now: () => T, later: () => Promise<T>): Promise<T> {
  if (slowCalls > 0) {
    slowCalls--
    return later()
  }
  const begunMs = performance.now()
  try {
    return Promise.resolve(now())
  } catch (error) {
    return Promise.reject(error)
  } finally {
    if (performance.now() - begunMs > longestQuickMs) slowCalls = 100
  }
}

const longestQuickMs = 0.5

/** Wraps a callback-style system call in a promise. libuv repeats interrupted calls (`EINTR`). */
function call<T>(start: (done: (error: Error | null, value?: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error) reject(error)
      else resolve(value as T)
    })
  })
}

/** Option for where files are stored. For tests, see `@mini-ts/ministore/testing`. */
export interface FileSystemOption {
  /**
   * File system that holds the files.
   *
   * @default nodeFileSystem, the file system of this machine
   */
  readonly fileSystem?: FileSystem | undefined
}

/** @throws {TypeError} if the value is neither a file system nor undefined. */
export function fileSystemOption(value: unknown): FileSystem {
  if (value === undefined) return nodeFileSystem
  if (!isObject(value) || typeof Reflect.get(value, 'syncDirectory') !== 'function') {
    throw new TypeError(`Expected \`fileSystem\` to be a FileSystem, got ${shown(value)}`)
  }
  return value as FileSystem
}
