import { setMaxListeners } from 'node:events'
import type { UnderlyingSource } from 'node:stream/web'

import type { JournalCursor } from './journal-cursor.ts'

/** A record with its sequence number, as `entries()` gives it. */
export interface JournalEntry<T> {
  readonly sequence: number
  readonly record: T
}

/**
 * A replay of a journal: a WHATWG `ReadableStream` and an `AsyncIterable`, made by `stream()` and `entries()`.
 *
 * It opens nothing until it is first read, holds one segment file and two blocks of lines at a time, and
 * reads on only when asked, so a slow reader costs no memory. It is one-shot and locked while it is consumed. Its
 * file is closed at the end, on an error, on `break`, `return()`, `cancel()`, and when its signal is aborted.
 *
 * `for await` takes records straight from the block that was read, past the stream's queue: one resolved promise
 * a record. Everything else a ReadableStream can do goes through the queue: `getReader`, `pipeThrough`, `pipeTo`,
 * `tee`, `Readable.fromWeb`.
 *
 * Errors come in their place: after every good record before them. See `StreamOptions` for what may go wrong.
 */
export class JournalStream<Item> extends ReadableStream<Item> {
  readonly #replay: Replay<Item>

  /** @internal */
  constructor(replay: Replay<Item>) {
    super(replay, { highWaterMark: 0 })
    this.#replay = replay
  }

  /**
   * Iterates, locking the stream until the iterator ends. Leaving early cancels the stream, unless `preventCancel`.
   *
   * @throws {TypeError} when the stream is locked.
   */
  override values(options: { preventCancel?: boolean } = {}): JournalIterator<Item> {
    return new JournalIterator(this.#replay, this.getReader(), options.preventCancel === true)
  }

  override [Symbol.asyncIterator](options?: { preventCancel?: boolean }): JournalIterator<Item> {
    return this.values(options)
  }
}

type ReplayCursor = Pick<JournalCursor<unknown>, 'hasRecord' | 'advance' | 'endFollow' | 'close'>

/** What a stream and its iterators share: the cursor, and the end of the underlying stream. */
export class Replay<Item> implements UnderlyingSource<Item> {
  readonly #cursor: ReplayCursor
  readonly #takeItem: () => Item
  readonly #signal: AbortSignal | undefined
  #controller: ReadableStreamDefaultController<Item> | undefined
  #isEnded = false
  #pulling: Promise<void> | undefined
  #failure: { readonly reason: unknown } | undefined

  /** @param takeItem gives the cursor's next record, or more than that, and takes it. */
  constructor(
    cursor: ReplayCursor,
    takeItem: () => Item,
    signal: AbortSignal | undefined,
  ) {
    this.#cursor = cursor
    this.#takeItem = takeItem
    this.#signal = signal
  }

  start(controller: ReadableStreamDefaultController<Item>): void {
    this.#controller = controller
    if (this.#signal?.aborted) this.#onAbort()
    else if (this.#signal !== undefined) {
      // Many streams on one signal are no leak: each lets go of it when it ends.
      setMaxListeners(0, this.#signal)
      this.#signal.addEventListener('abort', this.#onAbort, { once: true })
    }
  }

  /**
   * One item each time one is wanted, so none ever waits in the queue, and an iterator may go on where a reader
   * has stopped.
   */
  pull(controller: ReadableStreamDefaultController<Item>): void | Promise<void> {
    if (this.hasItem) controller.enqueue(this.take())
    else return (this.#pulling = this.#loadAndPull(controller))
    return undefined
  }

  /** Whether an item was asked for that nobody may have taken. */
  get mayBeQueued(): boolean {
    return this.#pulling !== undefined || (this.#controller?.desiredSize ?? 0) < 0
  }

  /** Whether the queue holds an item, once nothing is on its way there. */
  async isQueued(): Promise<boolean> {
    await this.#pulling
    return (this.#controller?.desiredSize ?? 0) < 0
  }

  endFollow(): void {
    this.#cursor.endFollow()
  }

  async cancel(reason?: unknown): Promise<void> {
    this.#forgetSignal()
    this.#isEnded = true
    await this.#cursor.close(reason)
  }

  /** Whether {@link take} has an item at once. */
  get hasItem(): boolean {
    return !this.#isEnded && this.#cursor.hasRecord
  }

  take(): Item {
    return this.#takeItem()
  }

  get isEnded(): boolean {
    return this.#isEnded
  }

  /** Loads the next item; false at the end. Rejects once the stream has failed. */
  async advance(): Promise<boolean> {
    if (this.#failure !== undefined) throw this.#failure.reason
    if (this.#isEnded) return false
    try {
      const hasItem = await this.#cursor.advance()
      if (!hasItem) this.#end()
      return hasItem
    } catch (error) {
      this.#fail(error)
      throw error
    }
  }

  async #loadAndPull(controller: ReadableStreamDefaultController<Item>): Promise<void> {
    try {
      if (await this.advance()) controller.enqueue(this.take())
    } catch {
      // The controller has the error already, and through it the reader.
    } finally {
      this.#pulling = undefined
    }
  }

  #end(): void {
    this.#forgetSignal()
    if (this.#isEnded) return
    this.#isEnded = true
    this.#controller?.close()
  }

  #fail(error: unknown): void {
    this.#forgetSignal()
    if (this.#isEnded) return
    this.#isEnded = true
    this.#failure = { reason: error }
    this.#controller?.error(error)
  }

  #forgetSignal(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }

  readonly #onAbort = (): void => {
    const reason: unknown = this.#signal?.reason
    // An iterator that waits learns of it through its own advance(), a reader through the controller.
    this.#fail(reason)
    // Should the file not close, the reason is what the consumer is told all the same.
    this.#cursor.close(reason).catch(() => {})
  }
}

/** Iterates a {@link JournalStream}. Calls of `next` may overlap; they are answered in order. */
export class JournalIterator<Item> implements AsyncIterableIterator<Item, undefined, void> {
  readonly #replay: Replay<Item>
  readonly #reader: ReadableStreamDefaultReader<Item>
  readonly #preventCancel: boolean
  /** Whether the stream's queue may hold an item: a reader asked for one and let go before it came. */
  #mayBeQueued: boolean
  /** Settles when all that was asked for before is answered; undefined when nothing is under way. */
  #last: Promise<unknown> | undefined
  #isFinished = false

  /** @internal */
  constructor(replay: Replay<Item>, reader: ReadableStreamDefaultReader<Item>, preventCancel: boolean) {
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
