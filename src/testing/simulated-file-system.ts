import type { File, FileAccess, FileStat, FileSystem, OpenMode } from '../fs/file-system.ts'
import { fields } from '../options.ts'
import { Bytes } from './bytes.ts'
import { crashDisk, crashDisks, type CrashOptions } from './crash-states.ts'
import { Disk, type NameChange, normalisePath, normaliseRequest } from './disk.ts'
import { type Fault, type FaultOptions, OperationGate, type OperationMatch, type ShortWriteMatch } from './fault.ts'
import { DirectoryNode } from './nodes.ts'
import type { Operation, OperationRequest, SystemErrorCode } from './operation.ts'
import { type FileHost, microtaskTurns, SimulatedDirectory, SimulatedFile, syncTurns } from './simulated-file.ts'

// Each file system has its own device number. Code that identifies files by device and inode, such
// as a registry of locks in the process, must not mistake a file of a crash state for the file it
// was copied from.
let devices = 0

/**
 * A file system in memory that knows which changes are durable and which a crash may still undo.
 *
 * **Modelled.**
 *
 * - The bytes of a file are durable after its `sync` or `dataSync`. Names are durable after
 *   `syncDirectory` of their directory. Neither call does the work of the other.
 * - A crash keeps a prefix of each file's pending writes and truncations, perhaps with the next
 *   write torn. It keeps any subset of the pending name changes, in their order. A rename is one
 *   change.
 * - A failed sync loses what was pending (see {@link FaultOptions}).
 * - A file stays readable while it is open, even after its name is gone. Inode numbers are reused.
 * - A lock belongs to one open file. Writes may be short, and disks fill up.
 * - Files keep the permissions and owner they were created with, but these never deny access.
 * - Errors have the shape of Node's.
 *
 * **Not modelled.**
 *
 * - Symbolic links, hard links, times and Windows paths.
 * - Renames between directories, which fail with `EXDEV`.
 * - Writes of one file that reach the disk out of order.
 * - Damage to durable data. To flip a bit, use `writeFile`.
 *
 * A method of {@link FileSystem} takes effect after one turn of the microtask queue, a sync after
 * many turns, so calls that are not awaited may overtake one another. `write` takes effect during
 * the call. `watch` and the methods for tests also act during the call. They do not count as
 * operations, and faults do not affect them.
 *
 * Paths are POSIX paths. A relative path starts at the root.
 */
export class SimulatedFileSystem implements FileSystem {
  /** The most bytes that all files together may hold. May be changed at any time. */
  capacityBytes: number
  /** Whether changes fail with `EROFS`. May be changed at any time. */
  readOnly: boolean
  readonly #device = ++devices
  readonly #gate = new OperationGate()
  readonly #watchers = new Watchers()
  readonly #host: FileHost
  #disk = new Disk()

  /**
   * Creates a disk that holds nothing but its root directory.
   *
   * @throws {TypeError} if an option is unknown.
   */
  constructor(options: SimulatedFileSystemOptions = {}) {
    fields(options, ['capacityBytes', 'readOnly'])
    this.capacityBytes = options.capacityBytes ?? Infinity
    this.readOnly = options.readOnly ?? false
    this.#host = this.#makeHost()
  }

  // The methods of FileSystem

