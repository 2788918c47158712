import { crc32 } from 'node:zlib'

import { afterEach, describe, expect, test } from 'vitest'

import { countLines, countsOf, deadLetters, deadLines, nextMessages, peekLines } from '../../src/cli/commands/queue.ts'
import { jsonLine } from '../../src/cli/terminal.ts'
import { MiniQueue, MiniStoreError } from '../../src/miniqueue/index.ts'
import { applyMutation, assertQueue } from '../../src/miniqueue/shape.ts'
import { emptyQueue, type QueueMutation, type QueueState } from '../../src/miniqueue/state.ts'
import { formatHead } from '../../src/minisnap/format.ts'
import { readState } from '../../src/cli/read-state.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { beginning, SteppedClock } from '../crash/queue/clock.ts'
import { directory, journalFile } from './support.ts'

// Journals and snapshots are files, and a file may come from an untrusted source.

const own = [Object.prototype, Array.prototype, Number.prototype].map((prototype) => Reflect.ownKeys(prototype))

afterEach(() => {
  expect([Object.prototype, Array.prototype, Number.prototype].map((prototype) => Reflect.ownKeys(prototype))).toEqual(own)
})

const at = beginning - 1000

/** One mutation of each kind, with all of its fields. */
const mutations: readonly QueueMutation[] = [
  {
    op: 'enqueue',
    at,
    messages: [
      { payload: { n: 1 }, bytes: 7, priority: 3, dueAt: at + 5, key: 'k' },
      { payload: [2], bytes: 3, key: 'l' },
      { payload: 3, bytes: 1 },
      { payload: 4, bytes: 1 },
    ],
  },
  { op: 'deliver', ids: [1, 2, 3] },
  { op: 'return', ids: [1] },
  { op: 'nack', id: 1, dueAt: at + 100, reason: 'busy' },
  { op: 'ack', ids: [2], keysUntil: at + 10_000_000 },
  { op: 'bury', ids: [3, 4], reason: 'worn out', at },
  { op: 'redrive', ids: [3] },
  { op: 'discard', ids: [4] },
  { op: 'batch', steps: [{ op: 'enqueue', at, messages: [{ payload: 5, bytes: 1 }] }, { op: 'deliver', ids: [5] }] },
  { op: 'purge', except: [1, 5] },
]

function stateAfter(count: number): QueueState {
  const state = emptyQueue()
  for (const mutation of mutations.slice(0, count)) applyMutation(state, mutation, directory)
  return state
}

/** Hostile values, as JSON texts. */
const hostile: readonly string[] = [
  '"__proto__"', '"constructor"', '"toString"', '"7"', '""', '["__proto__"]', '["constructor"]', '[[1]]', '[null]', '[{}]', '[]',
  '{}', '{"__proto__":{"polluted":1}}', '{"1":null}', '{"__proto__":[]}', '{"key:__proto__":{"id":1}}', '{"toString":1,"length":2}',
  '-1', '0', '1', '1.5', '9007199254740991', '9007199254740992', '-9007199254740992', '1e300', '8640000000000001', 'null', 'true',
]

/** Returns every JSON text in which one value at any place, or one name, is hostile. */
function* forged(value: unknown): Generator<string> {
  yield* hostile
  if (typeof value !== 'object' || value === null) return
  const entries = Object.entries(value)
  for (const [place] of entries.entries()) {
    const [name, inner] = entries[place] as [string, unknown]
    const textOf = (named: string, text: string): string => {
      const parts = entries.map(([key, other], index) => [index === place ? named : key, index === place ? text : JSON.stringify(other)])
      if (Array.isArray(value)) return `[${parts.map(([, part]) => part).join()}]`
      return `{${parts.map(([key, part]) => `${JSON.stringify(key)}:${part}`).join()}}`
    }
    for (const text of forged(inner)) yield textOf(name, text)
    if (Array.isArray(value)) continue
    for (const named of ['__proto__', 'constructor', 'toString', '-1', '01', '1e3', 'key:']) yield textOf(named, JSON.stringify(inner))
  }
}

function header(first: number): string {
  return `// MINISTORE JOURNAL v0.3.0 seq=${first} id=5c1e9a70b2f4d833\n`
}

