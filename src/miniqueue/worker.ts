import { AsyncResource } from 'node:async_hooks'
import type {
  ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader, UnderlyingSource,
} from 'node:stream/web'

import PQueue from 'p-queue'

import { whenAborted } from '../async.ts'
import { hasCode, messageOf } from '../errors.ts'
import type { Acknowledgement, Delivery, Message } from './delivery.ts'
import type { Dispatcher } from './dispatcher.ts'
import type { QueueLog } from './log.ts'
import type { Lease } from './messages.ts'

/** Most acks and nacks in one write. Without a limit, many long reasons could exceed one record. */
const maxTogether = 1000

/**
 * Processes one message for `process`. If it returns or resolves, the message is acked; if it
 * throws or rejects, the message is nacked. Its result is ignored.
 */
export type Handler<T> = (payload: T, message: Message<T>) => unknown

/** The parts of a queue that a worker or a stream uses. */
export interface QueueParts<T> {
  readonly log: QueueLog
  readonly dispatcher: Dispatcher
  readonly delivery: Delivery<T>
}

/** Acks and nacks of handlers that have ended, to be written together. */
interface Endings {
  readonly acknowledgements: Acknowledgement[]
  readonly written: Promise<void>
}

/**
 * One run of `process`. It receives as many messages as it has free handlers, and acks or nacks
 * each message according to how its handler ends.
 *
 * A handler that ends makes room for another message. The ack or nack of the old message and the
 * delivery of the new one are one write. If other handlers end while this write waits for its turn,
 * they join it. Their next messages may then come before those of a `receive` that was called in
 * between.
 *
 * A user's own call of `ack` or `nack` never joins another, so nothing is batched behind a caller's
 * back. Here no caller waits for the acks. Joining makes one handler at a time nearly twice as
 * fast, and 32 of them more than ten times.
 */
export class Worker<T> {
  readonly #queue: QueueParts<T>
  readonly #handler: Handler<T>
  readonly #concurrency: number
  readonly #slots: PQueue
  /** The next write of acks and nacks, as long as more of them can join it. */
  #endings: Endings | undefined
  /** Leases whose handlers are running or have not started. */
  readonly #running = new Set<Lease>()
  /** The asynchronous context in which `process` was called. */
  readonly #scope = new AsyncResource('miniqueue.process')
  readonly #stop = new AbortController()
  #failure: { readonly reason: unknown } | undefined
  /** Wakes the loop of `run` when a handler has ended. */
  #slotFreed: () => void = () => {}

  constructor(queue: QueueParts<T>, handler: Handler<T>, concurrency: number) {
    this.#queue = queue
    this.#handler = handler
    this.#concurrency = concurrency
    this.#slots = new PQueue({ concurrency })
  }

