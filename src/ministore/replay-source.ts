import type { UnderlyingSource } from 'node:stream/web'

import { whenAborted } from '../async.ts'
import type { JournalCursor } from './journal-cursor.ts'

type ReplayCursor = Pick<JournalCursor<unknown>, 'hasRecord' | 'advance' | 'close'>

/**
 * What a stream, its reader and its iterator share: the cursor, and the end of the underlying stream.
 *
 * Reader and iterator take items straight from the cursor, past the stream's queue, which costs Node several times as
 * much. That they never meet an item in it is {@link pull}'s part: nothing is put there that nobody asked for.
 */
export class ReplaySource<Item> implements UnderlyingSource<Item> {
  readonly #cursor: ReplayCursor
  readonly #takeItem: () => Item
  readonly #signal: AbortSignal | undefined
  #controller: ReadableStreamDefaultController<Item> | undefined
  #isEnded = false
  #isBegun = false
  #advancing: Promise<boolean> | undefined
  #forgetSignal: () => void = () => {}
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
  }

  /** Listens to the signal from now on. Not before the stream is first read: one that never is would be held by it. */
  #begin(): void {
    this.#isBegun = true
    if (this.#signal !== undefined) this.#forgetSignal = whenAborted(this.#signal, this.#onAbort)
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

  /**
   * Loads the next item; false at the end. Rejects once the stream has failed. Calls that overlap have one answer: one
   * that asked may have left, and the next goes on with what is under way.
   */
  advance(): Promise<boolean> {
    this.#advancing ??= this.#advance().finally(() => {
      this.#advancing = undefined
    })
    return this.#advancing
  }

  async #advance(): Promise<boolean> {
    if (!this.#isBegun && !this.#isEnded) this.#begin()
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

  readonly #onAbort = (): void => {
    const reason: unknown = this.#signal?.reason
    // An iterator that waits learns of it through its own advance(), a reader through the controller.
    this.#fail(reason)
    // Should the file not close, the reason is what the consumer is told all the same.
    this.#cursor.close(reason).catch(() => {})
  }
}
