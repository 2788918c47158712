import { setTimeout as sleep } from 'node:timers/promises'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, expectTypeOf, onTestFinished, test, vi } from 'vitest'

import { groupCommit, type GroupCommit, type GroupCommitOptions, type Journal, MiniStore, type OpenOptions, type PreparedRecord } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { turn } from '../support/consume.ts'
import { deferred, type Deferred } from '../support/deferred.ts'
import { numbers } from '../support/journals.ts'
import { MemoryJournal as MemoryLogJournal, MemoryLog } from '../support/memory-log.ts'
import { MemoryJournal } from './memory-journal.ts'

const PATH = '/data/journal.jsonl'
const code = (name: string): unknown => expect.objectContaining({ code: `ERR_MINISTORE_${name}` }) as unknown

type SceneOptions = Omit<OpenOptions, 'schema' | 'codec'> & { readonly schema?: object; readonly codec?: object } & GroupCommitOptions

interface Scene<T> {
  readonly files: SimulatedFileSystem
  readonly store: MiniStore<T>
  readonly group: GroupCommit<T>
  /** The number of records of each batch so far. */
  readonly batches: number[]
  /** Number of times that the journal was synced since it was opened. */
  readonly syncs: () => number
  /** Holds every `appendAll` of the group until the result is resolved. */
  readonly hold: () => Deferred<void>
}

/** A store on a simulated disk with a group, which are closed when the test has finished. */
async function open<T = unknown>(options: SceneOptions = {}): Promise<Scene<T>> {
  const { maxRecords, maxBytes, ...storeOptions } = options
  const files = new SimulatedFileSystem()
  const store = (await MiniStore.open(PATH, { fileSystem: files, ...storeOptions } as OpenOptions)) as MiniStore<T>
  let syncs = 0
  files.onOperation(({ operation, path }) => {
    if (operation === 'dataSync' && path === PATH) syncs += 1
  })
  const batches: number[] = []
  let held: Deferred<void> | undefined
  const journal: Journal<T> = Object.create(store, {
    prepare: { value: (record: T) => store.prepare(record) },
    appendAll: {
      value: async (records: readonly PreparedRecord[]) => {
        batches.push(records.length)
        await held?.promise
        return await store.appendAll(records)
      },
    },
  }) as Journal<T>
  const group = groupCommit(journal, { maxRecords, maxBytes })
  const hold = (): Deferred<void> => {
    held = deferred()
    return held
  }
  onTestFinished(async () => {
    files.clearFaults()
    held?.resolve()
    await group.close()
    await store.close()
  })
  return { files, store, group, batches, syncs: () => syncs, hold }
}

/** How calls have settled: the value, or the code of the error. */
async function outcomesOf(calls: ReadonlyArray<Promise<unknown>>): Promise<unknown[]> {
  const settled = await Promise.allSettled(calls)
  return settled.map((one) => (one.status === 'fulfilled' ? one.value : codeOf(one.reason)))
}

function codeOf(error: unknown): unknown {
  return String((error as { code?: unknown }).code ?? error).replace('ERR_MINISTORE_', '')
}

/** A schema that decides about each string when the test says so. */
class SlowSchema {
  readonly decisions = new Map<string, Deferred<boolean>>()

  readonly '~standard' = {
    version: 1,
    vendor: 'test',
    validate: async (value: unknown): Promise<StandardSchemaV1.Result<string>> => {
      const decision = deferred<boolean>()
      this.decisions.set(value as string, decision)
      return (await decision.promise) ? { value: value as string } : { issues: [{ message: 'refused' }] }
    },
  } as const

  decide(value: string, isValid: boolean): void {
    this.decisions.get(value)?.resolve(isValid)
  }
}

