/**
 * The lock of a writer.
 *
 * **Invariant.** A journal has at most one writer, and that writer changes names only while they
 * lead to the files that it holds.
 */
import { basename, dirname } from 'node:path'

import { messageOf, MiniStoreError } from '../errors.ts'
import { ifPresent } from './durable.ts'
import type { File, FileAccess, FileStat, FileSystem } from './file-system.ts'

/**
 * Files that writers in this thread hold, keyed by device and inode. Two paths to one journal
 * therefore count as the same journal. Each file system has its own map, because inode numbers of
 * different file systems are unrelated.
 *
 * A file has an entry exactly while a writer in this thread holds it, and never more than one.
 */
const holders = new WeakMap<FileSystem, Map<string, object>>()

/**
 * The locks of one writer: the kernel locks on its lock file and its segments, and an open handle
 * on their directory.
 *
 * Before {@link fileSystem} creates, renames or removes a name, it compares the directory and every
 * held file with what their names lead to. If they differ, it rejects with `ERR_MINISTORE_MOVED`.
 * Then the directory was removed, moved or restored from a backup, or a link to it was switched,
 * and the names may belong to another journal. The directory stays open, so its inode number cannot
 * be reused in the meantime. A change between the comparison and the operation is not detected,
 * because POSIX has no call that does both.
 *
 * The kernel lock belongs to the open file (`F_OFD_SETLK` on Linux, `flock` on macOS, `LockFileEx`
 * on Windows; see `kernel-lock.ts`). It excludes other processes and worker threads, and
 * the kernel releases it when the process ends, however it ends. The lock therefore needs no
 * heartbeat and no expiry time.
 *
 * A lock on the lock file alone would not be enough. Any program may remove that file, and the next
 * writer would then create and lock a new one.
 */
export class WriterLock {
  readonly #fs: FileSystem
  readonly #options: LockOptions
  readonly #directory: File
  readonly #directoryIdentity: string
  /**
   * Identities of the held files, by path. The lock file is never among them, because any program
   * may remove it and create it again.
   */
  readonly #held = new Map<string, string>()
  readonly #keys = new Set<string>()
  #lockFile: File | undefined
  #moved: MiniStoreError | undefined
  /**
   * Settles when the last change of names is done. Each comparison and its change finish before the
   * next comparison starts.
   */
  #turn: Promise<unknown> = Promise.resolve()
  /**
   * The file system with the checks of names described above. A sync of the journal's directory
   * uses the open handle and needs no further descriptor.
   */
  readonly fileSystem: FileSystem

  private constructor(fs: FileSystem, options: LockOptions, directory: File, directoryIdentity: string) {
    this.#fs = fs
    this.#options = options
    this.#directory = directory
    this.#directoryIdentity = directoryIdentity
    this.fileSystem = this.#guarded()
  }

  /**
   * Acquires the writer's lock on `lockPath`, or rejects without waiting. The directory must exist;
   * the lock file is created if it is missing.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` if another writer holds the lock;
   *   `ERR_MINISTORE_LOCK_UNAVAILABLE` if the system cannot provide a kernel lock here.
   */
  static async acquire(fs: FileSystem, lockPath: string, options: LockOptions): Promise<WriterLock> {
    const directory = await fs.open(dirname(lockPath), 'directory')
    let lockFile: File | undefined
    try {
      const lock = new WriterLock(fs, options, directory, identityOf(await directory.stat()))
      lockFile = await fs.open(lockPath, 'ensure', options.access)
      await lock.#lock(lockFile)
      lock.#lockFile = lockFile
      return lock
    } catch (error) {
      await lockFile?.close().catch(() => {})
      await directory.close().catch(() => {})
      throw error
    }
  }

  /**
   * Locks an open file of the journal and holds its name. Closing the file releases its kernel
   * lock.
   *
   * @throws {MiniStoreError} The same errors as {@link acquire}.
   */
  async hold(file: File, path: string): Promise<void> {
    this.#held.set(path, await this.#lock(file))
  }

  /**
   * Stops holding a file. Call it before the file is closed. Does nothing if the file is not held.
   */
  letGo(path: string): void {
    const identity = this.#held.get(path)
    if (identity === undefined) return
    this.#held.delete(path)
    this.#forget(identity)
  }

  /** Access for new files if no active segment provides it. */
  get access(): FileAccess | undefined {
    return this.#options.access
  }

