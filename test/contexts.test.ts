import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, onTestFinished, test } from 'vitest'

import { type Codec, groupCommit, MiniStore, type OpenOptions } from '../src/index.ts'
import { SnapStore } from '../src/minisnap/index.ts'
import { StateManager, StateView } from '../src/ministate/index.ts'
import { SimulatedFileSystem } from '../src/testing/index.ts'
import { SteppedClock } from './crash/queue/clock.ts'
import { openQueue } from './miniqueue/support.ts'

/**
 * Holds the number of the caller. Each test makes overlapping calls, each in its own context, and
 * checks the context in which functions run.
 */
const caller = new AsyncLocalStorage<number>()
const callers = [1, 2, 3, 4, 5, 6, 7, 8]

/** Makes overlapping calls, one for each caller, in that caller's context. */
async function callAll(call: (who: number) => Promise<unknown>): Promise<void> {
  await caller.run(0, () => Promise.all(callers.map((who) => caller.run(who, () => call(who)))))
}

/** Records the context in which each function runs. */
class Notes {
  readonly #all = new Map<string, Set<string>>()

  /** @param whose the caller whose context is expected, if known. */
  note(what: string, whose: unknown): void {
    const seen = this.#all.get(what) ?? new Set()
    const actual = caller.getStore()
    this.#all.set(what, seen.add(actual === whose ? String(actual) : `${actual} instead of ${String(whose)}`))
  }

  /** Drops all notes so far. */
  clear(): void {
    this.#all.clear()
  }

  get all(): object {
    return Object.fromEntries([...this.#all].map(([what, seen]) => [what, [...seen].toSorted()]))
  }
}

/** The expected notes if each of these ran for every caller, in that caller's context. */
function rightFor(...names: string[]): object {
  return Object.fromEntries(names.map((name) => [name, callers.map(String)]))
}

/** A schema that notes the context in which it is called. */
function schemaThatNotes(notes: Notes, whose: (value: unknown) => unknown, isAsync: boolean): StandardSchemaV1<number> {
  const validate = (value: unknown): StandardSchemaV1.Result<number> | Promise<StandardSchemaV1.Result<number>> => {
    notes.note('schema', whose(value))
    if (!isAsync) return { value: value as number }
    return Promise.resolve().then(() => {
      notes.note('schema later', whose(value))
      return { value: value as number }
    })
  }
  return { '~standard': { version: 1, vendor: 'test', validate } }
}

function on(channel: string, listener: (message: never) => void): void {
  subscribe(channel, listener as (message: unknown) => void)
  onTestFinished(() => void unsubscribe(channel, listener as (message: unknown) => void))
}

/** A codec of numbers whose functions note the context that they run in. */
function codecThatNotes(notes: Notes): Codec<number, number> {
  return {
    encode: (record) => {
      notes.note('encode', record)
      return String(record)
    },
    decode: (line) => {
      notes.note('decode', Number(line))
      return Number(line)
    },
  }
}

describe('overlapping calls of a journal', () => {
  const events = ['start', 'end', 'asyncStart', 'asyncEnd']

  test.each([true, false])('have their functions run each in its own context; asynchronous schema: %s', async (isAsync) => {
    const notes = new Notes()
    const options: OpenOptions<number> & { schema: StandardSchemaV1<number> } = {
      schema: schemaThatNotes(notes, (value) => value, isAsync),
      codec: codecThatNotes(notes),
      // So that each append rotates.
      maxBytesPerSegment: 1,
      fileSystem: new SimulatedFileSystem(),
    }
    await using store = await MiniStore.open('/journal.jsonl', options)
    await store.append(1)
    notes.clear()
    for (const event of events) {
      on(`tracing:ministore:append:${event}`, () => {
        notes.note(`append ${event}`, store.lastSequence + (event === 'start' || event === 'end' ? 0 : -1))
      })
      // The next record is the one that triggers the rotation.
      on(`tracing:ministore:rotate:${event}`, () => notes.note(`rotate ${event}`, store.lastSequence))
    }
    await callAll((who) => store.append(who))
    const schema = isAsync ? ['schema', 'schema later'] : ['schema']
    expect(notes.all).toEqual(rightFor('encode', 'decode', ...schema, ...events.flatMap((event) => [`append ${event}`, `rotate ${event}`])))
  })

  test('write in the context of the call, and report its failures there', async () => {
    const notes = new Notes()
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    let writes = 0
    files.onOperation(({ operation }) => {
      if (operation === 'write') notes.note('write', ++writes)
    })
    let errors = 0
    on('tracing:ministore:append:error', () => notes.note('error', ++errors))
    files.failOn({ operation: 'write', times: 'always' }, 'ENOSPC')
    await callAll((who) => store.append(who).catch(() => {}))
    expect(notes.all).toEqual(rightFor('write', 'error'))
  })

  test('poison the journal in the context of the failing call', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    const seen: unknown[] = []
    on('ministore:poison', () => seen.push(caller.getStore()))
    files.onOperation(({ operation }) => {
      if (operation === 'write' && store.lastSequence === 4) files.failOn({ operation: 'dataSync' }, 'EIO')
    })
    await callAll((who) => store.append(who).catch(() => {}))
    expect(seen).toEqual([5])
  })
})

describe('streams of a journal', () => {
  test('run codec, schema and salvage in the context that created the stream, regardless of the reader', async () => {
    const files = new SimulatedFileSystem()
    const store = await MiniStore.open('/journal.jsonl', { fileSystem: files })
    await store.appendAll([1, 2])
    await store.close()
    files.writeFile('/journal.jsonl', Buffer.concat([files.readFile('/journal.jsonl'), Buffer.from('broken\n3\n')]))
    const notes = new Notes()
    await callAll(async (who) => {
      const options = {
        fileSystem: files,
        codec: {
          decode: (line: string): unknown => {
            notes.note('decode', who)
            return JSON.parse(line) as unknown
          },
        },
        salvage: () => notes.note('salvage', who),
      }
      const schema = schemaThatNotes(notes, () => who, true)
      const stream = MiniStore.stream('/journal.jsonl', { ...options, schema })
      const reads = async (): Promise<void> => {
        const seen: unknown[] = []
        for await (const record of stream) seen.push(record)
        expect(seen).toEqual([1, 2, 3])
      }
      await caller.run(-1, reads)
    })
    expect(notes.all).toEqual(rightFor('decode', 'salvage', 'schema', 'schema later'))
  })

  test('run the codec of a follower in the context that created the stream, whoever appends or reads', async () => {
    const files = new SimulatedFileSystem()
    const notes = new Notes()
    let isFollowed = false
    const decode = (line: string): unknown => {
      if (isFollowed) notes.note('decode', 7)
      return JSON.parse(line) as unknown
    }
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: files, codec: { encode: JSON.stringify, decode } })
    await store.append(0)
    const live = caller.run(7, () => store.stream({ follow: true }).values())
    await live.next()
    isFollowed = true
    for (let n = 1; n <= 5; n++) {
      const next = caller.run(8, () => live.next())
      await caller.run(9, () => store.append(n))
      expect((await next).value).toBe(n)
    }
    expect(notes.all).toEqual({ decode: ['7'] })
    await live.return()
  })

