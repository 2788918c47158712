import { MiniStoreError } from '../errors.ts'

/**
 * The file-system port: every operation that the library needs from the operating system.
 *
 * {@link nodeFileSystem} implements it on `node:fs`. The simulated file system in `testing` tracks
 * which changes are durable and can build every state that a crash may leave.
 *
 * **Durability.** Written bytes are *visible* at once and *durable* only after `sync` or `dataSync`
 * of their file resolves. A name that `open`, `rename`, `unlink` or `makeDirectory` creates,
 * changes or removes is visible at once and durable only after `syncDirectory` of its directory
 * resolves. A crash keeps a prefix of the pending writes of each file, and the next write may be
 * torn. It keeps any subset of the pending changes of names.
 *
 * **Regular files only.** `open`, `rename` and `unlink` refuse a directory, FIFO, socket or device,
 * even behind a symbolic link, before they touch it. Opening such a file may hang or have side
 * effects, and renaming over it replaces it. The error names the type that was found. Another file
 * may take the name between this check and the call. `open` therefore checks again what it has
 * opened; `rename` and `unlink` cannot rule this case out.
 *
 * Otherwise every method except `watch` rejects with the original system error (`code`, `errno`,
 * `syscall`), unwrapped. No method throws synchronously.
 *
 * Calls may overlap. Overlapping calls have no guaranteed order.
 */
export interface FileSystem {
  /**
   * Opens a file.
   *
   * - `read`: the file must exist. The caller uses only `read`, `stat` and `close`.
   * - `write`: the file must exist. It is opened for reading and writing.
   * - `create`: nothing may exist at the path (`EEXIST`). The file is opened for reading and
   *   writing; its name is not durable yet.
   * - `ensure`: the file is created if it is missing. Never follows a symbolic link. It is opened
   *   for reading and writing.
   * - `directory`: the directory must exist. The caller uses only `sync`, `stat` and `close`. Here
   *   `sync` does what `syncDirectory` does, but it needs no further descriptor and reaches this
   *   directory even if its name now leads elsewhere.
   *
   * A file that this call creates gets the permissions in `access` and, where the system permits
   * it, the owner. Until then only its creator can open it. If the group cannot be set, the group
   * permissions are left out. Without `access`, and on a file system that does not support it, the
   * defaults of the system apply. No separate call sets them, so no caller can get the order wrong:
   * restricted first, then the owner, then the permissions.
   */
  open(path: string, mode: OpenMode, access?: FileAccess): Promise<File>
  /**
   * Resolves with the names in a directory, in any order. `ENOENT` if the directory does not exist.
   */
  list(directory: string): Promise<string[]>
  /**
   * Resolves with facts about a path, following symbolic links. `ENOENT` if nothing exists there.
   */
  stat(path: string): Promise<FileStat>
  /**
   * Resolves with the path after following every symbolic link in it. `ENOENT` if nothing exists
   * there.
   */
  realPath(path: string): Promise<string>
  /** Replaces `to` with `from` in one step. Visible at once; durable after `syncDirectory`. */
  rename(from: string, to: string): Promise<void>
  /** Removes a name. Open files stay readable. Visible at once; durable after `syncDirectory`. */
  unlink(path: string): Promise<void>
  /** Creates one directory, without its parents. `EEXIST` if the name is taken. */
  makeDirectory(path: string): Promise<void>
  /**
   * Removes an empty directory. Visible at once; durable after `syncDirectory` of its parent. Absent
   * if the file system cannot: then empty directories stay.
   */
  removeDirectory?(path: string): Promise<void>
  /** Makes every pending change of names in a directory durable. */
  syncDirectory(directory: string): Promise<void>
  /**
   * Tries to take an exclusive lock on an open file, without waiting. The file must be open for
   * writing.
   *
   * Resolves with `true` if this file now holds the lock, and with `false` if another open file
   * holds it. The lock is released when the file is closed or its process ends, however it ends.
   * Rejects if the system cannot provide such a lock.
   */
  lock(file: File): Promise<boolean>
  /**
   * Calls `onChange` soon after something in a directory may have changed, and returns a function
   * that stops watching.
   *
   * The call is only a hint. It may come late, twice or never, and it never comes if the directory
   * cannot be watched.
   */
  watch(directory: string, onChange: () => void): () => void
}

