import type { StandardSchemaV1 } from '@standard-schema/spec'

import { type Message, MiniQueue, type QueueOptions } from '../../../src/miniqueue/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { beginning, SteppedClock } from './clock.ts'
import { keys, type Options } from './commands.ts'
import { describe } from './plain.ts'

/** Directory of the queues in the crash tests. */
export const queueDirectory = '/data/jobs'

/** The payload of every message in the crash tests. */
export interface Payload {
  /** The message's name. It is unique in a test, so it identifies the message whatever its id. */
  readonly n: number
  readonly text: string
}

export type TestedQueue = MiniQueue<Payload>
export type TestedMessage = Message<Payload>

/** What a look at a disk has found. */
export interface FoundQueue {
  /** The content, in the form of `describePlain`. */
  readonly text: string
  /** Ids of all messages, by name. */
  readonly ids: ReadonlyMap<number, number>
  readonly attempts: ReadonlyMap<number, number>
  /** Names of messages that wait without a delay. */
  readonly undelayed: ReadonlySet<number>
  /** The ids that keys stand for at the time {@link lookedAt}. */
  readonly keys: ReadonlyMap<string, number>
}

/**
 * A time before any test's, in milliseconds: no delayed message is due, and every kept key is
 * valid.
 */
export const lookedAt: number = beginning - 30 * 86_400_000
export const allDueAfterMs: number = 100 * 86_400_000
const everything = 1_000_000

/** Opens a queue as the crash tests do. */
export function openQueue(
  fileSystem: SimulatedFileSystem,
  clock: SteppedClock,
  options: Options & Pick<QueueOptions, 'onError' | 'visibilityTimeoutMs' | 'backoff'> = {},
): Promise<TestedQueue> {
  const { maxBytesPerSegment, refusesLong = false, ...others } = options
  const schema = refusesLong ? { schema: onlyShort } : {}
  const journal = maxBytesPerSegment === undefined ? {} : { maxBytesPerSegment }
  return MiniQueue.open<Payload>(queueDirectory, { ...others, ...schema, journal, clock, fileSystem })
}

/** Accepts what is enqueued, and no long message that was enqueued before there was a schema. */
const onlyShort: StandardSchemaV1<Payload> = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: (value) => ((value as Payload).text === '' ? { value: value as Payload } : { issues: [{ message: 'too long' }] }),
  },
}

/** Opens a queue without moving any message: no message has had too many attempts. */
export function openQuietly(files: SimulatedFileSystem, clock: SteppedClock): Promise<TestedQueue> {
  return openQueue(files, clock, {
    maxAttempts: Number.MAX_SAFE_INTEGER,
    compaction: { minBytes: 2 ** 40, ratio: 4 },
  })
}

/** Opens a queue and returns everything visible from outside. Only the opening changes the disk. */
export async function look(files: SimulatedFileSystem): Promise<FoundQueue> {
  const queue = await openQuietly(files, new SteppedClock(lookedAt))
  const { ready, delayed, inFlight, dead } = queue.stats()
  const letters = queue.deadLetters()
  const limits = new Map(queue.messages({ limit: Infinity }).map(({ payload, maxAttempts }) => [payload.n, maxAttempts]))
  await queue.close()
  const waiting = await receiveAll(files.afterKill())
  const { undelayed, keyed } = await receiveEarly(files.afterKill())
  assert(inFlight === 0, `${inFlight} are in flight after open`)
  assert(dead === letters.length, `${letters.length} dead letters, but ${dead} are counted`)
  assert(
    ready + delayed === waiting.length,
    `${ready} ready, ${delayed} delayed, but ${waiting.length} received`,
  )
  assert(ready === undelayed.size, `${ready} ready, but ${undelayed.size} received`)
  const ids = [...waiting, ...letters].map(({ id }) => id)
  assert(new Set(ids).size === ids.length, `ids come twice: ${ids.join()}`)
  const alive = waiting.map(({ payload: { n, text }, attempt, enqueuedAt, headers }) => ({
    name: n,
    text: shorten(text, headers),
    attempts: attempt - 1,
    maxAttempts: limits.get(n),
    enqueuedAt: enqueuedAt.getTime(),
    isDelayed: !undelayed.has(n),
  }))
  const buried = letters.map(({ payload, attempts, enqueuedAt, diedAt, headers }) => ({
    name: payload.n,
    text: shorten(payload.text, headers),
    attempts,
    maxAttempts: limits.get(payload.n),
    enqueuedAt: enqueuedAt.getTime(),
    diedAt: diedAt.getTime(),
  }))
  return {
    text: describe(alive, buried),
    ids: new Map([...waiting, ...letters].map(({ id, payload }) => [payload.n, id])),
    attempts: new Map([...alive, ...buried].map(({ name, attempts }) => [name, attempts])),
    undelayed,
    keys: keyed,
  }
}

/** All waiting messages, once they are due. */
async function receiveAll(files: SimulatedFileSystem): Promise<TestedMessage[]> {
  const clock = new SteppedClock(lookedAt)
  const queue = await openQuietly(files, clock)
  clock.advance(allDueAfterMs)
  const messages = await queue.receive({ max: everything })
  await queue.close()
  return messages
}

/** Messages that wait without a delay, and the ids that keys stand for. */
async function receiveEarly(files: SimulatedFileSystem): Promise<{
  readonly undelayed: ReadonlySet<number>
  readonly keyed: ReadonlyMap<string, number>
}> {
  const queue = await openQuietly(files, new SteppedClock(lookedAt))
  const messages = await queue.receive({ max: everything })
  const fresh = await queue.enqueue({ n: 0, text: '' })
  const keyed = new Map<string, number>()
  for (const key of keys) {
    const id = await queue.enqueue({ n: 0, text: '' }, { dedupeKey: key })
    if (id < fresh) keyed.set(key, id)
  }
  await queue.close()
  return { undelayed: new Set(messages.map(({ payload }) => payload.n)), keyed }
}

/** Replaces a long text with its length, so that descriptions stay readable, and adds the tag in the headers. */
export function shorten(text: string, { tag }: Readonly<Record<string, string>>): string {
  return `${text === '' ? '' : `…${text.length}`}${tag === undefined ? '' : `#${tag}`}`
}

export function assert(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