  test('append through a writable in the context that created it, regardless of the writer', async () => {
    const notes = new Notes()
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: new SimulatedFileSystem() })
    await callAll(async (who) => {
      const writer = store.writable().getWriter()
      const record = { toJSON: (): unknown => notes.note('toJSON', who) ?? who }
      await caller.run(-1, () => Promise.all([writer.write(record), writer.write(record)]))
    })
    expect(notes.all).toEqual(rightFor('toJSON'))
  })
})

describe('a group', () => {
  test.each([true, false])('runs codec and schema in the context of each append, and batches in its own; asynchronous schema: %s', async (isAsync) => {
    const notes = new Notes()
    const options: OpenOptions<number> & { schema: StandardSchemaV1<number> } = {
      schema: schemaThatNotes(notes, (value) => value, isAsync),
      codec: codecThatNotes(notes),
      fileSystem: new SimulatedFileSystem(),
    }
    await using store = await MiniStore.open('/journal.jsonl', options)
    await using group = caller.run(99, () => groupCommit(store))
    on('tracing:ministore:append:start', () => notes.note('batch', 99))
    await callAll(async (who) => {
      await group.append(who)
      notes.note('caller', who)
    })
    const schema = isAsync ? ['schema', 'schema later'] : ['schema']
    expect(notes.all).toEqual({ ...rightFor('encode', 'decode', 'caller', ...schema), batch: ['99'] })
  })

  test('appends through a writable in the context that created it, regardless of the writer', async () => {
    const notes = new Notes()
    const codec = {
      encode: (record: number): string => {
        notes.note('encode', 1)
        return String(record)
      },
      decode: Number,
    }
    await using store = await MiniStore.open('/journal.jsonl', { codec, fileSystem: new SimulatedFileSystem() })
    await using group = groupCommit(store)
    const writable = caller.run(1, () => group.writable())
    await caller.run(2, () => ReadableStream.from([1, 2, 3]).pipeTo(writable))
    expect(notes.all).toEqual({ encode: ['1'] })
  })
})

