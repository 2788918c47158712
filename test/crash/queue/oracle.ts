import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { keyOf, type Oracle, show } from '../harness.ts'
import { SteppedClock } from './clock.ts'
import {
  allDueAfterMs,
  assert,
  type FoundQueue,
  look,
  lookedAt,
  openQuietly,
  queueDirectory,
} from './look.ts'
import { type ExpectedQueue, matchOf, mismatch } from './expected.ts'

/** What a state of the disk held, and whether opening it had to repair anything. */
export interface FoundQueueState extends FoundQueue {
  readonly hasRecovered: boolean
}

/** The rules that hold for a queue whatever was done to it and wherever the crash came. */
export class QueueOracle implements Oracle<ExpectedQueue, FoundQueueState> {
  /** How many messages were found waiting, over all states. */
  waiting = 0
  dead = 0

  async find(state: SimulatedFileSystem): Promise<FoundQueueState> {
    const before = show(state)
    const found = await look(state)
    const hasRecovered = show(state) !== before
    // Open makes everything it gives durable, so a crash at this moment takes none of it.
    const crashed = state.afterCrash({ keep: 'none' })
    if (keyOf(crashed) !== keyOf(state)) await assertLooks(crashed, found, 'a crash right after open')
    const once = show(state)
    await this.recover(state)
    assert(show(state) === once, `the second open changed files, from:\n${once}\nto:\n${show(state)}`)
    await assertGoesOn(state, found)
    this.waiting += found.ids.size
    this.dead += found.text.includes('†') ? 1 : 0
    return { ...found, hasRecovered }
  }

  check(found: FoundQueueState, expected: ExpectedQueue): void {
    assert(matchOf(found, expected) !== undefined, mismatch(found, expected))
  }

  hasRecovered(found: FoundQueueState): boolean {
    return found.hasRecovered
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const queue = await openQuietly(state, new SteppedClock(lookedAt))
    await queue.close()
  }

  /** The oracle's opening moves no message, so the same content must be found again. */
  expectedInside(expected: ExpectedQueue, found: FoundQueueState): ExpectedQueue {
    const index = matchOf(found, expected) ?? 0
    return { ...expected, possible: expected.possible.slice(index, index + 1) }
  }
}

async function assertLooks(state: SimulatedFileSystem, expected: FoundQueue, after: string): Promise<void> {
  const found = await look(state)
  const [left, right] = [found, expected].map(
    ({ text, ids, keys }) => `${text} ${JSON.stringify([...ids, ...keys])}`,
  )
  assert(left === right, `after ${after} there is ${left}, expected ${right}`)
}

/**
 * Checks that the queue is usable: a new message has a new id and comes last, dead letters can be
 * redriven, and acknowledged messages are gone for good.
 */
async function assertGoesOn(state: SimulatedFileSystem, { ids }: FoundQueue): Promise<void> {
  const clock = new SteppedClock(lookedAt)
  const queue = await openQuietly(state, clock)
  const { dead } = queue.stats()
  const id = await queue.enqueue({ n: -1, text: '' }, { priority: -100 })
  for (const known of ids.values())
    assert(id > known, `a new message has the id ${id}, and ${known} is there`)
  const redriven = await queue.redrive('all')
  assert(redriven === dead, `${redriven} of ${dead} dead letters were redriven`)
  clock.advance(allDueAfterMs)
  const messages = await queue.receive({ max: ids.size + 2 })
  assert(messages.length === ids.size + 1, `received ${messages.length} of ${ids.size + 1} messages`)
  assert(messages.at(-1)?.id === id, `the last one is ${messages.at(-1)?.id}, expected ${id}`)
  await Promise.all(messages.map((message) => message.ack()))
  await queue.compact()
  const durable = state.afterCrash({ keep: 'none' })
  await queue.close()
  const found = await look(durable)
  assert(found.ids.size === 0, `what was acknowledged is there again: ${found.text}`)
  const temporary = durable.names(queueDirectory).filter((name) => name.endsWith('.tmp'))
  assert(temporary.length === 0, `temporary files are left: ${temporary.join()}`)
}
