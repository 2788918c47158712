import type { File, FileAccess, FileStat, FileSystem, OpenMode } from '../fs/file-system.ts'
import { Bytes } from './bytes.ts'
import { crashDisk, crashDisks, type CrashOptions } from './crash-states.ts'
import { DirectoryNode, Watchers } from './directory-node.ts'
import { Disk, normalisePath, normaliseRequest } from './disk.ts'
import { type Fault, type FaultOptions, OperationGate, type OperationMatch, type ShortWriteMatch } from './fault.ts'
import { makeDirectoryName, type NameChange, openName, renameName, unlinkName } from './name-changes.ts'
import type { Operation, OperationRequest } from './operation.ts'
import { type FileHost, microtaskTurns, SimulatedDirectory, SimulatedFile, syncTurns } from './simulated-file.ts'
import type { SystemErrorCode } from './system-error.ts'

// Code that knows files by device and inode, such as a registry of locks in the process, must not take a file
// of a crash state for the file it was copied from.
let devices = 0

/**
 * A file system in memory that knows which changes are durable and which a crash may still undo.
 *
 * **Modelled.** Bytes are durable after `sync` or `dataSync` of their file, names after `syncDirectory` of
 * their directory, and neither does the work of the other. A crash keeps of each file a prefix of its pending
 * writes and truncations, perhaps with the next write torn, and of the pending changes of names any subset,
 * in their order; a rename is one change. A failed sync loses what was pending (see {@link FaultOptions}).
 * Files stay readable after their name is gone, inode numbers are used again, locks belong to open files,
 * writes may be short, disks fill up. Errors have the shape of Node's.
 *
 * Files have the permissions and owner that they were created with, and nobody is refused for them.
 *
 * **Not modelled.** Symbolic and hard links, times, renames between directories
 * (`EXDEV`), writes of one file that reach the disk out of order, damage to what is durable (flip a bit with
 * `writeFile`), Windows paths.
 *
 * A method of the port works when its turn comes, after a microtask (a sync after several), and calls that
 * are not awaited may so overtake one another; `write` works at once. The other methods act at once, are no
 * operations, and no fault reaches them. Paths are POSIX paths; a relative one starts at the root.
 */
export class SimulatedFileSystem implements FileSystem {
  /** How many bytes all visible files together may have; may be changed at any time. */
  capacityBytes: number
  /** Whether changes fail with `EROFS`; may be changed at any time. */
  readOnly: boolean
  readonly #device = ++devices
  readonly #gate = new OperationGate()
  readonly #watchers = new Watchers()
  readonly #host: FileHost
  #disk = new Disk()

  constructor(options: SimulatedFileSystemOptions = {}) {
    const { capacityBytes, readOnly } = checkedOptions(options)
    this.capacityBytes = capacityBytes
    this.readOnly = readOnly
    this.#host = this.#makeHost()
  }

  // The port