  open(path: string, mode: OpenMode, access?: FileAccess): Promise<File> {
    const changesDisk = mode === 'create' || mode === 'ensure'
    return this.#run({ operation: 'open', path, mode, syscall: 'open', changesDisk }, ({ path: at }) => {
      if (mode === 'directory') return new SimulatedDirectory(this.#disk.getDirectory(at, 'open'), this.#host)
      const { file, createdIn } = this.#disk.open(at, { mode, access, readOnly: this.readOnly })
      this.#watchers.changed(createdIn)
      return new SimulatedFile(file, { mode, host: this.#host })
    })
  }

  list(directory: string): Promise<string[]> {
    const request = { operation: 'list', path: directory, syscall: 'scandir', changesDisk: false } as const
    return this.#run(request, ({ path }) => [...this.#disk.getDirectory(path, 'scandir').visible.keys()])
  }

  stat(path: string): Promise<FileStat> {
    return this.#run({ operation: 'stat', path, syscall: 'stat', changesDisk: false }, ({ path: at }) => {
      const node = this.#disk.get(at, 'stat')
      const isDirectory = node instanceof DirectoryNode
      const facts = isDirectory ? { size: 0, mode: 0o040755, uid: 0, gid: 0 } : { size: node.visible.length, ...node.access }
      return { ...facts, isDirectory, device: this.#device, inode: node.inode }
    })
  }

