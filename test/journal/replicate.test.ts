import { readdir, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { z } from 'zod'

import {
  type Journal, type JournalEntry, MiniStore, type OpenOptions, PreparedRecord, replicate, type ReplicateOptions,
  type ReplicationReport,
} from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect, turn } from '../support/consume.ts'
import { editFile, numbers } from '../support/journals.ts'
import { Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { MemoryJournal } from './memory-journal.ts'

const once = { follow: false } as const
const code = (name: string): unknown => expect.objectContaining({ code: `ERR_MINISTORE_${name}` }) as unknown

/** A journal in a directory of its own, closed when the test has finished. */
async function open<T = unknown>(options: OpenOptions<T> = {}, records: readonly T[] = []): Promise<MiniStore<T>> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  const store: MiniStore = await MiniStore.open(path, options as OpenOptions)
  onTestFinished(() => store.close())
  if (records.length > 0) await store.appendAll(records)
  return store as MiniStore<T>
}

/** The lines of a journal with their sequence numbers. */
async function linesOf(journal: Journal<unknown, never>): Promise<Array<[number, string]>> {
  const entries = await collect((journal as MiniStore).preparedEntries())
  return entries.map(({ sequence, record }) => [sequence, record.text])
}

/** A call that follows until `stop` is called. */
interface Following {
  readonly done: Promise<ReplicationReport>
  /** Stops the call and resolves as it does. */
  readonly stop: () => Promise<ReplicationReport>
  /** Resolves once the target has this record, or rejects if the call ends before. */
  readonly reached: (sequence: number) => Promise<void>
}

function following(from: Journal<unknown, never>, to: Journal<unknown, never>, options: ReplicateOptions = {}): Following {
  const ended = new AbortController()
  const done = replicate(from, to, { ...options, signal: ended.signal })
  const state = { isOver: false }
  done.catch(() => {}).finally(() => (state.isOver = true))
  const reached = async (sequence: number): Promise<void> => {
    while (to.lastSequence < sequence && !state.isOver) await turn()
    if (to.lastSequence < sequence) throw new Error(`ended before ${sequence}`, { cause: await done.catch(String) })
  }
  const stop = (): Promise<ReplicationReport> => {
    ended.abort(new Error('enough'))
    return done
  }
  onTestFinished(() => ended.abort())
  return { done, stop, reached }
}

