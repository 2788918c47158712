import type { CompactionReport, StateRecovery } from '../ministate/index.ts'
import { integer, iterable, shown } from '../options.ts'
import { Delivery } from './delivery.ts'
import {
  bytesOf, type Entry, entryOf, entryOfMessage, type MessageToEnqueue, planEnqueue, refuseFull,
} from './enqueueing.ts'
import { QueueLog } from './log.ts'
import { type Message, noSuchMessage, queueClosed } from './message.ts'
import { copyPayload } from './shape.ts'
import {
  type ConsumeOptions, consumeSettings, type EnqueueOptions, type ProcessOptions, processSettings, type QueueOptions,
  queueSettings, type QueueSettings, type ReceiveOptions, receiveSettings,
} from './settings.ts'
import type { QueueState } from './state.ts'
import { type Handler, messageStream, type MessageStream, Worker } from './worker.ts'

/**
 * A durable queue of messages in a directory, for one process at a time. Each message is delivered at least
 * once, and leaves only when it is acknowledged or, after too many attempts, as a dead letter.
 *
 * Messages are delivered by priority and, in one priority, in the order in which they were enqueued; one that
 * comes again keeps its place.
 *
 * All methods may be called at any time and in any number; what they write is written one after another in
 * call order. When a call rejects nothing was written, but for `ERR_MINISTORE_OUTCOME_UNKNOWN` (it may be
 * there when the queue is opened anew); after that only `close()` works.
 *
 * ```ts
 * await using queue = await MiniQueue.open<Job>('jobs')
 * await queue.enqueue({ resize: 'cat.png' })
 * await queue.process(async (job) => resize(job), { concurrency: 4, signal })
 * ```
 */
export class MiniQueue<T = unknown> implements AsyncDisposable {
  readonly #log: QueueLog
  readonly #settings: QueueSettings
  readonly #delivery: Delivery<T>
  readonly #workers = new Set<Promise<void>>()
  #closing: Promise<void> | undefined

  private constructor(log: QueueLog, settings: QueueSettings, delivery: Delivery<T>) {
    this.#log = log
    this.#settings = settings
    this.#delivery = delivery
  }

  /**
   * Opens the queue in a directory, making it when it is missing, with all messages that were not
   * acknowledged; those that were in flight when the last process ended are ready again, in their old places.
   *
   * Messages that have been delivered `maxAttempts` times become dead letters, durably; when only that cannot
   * be written, `onError` is told and it is tried again.
   *
   * @throws {MiniStoreError} what `StateManager.open` does: `ERR_MINISTORE_LOCKED` when another process has
   *   it open; `…_MUTATOR` or `…_CORRUPT` when its files hold what no queue has written.
   * @throws {TypeError | RangeError} for options that are none. Whenever it rejects, the lock is free again.
   */
  static async open<T = unknown>(directory: string, options?: QueueOptions): Promise<MiniQueue<T>> {
    const settings = queueSettings(options)
    const log = await QueueLog.open(directory, settings)
    try {
      const delivery = new Delivery<T>(log, settings)
      await delivery.buryExhausted()
      return new MiniQueue(log, settings, delivery)
    } catch (error) {
      // What went wrong first is what counts.
      await log.close().catch(() => {})
      throw error
    }
  }

  /** Absolute path of the directory. */
  get directory(): string {
    return this.#log.directory
  }

  /** What opening found and did. */
  get recovery(): StateRecovery {
    return this.#log.recovery
  }

  /**
   * Adds a message and resolves with its id when it is durable: ids are given once, in ascending order. With
   * a `dedupeKey` that is taken nothing is written, and the id is that of the message that has it.
   *
   * The payload is kept as JSON keeps it, and read before this returns: what happens to it afterwards changes
   * nothing.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NOT_SERIALIZABLE`, `…_RECORD_TOO_LARGE`, `…_QUEUE_FULL`,
   *   `…_CLOSED`, and what `StateManager.apply` does.
   */
  async enqueue(payload: T, options?: EnqueueOptions): Promise<number> {
    this.#assertOpen()
    const [id] = await this.#enqueue([entryOf(payload, options, this.#settings)])
    return id as number
  }

  /**
   * Adds messages with one write and one fsync: all of them or none, also after a crash. Resolves with their
   * ids in the given order. All together may have 64 MiB as JSON.
   *
   * @throws {MiniStoreError} as {@link enqueue}.
   */
  async enqueueAll(messages: Iterable<MessageToEnqueue<T>>): Promise<number[]> {
    this.#assertOpen()
    const settings = this.#settings
    const entries = Array.from(iterable('messages', messages), (message) => entryOfMessage(message, settings))
    return entries.length === 0 ? [] : await this.#enqueue(entries)
  }

