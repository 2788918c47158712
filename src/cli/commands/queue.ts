import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'

import { hasCode } from '../../errors.ts'
import { listIfPresent } from '../../fs/durable.ts'
import { nodeFileSystem } from '../../fs/node.ts'
import { MiniQueue, type QueueOptions } from '../../miniqueue/index.ts'
import { Messages } from '../../miniqueue/messages.ts'
import { applyMutation, assertQueue } from '../../miniqueue/shape.ts'
import {
  type DeadMessage, emptyQueue, type QueuedMessage, type QueueMutation, type QueueState,
} from '../../miniqueue/state.ts'
import { journalName } from '../../ministate/settings.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { unlessAborted } from '../journal.ts'
import { readState } from '../read-state.ts'
import { definitions, type Page, print, table } from '../render.ts'
import { countText, durationText, plural, sizeText, timeText, visible } from '../terminal.ts'

const actions = ['stats', 'peek', 'dead', 'redrive', 'discard'] as const

type Action = (typeof actions)[number]

export const queue: Command = {
  name: 'queue',
  summary: 'shows a queue and its dead letters; redrives or discards them',
  positionals: ['DIR'],
  optionalPositionals: ['ACTION', 'ID'],
  options: {
    limit: { value: 'N', help: 'peek, dead: the maximum number of messages (default: 10)' },
    json: commonOptions.json,
  },
  details: [
    'stats, peek and dead take no lock. redrive and discard fail while a process has the queue open.',
    'Only that process knows which messages are in flight. ACTION is one of:',
  ],
  actions: [
    ['stats', 'message counts by state (the default)'],
    ['peek', 'the next messages, in the order of their delivery'],
    ['dead', 'the dead letters, with their reasons'],
    ['redrive ID', 'turn a dead letter back into a message without attempts; ID may be "all"'],
    ['discard ID', 'remove a dead letter for good; ID may be "all"'],
  ],
  examples: [
    'ministore queue jobs',
    'ministore queue jobs dead --json | jq .payload',
    'ministore queue jobs redrive all',
  ],
  changes: (args) => changesDead(actionOf(args.optionalPositional(1))),
  run: runQueue,
}

async function runQueue(args: Arguments, io: Io): Promise<number> {
  const directory = args.positional(0)
  const action = actionOf(args.optionalPositional(1))
  const id = idOf(action, args.optionalPositional(2))
  const limit = args.integer('limit') ?? 10
  const bytes = await bytesIn(directory)
  if (id !== undefined) {
    const count = await changeDead(directory, action, id)
    const verb = action === 'redrive' ? 'Redriven' : 'Discarded'
    await print({ action, count }, { args, io }, () => [`${verb}: ${plural(count, 'dead letter')}.`])
    return exitCodes.ok
  }
  const now = Date.now()
  const state = await unlessAborted(io.signal, () => stateIn(resolve(directory)))
  if (action === 'stats') {
    await print(countsOf(state, { now, bytes, directory }), { args, io }, countLines)
  } else if (action === 'peek') {
    await print(nextMessages(state, limit, now), { args, io }, (messages, page) => peekLines(messages, now, page))
  } else {
    await print(deadLetters(state, limit), { args, io }, deadLines)
  }
  return exitCodes.ok
}

/**
 * With these options an open queue does no work of its own: no message dies because of its
 * attempts, nothing is compacted, and no snapshot is removed. The limits of the program that owns
 * the queue and the snapshots it keeps are unknown here.
 */
const asItIs: QueueOptions = {
  maxAttempts: Number.POSITIVE_INFINITY,
  compaction: { minBytes: Number.MAX_SAFE_INTEGER },
  keepSnapshots: Number.MAX_SAFE_INTEGER,
}

async function changeDead(directory: string, action: Action, id: number | 'all'): Promise<number> {
  await using opened = await MiniQueue.open(directory, asItIs)
  return action === 'redrive' ? await opened.redrive(id) : await opened.discard(id)
}

/** Reads a queue without a lock, also while another process has it open. */
async function stateIn(path: string): Promise<QueueState> {
  const { state } = await readState<QueueState, QueueMutation>(path, {
    initialState: emptyQueue,
    mutator: (current, mutation) => {
      applyMutation(current, mutation, path)
    },
  })
  assertQueue(state, path)
  return state
}

export interface QueueCounts {
  readonly directory: string
  readonly waiting: number
  readonly delayed: number
  readonly dead: number
  readonly oldestAgeMs: number | null
  readonly bytesOnDisk: number
}

/** Counts messages as `MiniQueue.stats` does. Without the process, none is known to be in flight. */
export function countsOf(
  state: QueueState,
  { now, bytes, directory }: { readonly now: number; readonly bytes: number; readonly directory: string },
): QueueCounts {
  const { depth, delayed, dead, oldest } = new Messages(state, { wallMs: now })
  return {
    directory: resolve(directory),
    waiting: depth - delayed,
    delayed,
    dead,
    oldestAgeMs: oldest === undefined ? null : Math.max(0, now - oldest.enqueuedAt),
    bytesOnDisk: bytes,
  }
}

export function countLines({ directory, waiting, delayed, dead, oldestAgeMs, bytesOnDisk }: QueueCounts): string[] {
  const rows = [
    ['waiting', `${countText(waiting)} (ready or in flight)`],
    ['delayed', countText(delayed)],
    ['dead', countText(dead)],
    ['oldest', oldestAgeMs === null ? '-' : `${durationText(oldestAgeMs / 1000)} old`],
    ['on disk', sizeText(bytesOnDisk)],
  ] as const
  return [visible(directory), '', ...definitions(rows, Number.POSITIVE_INFINITY)]
}