  /** Resolves with the normalised path, since there are no symbolic links. */
  realPath(path: string): Promise<string> {
    const request = { operation: 'realPath', path, syscall: 'realpath', changesDisk: false } as const
    return this.#run(request, ({ path: at }) => {
      this.#disk.get(at, 'realpath')
      return at
    })
  }

  /** Renames within one directory. Rejects with `EXDEV` if the directories differ. */
  rename(from: string, to: string): Promise<void> {
    const request = { operation: 'rename', path: from, to, syscall: 'rename', changesDisk: true } as const
    return this.#run(request, ({ path, to: target = path }) => {
      this.#changed(this.#disk.rename({ path, to: target }, this))
    })
  }

  unlink(path: string): Promise<void> {
    return this.#run({ operation: 'unlink', path, syscall: 'unlink', changesDisk: true }, ({ path: at }) => {
      this.#changed(this.#disk.unlink(at, this))
    })
  }

  makeDirectory(path: string): Promise<void> {
    const request = { operation: 'makeDirectory', path, syscall: 'mkdir', changesDisk: true } as const
    return this.#run(request, ({ path: at }) => {
      this.#changed(this.#disk.makeDirectory(at, this))
    })
  }

  async syncDirectory(directory: string): Promise<void> {
    const path = normalisePath(directory)
    await microtaskTurns(syncTurns)
    const request = { operation: 'syncDirectory', path, syscall: 'fsync', changesDisk: true } as const
    const { error, dropsPending = false } = this.#gate.pass(request)
    const node = this.#disk.getDirectory(path, 'open')
    if (error === undefined) {
      node.settle()
      return
    }
    if (dropsPending) node.drop()
    throw error
  }

  /**
   * Takes the lock of an open file. Resolves with `true` if this open file holds the lock now, also
   * if it held the lock before, and with `false` if another open file holds it.
   *
   * @throws {TypeError} if `file` is not an open file of this file system.
   */
  async lock(file: File): Promise<boolean> {
    if (!(file instanceof SimulatedFile) || !file.isOn(this.#host)) {
      throw new TypeError('Expected `file` to be an open file of this file system')
    }
    const request = { operation: 'lock', path: file.path, syscall: 'fcntl', changesDisk: false } as const
    return await this.#run(request, () => file.lock())
  }

  /**
   * Calls `onChange` in a later turn of the event loop, once for all changes up to then. A path
   * that is not a directory gives no hints.
   */
  watch(directory: string, onChange: () => void): () => void {
    const node = this.#disk.find(normalisePath(directory))
    return node instanceof DirectoryNode ? this.#watchers.add(node, onChange) : () => undefined
  }

  // For tests: the contents of the disk

  /**
   * Returns a copy of the visible bytes of a file.
   *
   * @throws `ENOENT` or `ENOTDIR` if there is no such file, `EISDIR` if it is a directory.
   */
  readFile(path: string): Buffer {
    return Buffer.from(this.#disk.getFile(normalisePath(path), 'open').visible.view())
  }

  /**
   * Creates a file with this content or replaces the content of an existing one. Creates missing
   * parent directories. Content and names are visible and durable at once.
   *
   * @throws `EISDIR` if the path is a directory, `ENOTDIR` if a parent is a file.
   */
  writeFile(path: string, content: string | Uint8Array): void {
    // Buffer.from copies both strings and bytes.
    const bytes = new Bytes(typeof content === 'string' ? Buffer.from(content) : Buffer.from(content))
    this.#watchers.changed(this.#disk.putFile(normalisePath(path), bytes))
  }

  /**
   * Creates a directory and its missing parents, visible and durable at once.
   *
   * @throws `ENOTDIR` if a file is in the way.
   */
  addDirectory(path: string): void {
    this.#disk.ensureDirectory(normalisePath(path))
  }

  /** Whether a file or directory is visible at the path. */
  exists(path: string): boolean {
    return typeof this.#disk.find(normalisePath(path)) !== 'string'
  }

  /**
   * Returns the visible names in a directory, sorted.
   *
   * @throws `ENOENT` or `ENOTDIR` if there is no such directory.
   */
  names(directory: string): string[] {
    return [...this.#disk.getDirectory(normalisePath(directory), 'scandir').visible.keys()].toSorted()
  }

  /** Returns a copy of every visible file, by path. Empty directories are left out. */
  snapshot(): Map<string, Buffer> {
    const contents = [...this.#disk.files()].map(([path, { visible }]) => [path, Buffer.from(visible.view())] as const)
    return new Map(contents)
  }

  /**
   * Returns the distinct states in which a crash at this moment may leave the disk. Each state is a
   * new file system, independent of this one and of the others. Everything in it is durable, no
   * file is open or locked, and no faults are set.
   *
   * The moment is the time of the call. Each state is built when the iterator reaches it, and costs
   * little more than its names until it is written to. A state with the same names and bytes as an
   * earlier one is skipped.
   *
   * @throws {TypeError | RangeError} if an option is invalid, at the time of the call.
   */
  crashStates(options: CrashOptions = {}): Generator<SimulatedFileSystem, void, undefined> {
    return this.#images(crashDisks(this.#disk.clone(), options))
  }

  /**
   * Returns the state after a crash that kept only durable changes (`none`) or all visible changes
   * (`all`). The state is a new file system in which everything is durable.
   */
  afterCrash(options: { readonly keep: 'all' | 'none' }): SimulatedFileSystem {
    return this.#image(crashDisk(this.#disk.clone(), options.keep))
  }

  /**
   * Returns the state after the process was killed while the system kept running, as a new file
   * system. Visible changes stay visible, pending ones stay pending, and lost ones stay lost. No
   * file is open or locked, and no faults are set.
   */
  afterKill(): SimulatedFileSystem {
    return this.#image(this.#disk.clone())
  }

  /** How many operations have been applied so far, including those that failed. */
  get operations(): number {
    return this.#gate.operations
  }

  /**
   * Calls the listener before each operation is applied, while the disk is still unchanged. This is
   * the moment to take crash states. If the listener throws, the operation rejects with that error
   * and changes nothing. Returns a function that removes the listener.
   */
  onOperation(listener: (operation: Operation) => void): () => void {
    return this.#gate.listen(listener)
  }

  /**
   * Stops the simulated process before the operation with this index; 0 is the first. That
   * operation and all later ones reject with a {@link SimulatedStopError} and change nothing.
   * Continue with `crashStates` or `afterKill`.
   *
   * @throws {TypeError | RangeError} if `index` is not a whole number of 0 or more.
   */
  stopAt(index: number): void {
    this.#gate.stopAt(index)
  }

  /** Whether the code under test has called an operation since the process stopped. */
  get isStopped(): boolean {
    return this.#gate.isStopped
  }

  /**
   * Makes operations fail. A failed operation changes nothing, except as the options say. `match`
   * selects operations by its fields; a function selects every operation for which it returns
   * `true`. An `Error` is used as it is.
   *
   * Every rule counts every matching operation, also when another rule makes that operation fail.
   * If several rules hit one operation, the rule that was set first decides.
   *
   * @throws {TypeError | RangeError} if `match`, `error` or an option is invalid.
   *
   * @example
   * files.failOn({ operation: 'dataSync', path: /journal/, nth: 3 }, 'EIO')
   * files.failOn({ operation: 'write', times: 'always' }, 'ENOSPC', { bytesFirst: 10 })
   */
  failOn(
    match: OperationMatch | ((operation: Operation) => boolean),
    error: SystemErrorCode | Error,
    options?: FaultOptions,
  ): Fault {
    return this.#gate.faults.fail(match, error, options)
  }

  /**
   * Makes writes store fewer bytes than requested, without an error.
   *
   * @throws {TypeError | RangeError} if `match` is invalid.
   */
  shortWriteOn(match: ShortWriteMatch): Fault {
    return this.#gate.faults.shorten(match)
  }

  /** Removes all faults. */
  clearFaults(): void {
    this.#gate.faults.clear()
  }

  *#images(disks: Iterable<Disk>): Generator<SimulatedFileSystem, void, undefined> {
    for (const disk of disks) yield this.#image(disk)
  }

  #image(disk: Disk): SimulatedFileSystem {
    const image = new SimulatedFileSystem({ capacityBytes: this.capacityBytes, readOnly: this.readOnly })
    image.#disk = disk
    return image
  }

  async #run<Result>(
    request: OperationRequest,
    apply: (request: OperationRequest) => Result,
  ): Promise<Result> {
    const normalised = normaliseRequest(request)
    await microtaskTurns(1)
    const { error } = this.#gate.pass(normalised)
    if (error !== undefined) throw error
    return apply(normalised)
  }

  #changed(change: NameChange | undefined): void {
    if (change === undefined) return
    this.#disk.release(change.gone)
    this.#watchers.changed(change.directory)
  }

  #makeHost(): FileHost {
    return {
      device: this.#device,
      isReadOnly: () => this.readOnly,
      // Counting every file on each write is slow, so it happens only if a capacity is set.
      roomBytes: () =>
        this.capacityBytes === Infinity ? Infinity : Math.max(0, this.capacityBytes - this.#disk.usedBytes()),
      pass: (request) => this.#gate.pass(request),
      changed: (directory) => this.#watchers.changed(directory),
      syncDirectory: (path) => this.syncDirectory(path),
      closed: (file) => this.#disk.release(file),
    }
  }
}

