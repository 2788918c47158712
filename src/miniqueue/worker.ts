import { AsyncResource } from 'node:async_hooks'
import type {
  ReadableStreamBYOBReader, ReadableStreamGetReaderOptions, ReadableStreamReader, UnderlyingSource,
} from 'node:stream/web'

import PQueue from 'p-queue'

import { whenAborted } from '../async.ts'
import { isMiniStoreError, messageOf } from '../errors.ts'
import type { Delivery, Settling } from './delivery.ts'
import type { Lease } from './leases.ts'
import type { QueueLog } from './log.ts'
import type { Message } from './message.ts'

/** Endings that are written together at most: with long reasons many would be more than a record may have. */
const maxTogether = 1000

/** Does the work of a message. What it gives is not looked at. */
export type Handler<T> = (payload: T, message: Message<T>) => unknown

/** Handlers that have ended, and whose messages are settled with one write. */
interface Endings {
  readonly settlings: Settling[]
  readonly written: Promise<void>
}

/**
 * One run of `process`: receives as many messages as handlers are free, and settles each by how its handler
 * ends.
 *
 * A handler that ends makes room for another message. Both are one write: what becomes of the old one, and the
 * delivery of the new one. While that waits for its turn, others that end join in.
 */
export class Worker<T> {
  readonly #delivery: Delivery<T>
  readonly #log: Pick<QueueLog, 'tell' | 'hasFailed'>
  readonly #handler: Handler<T>
  readonly #concurrency: number
  readonly #slots: PQueue
  /** Those that can still be joined. */
  #endings: Endings | undefined
  /** Leases whose handlers have not ended, or not begun. */
  readonly #running = new Set<Lease>()
  /** The context in which `process` was called. */
  readonly #scope = new AsyncResource('miniqueue.process')
  readonly #stop = new AbortController()
  #failure: { readonly reason: unknown } | undefined
  /** Goes on when a handler has ended. */
  #slotFreed: () => void = () => {}

  constructor(
    queue: { readonly delivery: Delivery<T>; readonly log: Pick<QueueLog, 'tell' | 'hasFailed'> },
    handler: Handler<T>,
    concurrency: number,
  ) {
    this.#delivery = queue.delivery
    this.#log = queue.log
    this.#handler = handler
    this.#concurrency = concurrency
    this.#slots = new PQueue({ concurrency })
  }

  /**
   * Resolves when it was stopped and all handlers have ended; rejects when messages cannot be had any more.
   */
  async run(signal: AbortSignal | undefined): Promise<void> {
    const forgetSignal = signal && whenAborted(signal, () => this.#end(signal.reason))
    try {
      while (!this.#isStopped) {
        if (this.#free() > 0) await this.#receive()
        else await new Promise<void>((resolve) => (this.#slotFreed = resolve))
      }
      await this.#slots.onIdle()
      // Of what was delivered while it was being stopped.
      await this.#delivery.returnUntaken()
    } finally {
      forgetSignal?.()
    }
    if (this.#failure !== undefined) throw this.#failure.reason
  }

  get #isStopped(): boolean {
    return this.#stop.signal.aborted || !this.#delivery.isOpen
  }

  /** Places for messages, once so many of those who run have left. */
  #free(leaving = 0): number {
    return Math.max(0, this.#concurrency - this.#running.size + leaving)
  }

  async #receive(): Promise<void> {
    let leases: Lease[]
    try {
      const { signal } = this.#stop
      leases = await this.#delivery.receive({
        max: () => this.#free(), waitMs: Number.POSITIVE_INFINITY, signal, isHanded: false,
      })
    } catch (error) {
      if (!this.#isStopped) this.#fail(error)
      return
    }
    this.#start(leases)
  }

  #start(leases: readonly Lease[]): void {
    for (const lease of leases) this.#running.add(lease)
    for (const lease of leases) {
      // Messages come in the context of whoever's call has brought them.
      const handle = (): Promise<void> => this.#scope.runInAsyncScope(() => this.#handle(lease))
      this.#slots.add(handle).catch((error: unknown) => this.#fail(error))
    }
  }

  async #handle(lease: Lease): Promise<void> {
    try {
      // A handler before it may have stopped it all.
      if (this.#isStopped) return this.#delivery.giveBack([lease])
      // Its time may be over before it could begin.
      if (lease.phase !== 'held') return
      const message = this.#delivery.handOut(lease)
      const begin = await this.#run(message)
      // Somebody else may have it by now, or the handler has settled it itself.
      if (lease.phase === 'held') await this.#settle(begin(lease))
    } catch (error) {
      this.#report(error)
    } finally {
      this.#running.delete(lease)
      this.#slotFreed()
    }
  }

  /** Runs the handler and gives how its message is to be settled. */
  async #run(message: Message<T>): Promise<(lease: Lease) => Settling> {
    const { settlement } = this.#delivery
    try {
      // What a handler enters is its own, and not for what comes after it.
      const scope = new AsyncResource('miniqueue.handler')
      await scope.runInAsyncScope(this.#handler, undefined, message.payload, message)
      return (lease) => settlement.beginAck(lease)
    } catch (error) {
      const reason = reasonOf(error)
      // What was only stopped did not fail: it may go on as soon as somebody can.
      const delayMs = this.#isStopped ? 0 : undefined
      return (lease) => settlement.beginNack(lease, { delayMs, reason })
    }
  }

  /** Resolves when it is written, or has failed and was told. */
  #settle(settling: Settling): Promise<void> {
    this.#endings ??= this.#beginEndings()
    const { settlings, written } = this.#endings
    settlings.push(settling)
    if (settlings.length === maxTogether) this.#endings = undefined
    return written
  }

  #beginEndings(): Endings {
    const settlings: Settling[] = []
    return { settlings, written: this.#write(settlings) }
  }

  async #write(settlings: readonly Settling[]): Promise<void> {
    // Handlers that end in this very step are to join in.
    await new Promise<void>((resolve) => process.nextTick(resolve))
    const take = (): readonly Settling[] => {
      if (this.#endings?.settlings === settlings) this.#endings = undefined
      return settlings
    }
    try {
      await this.#delivery.exchange(take, {
        max: () => this.#free(settlings.length),
        isWanted: () => !this.#isStopped,
        isHanded: false,
        give: (leases) => {
          // They are gone already, and what is settled next counts who runs before their handlers can say so.
          for (const { lease } of settlings) this.#running.delete(lease)
          this.#start(leases)
        },
      })
    } catch (error) {
      this.#report(error)
    }
  }

  /** A message that could not be settled comes again when its lease ends. */
  #report(error: unknown): void {
    if (this.#log.hasFailed) this.#fail(error)
    else if (!isLost(error)) this.#log.tell(error)
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

/** The time of its lease may have ended in the very moment of settling it. */
function isLost(error: unknown): boolean {
  return isMiniStoreError(error, 'ERR_MINISTORE_LEASE_LOST')
}

function reasonOf(thrown: unknown): string {
  return messageOf(thrown).slice(0, 1000)
}

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