describe('a group', () => {
  test('writes what is appended at once with one fsync, in call order', async () => {
    const { store, group, batches, syncs } = await open()
    expect(await Promise.all(numbers(1, 64).map((n) => group.append(n)))).toEqual(numbers(1, 64))
    expect([batches, syncs()]).toEqual([[64], 1])
    expect(await store.replay()).toEqual(numbers(1, 64))
  })

  test('writes what is appended during an fsync with the next one', async () => {
    const { store, group, batches, hold } = await open()
    const gate = hold()
    const first = group.append('first')
    await turn()
    const second = ['a', 'b', 'c'].map((record) => group.append(record))
    await turn()
    expect(batches).toEqual([1])
    gate.resolve()
    expect(await Promise.all([first, ...second])).toEqual([1, 2, 3, 4])
    expect(batches).toEqual([1, 3])
    expect(await store.replay()).toEqual(['first', 'a', 'b', 'c'])
  })

  test('writes the first append at once: no timer and no I/O comes before it', async () => {
    const { group, batches } = await open()
    const appended = group.append(1)
    await new Promise<void>((resolve) => process.nextTick(resolve))
    for (let hop = 0; hop < 5; hop++) await Promise.resolve()
    expect(batches).toEqual([1])
    await appended
  })

  test('fills a batch with all callers that the last one has acknowledged, however deep they await', async () => {
    const { group, batches } = await open<number>()
    const deep = async (depth: number, n: number): Promise<number> => (depth === 0 ? group.append(n) : deep(depth - 1, n))
    const caller = async (depth: number): Promise<void> => {
      for (let n = 0; n < 5; n++) await deep(depth, n)
    }
    await Promise.all([0, 1, 3, 9, 27].map((depth) => caller(depth)))
    expect(batches).toEqual([5, 5, 5, 5, 5])
  })

  test('acknowledges a record only after the fsync of its batch', async () => {
    const { files, group } = await open<number>()
    let isSynced = false
    files.onOperation(({ operation }) => (isSynced = operation === 'dataSync'))
    const appends = [1, 2, 3].map(async (n) => {
      await group.append(n)
      expect(isSynced).toBe(true)
    })
    await Promise.all(appends)
    const crashed = await MiniStore.open(PATH, { fileSystem: files.afterCrash({ keep: 'none' }) })
    expect(await crashed.replay()).toEqual([1, 2, 3])
  })

  test('takes a record as it is when append is called', async () => {
    const { store, group } = await open()
    const record = { text: 'as given' }
    const appended = group.append(record)
    record.text = 'changed'
    await appended
    expect(await store.replay()).toEqual([{ text: 'as given' }])
  })

  test('stands beside appends of the journal and other groups: every number is right', async () => {
    const { store, group } = await open<string>()
    const other = groupCommit(store)
    const sequences = new Map<string, number>()
    const note = async (record: string, append: Promise<number>): Promise<void> => void sequences.set(record, await append)
    for (let round = 0; round < 5; round++) {
      const calls = [1, 2, 3].flatMap((n) => [
        note(`group ${round} ${n}`, group.append(`group ${round} ${n}`)),
        note(`other ${round} ${n}`, other.append(`other ${round} ${n}`)),
        note(`store ${round} ${n}`, store.append(`store ${round} ${n}`)),
      ])
      await Promise.all(calls)
    }
    const records = await store.replay()
    expect(records).toHaveLength(45)
    for (const [record, sequence] of sequences) expect(records[sequence - 1]).toBe(record)
  })

  test('continues over rotations', async () => {
    const { store, group } = await open<number>({ maxBytesPerSegment: 80, maxRecords: 3 })
    await Promise.all(numbers(1, 40).map((n) => group.append(n)))
    expect(store.segments.length).toBeGreaterThan(2)
    expect(await store.replay()).toEqual(numbers(1, 40))
  })

  test('works on any journal with prepare and appendAll', async () => {
    const journal = new MemoryLogJournal<number>(new MemoryLog())
    await using group = groupCommit(journal, undefined)
    expect(await Promise.all([1, 2, 3].map((n) => group.append(n)))).toEqual([1, 2, 3])
    expect(journal.log.texts).toEqual(['1', '2', '3'])
  })
})

