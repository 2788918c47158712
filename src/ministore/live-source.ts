import type { DiskSource } from './disk-source.ts'
import type { JournalSource, JournalView } from './journal-source.ts'
import type { JournalWriter } from './journal-writer.ts'

/** A journal as its writer in this thread knows it: nothing is polled, nothing unacknowledged is seen. */
export class LiveSource implements JournalSource {
  readonly #writer: JournalWriter
  readonly #disk: DiskSource
  #isOver = false

  /** @param disk where a stream looks that outlives its store. */
  constructor(writer: JournalWriter, disk: DiskSource) {
    this.#writer = writer
    this.#disk = disk
  }

  get path(): string {
    return this.#writer.files.path
  }

  /** The writer's view, once no rename is under way; of a writer that is closed or poisoned, what is on the disk. */
  async look(): Promise<JournalView> {
    await this.#writer.namesSettled()
    return this.#writer.isSound ? this.#writer.view() : this.#disk.look()
  }

  async changedSince(view: JournalView, { signal }: { readonly signal: AbortSignal }): Promise<boolean> {
    while (this.#writer.isAt(view.tail)) {
      this.#writer.assertSound()
      if (this.#writer.isClosed) return false
      await this.#writer.changed(signal)
    }
    this.#writer.assertSound()
    if (this.#writer.isClosed) {
      // What was acknowledged before is read on; what another writer adds is not this store's.
      if (this.#isOver) return false
      this.#isOver = true
    }
    return true
  }

  close(): void {
    this.#disk.close()
  }
}
