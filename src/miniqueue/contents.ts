import { MiniStoreError } from '../errors.ts'
import { integer } from '../options.ts'
import type { Dispatcher } from './dispatcher.ts'
import { copyPayload, refuseFull } from './enqueueing.ts'
import type { QueueLog } from './log.ts'
import { messagesSettings, type MessageState, type QueueSettings } from './settings.ts'
import type { DeadMessage, QueuedMessage, QueueState } from './state.ts'

/** What is in a queue: looks at messages, and changes those that no receiver has. */
export class Contents {
  readonly #log: QueueLog
  readonly #dispatcher: Dispatcher
  readonly #settings: QueueSettings

  constructor(log: QueueLog, dispatcher: Dispatcher, settings: QueueSettings) {
    this.#log = log
    this.#dispatcher = dispatcher
    this.#settings = settings
  }

  stats(): QueueStats {
    const { messages, bytesOnDisk, counts } = this.#log
    const now = this.#promote()
    const { depth, delayed, dead, oldest, oldestWaiting, oldestLease } = messages
    const inFlight = messages.inFlight.size
    const ageOf = (message: QueuedMessage | undefined): number | undefined =>
      message && Math.max(0, now - message.enqueuedAt)
    return {
      ready: depth - delayed - inFlight,
      delayed,
      inFlight,
      dead,
      oldestAgeMs: ageOf(oldest),
      oldestWaitingAgeMs: ageOf(oldestWaiting),
      oldestInFlightMs: oldestLease === undefined ? undefined : this.#settings.clock.monotonicMs() - oldestLease,
      bytesOnDisk,
      sinceOpen: { ...counts },
    }
  }

  messages(options: unknown): ListedMessage[] {
    const { state: wanted, from, limit } = messagesSettings(options)
    const { state, messages } = this.#log
    this.#promote()
    const delayed = new Set(messages.delayedIds)
    const stateOf = (id: number): MessageState => {
      if (state.dead[id] !== undefined) return 'dead'
      if (messages.inFlight.has(id)) return 'inFlight'
      return delayed.has(id) ? 'delayed' : 'ready'
    }
    const alive = wanted === 'dead' ? [] : Object.keys(state.messages)
    const dead = wanted === undefined || wanted === 'dead' ? Object.keys(state.dead) : []
    const ids = [...alive, ...dead].map(Number).filter((id) => id >= from)
    // Both lists are in order already, so only the mixture needs sorting.
    if (dead.length > 0) ids.sort((left, right) => left - right)
    const listed: ListedMessage[] = []
    for (const id of ids) {
      if (listed.length >= limit) break
      const current = stateOf(id)
      const message = state.messages[id] ?? state.dead[id]
      if (message !== undefined && (wanted ?? current) === current) listed.push(listedMessage(id, current, message))
    }
    return listed
  }

