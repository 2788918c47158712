import type {
  ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader, UnderlyingSource,
} from 'node:stream/web'

import { isThenable, whenAborted } from '../async.ts'
import type { Message } from './delivery.ts'
import type { Lease } from './leases.ts'
import type { QueueParts } from './worker.ts'

/**
 * A stream of messages: a ReadableStream, which can be piped, and an async iterable. It fetches
 * messages only when it is read, up to `prefetch` of them with one fsync.
 *
 * The stream can be left at any time, even while a read waits: by `break`, `return()`, `cancel()`,
 * `releaseLock()` or an abort. Messages that were fetched and not taken then go back to the queue.
 * So does a message that arrives later.
 */
export type MessageStream<T = unknown> = ReadableStream<Message<T>>

/**
 * Makes a stream that ends when the queue closes. When the signal is aborted, the stream fails with
 * the signal's reason.
 */
export function messageStream<T>(
  queue: QueueParts<T>,
  { prefetch, signal }: { readonly prefetch: number; readonly signal: AbortSignal | undefined },
): MessageStream<T> {
  return new LeavableStream(new MessageSource(queue, prefetch, signal))
}

/** A stream whose readers send fetched messages back to the queue when they leave. */
class LeavableStream<T> extends ReadableStream<Message<T>> {
  readonly #source: MessageSource<T>

  constructor(source: MessageSource<T>) {
    super(source, { highWaterMark: 0 })
    this.#source = source
    source.isRead = () => this.locked
  }

  override getReader(options: { mode: 'byob' }): ReadableStreamBYOBReader
  override getReader(): ReadableStreamDefaultReader<Message<T>>
  override getReader(options?: ReadableStreamGetReaderOptions): ReadableStreamReader<Message<T>>
  override getReader(options?: ReadableStreamGetReaderOptions): ReadableStreamReader<Message<T>> {
    if (options?.mode !== undefined) return super.getReader(options)
    return new MessageReader(this, this.#source)
  }

  override values({ preventCancel = false }: { preventCancel?: boolean } = {}): MessageIterator<T> {
    return new MessageIterator(this.getReader(), preventCancel)
  }

  override [Symbol.asyncIterator](options?: { preventCancel?: boolean }): MessageIterator<T> {
    return this.values(options)
  }
}

class MessageReader<T> extends ReadableStreamDefaultReader<Message<T>> {
  readonly #source: MessageSource<T>
  #isReleased = false

  constructor(stream: LeavableStream<T>, source: MessageSource<T>) {
    super(stream)
    this.#source = source
  }

  override releaseLock(): void {
    super.releaseLock()
    // A second call must not requeue messages that were fetched for the next reader.
    if (!this.#isReleased) this.#source.release()
    this.#isReleased = true
  }
}

/**
 * Iterates as the platform's iterator does, except for `return`. The platform's `return` waits for
 * a pending `next`, which may never resolve.
 */
class MessageIterator<T> implements AsyncIterableIterator<Message<T>, undefined, void> {
  readonly #reader: ReadableStreamDefaultReader<Message<T>>
  readonly #preventCancel: boolean
  #isFinished = false

  constructor(reader: ReadableStreamDefaultReader<Message<T>>, preventCancel: boolean) {
    this.#reader = reader
    this.#preventCancel = preventCancel
  }

  async next(): Promise<IteratorResult<Message<T>, undefined>> {
    if (this.#isFinished) return { done: true, value: undefined }
    try {
      const result = await this.#reader.read()
      if (!result.done) return result
    } catch (error) {
      // If the iterator is finished, `return` released the lock and caused this error.
      if (!this.#isFinished) {
        this.#finish()
        throw error
      }
    }
    this.#finish()
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<Message<T>, undefined>> {
    if (!this.#isFinished) {
      this.#isFinished = true
      const cancelled = this.#preventCancel ? undefined : this.#reader.cancel()
      this.#reader.releaseLock()
      await cancelled
    }
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  #finish(): void {
    if (this.#isFinished) return
    this.#isFinished = true
    this.#reader.releaseLock()
  }
}

class MessageSource<T> implements UnderlyingSource<Message<T>> {
  /** Whether the stream has a reader. A pipe releases its reader without calling `release`. */
  isRead: () => boolean = () => true
  readonly #queue: QueueParts<T>
  readonly #prefetch: number
  readonly #signal: AbortSignal | undefined
  /** Aborts the pending fetch. */
  #stop = new AbortController()
  #isEnded = false
  #forgetSignal: () => void = () => {}
  /** Messages that were fetched and not read yet. */
  #fetched: Lease[] = []
  #controller: ReadableStreamDefaultController<Message<T>> | undefined

  constructor(queue: QueueParts<T>, prefetch: number, signal: AbortSignal | undefined) {
    this.#queue = queue
    this.#prefetch = prefetch
    this.#signal = signal
  }

  start(controller: ReadableStreamDefaultController<Message<T>>): void {
    this.#controller = controller
    if (this.#signal !== undefined) this.#forgetSignal = whenAborted(this.#signal, this.#onAbort)
  }

  async pull(controller: ReadableStreamDefaultController<Message<T>>): Promise<void> {
    const { signal } = this.#stop
    for (;;) {
      const lease = this.#next()
      if (lease !== undefined) {
        const handed = this.#queue.delivery.handOut(lease)
        const message = isThenable(handed) ? await handed : handed
        const isLeft = signal.aborted || !this.isRead()
        if (message !== undefined && !isLeft && this.#queue.dispatcher.isOpen) return controller.enqueue(message)
        // The reader left, or the queue was closed, while an asynchronous schema ran.
        if (message !== undefined) this.#queue.dispatcher.requeue([lease])
        if (isLeft) return
        continue
      }
      const leases = await this.#fetch(signal)
      // The reader that caused this pull is gone. A read by another reader calls `pull` again.
      if (signal.aborted || !this.isRead()) return this.#queue.dispatcher.requeue(leases)
      this.#fetched = leases
      if (leases.length > 0) continue
      this.#end()
      return controller.close()
    }
  }

  cancel(reason: unknown): void {
    this.#end(reason)
  }

  /**
   * Called when the reader releases its lock. Aborts the pending fetch and requeues fetched
   * messages, so that no message stays in a stream without a reader.
   */
  release(): void {
    if (this.#isEnded) return
    this.#stop.abort()
    this.#stop = new AbortController()
    this.#requeue()
  }

  /** Takes the next fetched message whose lease has not ended meanwhile. */
  #next(): Lease | undefined {
    if (!this.#queue.dispatcher.isOpen) this.#requeue()
    let lease = this.#fetched.shift()
    while (lease !== undefined && lease.phase !== 'held') lease = this.#fetched.shift()
    return lease
  }

  async #fetch(signal: AbortSignal): Promise<Lease[]> {
    const request = { max: () => this.#prefetch, waitMs: Number.POSITIVE_INFINITY, signal, isHanded: false }
    try {
      return await this.#queue.dispatcher.receive(request)
    } catch (error) {
      if (signal.aborted) return []
      this.#end(error)
      throw error
    }
  }

  readonly #onAbort = (): void => {
    const reason: unknown = this.#signal?.reason
    this.#end(reason)
    this.#controller?.error(reason)
  }

  #end(reason?: unknown): void {
    this.#isEnded = true
    this.#forgetSignal()
    this.#stop.abort(reason)
    this.#requeue()
  }

  #requeue(): void {
    const leases = this.#fetched
    this.#fetched = []
    this.#queue.dispatcher.requeue(leases)
  }
}
