import { readdirSync, readlinkSync } from 'node:fs'

import { type File, type FileAccess, type FileStat, type FileSystem, nodeFileSystem, type OpenMode } from '../../src/index.ts'
import { turn } from './consume.ts'
import { deferred } from './deferred.ts'

/** One call that reached the file-system port. */
export interface Call {
  readonly operation: keyof FileSystem | keyof File
  readonly path: string
}

/**
 * Called before each call is made. It delays the call by returning a promise, or fails it by
 * throwing.
 */
export type Hook = (call: Call) => void | Promise<void>

/**
 * The real file system under observation: counts open files and shows every call to a hook.
 *
 * Writers are found by file system object. A reader with an observed file system therefore never
 * finds a writer on `nodeFileSystem`, and reads the disk like a reader in another process.
 */
export class ObservedFileSystem implements FileSystem {
  hook: Hook
  calls = 0
  opened = 0
  closed = 0
  /** Directory watches that have not been stopped yet. */
  watching = 0
  readonly #inner = nodeFileSystem
  #pending = 0

  constructor(hook: Hook = () => {}) {
    this.hook = hook
  }

  get openFiles(): number {
    return this.opened - this.closed
  }

  /**
   * Resolves when at most `count` files are open, no directory is watched and no call is in
   * progress. After an abort, files close in the background.
   */
  async untilOpen(count: number): Promise<void> {
    while (this.openFiles > count || this.watching > 0 || this.#pending > 0) await turn()
  }

  /** Shows a call to the hook and makes it. */
  async run<T>(call: Call, action: () => T | Promise<T>): Promise<T> {
    this.#pending++
    try {
      await this.tell(call)
      return await action()
    } finally {
      this.#pending--
    }
  }

  /** Shows a call to the hook. Returns no promise unless the hook returns one. */
  tell(call: Call): void | Promise<void> {
    this.calls++
    return this.hook(call)
  }

  open(path: string, mode: OpenMode, access?: FileAccess): Promise<File> {
    return this.run({ operation: 'open', path }, async () => {
      const file = await this.#inner.open(path, mode, access)
      this.opened++
      return new ObservedFile(this, file, path)
    })
  }

  list(directory: string): Promise<string[]> {
    return this.run({ operation: 'list', path: directory }, () => this.#inner.list(directory))
  }

  stat(path: string): Promise<FileStat> {
    return this.run({ operation: 'stat', path }, () => this.#inner.stat(path))
  }

  realPath(path: string): Promise<string> {
    return this.run({ operation: 'realPath', path }, () => this.#inner.realPath(path))
  }

  rename(from: string, to: string): Promise<void> {
    return this.run({ operation: 'rename', path: from }, () => this.#inner.rename(from, to))
  }

  unlink(path: string): Promise<void> {
    return this.run({ operation: 'unlink', path }, () => this.#inner.unlink(path))
  }

  makeDirectory(path: string): Promise<void> {
    return this.run({ operation: 'makeDirectory', path }, () => this.#inner.makeDirectory(path))
  }

  syncDirectory(directory: string): Promise<void> {
    return this.run({ operation: 'syncDirectory', path: directory }, () =>
      this.#inner.syncDirectory(directory),
    )
  }

  lock(file: File): Promise<boolean> {
    if (!(file instanceof ObservedFile)) throw new TypeError('Expected a file of this file system')
    return this.run({ operation: 'lock', path: file.path }, () => this.#inner.lock(file.inner))
  }

  watch(directory: string, onChange: () => void): () => void {
    void this.tell({ operation: 'watch', path: directory })
    const stop = this.#inner.watch(directory, onChange)
    this.watching++
    return () => {
      stop()
      this.watching--
    }
  }
}

class ObservedFile implements File {
  readonly inner: File
  readonly path: string
  readonly #fs: ObservedFileSystem

  constructor(fs: ObservedFileSystem, inner: File, path: string) {
    this.#fs = fs
    this.inner = inner
    this.path = path
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#run('read', () => this.inner.read(buffer, position))
  }

  write(bytes: Uint8Array, position: number): number | Promise<number> {
    const held = this.#fs.tell({ operation: 'write', path: this.path })
    return held === undefined
      ? this.inner.write(bytes, position)
      : held.then(() => this.inner.write(bytes, position))
  }

  truncate(length: number): Promise<void> {
    return this.#run('truncate', () => this.inner.truncate(length))
  }

  sync(): Promise<void> {
    return this.#run('sync', () => this.inner.sync())
  }

  dataSync(): Promise<void> {
    return this.#run('dataSync', () => this.inner.dataSync())
  }

  stat(): Promise<FileStat> {
    return this.#run('stat', () => this.inner.stat())
  }

  close(): Promise<void> {
    return this.#run('close', async () => {
      await this.inner.close()
      this.#fs.closed++
    })
  }

  #run<T>(operation: keyof File, action: () => Promise<T>): Promise<T> {
    return this.#fs.run({ operation, path: this.path }, action)
  }
}

/** A gate for hooks: calls wait at it until it opens. */
export class Gate {
  readonly #opened = deferred()
  readonly #reached = deferred()

  /** Resolves once a call has reached the gate. */
  get reached(): Promise<void> {
    return this.#reached.promise
  }

  wait(): Promise<void> {
    this.#reached.resolve()
    return this.#opened.promise
  }

  open(): void {
    this.#opened.resolve()
  }
}

/**
 * How many descriptors of this process lead to a directory or into it; 0 on systems other than
 * Linux.
 */
export function descriptorsIn(directory: string): number {
  if (process.platform !== 'linux') return 0
  let count = 0
  for (const descriptor of readdirSync('/proc/self/fd')) {
    const target = targetOf(descriptor)
    if (target === directory || target?.startsWith(`${directory}/`)) count++
  }
  return count
}

function targetOf(descriptor: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${descriptor}`)
  } catch {
    // The descriptor that listed the directory is closed by now.
    return undefined
  }
}
