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

const fileCalls: ReadonlySet<string> = new Set([
  'read',
  'write',
  'ftruncate',
  'fsync',
  'fdatasync',
  'fstat',
  'fcntl',
  'close',
])

/** Whether the system call works on an open file. Node's errors of such calls carry no path. */
export function isFileCall(syscall: string): boolean {
  return fileCalls.has(syscall)
}
