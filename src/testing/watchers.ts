import type { DirectoryNode } from './directory-node.ts'

interface Watcher {
  readonly directory: DirectoryNode
  readonly onChange: () => void
  isDue: boolean
}

/** Those who want to hear of changes in a directory. */
export class Watchers {
  readonly #watchers = new Set<Watcher>()

  add(directory: DirectoryNode, onChange: () => void): () => void {
    const watcher: Watcher = { directory, onChange, isDue: false }
    this.#watchers.add(watcher)
    return () => {
      this.#watchers.delete(watcher)
    }
  }

  /** Tells in a later turn of the event loop, once for all changes until then. */
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
