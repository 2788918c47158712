import { messageOf, MiniStoreError } from '../errors.ts'
import type { File, FileSystem } from './file-system.ts'

/** A held lock. `Holder` is what the holder lets others in this process find, see {@link findHolder}. */
export interface Lock {
  /** Frees the lock. The file stays: removing it would let two writers lock two files of one name. */
  release(): Promise<void>
}

/**
 * Who holds which lock file in this thread, by device and inode, so that two paths to one journal are seen as
 * one. Kept per file system because inode numbers of two file systems have nothing to do with each other.
 */
const holders = new WeakMap<FileSystem, Map<string, object>>()

/**
 * Takes the writer's lock on `lockPath`, or fails at once.
 *
 * The kernel's lock belongs to the open file (`F_OFD_SETLK` on Linux, `flock` on macOS, `LockFileEx` on Windows,
 * through `fs-native-extensions`): other processes and worker threads are refused, and it is freed when
 * the process dies in whatever way. No heartbeat, no stale time.
 *
 * @param options.kernel `false` skips the kernel's lock: then only this thread is guarded against itself.
 * @param options.holder what {@link findHolder} answers while the lock is held.
 * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` when held; `ERR_MINISTORE_LOCK_UNAVAILABLE` when the kernel's lock
 *   cannot be had here.
 */
export async function acquireLock(
  fs: FileSystem,
  lockPath: string,
  options: { readonly kernel: boolean; readonly holder: object; readonly journalPath: string },
): Promise<Lock> {
  const file = await fs.open(lockPath, 'ensure')
  const registry = registryOf(fs)
  let key: string | undefined
  try {
    const { device, inode } = await file.stat()
    const identity = `${device}:${inode}`
    if (registry.has(identity)) throw lockedError(options.journalPath, 'in this process')
    registry.set(identity, options.holder)
    key = identity
    if (options.kernel && !(await takeKernelLock(fs, file, options.journalPath))) {
      throw lockedError(options.journalPath, 'by another writer (process or thread)')
    }
  } catch (error) {
    if (key !== undefined) registry.delete(key)
    await file.close().catch(() => {})
    throw error
  }
  const held = key
  return {
    release: async () => {
      // Forgotten first: from here on readers in this process go to the disk, as those of any other do.
      registry.delete(held)
      await file.close()
    },
  }
}

/** What holds the lock file in this thread, if anything does. */
export async function findHolder(fs: FileSystem, lockPath: string): Promise<object | undefined> {
  const registry = holders.get(fs)
  if (registry === undefined || registry.size === 0) return undefined
  try {
    const { device, inode } = await fs.stat(lockPath)
    return registry.get(`${device}:${inode}`)
  } catch {
    // No lock file, or one that cannot be looked at: then no writer of this thread holds it.
    return undefined
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
