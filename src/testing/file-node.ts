import type { FileAccess } from '../fs/file-system.ts'
import type { Bytes } from './bytes.ts'
import type { DirectoryNode } from './directory-node.ts'

/**
 * The state of a change. A change is `pending` until a sync. After a successful sync it is
 * `settled` and part of every crash state. After a failed sync that drops changes it is `lost`, and
 * no later sync can settle it.
 */
export type Fate = 'pending' | 'lost' | 'settled'

/** A change of a file's content. Without `bytes` it sets the length to `position`. */
export interface FileChange {
  readonly position: number
  readonly bytes: Uint8Array | undefined
  fate: Fate
}

/**
 * A file apart from its names: its visible content, its durable content, and the changes between
 * the two.
 *
 * Invariant: the durable content plus all changes, in order, gives the visible content.
 */
export class FileNode {
  readonly inode: number
  /** The directory and the newest name in it. Both are kept when the name is removed. */
  parent: DirectoryNode | undefined
  name = ''
  /** How many visible names lead to this file. */
  links = 0
  /** How many open files use this node. */
  opens = 0
  /** The open file that holds the lock. */
  lockedBy: object | undefined
  visible: Bytes
  durable: Bytes
  changes: FileChange[] = []
  /** Set when the file is created. A crash does not undo it. */
  readonly access: Required<FileAccess>

  constructor(inode: number, content: Bytes, access: FileAccess = {}) {
    this.inode = inode
    const { mode = 0o644, uid = 0, gid = 0 } = access
    this.access = { mode: 0o100000 | (mode & 0o777), uid, gid }
    this.durable = content
    this.visible = content.fork()
  }

  write(bytes: Uint8Array, position: number): void {
    this.visible.write(bytes, position)
    // Copied because the caller may reuse its buffer while the write is pending. `slice` of a
    // Buffer would not copy.
    this.changes.push({ position, bytes: Buffer.from(bytes), fate: 'pending' })
  }

  truncate(length: number): void {
    this.visible.truncate(length)
    this.changes.push({ position: length, bytes: undefined, fate: 'pending' })
  }

  /** Records a successful sync: pending changes become durable, lost ones stay lost. */
  settle(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'settled'
    // Changes after a lost one stay in the list, because their result depends on how much of the
    // lost one survived.
    let folded = 0
    for (const change of this.changes) {
      if (change.fate !== 'settled') break
      applyFileChange(this.durable, change)
      folded += 1
    }
    this.changes.splice(0, folded)
  }

  /**
   * Records a failed sync: the kernel treats the pending changes as written, although they may not
   * be.
   */
  drop(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'lost'
  }

  /** Replaces the whole content, durably. */
  replace(content: Bytes): void {
    this.durable = content
    this.visible = content.fork()
    this.changes = []
  }

  clone(): FileNode {
    const copy = new FileNode(this.inode, this.durable.fork(), this.access)
    copy.visible = this.visible.fork()
    copy.name = this.name
    copy.changes = this.changes.map((change) => ({ ...change }))
    return copy
  }
}

export function applyFileChange(content: Bytes, { position, bytes }: FileChange): void {
  if (bytes === undefined) content.truncate(position)
  else content.write(bytes, position)
}