  /**
   * Delivers up to `max` messages with one fsync: what is ready, and if nothing is, what becomes so within
   * `waitMs`. Resolves with none when nothing does, or when the queue is closed meanwhile. That they were
   * delivered is durable: their attempts count, whatever happens to this process.
   *
   * Who has waited longest is served first.
   *
   * @throws the signal's reason when it is aborted; nothing is lost by that, and no attempt counts.
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, and what `StateManager.apply` does.
   */
  async receive(options?: ReceiveOptions): Promise<Array<Message<T>>> {
    this.#assertOpen()
    const { max, waitMs, signal } = receiveSettings(options)
    const leases = await this.#delivery.receive({ max: () => max, waitMs, signal, isHanded: true })
    return leases.map((lease) => this.#delivery.handOut(lease))
  }

  /**
   * Messages as they become ready, until the signal is aborted, the stream is left or cancelled, or the queue
   * is closed. Each is to be settled by whoever takes it. The lease of a message begins when it is taken;
   * those that were fetched and not taken go back to their places, and their attempts are taken back.
   *
   * Leaving is answered at once, also while a read waits: `break`, `return()`, `cancel()`, `releaseLock()`. A
   * generator around the stream cannot be left while it waits, which is how generators are: give it a signal.
   */
  consume(options?: ConsumeOptions): MessageStream<T> {
    this.#assertOpen()
    return messageStream(this.#delivery, consumeSettings(options))
  }

  /**
   * Hands messages to a handler, so many at the same time: acked when it resolves, nacked with its error's
   * message when it throws, and then delivered again after the backoff. A handler that runs longer than the
   * visibility timeout must extend its message's lease; the message's signal fires when that is lost.
   *
   * How a handler ended and the delivery of the message that takes its place are one write; so is what else
   * ends while that waits. A crash before it brings those messages again.
   *
   * Resolves when the signal has stopped it, or `close()`, and all handlers have ended: no more begin, and the
   * signals of what is in flight fire; what throws then comes again without delay, and what was to be handled
   * next has no attempt. A handler must not wait for that.
   *
   * @throws {MiniStoreError} when messages can no longer be had or written, after the handlers that run have
   *   ended. An ack or nack that fails otherwise is told to `onError`, and the message comes again when its
   *   lease ends.
   */
  async process(handler: Handler<T>, options?: ProcessOptions): Promise<void> {
    this.#assertOpen()
    if (typeof handler !== 'function') throw new TypeError(`Expected a handler, got ${shown(handler)}`)
    const { concurrency, signal } = processSettings(options)
    const worker = new Worker<T>({ delivery: this.#delivery, log: this.#log }, handler, concurrency)
    const run = worker.run(signal)
    this.#workers.add(run)
    try {
      await run
    } finally {
      this.#workers.delete(run)
    }
  }

  /** How many messages there are of each kind, now. */
  stats(): QueueStats {
    const { oldest, ...counts } = this.#delivery.count()
    const oldestAgeMs = oldest && Math.max(0, this.#settings.clock.wallMs() - oldest.enqueuedAt)
    return { ...counts, oldestAgeMs, bytesOnDisk: this.#log.bytesOnDisk }
  }

  /** Copies of the dead letters, by id. They stay until they are redriven or discarded. */
  deadLetters(): Array<DeadLetter<T>> {
    return deadLettersOf<T>(this.#log.state)
  }

  /**
   * Makes a dead letter a message again, or all: at the end of its priority, with no attempts counted, under
   * its old id. Its key counts again unless another message has it, or had it within `dedupeWindowMs`. Resolves with how many, when it is
   * durable.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_NO_SUCH_MESSAGE`, `…_QUEUE_FULL`, `…_CLOSED`, and what
   *   `StateManager.apply` does.
   */
  async redrive(id: number | 'all'): Promise<number> {
    return await this.#changeDead('redrive', id)
  }

  /**
   * Removes a dead letter for good, or all. Resolves with how many, when it is durable. @throws as {@link
   * redrive}.
   */
  async discard(id: number | 'all'): Promise<number> {
    return await this.#changeDead('discard', id)
  }

  /**
   * Removes all messages that are ready or delayed, for good; their keys are free. What is in flight stays,
   * and so do dead letters. Resolves with how many, when it is durable.
   */
  async purge(): Promise<number> {
    this.#assertOpen()
    return await this.#log.inTurn(async () => {
      const except = this.#delivery.leased
      if (this.#delivery.depth === except.length) return 0
      return -(await this.#log.commit({ op: 'purge', except })).depth
    })
  }

  /**
   * Makes a snapshot and drops what it covers, as `StateManager.compact`; the queue does so itself when it is
   * time.
   */
  async compact(): Promise<CompactionReport> {
    this.#assertOpen()
    return await this.#log.compact()
  }

  /**
   * Stops: those who wait get nothing, streams end, the signals of all messages in flight fire. Resolves when
   * `process` has waited for its handlers, all that was called before is done, the attempts of messages that
   * nobody was given are taken back (`onError` is told when they cannot be), and the lock is free. Until then
   * messages in flight may still be settled. Further calls give the same promise; other methods are refused.
   *
   * @throws {MiniStoreError} what `StateManager.close` does; it is closed all the same.
   */
  close(): Promise<void> {
    if (this.#closing === undefined) {
      let follow!: (closed: Promise<void>) => void
      // Whoever listens to a signal is called while it closes, and may close it too.
      this.#closing = new Promise((resolve) => (follow = resolve))
      follow(this.#close())
    }
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    this.#delivery.stop()
    // Whoever called `process` is told of its failure.
    await Promise.allSettled(this.#workers)
    await this.#delivery.returnUntaken()
    this.#delivery.end()
    await this.#log.close()
  }

  #enqueue(entries: readonly Entry[]): Promise<number[]> {
    // Once more: the toJSON of a payload may have closed the queue.
    this.#assertOpen()
    return this.#log.inTurn(async () => {
      const { state } = this.#log
      const at = this.#settings.clock.wallMs()
      const { messages, places } = planEnqueue(entries, { state, at })
      let ids: readonly number[] = []
      if (messages.length > 0) {
        this.#refuseFull({ depth: messages.length, bytes: bytesOf(messages) })
        ids = (await this.#delivery.enqueue({ op: 'enqueue', at, messages })).added
      }
      return places.map((place) => ('id' in place ? place.id : (ids[place.index] as number)))
    })
  }

  async #changeDead(op: 'redrive' | 'discard', id: number | 'all'): Promise<number> {
    this.#assertOpen()
    const wanted = id === 'all' ? id : integer('id', id)
    return await this.#log.inTurn(async () => {
      const { dead } = this.#log.state
      if (wanted !== 'all' && dead[wanted] === undefined) throw noSuchMessage(wanted)
      const ids = wanted === 'all' ? Object.keys(dead).map(Number) : [wanted]
      if (ids.length === 0) return 0
      if (op === 'discard') return -(await this.#log.commit({ op, ids })).dead
      this.#refuseFull({ depth: ids.length, bytes: 0 })
      return -(await this.#log.commit({ op, ids, at: this.#settings.clock.wallMs() })).dead
    })
  }

  #refuseFull(more: { readonly depth: number; readonly bytes: number }): void {
    const { depth, liveBytes } = this.#delivery
    refuseFull(more, { depth, liveBytes, maxDepth: this.#settings.maxDepth })
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw queueClosed()
  }
}

/** A message that was delivered too often and never acknowledged. */
export interface DeadLetter<T = unknown> {
  readonly id: number
  /** A copy, the caller's own. */
  readonly payload: T
  /** What its last nack said, or how its last lease ended. */
  readonly reason: string
  /** Times that it was delivered. */
  readonly attempts: number
  /** By the wall clock. */
  readonly enqueuedAt: Date
  /** By the wall clock. */
  readonly diedAt: Date
}

/** The dead letters of a state, by id. */
export function deadLettersOf<T>({ dead }: Pick<QueueState, 'dead'>): Array<DeadLetter<T>> {
  return Object.entries(dead).map(([id, { payload, reason, attempts, enqueuedAt, diedAt }]) => ({
    id: Number(id),
    payload: copyPayload(payload) as T,
    reason,
    attempts,
    enqueuedAt: new Date(enqueuedAt),
    diedAt: new Date(diedAt),
  }))
}

/** What a queue holds at a moment. */
export interface QueueStats {
  /** Messages that can be delivered now. */
  readonly ready: number
  /** Messages that wait for their time. */
  readonly delayed: number
  /** Messages that somebody has, or that were fetched ahead. */
  readonly inFlight: number
  readonly dead: number
  /**
   * Milliseconds since the oldest of them, dead letters left out, was enqueued; undefined when there is none.
   */
  readonly oldestAgeMs: number | undefined
  /** Bytes of journal and snapshots. */
  readonly bytesOnDisk: number
}
