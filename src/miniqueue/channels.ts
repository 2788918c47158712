import { channel } from 'node:diagnostics_channel'

import { type OneMutation, type QueueMutation, stepsOf } from './queue-state.ts'
import type { Outcome } from './transitions.ts'

/** Message of the channels `miniqueue:enqueue`, `miniqueue:deliver` and `miniqueue:ack`. */
export interface QueueEvent {
  /** Absolute path of the queue. */
  readonly directory: string
  readonly ids: readonly number[]
}

/** Message of the channel `miniqueue:nack`: the message comes again. */
export interface NackEvent {
  readonly directory: string
  readonly id: number
  /** When, in milliseconds since 1970; absent: at once. */
  readonly dueAt: number | undefined
  readonly reason: string | undefined
}

/** Message of the channel `miniqueue:dead`: messages have become dead letters. */
export interface DeadEvent extends QueueEvent {
  readonly reason: string
}

const enqueueChannel = channel('miniqueue:enqueue')
const deliverChannel = channel('miniqueue:deliver')
const ackChannel = channel('miniqueue:ack')
const nackChannel = channel('miniqueue:nack')
const deadChannel = channel('miniqueue:dead')

/** Tells of a mutation that is durable; without subscribers it costs a look. */
export function publishMutation(directory: string, mutation: QueueMutation, { added }: Outcome): void {
  for (const step of stepsOf(mutation)) publishStep(directory, step, added)
}

function publishStep(directory: string, step: OneMutation, added: readonly number[]): void {
  if (step.op === 'enqueue' && enqueueChannel.hasSubscribers) {
    enqueueChannel.publish({ directory, ids: added } satisfies QueueEvent)
  } else if (step.op === 'ack' && ackChannel.hasSubscribers) {
    ackChannel.publish({ directory, ids: step.ids } satisfies QueueEvent)
  } else if (step.op === 'nack' && nackChannel.hasSubscribers) {
    const { id, dueAt, reason } = step
    nackChannel.publish({ directory, id, dueAt, reason } satisfies NackEvent)
  } else if (step.op === 'bury' && deadChannel.hasSubscribers) {
    deadChannel.publish({ directory, ids: step.ids, reason: step.reason } satisfies DeadEvent)
  }
}

/** Tells of a delivery; one that was counted before has no mutation of its own. */
export function publishDelivery(directory: string, ids: readonly number[]): void {
  if (deliverChannel.hasSubscribers) deliverChannel.publish({ directory, ids } satisfies QueueEvent)
}
