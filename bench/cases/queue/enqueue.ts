import { measureCalls } from '../../calls.ts'
import { compare } from '../../comparison.ts'
import type { Comparison } from '../../results.ts'
import { warmTurnAbout } from '../../turn-about.ts'
import { floorRunner, messageBytes, payloadAt, queueEntrant, type Trial, withQueue } from './trial.ts'

/** Messages enqueued before measuring starts. */
const warmUps = 5

/** Compares enqueueing one message after another, each durable before the next. */
export async function compareEnqueues(trial: Trial): Promise<Comparison> {
  const { context, contestants, milliseconds, rounds } = trial
  const label = `enqueue, message=${messageBytes}B`
  context.progress(label)
  const least = floorRunner(trial, 1)
  const runners = contestants.map((contestant) => ({
    name: contestant.name,
    run: () =>
      withQueue(contestant, trial, async (queue) => {
        let place = 0
        const enqueue = (): Promise<unknown> | undefined => queue.enqueue(payloadAt(place++))
        for (let warmUp = 0; warmUp < warmUps; warmUp++) await enqueue()
        const options = { callers: 1, milliseconds, isBlocking: contestant.blocksEventLoop }
        const slice = await measureCalls(enqueue, options)
        const count = await queue.countLeft()
        if (count !== place) throw new Error(`Expected ${place} messages in ${contestant.name}, got ${count}`)
        return slice
      }),
  }))
  const all = [least.runner, ...runners]
  const entrants = [least.entrant, ...contestants.map((contestant) => queueEntrant(contestant))]
  return compare({ label, unit: 'message' }, entrants, await warmTurnAbout(all, rounds))
}
