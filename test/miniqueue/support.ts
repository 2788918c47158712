import { expect } from 'vitest'

import { type Message, MiniQueue, MiniStoreError, type QueueOptions } from '../../src/miniqueue/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { SteppedClock } from '../crash/queue/clock.ts'
import { turn } from '../support/consume.ts'
import { deferred } from '../support/deferred.ts'

export const directory = '/jobs'
export const journalFile = '/jobs/journal.jsonl'

/**
 * A queue of strings with its disk and clock, which are new unless given. The waits after an
 * attempt are 1 s, 2 s, 4 s …, without jitter.
 */
export interface TestQueue {
  readonly queue: MiniQueue<string>
  readonly files: SimulatedFileSystem
  readonly clock: SteppedClock
  /** Background failures, as passed to `onError`. */
  readonly told: unknown[]
}

export async function openQueue(
  options: QueueOptions & { readonly files?: SimulatedFileSystem; readonly clock?: SteppedClock } = {},
): Promise<TestQueue> {
  const { files = new SimulatedFileSystem(), clock = new SteppedClock(), ...others } = options
  const told: unknown[] = []
  const queue = await MiniQueue.open<string>(directory, {
    fileSystem: files,
    clock,
    random: () => 0,
    onError: (error) => told.push(error),
    ...others,
  })
  return { queue, files, clock, told }
}

/** Opens a copy of what a process killed now would leave. The original queue stays open. */
export async function reopenKilled(
  { files, clock }: TestQueue,
  options: QueueOptions = {},
): Promise<TestQueue> {
  return await openQueue({ ...options, files: files.afterKill(), clock })
}

/** Receives one message. The caller must ensure that a message is ready. */
export async function receiveOne<T>(queue: MiniQueue<T>): Promise<Message<T>> {
  const [message] = await queue.receive()
  return message ?? expect.unreachable('a message was expected to be ready')
}

/** Receives all ready messages and returns their payloads. */
export async function payloadsOf<T>(queue: MiniQueue<T>): Promise<T[]> {
  return (await queue.receive({ max: 1000 })).map(({ payload }) => payload)
}

export async function errorOf(failing: Promise<unknown>): Promise<MiniStoreError> {
  const error: unknown = await failing.then(
    () => expect.unreachable('it was expected to reject'),
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(MiniStoreError)
  return error as MiniStoreError
}

export async function codeOf(failing: Promise<unknown>): Promise<string> {
  return (await errorOf(failing)).code
}

/** The records of the journal on a disk. */
export function recordsOf(files: SimulatedFileSystem): Array<{ readonly op: string; readonly [field: string]: unknown }> {
  const lines = files.readFile(journalFile).toString().split('\n').slice(1, -1)
  return lines.map((line) => JSON.parse(line) as { op: string })
}

/** The message counts of a queue, without the figures that change with each write. */
export function countsOf(queue: MiniQueue<string>): [ready: number, delayed: number, inFlight: number, dead: number] {
  const { ready, delayed, inFlight, dead } = queue.stats()
  return [ready, delayed, inFlight, dead]
}

/** A handler whose calls the test ends one by one; `called` waits until this many have begun. */
export function heldHandler(): {
  handler: (payload: string, message: Message<string>) => Promise<void>
  calls: Array<{ readonly message: Message<string>; readonly resolve: () => void; readonly reject: (error: unknown) => void }>
  called: (count: number) => Promise<void>
} {
  const calls: Array<{ message: Message<string>; resolve: () => void; reject: (error: unknown) => void }> = []
  let next = deferred()
  return {
    calls,
    handler: (_, message) => {
      const { promise, resolve, reject } = deferred()
      calls.push({ message, resolve, reject })
      next.resolve()
      next = deferred()
      return promise
    },
    called: async (count) => {
      while (calls.length < count) await next.promise
    },
  }
}

/** Waits until everything in progress has finished. */
export async function quiet(): Promise<void> {
  for (let n = 0; n < 20; n++) await turn()
}
