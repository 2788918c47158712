import { MiniStoreError, propertyOf } from '../errors.ts'

/**
 * The file-system port: everything the library asks of an operating system, and nothing more.
 *
 * Two implementations exist: {@link nodeFileSystem} and the simulated one in `testing`, which keeps what
 * is durable apart from what is merely written and can build every state a crash may leave.
 *
 * **What is durable when.** Bytes written are *visible* at once and *durable* only after `sync` or
 * `dataSync` of that file resolves. A name made, changed or removed by `open('create')`, `rename`, `unlink`
 * or `makeDirectory` is visible at once and durable only after `syncDirectory` of the directory holding it
 * resolves. A crash keeps a prefix of the pending writes of each file, perhaps with the next one torn,
 * and any subset of the pending directory operations.
 *
 * **Only regular files.** `open`, `rename` and `unlink` refuse a directory, a FIFO, a socket or a device, also behind a
 * symbolic link, before they touch it: opening one may hang or act, and renaming over one replaces it. The error says
 * what was found. What takes the place of a name between the look and the call cannot be ruled out for
 * `rename` and `unlink`; `open` looks again at what it has opened.
 *
 * Apart from that every method but `watch` rejects with the system's own error (`code`, `errno`, `syscall`), unwrapped;
 * none throws.
 */
export interface FileSystem {
  /**
   * Opens a file.
   *
   * - `read`: must exist; only `read` and `stat` are called on it.
   * - `write`: must exist; for reading and writing.
   * - `create`: must not exist (`EEXIST`); for reading and writing. Its name is not durable yet.
   * - `ensure`: created when missing, and never through a symbolic link; for reading and writing.
   * - `directory`: a directory that exists; only `sync`, `stat` and `close` are called on it. `sync` does what
   *   `syncDirectory` does, needs no further descriptor, and reaches this directory wherever its name leads by now.
   *
   * A file that this call creates gets the permissions and, where that is permitted, the owner that `access` names; until
   * then it is open to its creator alone. Where the group cannot be set, its permissions are left out. Without
   * `access`, and in a file system that does not know it, a file is as the system makes it.
   */
  open(path: string, mode: OpenMode, access?: FileAccess): Promise<File>
  /** Names of the entries of a directory, in any order. `ENOENT` when it does not exist. */
  list(directory: string): Promise<string[]>
  /** Facts about what the path leads to, symbolic links followed. `ENOENT` when there is nothing. */
  stat(path: string): Promise<FileStat>
  /** The path with every symbolic link in it followed. `ENOENT` when there is nothing. */
  realPath(path: string): Promise<string>
  /** Replaces `to` by `from` in one step. Visible at once; durable after `syncDirectory`. */
  rename(from: string, to: string): Promise<void>
  /** Removes a name. Open files stay readable. Visible at once; durable after `syncDirectory`. */
  unlink(path: string): Promise<void>
  /** Makes one directory. `EEXIST` when the name is taken. */
  makeDirectory(path: string): Promise<void>
  /** Makes every pending change of names in this directory durable. */
  syncDirectory(directory: string): Promise<void>
  /**
   * Takes an exclusive lock on an open file without waiting: `true` when it is held from now on, `false` when
   * another open file holds it. Freed when the file is closed or its process ends, however it ends.
   * Rejects where such a lock cannot be had. The file is open for writing.
   */
  lock(file: File): Promise<boolean>
  /**
   * Calls `onChange` soon after something in the directory may have changed: a hint that may come late,
   * twice or never, and never where a directory cannot be watched. Returns the function that stops it.
   */
  watch(directory: string, onChange: () => void): () => void
}

export type OpenMode = 'read' | 'write' | 'create' | 'ensure' | 'directory'

/** Who may do what with a file, in the terms of POSIX. What is undefined is not known, or is left to the system. */
export interface FileAccess {
  /** Permissions; in a {@link FileStat} the type of the file too, as in `st_mode`. */
  readonly mode?: number | undefined
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

export interface FileStat extends FileAccess {
  readonly size: number
  readonly isDirectory: boolean
  /**
   * Device and inode: the same for every name of one file. An inode may be used again after its file is gone. A bigint
   * where they may be too long for a number, as those of NTFS are.
   */
  readonly device: number | bigint
  readonly inode: number | bigint
  /**
   * When the file was last changed, in milliseconds of whatever clock; undefined where that is not known. Only compared:
   * it tells a change that leaves size and inode as they were.
   */
  readonly changedMs?: number | undefined
}

/** An open file. Calls on one file do not overlap, and `close` is the last. */
export interface File {
  /** Reads up to `buffer.length` bytes at `position`; resolves with how many, 0 only at the end of the file. */
  read(buffer: Uint8Array, position: number): Promise<number>
  /**
   * Writes bytes at `position`; gives how many were written, which may be fewer than asked without an error.
   * May answer at once for small writes, which end in the page cache, to save a hop through the thread pool.
   */
  write(bytes: Uint8Array, position: number): number | Promise<number>
  /** Cuts the file to `length` bytes. Durable after `sync`. */
  truncate(length: number): Promise<void>
  /**
   * Makes bytes, length and all else about the file durable (`fsync`). When this or `dataSync` rejects, what was pending
   * may be lost, and no later sync brings it back.
   */
  sync(): Promise<void>
  /** Makes bytes and the length needed to read them durable (`fdatasync`). */
  dataSync(): Promise<void>
  stat(): Promise<FileStat>
  close(): Promise<void>
}

/** The error for something at a path that is not a regular file; undefined for one that is. */
export function irregularFile(
  path: string,
  { mode = 0, isDirectory }: Pick<FileStat, 'mode' | 'isDirectory'>,
): MiniStoreError | undefined {
  const found = isDirectory ? 'a directory' : irregularTypes.get(mode & typeBits)
  if (found === undefined) return undefined
  return new MiniStoreError('ERR_MINISTORE_IO', `${path} is ${found}, expected a regular file`, { path })
}

const typeBits = 0o170000

/** By the type bits of POSIX, which Node gives on every platform. */
const irregularTypes = new Map([
  [0o010000, 'a FIFO'],
  [0o020000, 'a character device'],
  [0o040000, 'a directory'],
  [0o060000, 'a block device'],
  [0o120000, 'a symbolic link'],
  [0o140000, 'a socket'],
])

/** The error code of a system error, such as `ENOENT`. */
export function systemErrorCode(thrown: unknown): string | undefined {
  const code = propertyOf(thrown, 'code')
  return typeof code === 'string' ? code : undefined
}

/** Whether a system call failed because there is nothing at the path. */
export function isNotFound(thrown: unknown): boolean {
  return systemErrorCode(thrown) === 'ENOENT'
}
