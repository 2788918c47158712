import type { File, FileStat, OpenMode } from '../fs/file-system.ts'
import { pathOf } from './disk.ts'
import type { FaultEffect } from './fault.ts'
import type { DirectoryNode, FileNode } from './nodes.ts'
import { type OperationRequest, systemError } from './operation.ts'

/** The parts of its file system that an open file uses. */
export interface FileHost {
  readonly device: number
  isReadOnly(): boolean
  /** How many more bytes the disk can hold. */
  roomBytes(): number
  pass(request: OperationRequest): FaultEffect
  changed(directory: DirectoryNode | undefined): void
  syncDirectory(path: string): Promise<void>
  /** Called after an open file was closed. */
  closed(file: FileNode): void
}

/**
 * How many turns of the microtask queue a sync takes. A real sync takes longer than any
 * computation. Code that fails to wait for the sync must overtake it here too, or a test would not
 * notice.
 */
export const syncTurns = 32

/** Waits for this many turns of the microtask queue. */
export async function microtaskTurns(turns: number): Promise<void> {
  for (let i = 0; i < turns; i += 1) await Promise.resolve()
}

/**
 * An open file of a {@link SimulatedFileSystem}. It also checks that the caller keeps the contract
 * of {@link File}.
 */
export class SimulatedFile implements File {
  readonly node: FileNode
  readonly mode: OpenMode
  readonly #host: FileHost
  #isClosed = false
  /** The call in progress. Calls on one file must not overlap. */
  #underway: string | undefined
  #idle: Promise<unknown> = Promise.resolve()

  constructor(node: FileNode, options: { readonly mode: OpenMode; readonly host: FileHost }) {
    this.node = node
    this.mode = options.mode
    this.#host = options.host
    node.opens += 1
  }

  get path(): string {
    return pathOf(this.node)
  }

  isOn(host: FileHost): boolean {
    return this.#host === host
  }

