import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { type Entrant, entrantOf, type Slice } from '../../comparison.ts'
import { syntheticRecord } from '../../data/synthetic.ts'
import { type AppendFloor, floorEntrant } from '../../floor/append-floor.ts'
import { type OpenQueue, type QueueContestant, width } from '../../queues/queue.ts'
import type { Runner } from '../../turn-about.ts'
import type { Context } from '../case.ts'

/** What is measured, and how long. */
export interface Trial {
  readonly context: Context
  readonly floor: AppendFloor
  readonly contestants: readonly QueueContestant[]
  readonly rounds: number
  /** Length of a slice that is limited by time. */
  readonly milliseconds: number
  /** Messages of a slice that empties a queue. */
  readonly messages: number
}

/** Bytes of a payload as JSON. */
export const messageBytes = 100

const mostBacklog = 480

/**
 * As many messages as can be delivered and acknowledged one at a time in about the time of a slice, so that a
 * slow disk does not make the run take hours; a multiple of how many may be taken at a time.
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

/** The floor of what must be made durable so many times, and what measures it. */
export function floorRunner(
  { context, floor, milliseconds }: Trial,
  appends: number,
): { readonly entrant: Entrant; readonly runner: Runner<Slice> } {
  const entrant = floorEntrant(floor, appends)
  const { directory } = context
  // A message is a line: its line feed is a byte more.
  const slice = { directory, bytes: messageBytes + 1, milliseconds, appends }
  return { entrant, runner: { name: entrant.name, run: () => floor.slice(slice) } }
}

/** A contestant as an entrant, under its own name or that of what it does. */
export function queueEntrant(contestant: QueueContestant, as: Partial<Entrant> = {}): Entrant {
  const role = contestant.name === 'miniqueue' ? 'ours' : 'peer'
  const entrant = entrantOf({ ...contestant, sharing: undefined }, role, 1)
  const { name = entrant.name, notes = [] } = as
  // A queue does more than wait for the disk.
  const because = entrant.because && `${entrant.because}; whether that is all of it was not measured`
  return { ...entrant, name, notes: [...entrant.notes, ...notes], because }
}

/** Works with a queue of its own, which is there before and is gone afterwards. */
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

/** @throws {Error} when messages are left: then it was not measured what should be. */
export async function assertEmpty(name: string, queue: OpenQueue): Promise<void> {
  const left = await queue.countLeft()
  if (left !== 0) throw new Error(`Expected ${name} to have acknowledged all messages, ${left} are left`)
}
