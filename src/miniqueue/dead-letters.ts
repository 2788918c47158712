import { copyPayload } from './payload.ts'
import type { QueueState } from './queue-state.ts'

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
