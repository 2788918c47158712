import type {
  ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader, ReadableStreamReadResult,
  UnderlyingSource,
} from 'node:stream/web'

import { whenAborted } from '../async.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { JournalEntry } from '../journal/journal.ts'
import { JournalCursor } from './cursor.ts'
import { RecordCodec } from './record-codec.ts'
import { readSettings, streamSettings } from './settings.ts'
import { DiskSource, LiveSource } from './view.ts'
import type { JournalWriter } from './writer.ts'

/**
 * A replay of a journal: a WHATWG `ReadableStream` and an `AsyncIterable`, returned by `stream()`
 * and `entries()`.
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
  readonly #replay: ReplaySource<Item>

  /** @internal */
  constructor(replay: ReplaySource<Item>) {
    super(replay, { highWaterMark: 0 })
    this.#replay = replay
  }

  /**
   * Returns an iterator and locks the stream until the iterator ends. Leaving the iterator early
   * cancels the stream, unless `preventCancel` is true.
   *
   * @throws {TypeError} if the stream is locked.
   */
  override values(options: { preventCancel?: boolean } = {}): JournalIterator<Item> {
    return new JournalIterator(this.#replay, super.getReader(), options.preventCancel === true)
  }

  /**
   * Returns a reader and locks the stream until the reader releases it.
   *
   * @throws {TypeError} if the stream is locked, or if `mode` asks for a reader of bytes.
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

type ReplayCursor = Pick<JournalCursor<unknown>, 'hasRecord' | 'advance' | 'close'>

/**
 * The state that a stream, its reader and its iterator share: the cursor, and the end of the
 * underlying stream.
 *
 * The reader and the iterator take items directly from the cursor, because the queue of the stream
 * costs Node several times as much: about as much as parsing a record. Items stay in order because
 * {@link pull} puts an item into the queue only when one was asked for.
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

  /** @param takeItem takes the next record of the cursor and returns it, alone or as an entry. */
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

  /**
   * Starts listening to the signal. This happens at the first read, because the signal would keep a
   * stream that is never read in memory.
   */
  #begin(): void {
    this.#isBegun = true
    if (this.#signal !== undefined) this.#forgetSignal = whenAborted(this.#signal, this.#onAbort)
  }

  /**
   * Enqueues one item each time one is asked for. No item is enqueued ahead of demand, so an
   * iterator can continue where a reader has stopped.
   */
  pull(controller: ReadableStreamDefaultController<Item>): void | Promise<void> {
    if (this.hasItem) controller.enqueue(this.take())
    else return (this.#pulling = this.#loadAndPull(controller))
    return undefined
  }

  /** Whether the queue holds, or may soon hold, an item that was asked for and not taken. */
  get mayBeQueued(): boolean {
    return this.#pulling !== undefined || (this.#controller?.desiredSize ?? 0) < 0
  }

  /** Resolves with whether the queue holds an item, once no item is on its way there. */
  async isQueued(): Promise<boolean> {
    await this.#pulling
    return (this.#controller?.desiredSize ?? 0) < 0
  }

  async cancel(reason?: unknown): Promise<void> {
    this.#forgetSignal()
    this.#isEnded = true
    await this.#cursor.close(reason)
  }

  /** Whether {@link take} can return an item now. */
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
   * Loads the next item. Resolves with false at the end, and rejects once the stream has failed.
   *
   * Calls that overlap share one promise. If a consumer leaves while it waits, the next consumer
   * continues with the load that is under way.
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
      // advance() has already passed the error to the controller, which rejects the read.
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
    // A waiting iterator gets the reason from its own advance(), a reader from the controller.
    this.#fail(reason)
    // The consumer gets the reason of the abort even if the file cannot be closed.
    this.#cursor.close(reason).catch(() => {})
  }
}

/** Iterates a {@link JournalStream}. Calls of `next` may overlap and are answered in call order. */
export class JournalIterator<Item> implements AsyncIterableIterator<Item, undefined, void> {
  readonly #replay: ReplaySource<Item>
  readonly #reader: ReadableStreamDefaultReader<Item>
  readonly #preventCancel: boolean
  /**
   * Whether the queue of the stream may hold an item. An earlier reader leaves one there if it asks
   * for an item and releases its lock before the item comes.
   */
  #mayBeQueued: boolean
  /** Settles when all earlier calls are answered; undefined if none is pending. */
  #last: Promise<unknown> | undefined
  /** Answers the pending call of `next`. */
  #stopWaiting: () => void = () => {}
  #isFinished = false

  /** @internal */
  constructor(replay: ReplaySource<Item>, reader: ReadableStreamDefaultReader<Item>, preventCancel: boolean) {
    this.#replay = replay
    this.#reader = reader
    this.#preventCancel = preventCancel
    this.#mayBeQueued = replay.mayBeQueued
  }

  /** Resolves with the next record. Calls may overlap; they resolve in call order. */
  next(): Promise<IteratorResult<Item, undefined>> {
    if (this.#last === undefined && this.#replay.hasItem && !this.#isFinished && !this.#mayBeQueued) {
      return Promise.resolve({ done: false, value: this.#replay.take() })
    }
    return this.#inOrder(() => this.#next())
  }

  /**
   * Ends the iteration. Pending calls of `next` resolve at once with `done`.
   *
   * Resolves when the file is closed, and waits only for a read of it that is already under way.
   * With `preventCancel`, the file stays open for the next consumer.
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

  /** Returns this iterator, for `for await`. */
  [Symbol.asyncIterator](): this {
    return this
  }

  /** Calls {@link return}, for `await using`. */
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

  /**
   * Settles as `waiting` does, or resolves with false as soon as the iterator is left. An item that
   * arrives later stays for the next consumer.
   */
  #unlessLeft(waiting: Promise<boolean>): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#stopWaiting = () => resolve(false)
      waiting.then(resolve, reject)
    })
  }

  #finish(): void {
    // If return() was called, it releases the stream.
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

/**
 * The reader of a {@link JournalStream}, a `ReadableStreamDefaultReader`.
 *
 * If a record is loaded and no earlier read is pending, `read` takes it directly from the block
 * that was read. Otherwise it uses the queue of the stream.
 */
export class JournalReader<Item> extends ReadableStreamDefaultReader<Item> {
  readonly #replay: ReplaySource<Item>
  /**
   * Whether the queue of the stream may hold an item that an earlier reader asked for and did not
   * wait for.
   */
  #mayBeQueued: boolean
  /** Number of pending reads. While there are any, later reads must wait too, to keep the order. */
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
    // This handler is attached first, so the count is right before the caller continues.
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

/** A replay that has not begun. The caller chooses the form of its result. */
export interface UnstartedReplay<T> {
  /** The records alone, for `stream()`. */
  records(): JournalStream<T>
  /** The records with their sequence numbers, for `entries()`. */
  entries(): JournalStream<JournalEntry<T>>
  /** All records in an array, for `replay()`. */
  collect(): Promise<T[]>
}

/** A replay of an open store. By default it ends at the last record acknowledged now. */
export function replayStore<T>(
  fs: FileSystem,
  writer: JournalWriter,
  codec: RecordCodec<T, never>,
  options: unknown,
): UnstartedReplay<T> {
  const settings = streamSettings(options)
  const source = new LiveSource(writer, new DiskSource(fs, writer.files.path))
  const cursor = new JournalCursor(fs, source, codec, settings, writer.view())
  return unstarted(cursor, settings)
}

/**
 * A replay of the journal at a path. By default it ends at the last whole record that is there when
 * it is first read.
 */
export function replayPath(path: string, options: unknown): UnstartedReplay<unknown> {
  const settings = readSettings(options)
  const { fileSystem } = settings
  const source = new DiskSource(fileSystem, path, settings)
  return unstarted(new JournalCursor<unknown>(fileSystem, source, new RecordCodec(settings), settings), settings)
}

function unstarted<T>(
  cursor: JournalCursor<T>,
  settings: { readonly signal: AbortSignal | undefined; readonly follow: boolean },
): UnstartedReplay<T> {
  const { signal, follow } = settings
  const records = (): JournalStream<T> => new JournalStream(new ReplaySource(cursor, () => cursor.take(), signal))
  const takeEntry = (): JournalEntry<T> => ({ sequence: cursor.sequence, record: cursor.take() })
  return {
    records,
    entries: () => new JournalStream(new ReplaySource(cursor, takeEntry, signal)),
    collect: async () => {
      if (follow) throw new TypeError('Expected `follow` to be absent: an array of records that never end cannot be')
      const all: T[] = []
      for await (const record of records()) all.push(record)
      return all
    },
  }
}
