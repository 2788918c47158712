import type { DiskSource } from './disk-source.ts'
import type { JournalSource, JournalView } from './journal-source.ts'
import type { JournalWriter } from './journal-writer.ts'

/** A journal as its writer in this thread knows it: nothing is polled, nothing unacknowledged is seen. */
export class LiveSource implements JournalSource {
  readonly #writer: JournalWriter
  readonly #disk: DiskSource

  /** @param disk where a stream looks that outlives its store. */
  constructor(writer: JournalWriter, disk: DiskSource) {
    this.#writer = writer
    this.#disk = disk
  }

  get path(): string {
    return this.#writer.files.path
  }

  /**
   * The writer's view, once no rename is under way. Of a writer that is closed or poisoned, the names that are on the
   * disk by now and the writer's end: what another writer adds behind it is not this store's.
   */
  async look(options: Parameters<JournalSource['look']>[0] = {}): Promise<JournalView> {
    await this.#writer.namesSettled()
    if (this.#writer.isSound) return this.#writer.view()
    const { segments } = await this.#disk.look({ report: options.report })
    return { segments, tail: this.#writer.view().tail }
  }

  async changedSince(view: JournalView, { signal }: { readonly signal: AbortSignal }): Promise<boolean> {
    while (this.#writer.isAt(view.tail)) {
      this.#writer.assertSound()
      if (this.#writer.isClosed) return false
      await this.#writer.changed(signal)
    }
    return true
  }

  close(): void {
    this.#disk.close()
  }
}
