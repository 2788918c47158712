import type { ReadableStreamReadResult } from 'node:stream/web'

import type { ReplaySource } from './replay-source.ts'

/**
 * The reader of a {@link JournalStream}: a `ReadableStreamDefaultReader` that answers from the block that was read,
 * past the stream's queue, when a record is loaded and nothing asked for earlier is still on its way.
 */
export class JournalReader<Item> extends ReadableStreamDefaultReader<Item> {
  readonly #replay: ReplaySource<Item>
  /** Whether the stream's queue may hold an item: one before this one asked for it and let go before it came. */
  #mayBeQueued: boolean
  /** Reads that wait for the stream: those after them must wait as well, or they would overtake. */
  #waiting = 0
  #isReleased = false

  /** @internal */
  constructor(stream: ReadableStream<Item>, replay: ReplaySource<Item>) {
    super(stream)
    this.#replay = replay
    this.#mayBeQueued = replay.mayBeQueued
  }

  override read(): Promise<ReadableStreamReadResult<Item>> {
    const replay = this.#replay
    if (replay.hasItem && this.#waiting === 0 && !this.#isReleased && !this.#isQueued()) {
      return Promise.resolve({ done: false, value: replay.take() })
    }
    const reading = super.read()
    this.#waiting++
    // Before whoever asked goes on, since this is the first to wait for it.
    const settle = (): void => {
      this.#waiting--
    }
    reading.then(settle, settle)
    return reading
  }

  override releaseLock(): void {
    super.releaseLock()
    this.#isReleased = true
  }

  #isQueued(): boolean {
    this.#mayBeQueued &&= this.#replay.mayBeQueued
    return this.#mayBeQueued
  }
}