describe('overlapping calls of a state', () => {
  test('do not let a guest pass as admin', async () => {
    const roles = new AsyncLocalStorage<string>()
    const manager = await StateManager.open<string[], string>('/state', {
      fileSystem: new SimulatedFileSystem(),
      initialState: () => [],
      validate: (_, change) => {
        if (change === 'delete' && roles.getStore() !== 'admin') throw new Error('no')
      },
      mutator: (state, change) => void state.push(change),
    })
    await Promise.allSettled([
      roles.run('admin', () => manager.apply('read')),
      roles.run('guest', () => manager.apply('delete')),
    ])
    expect(manager.state).toEqual(['read'])
    await manager.close()
  })

  test.each([true, false])('have their functions run each in its own context; asynchronous schema: %s', async (isAsync) => {
    const notes = new Notes()
    const manager = await StateManager.open<{ last: number }, number>('/state', {
      fileSystem: new SimulatedFileSystem(),
      initialState: () => ({ last: 0 }),
      schema: schemaThatNotes(notes, (value) => value, isAsync),
      journal: { codec: { encode: String, decode: (line) => notes.note('decode', Number(line)) ?? Number(line) } },
      validate: async (_, who) => {
        notes.note('validate', who)
        await Promise.resolve()
        notes.note('validate later', who)
      },
      mutator: (state, who) => {
        notes.note('mutator', who)
        state.last = who
      },
      snapshots: {
        everyMutations: 1,
        codec: {
          encode: ({ last }) => {
            notes.note('snapshot', last)
            throw new Error('no')
          },
          decode: JSON.parse as never,
        },
        onError: () => notes.note('onError', manager.sequence),
      },
    })
    await callAll((who) => manager.apply(who))
    const schema = isAsync ? ['schema', 'schema later'] : ['schema']
    expect(notes.all).toEqual(rightFor('decode', 'validate', 'validate later', 'mutator', 'snapshot', 'onError', ...schema))
    await manager.close()
  })

  test('rebuild past states each in its own context', async () => {
    const notes = new Notes()
    const manager = await StateManager.open<number, number>('/state', {
      fileSystem: new SimulatedFileSystem(),
      initialState: () => notes.note('initialState', caller.getStore()) ?? 0,
      mutator: (_, who) => {
        if (manager.sequence === 8) notes.note('mutator', caller.getStore())
        return who
      },
    })
    for (const who of callers) await caller.run(who, () => manager.apply(who))
    notes.clear()
    await callAll((who) => manager.stateAt(who))
    expect(notes.all).toEqual(rightFor('initialState', 'mutator'))
    await manager.close()
  })

  test('write and read snapshots each in its own context', async () => {
    const notes = new Notes()
    const fileSystem = new SimulatedFileSystem()
    let restoring = 0
    const snapshots = new SnapStore<number>('/snapshots', {
      fileSystem,
      schema: schemaThatNotes(notes, () => caller.getStore(), true),
      codec: {
        encode: (who) => {
          notes.note('encode', who)
          return String(who)
        },
        decode: (text) => {
          notes.note('decode', ++restoring)
          return Number(text)
        },
      },
    })
    await callAll((who) => snapshots.create(who, who, { frozen: true }))
    await callAll(() => snapshots.restore())
    expect(notes.all).toEqual(rightFor('encode', 'decode', 'schema', 'schema later'))
  })
})

describe('views', () => {
  test('run every function in the context that opened them, whoever appends, waits or closes', async () => {
    const notes = new Notes()
    const fileSystem = new SimulatedFileSystem()
    const store = await MiniStore.open<number>('/journal.jsonl', { fileSystem })
    const told: unknown[] = []
    await callAll(async (who) => {
      const note = (what: string): void => notes.note(what, who)
      const view = await StateView.open<number, number>('/journal.jsonl', {
        fileSystem,
        schema: schemaThatNotes(notes, () => who, true),
        codec: {
          decode: (line) => {
            note('decode')
            return Number(line)
          },
        },
        initialState: () => {
          note('initialState')
          return 0
        },
        mutator: (_, record) => {
          note('mutator')
          if (record > 16) throw new Error('no')
          return record
        },
        snapshots: {
          directory: `/view-${who}`,
          everyMutations: 3,
          codec: {
            encode: () => {
              note('snapshot')
              throw new Error('no')
            },
            decode: Number,
          },
          onError: () => note('snapshots.onError'),
        },
        onError: (error) => {
          note('onError')
          told.push(error)
        },
      })
      await caller.run(-1, async () => {
        await store.append(who)
        await view.caughtUp()
        if (who === 8) for (let more = 9; more <= 17; more++) await store.append(more)
        await view.caughtUp({ sequence: 17 }).catch(() => {})
        await view.close()
      })
    })
    expect(told).toHaveLength(8)
    const names = ['decode', 'initialState', 'mutator', 'snapshot', 'snapshots.onError', 'onError', 'schema', 'schema later']
    expect(notes.all).toEqual(rightFor(...names))
    await store.close()
  })
})