describe('a batch', () => {
  test('holds at most maxRecords records', async () => {
    const { group, batches } = await open({ maxRecords: 3 })
    expect(await Promise.all(numbers(1, 7).map((n) => group.append(n)))).toEqual(numbers(1, 7))
    expect(batches).toEqual([3, 3, 1])
  })

  test('holds at most maxBytes bytes, counted in UTF-8 with line feeds', async () => {
    // "ää" is 6 bytes and a line feed.
    const { files, group, batches } = await open({ maxBytes: 21 })
    const lengths: number[] = []
    files.onOperation(({ operation, length = 0 }) => operation === 'write' && lengths.push(length))
    await Promise.all(numbers(1, 7).map(() => group.append('ää')))
    expect([batches, lengths]).toEqual([[3, 3, 1], [21, 21, 7]])
  })

  test('of a record longer than maxBytes is that record alone', async () => {
    const { store, group, batches } = await open({ maxBytes: 10 })
    const records = ['a', 'b', 'long'.repeat(10), 'c', 'longer'.repeat(10), 'longest'.repeat(10), 'd', 'e']
    expect(await Promise.all(records.map((record) => group.append(record)))).toEqual(numbers(1, 8))
    expect(batches).toEqual([2, 1, 1, 1, 1, 2])
    expect(await store.replay()).toEqual(records)
  })
})

describe('a record that is refused', () => {
  test('is refused alone, at once, and takes no number', async () => {
    const { store, group, batches } = await open({ maxRecordBytes: 100 })
    const records = [1, 2n, 'x'.repeat(200), () => {}, Promise.resolve(1), undefined, 7]
    const outcomes = await outcomesOf(records.map((record) => group.append(record)))
    const refused = ['NOT_SERIALIZABLE', 'RECORD_TOO_LARGE', 'NOT_SERIALIZABLE', 'NOT_SERIALIZABLE', 'NOT_SERIALIZABLE']
    expect(outcomes).toEqual([1, ...refused, 2])
    expect(batches).toEqual([2])
    expect(await store.replay()).toEqual([1, 7])
  })

  test('by a schema is refused alone', async () => {
    const schema: StandardSchemaV1<number> = {
      '~standard': {
        version: 1, vendor: 'test',
        validate: (value) => ((value as number) % 2 === 0 ? { issues: [{ message: 'even' }] } : { value: value as number }),
      },
    }
    const { store, group, batches } = await open<number>({ schema })
    expect(await outcomesOf(numbers(1, 5).map((n) => group.append(n)))).toEqual([1, 'SCHEMA', 2, 'SCHEMA', 3])
    expect(batches).toEqual([3])
    expect(await store.replay()).toEqual([1, 3, 5])
  })

  test('by an asynchronous schema is refused alone, and its neighbours share a batch', async () => {
    const schema = new SlowSchema()
    const { store, group, batches } = await open<string>({ schema })
    const appends = ['a', 'b', 'c'].map((record) => group.append(record))
    for (const record of ['c', 'a']) schema.decide(record, true)
    schema.decide('b', false)
    expect(await outcomesOf(appends)).toEqual([1, 'SCHEMA', 2])
    expect([batches, store.lastSequence]).toEqual([[2], 2])
    // The schema would have to decide again for a replay.
    expect(await linesOf(store)).toEqual(['"a"', '"c"'])
  })

  test('by an asynchronous schema as the only one leaves the group usable', async () => {
    const schema = new SlowSchema()
    const { group, batches, store } = await open<string>({ schema })
    const refused = group.append('a')
    schema.decide('a', false)
    await expect(refused).rejects.toEqual(code('SCHEMA'))
    await turn()
    const appended = group.append('b')
    schema.decide('b', true)
    expect([await appended, batches, store.lastSequence]).toEqual([1, [1], 1])
  })

  test('that is not a prepared record is a fault of the journal', async () => {
    const journal = new MemoryLogJournal<number>(new MemoryLog())
    journal.prepare = () => ({ text: '1' }) as PreparedRecord
    await using group = groupCommit(journal)
    await expect(group.append(1)).rejects.toThrow('Expected prepare of the journal to return a PreparedRecord')
    expect(journal.lastSequence).toBe(0)
  })
})

