import { whenAborted } from '../async.ts'
import type { Lease } from './messages.ts'

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
