import { participantOf } from '../comparison.ts'
import { loadAll } from '../contestants/index.ts'
import { appendFloor } from '../floor/append-floor.ts'
import { width } from '../queues/queue.ts'
import type { Case } from './case.ts'
import { compareDrains, compareWays } from './queue/drain.ts'
import { compareEnqueues } from './queue/enqueue.ts'
import { compareLatencies } from './queue/latency.ts'
import { backlogFor, messageBytes, type Trial } from './queue/trial.ts'

export const queueCase: Case = {
  name: 'queue',
  title: 'Queue',
  plots: ['ratios'],
  method: [
    `Messages of ${messageBytes} B. Every enqueue, every delivery (with its attempt) and every ` +
      'acknowledgement is on stable storage before the next step. Slices turn about, a new queue each, whose ' +
      'filling is not counted. The floor is the C program, `write` and `fdatasync`, as often as a message ' +
      'must be made durable: once to enqueue, twice to deliver and acknowledge; where 32 may be delivered at ' +
      'a time, once for its acknowledgement and a 32nd for the delivery. A queue that writes some of this ' +
      'together can be faster than the floor. Three rounds go before those that count.',
    '*drain, one at a time*: one consumer receives a message, parses it, acknowledges it, and takes the ' +
      'next one. *drain, up to 32 at a time*: as each of them does that; liteque and plainjob always claim ' +
      'one by one. Contestants that block let the event loop turn after each message; the workers of plainjob ' +
      'and liteque run as they are.',
    '*end to end*: a worker that handles one message at a time waits, an enqueue begins 1 to 4 ms after the ' +
      'message before was handled, at random, and the time runs until its handler starts. A queue that does ' +
      'not announce new messages is asked every millisecond, the shortest interval of a timer, which keeps ' +
      'the processor busy.',
    'Event loop delay, while up to 32 at a time are drained, as in *Durable append*: a contestant that ' +
      'never lets the loop turn is late once, by the whole slice.',
  ],
  async run(context) {
    const { queues } = await import('../queues/index.ts')
    const { loaded, missing } = await loadAll(queues)
    const floor = await appendFloor()
    const milliseconds = context.isQuick ? 10 : 200
    const trial: Trial = {
      context,
      floor,
      contestants: loaded,
      rounds: context.isQuick ? 1 : 7,
      milliseconds,
      messages: context.isQuick ? 2 * width : await backlogFor({ context, floor, milliseconds }),
    }
    const enqueues = await compareEnqueues(trial)
    const drains = await compareDrains(trial)
    const ways = await compareWays(trial)
    return {
      comparisons: [enqueues, drains, ways.comparison, await compareLatencies(trial)],
      figures: [ways.figures],
      participants: loaded.map(participantOf),
      missing: [...missing, ...floor.missing],
    }
  },
}
