import { posix } from 'node:path'

import type { FileAccess, OpenMode } from '../fs/file-system.ts'
import { Bytes } from './bytes.ts'
import { DirectoryNode, FileNode, type Node } from './nodes.ts'
import { type OperationRequest, systemError } from './operation.ts'

/** The effect of a name change. */
export interface NameChange {
  readonly directory: DirectoryNode
  /** The node that the name led to before. */
  readonly gone: Node | undefined
}

interface Access {
  /** Whether changes of names fail with `EROFS`. */
  readonly readOnly: boolean
}

/**
 * All files and directories of one simulated file system, the lookup by path, and the changes of
 * names. The changes make the checks that Linux makes, in the order of Linux. All paths are
 * normalised.
 */
export class Disk {
  readonly root: DirectoryNode
  #highestInode: number
  readonly #freeInodes: number[] = []
  readonly #unnamed = new Set<FileNode>()

  constructor(root: DirectoryNode = new DirectoryNode(1), highestInode = 1) {
    this.root = root
    this.#highestInode = highestInode
  }

  newFile(content: Bytes = new Bytes(), access?: FileAccess): FileNode {
    return new FileNode(this.#freeInodes.pop() ?? ++this.#highestInode, content, access)
  }

  newDirectory(): DirectoryNode {
    return new DirectoryNode(this.#freeInodes.pop() ?? ++this.#highestInode)
  }

  /**
   * Must be called after a file lost a name or was closed. Once no name and no open file leads to
   * the node, the next file reuses its inode number, as on real file systems.
   */
  release(node: Node | undefined): void {
    if (!(node instanceof FileNode) || node.links > 0) return
    if (node.opens > 0) {
      this.#unnamed.add(node)
      return
    }
    this.#unnamed.delete(node)
    this.#freeInodes.push(node.inode)
  }

  /** The bytes of all visible files and of open files without a name. */
  usedBytes(): number {
    let used = 0
    for (const file of this.#unnamed) used += file.visible.length
    for (const [, file] of this.files()) used += file.visible.length
    return used
  }

  /** Returns the node that is visible at the path, or the error code if there is none. */
  find(path: string): Node | 'ENOENT' | 'ENOTDIR' {
    let node: Node = this.root
    for (const name of path.split('/')) {
      if (name === '') continue
      if (node instanceof FileNode) return 'ENOTDIR'
      const next: Node | undefined = node.visible.get(name)
      if (next === undefined) return 'ENOENT'
      node = next
    }
    return node
  }

  /** Returns the node that is visible at the path. Throws `ENOENT` or `ENOTDIR`. */
  get(path: string, syscall: string): Node {
    const node = this.find(path)
    if (typeof node === 'string') throw systemError(node, syscall, { path })
    return node
  }

  getFile(path: string, syscall: string): FileNode {
    const node = this.get(path, syscall)
    if (node instanceof FileNode) return node
    throw systemError('EISDIR', syscall, { path })
  }

  getDirectory(path: string, syscall: string): DirectoryNode {
    const node = this.get(path, syscall)
    if (node instanceof DirectoryNode) return node
    throw systemError('ENOTDIR', syscall, { path })
  }

  /** Returns the directory that holds the last name of the path, or will hold it. */
  #parent(path: string, syscall: string, subject: { readonly path: string } = { path }): DirectoryNode {
    const parent = this.find(posix.dirname(path))
    if (typeof parent === 'string') throw systemError(parent, syscall, subject)
    if (parent instanceof FileNode) throw systemError('ENOTDIR', syscall, subject)
    return parent
  }

  /**
   * Finds the file to open, or creates it. A directory gives `EISDIR`, or `EEXIST` in mode
   * `create`.
   */
  open(
    path: string,
    options: Access & { readonly mode: OpenMode; readonly access: FileAccess | undefined },
  ): { readonly file: FileNode; readonly createdIn: DirectoryNode | undefined } {
    const { mode, readOnly } = options
    const found = this.find(path)
    const creates = mode === 'create' || mode === 'ensure'
    if (found === 'ENOTDIR' || (found === 'ENOENT' && !creates)) throw systemError(found, 'open', { path })
    if (found !== 'ENOENT') {
      if (mode === 'create') throw systemError('EEXIST', 'open', { path })
      if (found instanceof DirectoryNode) throw systemError('EISDIR', 'open', { path })
      if (readOnly && mode !== 'read') throw systemError('EROFS', 'open', { path })
      return { file: found, createdIn: undefined }
    }
    const directory = this.#parent(path, 'open')
    if (readOnly) throw systemError('EROFS', 'open', { path })
    const file = this.newFile(new Bytes(), options.access)
    directory.record({ puts: posix.basename(path), node: file, fate: 'pending' })
    return { file, createdIn: directory }
  }

  /** Renames within one directory. Does nothing if both names already lead to the same file. */
  rename(paths: { readonly path: string; readonly to: string }, { readOnly }: Access): NameChange | undefined {
    const { path, to } = paths
    if (path === '/' || to === '/') throw systemError('EBUSY', 'rename', paths)
    const directory = this.#parent(path, 'rename', paths)
    const target = this.#parent(to, 'rename', paths)
    if (readOnly) throw systemError('EROFS', 'rename', paths)
    const node = directory.visible.get(posix.basename(path))
    const gone = directory.visible.get(posix.basename(to))
    if (node === undefined) throw systemError('ENOENT', 'rename', paths)
    if (target !== directory) throw systemError('EXDEV', 'rename', paths)
    if (node === gone) return undefined
    const isDirectory = node instanceof DirectoryNode
    if (!isDirectory && gone instanceof DirectoryNode) throw systemError('EISDIR', 'rename', paths)
    if (isDirectory && gone instanceof FileNode) throw systemError('ENOTDIR', 'rename', paths)
    if (gone instanceof DirectoryNode && gone.visible.size > 0) throw systemError('ENOTEMPTY', 'rename', paths)
    directory.record({ removes: posix.basename(path), puts: posix.basename(to), node, fate: 'pending' })
    return { directory, gone }
  }

  unlink(path: string, { readOnly }: Access): NameChange {
    if (readOnly) throw systemError('EROFS', 'unlink', { path })
    const gone = this.getFile(path, 'unlink')
    const directory = this.#parent(path, 'unlink')
    directory.record({ removes: posix.basename(path), fate: 'pending' })
    return { directory, gone }
  }

  makeDirectory(path: string, { readOnly }: Access): NameChange {
    const directory = this.#parent(path, 'mkdir')
    const isTaken = path === '/' || directory.visible.has(posix.basename(path))
    if (isTaken) throw systemError('EEXIST', 'mkdir', { path })
    if (readOnly) throw systemError('EROFS', 'mkdir', { path })
    directory.record({ puts: posix.basename(path), node: this.newDirectory(), fate: 'pending' })
    return { directory, gone: undefined }
  }

  /** Creates the directory and its missing parents, and makes all their names durable. */
  ensureDirectory(path: string): DirectoryNode {
    let directory = this.root
    for (const name of path.split('/')) {
      if (name === '') continue
      let next = directory.visible.get(name)
      if (next instanceof FileNode) throw systemError('ENOTDIR', 'mkdir', { path })
      next ??= this.newDirectory()
      directory.record({ puts: name, node: next, fate: 'settled' })
      directory = next
    }
    return directory
  }

  /**
   * Creates or replaces a file, durably, and creates missing parents. Returns the directory that
   * holds the file.
   */
  putFile(path: string, content: Bytes): DirectoryNode {
    const directory = this.ensureDirectory(posix.dirname(path))
    const known = directory.visible.get(posix.basename(path))
    if (path === '/' || known instanceof DirectoryNode) throw systemError('EISDIR', 'open', { path })
    const node = known ?? this.newFile()
    node.replace(content)
    directory.record({ puts: posix.basename(path), node, fate: 'settled' })
    return directory
  }

  /** Yields every visible file with its path, sorted by name within each directory. */
  *files(directory: DirectoryNode = this.root, prefix = '/'): Generator<[string, FileNode], void, undefined> {
    for (const [name, node] of [...directory.visible].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      if (node instanceof FileNode) yield [prefix + name, node]
      else yield* this.files(node, `${prefix}${name}/`)
    }
  }

  /**
   * Returns an independent disk in the same state, including pending changes. No file on it is open
   * or locked.
   */
  clone(): Disk {
    const copies = new Map<Node, Node>()
    // The root is a directory, so its copy is a directory.
    const root = cloneNode(this.root, copies) as DirectoryNode
    const copy = new Disk(root, this.#highestInode)
    copy.#freeInodes.push(...this.#freeInodes)
    return copy
  }
}

/**
 * Returns the absolute path without `.`, `..`, and doubled or trailing slashes. A relative path
 * starts at the root.
 */
export function normalisePath(path: string): string {
  return posix.resolve('/', path)
}

/** Returns the newest path of a file or directory. */
export function pathOf(node: Node): string {
  if (node.parent === undefined) return '/'
  const directory = pathOf(node.parent)
  return directory === '/' ? `/${node.name}` : `${directory}/${node.name}`
}

function cloneNode(node: Node, copies: Map<Node, Node>): Node {
  const known = copies.get(node)
  if (known !== undefined) return known
  if (node instanceof FileNode) {
    const file = node.clone()
    copies.set(node, file)
    return file
  }
  const directory = new DirectoryNode(node.inode)
  copies.set(node, directory)
  directory.name = node.name
  const adopt = (child: Node): Node => {
    const copy = cloneNode(child, copies)
    copy.parent = directory
    return copy
  }
  for (const [name, child] of node.durable) directory.durable.set(name, adopt(child))
  for (const change of node.changes) {
    const { node: child, ...rest } = change
    directory.changes.push(child === undefined ? rest : { ...rest, node: adopt(child) })
  }
  for (const [name, child] of node.visible) {
    const copy = adopt(child)
    if (copy instanceof FileNode) copy.links += 1
    directory.visible.set(name, copy)
  }
  return directory
}

/** Returns the request with its paths normalised. */
export function normaliseRequest(request: OperationRequest): OperationRequest {
  const { path, to } = request
  return { ...request, path: normalisePath(path), ...(to === undefined ? {} : { to: normalisePath(to) }) }
}
