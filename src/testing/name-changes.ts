import { posix } from 'node:path'
import type { FileAccess, OpenMode } from '../fs/file-system.ts'
import { Bytes } from './bytes.ts'
import { DirectoryNode, type Node } from './directory-node.ts'
import type { Disk } from './disk.ts'
import { FileNode } from './file-node.ts'
import { systemError } from './system-error.ts'

// The changes of names, each with the checks that Linux makes, in the order of Linux. All paths are
// normalised.

/** The effect of a name change. */
export interface NameChange {
  readonly directory: DirectoryNode
  /** The node that the name led to before. */
  readonly gone: Node | undefined
}

/**
 * Finds the file to open, or creates it. A directory gives `EISDIR`, or `EEXIST` in mode `create`.
 */
export function openName(
  disk: Disk,
  path: string,
  options: { readonly mode: OpenMode; readonly access: FileAccess | undefined; readonly readOnly: boolean },
): { readonly file: FileNode; readonly createdIn: DirectoryNode | undefined } {
  const { mode, readOnly } = options
  const found = disk.find(path)
  const makes = mode === 'create' || mode === 'ensure'
  if (found === 'ENOTDIR' || (found === 'ENOENT' && !makes)) throw systemError(found, 'open', { path })
  if (found !== 'ENOENT') {
    if (mode === 'create') throw systemError('EEXIST', 'open', { path })
    if (found instanceof DirectoryNode) throw systemError('EISDIR', 'open', { path })
    if (readOnly && mode !== 'read') throw systemError('EROFS', 'open', { path })
    return { file: found, createdIn: undefined }
  }
  const directory = disk.getParent(path, 'open')
  if (readOnly) throw systemError('EROFS', 'open', { path })
  const file = disk.newFile(new Bytes(), options.access)
  directory.record({ puts: posix.basename(path), node: file, fate: 'pending' })
  return { file, createdIn: directory }
}

/** Renames within one directory. Does nothing if both names already lead to the same file. */
export function renameName(
  disk: Disk,
  paths: { readonly path: string; readonly to: string },
  options: { readonly readOnly: boolean },
): NameChange | undefined {
  const { path, to } = paths
  if (path === '/' || to === '/') throw systemError('EBUSY', 'rename', paths)
  for (const end of [path, to]) {
    const parent = disk.find(posix.dirname(end))
    if (typeof parent === 'string') throw systemError(parent, 'rename', paths)
    if (parent instanceof FileNode) throw systemError('ENOTDIR', 'rename', paths)
  }
  if (options.readOnly) throw systemError('EROFS', 'rename', paths)
  const directory = disk.getParent(path, 'rename')
  const node = directory.visible.get(posix.basename(path))
  const gone = directory.visible.get(posix.basename(to))
  if (node === undefined) throw systemError('ENOENT', 'rename', paths)
  if (disk.getParent(to, 'rename') !== directory) throw systemError('EXDEV', 'rename', paths)
  if (node === gone) return undefined
  checkReplaceable({ node, gone }, paths)
  directory.record({ removes: posix.basename(path), puts: posix.basename(to), node, fate: 'pending' })
  return { directory, gone }
}

function checkReplaceable(
  nodes: { readonly node: Node; readonly gone: Node | undefined },
  paths: { readonly path: string; readonly to: string },
): void {
  const { node, gone } = nodes
  if (node instanceof FileNode) {
    if (gone instanceof DirectoryNode) throw systemError('EISDIR', 'rename', paths)
    return
  }
  if (gone instanceof FileNode) throw systemError('ENOTDIR', 'rename', paths)
  if (gone !== undefined && gone.visible.size > 0) throw systemError('ENOTEMPTY', 'rename', paths)
}

export function unlinkName(disk: Disk, path: string, options: { readonly readOnly: boolean }): NameChange {
  if (options.readOnly) throw systemError('EROFS', 'unlink', { path })
  const gone = disk.getFile(path, 'unlink')
  const directory = disk.getParent(path, 'unlink')
  directory.record({ removes: posix.basename(path), fate: 'pending' })
  return { directory, gone }
}

export function makeDirectoryName(
  disk: Disk,
  path: string,
  options: { readonly readOnly: boolean },
): NameChange {
  const directory = disk.getParent(path, 'mkdir')
  const isTaken = path === '/' || directory.visible.has(posix.basename(path))
  if (isTaken) throw systemError('EEXIST', 'mkdir', { path })
  if (options.readOnly) throw systemError('EROFS', 'mkdir', { path })
  directory.record({ puts: posix.basename(path), node: disk.newDirectory(), fate: 'pending' })
  return { directory, gone: undefined }
}