  open(path: string, mode: OpenMode, access?: FileAccess): Promise<File> {
    const changesDisk = mode === 'create' || mode === 'ensure'
    return this.#run({ operation: 'open', path, mode, syscall: 'open', changesDisk }, ({ path: at }) => {
      if (mode === 'directory') return new SimulatedDirectory(this.#disk.getDirectory(at, 'open'), this.#host)
      const { file, createdIn } = openName(this.#disk, at, { mode, access, readOnly: this.readOnly })
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

  /** The normalised path: there are no symbolic links. */
  realPath(path: string): Promise<string> {
    const request = { operation: 'realPath', path, syscall: 'realpath', changesDisk: false } as const
    return this.#run(request, ({ path: at }) => {
      this.#disk.get(at, 'realpath')
      return at
    })
  }

  /** Within one directory; `EXDEV` otherwise. */
  rename(from: string, to: string): Promise<void> {
    const request = { operation: 'rename', path: from, to, syscall: 'rename', changesDisk: true } as const
    return this.#run(request, ({ path, to: target = path }) => {
      this.#changed(renameName(this.#disk, { path, to: target }, this))
    })
  }

  unlink(path: string): Promise<void> {
    return this.#run({ operation: 'unlink', path, syscall: 'unlink', changesDisk: true }, ({ path: at }) => {
      this.#changed(unlinkName(this.#disk, at, this))
    })
  }

  makeDirectory(path: string): Promise<void> {
    const request = { operation: 'makeDirectory', path, syscall: 'mkdir', changesDisk: true } as const
    return this.#run(request, ({ path: at }) => {
      this.#changed(makeDirectoryName(this.#disk, at, this))
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
   * Locks belong to open files: the one that holds a lock may take it again, another one on the same inode
   * not.
   */
  async lock(file: File): Promise<boolean> {
    if (!(file instanceof SimulatedFile) || !file.isOn(this.#host)) {
      throw new TypeError('Expected `file` to be an open file of this file system')
    }
    const request = { operation: 'lock', path: file.path, syscall: 'fcntl', changesDisk: false } as const
    return await this.#run(request, () => file.lock())
  }

  /** Tells of changes in a later turn of the event loop, once for all until then. What is no directory gives no hints. */
  watch(directory: string, onChange: () => void): () => void {
    const node = this.#disk.find(normalisePath(directory))
    return node instanceof DirectoryNode ? this.#watchers.add(node, onChange) : () => undefined
  }

  // For tests: what is on the disk

  /** A copy of the visible bytes of a file. */
  readFile(path: string): Buffer {
    return Buffer.from(this.#disk.getFile(normalisePath(path), 'open').visible.view())
  }

  /**
   * Makes a file with this content, or gives it to the one that is there, its directories included: all of it
   * visible and durable at once.
   */
  writeFile(path: string, content: string | Uint8Array): void {
    // Buffer.from copies both texts and bytes.
    const bytes = new Bytes(typeof content === 'string' ? Buffer.from(content) : Buffer.from(content))
    this.#watchers.changed(this.#disk.putFile(normalisePath(path), bytes))
  }

  /** Makes a directory and those above it where they are missing, visible and durable at once. */
  addDirectory(path: string): void {
    this.#disk.ensureDirectory(normalisePath(path))
  }

  /** Whether anything is visible at the path. */
  exists(path: string): boolean {
    return typeof this.#disk.find(normalisePath(path)) !== 'string'
  }

  /** The visible names in a directory, sorted. */
  names(directory: string): string[] {
    return [...this.#disk.getDirectory(normalisePath(directory), 'scandir').visible.keys()].toSorted()
  }

  /** A copy of every visible file, by path. Directories show only in the paths. */
  snapshot(): Map<string, Buffer> {
    return this.#disk.snapshot()
  }

  /**
   * The distinct states in which a crash at this moment may leave the disk, as new file systems: independent
   * of this one and of each other, everything in them durable, nothing open, locked or set to fail.
   *
   * The moment is that of the call; the states are made as they are taken, and cost little more than their
   * names until they are written to. Of a state equal to an earlier one in names and bytes nothing is seen.
   */
  crashStates(options: CrashOptions = {}): Generator<SimulatedFileSystem, void, undefined> {
    return this.#images(crashDisks(this.#disk.clone(), options))
  }

  /**
   * The state after a crash that kept only what is durable (`none`) or all that is visible (`all`), as a new
   * file system in which everything is durable.
   */
  afterCrash(options: { readonly keep: 'all' | 'none' }): SimulatedFileSystem {
    return this.#image(crashDisk(this.#disk.clone(), options.keep))
  }

  /**
   * The state after the process was killed and the system lives on, as a new file system: all that was
   * visible is, what was pending is pending and what was lost is lost, but nothing is open, locked or set to
   * fail.
   */
  afterKill(): SimulatedFileSystem {
    return this.#image(this.#disk.clone())
  }

  /** How many operations were applied so far, failed ones included. */
  get operations(): number {
    return this.#gate.operations
  }

  /**
   * Calls the listener before each operation is applied, when the disk is still as it was: the moment to take
   * crash states. What it throws becomes the failure of the operation. Returns the function that ends it.
   */
  onOperation(listener: (operation: Operation) => void): () => void {
    return this.#gate.listen(listener)
  }

  /**
   * Stops the process before the operation with this index, 0 for the first: it and all after it reject with
   * a {@link SimulatedStopError} and change nothing. Go on with `crashStates` or `afterKill`.
   */
  stopAt(index: number): void {
    this.#gate.stopAt(index)
  }

  /** Whether an operation was asked for after the process had stopped. */
  get isStopped(): boolean {
    return this.#gate.isStopped
  }

  /**
   * Makes operations fail, without effect: those that match, or all for which the function says so. An
   * `Error` is thrown as it is.
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

  /** Makes writes write fewer bytes than asked, without an error. */
  shortWriteOn(match: ShortWriteMatch): Fault {
    return this.#gate.faults.shorten(match)
  }

  /** Ends all faults. */
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
      // Counted anew each time, which only those pay who set a capacity.
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
   * How many bytes all visible files together may have. A write that needs more writes what fits; when
   * nothing fits it fails with `ENOSPC`. Names take no room. Crash states keep it. @default Infinity
   */
  readonly capacityBytes?: number
  /** Whether every change but a sync fails with `EROFS`. Crash states keep it. @default false */
  readonly readOnly?: boolean
}

/** @throws {TypeError} for a name that is not known. */
export function checkedOptions(options: SimulatedFileSystemOptions): Required<SimulatedFileSystemOptions> {
  const { capacityBytes = Infinity, readOnly = false, ...rest } = options
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) throw new TypeError(`Unknown option \`${unknown}\` of SimulatedFileSystem`)
  return { capacityBytes, readOnly }
}