describe('a copy', () => {
  test('has the same lines at the same sequence numbers, whatever the segments of the two', async () => {
    const from = await open({ maxBytesPerSegment: 100 })
    const to = await open({ maxBytesPerSegment: 70 })
    for (const text of ['1.50', '{"b":1, "a":1e2}', '"ä€😀"', ...numbers(4, 40).map(String)]) {
      await from.appendAll([new PreparedRecord(text)])
    }
    expect(await replicate(from, to, { follow: false, batch: 3 })).toEqual({ first: 1, last: 40, copied: 40 })
    expect(await linesOf(to)).toEqual(await linesOf(from))
    expect(from.segments.length).toBeGreaterThan(2)
    expect(to.segments.length).toBeGreaterThan(2)
    expect(to.segments.length).not.toBe(from.segments.length)
  })

  test('is continued where the target ends', async () => {
    const from = await open({}, numbers(1, 3))
    const to = await open()
    await replicate(from, to, once)
    expect(await replicate(from, to, once)).toEqual({ first: 4, last: 3, copied: 0 })
    await from.appendAll(numbers(4, 5))
    expect(await replicate(from, to, once)).toEqual({ first: 4, last: 5, copied: 2 })
    expect(await to.replay()).toEqual(numbers(1, 5))
  })

  test('of a journal of another process is continued after the target was opened again', async () => {
    const from = await open({}, numbers(1, 5))
    const reader = await MiniStore.read(from.path, { fileSystem: new ObservedFileSystem() })
    const path = join(await temporaryDirectory(), 'new/journal.jsonl')
    for (const last of [5, 9]) {
      await from.appendAll(numbers(from.lastSequence + 1, last))
      await using to = await MiniStore.open(path)
      expect((await replicate(reader, to, once)).last).toBe(last)
    }
    const copy = await MiniStore.read(path)
    expect([copy.id, await copy.replay()]).toEqual([from.id, numbers(1, 9)])
  })

  test('of an empty journal takes on its identity only', async () => {
    const [from, to] = [await open(), await open()]
    expect(from.id).not.toBe(to.id)
    expect(await replicate(from, to, once)).toEqual({ first: 1, last: 0, copied: 0 })
    expect(to.id).toBe(from.id)
  })

  test('of a truncated journal begins with its first record', async () => {
    const from = await open({}, numbers(1, 7))
    await from.rotate()
    await from.truncateBefore(8)
    const empty = await open()
    expect(await replicate(from, empty, once)).toEqual({ first: 8, last: 7, copied: 0 })
    await from.appendAll(numbers(8, 9))
    expect(await replicate(from, empty, once)).toEqual({ first: 8, last: 9, copied: 2 })
    const later = await open()
    expect(await replicate(from, later, once)).toEqual({ first: 8, last: 9, copied: 2 })
    for (const to of [empty, later]) {
      expect([to.id, to.firstSequence, await linesOf(to)]).toEqual([from.id, 8, [[8, '8'], [9, '9']]])
    }
  })

  test('keeps its identity and its numbers when it is opened again', async () => {
    const from = await open({}, numbers(1, 3))
    const to = await open()
    await replicate(from, to, once)
    await to.close()
    await using again = await MiniStore.open(to.path)
    expect([again.id, again.lastSequence, await again.append(4)]).toEqual([from.id, 3, 4])
  })

  test('encodes nothing again and runs no schema', async () => {
    const runs: string[] = []
    const spied = (side: string) => z.string().refine(() => runs.push(`schema of the ${side}`) > 0)
    const codec = (side: string) => ({
      encode: (record: string) => {
        runs.push(`encode of the ${side}`)
        return `<${record}>`
      },
      decode: (line: string) => line.slice(1, -1),
    })
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await using from = await MiniStore.open(path, { codec: codec('source'), schema: spied('source') })
    await from.appendAll(['a', 'b'])
    await using to = await MiniStore.open(`${path}-copy`, { codec: codec('target'), schema: spied('target') })
    runs.length = 0
    await replicate(from, to, once)
    await replicate(from, to, once)
    expect(runs).toEqual([])
    expect(await linesOf(to)).toEqual([[1, '<a>'], [2, '<b>']])
    expect(await to.replay()).toEqual(['a', 'b'])
  })

  test.each([['source', true, false], ['target', false, true], ['source and target', true, true]])(
    'appends records where the %s cannot copy lines',
    async (_which, isPlainSource, isPlainTarget) => {
      const from = isPlainSource ? new MemoryJournal<unknown>(numbers(1, 5)) : withoutId(await open({}, numbers(1, 5)))
      const to = isPlainTarget ? new MemoryJournal<unknown>() : withoutId(await open())
      expect(await replicate(from, to, { follow: false, batch: 2 })).toEqual({ first: 1, last: 5, copied: 5 })
      expect((await collect(to.entries())).map(({ sequence, record }) => [sequence, record])).toEqual(
        numbers(1, 5).map((n) => [n, n]),
      )
    },
  )
})

