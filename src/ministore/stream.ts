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

/** A walk that has not begun, as records or as entries. */
export interface UnstartedReplay<T> {
  /** The records alone: what `stream()` gives. */
  records(): JournalStream<T>
  /** The records with their sequence numbers: what `entries()` gives. */
  entries(): JournalStream<JournalEntry<T>>
  /** All records in an array: what `replay()` gives. */
  collect(): Promise<T[]>
}

/** A replay of an open store, bounded by what is acknowledged now. */
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

/** A replay of the journal at a path, bounded by what is there when it is first read. */
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
