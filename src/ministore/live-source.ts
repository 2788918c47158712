import type { JournalSource, JournalView } from './journal-source.ts'
import type { JournalWriter } from './journal-writer.ts'

/** A journal as its writer in this process knows it: nothing is polled, nothing unacknowledged is seen. */
export class LiveSource implements JournalSource {
  readonly #writer: JournalWriter

  constructor(writer: JournalWriter) {
    this.#writer = writer
  }

  get path(): string {
    return this.#writer.files.path
  }

  look(): Promise<JournalView> {
    return Promise.resolve(this.#writer.view())
  }

  async changedSince(view: JournalView, signal: AbortSignal): Promise<boolean> {
    while (this.#isSame(view)) {
      if (this.#writer.isClosed) return false
      this.#writer.assertSound()
      await settledOrAborted(this.#writer.changed(), signal)
    }
    return true
  }

  close(): void {}

  #isSame(view: JournalView): boolean {
    const { end } = this.#writer.view()
    return end?.firstSequence === view.end?.firstSequence && end?.bytes === view.end?.bytes
  }
}

/** Waits for a promise, or rejects with the signal's reason as soon as it is aborted. */
export function settledOrAborted(promise: Promise<unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise
      .then(() => resolve(), reject)
      .finally(() => signal.removeEventListener('abort', onAbort))
  })
}