function withJournal(lines: readonly string[]): SimulatedFileSystem {
  const files = new SimulatedFileSystem()
  files.addDirectory(directory)
  files.writeFile(journalFile, header(1) + lines.map((line) => `${line}\n`).join(''))
  return files
}

function withSnapshot(state: string, lines: readonly string[] = []): SimulatedFileSystem {
  const files = new SimulatedFileSystem()
  files.addDirectory(directory)
  files.writeFile(`${directory}/snapshot-4.json`, `${formatHead({ sequence: 4, crc32: crc32(state), journal: undefined })}${state}}\n`)
  files.writeFile(journalFile, header(5) + lines.map((line) => `${line}\n`).join(''))
  return files
}

/** Whether the queue opens. If it does, every call works; if not, the error has the right code. */
async function useQueue(files: SimulatedFileSystem): Promise<boolean> {
  const clock = new SteppedClock()
  const told: unknown[] = []
  const open = () => MiniQueue.open(directory, {
    fileSystem: files, clock, dedupeWindowMs: 1000, maxAttempts: 3, onError: (error) => told.push(error),
  })
  let queue: MiniQueue
  try {
    queue = await open()
  } catch (error) {
    expect(error).toBeInstanceOf(MiniStoreError)
    expect((error as MiniStoreError).code).toMatch(/^ERR_MINISTORE_(?:MUTATOR|CORRUPT)$/)
    return false
  }
  const [id] = await queue.enqueueAll([{ payload: 'new', dedupeKey: 'a new key' }, { payload: 'other' }]).catch((error: unknown) => {
    // A forged payload length may be as large as the limit allows.
    expect((error as MiniStoreError).code).toBe('ERR_MINISTORE_QUEUE_FULL')
    return [undefined]
  })
  if (id !== undefined) expect(Number.isSafeInteger(id)).toBe(true)
  clock.advance(1_000_000)
  for (const message of await queue.receive({ max: 100 })) {
    expect([Number.isSafeInteger(message.id), message.enqueuedAt.toISOString()]).toEqual([true, expect.any(String)])
    await (message.id % 2 === 0 ? message.ack() : message.nack())
  }
  const letters = queue.deadLetters()
  for (const letter of letters) expect(letter.diedAt.toISOString()).toEqual(expect.any(String))
  await queue.redrive('all').catch((error: unknown) => expect((error as MiniStoreError).code).toBe('ERR_MINISTORE_QUEUE_FULL'))
  const stats = queue.stats()
  for (const count of [stats.ready, stats.delayed, stats.inFlight, stats.dead]) expect(count).toBeGreaterThanOrEqual(0)
  await queue.compact()
  await queue.close()
  await (await open()).close()
  expect(told).toEqual([])
  return true
}

/** The outcome of the command line on the directory. */
async function look(files: SimulatedFileSystem): Promise<boolean> {
  const mutator = (state: QueueState, mutation: QueueMutation): void => {
    assertQueue(state, directory)
    applyMutation(state, mutation, directory)
  }
  try {
    const { state } = await readState<QueueState, QueueMutation>(directory, { initialState: emptyQueue, mutator }, files)
    assertQueue(state, directory)
    const messages = nextMessages(state, 10, beginning)
    const letters = deadLetters(state, 10)
    const counts = countsOf(state, { now: beginning, bytes: 1, directory })
    for (const facts of [...messages, ...letters, counts]) jsonLine(facts)
    const page = { style: (_name: string, text: string) => text, columns: 60 }
    peekLines(messages, beginning, page)
    deadLines(letters, page)
    countLines(counts)
    return true
  } catch (error) {
    expect(error).toBeInstanceOf(MiniStoreError)
    return false
  }
}

/**
 * Expects texts accepted as values to open as queues from a disk, and the others to be refused
 * there. Both groups must have members.
 */
async function expectSame(
  all: readonly string[],
  taken: readonly string[],
  onDisk: (text: string) => SimulatedFileSystem,
): Promise<void> {
  const refused = all.filter((text) => !taken.includes(text))
  expect(taken.length).toBeGreaterThan(0)
  expect(refused.length).toBeGreaterThan(taken.length)
  for (const [texts, isQueue] of [[taken, true], [refused, false]] as const) {
    for (const text of texts.filter((_, index) => index % 12 === 0)) {
      expect([text, await useQueue(onDisk(text))]).toEqual([text, isQueue])
      expect(await look(onDisk(text))).toBe(isQueue)
    }
  }
}

