import * as fc from 'fast-check'

import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { createRandom } from '../../../src/testing/random.ts'
import type { CrashHarness, Workload } from '../harness.ts'
import { type Action, anyAction, longDelayMs, type Options } from './commands.ts'
import type { ExpectedQueue } from './expected.ts'
import type { FoundQueueState } from './oracle.ts'
import { QueueRun, TroubleCounts } from './run.ts'
import { QueueUser } from './user.ts'

const small: Options = { maxBytesPerSegment: 320, compaction: { minBytes: 400, ratio: 2 } }
const tiny: Options = { maxBytesPerSegment: 1, compaction: { minBytes: 1, ratio: 1 }, keepSnapshots: 1 }

const enqueue = (job: Extract<Action, { do: 'enqueue' }>['job'] = {}): Action => ({ do: 'enqueue', job })
const receive = (max = 1): Action => ({ do: 'receive', max })
const ack = (pick: number): Action => ({ do: 'ack', pick })
const nack = (pick: number, delayMs = 0): Action => ({ do: 'nack', pick, delayMs, reason: `reason ${pick}` })
const advance = (ms: number): Action => ({ do: 'advance', ms })
const reopen = (options: Options = small): Action => ({ do: 'reopen', options })
const compact: Action = { do: 'compact' }
const awaited = (max: number, jobs: Extract<Action, { do: 'awaited' }>['jobs']): Action => ({ do: 'awaited', max, jobs })
const handle = (how: Pick<Extract<Action, { do: 'process' }>, 'throwsAt' | 'ending'>): Action =>
  ({ do: 'process', concurrency: 1, ...how })

function consume(
  how: { readonly prefetch: number; readonly take: number; readonly isAcked?: boolean; readonly isLeft?: boolean },
): Action {
  return { do: 'consume', isAcked: true, pauseMs: 0, isLeft: true, ...how }
}

/** Actions on a queue, from its creation on. */
export interface QueueScript {
  readonly name: string
  readonly options: Options
  readonly actions: readonly Action[]
}

