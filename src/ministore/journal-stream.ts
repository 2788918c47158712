import type { ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader } from 'node:stream/web'

import { JournalIterator } from './journal-iterator.ts'
import { JournalReader } from './journal-reader.ts'
import type { ReplaySource } from './replay-source.ts'

/**
 * A replay of a journal: a WHATWG `ReadableStream` and an `AsyncIterable`, made by `stream()` and `entries()`.
 *
 * It opens nothing until it is first read, holds one segment file and two buffers of lines at a time, and
 * reads on only when asked, so a slow reader costs no memory. It is one-shot and locked while it is consumed. Its
 * file is closed at the end, on an error, on `break`, `return()`, `cancel()`, and when its signal is aborted. `return()`
 * and `cancel()` answer at once, also while a `next()` or a `read()` waits: only a call of the disk that is under way is
 * waited for, since its file cannot be closed before.
 *
 * `for await` and `getReader` take records straight from the block that was read, past the stream's queue: one resolved
 * promise a record. Everything else a ReadableStream can do goes through the queue: `pipeThrough`, `pipeTo`, `tee`.
 *
 * What it calls of yours (the codec, the schema, `salvage`) runs in the asynchronous context in which the stream was made,
 * as the other functions of a stream do that are given when it is made: records are read many at a time, for many reads.
 *
 * Errors come in their place: after every good record before them. See `StreamOptions` for what may go wrong.
 */
export class JournalStream<Item> extends ReadableStream<Item> {
  readonly #replay: ReplaySource<Item>

  /** @internal */
  constructor(replay: ReplaySource<Item>) {
    super(replay, { highWaterMark: 0 })
    this.#replay = replay
  }

  /**
   * Iterates, locking the stream until the iterator ends. Leaving early cancels the stream, unless `preventCancel`.
   *
   * @throws {TypeError} when the stream is locked.
   */
  override values(options: { preventCancel?: boolean } = {}): JournalIterator<Item> {
    return new JournalIterator(this.#replay, super.getReader(), options.preventCancel === true)
  }

  /** @throws {TypeError} when the stream is locked, or when asked for a reader of bytes. */
  override getReader(options: { mode: 'byob' }): ReadableStreamBYOBReader
  override getReader(): ReadableStreamDefaultReader<Item>
  override getReader(options?: ReadableStreamGetReaderOptions): ReadableStreamReader<Item>
  override getReader(options?: ReadableStreamGetReaderOptions): ReadableStreamReader<Item> {
    if (options?.mode !== undefined) return super.getReader(options)
    return new JournalReader(this, this.#replay)
  }

  override [Symbol.asyncIterator](options?: { preventCancel?: boolean }): JournalIterator<Item> {
    return this.values(options)
  }
}
