import type { File, FileSystem, OpenMode } from '../fs/file-system.ts'

/**
 * The methods of the port that count as operations: all of them but `watch`, which asks nothing of the disk.
 */
export type OperationName = Exclude<keyof FileSystem, 'watch'> | keyof File

/** One call on the file system, as listeners and fault rules see it. */
export interface Operation {
  /** How many operations were applied before this one: 0 for the first. */
  readonly index: number
  /** The name of the method of the port. */
  readonly operation: OperationName
  /** The normalised path; of an open file, the newest name of it. */
  readonly path: string
  /** The new path of a rename. */
  readonly to?: string
  /** How an `open` opens. */
  readonly mode?: OpenMode
  /** Where a `read` or `write` begins, in bytes. */
  readonly position?: number
  /** How many bytes a `read` or `write` asks for, or the length that a `truncate` leaves. */
  readonly length?: number
  /** The bytes of a `write`: for reading, and only during the call. */
  readonly bytes?: Uint8Array
  /** The system call that an error of this operation names. */
  readonly syscall: string
  /** Whether it can change what is visible or what a crash may leave. Reading, `lock` and `close` cannot. */
  readonly changesDisk: boolean
}

/** An operation before it has its turn. */
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

/** Whether the system call works on an open file; Node's errors of such calls carry no path. */
export function isFileCall(syscall: string): boolean {
  return fileCalls.has(syscall)
}