/** One script for each kind of operation of a queue. */
export function queueScripts(): QueueScript[] {
  return [
    script('enqueue, deliver, acknowledge, one after the other', small, [
      enqueue(),
      enqueue(),
      receive(),
      ack(0),
      enqueue(),
      receive(2),
      ack(1),
      ack(2),
      reopen(),
      enqueue(),
    ]),
    script('many in one call', small, [
      {
        do: 'enqueue-all',
        jobs: [{}, { priority: 5 }, { key: 'a' }, { key: 'a' }, { delayMs: longDelayMs }],
      },
      receive(3),
      ack(1),
      { do: 'enqueue-all', jobs: [{ key: 'a' }, { key: 'b' }] },
      reopen(),
      receive(9),
      ack(0),
    ]),
    script('given back, with and without a delay, in the old order', small, [
      enqueue(),
      enqueue(),
      enqueue(),
      receive(3),
      nack(1),
      nack(0, longDelayMs),
      receive(),
      nack(3, 5),
      advance(5),
      receive(9),
      reopen(),
      receive(9),
    ]),
    script('leases that end, until a message is dead', { ...small, maxAttempts: 2 }, [
      enqueue(),
      enqueue(),
      receive(2),
      advance(30_000),
      receive(),
      advance(30_000),
      receive(9),
      advance(30_000),
      { do: 'redrive', pick: 0 },
      receive(),
      reopen(),
    ]),
    script('given back too often', { ...small, maxAttempts: 1 }, [
      enqueue({ key: 'a' }),
      enqueue(),
      enqueue(),
      receive(3),
      nack(0),
      nack(2),
      { do: 'redrive', pick: 1 },
      nack(1),
      { do: 'discard', pick: 0 },
      { do: 'redrive', pick: 'all' },
      receive(),
      nack(3),
      { do: 'discard', pick: 'all' },
    ]),
    script('delivered too often when it is opened', small, [
      enqueue(),
      enqueue(),
      receive(2),
      reopen(),
      receive(1),
      reopen({ ...small, maxAttempts: 2 }),
      receive(9),
      reopen({ ...small, maxAttempts: 1 }),
      { do: 'redrive', pick: 'all' },
      receive(2),
      ack(0),
    ]),
    script('purged, but for what is in flight', small, [
      enqueue(),
      enqueue({ delayMs: longDelayMs }),
      enqueue({ key: 'b' }),
      receive(),
      { do: 'purge' },
      enqueue({ key: 'b' }),
      nack(0),
      receive(2),
      { do: 'purge' },
      ack(1),
      { do: 'purge' },
    ]),
    script('keys that count, and for a while after', { ...small, dedupeWindowMs: 50_000 }, [
      enqueue({ key: 'a' }),
      enqueue({ key: 'b' }),
      receive(2),
      ack(0),
      compact,
      enqueue({ key: 'a' }),
      compact,
      reopen({ ...small, dedupeWindowMs: 50_000 }),
      enqueue({ key: 'a' }),
      enqueue({ key: 'b' }),
      advance(50_000),
      enqueue({ key: 'a' }),
      compact,
    ]),
    ...[1, 2].map((keepSnapshots) =>
      script(`a compaction after everything, keeping ${keepSnapshots}`, { ...tiny, keepSnapshots }, [
        enqueue(),
        enqueue(),
        receive(2),
        ack(0),
        nack(1, longDelayMs),
        reopen({ ...tiny, keepSnapshots }),
        enqueue(),
        receive(),
        advance(30_000),
        compact,
      ]),
    ),
    script('fetched ahead and not taken, when one attempt is all there is', { ...small, maxAttempts: 1 }, [
      { do: 'enqueue-all', jobs: [{}, { delayMs: 5 }, {}, {}] },
      advance(5),
      consume({ prefetch: 3, take: 1 }),
      reopen({ ...small, maxAttempts: 1 }),
      { do: 'enqueue-all', jobs: [{}, {}, {}] },
      consume({ prefetch: 4, take: 1, isLeft: false }),
      consume({ prefetch: 4, take: 2, isAcked: false }),
      receive(),
      reopen({ ...small, maxAttempts: 1 }),
    ]),
    script('enqueued for somebody who waits', small, [
      awaited(1, [{}]),
      awaited(2, [{ priority: -1 }, { delayMs: longDelayMs }, {}, { priority: 3 }]),
      ack(0),
      receive(9),
      awaited(3, [{ key: 'a' }, { key: 'a' }]),
      reopen(),
      receive(9),
    ]),
    script('handled, each with what makes room for the next', { ...small, maxAttempts: 2, dedupeWindowMs: 50_000 }, [
      { do: 'enqueue-all', jobs: [{}, { key: 'a' }, { priority: 2 }, {}] },
      handle({ throwsAt: 2 }),
      advance(1000),
      enqueue(),
      handle({ throwsAt: 1 }),
      reopen({ ...small, maxAttempts: 2 }),
      handle({ throwsAt: 9 }),
    ]),
    script('stopped in the only attempt, and failed for good', { ...small, maxAttempts: 1 }, [
      { do: 'enqueue-all', jobs: [{}, {}, { key: 'a' }, {}] },
      handle({ throwsAt: 2, ending: 'stopped' }),
      reopen({ ...small, maxAttempts: 1 }),
      handle({ throwsAt: 1, ending: 'finished' }),
      handle({ throwsAt: 1, ending: 'stopped' }),
      receive(),
      { do: 'nack', pick: 0, dead: true },
      enqueue(),
      handle({ throwsAt: 1, ending: 'permanent' }),
      enqueue({ key: 'a' }),
      reopen({ ...small, maxAttempts: 1 }),
    ]),
    script('cancelled, and with limits and headers of their own', small, [
      { do: 'enqueue-all', jobs: [{ key: 'a' }, { maxAttempts: 1, isTagged: true }, { delayMs: longDelayMs }, { isTagged: true }] },
      { do: 'cancel', pick: 0 },
      enqueue({ key: 'a', maxAttempts: 2 }),
      receive(2),
      { do: 'cancel', pick: 2 },
      { do: 'cancel', pick: 1 },
      nack(0),
      nack(1),
      reopen(),
      { do: 'redrive', pick: 'all' },
      receive(9),
      reopen(),
      receive(9),
      reopen(),
    ]),
    script('long messages', small, [
      enqueue({ isLong: true }),
      enqueue(),
      receive(),
      enqueue({ isLong: true }),
      ack(0),
      receive(2),
      nack(1),
      compact,
    ]),
    script('all at once, a compaction among them', small, [
      { do: 'enqueue-all', jobs: [{}, {}, {}] },
      receive(3),
      {
        do: 'together',
        calls: [call(ack(0)), call(enqueue()), call(nack(1)), call(compact), call(enqueue()), call(ack(2))],
      },
      { do: 'together', calls: [call(enqueue({ key: 'a' })), call(enqueue({ key: 'b' })), call(compact)] },
      receive(9),
    ]),
  ]
}