  /**
   * Receives and handles messages until the run is stopped. Resolves once all handlers have ended;
   * rejects then if messages could no longer be received or written.
   */
  async run(signal: AbortSignal | undefined): Promise<void> {
    const forgetSignal = signal && whenAborted(signal, () => this.#end(signal.reason))
    try {
      while (!this.#isStopped) {
        if (this.#free() > 0) await this.#receive()
        else await new Promise<void>((resolve) => (this.#slotFreed = resolve))
      }
      await this.#slots.onIdle()
      // Messages may have been delivered to this run while it was being stopped.
      await this.#queue.dispatcher.refundAttempts()
    } finally {
      forgetSignal?.()
    }
    if (this.#failure !== undefined) throw this.#failure.reason
  }

  get #isStopped(): boolean {
    return this.#stop.signal.aborted || !this.#queue.dispatcher.isOpen
  }

  /** Number of free handlers, counting `leaving` of the running ones as free. */
  #free(leaving = 0): number {
    return Math.max(0, this.#concurrency - this.#running.size + leaving)
  }

  async #receive(): Promise<void> {
    const { signal } = this.#stop
    const request = { max: () => this.#free(), waitMs: Number.POSITIVE_INFINITY, signal, isHanded: false }
    try {
      this.#start(await this.#queue.dispatcher.receive(request))
    } catch (error) {
      if (!this.#isStopped) this.#fail(error)
    }
  }

  #start(leases: readonly Lease[]): void {
    for (const lease of leases) this.#running.add(lease)
    for (const lease of leases) {
      // Without this scope, the handler would run in the asynchronous context of the call that
      // brought the message, for example an `enqueue`.
      const handle = (): Promise<void> => this.#scope.runInAsyncScope(() => this.#handle(lease))
      this.#slots.add(handle).catch((error: unknown) => this.#fail(error))
    }
  }

  async #handle(lease: Lease): Promise<void> {
    try {
      // An earlier handler may have stopped the run.
      if (this.#isStopped) return this.#queue.dispatcher.requeue([lease])
      // The lease may have ended before the handler could start.
      if (lease.phase !== 'held') return
      const acknowledge = await this.#run(this.#queue.delivery.handOut(lease))
      // Otherwise the lease has ended, or the handler has acked or nacked the message itself.
      if (lease.phase === 'held') await this.#write(acknowledge(lease))
    } catch (error) {
      this.#report(error)
    } finally {
      this.#running.delete(lease)
      this.#slotFreed()
    }
  }

  /** Runs the handler and returns the function that begins the ack or nack of its message. */
  async #run(message: Message<T>): Promise<(lease: Lease) => Acknowledgement> {
    try {
      // Each handler has a scope of its own, so that a context that it enters does not leak into
      // the code that runs after it.
      const scope = new AsyncResource('miniqueue.handler')
      await scope.runInAsyncScope(this.#handler, undefined, message.payload, message)
      return (lease) => this.#queue.delivery.ack(lease)
    } catch (error) {
      const reason = messageOf(error).slice(0, 1000)
      // A handler that was stopped did not fail, so its message is ready again without a delay.
      const delayMs = this.#isStopped ? 0 : undefined
      return (lease) => this.#queue.delivery.nack(lease, { delayMs, reason })
    }
  }

  /** Resolves when the ack or nack is written, or when the write has failed and was reported. */
  #write(acknowledgement: Acknowledgement): Promise<void> {
    if (this.#endings === undefined) {
      const acknowledgements: Acknowledgement[] = []
      this.#endings = { acknowledgements, written: this.#writeAll(acknowledgements) }
    }
    const { acknowledgements, written } = this.#endings
    acknowledgements.push(acknowledgement)
    if (acknowledgements.length === maxTogether) this.#endings = undefined
    return written
  }

  async #writeAll(acknowledgements: readonly Acknowledgement[]): Promise<void> {
    // Handlers that end in the same tick join this write.
    await new Promise<void>((resolve) => process.nextTick(resolve))
    const take = (): readonly Acknowledgement[] => {
      if (this.#endings?.acknowledgements === acknowledgements) this.#endings = undefined
      return acknowledgements
    }
    try {
      await this.#queue.delivery.exchange(take, {
        isHanded: false,
        max: () => this.#free(acknowledgements.length),
        isWanted: () => !this.#isStopped,
        give: (leases) => {
          // The acks are durable, but #handle removes these leases only later. The next write
          // counts the running handlers before that.
          for (const { lease } of acknowledgements) this.#running.delete(lease)
          this.#start(leases)
        },
      })
    } catch (error) {
      this.#report(error)
    }
  }

  /** Reports a failed ack or nack. The message is delivered again when its lease ends. */
  #report(error: unknown): void {
    if (this.#queue.log.hasFailed) this.#fail(error)
    // A lease that ended just before the ack is not worth a report.
    else if (!hasCode(error, 'ERR_MINISTORE_LEASE_LOST')) this.#queue.log.tell(error)
  }

  #fail(reason: unknown): void {
    this.#failure ??= { reason }
    this.#end(reason)
  }

  #end(reason: unknown): void {
    this.#stop.abort(reason)
    for (const lease of this.#running) lease.abort(reason)
    this.#slotFreed()
  }
}

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
      if (lease !== undefined) return controller.enqueue(this.#queue.delivery.handOut(lease))
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