  /** Stops holding every file. The lock on the lock file stays. */
  letGoAll(): void {
    for (const path of this.#held.keys()) this.letGo(path)
  }

  /**
   * Error of the first comparison that failed, or undefined. Once it is set, every change of names
   * rejects with it.
   */
  get moved(): MiniStoreError | undefined {
    return this.#moved
  }

  /** Checks whether a name leads to the file that is held under it. */
  async isAt(path: string): Promise<boolean> {
    return this.#held.get(path) === (await identityAt(this.#fs, path))
  }

  /** Runs a change of names after checking that they lead to the held files. */
  #inPlace<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.#turn.then(async () => {
      await this.assertInPlace()
      return await change()
    })
    this.#turn = changed.catch(() => {})
    return changed
  }

  /**
   * @throws {MiniStoreError} `ERR_MINISTORE_MOVED` if the directory or a held file is not at its
   *   path, now or at an earlier check.
   */
  async assertInPlace(): Promise<void> {
    if (this.#moved !== undefined) throw this.#moved
    const path = this.#options.journalPath
    const moved = await this.#firstMoved(dirname(path))
    if (moved === undefined) return
    const message =
      `${moved} was removed, moved or replaced while the writer of ${path} had it open. ` +
      'Nothing there was changed. Close the store and open the journal again.'
    throw (this.#moved = new MiniStoreError('ERR_MINISTORE_MOVED', message, { path }))
  }

  /**
   * Releases the lock and closes the lock file and the directory. The lock file stays on the disk:
   * removing it would let two writers lock two files of the same name.
   */
  async release(): Promise<void> {
    // Clear the registry first. From here on, readers in this process go to the disk, like readers
    // in other processes.
    for (const key of this.#keys) registryOf(this.#fs).delete(key)
    this.#held.clear()
    const closed = await Promise.allSettled([this.#lockFile?.close(), this.#directory.close()])
    for (const outcome of closed) if (outcome.status === 'rejected') throw outcome.reason
  }

  async #firstMoved(directory: string): Promise<string | undefined> {
    if ((await identityAt(this.#fs, directory)) !== this.#directoryIdentity) return directory
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
  /** `false` skips the kernel locks. Then the lock excludes only other writers in this thread. */
  readonly kernel: boolean
  /** Value that {@link findHolder} resolves with while the lock is held. */
  readonly holder: object
  /** Path of the active segment. Its directory is the one that is compared. */
  readonly journalPath: string
  /** Access for new files if no active segment provides it: the lock file and a first segment. */
  readonly access: FileAccess | undefined
}

/**
 * Resolves with the holder of the first of these files that a writer in this thread holds, or with
 * undefined if it holds none of them.
 */
export async function findHolder(fs: FileSystem, paths: readonly string[]): Promise<object | undefined> {
  const registry = holders.get(fs)
  if (registry === undefined || registry.size === 0) return undefined
  for (const path of paths) {
    // No writer in this thread holds a file that is missing or cannot be examined.
    const identity = await identityAt(fs, path).catch(() => undefined)
    const holder = identity === undefined ? undefined : registry.get(identity)
    if (holder !== undefined) return holder
  }
  return undefined
}

/**
 * Checks whether two paths have the same base name in the same directory, even if a symbolic
 * link leads to that directory.
 */
export async function isSameName(fs: FileSystem, one: string, other: string): Promise<boolean> {
  if (one === other) return true
  if (basename(one) !== basename(other)) return false
  const directory = await identityAt(fs, dirname(one))
  return directory !== undefined && directory === (await identityAt(fs, dirname(other)))
}

/**
 * Returns a string that distinguishes a file from every other file that exists at the same time.
 */
function identityOf({ device, inode }: FileStat): string {
  return `${device}:${inode}`
}

async function identityAt(fs: FileSystem, path: string): Promise<string | undefined> {
  const found = await ifPresent(fs.stat(path))
  return found && identityOf(found)
}

async function takeKernelLock(fs: FileSystem, file: File, path: string): Promise<boolean> {
  try {
    return await fs.lock(file)
  } catch (error) {
    throw new MiniStoreError(
      'ERR_MINISTORE_LOCK_UNAVAILABLE',
      `The kernel lock of ${path} is unavailable: ${messageOf(error)}. With lock: false nothing keeps another ` +
        'process from writing to the same journal, which destroys it.',
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