describe('overlapping calls of a queue', () => {
  test('have payloads, the clock and subscribers run each in its own context', async () => {
    const notes = new Notes()
    const clock = new SteppedClock()
    const { queue } = await openQueue({ clock })
    on('miniqueue:enqueue', ({ ids }: { ids: number[] }) => {
      if ((ids[0] ?? 0) <= 8) notes.note('enqueue', ids[0])
    })
    on('miniqueue:ack', ({ ids }: { ids: number[] }) => notes.note('ack', ids[0]))
    on('miniqueue:nack', ({ id }: { id: number }) => notes.note('nack', id - 8))
    const payload = (who: number): string => ({ toJSON: () => notes.note('toJSON', who) ?? 'x' }) as never
    await callAll((who) => queue.enqueue(payload(who)))
    for (const who of callers) await caller.run(who + 8, () => queue.enqueue('y'))
    const messages = await caller.run(-2, () => queue.receive({ max: 16 }))
    await callAll(async (who) => messages[who - 1]?.ack())
    await callAll(async (who) => messages[who + 7]?.nack())
    expect(messages).toHaveLength(16)
    expect(notes.all).toEqual(rightFor('toJSON', 'enqueue', 'ack', 'nack'))
    await queue.close()
  })

  test('have backoff run in the context of the nack, or of process', async () => {
    const notes = new Notes()
    let expected: (attempt: number) => unknown = () => caller.getStore()
    const { queue } = await openQueue({
      backoff: (attempt) => {
        notes.note('backoff', expected(attempt))
        return 0
      },
    })
    await queue.enqueueAll(callers.map(() => ({ payload: 'x' })))
    const messages = await queue.receive({ max: 8 })
    let next = 0
    expected = () => ++next
    await callAll(async (who) => messages[who - 1]?.nack())
    expect(notes.all).toEqual(rightFor('backoff'))
    await queue.close()
  })

  test('run handlers, backoff and onError in the context of process, regardless of the enqueuer', async () => {
    const seen = { handler: new Set(), backoff: new Set(), onError: new Set(), dead: new Set() }
    const note = (what: keyof typeof seen): unknown => seen[what].add(caller.getStore())
    const stop = new AbortController()
    let left = 16
    const { queue, files } = await openQueue({
      maxAttempts: 2,
      backoff: () => {
        note('backoff')
        return 0
      },
      onError: () => note('onError'),
    })
    on('miniqueue:dead', () => note('dead'))
    const run = caller.run(99, () =>
      queue.process(
        async () => {
          note('handler')
          caller.enterWith(-1)
          await Promise.resolve()
          left -= 1
          if (left === 12) files.failOn({ operation: 'write' }, 'ENOSPC')
          if (left <= 0) stop.abort()
          throw new Error('no')
        },
        { concurrency: 2, signal: stop.signal },
      ),
    )
    await callAll(() => queue.enqueue('x').catch(() => queue.enqueue('x')))
    for (let turn = 0; turn < 500 && !stop.signal.aborted; turn++) await new Promise((resolve) => setImmediate(resolve))
    stop.abort()
    await run
    await queue.close()
    for (const contexts of Object.values(seen)) expect([...contexts]).toEqual([99])
  })

  test('report a burial that failed at the end of a lease in the context that opened the queue', async () => {
    const seen: unknown[] = []
    const { queue, files, clock } = await caller.run(7, () =>
      openQueue({ maxAttempts: 1, onError: () => seen.push(caller.getStore()) }),
    )
    await caller.run(1, () => queue.enqueue('x'))
    await caller.run(2, () => queue.receive())
    files.failOn({ operation: 'write' }, 'ENOSPC')
    caller.run(3, () => clock.advance(30_000))
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(seen).toEqual([7])
    await queue.close()
  })
})
