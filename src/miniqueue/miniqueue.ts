import type { StandardSchemaV1 } from '@standard-schema/spec'

import { isThenable } from '../async.ts'
import type { CompactionReport, StateRecovery } from '../ministate/index.ts'
import { iterable, shown } from '../options.ts'
import type { KeptByJson } from '../schema.ts'
import { Contents, type DeadLetter, deadLettersOf, type ListedMessage, type QueueStats } from './contents.ts'
import { Delivery, type Message } from './delivery.ts'
import { Dispatcher, queueClosed } from './dispatcher.ts'
import { bytesOf, type Entry, entryOf, entryOfMessage, type MessageToEnqueue, planEnqueue } from './enqueueing.ts'
import { QueueLog } from './log.ts'
import {
  type CloseOptions, closeSettings, type ConsumeOptions, consumeSettings, type EnqueueOptions, type MessagesOptions,
  type ProcessOptions, processSettings, type QueueOptions, queueSettings, type QueueSettings, type ReceiveOptions,
  receiveSettings,
} from './settings.ts'
import { messageStream, type MessageStream } from './stream.ts'
import { type Handler, type QueueParts, Worker } from './worker.ts'

/**
 * A durable queue of messages in a directory, for one process at a time. Each message is delivered
 * at least once. It leaves the queue only when it is acknowledged or purged, or when it becomes a
 * dead letter after `maxAttempts` deliveries.
 *
 * Messages are delivered by priority, highest first. Within a priority, they are delivered in the
 * order in which they were enqueued. A message that is delivered again keeps its place.
 *
 * `T` is the type of the payloads received, `Input` the type of those enqueued. They differ only when
 * a schema transforms payloads.
 *
 * Calls may overlap. Their writes happen one at a time, in call order. If the write of a call
 * fails, the call rejects and nothing was written. `ERR_MINISTORE_OUTCOME_UNKNOWN` is the
 * exception: the change may be there when the queue is next opened. After that error only
 * `close()` works.
 *
 * ```ts
 * await using queue = await MiniQueue.open<Job>('jobs')
 * await queue.enqueue({ resize: 'cat.png' })
 * await queue.process(async (job) => resize(job), { concurrency: 4, signal })
 * ```
 */
export class MiniQueue<T = unknown, Input = T> implements AsyncDisposable {
  readonly #log: QueueLog
  readonly #settings: QueueSettings
  readonly #dispatcher: Dispatcher
  readonly #delivery: Delivery<T>
  readonly #contents: Contents
  readonly #workers = new Map<Worker<T>, Promise<void>>()
  #closing: Promise<void> | undefined

  private constructor(log: QueueLog, dispatcher: Dispatcher, settings: QueueSettings) {
    this.#log = log
    this.#settings = settings
    this.#dispatcher = dispatcher
    this.#delivery = new Delivery(log, dispatcher, settings)
    this.#contents = new Contents(log, dispatcher, settings)
  }

  /**
   * Opens the queue in a directory and creates the directory if it is missing. When it resolves,
   * the queue holds every message that was not acknowledged. Messages that were in flight when the
   * last process ended are ready again, in their old places.
   *
   * Messages that have been delivered `maxAttempts` times become dead letters, durably, before it
   * resolves. If that write fails and changes nothing, the queue opens all the same: `onError` is
   * called and the write is retried later.
   *
   * If it rejects, the lock is free again.
   *
   * @throws {MiniStoreError} the errors of `StateManager.open`: `ERR_MINISTORE_LOCKED` if another
   *   process has the queue open; `…_MUTATOR` or `…_CORRUPT` if its files hold something that no
   *   queue writes.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  static open<Schema extends StandardSchemaV1>(
    directory: string | URL,
    options: QueueOptions & { readonly schema: Schema },
  ): Promise<MiniQueue<StandardSchemaV1.InferOutput<Schema>, StandardSchemaV1.InferInput<Schema>>>
  /** With a type that {@link KeptByJson} checks: payloads are stored as JSON. */
  static open<T extends KeptByJson<T> = unknown>(directory: string | URL, options?: QueueOptions): Promise<MiniQueue<T>>
  static async open(directory: string | URL, options?: QueueOptions): Promise<MiniQueue<unknown, never>> {
    const settings = queueSettings(options)
    const log = await QueueLog.open(directory, settings)
    try {
      const dispatcher = new Dispatcher(log, settings)
      await dispatcher.buryExhausted()
      return new MiniQueue(log, dispatcher, settings)
    } catch (error) {
      // The first error is the cause, so an error of closing does not replace it.
      await log.close().catch(() => {})
      throw error
    }
  }

