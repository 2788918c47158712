import type { FileAccess } from '../fs/file-system.ts'
import type { Bytes } from './bytes.ts'
import type { DirectoryNode } from './directory-node.ts'

/**
 * Where a change stands: `pending` until a sync; `settled` after it, part of every crash state; `lost` when
 * that sync failed, and then no later sync can settle it.
 */
export type Fate = 'pending' | 'lost' | 'settled'

/** A change of a file's content. Without `bytes` it sets the length to `position`. */
export interface FileChange {
  readonly position: number
  readonly bytes: Uint8Array | undefined
  fate: Fate
}

/** A file apart from its names: what is visible, what is durable, and the changes between the two. */
export class FileNode {
  readonly inode: number
  /** The directory and the newest name in it; kept when the name is removed. */
  parent: DirectoryNode | undefined
  name = ''
  /** How many visible names lead here. */
  links = 0
  /** How many open files there are. */
  opens = 0
  /** The open file that holds the lock. */
  lockedBy: object | undefined
  visible: Bytes
  durable: Bytes
  changes: FileChange[] = []
  /** Not a change that a crash may undo: it is made with the file. */
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
    // Copied, since the caller may use its buffer again while the write is pending; `slice` of a Buffer would
    // not copy.
    this.changes.push({ position, bytes: Buffer.from(bytes), fate: 'pending' })
  }

  truncate(length: number): void {
    this.visible.truncate(length)
    this.changes.push({ position: length, bytes: undefined, fate: 'pending' })
  }

  /** A sync that worked: pending changes become durable, lost ones stay lost. */
  settle(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'settled'
    // Changes behind a lost one stay in the list: what they leave depends on how much of the lost one
    // survived.
    let folded = 0
    for (const change of this.changes) {
      if (change.fate !== 'settled') break
      applyFileChange(this.durable, change)
      folded += 1
    }
    this.changes.splice(0, folded)
  }

  /** A sync that failed: the kernel takes the pending changes for written, and they may not be. */
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
