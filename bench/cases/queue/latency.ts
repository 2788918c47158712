import { performance } from 'node:perf_hooks'
import { setTimeout as timer } from 'node:timers/promises'

import { compare, type Slice } from '../../comparison.ts'
import { deferred } from '../../deferred.ts'
import type { QueueContestant } from '../../queues/queue.ts'
import type { Comparison } from '../../results.ts'
import { warmTurnAbout } from '../../turn-about.ts'
import {
  assertEmpty, floorRunner, messageBytes, payloadAt, queueEntrant, type Trial, withQueue,
} from './trial.ts'

/** Syncs per message: one for the enqueue, one for the delivery. */
const syncs = 2
const leastPauseMs = 1
const mostPauseMs = 4
const warmUps = 3

/**
 * Compares the time from the start of an enqueue until a waiting worker starts to handle the
 * message.
 */
export async function compareLatencies(trial: Trial): Promise<Comparison> {
  const { context, contestants, rounds } = trial
  const label = `end to end, message=${messageBytes}B`
  context.progress(label)
  const least = floorRunner(trial, syncs)
  const all = [
    least.runner,
    ...contestants.map((contestant) => ({
      name: contestant.name,
      run: () => latencySlice(contestant, trial),
    })),
  ]
  const entrants = contestants.map((contestant) => queueEntrant(contestant, { notes: [contestant.waking] }))
  return compare({ label, unit: 'message' }, [least.entrant, ...entrants], await warmTurnAbout(all, rounds))
}

async function latencySlice(contestant: QueueContestant, trial: Trial): Promise<Slice> {
  return withQueue(contestant, trial, async (queue) => {
    let handled = deferred<number>()
    const worker = queue.work(() => handled.resolve(performance.now()))
    const once = async (place: number): Promise<number> => {
      await timer(leastPauseMs + Math.random() * (mostPauseMs - leastPauseMs))
      handled = deferred()
      const begun = performance.now()
      await queue.enqueue(payloadAt(place))
      return ((await handled.promise) - begun) * 1e6
    }
    for (let place = 0; place < warmUps; place++) await once(place)
    const latencies: number[] = []
    const end = performance.now() + trial.milliseconds
    do latencies.push(await once(latencies.length))
    while (performance.now() < end)
    await worker.stop()
    await assertEmpty(contestant.name, queue)
    return { units: latencies.length, time: latencies.reduce((sum, latency) => sum + latency, 0), latencies }
  })
}
