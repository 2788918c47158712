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
  /** Answers the call of `next` that waits. */
  #stopWaiting: () => void = () => {}
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
   * Ends the iteration. Calls of `next` that wait are answered at once: done. Resolves when the file is closed, for which
   * it waits no longer than for a read of the disk that is under way.
   */
  return(): Promise<IteratorResult<Item, undefined>> {
    const isFirst = !this.#isFinished
    this.#isFinished = true
    this.#stopWaiting()
    return this.#inOrder(async () => {
      if (isFirst) {
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
        const isQueued = await this.#unlessLeft(this.#replay.isQueued())
        this.#mayBeQueued = false
        if (isQueued) return (await this.#reader.read()) as IteratorYieldResult<Item>
      }
      const hasItem =
        this.#replay.hasItem || (!this.#isFinished && (await this.#unlessLeft(this.#replay.advance())))
      if (hasItem && !this.#isFinished) return { done: false, value: this.#replay.take() }
    } catch (error) {
      this.#finish()
      throw error
    }
    this.#finish()
    return { done: true, value: undefined }
  }

  /** What is waited for, or false as soon as the iterator is left: an item that comes later stays for the next reader. */
  #unlessLeft(waiting: Promise<boolean>): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#stopWaiting = () => resolve(false)
      waiting.then(resolve, reject)
    })
  }

  #finish(): void {
    // Once it is left, return() frees the stream.
    if (this.#isFinished) return
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
