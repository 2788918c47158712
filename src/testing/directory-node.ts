import { type Fate, FileNode } from './file-node.ts'

export type Node = FileNode | DirectoryNode

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

/**
 * A directory: its visible names, its durable names, and the changes between the two.
 *
 * Invariant: the durable names plus all changes, in order, give the visible names.
 */
export class DirectoryNode {
  readonly inode: number
  parent: DirectoryNode | undefined
  name = ''
  visible: Map<string, Node> = new Map()
  durable: Map<string, Node> = new Map()
  changes: DirectoryChange[] = []

  constructor(inode: number) {
    this.inode = inode
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
    applyDirectoryChange(this.visible, change)
    if (change.puts !== undefined && change.node !== undefined) {
      change.node.parent = this
      change.node.name = change.puts
      if (change.node instanceof FileNode) change.node.links += 1
    }
    this.changes.push(change)
    this.#fold()
  }

  settle(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'settled'
    this.#fold()
  }

  drop(): void {
    for (const change of this.changes) if (change.fate === 'pending') change.fate = 'lost'
  }

  #fold(): void {
    let folded = 0
    for (const change of this.changes) {
      if (change.fate !== 'settled') break
      applyDirectoryChange(this.durable, change)
      folded += 1
    }
    this.changes.splice(0, folded)
  }
}

/**
 * Applies a change to names that may differ from those it was made on, since a crash may have
 * skipped earlier changes. The change still writes its own names, like a directory block that
 * reached the disk alone.
 */
export function applyDirectoryChange(names: Map<string, Node>, change: DirectoryChange): void {
  const { removes, puts, node } = change
  if (removes !== undefined) names.delete(removes)
  if (puts !== undefined && node !== undefined) names.set(puts, node)
}

interface Watcher {
  readonly directory: DirectoryNode
  readonly onChange: () => void
  isDue: boolean
}

/** The callbacks that watch directories for changes. */
export class Watchers {
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
