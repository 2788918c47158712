import type {
  ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader, ReadableStreamReadResult,
  UnderlyingSource,
} from 'node:stream/web'

import { whenAborted } from '../async.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { JournalEntry } from '../journal/journal.ts'
import { JournalCursor } from './cursor.ts'
import type { ParserOf } from './lines.ts'
import type { ReadSettings, StreamSettings } from './settings.ts'
import { JournalViews } from './view.ts'
import type { JournalWriter } from './writer.ts'

/**
 * A replay of a journal: a WHATWG `ReadableStream` and an `AsyncIterable`, returned by `stream()`,
 * `entries()` and `bytes()`.
 *
 * The stream opens nothing until it is first read. It then holds one segment file and two buffers
 * of lines at a time. It reads more only on demand, so a slow consumer costs no extra memory.
 *
 * A stream can be consumed once and is locked while it is consumed. Its file is closed at the end
 * of the stream, on an error, on `break`, `return()` or `cancel()`, and when its signal is aborted.
 * `return()` and `cancel()` resolve without waiting for a pending `next()` or `read()`. They wait
 * only for a read of the file that is already under way, because the file cannot be closed before.
 *
 * `for await` and `getReader()` take records directly from the block that was read and bypass the
 * queue of the stream, so each record costs one resolved promise. `pipeThrough`, `pipeTo` and `tee`
 * use the queue.
 *
 * The codec, the schema and `salvage` run in the asynchronous context in which the stream was
 * created, because one read of the file decodes records for many calls.
 *
 * An error comes after every good record before it. `MiniStore.stream` lists the errors.
 */
export class JournalStream<Item> extends ReadableStream<Item> {
  readonly #replay: UnderlyingReplay<Item>

  /** @internal */
  constructor(replay: UnderlyingReplay<Item>) {
    super(replay as UnderlyingSource<Item>, { highWaterMark: 0 })
    this.#replay = replay
  }

