import { getSystemErrorMap } from 'node:util'

import type { File, FileSystem, OpenMode } from '../fs/file-system.ts'

/**
 * The names of the methods of `FileSystem` and `File` that count as operations. Only `watch` does
 * not count, because it asks nothing of the disk.
 */
export type OperationName = Exclude<keyof FileSystem, 'watch'> | keyof File

/** One call on the file system, as listeners and fault rules see it. */
export interface Operation {
  /** How many operations were applied before this one: 0 for the first. */
  readonly index: number
  /** The name of the method that was called. */
  readonly operation: OperationName
  /** The normalised path. For an open file, its newest name. */
  readonly path: string
  /** The new path of a rename. */
  readonly to?: string
  /** The mode of an `open`. */
  readonly mode?: OpenMode
  /** Where a `read` or `write` begins, in bytes from the start of the file. */
  readonly position?: number
  /** How many bytes a `read` or `write` requests, or the length in bytes that a `truncate` sets. */
  readonly length?: number
  /** The bytes of a `write`. Read-only, and valid only during the call. */
  readonly bytes?: Uint8Array
  /** The system call that an error of this operation names. */
  readonly syscall: string
  /**
   * Whether the operation can change what is visible or what a crash may leave. Reads, `lock` and
   * `close` cannot.
   */
  readonly changesDisk: boolean
}

/** An operation before it is counted. */
export type OperationRequest = Omit<Operation, 'index'>

/** Names of the system errors that the simulated file system raises or can be told to raise. */
export type SystemErrorCode =
  | 'EACCES' | 'EAGAIN' | 'EBADF' | 'EBUSY' | 'EDQUOT' | 'EEXIST' | 'EFBIG' | 'EINTR' | 'EINVAL' | 'EIO' | 'EISDIR'
  | 'EMFILE' | 'ENFILE' | 'ENOENT' | 'ENOMEM' | 'ENOSPC' | 'ENOTDIR' | 'ENOTEMPTY' | 'ENOTSUP' | 'EPERM' | 'EROFS'
  | 'EXDEV'

// The errno of EDQUOT on Linux. Node 20 has no name for it and puts the number into `code`. Code
// that looks only for `EDQUOT` is wrong there, so the simulated error has the unnamed shape on
// every version of Node.
const quotaErrno = -122

const known = new Map([...getSystemErrorMap()].map(([errno, [code, text]]) => [code, { errno, text }]))

/**
 * Creates an error of the shape that `node:fs` gives: `code`, negative `errno`, `syscall`, and
 * where they apply `path` and `dest`. Errors of calls on an open file have no path.
 *
 * @throws {TypeError} if `name` is not the name of a system error.
 */
export function systemError(
  name: SystemErrorCode,
  syscall: string,
  { path, to }: { readonly path?: string | undefined; readonly to?: string | undefined } = {},
): NodeJS.ErrnoException {
  const unnamed = `Unknown system error ${quotaErrno}`
  const facts = name === 'EDQUOT' ? { errno: quotaErrno, text: unnamed } : known.get(name)
  if (facts === undefined) throw new TypeError(`Expected the name of a system error, got ${name}`)
  const code = name === 'EDQUOT' ? unnamed : name
  const place = path === undefined ? '' : ` '${path}'${to === undefined ? '' : ` -> '${to}'`}`
  return Object.assign(new Error(`${code}: ${facts.text}, ${syscall}${place}`), {
    errno: facts.errno,
    code,
    syscall,
    ...(path === undefined ? {} : { path }),
    ...(to === undefined ? {} : { dest: to }),
  })
}