describe('a record that an asynchronous schema checks', () => {
  test('keeps its place: those behind it wait, those before it do not', async () => {
    const schema = new SlowSchema()
    const { store, group } = await open<string>({ schema })
    const settled: string[] = []
    const append = async (record: string): Promise<void> => {
      await group.append(record)
      settled.push(record)
    }
    const appends = ['a', 'slow', 'b', 'c'].map(append)
    for (const record of ['c', 'b', 'a']) schema.decide(record, true)
    await appends[0]
    await sleep(5)
    expect(settled).toEqual(['a'])
    schema.decide('slow', true)
    await Promise.all(appends)
    expect(settled).toEqual(['a', 'slow', 'b', 'c'])
    expect(await linesOf(store)).toEqual(['"a"', '"slow"', '"b"', '"c"'])
  })

  test('is checked from the call on, however many are waiting', async () => {
    const schema = new SlowSchema()
    const { group } = await open<string>({ schema })
    const appends = ['a', 'b', 'c'].map((record) => group.append(record))
    expect([...schema.decisions.keys()]).toEqual(['a', 'b', 'c'])
    for (const record of ['a', 'b', 'c']) schema.decide(record, true)
    expect(await Promise.all(appends)).toEqual([1, 2, 3])
  })
})

describe('when a batch fails', () => {
  test('because there is no space, all of it rejects with IO; the next batch and the journal go on', async () => {
    const { files, store, group, hold } = await open<string>()
    const gate = hold()
    const failing = ['a', 'b', 'c'].map((record) => group.append(record))
    await turn()
    const later = ['d', 'e'].map((record) => group.append(record))
    files.failOn({ operation: 'write' }, 'ENOSPC', { bytesFirst: 5 })
    gate.resolve()
    expect(await outcomesOf([...failing, ...later])).toEqual(['IO', 'IO', 'IO', 1, 2])
    expect(await store.append('f')).toBe(3)
    expect(await store.replay()).toEqual(['d', 'e', 'f'])
  })

  test('in its fsync, all of it rejects with OUTCOME_UNKNOWN and everything later with POISONED', async () => {
    const { files, store, group, hold } = await open<string>()
    await group.append('before')
    const gate = hold()
    const failing = ['a', 'b'].map((record) => group.append(record))
    await turn()
    const later = ['c', 'd'].map((record) => group.append(record))
    files.failOn({ operation: 'dataSync' }, 'EIO')
    gate.resolve()
    expect(await outcomesOf([...failing, ...later])).toEqual(['OUTCOME_UNKNOWN', 'OUTCOME_UNKNOWN', 'POISONED', 'POISONED'])
    await expect(group.append('e')).rejects.toEqual(code('POISONED'))
    await group.close()
    await store.close()
    await using again = await MiniStore.open(PATH, { fileSystem: files })
    expect((await again.replay()).slice(0, 1)).toEqual(['before'])
  })

  test('because the journal was closed, what waits rejects with CLOSED', async () => {
    const { store, group, hold } = await open<string>()
    const gate = hold()
    const waiting = group.append('a')
    await turn()
    await store.close()
    gate.resolve()
    expect(await outcomesOf([waiting, group.append('b')])).toEqual(['CLOSED', 'CLOSED'])
    await group.close()
  })

  test.each([
    ['throws', () => { throw new Error('thrown') }],
    // oxlint-disable-next-line typescript/prefer-promise-reject-errors -- another journal may reject with anything
    ['rejects with undefined', () => Promise.reject(undefined)],
    ['returns nothing', () => Promise.resolve(undefined)],
  ])('because a journal of another kind %s, the group goes on', async (_, fail) => {
    const journal = new MemoryLogJournal<number>(new MemoryLog())
    const appendAll = vi.spyOn(journal, 'appendAll').mockImplementationOnce(fail as never)
    await using group = groupCommit(journal)
    const outcomes = await Promise.allSettled([group.append(1), group.append(2)])
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(await group.append(3)).toBe(1)
    expect(appendAll).toHaveBeenCalledTimes(2)
  })
})