/** Modes of {@link FileSystem.open}. */
export type OpenMode = 'read' | 'write' | 'create' | 'ensure' | 'directory'

/**
 * Permissions and owner of a file, as POSIX defines them. An undefined field is unknown or left to
 * the system.
 */
export interface FileAccess {
  /**
   * Permission bits. In a {@link FileStat} the mode also includes the file type, like `st_mode`.
   */
  readonly mode?: number | undefined
  /** User id of the owner. */
  readonly uid?: number | undefined
  /** Id of the group. */
  readonly gid?: number | undefined
}

/** Facts about a file or a directory. */
export interface FileStat extends FileAccess {
  /** Size in bytes. */
  readonly size: number
  /** Whether this is a directory. */
  readonly isDirectory: boolean
  /**
   * Device and inode together identify a file, whichever of its names is used. The values are
   * bigints where they may exceed the range of a number, as on NTFS.
   */
  readonly device: number | bigint
  /** Number of the file on its device. It may be reused after the file is gone. */
  readonly inode: number | bigint
  /**
   * Another number of milliseconds after each change of the file, on an unspecified clock; undefined
   * if unknown. It is only compared, to detect a change that leaves size and inode as they were.
   */
  readonly changedMs?: number | undefined
}

/**
 * An open file. Positions and lengths are in bytes.
 *
 * Calls on one file must not overlap, and `close` must be the last.
 */
export interface File {
  /**
   * Reads up to `buffer.length` bytes at `position` and resolves with the number of bytes read.
   * Resolves with 0 only at the end of the file.
   */
  read(buffer: Uint8Array, position: number): Promise<number>
  /**
   * Writes bytes at `position` and returns the number of bytes written. A short write is not an
   * error. With a position, unlike with `O_APPEND`, the rest of a short write and a write after a
   * rollback land exactly where they must.
   *
   * May return without a promise for small writes. These end in the page cache, so this saves a hop
   * through the thread pool.
   */
  write(bytes: Uint8Array, position: number): number | Promise<number>
  /** Cuts the file to `length` bytes. Durable after `sync`. */
  truncate(length: number): Promise<void>
  /**
   * Makes bytes, length and all other metadata of the file durable (`fsync`).
   *
   * If this method or `dataSync` rejects, the pending changes may be lost, and no later sync brings
   * them back.
   */
  sync(): Promise<void>
  /** Makes the bytes durable, and the length that is needed to read them (`fdatasync`). */
  dataSync(): Promise<void>
  /** Resolves with facts about this file, even if its name now leads elsewhere. */
  stat(): Promise<FileStat>
  /** Closes the file and releases the lock that it holds. */
  close(): Promise<void>
}

/**
 * Returns the error for a path that does not lead to a regular file, or undefined for a regular
 * file. Without a `mode`, everything except a directory counts as a regular file.
 */
export function irregularFile(
  path: string,
  { mode = 0, isDirectory = false }: Partial<FileStat>,
): MiniStoreError | undefined {
  const found = isDirectory ? 'a directory' : irregularTypes.get(mode & typeBits)
  if (found === undefined) return undefined
  return new MiniStoreError('ERR_MINISTORE_IO', `${path} is ${found}, expected a regular file`, { path })
}

const typeBits = 0o170000

/** Names of file types by the POSIX type bits, which Node reports on every platform. */
const irregularTypes = new Map([
  [0o010000, 'a FIFO'],
  [0o020000, 'a character device'],
  [0o040000, 'a directory'],
  [0o060000, 'a block device'],
  [0o120000, 'a symbolic link'],
  [0o140000, 'a socket'],
])
