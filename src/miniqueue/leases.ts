import { Heap } from './order.ts'

/**
 * A message in flight: `held` until its lease ends or it is settled, `settling` while an ack or nack is being
 * written, and then `settled` or `lost`.
 */
export class Lease {
  readonly id: number
  /** 1 for the first delivery. */
  readonly attempt: number
  phase: 'held' | 'settling' | 'settled' | 'lost' = 'held'
  /** Whether somebody was given the message: one that was fetched ahead need not be. */
  isHanded: boolean
  /** On the monotonic clock. */
  endsAt: number
  /** What is left of it, in milliseconds, while it is being settled. */
  frozenMs = 0
  /** Where it lies in the heap; -1 when it does not. */
  position = -1
  #controller: AbortController | undefined
  #abort: { readonly reason: unknown } | undefined

  constructor(parts: Pick<Lease, 'id' | 'attempt' | 'isHanded' | 'endsAt'>) {
    this.id = parts.id
    this.attempt = parts.attempt
    this.isHanded = parts.isHanded
    this.endsAt = parts.endsAt
  }

  /** Made when it is asked for: few handlers do. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#abort !== undefined) this.#controller.abort(this.#abort.reason)
    }
    return this.#controller.signal
  }

  /** Aborts the signal, once. The lease stays what it is. */
  abort(reason: unknown): void {
    if (this.#abort !== undefined) return
    this.#abort = { reason }
    this.#controller?.abort(reason)
  }
}

/** All leases of a queue, by message and by their ends. */
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

  /** When the next one ends, on the monotonic clock; undefined when none does. */
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

  /** Makes a lease end at another time. */
  restart(lease: Lease, endsAt: number): void {
    this.#stop(lease)
    lease.endsAt = endsAt
    this.#byEnd.push(lease)
  }

  /** Stops its time while the message is being settled. */
  freeze(lease: Lease, now: number): void {
    this.#stop(lease)
    lease.frozenMs = lease.endsAt - now
    lease.phase = 'settling'
  }

  /** Goes on with what was left of its time. */
  thaw(lease: Lease, now: number): void {
    lease.phase = 'held'
    this.restart(lease, now + lease.frozenMs)
  }

  /** Takes out the order of time a lease that is over; its message stays in flight. */
  popEnded(now: number): Lease | undefined {
    const { first } = this.#byEnd
    return first === undefined || first.endsAt > now ? undefined : this.#byEnd.pop()
  }

  /** The message is not in flight any more. */
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