describe('close', () => {
  test('waits for every accepted record, refuses later ones and leaves the journal open', async () => {
    const { store, group, hold } = await open<number>({ maxRecords: 2 })
    const gate = hold()
    const settled: number[] = []
    const appends = numbers(1, 5).map(async (n) => void settled.push(await group.append(n)))
    let isClosed = false
    const closed = group.close().then(() => (isClosed = true))
    await expect(group.append(6)).rejects.toEqual(code('CLOSED'))
    expect(() => group.writable()).toThrow('The group is closed')
    await turn()
    expect([isClosed, settled]).toEqual([false, []])
    gate.resolve()
    await closed
    expect(settled).toEqual(numbers(1, 5))
    await Promise.all(appends)
    expect(await store.append(6)).toBe(6)
  })

  test('waits for a record whose schema is still deciding', async () => {
    const schema = new SlowSchema()
    const { store, group } = await open<string>({ schema })
    const appended = group.append('a')
    const closed = group.close()
    await turn()
    schema.decide('a', true)
    await closed
    expect([await appended, store.lastSequence]).toEqual([1, 1])
  })

  test('may be called again, at any time, and resolves after a batch that fails', async () => {
    const { files, group } = await open<number>()
    files.failOn({ operation: 'write' }, 'EIO')
    const refused = outcomesOf([group.append(1)])
    await Promise.all([group.close(), group.close()])
    expect(await refused).toEqual(['IO'])
    await group.close()
  })

  test('is called by `await using`', async () => {
    const { store } = await open<number>()
    const appends: Array<Promise<number>> = []
    {
      await using group = groupCommit(store)
      appends.push(group.append(1), group.append(2))
    }
    expect(store.lastSequence).toBe(2)
    expect(await Promise.all(appends)).toEqual([1, 2])
  })

  test('in a toJSON refuses that record', async () => {
    const { store, group } = await open()
    const record = { toJSON: () => [group.close()].length }
    await expect(group.append(record)).rejects.toEqual(code('CLOSED'))
    expect(store.lastSequence).toBe(0)
  })
})

