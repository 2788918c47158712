import type { MixCaller } from './mix-caller.ts'
import { anyOf, pick, takeAny } from './mix-chance.ts'
import { MixReceiver, MixStream, type MixUser, MixWorker } from './mix-users.ts'

/** All users of a queue while it is open. */
export class MixCrowd {
  readonly caller: MixCaller
  readonly workers: MixWorker[] = []
  readonly receivers: MixReceiver[] = []
  readonly streams: MixStream[] = []

  constructor(caller: MixCaller) {
    this.caller = caller
  }

  get all(): MixUser[] {
    return [...this.workers, ...this.receivers, ...this.streams]
  }
}

/** An action that may happen at any time, by chance. */
export interface MixAction {
  readonly name: string
  /** How often the action is chosen, relative to the others. */
  readonly weight: number
  readonly act: (crowd: MixCrowd) => void
}

const maxWorkers = 3

const actions: readonly MixAction[] = [
  {
    name: 'enqueue',
    weight: 18,
    act: ({ caller }) => caller.begin(caller.enqueue(1 + caller.world.random.below(5))),
  },
  { name: 'process', weight: 12, act: beginProcess },
  { name: 'end a handler', weight: 24, act: ({ caller, workers }) => anyOf(caller.world.random, workers)?.endOne() },
  { name: 'end handlers', weight: 6, act: ({ caller, workers }) => anyOf(caller.world.random, workers)?.endAll() },
  { name: 'stop a process', weight: 3, act: ({ caller, workers }) => anyOf(caller.world.random, workers)?.stop('') },
  { name: 'receive', weight: 12, act: beginReceive },
  {
    name: 'abort a receive',
    weight: 6,
    act: ({ caller, receivers }) => anyOf(caller.world.random, receivers)?.stop(''),
  },
  { name: 'consume', weight: 6, act: beginStream },
  { name: 'read', weight: 12, act: ({ caller, streams }) => anyOf(caller.world.random, streams)?.read() },
  { name: 'abort a stream', weight: 3, act: ({ caller, streams }) => anyOf(caller.world.random, streams)?.stop('') },
  { name: 'cancel a stream', weight: 3, act: ({ caller, streams }) => anyOf(caller.world.random, streams)?.cancel() },
  { name: 'settle', weight: 6, act: ({ caller }) => settle(caller) },
  { name: 'advance', weight: 6, act: ({ caller }) => advance(caller, [1, 50, 200, 1000]) },
  { name: 'disk', weight: 6, act: ({ caller }) => caller.world.mode.fillsDisk && caller.fillOrEmptyDisk() },
  { name: 'purge', weight: 1, act: ({ caller }) => caller.begin(caller.purge()) },
  { name: 'redrive', weight: 1, act: ({ caller }) => caller.redriveAll() },
  {
    name: 'compact',
    weight: 1,
    act: ({ caller }) => caller.world.mode.compacts && caller.begin(caller.compact()),
  },
  {
    name: 'abort receives in an operation',
    weight: 1,
    act: ({ caller, receivers }) => {
      caller.inOperation(() => receivers.forEach((receiver) => receiver.stop('in an operation')))
    },
  },
  {
    name: 'stop a process in an operation',
    weight: 1,
    act: ({ caller, workers }) => {
      const worker = anyOf(caller.world.random, workers)
      caller.inOperation(() => worker?.stop('in an operation'))
    },
  },
  {
    name: 'advance in an operation',
    weight: 1,
    act: ({ caller }) => caller.inOperation(() => advance(caller, [1, 200, 1000])),
  },
]

/** Each action as often as its weight says. */
export const weightedActions: readonly MixAction[] = actions.flatMap((action) =>
  Array<MixAction>(action.weight).fill(action),
)

function beginProcess({ caller, workers }: MixCrowd): void {
  if (workers.filter(({ isOver }) => !isOver).length >= maxWorkers) return
  const { random } = caller.world
  const options = { concurrency: 1 + random.below(4), endsAtOnce: random.below(4) === 0 }
  workers.push(new MixWorker(`process ${workers.length}`, caller, options))
}

function beginReceive({ caller, receivers }: MixCrowd): void {
  const { random } = caller.world
  const options = { max: 1 + random.below(3), waitMs: pick(random, [0, 50, 300, Infinity]) }
  receivers.push(new MixReceiver(`receive ${receivers.length}`, caller, options))
}

function beginStream({ caller, streams }: MixCrowd): void {
  const prefetch = 1 + caller.world.random.below(4)
  streams.push(new MixStream(`stream ${streams.length}`, caller, { prefetch }))
}

/** Acks or nacks a message that was received or read. */
function settle(caller: MixCaller): void {
  const { random } = caller.world
  const message = takeAny(random, caller.held)
  if (message === undefined) return
  const options = pick(random, [{}, { delayMs: 0 }, { delayMs: 100 }])
  caller.begin(random.below(3) > 0 ? caller.ack(message) : caller.nack(message, options))
}

function advance({ world: { random, clock, log } }: MixCaller, choices: readonly number[]): void {
  const ms = pick(random, choices)
  log.note(`  advance ${ms}`)
  clock.advance(ms)
}