/** Options of {@link SimulatedFileSystem}. */
export interface SimulatedFileSystemOptions {
  /**
   * The most bytes that all files together may hold, including open files without a name. A write
   * that needs more stores the bytes that fit. If no byte fits, the write fails with `ENOSPC`.
   * Names take no room. Crash states keep this limit.
   * @default Infinity
   */
  readonly capacityBytes?: number
  /**
   * Whether every change except a sync fails with `EROFS`. Crash states keep this setting.
   * @default false
   */
  readonly readOnly?: boolean
}

interface Watcher {
  readonly directory: DirectoryNode
  readonly onChange: () => void
  isDue: boolean
}

/** The callbacks that watch directories for changes. */
class Watchers {
  readonly #watchers = new Set<Watcher>()

  add(directory: DirectoryNode, onChange: () => void): () => void {
    const watcher: Watcher = { directory, onChange, isDue: false }
    this.#watchers.add(watcher)
    return () => {
      this.#watchers.delete(watcher)
    }
  }

  /** Calls the watchers in a later turn of the event loop, once for all changes up to then. */
  changed(directory: DirectoryNode | undefined): void {
    for (const watcher of this.#watchers) {
      if (watcher.directory !== directory || watcher.isDue) continue
      watcher.isDue = true
      setImmediate(() => {
        watcher.isDue = false
        if (this.#watchers.has(watcher)) watcher.onChange()
      })
    }
  }
}
