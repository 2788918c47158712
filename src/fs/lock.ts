import { basename, dirname } from 'node:path'

import { messageOf, MiniStoreError } from '../errors.ts'
import { type File, type FileAccess, type FileStat, type FileSystem, isNotFound } from './file-system.ts'

/**
 * Which files are held for writing in this thread, by device and inode, so that two paths to one journal are seen as
 * one. Kept per file system because inode numbers of two file systems have nothing to do with each other.
 */
const holders = new WeakMap<FileSystem, Map<string, object>>()

/**
 * What one writer holds: the kernel's locks on its lock file and on its segments, and the directory that they lie in.
 *
 * **Invariant.** A writer changes names only while they lead to the files that it holds. {@link fileSystem} compares the
 * directory and every held file with what their names lead to before it creates, renames or removes anything, and rejects
 * with `ERR_MINISTORE_MOVED` where they differ: the directory was removed, moved, restored from a backup, or a link to it
 * was switched, and the names are another journal's now. The directory is held open, so its inode number cannot be used
 * again meanwhile. Between the comparison and the change something may still happen; POSIX has no call that
 * does both.
 *
 * The kernel's lock belongs to the open file (`F_OFD_SETLK` on Linux, `flock` on macOS, `LockFileEx` on Windows,
 * through `fs-native-extensions`): other processes and worker threads are refused, and it is freed when
 * the process dies in whatever way. No heartbeat, no stale time. The lock file alone would not do: anybody may remove
 * it, and the next writer would make and lock another.
 */
export class WriterLock {
  readonly #fs: FileSystem
  readonly #options: LockOptions
  readonly #directory: File
  readonly #directoryIdentity: string
  /** The held files by their paths, each with its identity; never the lock file, which anybody may make anew. */
  readonly #held = new Map<string, string>()
  readonly #keys = new Set<string>()
  #lockFile: File | undefined
  #moved: MiniStoreError | undefined
  /** Settles when the last change of names is done: comparison and change of one come before those of the next. */
  #turn: Promise<unknown> = Promise.resolve()
  /** The file system, with names guarded as described above. Syncs of the directory need no further descriptor. */
  readonly fileSystem: FileSystem

  private constructor(fs: FileSystem, options: LockOptions, directory: File, directoryIdentity: string) {
    this.#fs = fs
    this.#options = options
    this.#directory = directory
    this.#directoryIdentity = directoryIdentity
    this.fileSystem = this.#guarded()
  }

  /**
   * Takes the writer's lock on `lockPath`, or fails at once. The directory must be there.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` when held; `ERR_MINISTORE_LOCK_UNAVAILABLE` when the kernel's lock
   *   cannot be had here.
   */
  static async acquire(fs: FileSystem, lockPath: string, options: LockOptions): Promise<WriterLock> {
    const directory = await fs.open(dirname(lockPath), 'directory')
    try {
      const lock = new WriterLock(fs, options, directory, identityOf(await directory.stat()))
      const file = await fs.open(lockPath, 'ensure', options.access)
      try {
        await lock.#lock(file)
      } catch (error) {
        await file.close().catch(() => {})
        throw error
      }
      lock.#lockFile = file
      return lock
    } catch (error) {
      await directory.close().catch(() => {})
      throw error
    }
  }

  /**
   * Locks an open file of the journal and holds its name. The lock is freed when the file is closed.
   *
   * @throws {MiniStoreError} as {@link acquire}.
   */
  async hold(file: File, path: string): Promise<void> {
    this.#held.set(path, await this.#lock(file))
  }

  /** Forgets a held file, before it is closed. */
  letGo(path: string): void {
    const identity = this.#held.get(path)
    if (identity === undefined) return
    this.#held.delete(path)
    this.#forget(identity)
  }

  get access(): FileAccess | undefined {
    return this.#options.access
  }

