import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { type Entrant, entrantOf, type Slice } from '../../comparison.ts'
import { syntheticRecord } from '../../data/synthetic.ts'
import { type AppendFloor, floorEntrant } from '../../floor/append-floor.ts'
import { type OpenQueue, type QueueContestant, width } from '../../queues/queue.ts'
import type { Runner } from '../../turn-about.ts'
import type { Context } from '../case.ts'

/** The parameters that all comparisons of queues share. */
export interface Trial {
  readonly context: Context
  readonly floor: AppendFloor
  readonly contestants: readonly QueueContestant[]
  readonly rounds: number
  /** Length of a slice that is limited by time, in milliseconds. */
  readonly milliseconds: number
  /** Messages per slice that drains a queue. */
  readonly messages: number
}

/** Size of a payload as JSON, in bytes. */
export const messageBytes = 100

const mostBacklog = 480

/**
 * Resolves with the number of messages that the floor can deliver and acknowledge one at a time in
 * about one slice, so that a run on a slow disk does not take hours. The number is a multiple of
 * `width`, at least 2 × `width` and at most 480.
 */
export async function backlogFor(
  { context, floor, milliseconds }: Pick<Trial, 'context' | 'floor' | 'milliseconds'>,
): Promise<number> {
  const { directory } = context
  const { units, time } = await floor.slice({ directory, bytes: messageBytes + 1, milliseconds, appends: 2 })
  const fitting = (milliseconds * 1e6 * units) / time
  return width * Math.max(2, Math.floor(Math.min(fitting, mostBacklog) / width))
}

export function payloadAt(place: number): unknown {
  return syntheticRecord(place, messageBytes)
}

export function payloads(count: number): unknown[] {
  return Array.from({ length: count }, (_, place) => payloadAt(place))
}

/**
 * The floor for messages that must be made durable `appends` times each: its entrant and its
 * runner.
 */
export function floorRunner(
  { context, floor, milliseconds }: Trial,
  appends: number,
): { readonly entrant: Entrant; readonly runner: Runner<Slice> } {
  const entrant = floorEntrant(floor, appends)
  const { directory } = context
  // Each message is stored as a line, and the line feed adds one byte.
  const slice = { directory, bytes: messageBytes + 1, milliseconds, appends }
  return { entrant, runner: { name: entrant.name, run: () => floor.slice(slice) } }
}

/** A contestant as an entrant. `as` may replace its name and add notes. */
export function queueEntrant(contestant: QueueContestant, as: Partial<Entrant> = {}): Entrant {
  const role = contestant.name === 'miniqueue' ? 'library' : 'peer'
  const entrant = entrantOf({ ...contestant, sharing: undefined }, role, 1)
  const { name = entrant.name, notes = [] } = as
  // A queue does more than wait for the disk, so blocking may not be the only reason.
  const because = entrant.because && `${entrant.because}; whether that is all of it was not measured`
  return { ...entrant, name, notes: [...entrant.notes, ...notes], because }
}

/** Runs an action on a new queue in its own directory, and removes the directory afterwards. */
export async function withQueue<Result>(
  contestant: QueueContestant,
  { context }: Trial,
  action: (queue: OpenQueue) => Promise<Result>,
): Promise<Result> {
  const directory = join(context.directory, 'queue')
  await mkdir(directory)
  const queue = await contestant.open(directory)
  try {
    return await action(queue)
  } finally {
    await queue.close()
    await rm(directory, { recursive: true })
  }
}

/**
 * Checks that a slice measured what it should: every message is acknowledged.
 *
 * @throws {Error} if messages are left.
 */
export async function assertEmpty(name: string, queue: OpenQueue): Promise<void> {
  const left = await queue.countLeft()
  if (left !== 0) throw new Error(`Expected ${name} to have acknowledged all messages, ${left} are left`)
}