  /**
   * Returns an iterator and locks the stream until the iterator ends. Leaving the iterator early
   * cancels the stream, unless `preventCancel` is true.
   *
   * @throws {TypeError} if the stream is locked.
   */
  override values(options: { preventCancel?: boolean } = {}): JournalIterator<Item> {
    return new JournalIterator(this.#replay, new JournalReader(this, this.#replay), options.preventCancel === true)
  }

  /**
   * Returns a reader and locks the stream until the reader releases it.
   *
   * @throws {TypeError} if the stream is locked, or if `mode` asks a stream of records for a reader
   *   that fills a buffer.
   */
  override getReader(options: { mode: 'byob' }): ReadableStreamBYOBReader
  override getReader(): ReadableStreamDefaultReader<Item>
  override getReader(options?: ReadableStreamGetReaderOptions): ReadableStreamReader<Item>
  override getReader(options?: ReadableStreamGetReaderOptions): ReadableStreamReader<Item> {
    if (options?.mode !== undefined) return super.getReader(options)
    return new JournalReader(this, this.#replay)
  }

  /** Works like {@link values}. */
  override [Symbol.asyncIterator](options?: { preventCancel?: boolean }): JournalIterator<Item> {
    return this.values(options)
  }
}

/**
 * The underlying source of a stream: a cursor, and whether the stream has ended.
 *
 * The reader takes items directly from the cursor, because the queue of the stream costs Node
 * several times as much: about as much as parsing a record. Items stay in order because
 * {@link pull} puts an item into the queue only when one was asked for.
 */
class UnderlyingReplay<Item> {
  /** A stream of bytes gives each chunk away, and also fills the buffer of a `byob` reader. */
  readonly type: 'bytes' | undefined
  readonly #cursor: ReplayCursor<unknown>
  /** Takes the next record of the cursor and returns it, alone or as an entry. */
  readonly take: () => Item
  readonly #signal: AbortSignal | undefined
  #controller: Controller<Item> | undefined
  #isEnded = false
  #forgetSignal: (() => void) | undefined
  #pulling: Promise<void> | undefined

  constructor(
    cursor: ReplayCursor<unknown>,
    take: () => Item,
    { signal, type }: { readonly signal: AbortSignal | undefined; readonly type?: 'bytes' | undefined },
  ) {
    this.#cursor = cursor
    this.take = take
    this.#signal = signal
    this.type = type
  }

  start(controller: Controller<Item>): void {
    this.#controller = controller
    if (this.#signal?.aborted) this.#onAbort()
  }

  /**
   * Enqueues one item each time one is asked for. No item is enqueued ahead of demand, so one
   * reader can continue where another has stopped.
   */
  pull(controller: Controller<Item>): void | Promise<void> {
    if (!this.hasItem) return (this.#pulling = this.#load(controller))
    controller.enqueue(this.take())
    return undefined
  }

  async cancel(reason?: unknown): Promise<void> {
    this.#end()
    await this.#cursor.close(reason)
  }

  /** Whether {@link take} can return an item now. */
  get hasItem(): boolean {
    return !this.#isEnded && this.#cursor.hasRecord
  }

  /** Whether the queue holds, or may soon hold, an item that was asked for and not taken. */
  get mayBeQueued(): boolean {
    return this.#pulling !== undefined || (this.#controller?.desiredSize ?? 0) < 0
  }

  get isEnded(): boolean {
    return this.#isEnded
  }

  /** As {@link JournalCursor.loadRecent}. */
  loadRecent(): boolean {
    return !this.#isEnded && this.#cursor.loadRecent?.() === true
  }

  /** As {@link JournalCursor.arrival}. */
  arrival(): Promise<void> | undefined {
    return this.#isEnded ? undefined : this.#cursor.arrival?.()
  }

  /** As {@link JournalCursor.stopWaiting}. */
  stopWaiting(): void {
    this.#cursor.stopWaiting?.()
  }

  async #load(controller: Controller<Item>): Promise<void> {
    try {
      // The signal is listened to from the first read on, because it would keep a stream that is
      // never read in memory.
      if (this.#signal !== undefined) this.#forgetSignal ??= whenAborted(this.#signal, this.#onAbort)
      const hasItem = !this.#isEnded && (await this.#cursor.advance())
      if (this.#isEnded) return
      if (hasItem) {
        controller.enqueue(this.take())
      } else {
        this.#end()
        controller.close()
        // Only this ends the pending read of a `byob` reader.
        controller.byobRequest?.respond(0)
      }
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#pulling = undefined
    }
  }

  #fail(error: unknown): void {
    if (this.#isEnded) return
    this.#end()
    this.#controller?.error(error)
  }

  #end(): void {
    this.#isEnded = true
    this.#forgetSignal?.()
  }

  readonly #onAbort = (): void => {
    const reason: unknown = this.#signal?.reason
    this.#fail(reason)
    // The consumer gets the reason of the abort even if the file cannot be closed.
    this.#cursor.close(reason).catch(() => {})
  }
}

/** The part of a stream's controller that a replay uses. A stream of records has no `byobRequest`. */
interface Controller<Item> extends ReadableStreamDefaultController<Item> {
  readonly byobRequest?: { respond(bytes: number): void } | null
}

const done = { done: true, value: undefined } as const

/** Iterates a {@link JournalStream}. Calls of `next` may overlap and are answered in call order. */
export class JournalIterator<Item> implements AsyncIterableIterator<Item, undefined, void> {
  readonly #replay: UnderlyingReplay<Item>
  readonly #reader: JournalReader<Item>
  readonly #preventCancel: boolean
  /** Whether the queue of the stream may hold an item, as in {@link JournalReader}. */
  #mayBeQueued: boolean
  /** Number of pending calls of `next`. */
  #waiting = 0
  /** The wait of a follower for its writer, past the queue of the stream. */
  #arrival: Promise<void> | undefined
  #isFinished = false
  #leaving: Promise<void> | undefined

  /** @internal */
  constructor(replay: UnderlyingReplay<Item>, reader: JournalReader<Item>, preventCancel: boolean) {
    this.#replay = replay
    this.#reader = reader
    this.#preventCancel = preventCancel
    this.#mayBeQueued = replay.mayBeQueued
  }

  /** Resolves with the next record. Calls may overlap; they resolve in call order. */
  next(): Promise<IteratorResult<Item, undefined>> {
    // The reader can do the same, but the fields of a subclass of a class of Node cost time.
    if (this.#isFree && (this.#replay.hasItem || this.#replay.loadRecent())) {
      return Promise.resolve({ done: false, value: this.#replay.take() })
    }
    return this.#next()
  }

  /** Returns the next record if it is loaded already, without a promise. @internal */
  takeLoaded(): Item | undefined {
    return this.#isFree && this.#replay.hasItem ? this.#replay.take() : undefined
  }

  /**
   * Ends the iteration. Pending calls of `next` resolve at once with `done`.
   *
   * Resolves when the file is closed, and waits only for a read of it that is already under way.
   * With `preventCancel`, the file stays open for the next consumer.
   */
  async return(): Promise<IteratorResult<Item, undefined>> {
    if (this.#isFinished) {
      // The first call rejects if the file cannot be closed. Later ones only wait for it.
      await this.#leaving?.catch(() => {})
    } else {
      this.#isFinished = true
      await (this.#leaving = this.#leave())
    }
    return done
  }

  /** Returns this iterator, for `for await`. */
  [Symbol.asyncIterator](): this {
    return this
  }

  /** Calls {@link return}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  /** Whether the next item may be taken directly: nothing waits for one, and none is in the queue. */
  get #isFree(): boolean {
    return this.#waiting === 0 && !this.#isFinished && !this.#mayBeQueued
  }

  async #next(): Promise<IteratorResult<Item, undefined>> {
    if (this.#isFinished) return done
    const isFirst = this.#isFree
    if (isFirst) this.#arrival = this.#replay.arrival()
    this.#waiting++
    try {
      if (this.#arrival !== undefined) {
        // Later calls, also those of a codec, await the same promise and so continue in order.
        await this.#arrival
        const isLoaded = isFirst && this.#replay.loadRecent()
        this.#arrival = undefined
        if (this.#isFinished) return done
        if (isLoaded) return { done: false, value: this.#replay.take() }
      }
      const result = await this.#reader.read()
      if (!result.done) return result
    } catch (error) {
      // An error comes once, and not from return(), which releases the reader under a pending read.
      if (this.#isFinished) return done
      this.#finish()
      throw error
    } finally {
      this.#waiting--
      this.#mayBeQueued &&= this.#replay.mayBeQueued
    }
    if (!this.#isFinished) this.#finish()
    return done
  }

  #finish(): void {
    this.#isFinished = true
    this.#reader.releaseLock()
  }

  async #leave(): Promise<void> {
    try {
      this.#replay.stopWaiting()
      if (!this.#preventCancel && !this.#replay.isEnded) await this.#reader.cancel()
    } finally {
      this.#reader.releaseLock()
    }
  }
}

/**
 * The reader of a {@link JournalStream}, a `ReadableStreamDefaultReader`.
 *
 * If a record is loaded and no earlier read is pending, `read` takes it directly from the block
 * that was read. Otherwise it uses the queue of the stream.
 */
class JournalReader<Item> extends ReadableStreamDefaultReader<Item> {
  readonly #replay: UnderlyingReplay<Item>
  /**
   * Whether the queue of the stream may hold an item that an earlier reader asked for and did not
   * wait for.
   */
  #mayBeQueued: boolean
  /** Number of pending reads. While there are any, later reads must wait too, to keep the order. */
  #waiting = 0
  #isReleased = false

  constructor(stream: ReadableStream<Item>, replay: UnderlyingReplay<Item>) {
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
    // This handler is attached first, so the count is right before the caller continues.
    const forget = (): void => {
      this.#waiting--
    }
    reading.then(forget, forget)
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

/** What a replay reads: a {@link JournalCursor}, or a cursor of another log, without a writer in this thread to wait for. */
export type ReplayCursor<T> =
  & Pick<JournalCursor<T>, 'hasRecord' | 'sequence' | 'take' | 'advance' | 'close'>
  & Partial<Pick<JournalCursor<T>, 'loadRecent' | 'arrival' | 'stopWaiting'>>

/** A replay that has not begun. The caller chooses the form of its result. */
export class Replay<T> {
  readonly #cursor: ReplayCursor<T>
  readonly #settings: StreamSettings

  constructor(cursor: ReplayCursor<T>, settings: StreamSettings) {
    this.#cursor = cursor
    this.#settings = settings
  }

  /** The records alone, for `stream()`. */
  records(): JournalStream<T> {
    const cursor = this.#cursor
    return this.#stream(() => cursor.take())
  }

  /** The records with their sequence numbers, for `entries()`. */
  entries(): JournalStream<JournalEntry<T>> {
    const cursor = this.#cursor
    return this.#stream(() => ({ sequence: cursor.sequence, record: cursor.take() }))
  }

  /** All records in an array, for `replay()`. */
  async collect(): Promise<T[]> {
    if (this.#settings.follow) {
      throw new TypeError('Expected `follow` to be absent: records that never end do not fit into an array')
    }
    const all: T[] = []
    for await (const record of this.records()) all.push(record)
    return all
  }

  /** The lines in blocks, for `bytes()`. */
  bytes(this: Replay<Uint8Array>): JournalStream<ByteBlock> {
    const cursor = this.#cursor
    return this.#stream(() => cursor.take() as ByteBlock, 'bytes')
  }

  #stream<Item>(take: () => Item, type?: 'bytes'): JournalStream<Item> {
    return new JournalStream(new UnderlyingReplay(this.#cursor, take, { signal: this.#settings.signal, type }))
  }
}

/**
 * Whole lines, which have an `ArrayBuffer` of their own. In TypeScript 5.7 or later this type is
 * `Uint8Array<ArrayBuffer>`, which streams of the platform take.
 */
export type ByteBlock = ReturnType<Uint8Array['slice']>

/** A replay of an open store. By default it ends at the last record acknowledged now. */
export function replayStore<T>(
  fs: FileSystem,
  writer: JournalWriter,
  parser: ParserOf<T>,
  settings: StreamSettings,
): Replay<T> {
  const views = new JournalViews(fs, writer.files.path, { owner: writer })
  return new Replay(new JournalCursor(fs, views, parser, settings, writer.view()), settings)
}

/**
 * A replay of the journal at a path. By default it ends at the last whole record that is there when
 * it is first read.
 */
export function replayPath<T>(
  path: string | URL,
  settings: ReadSettings & { readonly id?: string | undefined },
  parser: ParserOf<T>,
): Replay<T> {
  const { fileSystem } = settings
  const views = new JournalViews(fileSystem, path, settings)
  return new Replay(new JournalCursor(fileSystem, views, parser, settings), settings)
}