  letGoAll(): void {
    for (const path of this.#held.keys()) this.letGo(path)
  }

  /** The error that the first comparison that failed has given; from there on every change of names rejects with it. */
  get moved(): MiniStoreError | undefined {
    return this.#moved
  }

  /** Whether a name leads to the file that is held by it. */
  async isAt(path: string): Promise<boolean> {
    return this.#held.get(path) === (await identityAt(this.#fs, path))
  }

  /** Runs a change of names once it is known that they lead to what is held. */
  #inPlace<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.#turn.then(async () => {
      await this.assertInPlace()
      return await change()
    })
    this.#turn = changed.catch(() => {})
    return changed
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_MOVED` unless the directory and every held file are where they were. */
  async assertInPlace(): Promise<void> {
    if (this.#moved !== undefined) throw this.#moved
    const directory = dirname(this.#options.journalPath)
    const moved =
      (await identityAt(this.#fs, directory)) === this.#directoryIdentity ? await this.#firstMoved() : directory
    if (moved === undefined) return
    const path = this.#options.journalPath
    const message =
      `${moved} is no longer the one that the writer of ${path} has open: it was removed, moved or replaced. ` +
      'Nothing there is changed; open the journal anew'
    throw (this.#moved = new MiniStoreError('ERR_MINISTORE_MOVED', message, { path }))
  }

  /** Frees the lock. The lock file stays: removing it would let two writers lock two files of one name. */
  async release(): Promise<void> {
    // Forgotten first: from here on readers in this process go to the disk, as those of any other do.
    for (const key of this.#keys) registryOf(this.#fs).delete(key)
    this.#held.clear()
    const closed = await Promise.allSettled([this.#lockFile?.close(), this.#directory.close()])
    for (const outcome of closed) if (outcome.status === 'rejected') throw outcome.reason
  }

  async #firstMoved(): Promise<string | undefined> {
    for (const path of this.#held.keys()) if (!(await this.isAt(path))) return path
    return undefined
  }

  async #lock(file: File): Promise<string> {
    const { kernel, holder, journalPath } = this.#options
    const identity = identityOf(await file.stat())
    const registry = registryOf(this.#fs)
    if (registry.has(identity)) throw lockedError(journalPath, 'in this process')
    registry.set(identity, holder)
    this.#keys.add(identity)
    try {
      if (kernel && !(await takeKernelLock(this.#fs, file, journalPath))) {
        throw lockedError(journalPath, 'by another writer (process or thread)')
      }
      return identity
    } catch (error) {
      this.#forget(identity)
      throw error
    }
  }

  #forget(identity: string): void {
    registryOf(this.#fs).delete(identity)
    this.#keys.delete(identity)
  }

  #guarded(): FileSystem {
    const fs = this.#fs
    const home = dirname(this.#options.journalPath)
    return {
      open: async (path, mode, access) => {
        if (mode !== 'create' && mode !== 'ensure') return await fs.open(path, mode)
        return await this.#inPlace(() => fs.open(path, mode, access))
      },
      rename: (from, to) =>
        this.#inPlace(async () => {
          await fs.rename(from, to)
          this.letGo(to)
          const identity = this.#held.get(from)
          if (identity === undefined) return
          this.#held.delete(from)
          this.#held.set(to, identity)
        }),
      unlink: (path) =>
        this.#inPlace(async () => {
          await fs.unlink(path)
          this.letGo(path)
        }),
      makeDirectory: (path) => this.#inPlace(() => fs.makeDirectory(path)),
      syncDirectory: (path) => (path === home ? this.#directory.sync() : fs.syncDirectory(path)),
      list: (path) => fs.list(path),
      stat: (path) => fs.stat(path),
      realPath: (path) => fs.realPath(path),
      lock: (file) => fs.lock(file),
      watch: (path, onChange) => fs.watch(path, onChange),
    }
  }
}

export interface LockOptions {
  /** `false` skips the kernel's locks: then only this thread is guarded against itself. */
  readonly kernel: boolean
  /** What {@link findHolder} answers while the lock is held. */
  readonly holder: object
  readonly journalPath: string
  /** Of new files where no active segment says it: the lock file, and a first segment. */
  readonly access: FileAccess | undefined
}

/** What holds one of these files in this thread, if anything does. */
export async function findHolder(fs: FileSystem, paths: readonly string[]): Promise<object | undefined> {
  const registry = holders.get(fs)
  if (registry === undefined || registry.size === 0) return undefined
  for (const path of paths) {
    // What is not there, or cannot be looked at, no writer of this thread holds.
    const identity = await identityAt(fs, path).catch(() => undefined)
    const holder = identity === undefined ? undefined : registry.get(identity)
    if (holder !== undefined) return holder
  }
  return undefined
}

/** Whether two paths are of one name in one directory, perhaps through a link to the directory. */
export async function isSameName(fs: FileSystem, one: string, other: string): Promise<boolean> {
  if (one === other) return true
  if (basename(one) !== basename(other)) return false
  const directory = await identityAt(fs, dirname(one))
  return directory !== undefined && directory === (await identityAt(fs, dirname(other)))
}

/** What tells a file from every other that exists at the same time. */
function identityOf({ device, inode }: FileStat): string {
  return `${device}:${inode}`
}

async function identityAt(fs: FileSystem, path: string): Promise<string | undefined> {
  try {
    return identityOf(await fs.stat(path))
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

async function takeKernelLock(fs: FileSystem, file: File, path: string): Promise<boolean> {
  try {
    return await fs.lock(file)
  } catch (error) {
    throw new MiniStoreError(
      'ERR_MINISTORE_LOCK_UNAVAILABLE',
      `No kernel lock can be had for ${path} (${messageOf(error)}). Pass lock: false only if you make sure ` +
        'in another way that there is one writer.',
      { path, cause: error },
    )
  }
}

function registryOf(fs: FileSystem): Map<string, object> {
  let registry = holders.get(fs)
  if (registry === undefined) holders.set(fs, (registry = new Map<string, object>()))
  return registry
}

function lockedError(path: string, by: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_LOCKED', `The journal ${path} is already open ${by}`, { path })
}
