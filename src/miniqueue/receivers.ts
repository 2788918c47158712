import { whenAborted } from '../async.ts'
import { Heap } from './heap.ts'
import type { Lease } from './leases.ts'

/** Who wants messages, and how long they wait for the first. */
export interface ReceiveRequest {
  /** Messages at most; asked for when there are some. */
  readonly max: () => number
  /** Milliseconds; 0 takes what is there. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  /** Whether the messages are handed on at once. */
  readonly isHanded: boolean
}

/** One who wants messages, until it is answered. */
export class Receiver {
  readonly request: ReceiveRequest
  /** When the wait is over, on the monotonic clock. */
  readonly endsAt: number
  readonly leases: Promise<Lease[]>
  /** Where it lies in the heap of those who wait; -1 when it does not. */
  position = -1
  /** How many have waited before it. */
  ordinal = 0
  isAnswered = false
  /** Is told when it is answered. */
  onAnswer: () => void = () => {}
  readonly #forgetSignal: () => void = () => {}
  #resolve: (leases: Lease[]) => void = () => {}
  #reject: (reason: unknown) => void = () => {}

  constructor(request: ReceiveRequest, endsAt: number) {
    this.request = request
    this.endsAt = endsAt
    this.leases = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    const { signal } = request
    if (signal !== undefined) this.#forgetSignal = whenAborted(signal, () => this.reject(signal.reason))
  }

  resolve(leases: Lease[]): void {
    this.#answer()
    this.#resolve(leases)
  }

  reject(reason: unknown): void {
    this.#answer()
    this.#reject(reason)
  }

  #answer(): void {
    this.isAnswered = true
    this.#forgetSignal()
    this.onAnswer()
  }
}

/** Those who wait for messages because there are none, first come first. */
export class Receivers {
  readonly #waiting = new Set<Receiver>()
  #ordinal = 0
  readonly #byEnd = new Heap<Receiver>(
    (left, right) => (left.endsAt === right.endsAt ? left.ordinal < right.ordinal : left.endsAt < right.endsAt),
    (receiver, position) => {
      receiver.position = position
    },
  )

  get size(): number {
    return this.#waiting.size
  }

  /** Those who wait, who has waited longest first. */
  get all(): Iterable<Receiver> {
    return this.#waiting
  }

  /** The one that has waited longest. */
  get first(): Receiver | undefined {
    const [first] = this.#waiting
    return first
  }

  /** When the next wait is over, on the monotonic clock; undefined when nobody waits. */
  get nextEnd(): number | undefined {
    return this.#byEnd.first?.endsAt
  }

  add(receiver: Receiver): void {
    receiver.ordinal = this.#ordinal++
    this.#waiting.add(receiver)
    this.#byEnd.push(receiver)
  }

  remove(receiver: Receiver): void {
    if (!this.#waiting.delete(receiver)) return
    this.#byEnd.remove(receiver.position)
  }

  /** Takes out those whose time is over. */
  takeOverdue(now: number): Receiver[] {
    const overdue: Receiver[] = []
    for (let next = this.#byEnd.first; next !== undefined && next.endsAt <= now; next = this.#byEnd.first) {
      this.remove(next)
      overdue.push(next)
    }
    return overdue
  }

  /** Takes out all. */
  takeAll(): Receiver[] {
    const all = [...this.#waiting]
    for (const receiver of all) this.remove(receiver)
    return all
  }
}
