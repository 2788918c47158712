import type {
  ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader, UnderlyingSource,
} from 'node:stream/web'

import { whenAborted } from '../async.ts'
import type { Delivery } from './delivery.ts'
import type { Lease } from './leases.ts'
import type { Message } from './message.ts'

/**
 * Messages as a stream: a ReadableStream, which pipes, and an async iterable. It fetches when it is read and
 * never ahead of that, but for the messages that came with the same fsync.
 *
 * Leaving it is answered at once, also while a read waits: `break`, `return()`, `cancel()`, `releaseLock()`, an
 * abort. Messages that were fetched and not taken go back then, and one that comes later is not taken along.
 */
export type MessageStream<T = unknown> = ReadableStream<Message<T>>

/** A stream that ends when the queue closes, and with the signal's reason when that is aborted. */
export function messageStream<T>(
  delivery: Delivery<T>,
  { prefetch, signal }: { readonly prefetch: number; readonly signal: AbortSignal | undefined },
): MessageStream<T> {
  return new LeavableStream(new MessageSource(delivery, prefetch, signal))
}

/** A stream whose readers take no message along. */
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
    // The next reader's messages are not this one's to give back.
    if (!this.#isReleased) this.#source.release()
    this.#isReleased = true
  }
}

/**
 * Iterates as the platform's iterator does, but for `return`: that one would wait for a `next` under way, which
 * may be for ever.
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
      // The lock may have been let go of under it.
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
  /** Whether the stream has a reader; a pipe's lets go of it without a word. */
  isRead: () => boolean = () => true
  readonly #delivery: Delivery<T>
  readonly #prefetch: number
  readonly #signal: AbortSignal | undefined
  /** Ends the fetch under way. */
  #stop = new AbortController()
  #isEnded = false
  #forgetSignal: () => void = () => {}
  /** What was fetched and not asked for yet. */
  #fetched: Lease[] = []
  #controller: ReadableStreamDefaultController<Message<T>> | undefined

  constructor(delivery: Delivery<T>, prefetch: number, signal: AbortSignal | undefined) {
    this.#delivery = delivery
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
      if (lease !== undefined) return controller.enqueue(this.#delivery.handOut(lease))
      const leases = await this.#fetch(signal)
      // Whoever has asked is gone. If somebody else asks, this is called again.
      if (signal.aborted || !this.isRead()) return this.#delivery.giveBack(leases)
      this.#fetched = leases
      if (leases.length > 0) continue
      this.#end()
      return controller.close()
    }
  }

  cancel(reason: unknown): void {
    this.#end(reason)
  }

  /** The reader lets go: what it has waited for, or what was fetched for it, is not to lie here. */
  release(): void {
    if (this.#isEnded) return
    this.#stop.abort()
    this.#stop = new AbortController()
    this.#giveBack()
  }

  /** The next one whose lease has not ended while it lay here. */
  #next(): Lease | undefined {
    if (!this.#delivery.isOpen) this.#giveBack()
    let lease = this.#fetched.shift()
    while (lease !== undefined && lease.phase !== 'held') lease = this.#fetched.shift()
    return lease
  }

  async #fetch(signal: AbortSignal): Promise<Lease[]> {
    try {
      return await this.#delivery.receive({
        max: () => this.#prefetch,
        waitMs: Number.POSITIVE_INFINITY,
        signal,
        isHanded: false,
      })
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
    this.#giveBack()
  }

  #giveBack(): void {
    const leases = this.#fetched
    this.#fetched = []
    this.#delivery.giveBack(leases)
  }
}
