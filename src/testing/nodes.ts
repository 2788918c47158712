import type { FileAccess } from '../fs/file-system.ts'
import type { Bytes } from './bytes.ts'

/**
 * The state of a change. A change is `pending` until a sync. After a successful sync it is
 * `settled` and part of every crash state. After a failed sync that drops changes it is `lost`, and
 * no later sync can settle it.
 */
export type Fate = 'pending' | 'lost' | 'settled'

/** A file or a directory, apart from its names. */
export type Node = FileNode | DirectoryNode

/**
 * The part that files and directories share.
 *
 * Invariant: the durable content plus all changes, in order, gives the visible content.
 */
abstract class ChangingNode<Content, Change extends { fate: Fate }> {
  readonly inode: number
  /** The directory and the newest name in it. Both are kept when the name is removed. */
  parent: DirectoryNode | undefined
  name = ''
  visible: Content
  durable: Content
  changes: Change[] = []

  constructor(inode: number, content: { readonly visible: Content; readonly durable: Content }) {
    this.inode = inode
    this.visible = content.visible
    this.durable = content.durable
  }

  /** Applies a change to a content of this node. */
  abstract apply(content: Content, change: Change): void

  /** Records a successful sync: pending changes become durable, lost ones stay lost. */
  settle(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'settled'
    this.fold()
  }

  /**
   * Records a failed sync: the kernel treats the pending changes as written, although they may not
   * be.
   */
  drop(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'lost'
  }

  /**
   * Applies settled changes to the durable content. Changes after a lost or pending one stay in the
   * list, because their result depends on how much of that one survives.
   */
  protected fold(): void {
    const unsettled = this.changes.findIndex(({ fate }) => fate !== 'settled')
    const settled = this.changes.splice(0, unsettled === -1 ? this.changes.length : unsettled)
    for (const change of settled) this.apply(this.durable, change)
  }
}

/** A change of a file's content. Without `bytes` it sets the length to `position`. */
export interface FileChange {
  readonly position: number
  readonly bytes: Uint8Array | undefined
  fate: Fate
}

/** A file: its visible content, its durable content, and the changes between the two. */
export class FileNode extends ChangingNode<Bytes, FileChange> {
  /** How many visible names lead to this file. */
  links = 0
  /** How many open files use this node. */
  opens = 0
  /** The open file that holds the lock. */
  lockedBy: object | undefined
  /** Set when the file is created. A crash does not undo it. */
  readonly access: Required<FileAccess>

  constructor(inode: number, content: Bytes, access: FileAccess = {}) {
    super(inode, { durable: content, visible: content.fork() })
    const { mode = 0o644, uid = 0, gid = 0 } = access
    this.access = { mode: 0o100000 | (mode & 0o777), uid, gid }
  }

  override apply(content: Bytes, { position, bytes }: FileChange): void {
    if (bytes === undefined) content.truncate(position)
    else content.write(bytes, position)
  }

  write(bytes: Uint8Array, position: number): void {
    // Copied because the caller may reuse its buffer while the write is pending. `slice` of a
    // Buffer would not copy.
    this.#change(Buffer.from(bytes), position)
  }

  truncate(length: number): void {
    this.#change(undefined, length)
  }

  #change(bytes: Uint8Array | undefined, position: number): void {
    const change: FileChange = { position, bytes, fate: 'pending' }
    this.apply(this.visible, change)
    this.changes.push(change)
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

/**
 * A change of names in one step: the name `removes` disappears, then the name `puts` leads to
 * `node`. Creating a file or directory only puts, unlinking only removes, and renaming does both.
 */
export interface DirectoryChange {
  readonly removes?: string
  readonly puts?: string
  readonly node?: Node
  fate: Fate
}

/** A directory: its visible names, its durable names, and the changes between the two. */
export class DirectoryNode extends ChangingNode<Map<string, Node>, DirectoryChange> {
  constructor(inode: number) {
    super(inode, { durable: new Map(), visible: new Map() })
  }

  /**
   * Applies a change to names that may differ from those it was made on, since a crash may have
   * skipped earlier changes. The change still writes its own names, like a directory block that
   * reached the disk alone.
   */
  override apply(names: Map<string, Node>, { removes, puts, node }: DirectoryChange): void {
    if (removes !== undefined) names.delete(removes)
    if (puts !== undefined && node !== undefined) names.set(puts, node)
  }

  /**
   * Makes a change visible. With the fate `settled` the change is part of every crash state, even
   * while earlier changes are pending.
   */
  record(change: DirectoryChange): void {
    for (const name of [change.removes, change.puts]) {
      const gone = name === undefined ? undefined : this.visible.get(name)
      if (gone instanceof FileNode) gone.links -= 1
    }
    this.apply(this.visible, change)
    if (change.puts !== undefined && change.node !== undefined) {
      change.node.parent = this
      change.node.name = change.puts
      if (change.node instanceof FileNode) change.node.links += 1
    }
    this.changes.push(change)
    this.fold()
  }
}