  /** Takes the lock. Returns `false` if another open file holds it. */
  lock(): boolean {
    if (this.#isClosed) throw systemError('EBADF', 'fcntl')
    this.#checkOpenForWriting('fcntl')
    this.node.lockedBy ??= this
    return this.node.lockedBy === this
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    const request = this.#request('read', { syscall: 'read', position, length: buffer.length })
    return this.#run(request, () => {
      checkPosition(position, 'read')
      return this.node.visible.read(buffer, position)
    })
  }

  /** Returns the count at once, or rejects. */
  write(bytes: Uint8Array, position: number): number | Promise<number> {
    try {
      this.#check('write')
      const facts = { position, length: bytes.length, bytes, changesDisk: true }
      const request = this.#request('write', { syscall: 'write', ...facts })
      const { error, maxBytes = Infinity } = this.#host.pass(request)
      if (error !== undefined) throw error
      this.#checkWritable('write')
      checkPosition(position, 'write')
      return this.#write(bytes.subarray(0, Math.min(maxBytes, bytes.length)), position)
    } catch (error) {
      // By contract the method rejects instead of throwing, and callers may rely on that.
      return Promise.reject(error)
    }
  }

  truncate(length: number): Promise<void> {
    const request = this.#request('truncate', { syscall: 'ftruncate', length, changesDisk: true })
    return this.#run(request, () => {
      this.#checkWritable('ftruncate')
      checkPosition(length, 'ftruncate')
      this.node.truncate(length)
      this.#host.changed(this.node.parent)
    })
  }

  sync(): Promise<void> {
    return this.#sync(this.#request('sync', { syscall: 'fsync', changesDisk: true }))
  }

  dataSync(): Promise<void> {
    return this.#sync(this.#request('dataSync', { syscall: 'fdatasync', changesDisk: true }))
  }

  stat(): Promise<FileStat> {
    return this.#run(this.#request('stat', { syscall: 'fstat' }), () => ({
      ...this.node.access,
      size: this.node.visible.length,
      isDirectory: false,
      device: this.#host.device,
      inode: this.node.inode,
    }))
  }

  /** Waits for the call in progress, as Node does, then frees the lock. */
  async close(): Promise<void> {
    if (this.#isClosed) throw systemError('EBADF', 'close')
    this.#isClosed = true
    // If that call fails, its own caller gets the error.
    await Promise.allSettled([this.#idle])
    await microtaskTurns(1)
    const { error } = this.#host.pass(this.#request('close', { syscall: 'close' }))
    // Linux frees the descriptor even if close reports an error.
    this.node.opens -= 1
    if (this.node.lockedBy === this) this.node.lockedBy = undefined
    this.#host.closed(this.node)
    if (error !== undefined) throw error
  }

  #sync(request: OperationRequest): Promise<void> {
    return this.#run(request, ({ error, dropsPending = false }) => {
      if (error === undefined) {
        this.#checkOpenForWriting(request.syscall)
        this.node.settle()
        return
      }
      if (dropsPending) this.node.drop()
      throw error
    })
  }

  #write(bytes: Uint8Array, position: number): number {
    const size = this.node.visible.length
    const room = this.#host.roomBytes()
    const isFitting = position + bytes.length - size <= room
    const fitting = isFitting ? bytes.length : Math.max(0, size + room - position)
    if (fitting === 0 && bytes.length > 0) throw systemError('ENOSPC', 'write')
    if (fitting > 0) {
      this.node.write(bytes.subarray(0, fitting), position)
      this.#host.changed(this.node.parent)
    }
    return fitting
  }

  #request(
    operation: OperationRequest['operation'],
    facts: Omit<OperationRequest, 'operation' | 'path' | 'changesDisk'> & { readonly changesDisk?: boolean },
  ): OperationRequest {
    return { operation, path: this.path, changesDisk: false, ...facts }
  }

  async #run<Result>(request: OperationRequest, apply: (effect: FaultEffect) => Result): Promise<Result> {
    this.#check(request.operation, request.syscall)
    this.#underway = request.operation
    const work = this.#work(request, apply)
    this.#idle = work
    try {
      return await work
    } finally {
      this.#underway = undefined
    }
  }

  async #work<Result>(request: OperationRequest, apply: (effect: FaultEffect) => Result): Promise<Result> {
    const isSync = request.operation === 'sync' || request.operation === 'dataSync'
    await microtaskTurns(isSync ? syncTurns : 1)
    const effect = this.#host.pass(request)
    if (effect.error !== undefined && !isSync) throw effect.error
    return apply(effect)
  }

  #check(operation: string, syscall: string = operation): void {
    if (this.#isClosed) throw systemError('EBADF', syscall)
    if (this.#underway === undefined) return
    const both = `${operation} began while ${this.#underway} was under way`
    throw new Error(`Calls on one file must not overlap: ${both} on ${this.path}`)
  }

  /**
   * Stricter than Linux, which can sync a file that is open for reading: the contract allows only
   * reading from such a file.
   */
  #checkOpenForWriting(syscall: string): void {
    if (this.mode === 'read') throw systemError('EBADF', syscall)
  }

  #checkWritable(syscall: string): void {
    this.#checkOpenForWriting(syscall)
    if (this.#host.isReadOnly()) throw systemError('EROFS', syscall)
  }
}

function checkPosition(position: number, syscall: string): void {
  if (!Number.isSafeInteger(position) || position < 0) throw systemError('EINVAL', syscall)
}

/**
 * An open directory of a {@link SimulatedFileSystem}. Its `sync` is the operation `syncDirectory`.
 */
export class SimulatedDirectory implements File {
  readonly #node: DirectoryNode
  readonly #host: FileHost
  #isClosed = false

  constructor(node: DirectoryNode, host: FileHost) {
    this.#node = node
    this.#host = host
  }

  async sync(): Promise<void> {
    if (this.#isClosed) throw systemError('EBADF', 'fsync')
    await this.#host.syncDirectory(pathOf(this.#node))
  }

  async stat(): Promise<FileStat> {
    await this.#pass('stat', 'fstat')
    return { size: 0, isDirectory: true, device: this.#host.device, inode: this.#node.inode }
  }

  async close(): Promise<void> {
    await this.#pass('close', 'close')
    this.#isClosed = true
  }

  read(): Promise<number> {
    return Promise.reject(systemError('EISDIR', 'read'))
  }

  write(): Promise<number> {
    return Promise.reject(systemError('EBADF', 'write'))
  }

  truncate(): Promise<void> {
    return Promise.reject(systemError('EINVAL', 'ftruncate'))
  }

  dataSync(): Promise<void> {
    return this.sync()
  }

  async #pass(operation: 'stat' | 'close', syscall: string): Promise<void> {
    if (this.#isClosed) throw systemError('EBADF', syscall)
    await microtaskTurns(1)
    const path = pathOf(this.#node)
    const { error } = this.#host.pass({ operation, path, syscall, changesDisk: false })
    if (error !== undefined) throw error
  }
}