  /** Absolute path of the queue's directory. */
  get directory(): string {
    return this.#log.directory
  }

  /** Reports what `open` found and did. */
  get recovery(): StateRecovery {
    return this.#log.recovery
  }

  /**
   * Adds a message and resolves with its id once the message is durable. Ids ascend from 1 and are
   * never reused. If the `dedupeKey` is taken, nothing is written and it resolves with the id of
   * the message that has the key.
   *
   * The payload is stored as JSON. It is serialized before this method returns, so later changes to
   * the object have no effect.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_SCHEMA`,
   *   `…_QUEUE_FULL`, `…_CLOSED`, and the errors of `StateManager.apply`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  async enqueue(payload: Input, options?: EnqueueOptions): Promise<number> {
    this.#assertTakes()
    const [id] = await this.#enqueue([entryOf(payload, options, this.#settings)])
    return id as number
  }

  /**
   * Adds messages with one write and one fsync. After a crash either all of them are there or none.
   * Resolves with their ids, in the given order, once they are durable.
   *
   * Together the messages may take about 64 MiB of JSON, or `maxPayloadBytes` plus 1 MiB if that is
   * more.
   *
   * @throws {MiniStoreError} the errors of {@link enqueue}.
   * @throws {TypeError | RangeError} if `messages` is not iterable, or a message is invalid.
   */
  async enqueueAll(messages: Iterable<MessageToEnqueue<Input>>): Promise<number[]> {
    this.#assertTakes()
    const settings = this.#settings
    const entries = Array.from(iterable('messages', messages), (message) => entryOfMessage(message, settings))
    return entries.length === 0 ? [] : await this.#enqueue(entries)
  }