describe('writable', () => {
  test('shares fsyncs within one stream, and closes when everything is durable', async () => {
    const { files, store, group, batches } = await open<number>()
    await ReadableStream.from(numbers(1, 500)).pipeTo(group.writable())
    expect(batches.length).toBeLessThan(20)
    expect(await store.replay()).toEqual(numbers(1, 500))
    const crashed = await MiniStore.open(PATH, { fileSystem: files.afterCrash({ keep: 'none' }) })
    expect(crashed.lastSequence).toBe(500)
    expect(await group.append(501)).toBe(501)
  })

  test.each<[string, GroupCommitOptions]>([['records', { maxRecords: 10 }], ['bytes', { maxBytes: 50 }]])(
    'accepts two batches ahead, by %s',
    async (_, limits) => {
      const { store, group, batches, hold } = await open<number>(limits)
      const gate = hold()
      let pulled = 0
      const source = new ReadableStream<number>({
        pull: (controller) => {
          pulled += 1
          controller.enqueue(1000 + pulled)
          if (pulled === 100) controller.close()
        },
      }, { highWaterMark: 0 })
      const piped = source.pipeTo(group.writable())
      for (let turns = 0; turns < 20; turns++) await turn()
      expect([pulled, batches]).toEqual([20, [10]])
      gate.resolve()
      await piped
      expect(Math.max(...batches)).toBe(10)
      expect(store.lastSequence).toBe(100)
    },
  )

  test('fails with a record that is refused once those before it are written, and writes none behind it', async () => {
    const { store, group } = await open()
    const piped = ReadableStream.from([1, 2, 3n, 4, 5]).pipeTo(group.writable())
    await expect(piped).rejects.toEqual(code('NOT_SERIALIZABLE'))
    expect(store.lastSequence).toBe(2)
    await group.close()
    expect(await store.replay()).toEqual([1, 2])
  })

  test('fails with a record that an asynchronous schema refuses, and writes none behind it', async () => {
    const schema = new SlowSchema()
    const { store, group } = await open<string>({ schema })
    const writer = group.writable().getWriter()
    const writes = ['a', 'b', 'c'].map((record) => writer.write(record))
    await turn()
    schema.decide('c', true)
    schema.decide('b', false)
    await turn()
    schema.decide('a', true)
    const others = group.append('other')
    schema.decide('other', true)
    await expect(writer.closed).rejects.toEqual(code('SCHEMA'))
    await Promise.allSettled(writes)
    expect(await others).toBe(2)
    expect(await linesOf(store)).toEqual(['"a"', '"other"'])
  })

  test('fails with a batch that fails and writes none behind it, also if the disk has room again', async () => {
    const { files, store, group } = await open<number>({ maxRecords: 5 })
    const fault = files.failOn({ operation: 'write', nth: 2 }, 'ENOSPC')
    const piped = ReadableStream.from(numbers(1, 50)).pipeTo(group.writable())
    await expect(piped).rejects.toEqual(code('IO'))
    expect(fault.hits).toBe(1)
    await group.close()
    const written = await store.replay()
    expect(written).toEqual(numbers(1, written.length))
    expect(written.length).toBeLessThan(50)
    expect(await store.append(0)).toBe(written.length + 1)
  })

  test('fails to close if its last batch fails', async () => {
    const { files, store, group } = await open<number>()
    files.failOn({ operation: 'write' }, 'ENOSPC')
    const writer = group.writable().getWriter()
    const outcomes = outcomesOf([writer.write(1), writer.write(2), writer.close()])
    expect((await outcomes).at(-1)).toBe('IO')
    await expect(writer.closed).rejects.toEqual(code('IO'))
    expect(store.lastSequence).toBe(0)
  })

  test('that is aborted has written what it accepted, and drops the rest', async () => {
    const { store, group, hold } = await open<number>({ maxRecords: 1 })
    const gate = hold()
    const stream = group.writable()
    const writer = stream.getWriter()
    const writes = [1, 2, 3, 4].map((n) => writer.write(n))
    const outcomes = outcomesOf(writes)
    await turn()
    const aborted = writer.abort(new Error('enough'))
    gate.resolve()
    await aborted
    expect(await outcomes).toEqual([undefined, undefined, 'Error: enough', 'Error: enough'])
    expect(await store.replay()).toEqual([1, 2])
    expect(await group.append(5)).toBe(3)
  })

  test('fails with CLOSED once the group is closed', async () => {
    const { store, group } = await open<number>()
    const writer = group.writable().getWriter()
    await writer.write(1)
    await group.close()
    await expect(writer.write(2)).rejects.toEqual(code('CLOSED'))
    expect(await store.replay()).toEqual([1])
  })

  test('refuses bytes, unless the journal has a codec for them', async () => {
    const { store, group } = await open()
    await expect(ReadableStream.from([1, Buffer.from('bytes')]).pipeTo(group.writable())).rejects.toThrow('got bytes')
    expect(await store.replay()).toEqual([1])
    const codec = { encode: (bytes: Uint8Array) => Buffer.from(bytes).toString('hex'), decode: (line: string) => new Uint8Array(Buffer.from(line, 'hex')) }
    const coded = await open<Uint8Array>({ codec })
    await ReadableStream.from([new Uint8Array([1, 2])]).pipeTo(coded.group.writable())
    expect(await linesOf(coded.store)).toEqual(['0102'])
  })

  test('of several streams at once keeps the order within each', async () => {
    const { store, group, batches } = await open<string>({ maxRecords: 7 })
    const sources = ['a', 'b', 'c'].map((name) => numbers(1, 40).map((n) => `${name}${n}`))
    await Promise.all(sources.map((records) => ReadableStream.from(records).pipeTo(group.writable())))
    const written = await store.replay()
    for (const records of sources) expect(written.filter((record) => record.startsWith(records[0]?.[0] as string))).toEqual(records)
    expect(batches.length).toBeLessThan(60)
  })
})

