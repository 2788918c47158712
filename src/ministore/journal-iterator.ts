import type { ReplaySource } from './replay-source.ts'

/** Iterates a {@link JournalStream}. Calls of `next` may overlap; they are answered in order. */
export class JournalIterator<Item> implements AsyncIterableIterator<Item, undefined, void> {
  readonly #replay: ReplaySource<Item>
  readonly #reader: ReadableStreamDefaultReader<Item>
  readonly #preventCancel: boolean
  /** Whether the stream's queue may hold an item: a reader asked for one and let go before it came. */
  #mayBeQueued: boolean
  /** Settles when all that was asked for before is answered; undefined when nothing is under way. */
  #last: Promise<unknown> | undefined
  #isFinished = false

  /** @internal */
  constructor(replay: ReplaySource<Item>, reader: ReadableStreamDefaultReader<Item>, preventCancel: boolean) {
    this.#replay = replay
    this.#reader = reader
    this.#preventCancel = preventCancel
    this.#mayBeQueued = replay.mayBeQueued
  }

  next(): Promise<IteratorResult<Item, undefined>> {
    if (this.#last === undefined && this.#replay.hasItem && !this.#isFinished && !this.#mayBeQueued) {
      return Promise.resolve({ done: false, value: this.#replay.take() })
    }
    return this.#inOrder(() => this.#next())
  }

  /**
   * Ends the iteration, after the calls of `next` that came before. One that waits for records to come, as that of a
   * follower may for long, is answered at once: done.
   */
  return(): Promise<IteratorResult<Item, undefined>> {
    if (!this.#preventCancel) this.#replay.endFollow()
    return this.#inOrder(async () => {
      if (!this.#isFinished) {
        this.#isFinished = true
        try {
          if (!this.#preventCancel && !this.#replay.isEnded) await this.#reader.cancel()
        } finally {
          this.#reader.releaseLock()
        }
      }
      return { done: true, value: undefined }
    })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  async #next(): Promise<IteratorResult<Item, undefined>> {
    if (this.#isFinished) return { done: true, value: undefined }
    try {
      if (this.#mayBeQueued) {
        this.#mayBeQueued = false
        if (await this.#replay.isQueued()) return (await this.#reader.read()) as IteratorYieldResult<Item>
      }
      if (this.#replay.hasItem || (await this.#replay.advance())) return { done: false, value: this.#replay.take() }
    } catch (error) {
      this.#finish()
      throw error
    }
    this.#finish()
    return { done: true, value: undefined }
  }

  #finish(): void {
    this.#isFinished = true
    this.#reader.releaseLock()
  }

  #inOrder<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last === undefined ? task() : this.#last.then(task, task)
    this.#last = result
    const forget = (): void => {
      if (this.#last === result) this.#last = undefined
    }
    result.then(forget, forget)
    return result
  }
}
