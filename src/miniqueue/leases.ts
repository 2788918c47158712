import { whenAborted } from '../async.ts'

/**
 * The lease of a message in flight. Its phase is `held` at first, and `writing` while an ack or
 * nack is written. It ends as `done` when that is durable, or as `lost` when its time runs out or
 * the message goes back to the queue.
 */
export class Lease {
  /** Id of the message. */
  readonly id: number
  /** Number of this delivery; 1 for the first. */
  readonly attempt: number
  phase: 'held' | 'writing' | 'done' | 'lost' = 'held'
  /**
   * Whether a receiver got the message. A prefetched message may never reach one.
   *
   * The lease of a prefetched message begins again when the message is handed out, so a slow
   * consumer loses nothing in its own buffer. It has a lease before that too, so a consumer that
   * hangs does not hold the message forever.
   */
  isHanded: boolean
  /**
   * Whether a handler of `process` has the message. Such a lease does not end by itself, unless the
   * handler has a time limit, and a closing queue waits for it.
   */
  isHandled = false
  /**
   * Whether its signal fired because its receiver was stopped. A nack after that is no failure, so
   * it uses up no attempt.
   */
  isStopped = false
  /** Whether the message becomes a dead letter if this attempt fails. */
  readonly isLast: boolean
  /** When the receiver got the message, or the stream prefetched it, on the monotonic clock. */
  beganAt: number
  /** When the lease ends, on the monotonic clock; `Infinity` if it does not end by itself. */
  endsAt: number
  /** Milliseconds that were left when the writing of an ack or nack began. */
  leftMs = 0
  /** Position in the heap of ends; -1 if it is not in the heap. */
  position = -1
  #controller: AbortController | undefined
  #abort: { readonly reason: unknown } | undefined

  constructor(parts: Pick<Lease, 'id' | 'attempt' | 'isHanded' | 'isLast' | 'beganAt' | 'endsAt'>) {
    this.id = parts.id
    this.attempt = parts.attempt
    this.isHanded = parts.isHanded
    this.isLast = parts.isLast
    this.beganAt = parts.beganAt
    this.endsAt = parts.endsAt
  }

  /** Created on first use, because few handlers use it. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#abort !== undefined) this.#controller.abort(this.#abort.reason)
    }
    return this.#controller.signal
  }

  /** Aborts the signal; only the first call counts. The phase of the lease does not change. */
  abort(reason: unknown): void {
    if (this.#abort !== undefined) return
    this.#abort = { reason }
    this.#controller?.abort(reason)
  }

  /** Aborts the signal because the receiver was stopped. */
  stop(reason: unknown): void {
    if (this.#abort === undefined) this.isStopped = true
    this.abort(reason)
  }
}

/** A request for messages, which are leased once their delivery is written. */
export interface LeaseRequest {
  /** Whether the receiver gets the messages at once; false if they are prefetched. */
  readonly isHanded: boolean
  /** Maximum number of messages; called when there are some. */
  readonly max: () => number
  /** Whether the messages are still wanted. */
  isWanted(): boolean
  /**
   * Receives the leases synchronously when they are granted; an empty array if the messages are no
   * longer wanted.
   */
  give(leases: Lease[]): void
}

/** A request for messages that may wait for the first of them. */
export interface ReceiveRequest extends Pick<LeaseRequest, 'max' | 'isHanded'> {
  /** Milliseconds to wait; with 0, only messages that are ready now are delivered. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
}

/** A pending request for messages, until it is answered. */
export class Receiver implements LeaseRequest {
  readonly isHanded: boolean
  readonly max: () => number
  /** When the wait ends, on the monotonic clock. */
  readonly endsAt: number
  readonly leases: Promise<Lease[]>
  /** Called when the request is answered. */
  onAnswer: () => void = () => {}
  #isAnswered = false
  readonly #forgetSignal: () => void = () => {}
  #resolve: (leases: Lease[]) => void = () => {}
  #reject: (reason: unknown) => void = () => {}

  constructor({ max, isHanded, signal }: ReceiveRequest, endsAt: number) {
    this.isHanded = isHanded
    this.max = max
    this.endsAt = endsAt
    this.leases = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    if (signal !== undefined) this.#forgetSignal = whenAborted(signal, () => this.reject(signal.reason))
  }

  isWanted(): boolean {
    return !this.#isAnswered
  }

  give(leases: Lease[]): void {
    this.#answer()
    this.#resolve(leases)
  }

  reject(reason: unknown): void {
    this.#answer()
    this.#reject(reason)
  }

  #answer(): void {
    this.#isAnswered = true
    this.#forgetSignal()
    this.onAnswer()
  }
}

/** The receivers that wait because no message is ready, first come first. */
export class WaitingReceivers extends Set<Receiver> {
  /** The receiver that has waited longest. */
  get first(): Receiver | undefined {
    const [first] = this
    return first
  }

  /** When the next wait ends, on the monotonic clock; `Infinity` if none does. */
  get nextEnd(): number {
    let end = Number.POSITIVE_INFINITY
    for (const { endsAt } of this) end = Math.min(end, endsAt)
    return end
  }

  /** Removes and returns the receivers whose wait ends by `now`; by default, all receivers. */
  take(now: number = Number.POSITIVE_INFINITY): Receiver[] {
    const taken = [...this].filter(({ endsAt }) => endsAt <= now)
    for (const receiver of taken) this.delete(receiver)
    return taken
  }
}