/** Whether a state is a queue's and accepts all mutations. A queue's state must stay valid. */
function takes(state: QueueState, lines: readonly unknown[]): boolean {
  try {
    assertQueue(state, directory)
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', path: directory })
    return false
  }
  try {
    for (const line of lines) applyMutation(state, line, directory)
  } catch (error) {
    expect(error).toBeInstanceOf(TypeError)
    expect((error as Error).message).toMatch(/^Expected a mutation of a queue, got /)
    return false
  } finally {
    // A copy, because an object that was already checked is remembered.
    assertQueue(JSON.parse(JSON.stringify(state)), directory)
  }
  return true
}

describe('a forged journal', () => {
  test('without a change opens', async () => {
    expect(await useQueue(withJournal(mutations.map((mutation) => JSON.stringify(mutation))))).toBe(true)
  })

  test.each(['__proto__', 'constructor', 'toString'])('with the id %s in any mutation is refused', async (id) => {
    for (const op of ['deliver', 'return', 'ack', 'bury', 'redrive', 'discard']) {
      const mutation = JSON.stringify({ op, ids: [id], reason: 'x', at })
      expect(await useQueue(withJournal([mutation]))).toBe(false)
      expect(await useQueue(withJournal([JSON.stringify({ op: 'batch', steps: [JSON.parse(mutation)] })]))).toBe(false)
    }
    expect(await useQueue(withJournal([JSON.stringify({ op: 'nack', id })]))).toBe(false)
    expect(await useQueue(withJournal([JSON.stringify({ op: 'purge', except: [id] })]))).toBe(false)
    expect(await useQueue(withJournal([JSON.stringify({ op: id })]))).toBe(false)
  })

  test.each(mutations.map((mutation, index) => [mutation.op, index] as const))(
    'with a hostile value anywhere in its %s is refused, or works as a queue',
    async (_, index) => {
      const lines = mutations.map((mutation) => JSON.stringify(mutation))
      const texts = [...forged(mutations[index])]
      const taken = texts.filter((line) => takes(stateAfter(index), [JSON.parse(line), ...mutations.slice(index + 1)]))
      await expectSame(texts, taken, (line) => withJournal(lines.with(index, line)))
    },
  )

  test('with a purge in a batch, which no queue writes, is refused', async () => {
    expect(await useQueue(withJournal(['{"op":"batch","steps":[{"op":"purge","except":[]}]}']))).toBe(false)
  })

  test('with a payload that is nested deeper than anything can follow is refused', async () => {
    const line = `{"op":"enqueue","at":${at},"messages":[{"payload":${'['.repeat(100_000)}${']'.repeat(100_000)},"bytes":2}]}`
    expect([await useQueue(withJournal([line])), await look(withJournal([line]))]).toEqual([false, false])
  })
})

describe('a forged snapshot', () => {
  const states = [4, 6, 7].map((count) => stateAfter(count))

  test.each(states.map((state, index) => [index, state] as const))('without a change opens: %i', async (_, state) => {
    expect(await useQueue(withSnapshot(JSON.stringify(state)))).toBe(true)
  })

  test.each(states.map((state, index) => [index, state] as const))(
    'with a hostile value anywhere is refused, or works as a queue: %i',
    async (_, state) => {
      const line = JSON.stringify({ op: 'deliver', ids: [1] } satisfies QueueMutation)
      const texts = [...forged(state)]
      const taken = texts.filter((text) => takes(JSON.parse(text) as QueueState, mutations))
      await expectSame(texts, taken, (text) => withSnapshot(text, text.length % 2 === 0 ? [] : [line]))
    },
  )

  test('with a message that is also a dead letter is refused', async () => {
    const state = stateAfter(6)
    const [id] = Object.keys(state.dead)
    const message = Object.values(state.messages)[0]
    const text = JSON.stringify({ ...state, messages: { ...state.messages, [id as string]: message } })
    expect(await useQueue(withSnapshot(text))).toBe(false)
  })

  test('with a payload that is nested deeper than anything can follow is refused', async () => {
    const text = JSON.stringify(stateAfter(1)).replace('{"n":1}', `${'['.repeat(100_000)}${']'.repeat(100_000)}`)
    expect([await useQueue(withSnapshot(text)), await look(withSnapshot(text))]).toEqual([false, false])
  })
})