/** A message as it is printed for programs. */
export interface NextMessage extends Pick<QueuedMessage, 'priority' | 'attempts' | 'payload'> {
  readonly id: number
  readonly state: 'waiting' | 'delayed'
  readonly enqueuedAt: string
  readonly dueAt: string | null
  readonly reason: string | null
}

/** Returns messages in delivery order. Delayed messages come last, ordered by due time. */
export function nextMessages(state: QueueState, limit: number, now: number): NextMessage[] {
  const index = new Messages(state, { wallMs: now })
  const ready = index.take(limit)
  const delayed: number[] = []
  for (let due = index.nextDueAt; due !== undefined && ready.length + delayed.length < limit; due = index.nextDueAt) {
    index.promote(due)
    delayed.push(...index.take(limit - ready.length - delayed.length))
  }
  const shown = (id: number, kind: NextMessage['state']): NextMessage => {
    const { priority, attempts, enqueuedAt, dueAt, reason = null, payload } = state.messages[id] as QueuedMessage
    const due = dueAt === undefined ? null : isoText(dueAt)
    return { id, state: kind, priority, attempts, enqueuedAt: isoText(enqueuedAt), dueAt: due, reason, payload }
  }
  return [...ready.map((id) => shown(id, 'waiting')), ...delayed.map((id) => shown(id, 'delayed'))]
}

export function peekLines(messages: readonly NextMessage[], now: number, page: Page): string[] {
  if (messages.length === 0) return ['No messages are waiting.']
  const dueText = (time: string): string => `in ${durationText((Date.parse(time) - now) / 1000)}`
  return table(
    messages,
    [
      { head: 'id', cell: ({ id }) => id, align: 'right' },
      { head: 'due', cell: ({ state, dueAt }) => (state === 'waiting' ? 'now' : dueText(dueAt as string)) },
      { head: 'priority', cell: ({ priority }) => priority, align: 'right' },
      { head: 'attempts', cell: ({ attempts }) => attempts, align: 'right' },
      { head: 'enqueued (UTC)', cell: ({ enqueuedAt }) => timeText(enqueuedAt), isOptional: true },
      { head: 'payload', cell: ({ payload }) => JSON.stringify(payload), maxColumns },
    ],
    page,
  )
}

/** A dead letter as it is printed for programs. */
export interface ShownDeadLetter extends Pick<DeadMessage, 'reason' | 'attempts' | 'priority' | 'payload'> {
  readonly id: number
  readonly enqueuedAt: string
  readonly diedAt: string
}

/** Returns dead letters, ordered by id. */
export function deadLetters(state: QueueState, limit: number): ShownDeadLetter[] {
  const all = Object.entries(state.dead).toSorted(([left], [right]) => Number(left) - Number(right))
  return all.slice(0, limit).map(([id, { reason, attempts, priority, enqueuedAt, diedAt, payload }]) => ({
    id: Number(id),
    reason,
    attempts,
    priority,
    enqueuedAt: isoText(enqueuedAt),
    diedAt: isoText(diedAt),
    payload,
  }))
}

export function deadLines(letters: readonly ShownDeadLetter[], page: Page): string[] {
  if (letters.length === 0) return ['There are no dead letters.']
  return table(
    letters,
    [
      { head: 'id', cell: ({ id }) => id, align: 'right' },
      { head: 'attempts', cell: ({ attempts }) => attempts, align: 'right' },
      { head: 'died (UTC)', cell: ({ diedAt }) => timeText(diedAt), isOptional: true },
      { head: 'reason', cell: ({ reason }) => reason, maxColumns: maxColumns / 2 },
      { head: 'payload', cell: ({ payload }) => JSON.stringify(payload), maxColumns },
    ],
    page,
  )
}

/** Longer cells would make the rows of a table unreadable. `--json` prints everything. */
const maxColumns = 60

function isoText(timeMs: number): string {
  return new Date(timeMs).toISOString()
}

function actionOf(given: string | undefined): Action {
  if (given === undefined) return 'stats'
  const action = actions.find((name) => name === given)
  if (action !== undefined) return action
  throw new UsageError(`Expected ACTION to be one of ${actions.join(', ')}, got ${JSON.stringify(given)}`)
}

function changesDead(action: Action): boolean {
  return action === 'redrive' || action === 'discard'
}

/** Returns undefined for an action without an id. */
function idOf(action: Action, given: string | undefined): number | 'all' | undefined {
  const got = given === undefined ? 'nothing' : JSON.stringify(given)
  if (!changesDead(action)) {
    if (given !== undefined) throw new UsageError(`Expected no argument after ${action}, got ${got}`)
    return undefined
  }
  if (given === 'all') return given
  if (given !== undefined && /^[1-9]\d*$/.test(given) && Number.isSafeInteger(Number(given))) return Number(given)
  throw new UsageError(`Expected ID to be the id of a dead letter or "all", got ${got}`)
}

const fileOfQueue = /^(?:journal\.jsonl|snapshot-\d+\.json$)/

/**
 * Returns the total size of the queue's files in bytes.
 *
 * @throws {CommandFailure} if there is no queue.
 */
async function bytesIn(directory: string): Promise<number> {
  let bytes = 0
  const place = resolve(directory)
  const names = (await listIfPresent(nodeFileSystem, place)).filter((entry) => fileOfQueue.test(entry))
  for (const name of names) {
    try {
      bytes += (await stat(join(place, name))).size
    } catch (error) {
      // The process that has the queue open may have removed the file. Or the file is a dangling
      // link, which opening the queue reports.
      if (!hasCode(error, 'ENOENT')) throw error
    }
  }
  if (names.length > 0) return bytes
  throw new CommandFailure(`There is no queue in ${place}: it has neither ${journalName} nor a snapshot`)
}