describe('misuse is refused:', () => {
  test('expectedSequence is a TypeError', async () => {
    const { store, group } = await open<number>()
    await expect(group.append(1, { expectedSequence: 0 } as never)).rejects.toThrow('Expected no `expectedSequence` on a group')
    await expect(group.append(1, { expectedSequence: 0 } as never)).rejects.toThrow(TypeError)
    await expect(group.append(1, { expected: 0 } as never)).rejects.toThrow('did you mean `expectedSequence`?')
    expect(await group.append(1, { expectedSequence: undefined })).toBe(1)
    expect(store.lastSequence).toBe(1)
  })

  test.each<[string, unknown, string]>([
    ['a journal without prepare and appendAll', new MemoryJournal(), 'got one without prepare and appendAll'],
    ['a journal without prepare', Object.assign(new MemoryJournal(), { appendAll: () => {} }), 'got one without prepare'],
    ['a journal without appendAll', Object.assign(new MemoryJournal(), { prepare: () => {} }), 'got one without appendAll'],
    ['a path', PATH, 'got `"/data/journal.jsonl"` (string)'],
    ['nothing', undefined, 'got `undefined`'],
    ['a revoked Proxy', revoked(), 'without prepare and appendAll'],
  ])('%s', (_, journal, message) => {
    const call = (): unknown => groupCommit(journal as Journal<unknown>)
    expect(call).toThrow(TypeError)
    expect(call).toThrow('Expected `journal` to be a journal with prepare and appendAll, as MiniStore.open returns')
    expect(call).toThrow(message)
  })

  test('a journal that is only read', async () => {
    const { files } = await open()
    const reader = await MiniStore.read(PATH, { fileSystem: files })
    expect(() => groupCommit(reader)).toThrow('got one without prepare and appendAll')
  })

  test.each<[unknown, string]>([
    [{ maxRecords: 0 }, 'Expected `maxRecords` to be a whole number, 1 or greater, got 0'],
    [{ maxRecords: 1.5 }, 'got 1.5'],
    [{ maxBytes: -1 }, 'Expected `maxBytes` to be a whole number, 1 or greater, got -1'],
    [{ maxBytes: '1' }, 'Expected `maxBytes` to be a whole number, got `"1"`'],
    [{ maxRecord: 1 }, 'did you mean `maxRecords`?'],
    [null, 'Expected options to be an object, got `null`'],
    [[], 'Expected options to be an object'],
  ])('options %j', (options, message) => {
    const journal = new MemoryLogJournal<number>(new MemoryLog())
    expect(() => groupCommit(journal, options as GroupCommitOptions)).toThrow(message)
  })

  test('a record of another type, by the compiler', async () => {
    const { store } = await open<{ n: number }>()
    const group = groupCommit(store)
    expectTypeOf(group).toEqualTypeOf<GroupCommit<{ n: number }>>()
    expectTypeOf<Parameters<typeof group.append>[0]>().toEqualTypeOf<{ n: number }>()
    expectTypeOf(group.writable()).toEqualTypeOf<WritableStream<{ n: number }>>()
  })
})

async function linesOf(store: MiniStore<never> | MiniStore<string> | MiniStore<Uint8Array>): Promise<string[]> {
  const lines: string[] = []
  for await (const { record } of store.preparedEntries()) lines.push(record.text)
  return lines
}

function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}
