import { Heap } from './order.ts'

/**
 * The lease of a message in flight. Its phase is `held` at first, and `settling` while an ack or
 * nack is being written. It ends as `settled`, or as `lost` if its time runs out or the message is
 * given back.
 */
export class Lease {
  /** Id of the message. */
  readonly id: number
  /** Number of this delivery; 1 for the first. */
  readonly attempt: number
  phase: 'held' | 'settling' | 'settled' | 'lost' = 'held'
  /**
   * Whether a receiver got the message. A prefetched message may never reach one.
   *
   * The lease of a prefetched message begins again when the message is handed out, so a slow
   * consumer loses nothing in its own buffer. It has a lease before that too, so a consumer that
   * hangs does not hold the message forever.
   */
  isHanded: boolean
  /** When the lease ends, on the monotonic clock. */
  endsAt: number
  /** Milliseconds that were left when settling began. */
  frozenMs = 0
  /** Position in the heap of ends; -1 if it is not in the heap. */
  position = -1
  #controller: AbortController | undefined
  #abort: { readonly reason: unknown } | undefined

  constructor(parts: Pick<Lease, 'id' | 'attempt' | 'isHanded' | 'endsAt'>) {
    this.id = parts.id
    this.attempt = parts.attempt
    this.isHanded = parts.isHanded
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
}

/** All leases of a queue, found by message id and ordered by end. */
export class Leases {
  readonly #byId = new Map<number, Lease>()
  readonly #byEnd = new Heap<Lease>(
    (left, right) => left.endsAt < right.endsAt,
    (lease, position) => {
      lease.position = position
    },
  )

  get size(): number {
    return this.#byId.size
  }

  get ids(): number[] {
    return [...this.#byId.keys()]
  }

  get all(): Iterable<Lease> {
    return this.#byId.values()
  }

  /** When the next lease ends, on the monotonic clock; undefined if none runs. */
  get nextEnd(): number | undefined {
    return this.#byEnd.first?.endsAt
  }

  has(id: number): boolean {
    return this.#byId.has(id)
  }

  grant(parts: Pick<Lease, 'id' | 'attempt' | 'isHanded' | 'endsAt'>): Lease {
    const lease = new Lease(parts)
    this.#byId.set(lease.id, lease)
    this.#byEnd.push(lease)
    return lease
  }

  /** Gives a lease another end. */
  restart(lease: Lease, endsAt: number): void {
    this.#stop(lease)
    lease.endsAt = endsAt
    this.#byEnd.push(lease)
  }

  /**
   * Stops the time of a lease while its message is being settled. An ack may wait for seconds, for
   * example for a compaction. The lease must not end because of that.
   */
  freeze(lease: Lease, now: number): void {
    this.#stop(lease)
    lease.frozenMs = lease.endsAt - now
    lease.phase = 'settling'
  }

  /** Lets a frozen lease go on with the time that was left. */
  thaw(lease: Lease, now: number): void {
    lease.phase = 'held'
    this.restart(lease, now + lease.frozenMs)
  }

  /** Removes an ended lease from the heap and returns it; its message stays in flight. */
  popEnded(now: number): Lease | undefined {
    const { first } = this.#byEnd
    return first === undefined || first.endsAt > now ? undefined : this.#byEnd.pop()
  }

  /** Removes the lease of a message that is no longer in flight. */
  release(id: number): void {
    const lease = this.#byId.get(id)
    if (lease === undefined) return
    this.#stop(lease)
    this.#byId.delete(id)
    lease.phase = lease.phase === 'settling' ? 'settled' : 'lost'
  }

  #stop(lease: Lease): void {
    if (lease.position >= 0) this.#byEnd.remove(lease.position)
  }
}