  async cancel(given: unknown): Promise<boolean> {
    const id = integer('id', given)
    return await this.#log.inTurn(async () => {
      const { state, messages } = this.#log
      if (state.messages[id] === undefined || messages.inFlight.has(id)) return false
      await this.#log.commit({ op: 'cancel', ids: [id] })
      return true
    })
  }

  async purge(): Promise<number> {
    return await this.#log.inTurn(async () => {
      const { depth, inFlight } = this.#log.messages
      if (depth === inFlight.size) return 0
      const except = [...inFlight.keys()]
      return -(await this.#log.commit({ op: 'purge', except })).depth
    })
  }

  async changeDead(op: 'redrive' | 'discard', id: number | 'all'): Promise<number> {
    const wanted = id === 'all' ? id : integer('id', id)
    return await this.#log.inTurn(async () => {
      const { dead } = this.#log.state
      if (wanted !== 'all' && dead[wanted] === undefined) {
        throw new MiniStoreError('ERR_MINISTORE_NO_SUCH_MESSAGE', `There is no dead letter ${wanted}`)
      }
      const ids = wanted === 'all' ? Object.keys(dead).map(Number) : [wanted]
      if (ids.length === 0) return 0
      if (op === 'discard') return -(await this.#log.commit({ op, ids })).dead
      this.refuseFull({ depth: ids.length, bytes: 0 })
      return -(await this.#log.commit({ op, ids, at: this.#settings.clock.wallMs() })).dead
    })
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_QUEUE_FULL` if the queue has no room for `more`. */
  refuseFull(more: { readonly depth: number; readonly bytes: number }): void {
    const { depth, bytes: liveBytes } = this.#log.messages
    refuseFull(more, { depth, liveBytes, maxDepth: this.#settings.maxDepth })
  }

  /** Makes due messages ready and returns the time on the wall clock. */
  #promote(): number {
    const now = this.#settings.clock.wallMs()
    this.#log.messages.promote(now)
    this.#dispatcher.changed()
    return now
  }
}

/** A message as `messages` lists it. */
export interface ListedMessage<T = unknown> {
  /** The id that `enqueue` gave. */
  readonly id: number
  /** Where the message is. */
  readonly state: MessageState
  /** A copy of the payload as it is stored. */
  readonly payload: T
  /** Higher priorities are delivered first. */
  readonly priority: number
  /** Number of deliveries. */
  readonly attempts: number
  /** The limit of this message, if it has one of its own. */
  readonly maxAttempts: number | undefined
  /** The `headers` of `enqueue`; empty without any. */
  readonly headers: Readonly<Record<string, string>>
  /** The `dedupeKey` of `enqueue`, if any. */
  readonly dedupeKey: string | undefined
  /** When the message was enqueued, by the wall clock. */
  readonly enqueuedAt: Date
  /** When the message is due, by the wall clock, if it was enqueued or nacked with a delay. */
  readonly dueAt: Date | undefined
  /** The reason of the last nack, or that of the dead letter, if any. */
  readonly reason: string | undefined
}

function listedMessage(id: number, state: MessageState, message: QueuedMessage | DeadMessage): ListedMessage {
  const { payload, priority, attempts, maxAttempts, headers, key, enqueuedAt, reason } = message
  const dueAt = 'dueAt' in message && message.dueAt !== undefined ? new Date(message.dueAt) : undefined
  return {
    id,
    state,
    payload: copyPayload(payload),
    priority,
    attempts,
    maxAttempts,
    headers: { ...headers },
    dedupeKey: key,
    enqueuedAt: new Date(enqueuedAt),
    dueAt,
    reason,
  }
}

/** A message that was given up: it used up its attempts, or it failed for good. */
export interface DeadLetter<T = unknown> {
  /** The id that the message was enqueued under. */
  readonly id: number
  /** A copy; changes to it do not affect the queue. */
  readonly payload: T
  /** The reason given with the last nack, or how the last lease ended. */
  readonly reason: string
  /** Number of deliveries. */
  readonly attempts: number
  /** The `headers` of `enqueue`; empty without any. */
  readonly headers: Readonly<Record<string, string>>
  /** When the message was enqueued, by the wall clock. */
  readonly enqueuedAt: Date
  /** When the message became a dead letter, by the wall clock. */
  readonly diedAt: Date
}

/** Lists copies of the dead letters of a state, ordered by id. */
export function deadLettersOf<T>({ dead }: Pick<QueueState, 'dead'>): Array<DeadLetter<T>> {
  return Object.entries(dead).map(([id, { payload, reason, attempts, headers, enqueuedAt, diedAt }]) => ({
    id: Number(id),
    payload: copyPayload(payload) as T,
    reason,
    attempts,
    headers: { ...headers },
    enqueuedAt: new Date(enqueuedAt),
    diedAt: new Date(diedAt),
  }))
}

/** Message counts by state, at one moment, and what happened until then. */
export interface QueueStats {
  /** Messages that can be delivered now. */
  readonly ready: number
  /** Messages whose delay has not passed. */
  readonly delayed: number
  /** Messages that are leased: handed to a receiver, or prefetched for one. */
  readonly inFlight: number
  /** Dead letters. */
  readonly dead: number
  /**
   * Milliseconds since the oldest message was enqueued, dead letters excluded. Undefined if there
   * is no message.
   */
  readonly oldestAgeMs: number | undefined
  /**
   * Milliseconds since the oldest message that is ready or delayed was enqueued. Undefined if there
   * is none.
   */
  readonly oldestWaitingAgeMs: number | undefined
  /**
   * Milliseconds since the message that has been in flight longest was handed out or prefetched.
   * Undefined if no message is in flight. It shows a handler that hangs.
   */
  readonly oldestInFlightMs: number | undefined
  /** Bytes of the journal and the snapshots together. */
  readonly bytesOnDisk: number
  /** What happened since the queue was opened. */
  readonly sinceOpen: {
    /** Messages that were enqueued. */
    readonly enqueued: number
    /** Messages that were acknowledged. */
    readonly acked: number
    /** Attempts that failed: with a nack, or because their lease or their process ended. */
    readonly failed: number
    /** Messages that became dead letters. */
    readonly dead: number
  }
}