  /**
   * Delivers up to `max` ready messages with one fsync. If no message is ready, it waits up to
   * `waitMs` for one. Resolves with an empty array if the wait ends without a message, or if the
   * queue is closed meanwhile.
   *
   * When it resolves, the attempts of the messages are durable: they count even if the process is
   * killed. The caller must ack or nack each message before its lease ends.
   *
   * Calls may overlap. The call that has waited longest is served first.
   *
   * @throws the signal's reason if the signal is aborted. No message is lost and no attempt counts,
   *   unless the process is killed before the attempts are refunded.
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, and the errors of `StateManager.apply`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  async receive(options?: ReceiveOptions): Promise<Array<Message<T>>> {
    this.#assertOpen()
    const { max, waitMs, signal } = receiveSettings(options)
    const { clock } = this.#settings
    const endsAt = clock.monotonicMs() + waitMs
    for (;;) {
      const leftMs = Math.max(0, endsAt - clock.monotonicMs())
      const leases = await this.#dispatcher.receive({ max: () => max, waitMs: leftMs, signal, isHanded: true })
      const handed = this.#delivery.handOutAll(leases)
      if (!isThenable(handed)) return handed
      const messages = await handed
      if (signal?.aborted === true || !this.#dispatcher.isOpen) {
        // While an asynchronous schema ran.
        this.#dispatcher.requeue(leases)
        signal?.throwIfAborted()
        return []
      }
      // Otherwise no payload of these messages fits the schema.
      if (messages.length > 0) return messages
    }
  }

  /**
   * Streams messages as they become ready, until the signal is aborted, the stream is left or
   * cancelled, or the queue is closed. The consumer must ack or nack each message that it takes.
   *
   * The lease of a message begins when the consumer takes it. Messages that were prefetched and not
   * taken go back to their places, and their attempts are refunded.
   *
   * The stream can be left at any time, even while a read waits: by `break`, `return()`, `cancel()`
   * or `releaseLock()`. A generator that wraps the stream cannot be left while it waits, because
   * JavaScript queues its `return()` behind the pending `next()`; use a signal there.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`.
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  consume(options?: ConsumeOptions): MessageStream<T> {
    this.#assertOpen()
    return messageStream(this.#parts, consumeSettings(options))
  }

  /**
   * Calls a handler for each message, at most `concurrency` at a time. When the handler resolves,
   * the message is acked. When it throws, the message is nacked with the error's message as its
   * reason, and is delivered again after the backoff. When it throws a {@link PermanentFailure},
   * the message becomes a dead letter at once. A handler keeps its message while it runs, for at
   * most `handlerTimeoutMs`. If the lease is lost, the message's signal fires.
   *
   * The ack or nack of a message and the delivery of its successor are one write. Acks and nacks of
   * other handlers that end while this write waits join it. After a crash before the write is
   * durable, these messages are delivered again.
   *
   * The signal or `close()` stops the run: no more handlers start. Handlers that run may go on for
   * `drainMs`; then the signals of their messages fire. A handler that throws after that has used
   * up no attempt: the refund is written together with the nack, and the message is first in line
   * again. If the process is killed before that write is durable, the attempt counts. Messages
   * whose handlers have not started lose no attempt.
   *
   * The promise resolves once all handlers have ended, or 5 s after the signals have fired. A
   * handler that is still running then has lost its lease and used up its attempt. A handler must
   * not wait for this promise or for `close()`.
   *
   * Calls may overlap; each has its own `concurrency`.
   *
   * @throws {MiniStoreError} if messages can no longer be received or written, once the running
   *   handlers have ended; `ERR_MINISTORE_CLOSED` if the queue is closed already. Any other failed
   *   ack or nack goes to `onError`, and the message is delivered again when its lease ends.
   * @throws {TypeError | RangeError} if the handler is not a function, or an option is invalid.
   */
  async process(handler: Handler<T>, options?: ProcessOptions): Promise<void> {
    this.#assertOpen()
    if (typeof handler !== 'function') throw new TypeError(`Expected a handler, got ${shown(handler)}`)
    const worker = new Worker(this.#parts, handler, processSettings(options))
    const run = worker.run()
    this.#workers.set(worker, run)
    try {
      await run
    } finally {
      this.#workers.delete(worker)
    }
  }

  /** Counts messages by state, as of now, and what happened since `open`. Reads memory only. */
  stats(): QueueStats {
    return this.#contents.stats()
  }

  /**
   * Lists copies of messages, ordered by id, without changing anything. Payloads are as stored, so a
   * schema has not changed them. The next page is `from` the last id plus 1. Reads memory only; the
   * time that it takes grows with the number of messages in the queue.
   *
   * @throws {TypeError | RangeError} if an option is invalid.
   */
  messages(options?: MessagesOptions): Array<ListedMessage<Input>> {
    return this.#contents.messages(options) as Array<ListedMessage<Input>>
  }

  /**
   * Lists copies of the dead letters, ordered by id. Dead letters stay in the queue until they are
   * redriven or discarded. Payloads are as stored, so a schema has not changed them.
   */
  deadLetters(): Array<DeadLetter<Input>> {
    return deadLettersOf<Input>(this.#log.state)
  }

  /**
   * Turns a dead letter, or all of them, back into messages. Each goes to the end of its priority,
   * with its old id and no attempts. It takes its `dedupeKey` again, unless another message has the
   * key or had it within `dedupeWindowMs`. Resolves with the number of redriven messages once the
   * change is durable.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NO_SUCH_MESSAGE` if no dead letter has this id;
   *   `…_QUEUE_FULL`, `…_CLOSED`, and the errors of `StateManager.apply`.
   * @throws {TypeError | RangeError} if `id` is invalid.
   */
  async redrive(id: number | 'all'): Promise<number> {
    this.#assertOpen()
    return await this.#contents.changeDead('redrive', id)
  }

  /**
   * Removes a dead letter, or all of them, for good. Resolves with the number of removed dead
   * letters once the change is durable.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NO_SUCH_MESSAGE` if no dead letter has this id;
   *   `…_CLOSED`, and the errors of `StateManager.apply`.
   * @throws {TypeError | RangeError} if `id` is invalid.
   */
  async discard(id: number | 'all'): Promise<number> {
    this.#assertOpen()
    return await this.#contents.changeDead('discard', id)
  }

  /**
   * Removes a message that is ready or delayed, for good, and frees its key. Resolves with true once
   * that is durable; with false, and nothing is written, if the message is in flight, dead or gone.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, and the errors of `StateManager.apply`.
   * @throws {TypeError | RangeError} if `id` is invalid.
   */
  async cancel(id: number): Promise<boolean> {
    this.#assertOpen()
    return await this.#contents.cancel(id)
  }

  /**
   * Removes all messages that are ready or delayed, for good, and frees their keys. Messages in
   * flight and dead letters stay. Resolves with the number of removed messages once the change is
   * durable.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, and the errors of `StateManager.apply`.
   */
  async purge(): Promise<number> {
    this.#assertOpen()
    return await this.#contents.purge()
  }

  /**
   * Suspends deliveries to `receive`, `consume` and `process`, until {@link resume}. Messages in
   * flight and calls that change messages go on. It is kept in memory only. A delivery that is being
   * written is completed.
   */
  pause(): void {
    this.#dispatcher.isPaused = true
  }

  /** Ends {@link pause}. */
  resume(): void {
    this.#dispatcher.isPaused = false
  }

  /** Whether deliveries are suspended by {@link pause}. */
  get isPaused(): boolean {
    return this.#dispatcher.isPaused
  }

  /**
   * Resolves when no message is ready, delayed or in flight, at once if there is none. Dead letters
   * do not count.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED` if the queue is closed before that;
   *   `…_POISONED` if nothing can be written any more.
   */
  async idle(): Promise<void> {
    this.#assertOpen()
    await this.#log.idle()
  }

  /**
   * Writes a snapshot and drops the part of the journal that every kept snapshot covers, as
   * `StateManager.compact` does. The queue also compacts by itself, see `QueueOptions.compaction`.
   * A crash during compaction loses no message.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, and the errors of `StateManager.compact`.
   */
  async compact(): Promise<CompactionReport> {
    this.#assertOpen()
    return await this.#log.compact()
  }

  /**
   * Closes the queue. At once, every waiting `receive` resolves with an empty array, streams end,
   * and the signals of messages that `receive` and `consume` gave fire. The runs of `process` drain:
   * their handlers may go on for `drainMs`, as {@link process} describes. Messages in flight may
   * be acked or nacked while the queue closes; `enqueue` works while handlers run.
   *
   * It resolves when the runs of `process` have ended, all earlier calls are done, the attempts of
   * messages that no receiver got are refunded, and the lock is free. If the refund cannot be
   * written, `onError` is called.
   *
   * Further calls return the same promise; with a smaller `drainMs` they shorten the drain. Other
   * methods of the queue that receive or change messages fail with `ERR_MINISTORE_CLOSED`.
   *
   * @throws {MiniStoreError} the errors of `StateManager.close`; the queue is closed all the same.
   * @throws {TypeError | RangeError} if an option is invalid; the queue stays open.
   */
  close(options?: CloseOptions): Promise<void> {
    let settings: ReturnType<typeof closeSettings>
    try {
      settings = closeSettings(options)
    } catch (error) {
      return Promise.reject(error)
    }
    if (this.#closing === undefined) {
      let follow!: (closed: Promise<void>) => void
      // #close() fires abort signals, and their listeners may call close() again. They must find
      // the promise set.
      this.#closing = new Promise((resolve) => (follow = resolve))
      this.#dispatcher.stop()
      follow(this.#close())
    }
    for (const worker of this.#workers.keys()) worker.stop(queueClosed(), settings.drainMs)
    return this.#closing
  }

  /** Calls {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    // A failed run has rejected the promise of its own `process` call.
    await Promise.allSettled(this.#workers.values())
    await this.#dispatcher.refundAttempts()
    this.#dispatcher.end()
    await this.#log.close(queueClosed())
  }

  get #parts(): QueueParts<T> {
    return { log: this.#log, dispatcher: this.#dispatcher, delivery: this.#delivery, clock: this.#settings.clock }
  }

  #enqueue(entries: readonly Entry[]): Promise<number[]> {
    // Checked a second time because the `toJSON` of a payload may have closed the queue.
    this.#assertTakes()
    return this.#log.inTurn(async () => {
      for (const { validation } of entries) if (validation !== undefined) await validation
      const { state } = this.#log
      const { step, text, ids } = planEnqueue(entries, { state, at: this.#settings.clock.wallMs() })
      if (step.messages.length > 0) {
        this.#contents.refuseFull({ depth: step.messages.length, bytes: bytesOf(step.messages) })
        await this.#dispatcher.enqueue(step, text())
      }
      return ids
    })
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw queueClosed()
  }

  /** A handler that may go on after a stop must be able to enqueue what follows from its work. */
  #assertTakes(): void {
    if (this.#workers.size === 0) this.#assertOpen()
  }
}
