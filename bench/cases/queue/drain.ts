import { performance } from 'node:perf_hooks'

import { compare, type Slice } from '../../comparison.ts'
import { eventLoopFigures, type LoopWatch, watchEventLoop } from '../../event-loop.ts'
import { type OpenQueue, type QueueContestant, width } from '../../queues/queue.ts'
import type { Comparison, Figures } from '../../results.ts'
import { warmTurnAbout } from '../../turn-about.ts'
import {
  assertEmpty, floorRunner, messageBytes, payloads, queueEntrant, type Trial, withQueue,
} from './trial.ts'

/** Syncs per message taken alone: one for the delivery, one for the acknowledgement. */
const syncsAlone = 2
/**
 * Syncs per message if `width` are delivered together: its acknowledgement and its share of the
 * delivery.
 */
const syncsTogether = 1 + 1 / width

/** Compares one consumer that takes and acknowledges messages one after another. */
export async function compareDrains(trial: Trial): Promise<Comparison> {
  const { context, contestants, messages, rounds } = trial
  const label = `drain, one at a time, message=${messageBytes}B backlog=${messages}`
  context.progress(label)
  const least = floorRunner(trial, syncsAlone)
  const ways = contestants.flatMap((contestant) =>
    (contestant.waysAlone ?? [contestant.name]).map((way) => ({ contestant, way })),
  )
  const runners = ways.map(({ contestant, way }) => ({
    name: way,
    run: async () => (await drainSlice(contestant, trial, (queue) => queue.drain(messages, way))).slice,
  }))
  const all = [least.runner, ...runners]
  const entrants = ways.map(({ contestant, way }) => queueEntrant(contestant, { name: way }))
  return compare({ label, unit: 'message' }, [least.entrant, ...entrants], await warmTurnAbout(all, rounds))
}

/**
 * Compares every way to take up to `width` messages at a time, and measures how much each way
 * delays the event loop.
 */
export async function compareWays(
  trial: Trial,
): Promise<{ readonly comparison: Comparison; readonly figures: Figures }> {
  const { context, contestants, messages, rounds } = trial
  const label = `drain, up to ${width} at a time, message=${messageBytes}B backlog=${messages}`
  context.progress(label)
  const least = floorRunner(trial, syncsTogether)
  const ways = contestants.flatMap((contestant) => contestant.ways.map((way) => ({ contestant, way })))
  const watches = new Map(ways.map(({ way }): [string, LoopWatch[]] => [way, []]))
  const runners = ways.map(({ contestant, way }) => ({
    name: way,
    async run() {
      const { slice, watch } = await drainSlice(contestant, trial, (queue) => queue.drainBy(way, messages))
      watches.get(way)?.push(watch)
      return slice
    },
  }))
  const all = [least.runner, ...runners]
  const entrants = ways.map(({ contestant, way }) => queueEntrant(contestant, { name: way }))
  const about = { label, unit: 'message' }
  const comparison = compare(about, [least.entrant, ...entrants], await warmTurnAbout(all, rounds))
  for (const watched of watches.values()) watched.splice(0, watched.length - rounds)
  const figures = eventLoopFigures(`event loop while draining up to ${width} at a time`, watches)
  return { comparison, figures }
}

async function drainSlice(
  contestant: QueueContestant,
  trial: Trial,
  drain: (queue: OpenQueue) => Promise<void>,
): Promise<{ readonly slice: Slice; readonly watch: LoopWatch }> {
  return withQueue(contestant, trial, async (queue) => {
    await queue.fill(payloads(trial.messages))
    const { result: time, watch } = await watchEventLoop(async () => {
      const begun = performance.now()
      await drain(queue)
      return (performance.now() - begun) * 1e6
    })
    await assertEmpty(contestant.name, queue)
    return { slice: { units: trial.messages, time }, watch }
  })
}