function call(action: Action): Extract<Action, { do: 'together' }>['calls'][number] {
  return action as Extract<Action, { do: 'together' }>['calls'][number]
}

function script(name: string, options: Options, actions: readonly Action[]): QueueScript {
  return { name, options, actions }
}

/**
 * A schema comes, and messages no longer fit. That their burial may fail is tested elsewhere: no call
 * waits for it.
 */
const unfit: QueueScript = script('messages that no longer fit a schema', small, [
  { do: 'enqueue-all', jobs: [{ isLong: true, key: 'a' }, {}, { isLong: true }] },
  reopen({ ...small, refusesLong: true }),
  receive(9),
  enqueue({ key: 'a' }),
  ack(0),
  reopen({ ...small, refusesLong: true }),
  receive(9),
])

/** The scripts as workloads, each with its own user. */
export function scriptedQueueWorkloads(): Array<Workload<ExpectedQueue>> {
  return [...queueScripts(), unfit].map(({ name, options, actions }) => {
    const user = new QueueUser()
    return {
      name,
      expected: user.expected,
      run: (files) => live(user, files, { options, actions, isClosed: true }),
    }
  })
}

async function live(
  user: QueueUser,
  files: SimulatedFileSystem,
  {
    options,
    actions,
    isClosed,
  }: { readonly options: Options; readonly actions: readonly Action[]; readonly isClosed: boolean },
): Promise<void> {
  const run = new QueueRun(files, user, new TroubleCounts())
  await user.open(files, options)
  for (const action of actions) await run.act(action)
  user.checkStats()
  user.checkDeadLetters()
  if (isClosed) await user.close()
}

/** What a power failure has left, and what the queue's user knows. */
export interface QueueGeneration {
  readonly user: QueueUser
  readonly files: SimulatedFileSystem
}

/**
 * Runs random actions and lets the power fail at one moment of them. The next generation starts
 * from the disk that the failure left and the acknowledgements up to that moment.
 */
export async function runQueueGeneration(
  harness: CrashHarness<ExpectedQueue, FoundQueueState>,
  { user, files }: QueueGeneration,
  options: { readonly seed: number; readonly limit: number; readonly insideEvery: number },
): Promise<QueueGeneration> {
  const { seed } = options
  const random = createRandom(seed)
  const failsAt = 20 + random.below(80)
  const isClosed = random.below(4) > 0
  const actions = fc.sample(anyAction, { seed, numRuns: 10 + random.below(8) })
  let left: QueueGeneration | undefined
  const stop = files.onOperation(({ index }) => {
    if (index !== failsAt) return
    const states = [...files.crashStates({ seed, limit: 40, tornVariants: ['cut', 'zeros', 'garbage'] })]
    const state = states[random.below(states.length)]
    if (state !== undefined) left = { user: user.fork(), files: state }
  })
  const workload: Workload<ExpectedQueue> = {
    name: `random actions, seed ${seed}`,
    expected: user.expected,
    run: () =>
      live(user, files, { options: { ...small, maxAttempts: 1 + random.below(3) }, actions, isClosed }),
  }
  await harness.run(workload, options, files)
  stop()
  return left ?? { user: user.fork(), files: files.afterCrash({ keep: 'none' }) }
}