/** The same log, of a kind that has no identity. */
function withoutId(store: Journal<unknown, never>): Journal<unknown> {
  return new Proxy(store, {
    get: (target, name) => {
      if (name === 'id' || name === 'adopt') return undefined
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

describe('following', () => {
  test('copies each record once it is there, and ends with a report', { timeout: 5000 }, async () => {
    const files = new ObservedFileSystem()
    const from = await open<number>({ maxBytesPerSegment: 200, fileSystem: files })
    const to = await open<number>({ maxBytesPerSegment: 300, fileSystem: files })
    await from.appendAll(numbers(1, 5))
    const { stop, reached } = following(from, to)
    for (const n of numbers(6, 60)) {
      await from.append(n)
      if (n % 10 === 0) await reached(n)
    }
    const idle = files.openFiles
    expect(await stop()).toEqual({ first: 1, last: 60, copied: 60 })
    expect(files.openFiles, 'the file of the follower is closed').toBe(idle - 1)
    await from.append(61)
    expect(await linesOf(to)).toEqual((await linesOf(from)).slice(0, -1))
  })

  test('ends when the source is closed', async () => {
    const from = await open({}, numbers(1, 3))
    const to = await open()
    const { done, reached } = following(from, to)
    await reached(3)
    await from.append(4)
    await from.close()
    expect(await done).toEqual({ first: 1, last: 4, copied: 4 })
  })

  test('finishes the batch under way when it is stopped, and begins no other', async () => {
    const gate = new Gate()
    const files = new ObservedFileSystem()
    const from = await open({}, numbers(1, 9))
    const to = await open({ fileSystem: files })
    files.hook = ({ operation }) => (operation === 'dataSync' ? gate.wait() : undefined)
    const { stop } = following(from, to, { batch: 4 })
    await gate.reached
    const stopped = stop()
    gate.open()
    expect(await stopped).toEqual({ first: 1, last: 4, copied: 4 })
    expect(await linesOf(to)).toHaveLength(4)
  })

  test('of a signal that was aborted before changes nothing', async () => {
    const [from, to] = [await open({}, [1]), await open()]
    const { id } = to
    const signal = AbortSignal.abort(new Error('enough'))
    expect(await replicate(from, to, { signal })).toEqual({ first: 1, last: 0, copied: 0 })
    await expect(replicate(from, to, { signal, follow: false })).rejects.toBe(signal.reason)
    expect([to.id, to.lastSequence]).toEqual([id, 0])
  })

  test('a copy that is stopped rejects with the reason, because it is incomplete', async () => {
    const [from, to] = [new MemoryJournal(numbers(1, 100)), new MemoryJournal<number>()]
    const ended = new AbortController()
    const enough = new Error('enough')
    to.onAppend = (n) => {
      if (n === 5) ended.abort(enough)
    }
    await expect(replicate(from, to, { follow: false, batch: 10, signal: ended.signal })).rejects.toBe(enough)
    expect(to.lastSequence).toBe(10)
  })

  test('a journal that is begun anew at the same path is refused', { timeout: 5000 }, async () => {
    const from = await open({}, numbers(1, 3))
    await from.close()
    const reader = await MiniStore.read(from.path, { pollIntervalMs: 10 })
    const to = await open()
    const { done, reached } = following(reader, to)
    await reached(3)
    const anew = await open({}, numbers(101, 109))
    await anew.close()
    await rm(`${from.path}.seal`)
    await rename(anew.path, from.path)
    await expect(done).rejects.toEqual(code('FOREIGN_JOURNAL'))
    expect(await to.replay()).toEqual(numbers(1, 3))
    await expect(replicate(reader, to, once)).rejects.toEqual(code('FOREIGN_JOURNAL'))
  })
})

describe('a batch', () => {
  /** Counts the records of each write of the target. */
  function batchesOf(to: MiniStore<number>): number[] {
    const sizes: number[] = []
    const spy = vi.spyOn(to, 'appendAll').mockImplementation(async (records, options) => {
      const all = [...records]
      sizes.push(all.length)
      return MiniStore.prototype.appendAll.call(to, all as never, options)
    })
    onTestFinished(() => spy.mockRestore())
    return sizes
  }

  test('has one fsync and at most `batch` records, by default 1,000', async () => {
    const from = await open({}, numbers(1, 2500))
    const files = new ObservedFileSystem()
    const to = await open<number>({ fileSystem: files })
    const sizes = batchesOf(to)
    let syncs = 0
    files.hook = ({ operation }) => void (syncs += Number(operation === 'dataSync'))
    await replicate(from, to, once)
    expect(sizes.reduce((sum, size) => sum + size)).toBe(2500)
    expect(syncs).toBe(sizes.length)
    expect(Math.max(...sizes)).toBe(1000)
    const small = await open<number>()
    const smallSizes = batchesOf(small)
    await replicate(from, small, { follow: false, batch: 100 })
    expect(smallSizes.filter((size) => size === 100).length).toBeGreaterThan(20)
    expect(Math.max(...smallSizes)).toBe(100)
  })

  test('holds a single record at once, and what came during its fsync next', async () => {
    const files = new ObservedFileSystem()
    const from = await open<number>()
    const to = await open<number>({ fileSystem: files })
    const sizes = batchesOf(to)
    const { stop, reached } = following(from, to)
    const gate = new Gate()
    files.hook = ({ operation }) => (operation === 'dataSync' ? gate.wait() : undefined)
    await from.append(1)
    await gate.reached
    for (const n of numbers(2, 20)) await from.append(n)
    // The follower of the source is woken by the writer; what it reads is ready after some turns.
    for (let turns = 0; turns < 50; turns++) await turn()
    gate.open()
    await reached(20)
    expect(sizes).toEqual([1, 19])
    await stop()
  })

  test('ends at 4 MiB of text, so little is read ahead of a slow target', async () => {
    const text = `"${'x'.repeat(16 * 1024 * 1024 - 2)}"`
    let read = 0
    const source = new MemoryJournal<PreparedRecord>(numbers(1, 20).map(() => new PreparedRecord(text)))
    const from: Journal<PreparedRecord> = Object.assign(source, {
      preparedEntries: (range: object) =>
        source.entries(range).pipeThrough(
          new TransformStream<JournalEntry<PreparedRecord>, JournalEntry<PreparedRecord>>(
            {
              transform: (entry, controller) => {
                read++
                controller.enqueue(entry)
              },
            },
            { highWaterMark: 1 },
            { highWaterMark: 0 },
          ),
        ),
    })
    let written = 0
    let mostAhead = 0
    const target = new MemoryJournal<unknown>()
    const to = Object.assign(target, {
      appendAll: async (records: Iterable<unknown>) => {
        // As slow as it takes for everything that may be read ahead to be read.
        for (let turns = 0; turns < 20; turns++) await turn()
        mostAhead = Math.max(mostAhead, read - written)
        for (const record of records) await target.append((record as PreparedRecord).text.length)
        written = target.lastSequence
        return { first: 0, last: written }
      },
    })
    await replicate(from, to, once)
    expect(written).toBe(20)
    // The batch that is written, the next one, and one in the pipe.
    expect(mostAhead).toBeLessThanOrEqual(3)
  })
})

describe('truncate', { timeout: 30_000 }, () => {
  test('deletes whole segments that are through, and keeps the rest', async () => {
    const from = await open<number>({ maxBytesPerSegment: 100 })
    const to = await open<number>()
    await from.appendAll(numbers(1, 3))
    const { stop, reached } = following(from, to, { truncate: true })
    for (const n of numbers(4, 200)) await from.append(n)
    await reached(200)
    await stop()
    expect(from.firstSequence).toBeGreaterThan(150)
    expect(await linesOf(to)).toEqual(numbers(1, 200).map((n) => [n, String(n)]))
    expect(await linesOf(from)).toEqual((await linesOf(to)).slice(from.firstSequence - 1))
  })

  test('deletes nothing that the target has not acknowledged', async () => {
    const from = await open<number>({ maxBytesPerSegment: 60 })
    for (const n of numbers(1, 20)) await from.append(n)
    const files = new SimulatedFileSystem()
    await using to = await MiniStore.open<number>('/journal.jsonl', { fileSystem: files })
    const { firstSequence } = from
    files.failOn({ operation: 'write', path: '/journal.jsonl' }, 'ENOSPC')
    await expect(replicate(from, to, { truncate: true })).rejects.toEqual(code('IO'))
    expect(from.firstSequence).toBe(firstSequence)
    expect(await replicate(from, to, { truncate: true, follow: false })).toMatchObject({ last: 20 })
    expect(from.firstSequence).toBeGreaterThan(15)
  })

  test('deletes what an earlier call has copied', async () => {
    const from = await open<number>({ maxBytesPerSegment: 60 })
    for (const n of numbers(1, 20)) await from.append(n)
    const to = await open<number>()
    await replicate(from, to, once)
    expect(await replicate(from, to, { truncate: true, follow: false })).toMatchObject({ copied: 0 })
    expect(from.firstSequence).toBeGreaterThan(15)
  })

  test('rotates the source after another 8 MiB', async () => {
    const text = 'x'.repeat(1024 * 1024)
    const from = await open<string>()
    const to = await open<string>()
    const { stop, reached } = following(from, to, { truncate: true })
    for (let n = 1; n <= 20; n++) {
      await from.append(text)
      await reached(n)
    }
    await stop()
    expect(from.firstSequence).toBe(17)
    expect([to.firstSequence, to.lastSequence]).toEqual([1, 20])
  })

  test('needs a source that is open for writing, and says so before it changes anything', async () => {
    const from = await open({}, [1])
    const to = await open()
    const { id } = to
    const reader = await MiniStore.read(from.path)
    await expect(replicate(reader, to, { truncate: true })).rejects.toThrow(/open for writing, got a reader/)
    expect([to.id, to.lastSequence]).toEqual([id, 0])
  })
})

/** At once, although each call would follow, and nothing is written. */
describe('refused is', () => {
  async function refusal(from: Journal<unknown, never>, to: Journal<unknown, never>, options?: ReplicateOptions): Promise<unknown> {
    const before = [to.id, await linesOf(to)]
    const outcome: unknown = await replicate(from, to, options).catch((error: unknown) => error)
    expect([to.id, await linesOf(to)]).toEqual(before)
    return outcome
  }

  test('a target with records of another journal', async () => {
    const [from, to] = [await open({}, [1, 2]), await open({}, [1])]
    const error = await refusal(from, to)
    expect(error).toEqual(code('FOREIGN_JOURNAL'))
    expect((error as Error).message).toContain(`the source has the id ${from.id}, the target ${to.id}`)
  })

  test('a target whose records were deleted, because it once had some', async () => {
    const [from, to] = [await open({}, [1, 2]), await open({}, [1])]
    await to.rotate()
    await to.truncateBefore(2)
    expect(await refusal(from, to)).toEqual(code('FOREIGN_JOURNAL'))
  })

  test('a source without an identity for a target that has one, and the reverse', async () => {
    const [from, to] = [await open({}, [1]), await open()]
    expect(await refusal(withoutId(from), to)).toEqual(code('FOREIGN_JOURNAL'))
    await expect(replicate(from, withoutId(to))).rejects.toEqual(code('FOREIGN_JOURNAL'))
  })

  test('a target that is ahead of the source', async () => {
    const [from, to] = [await open({}, [1, 2]), await open()]
    await replicate(from, to, once)
    await to.append(3)
    const error = await refusal(from, to)
    expect(error).toEqual(code('SEQUENCE_CONFLICT'))
    expect(error).toMatchObject({ sequence: 2, expectedSequence: 3 })
  })

  test('a source that no longer has the next record', async () => {
    const [from, to] = [await open({}, [1, 2]), await open()]
    await replicate(from, to, once)
    await from.appendAll([3, 4])
    await from.rotate()
    for (const more of [[5], []]) {
      await from.appendAll(more)
      await from.truncateBefore(from.lastSequence + 1 - more.length)
      const error = await refusal(from, to)
      expect(error).toEqual(code('SEQUENCE_GONE'))
      expect(error).toMatchObject({ sequence: 3 })
    }
  })

  test('a source that was restored and went on differently', async () => {
    const [from, to] = [await open({}, [1, 2] as unknown[]), await open()]
    await replicate(from, to, once)
    await to.append('mine')
    await from.append('its')
    const error = await refusal(from, to)
    expect(error).toEqual(code('FOREIGN_JOURNAL'))
    expect((error as Error).message).toContain('Record 3, the last of the target, is another in the source')
  })

  test('a second writer of the target, as soon as there is something to copy', async () => {
    const [from, to] = [await open<number>({}, [1, 2]), await open<number>()]
    const { done, reached } = following(from, to)
    await reached(2)
    await to.append(3)
    await from.append(4)
    await expect(done).rejects.toEqual(code('SEQUENCE_CONFLICT'))
    expect(await to.replay()).toEqual([1, 2, 3])
  })

  test('a source that leaves a number out', async () => {
    const from = new MemoryJournal(['a', 'b'])
    const entries = from.entries.bind(from)
    from.entries = (range) =>
      entries(range).pipeThrough(
        new TransformStream({
          transform: (entry, controller) => controller.enqueue({ ...entry, sequence: entry.sequence * 2 - 1 }),
        }),
      )
    const to = new MemoryJournal()
    const error = await replicate(from, to, once).catch((thrown: unknown) => thrown)
    expect(error).toEqual(code('SEQUENCE_GONE'))
    expect([error, to.records]).toMatchObject([{ sequence: 2 }, []])
  })

  test.each([
    ['a path', 'a/journal.jsonl', {}, 'Expected `from` to be a journal, as MiniStore.open or MiniStore.read return, got `"a/journal.jsonl"`'],
    ['nothing', undefined, {}, 'Expected `from` to be a journal'],
    ['a misspelled option', undefined, { folow: true }, 'did you mean `follow`?'],
    ['a batch of nothing', undefined, { batch: 0 }, 'Expected `batch` to be a whole number, 1 or greater, got 0'],
    ['a flag that is none', undefined, { truncate: 1 }, 'Expected `truncate` to be true or false'],
    ['a signal that is none', undefined, { signal: {} }, 'Expected `signal` to be an AbortSignal'],
  ])('%s', async (_what, from, options, message) => {
    await expect(replicate(from as never, new MemoryJournal(), options as never)).rejects.toThrow(message)
  })

  test('a journal as a copy of itself', async () => {
    const journal = new MemoryJournal([1])
    await expect(replicate(journal, journal)).rejects.toThrow('Expected `to` to be another journal than `from`')
  })
})

describe('an error', () => {
  test('of the source comes after the records before it, and leaves nothing open', async () => {
    const from = await open({}, numbers(1, 5))
    await from.close()
    await editFile(from.path, (bytes) => Buffer.from(bytes.toString().replace('\n4\n', '\n?\n')))
    const files = new ObservedFileSystem()
    const reader = await MiniStore.read(from.path, { fileSystem: files })
    const to = await open()
    await expect(replicate(reader, to)).rejects.toEqual(code('CORRUPT'))
    expect(await to.replay()).toEqual([1, 2, 3])
    await files.untilOpen(0)
  })

  test('of the target ends it and leaves nothing open', async () => {
    const files = new ObservedFileSystem()
    const from = await open({}, numbers(1, 5))
    const reader = await MiniStore.read(from.path, { fileSystem: files })
    const disk = new SimulatedFileSystem()
    await using to = await MiniStore.open('/journal.jsonl', { fileSystem: disk })
    disk.failOn({ operation: 'dataSync' }, 'EIO')
    await expect(replicate(reader, to)).rejects.toEqual(code('OUTCOME_UNKNOWN'))
    expect(files.openFiles).toBe(0)
    await expect(replicate(reader, to)).rejects.toEqual(code('POISONED'))
    await to.close()
    await using again = await MiniStore.open('/journal.jsonl', { fileSystem: disk })
    expect((await replicate(reader, again, once)).last).toBe(5)
    expect(await again.replay()).toEqual(numbers(1, 5))
  })

  test('of a signal that is aborted during the write is not taken for the end', async () => {
    const [from, to] = [new MemoryJournal(numbers(1, 3)), new MemoryJournal<number>()]
    const ended = new AbortController()
    const full = new Error('full')
    to.onAppend = () => {
      ended.abort(new Error('enough'))
      throw full
    }
    await expect(replicate(from, to, { signal: ended.signal })).rejects.toBe(full)
  })

  test('of a target that could not read the lines comes before they are written', async () => {
    const from = await open<string>({}, ['a'])
    const codec = {
      encode: (record: string) => record,
      decode: (line: string) => {
        if (line.startsWith('"')) throw new Error('not mine')
        return line
      },
    }
    const to = await open<string>({ codec })
    await expect(replicate(from, to)).rejects.toEqual(code('CODEC'))
    expect(to.lastSequence).toBe(0)
  })

  test('of a record that the target refuses names it, and earlier batches stay', async () => {
    const from = await open<string>({}, ['a', 'b'])
    const to = await open<string>({ maxRecordBytes: 5 })
    await replicate(from, to, once)
    await from.append('too long')
    await expect(replicate(from, to)).rejects.toEqual(code('RECORD_TOO_LARGE'))
    expect(await to.replay()).toEqual(['a', 'b'])
  })
})

test('no file of the source changes, unless it is truncated', async () => {
  const from = await open({ maxBytesPerSegment: 60 })
  for (const n of numbers(1, 20)) await from.append(n)
  await from.close()
  const filesOf = async (): Promise<unknown> => {
    const names = (await readdir(dirname(from.path))).toSorted()
    return Promise.all(names.map(async (name) => [name, await readFile(join(dirname(from.path), name), 'utf8')]))
  }
  const before = await filesOf()
  await replicate(await MiniStore.read(from.path), await open(), once)
  expect(await filesOf()).toEqual(before)
})
