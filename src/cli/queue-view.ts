import { resolve } from 'node:path'

import type { DeadMessage, QueuedMessage, QueueState } from '../miniqueue/state.ts'
import { jsonLine, visible } from './terminal/style.ts'
import { excerpt, formatTable } from './terminal/table.ts'
import { countText, durationText, sizeText } from './terminal/units.ts'

export interface QueueFacts {
  readonly directory: string
  readonly waiting: number
  readonly delayed: number
  readonly dead: number
  readonly oldestAgeMs: number | null
  readonly bytesOnDisk: number
}

/** Returns the message counts by state. */
export function statsOf(
  state: QueueState,
  { now, bytes, directory }: { readonly now: number; readonly bytes: number; readonly directory: string },
): QueueFacts {
  const messages = Object.values(state.messages)
  const delayed = messages.filter((message) => isDelayed(message, now)).length
  const oldest = messages.reduce((least, { enqueuedAt }) => Math.min(least, enqueuedAt), Number.POSITIVE_INFINITY)
  return {
    directory: resolve(directory),
    waiting: messages.length - delayed,
    delayed,
    dead: Object.keys(state.dead).length,
    oldestAgeMs: messages.length === 0 ? null : Math.max(0, now - oldest),
    bytesOnDisk: bytes,
  }
}

export function statsText({ directory, waiting, delayed, dead, oldestAgeMs, bytesOnDisk }: QueueFacts): string {
  const rows = [
    ['waiting', `${countText(waiting)} (ready or in flight)`],
    ['delayed', countText(delayed)],
    ['dead', countText(dead)],
    ['oldest', oldestAgeMs === null ? '-' : `${durationText(oldestAgeMs / 1000)} old`],
    ['on disk', sizeText(bytesOnDisk)],
  ]
  return `${[visible(directory), '', ...formatTable(rows)].join('\n')}\n`
}

function isDelayed({ dueAt }: QueuedMessage, now: number): boolean {
  return dueAt !== undefined && dueAt > now
}

/** A message as it is printed for programs. */
export interface PeekedMessage {
  readonly id: number
  readonly state: 'waiting' | 'delayed'
  readonly priority: number
  readonly attempts: number
  readonly enqueuedAt: string
  readonly dueAt: string | null
  readonly reason: string | null
  readonly payload: unknown
}

/** Returns messages in delivery order. Delayed messages come last, ordered by due time. */
export function nextMessages(state: QueueState, limit: number, now: number): PeekedMessage[] {
  const all = Object.entries(state.messages).map(([id, message]) => ({ id: Number(id), message }))
  const due = ({ message }: (typeof all)[number]): number => (isDelayed(message, now) ? (message.dueAt as number) : 0)
  const ordered = all.toSorted((left, right) => {
    const byPriority = right.message.priority - left.message.priority
    return due(left) - due(right) || byPriority || left.message.order - right.message.order
  })
  return ordered.slice(0, limit).map(({ id, message }) => ({
    id,
    state: isDelayed(message, now) ? 'delayed' : 'waiting',
    priority: message.priority,
    attempts: message.attempts,
    enqueuedAt: new Date(message.enqueuedAt).toISOString(),
    dueAt: message.dueAt === undefined ? null : new Date(message.dueAt).toISOString(),
    reason: message.reason ?? null,
    payload: message.payload,
  }))
}

/** A dead letter as it is printed for programs. */
export interface ShownDeadLetter extends Pick<DeadMessage, 'priority' | 'attempts' | 'reason' | 'payload'> {
  readonly id: number
  readonly enqueuedAt: string
  readonly diedAt: string
}

/** Returns dead letters, ordered by id. */
export function deadLetters(state: QueueState, limit: number): ShownDeadLetter[] {
  const all = Object.entries(state.dead).toSorted(([left], [right]) => Number(left) - Number(right))
  return all.slice(0, limit).map(([id, letter]) => ({
    id: Number(id),
    reason: letter.reason,
    attempts: letter.attempts,
    priority: letter.priority,
    enqueuedAt: new Date(letter.enqueuedAt).toISOString(),
    diedAt: new Date(letter.diedAt).toISOString(),
    payload: letter.payload,
  }))
}

export function jsonLines(items: readonly object[]): string {
  return items.map(jsonLine).join('')
}

export function peekText(messages: readonly PeekedMessage[], now: number): string {
  if (messages.length === 0) return 'No message waits.\n'
  const rows = messages.map(({ id, dueAt, state, priority, attempts, enqueuedAt, payload }) => [
    String(id),
    state === 'delayed' && dueAt !== null ? `in ${durationText((Date.parse(dueAt) - now) / 1000)}` : 'now',
    String(priority),
    String(attempts),
    seconds(enqueuedAt),
    excerpt(JSON.stringify(payload), excerptColumns),
  ])
  return tableText(['id', 'due', 'priority', 'attempts', 'enqueued (UTC)', 'payload'], rows, [0, 2, 3])
}

export function deadText(letters: readonly ShownDeadLetter[]): string {
  if (letters.length === 0) return 'There are no dead letters.\n'
  const rows = letters.map(({ id, attempts, diedAt, reason, payload }) => [
    String(id),
    String(attempts),
    seconds(diedAt),
    excerpt(reason, excerptColumns),
    excerpt(JSON.stringify(payload), excerptColumns),
  ])
  return tableText(['id', 'attempts', 'died (UTC)', 'reason', 'payload'], rows, [0, 1])
}

function tableText(head: readonly string[], rows: ReadonlyArray<readonly string[]>, right: readonly number[]): string {
  return `${formatTable([head, ...rows], right).join('\n')}\n`
}

function seconds(time: string): string {
  return time.replace('T', ' ').slice(0, 19)
}

/** Longer cells would make the rows of a table unreadable. `--json` prints everything. */
const excerptColumns = 60
