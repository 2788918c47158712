import { integer, maxMs } from '../options.ts'
import { reasonThatFits } from './enqueueing.ts'
import type { Lease, Leases } from './leases.ts'
import type { LeaseDesk } from './message.ts'
import { alreadySettled, leaseLost, queueClosed } from './queue-errors.ts'
import type { QueueLog } from './queue-log.ts'
import type { QueueStep } from './queue-state.ts'
import type { NackSettings, QueueSettings } from './settings.ts'

/** A burial that failed, for want of space perhaps, is tried again after this time. */
const buryAgainMs = 30_000

/** What the settlement of leases asks of whoever delivers. */
export interface LeaseOwner {
  /** About how many bytes all that is kept is. */
  readonly liveBytes: number
  /** The messages of leases that are over are ready again. */
  takeBack(leases: readonly Lease[]): void
  /** Leases end at other times than before, or messages are ready that were not. */
  changed(): void
}

/** A lease whose time stands still until what becomes of its message is written. */
export interface Settling {
  readonly lease: Lease
  /** What is to be written; called when the turn to write has come. */
  readonly step: () => QueueStep
}

/** What is to be written for all of them, the plain acks as one. */
export function stepsToSettle(settlings: readonly Settling[]): QueueStep[] {
  const steps: QueueStep[] = []
  const done: number[] = []
  for (const { step: decide } of settlings) {
    const step = decide()
    if (step.op === 'ack' && step.keysUntil === undefined) done.push(...step.ids)
    else steps.push(step)
  }
  return done.length === 0 ? steps : [{ op: 'ack', ids: done }, ...steps]
}

/** The ways out of a lease: acked, nacked, extended, ended, and, after too many attempts, buried. */
export class Settlement implements LeaseDesk {
  readonly #log: QueueLog
  readonly #settings: QueueSettings
  readonly #leases: Leases
  readonly #owner: LeaseOwner
  #isClosed = false

  constructor(parts: {
    readonly log: QueueLog
    readonly settings: QueueSettings
    readonly leases: Leases
    readonly owner: LeaseOwner
  }) {
    this.#log = parts.log
    this.#settings = parts.settings
    this.#leases = parts.leases
    this.#owner = parts.owner
  }

  remainingMs(lease: Lease): number {
    if (this.#isClosed) return 0
    if (lease.phase === 'settling') return Math.max(0, lease.frozenMs)
    return lease.phase === 'held' ? Math.max(0, lease.endsAt - this.#now) : 0
  }

  async ack(lease: Lease): Promise<void> {
    await this.#write(this.beginAck(lease))
  }

  async nack(lease: Lease, options: NackSettings): Promise<void> {
    await this.#write(this.beginNack(lease, options))
  }

  /**
   * Stops the time of a lease whose message is done. To be written, or undone.
   *
   * @throws {MiniStoreError} when the lease is no more.
   */
  beginAck(lease: Lease): Settling {
    const { dedupeWindowMs, clock } = this.#settings
    return this.#begin(lease, () => {
      const isKept = dedupeWindowMs > 0 && this.#log.state.messages[lease.id]?.key !== undefined
      return { op: 'ack', ids: [lease.id], ...(isKept && { keysUntil: clock.wallMs() + dedupeWindowMs }) }
    })
  }

  /** As {@link beginAck}, of one that is not done. */
  beginNack(lease: Lease, { delayMs, reason }: NackSettings): Settling {
    this.#assertHeld(lease)
    const wait = delayMs ?? this.#settings.backoff(lease.attempt)
    return this.#begin(lease, () => {
      const { id } = lease
      const at = this.#settings.clock.wallMs()
      if (lease.attempt >= this.#settings.maxAttempts) {
        return { op: 'bury', ids: [id], reason: this.#fitting(reason ?? 'nacked without a reason', 1), at }
      }
      const why = reason === undefined ? {} : { reason: this.#fitting(reason, 1) }
      return { op: 'nack', id, ...(wait > 0 && { dueAt: at + wait }), ...why }
    })
  }

  extend(lease: Lease, ms: number): void {
    const endsAt = this.#now + integer('ms', ms, { most: maxMs })
    this.#assertHeld(lease)
    this.#leases.restart(lease, Math.max(lease.endsAt, endsAt))
    this.#owner.changed()
  }

  /** Ends the leases whose time is over. */
  endOverdue(): void {
    const dying: Lease[] = []
    const ended: Lease[] = []
    const now = this.#now
    for (let lease = this.#leases.popEnded(now); lease !== undefined; lease = this.#leases.popEnded(now)) {
      if (lease.isHanded && lease.attempt >= this.#settings.maxAttempts) {
        lease.phase = 'lost'
        dying.push(lease)
      } else {
        ended.push(lease)
      }
    }
    this.#owner.takeBack(ended)
    for (const lease of [...ended, ...dying]) lease.abort(leaseLost(lease.id))
    this.bury(dying, 'its lease ended in the last attempt').catch((error: unknown) => {
      // After a fatal one everybody who calls is told.
      if (!this.#log.hasFailed) this.#log.tell(error)
    })
    this.#owner.changed()
  }

  /** Makes dead letters of messages in flight. When that fails, it is tried again later. */
  async bury(dying: readonly Lease[], reason: string): Promise<void> {
    if (dying.length === 0) return
    const ids = dying.map(({ id }) => id)
    const at = this.#settings.clock.wallMs()
    try {
      await this.#log.inTurn(() => this.#log.commit({ op: 'bury', ids, reason: this.#fitting(reason, ids.length), at }))
    } catch (error) {
      const again = this.#now + buryAgainMs
      for (const lease of dying) this.#leases.restart(lease, again)
      this.#owner.changed()
      throw error
    }
  }

  /** It could not be written: the leases go on with what was left of their time. */
  undo(settlings: readonly Settling[]): void {
    const now = this.#now
    for (const { lease } of settlings) this.#leases.thaw(lease, now)
    this.#owner.changed()
  }

  /** From here on no lease is valid. */
  close(): void {
    this.#isClosed = true
  }

  #fitting(reason: string, messages: number): string {
    return reasonThatFits(reason, { liveBytes: this.#owner.liveBytes, messages })
  }

  get #now(): number {
    return this.#settings.clock.monotonicMs()
  }

  #begin(lease: Lease, step: () => QueueStep): Settling {
    this.#assertHeld(lease)
    this.#leases.freeze(lease, this.#now)
    this.#owner.changed()
    return { lease, step }
  }

  async #write(settling: Settling): Promise<void> {
    try {
      await this.#log.inTurn(() => this.#log.commit(settling.step()))
    } catch (error) {
      this.undo([settling])
      throw error
    }
  }

  #assertHeld(lease: Lease): void {
    if (this.#isClosed) throw queueClosed()
    // The alarm may be late, for example when something has held up the event loop.
    if (lease.phase === 'held' && lease.endsAt <= this.#now) this.endOverdue()
    // The phase may be another one now.
    const { id, phase }: Pick<Lease, 'id' | 'phase'> = lease
    if (phase === 'lost') throw leaseLost(id)
    if (phase !== 'held') throw alreadySettled(id)
  }
}
