import { fork } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, onTestFinished, test, vi } from 'vitest'

import {
  type JournalEntry,
  JournalStream,
  MiniStore,
  MiniStoreError,
  type ReadOptions,
  type StreamOptions,
} from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect, outcomeOf, take, turn } from '../support/consume.ts'
import { crc32Of, editFile, idAt, numbers, writeJournal, writeOldJournal, writeSegment } from '../support/journals.ts'
import { descriptorsIn, Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

interface Numbered {
  readonly n: number
  readonly pad: string
}

/** Records of about 80 bytes: three thousand of them fill several blocks of 64 KiB. */
const numbered = (first: number, last: number): Numbered[] =>
  numbers(first, last).map((n) => ({ n, pad: 'x'.repeat(60) }))
const numbersOf = (records: readonly Numbered[]): number[] => records.map(({ n }) => n)

/** A journal of three segments, each several blocks long: 9000 records. */
async function longJournal(): Promise<{ directory: string; path: string; last: number }> {
  const directory = await temporaryDirectory()
  const path = join(directory, 'journal.jsonl')
  await writeJournal(path, [numbered(1, 3000), numbered(3001, 6000), numbered(6001, 9000)])
  return { directory, path, last: 9000 }
}

async function journalOf(...segments: ReadonlyArray<readonly unknown[]>): Promise<string> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  await writeJournal(path, segments)
  return path
}

/** The two kinds of stream over one long journal, observed through the file-system port. */
const kinds = ['static', 'instance'] as const

async function watched(kind: (typeof kinds)[number]): Promise<{
  stream: (options?: StreamOptions) => JournalStream<Numbered>
  append: () => Promise<unknown>
  fs: ObservedFileSystem
  expectOpen: (count: number) => void
  expectNothingOpen: () => void
  untilNothingOpen: () => Promise<void>
}> {
  const { directory, path } = await longJournal()
  const fs = new ObservedFileSystem()
  // A static stream with its own wrapper reads the disk, as another process would.
  const store = await MiniStore.open<Numbered>(path, kind === 'instance' ? { fileSystem: fs } : {})
  const opened = fs.openFiles
  const descriptors = descriptorsIn(directory)
  const expectOpen = (count: number): void => {
    expect(fs.openFiles - opened, 'files open through the port').toBe(count)
    // Deno duplicates a descriptor for as long as a call on its file runs, and the next block is read ahead.
    if (process.platform === 'linux' && (count === 0 || !('deno' in process.versions)))
      expect(descriptorsIn(directory) - descriptors, 'descriptors').toBe(count)
  }
  return {
    stream: (options) =>
      kind === 'instance'
        ? store.stream(options)
        : MiniStore.stream<Numbered>(path, { ...options, fileSystem: fs }),
    append: () => store.append({ n: store.lastSequence + 1, pad: '' }),
    fs,
    expectOpen,
    expectNothingOpen: () => {
      expectOpen(0)
      expect(fs.watching, 'directory watches').toBe(0)
    },
    untilNothingOpen: async () => {
      await fs.untilOpen(opened)
      expectOpen(0)
    },
  }
}

describe.each(kinds)('a JournalStream, %s', (kind) => {
  test('is a ReadableStream and an AsyncIterable', async () => {
    const { stream } = await watched(kind)
    expect(stream()).toBeInstanceOf(JournalStream)
    expect(stream()).toBeInstanceOf(ReadableStream)
    expect(stream()[Symbol.asyncIterator]).toBeTypeOf('function')
    expect(numbersOf(await collect(stream()))).toEqual(numbers(1, 9000))
  })

  test('does not use the file system until it is first pulled', async () => {
    const { stream, fs, expectOpen, expectNothingOpen } = await watched(kind)
    const { calls } = fs
    const streams = [
      stream(),
      stream({ from: 10 }),
      stream({ follow: true }),
      stream({ signal: AbortSignal.timeout(2 ** 30) }),
    ]
    const readers = streams.map((each) => each.getReader())
    await turn()
    expect(fs.calls).toBe(calls)
    expect((await readers[0]?.read())?.value).toMatchObject({ n: 1 })
    expectOpen(1)
    await Promise.all(readers.map((reader) => reader.cancel()))
    expectNothingOpen()
  })

  test('holds one segment file at a time', async () => {
    const { stream, fs, expectNothingOpen } = await watched(kind)
    const before = fs.openFiles
    const seen = new Set<number>()
    for await (const record of stream()) if (record.n % 100 === 0) seen.add(fs.openFiles - before)
    expect([...seen]).toEqual([1])
    expectNothingOpen()
  })

  test('is locked while it is iterated, and unlocked and closed afterwards', async () => {
    const { stream } = await watched(kind)
    const source = stream()
    expect(source.locked).toBe(false)
    for await (const { n } of source) {
      if (n !== 1) continue
      expect(source.locked).toBe(true)
      expect(() => source.getReader()).toThrow(TypeError)
      expect(() => source.values()).toThrow(TypeError)
      expect(() => source.tee()).toThrow(TypeError)
      await expect(source.cancel()).rejects.toThrow(TypeError)
      await expect(source.pipeTo(new WritableStream())).rejects.toThrow(TypeError)
    }
    expect(source.locked).toBe(false)
    await expect(source.getReader().closed).resolves.toBeUndefined()
  })

  test('is one-shot: records are not returned again', async () => {
    const { stream } = await watched(kind)
    const source = stream({ from: 8990 })
    expect(await collect(source)).toHaveLength(11)
    expect(await collect(source)).toEqual([])
    expect(await source.getReader().read()).toEqual({ done: true, value: undefined })
  })

  test.each<{
    name: string
    leave: (stream: JournalStream<Numbered>, midway: (record?: Numbered) => void) => Promise<void>
  }>([
    {
      name: 'break',
      leave: async (stream, midway) => {
        for await (const record of stream) {
          midway(record)
          if (record.n === 3100) break
        }
      },
    },
    {
      name: 'a throw in the loop',
      leave: async (stream, midway) => {
        const loop = async (): Promise<void> => {
          for await (const record of stream) {
            midway(record)
            if (record.n === 3100) throw new Error('enough')
          }
        }
        await expect(loop()).rejects.toThrow('enough')
      },
    },
    {
      name: 'return() of the iterator',
      leave: async (stream, midway) => {
        const iterator = stream.values()
        for (const n of numbers(1, 3100)) expect((await iterator.next()).value).toMatchObject({ n })
        midway()
        expect(await iterator.return()).toEqual({ done: true, value: undefined })
        expect(await iterator.next()).toEqual({ done: true, value: undefined })
        expect(await iterator.return()).toEqual({ done: true, value: undefined })
      },
    },
    {
      name: 'disposal of the iterator',
      leave: async (stream, midway) => {
        await using iterator = stream.values()
        await iterator.next()
        midway()
      },
    },
    {
      name: 'cancel() of a reader',
      leave: async (stream, midway) => {
        const reader = stream.getReader()
        await reader.read()
        midway()
        await reader.cancel()
        expect(await reader.read()).toEqual({ done: true, value: undefined })
        reader.releaseLock()
      },
    },
    {
      name: 'cancel() after a reader let go',
      leave: async (stream, midway) => {
        const reader = stream.getReader()
        await reader.read()
        reader.releaseLock()
        midway()
        await stream.cancel(new Error('not needed any more'))
      },
    },
    {
      name: 'the failure of what it is piped to',
      leave: async (stream, midway) => {
        const target = new WritableStream<Numbered>({
          write: (record) => {
            midway(record)
            if (record.n === 100) throw new Error('full')
          },
        })
        await expect(stream.pipeTo(target)).rejects.toThrow('full')
      },
    },
  ])('left by $name frees its file', async ({ leave }) => {
    const { stream, expectOpen, expectNothingOpen } = await watched(kind)
    const left = stream()
    let midways = 0
    await leave(left, (record) => {
      if (record !== undefined && record.n % 100 !== 0) return
      expectOpen(1)
      midways++
    })
    expect(midways).toBeGreaterThan(0)
    expectNothingOpen()
    expect(left.locked).toBe(false)
    expect(await collect(left)).toEqual([])
    expectNothingOpen()
  })

  test('cancelled before it is pulled opens nothing at all', async () => {
    const { stream, fs } = await watched(kind)
    const { calls } = fs
    const unread = stream()
    await unread.cancel()
    expect(await collect(unread)).toEqual([])
    expect(fs.calls).toBe(calls)
  })

  test('created with an aborted signal fails with its reason and opens nothing', async () => {
    const { stream, fs } = await watched(kind)
    const { calls } = fs
    const reason = new Error('changed my mind')
    const { items, error } = await outcomeOf(stream({ signal: AbortSignal.abort(reason) }))
    expect(items).toEqual([])
    expect(error).toBe(reason)
    await expect(
      stream({ signal: AbortSignal.abort(reason) })
        .getReader()
        .read(),
    ).rejects.toBe(reason)
    expect(fs.calls).toBe(calls)
  })

  test('aborted before it is pulled fails with the reason and opens nothing', async () => {
    const { stream, fs } = await watched(kind)
    const { calls } = fs
    const abort = new AbortController()
    const [iterated, read] = [stream({ signal: abort.signal }), stream({ signal: abort.signal })]
    abort.abort()
    expect((await outcomeOf(iterated)).error).toMatchObject({ name: 'AbortError' })
    await expect(read.getReader().read()).rejects.toMatchObject({ name: 'AbortError' })
    expect(fs.calls).toBe(calls)
  })

  test('aborted mid-way between reads fails the next read and frees its file', async () => {
    const { stream, expectOpen, untilNothingOpen } = await watched(kind)
    const abort = new AbortController()
    const reason = new Error('stop')
    const iterated = stream({ signal: abort.signal })
    const iterator = iterated.values()
    expect(numbersOf(await take(iterator, 10))).toEqual(numbers(1, 10))
    const reader = stream({ signal: abort.signal }).getReader()
    await reader.read()
    expectOpen(2)
    abort.abort(reason)
    await expect(iterator.next()).rejects.toBe(reason)
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
    await expect(reader.read()).rejects.toBe(reason)
    await expect(reader.closed).rejects.toBe(reason)
    await untilNothingOpen()
    expect(iterated.locked).toBe(false)
  })

  test('aborted and then left rejects further reads, but not the leaving call', async () => {
    const { stream, untilNothingOpen } = await watched(kind)
    const abort = new AbortController()
    const left = stream({ signal: abort.signal })
    const iterator = left.values()
    expect(await take(iterator, 1)).toHaveLength(1)
    abort.abort(new Error('enough'))
    expect(await iterator.return()).toEqual({ done: true, value: undefined })
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
    expect(left.locked).toBe(false)
    await expect(left.getReader().read()).rejects.toThrow('enough')
    await untilNothingOpen()
  })

  test('aborted in the body of the loop returns no further record', async () => {
    const { stream, untilNothingOpen } = await watched(kind)
    const abort = new AbortController()
    const seen: number[] = []
    const loop = async (): Promise<void> => {
      for await (const { n } of stream({ signal: abort.signal })) {
        seen.push(n)
        if (n === 5) abort.abort()
      }
    }
    await expect(loop()).rejects.toMatchObject({ name: 'AbortError' })
    expect(seen).toEqual([1, 2, 3, 4, 5])
    await untilNothingOpen()
  })

  test('aborted while it waits for the disk fails and closes its file after that read', async () => {
    const { stream, fs, untilNothingOpen } = await watched(kind)
    for (const way of ['iterator', 'reader']) {
      const gate = new Gate()
      fs.hook = ({ operation }) => (operation === 'read' ? gate.wait() : undefined)
      const abort = new AbortController()
      const source = stream({ signal: abort.signal })
      const pending = way === 'iterator' ? source.values().next() : source.getReader().read()
      await gate.reached
      const reason = new Error('no patience')
      abort.abort(reason)
      gate.open()
      await expect(pending).rejects.toBe(reason)
      await untilNothingOpen()
    }
  })

  test('aborted while it waits for new records fails and stops watching', async () => {
    const { stream, untilNothingOpen } = await watched(kind)
    for (const way of ['iterator', 'reader']) {
      const abort = new AbortController()
      const source = stream({ signal: abort.signal, follow: true, from: 9000 })
      const iterator = way === 'iterator' ? source.values() : undefined
      const reader = iterator === undefined ? source.getReader() : undefined
      const next = async (): Promise<unknown> => (iterator === undefined ? reader?.read() : iterator.next())
      expect(await next()).toMatchObject({ value: { n: 9000 } })
      const pending = next()
      await turn()
      const reason = new Error('no more')
      abort.abort(reason)
      await expect(pending).rejects.toBe(reason)
      await untilNothingOpen()
    }
  })

  test('cancelled while it waits for new records ends and stops watching', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const reader = stream({ follow: true, from: 9000 }).getReader()
    await reader.read()
    const pending = reader.read()
    await turn()
    await reader.cancel()
    expect(await pending).toEqual({ done: true, value: undefined })
    expectNothingOpen()
  })

  test('leaves no listener behind on a signal that outlives it', async () => {
    const { stream } = await watched(kind)
    const { signal } = new AbortController()
    const listeners = (): number => getEventListeners(signal, 'abort').length
    for (const leave of ['end', 'cancel', 'return'] as const) {
      const left = stream({ signal })
      expect(listeners(), 'before it is read').toBe(0)
      const iterator = left.values({ preventCancel: leave === 'cancel' })
      await iterator.next()
      expect(listeners(), 'while it is read').toBe(1)
      await (leave === 'end' ? collect(iterator) : iterator.return())
      if (leave === 'cancel') await left.cancel()
      expect(listeners(), `after its ${leave}`).toBe(0)
    }
    await stream({ signal }).cancel()
    expect(listeners()).toBe(0)
  })

  test.each(['a call of the schema', 'a call of salvage', 'a record to come'])(
    'left while next() waits for %s resolves next() and return() at once, and frees its file',
    async (what) => {
      const { path, directory } = await longJournal()
      if (what.endsWith('salvage')) await editFile(`${path}.001`, (content) => flipped(content, content.length - 2, 0))
      const reached = new Gate()
      const never = new Promise<never>(() => {})
      const fs = new ObservedFileSystem()
      const schema: StandardSchemaV1<Numbered> = {
        '~standard': {
          version: 1,
          vendor: 'test',
          validate: (value) => {
            if (!what.endsWith('schema')) return { value: value as Numbered }
            void reached.wait()
            return never
          },
        },
      }
      const salvage = (): unknown => {
        void reached.wait()
        return never
      }
      const options = { fileSystem: fs, schema, salvage, follow: what.endsWith('to come'), from: what.endsWith('salvage') ? 3000 : 9000 }
      // A static stream with the writer's file system finds the writer.
      const store = kind === 'instance' ? await MiniStore.open(path, { fileSystem: fs, schema }) : undefined
      const opened = fs.openFiles
      const leave = async (left: JournalStream<Numbered>, way: string): Promise<void> => {
        if (way === 'cancel') {
          const reader = left.getReader()
          const reads = [reader.read(), reader.read()]
          await Promise.race([reached.reached, what.endsWith('to come') ? reads[0] : never])
          await turn()
          await reader.cancel()
          expect((await reads[1])?.done).toBe(true)
          return
        }
        const iterator = left.values()
        const nexts = [iterator.next(), iterator.next()]
        await Promise.race([reached.reached, what.endsWith('to come') ? nexts[0] : never])
        await turn()
        expect(await iterator.return()).toEqual({ done: true, value: undefined })
        expect(await nexts[1]).toEqual({ done: true, value: undefined })
      }
      for (const way of ['return', 'cancel']) {
        await leave(MiniStore.stream(path, options), way)
        expect(fs.openFiles - opened).toBe(0)
        expect(fs.watching).toBe(0)
      }
      await store?.close()
      expect(descriptorsIn(directory)).toBe(0)
    },
  )

  test('resolves overlapping calls of next() in order, to the end and beyond', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const iterator = stream({ from: 2990, to: 3010 }).values()
    const answers = await Promise.all(Array.from({ length: 25 }, () => iterator.next()))
    expect(answers.slice(0, 21).map(({ value }) => value?.n)).toEqual(numbers(2990, 3010))
    expect(answers.slice(21)).toEqual(Array.from({ length: 4 }, () => ({ done: true, value: undefined })))
    expectNothingOpen()
  })

  test('resolves calls of next() that return() overtakes: first with records, then as done', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const iterator = stream().values()
    const [first, second, returned, third] = await Promise.all([
      iterator.next(),
      iterator.next(),
      iterator.return(),
      iterator.next(),
    ])
    const records = [first, second].flatMap((answer) => (answer.done === true ? [] : [answer.value.n]))
    expect(records).toEqual(numbers(1, records.length))
    expect([returned, third]).toEqual(Array.from({ length: 2 }, () => ({ done: true, value: undefined })))
    expectNothingOpen()
  })

  test('continues with a reader where an iterator with preventCancel stopped, and back', async () => {
    const { stream, expectOpen, expectNothingOpen } = await watched(kind)
    const shared = stream()
    const seen: number[] = []
    for await (const { n } of shared.values({ preventCancel: true })) {
      seen.push(n)
      if (n === 2500) break
    }
    expect(shared.locked).toBe(false)
    expectOpen(1)
    const reader = shared.getReader()
    while (seen.length < 5000) {
      const { value } = await reader.read()
      if (value !== undefined) seen.push(value.n)
    }
    reader.releaseLock()
    expectOpen(1)
    for await (const { n } of shared) seen.push(n)
    expect(seen).toEqual(numbers(1, 9000))
    expectNothingOpen()
  })

  test('continues with for await where a reader was released', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const shared = stream()
    const reader = shared.getReader()
    expect((await reader.read()).value).toMatchObject({ n: 1 })
    reader.releaseLock()
    expect(numbersOf(await collect(shared))).toEqual(numbers(2, 9000))
    expectNothingOpen()
  })

  test('resolves overlapping reads of a reader in order, however many wait, and the last as done', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const reader = stream().getReader()
    expect(reader).toBeInstanceOf(ReadableStreamDefaultReader)
    const seen: Array<number | undefined> = []
    const waiting: Array<Promise<void>> = []
    for (let call = 0; call < 9003; call++) {
      const at = call
      waiting.push(
        reader.read().then(({ value }) => {
          seen[at] = value?.n
        }),
      )
      // One by one, then two by two, and so on, so that reads wait at every border of a block.
      if (call % (1 + Math.floor(call / 700)) === 0) await Promise.race(waiting.splice(0))
    }
    await Promise.all(waiting)
    await reader.closed
    expect(seen).toEqual([...numbers(1, 9000), undefined, undefined, undefined])
    expectNothingOpen()
  })

  test('a released reader returns nothing, even if a record is loaded', async () => {
    const { stream } = await watched(kind)
    const shared = stream()
    const reader = shared.getReader()
    await reader.read()
    reader.releaseLock()
    await expect(reader.read()).rejects.toThrow(TypeError)
    expect(() => shared.getReader({ mode: 'byob' })).toThrow(TypeError)
    expect(numbersOf(await collect(shared))).toEqual(numbers(2, 9000))
  })

  test.each(['after', 'before'])(
    'loses no record when a reader is released while it waits, and for await begins %s the record is read',
    async (when) => {
      const { stream, fs, expectNothingOpen } = await watched(kind)
      const gate = new Gate()
      fs.hook = ({ operation }) => (operation === 'read' ? gate.wait() : undefined)
      const shared = stream()
      const reader = shared.getReader()
      const refused = reader.read()
      await gate.reached
      reader.releaseLock()
      await expect(refused).rejects.toThrow(TypeError)
      const early = when === 'before' ? collect(shared) : undefined
      gate.open()
      fs.hook = () => {}
      // A second reader queues after the pending read. Once it has its record, the first is done.
      if (when === 'after') await collect(stream({ to: 1 }))
      expect(numbersOf(await (early ?? collect(shared)))).toEqual(numbers(1, 9000))
      expectNothingOpen()
    },
  )

  test('an iterator with preventCancel is also left at once, and loses no record for the next reader', async () => {
    const { stream, fs, expectNothingOpen } = await watched(kind)
    for (const way of ['iterator', 'reader']) {
      const gate = new Gate()
      fs.hook = ({ operation }) => (operation === 'read' ? gate.wait() : undefined)
      const shared = stream()
      const left = shared.values({ preventCancel: true })
      const next = left.next()
      await gate.reached
      expect(await left.return()).toEqual({ done: true, value: undefined })
      expect(await next).toEqual({ done: true, value: undefined })
      expect(shared.locked).toBe(false)
      const reader = way === 'reader' ? shared.getReader() : undefined
      const first = reader?.read()
      fs.hook = () => {}
      gate.open()
      const seen = first === undefined ? [] : [(await first).value as Numbered]
      reader?.releaseLock()
      seen.push(...(await collect(shared)))
      expect(numbersOf(seen)).toEqual(numbers(1, 9000))
      expectNothingOpen()
    }
  })

  test.each(['return', 'cancel', 'abort'])(
    'closes no file during a pending read: left by %s in a first read, and in a read-ahead',
    async (way) => {
      const { stream, fs, untilNothingOpen } = await watched(kind)
      for (const read of ['first', 'ahead']) {
        const gate = new Gate()
        const abort = new AbortController()
        const closed: string[] = []
        const source = stream({ signal: abort.signal, from: 10 })
        const iterator = way === 'return' ? source.values() : undefined
        const reader = iterator === undefined ? source.getReader() : undefined
        const next = async (): Promise<unknown> => (iterator === undefined ? reader?.read() : iterator.next())
        let reads = 0
        fs.hook = ({ operation, path }) => {
          // One read for each checked header, one for the first lines, and then those ahead.
          if (operation === 'close') closed.push(path)
          if (operation !== 'read' || !path.endsWith('.001')) return undefined
          reads++
          return reads === (kind === 'static' ? 3 : 2) + (read === 'ahead' ? 1 : 0) ? gate.wait() : undefined
        }
        const pending = next().catch((error: unknown) => error)
        if (read === 'ahead') expect(await pending).toMatchObject({ value: { n: 10 } })
        await gate.reached
        closed.length = 0
        const left = way === 'abort' ? abort.abort() : iterator === undefined ? reader?.cancel() : iterator.return()
        for (let turns = 0; turns < 5; turns++) await turn()
        expect(closed, `${read} read`).toEqual([])
        gate.open()
        await left
        await pending
        fs.hook = () => {}
        await untilNothingOpen()
      }
    },
  )

  test('pipes through a transform into a sink', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const sums: number[] = []
    const transform = new TransformStream<Numbered, number>({
      transform: ({ n }, controller) => controller.enqueue(n * 2),
    })
    await stream({ from: 2900, to: 3100 })
      .pipeThrough(transform)
      .pipeTo(new WritableStream({ write: (n) => void sums.push(n) }))
    expect(sums).toEqual(numbers(2900, 3100).map((n) => n * 2))
    expectNothingOpen()
  })

  test('pipes into another store', async () => {
    const { stream } = await watched(kind)
    const copy = join(await temporaryDirectory(), 'copy.jsonl')
    await using store = await MiniStore.open<Numbered>(copy)
    await stream({ from: 2951, to: 3050 }).pipeTo(store.writable())
    expect(store.lastSequence).toBe(100)
    expect(numbersOf(await store.replay())).toEqual(numbers(2951, 3050))
    await store.append({ n: 0, pad: 'the store stays open when its writable ends' })
  })

  test('a pipe aborted by its own signal frees the file', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const abort = new AbortController()
    let written = 0
    const target = new WritableStream<Numbered>({
      write: () => {
        if (++written === 50) abort.abort(new Error('enough'))
      },
    })
    await expect(stream().pipeTo(target, { signal: abort.signal })).rejects.toThrow('enough')
    expect(written).toBeLessThan(9000)
    expectNothingOpen()
  })

  test('tees into two branches with the same records', async () => {
    const { stream, expectNothingOpen } = await watched(kind)
    const [left, right] = stream().tee()
    const [lefts, rights] = await Promise.all([collect(left), collect(right)])
    expect(numbersOf(lefts)).toEqual(numbers(1, 9000))
    expect(rights).toEqual(lefts)
    expectNothingOpen()
  })

  test('tees, and frees the file when both branches are cancelled', async () => {
    const { stream, expectOpen, expectNothingOpen } = await watched(kind)
    const [left, right] = stream().tee()
    const reader = left.getReader()
    await reader.read()
    expectOpen(1)
    await Promise.all([reader.cancel(), right.cancel()])
    expectNothingOpen()
  })

  test('becomes a Node stream, read whole or destroyed early', async () => {
    const { stream, expectNothingOpen, untilNothingOpen } = await watched(kind)
    const whole = await collect<Numbered>(Readable.fromWeb(stream() as never, { objectMode: true }))
    expect(numbersOf(whole)).toEqual(numbers(1, 9000))
    expectNothingOpen()
    const early = Readable.fromWeb(stream() as never, { objectMode: true })
    for await (const record of early as AsyncIterable<Numbered>) if (record.n === 10) break
    expect(early.destroyed).toBe(true)
    await untilNothingOpen()
  })

  test('parses no more than one block of lines ahead of a slow consumer', async () => {
    const { path } = await longJournal()
    let parsed = 0
    const codec = {
      encode: (record: unknown) => JSON.stringify(record),
      decode: (line: string) => {
        parsed++
        return JSON.parse(line) as unknown
      },
    }
    await using store = await MiniStore.open(path, { codec })
    const source = kind === 'instance' ? store.stream() : MiniStore.stream(path, { codec })
    // The shortest record is longer than 70 bytes, so this many fit into 64 KiB.
    const most = Math.ceil((64 * 1024) / 70)
    let taken = 0
    let furthest = 0
    for await (const record of source) {
      taken++
      furthest = Math.max(furthest, parsed - taken)
      if (taken % 500 === 0) await turn()
      expect(record).toMatchObject({ n: taken })
    }
    expect(taken).toBe(9000)
    expect(furthest).toBeGreaterThan(0)
    expect(furthest).toBeLessThanOrEqual(most)
  })
})

describe('the range of a stream', () => {
  const cases: Array<{ name: string; options: StreamOptions; expected: number[] }> = [
    { name: 'all', options: {}, expected: numbers(4, 12) },
    { name: 'from the first', options: { from: 4 }, expected: numbers(4, 12) },
    { name: 'from the middle of a segment', options: { from: 6 }, expected: numbers(6, 12) },
    { name: 'from the first record of a segment', options: { from: 7 }, expected: numbers(7, 12) },
    { name: 'from the last record of a segment', options: { from: 9 }, expected: numbers(9, 12) },
    { name: 'from the last record', options: { from: 12 }, expected: [12] },
    { name: 'from just beyond the end', options: { from: 13 }, expected: [] },
    { name: 'from far beyond the end', options: { from: 10 ** 12 }, expected: [] },
    { name: 'to the middle of a segment', options: { to: 8 }, expected: numbers(4, 8) },
    { name: 'to the last record of a segment', options: { to: 6 }, expected: [4, 5, 6] },
    { name: 'to the first record of a segment', options: { to: 7 }, expected: [4, 5, 6, 7] },
    { name: 'to beyond the end', options: { to: 10 ** 12 }, expected: numbers(4, 12) },
    { name: 'to below the first', options: { to: 3 }, expected: [] },
    { name: 'across a rotation', options: { from: 6, to: 7 }, expected: [6, 7] },
    { name: 'of one record', options: { from: 8, to: 8 }, expected: [8] },
  ]

  /** Records 4 to 12 in segments of three; earlier ones are truncated, the active one is empty. */
  async function truncatedJournal(): Promise<{ path: string; store: MiniStore<number> }> {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeJournal(path, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], []])
    const store = await MiniStore.open<number>(path)
    await store.truncateBefore(4)
    return { path, store }
  }

  test.each(cases)('is inclusive: $name', async ({ options, expected }) => {
    const { path, store } = await truncatedJournal()
    const entries = expected.map((record) => ({ sequence: record, record }))
    expect(await collect(store.stream(options))).toEqual(expected)
    expect(await store.replay(options)).toEqual(expected)
    expect(await collect(store.entries(options))).toEqual(entries)
    await store.close()
    expect(await collect(MiniStore.stream(path, options))).toEqual(expected)
    expect(await MiniStore.replay(path, options)).toEqual(expected)
    expect(await collect(MiniStore.entries(path, options))).toEqual(entries)
  })

  test.each([1, 3])(
    'from %i, below the first existing record, is ERR_MINISTORE_SEQUENCE_GONE',
    async (from) => {
      const { path, store } = await truncatedJournal()
      const gone = { code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: from, path }
      expect(await outcomeOf(store.stream({ from }))).toMatchObject({ items: [], error: gone })
      await expect(store.replay({ from, to: 5 })).rejects.toMatchObject(gone)
      await store.close()
      expect(await outcomeOf(MiniStore.entries(path, { from }))).toMatchObject({ items: [], error: gone })
      await expect(MiniStore.stream(path, { from }).getReader().read()).rejects.toMatchObject(gone)
    },
  )

  test.each<ReadOptions>([
    { from: 0 },
    { from: 1.5 },
    { to: -1 },
    { from: Number.NaN },
    { from: 5, to: 4 },
    { pollIntervalMs: 0 },
  ])('refuses %o with a RangeError', (options) => {
    expect(() => MiniStore.stream('anywhere', options)).toThrow(RangeError)
  })

  test.each([{ form: 1 }, { from: '1' }, { signal: {} }, { follow: 1 }, { salvage: true }, 7])(
    'refuses %o with a TypeError',
    (options) => {
      expect(() => MiniStore.stream('anywhere', options as ReadOptions)).toThrow(TypeError)
    },
  )

  test('refuses to collect an endless journal into an array', async () => {
    const path = await journalOf([1])
    await expect(MiniStore.replay(path, { follow: true } as ReadOptions)).rejects.toThrow(TypeError)
  })
})

describe('the end of a stream', () => {
  test('of a store is the last record acknowledged when the stream was created', async () => {
    await using store = await MiniStore.open<number>(join(await temporaryDirectory(), 'journal.jsonl'))
    await store.appendAll([1, 2, 3])
    const stream = store.stream()
    const entries = store.entries()
    const replayed = store.replay()
    await store.appendAll([4, 5])
    expect(await collect(stream)).toEqual([1, 2, 3])
    expect((await collect(entries)).map(({ sequence }) => sequence)).toEqual([1, 2, 3])
    expect(await replayed).toEqual([1, 2, 3])
    expect(await store.replay()).toEqual([1, 2, 3, 4, 5])
  })

  test('of an empty range is a normal end, even if later records were removed meanwhile', async () => {
    await using store = await MiniStore.open<number>(join(await temporaryDirectory(), 'journal.jsonl'))
    const empty = store.stream()
    const passedOver = store.stream({ from: 2 })
    await store.appendAll([1, 2])
    const read = store.entries()
    const below = store.stream({ from: 1, to: 2 })
    const beyond = store.entries({ from: 3 })
    const iterator = below.values()
    expect(await take(iterator, 2)).toEqual([1, 2])
    await store.rotate()
    const between = store.stream({ from: 3, to: 9 })
    await store.append(3)
    await store.rotate()
    await store.truncateBefore(4)
    expect(await collect(empty)).toEqual([])
    expect(await collect(passedOver)).toEqual([])
    expect(await collect(beyond)).toEqual([])
    expect(await collect(between)).toEqual([])
    expect(await collect(iterator)).toEqual([])
    // A stream whose range holds records reports that they are gone.
    expect(await outcomeOf(read)).toMatchObject({ items: [], error: { code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 1 } })
  })

  test('of a range that ends before the first record is a normal end, even if segments are removed meanwhile', async () => {
    const store = await MiniStore.open<number>(join(await temporaryDirectory(), 'journal.jsonl'))
    await store.append(1)
    await store.rotate()
    await store.truncateBefore(2)
    await store.append(2)
    const below = store.stream({ to: 1 })
    await store.rotate()
    await store.truncateBefore(3)
    expect(await collect(below)).toEqual([])
    await store.close()
  })

  test('of a sealed path opens no segment when the seal shows that the range is empty', async () => {
    const path = await journalOf([1, 2], [3, 4])
    const opened: string[] = []
    const fs = new ObservedFileSystem(({ operation, path: file }) => {
      if (operation === 'open') opened.push(file)
    })
    expect(await MiniStore.replay(path, { fileSystem: fs })).toEqual([1, 2, 3, 4])
    const all = opened.length
    opened.length = 0
    expect(await MiniStore.replay(path, { fileSystem: fs, from: 5 })).toEqual([])
    expect(opened.length).toBe(all - 2)
    opened.length = 0
    expect(await MiniStore.replay(path, { fileSystem: fs, from: 4 })).toEqual([4])
    expect(opened.length).toBe(all - 1)
  })

  test('of a path is the last record present when it was first pulled', async () => {
    const path = await journalOf([1, 2, 3])
    const stream = MiniStore.stream(path)
    await writeJournal(path, [[4], [5, 6]])
    const iterator = stream.values()
    expect(await iterator.next()).toEqual({ done: false, value: 1 })
    await writeJournal(path, [[7], [8]])
    expect(await collect(iterator)).toEqual([2, 3, 4, 5, 6])
  })

  test('is an error when the journal is deleted before it is reached, never an early silent end', async () => {
    const { directory, path } = await longJournal()
    const iterator = MiniStore.stream<Numbered>(path).values()
    expect(await take(iterator, 1)).toHaveLength(1)
    await rm(directory, { recursive: true })
    const { items, error } = await outcomeOf(iterator)
    expect(items.length).toBeLessThan(8999)
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', path })
    expect((error as Error).message).toContain('the journal was deleted while it was being read')
  })

  test.each([
    { name: 'from the beginning', first: 1 },
    { name: 'where the reader is to go on', first: 3001 },
    { name: 'within what is to be read', first: 2500 },
  ].flatMap((which) => [{ ...which, isOld: false }, { ...which, isOld: true }]))('is an error when another journal has replaced it that begins $name (without an identity: $isOld)', async ({ first, isOld }) => {
    const { directory, path } = await longJournal()
    const iterator = MiniStore.stream<Numbered>(path).values()
    expect(await take(iterator, 1)).toHaveLength(1)
    await rm(directory, { recursive: true })
    const write = isOld ? writeOldJournal : writeJournal
    await write(path, [numbered(1, first - 1), numbered(first, 9000), numbered(9001, 9001)].slice(first === 1 ? 1 : 0))
    if (first > 1) await rm(`${path}.001`)
    const { items, error } = await outcomeOf(iterator)
    expect(items.length).toBeLessThanOrEqual(2999)
    expect(error).toMatchObject({ code: isOld ? 'ERR_MINISTORE_CORRUPT' : 'ERR_MINISTORE_FOREIGN_JOURNAL', path })
    const message = isOld ? /the journal was replaced by another while it was being read/ : /was replaced by another journal: its id was \w{16} and is now \w{16}$/
    expect((error as Error).message).toMatch(message)
  })

  test('is reported to salvage when the journal is deleted before it is reached', async () => {
    const { directory, path } = await longJournal()
    const told: string[] = []
    const iterator = MiniStore.stream<Numbered>(path, { salvage: ({ message }) => void told.push(message) }).values()
    expect(await take(iterator, 1)).toHaveLength(1)
    await rm(directory, { recursive: true })
    expect((await collect(iterator)).length).toBeLessThan(8999)
    expect(told).toMatchObject([expect.stringContaining('the journal was deleted while it was being read')])
  })

  test.each([
    { name: 'grows longer', after: ['a long text '.repeat(20)] },
    { name: 'stays shorter', after: [0] },
    { name: 'stays empty', after: [] },
  ])(
    'is the same when the store rotates before it is read, and the new active segment $name',
    async ({ after }) => {
      await using store = await MiniStore.open(join(await temporaryDirectory(), 'journal.jsonl'))
      await store.appendAll(['one', 'two'])
      const stream = store.stream()
      await store.rotate()
      await store.appendAll(after)
      expect(await outcomeOf(stream)).toEqual({ items: ['one', 'two'], error: undefined })
    },
  )

  test('is the same when another process rotates just before the file is opened', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'journal.jsonl')
    await writeJournal(path, [['one', 'two']])
    let opened = 0
    const fs = new ObservedFileSystem(async ({ operation, path: file }) => {
      // The first opening of the active segment reads its header, the second its records.
      if (operation !== 'open' || file !== path || ++opened !== 2) return
      await writeJournal(path, [[], ['a long text '.repeat(20)]])
    })
    expect(await outcomeOf(MiniStore.stream(path, { fileSystem: fs }))).toEqual({
      items: ['one', 'two'],
      error: undefined,
    })
    expect(opened).toBeGreaterThan(1)
  })

  test('is before a partly written line, even if it is sealed meanwhile', async () => {
    const path = await journalOf(['one'])
    const line = '"two"\n'
    await editFile(path, (content) => Buffer.concat([content, Buffer.from(line.slice(0, 3))]))
    let opened = 0
    const fs = new ObservedFileSystem(async ({ operation, path: file }) => {
      if (operation !== 'open' || file !== path || ++opened !== 2) return
      await editFile(path, (content) => Buffer.concat([content, Buffer.from(line.slice(3))]))
      await rm(`${path}.seal`)
      await rename(path, `${path}.001`)
      await writeSegment(path, `// MINISTORE JOURNAL v0.3.0 seq=3 id=${await idAt(`${path}.001`)} prev=${await crc32Of(`${path}.001`)}`, [
        '"three"',
      ])
    })
    expect(await outcomeOf(MiniStore.stream(path, { fileSystem: fs }))).toEqual({
      items: ['one'],
      error: undefined,
    })
    expect(opened).toBeGreaterThan(1)
  })

  test('comes at once for a missing journal or directory; nothing is created', async () => {
    const directory = await temporaryDirectory()
    for (const path of [
      join(directory, 'missing.jsonl'),
      join(directory, 'no/such/directory/journal.jsonl'),
    ]) {
      expect(await collect(MiniStore.stream(path))).toEqual([])
      expect(await MiniStore.replay(path, { from: 7 })).toEqual([])
      expect(await collect(MiniStore.entries(path))).toEqual([])
    }
    const fs = new ObservedFileSystem()
    expect(await fs.list(directory)).toEqual([])
  })

  test('comes at once for an empty journal', async () => {
    const path = await journalOf([])
    expect(await MiniStore.replay(path)).toEqual([])
    await using store = await MiniStore.open(path)
    expect(await collect(store.stream())).toEqual([])
  })

  test('is before a torn tail, which stays in the file', async () => {
    const path = await journalOf([1, 2])
    await editFile(path, (content) => Buffer.concat([content, Buffer.from('{"torn":')]))
    expect(await outcomeOf(MiniStore.stream(path))).toEqual({ items: [1, 2], error: undefined })
    await editFile(path, (content) => {
      expect(content.toString()).toMatch(/\{"torn":$/)
      return content
    })
  })

  test('a stream of a closed store can still be read', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const store = await MiniStore.open<number>(path)
    await store.appendAll([1, 2, 3])
    const stream = store.stream()
    await store.close()
    expect(await collect(stream)).toEqual([1, 2, 3])
    expect(() => store.stream()).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_CLOSED' }))
  })

  test('a stream of a closed store can still be read after the next writer rotated', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const store = await MiniStore.open<number>(path)
    await store.appendAll([1, 2, 3])
    const stream = store.stream()
    await store.close()
    await writeJournal(path, [[4], [5]])
    expect(await outcomeOf(stream)).toEqual({ items: [1, 2, 3], error: undefined })
  })

  test('truncation before the first read is ERR_MINISTORE_SEQUENCE_GONE, not a shorter stream', async () => {
    await using store = await MiniStore.open<number>(join(await temporaryDirectory(), 'journal.jsonl'))
    await store.appendAll([1, 2])
    await store.rotate()
    await store.append(3)
    const stream = store.stream()
    await store.truncateBefore(3)
    expect(await outcomeOf(stream)).toMatchObject({
      items: [],
      error: { code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 1 },
    })
  })

  test('a deleted open segment is read to its end; a missing next one is an error', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeJournal(path, [
      [1, 2],
      [3, 4],
      [5, 6],
    ])
    await using store = await MiniStore.open<number>(path)
    const iterator = store.stream().values()
    expect(await take(iterator, 1)).toEqual([1])
    await store.truncateBefore(5)
    expect(await outcomeOf(iterator)).toMatchObject({
      items: [2],
      error: { code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 3 },
    })
  })
})

describe('damage', () => {
  const good = [{ a: 'one' }, { b: 'two' }, { c: 'thrèe' }]
  const segments = [good, good, good] as const
  const names = ['journal.jsonl.001', 'journal.jsonl.002', 'journal.jsonl'] as const

  /** The journal with line `line` of a segment replaced, and its seal removed. */
  async function damagedLine(
    segment: number,
    line: number,
    bytes: string | Buffer,
  ): Promise<{ path: string; offset: number }> {
    const path = await journalOf(...segments)
    await rm(`${path}.seal`)
    let offset = 0
    await editFile(segment === 2 ? path : `${path}.00${segment + 1}`, (content) => {
      const lines = content.toString().split('\n')
      offset = Buffer.byteLength(lines.slice(0, line - 1).join('\n')) + 1
      const length = Buffer.byteLength(lines[line - 1] as string)
      return Buffer.concat([
        content.subarray(0, offset),
        Buffer.from(bytes as string),
        content.subarray(offset + length),
      ])
    })
    return { path, offset }
  }

  const lines = [
    { kind: 'a line that is not JSON', bytes: '{"b":' },
    { kind: 'a line that is not UTF-8', bytes: Buffer.from([0x22, 0xc3, 0x28, 0x22]) },
    { kind: 'a blank line', bytes: '' },
    { kind: 'a line with a NUL', bytes: '"\0"' },
  ]
  const places = [0, 1, 2].flatMap((segment) => [2, 3, 4].map((line) => ({ segment, line })))
  const cases = lines
    .flatMap((line) => places.map((place) => ({ ...line, ...place })))
    // In the last line of the active segment all of these are a torn tail, except for clean text
    // that is not JSON.
    .filter(({ kind, segment, line }) => segment !== 2 || line !== 4 || kind === 'a line that is not JSON')
    .map(({ line, ...rest }) => ({ ...rest, at: line }))

  test.each(cases)(
    '$kind, line $at of segment $segment: error with its place, after every record before it',
    async (damage) => {
      const { path, offset } = await damagedLine(damage.segment, damage.at, damage.bytes)
      const sequence = damage.segment * 3 + damage.at - 1
      const where = { path, segment: names[damage.segment], line: damage.at, offset, sequence }
      const { items, error } = await outcomeOf(MiniStore.stream(path))
      expect(items).toEqual([...good, ...good, ...good].slice(0, sequence - 1))
      expect(error).toBeInstanceOf(MiniStoreError)
      expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', ...where })
      const reader = MiniStore.stream(path).getReader()
      for (const index of numbers(0, sequence - 2))
        expect((await reader.read()).value).toEqual(good[index % 3])
      await expect(reader.read()).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', ...where })
      await expect(reader.closed).rejects.toMatchObject(where)
      await expect(MiniStore.replay(path)).rejects.toMatchObject(where)
    },
  )

  test.each(cases)(
    '$kind, line $at of segment $segment: salvage is told in its place and the rest is given',
    async (damage) => {
      const { path, offset } = await damagedLine(damage.segment, damage.at, damage.bytes)
      const sequence = damage.segment * 3 + damage.at - 1
      const told: Array<number | MiniStoreError> = []
      const salvage = (error: MiniStoreError): void => void told.push(error)
      for await (const entry of MiniStore.entries(path, { salvage })) {
        expect(entry.record).toEqual(good[(entry.sequence - 1) % 3])
        told.push(entry.sequence)
      }
      expect(told.filter((each) => typeof each === 'number')).toEqual(
        numbers(1, 9).filter((n) => n !== sequence),
      )
      expect(told[sequence - 1]).toMatchObject({
        code: 'ERR_MINISTORE_CORRUPT',
        path,
        segment: names[damage.segment],
        line: damage.at,
        offset,
        sequence,
      })
      // A changed sealed segment also fails its checksum: reported once more, after its records.
      expect(told.filter((each) => typeof each !== 'number')).toHaveLength(damage.segment === 2 ? 1 : 2)
    },
  )

  test('a byte that changed a value in a sealed segment is found at its end', async () => {
    const path = await journalOf([10, 20], [30], [40])
    await editFile(`${path}.002`, (content) => Buffer.from(content.toString().replace('\n30\n', '\n31\n')))
    const { items, error } = await outcomeOf(MiniStore.stream(path))
    expect(items).toEqual([10, 20, 31])
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl.002' })
    const told: unknown[] = []
    for await (const record of MiniStore.stream(path, {
      salvage: (damage) => void told.push(damage.segment),
    }))
      told.push(record)
    expect(told).toEqual([10, 20, 31, 'journal.jsonl.002', 40])
  })

  test('a byte that changed a value under the seal is found, by a reader and on opening', async () => {
    const path = await journalOf([10, 20, 30])
    await editFile(path, (content) => Buffer.from(content.toString().replace('\n20\n', '\n21\n')))
    const { error } = await outcomeOf(MiniStore.stream(path))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl' })
    await expect(MiniStore.open(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    const told: unknown[] = []
    const salvage = (damage: MiniStoreError): void => void told.push(damage.code)
    for await (const record of MiniStore.stream(path, { salvage })) told.push(record)
    expect(told).toEqual([10, 21, 30, 'ERR_MINISTORE_CORRUPT'])
  })

  test('an active segment shorter than its seal says is not treated as the end of the journal', async () => {
    const path = await journalOf([10, 20, 30])
    await editFile(path, (content) => content.subarray(0, content.lastIndexOf('30')))
    const { items, error } = await outcomeOf(MiniStore.stream(path))
    expect(items).toEqual([10, 20])
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl' })
    const told: string[] = []
    expect(await collect(MiniStore.stream(path, { salvage: ({ code }) => void told.push(code) }))).toEqual([
      10, 20,
    ])
    expect(told).toEqual(['ERR_MINISTORE_CORRUPT'])
  })

  test.each([
    { name: 'cut within a line', cut: 3 },
    { name: 'cut at the end of a line', cut: 4 + 8 },
  ])('a sealed segment that was $name is found', async ({ cut }) => {
    const path = await journalOf([1, 'two', 'three'], [4])
    await editFile(`${path}.001`, (content) => content.subarray(0, content.length - cut))
    const { items, error } = await outcomeOf(MiniStore.stream(path))
    expect(items).toEqual([1, 'two', 'three'].slice(0, cut === 3 ? 2 : 1))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl.001' })
    const told: unknown[] = []
    const salvage = (damage: MiniStoreError): void => void told.push(damage.code)
    expect((await collect(MiniStore.stream(path, { salvage }))).at(-1)).toBe(4)
    expect(told.length).toBeGreaterThan(0)
  })

  test('a missing segment is an error; with salvage it is reported, and other records keep their numbers', async () => {
    const path = await journalOf(...segments, [{ d: 'four' }])
    await rm(`${path}.002`)
    expect((await outcomeOf(MiniStore.stream(path))).error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    await expect(MiniStore.open(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    const told: MiniStoreError[] = []
    const entries = await collect(MiniStore.entries(path, { salvage: (damage) => void told.push(damage) }))
    expect(entries.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 7, 8, 9, 10])
    expect(told.length).toBeGreaterThan(0)
    expect(told.map(({ message }) => message).join('\n')).toMatch(/missing/)
  })

  test('a missing active segment is an error if its seal records it, and is reported to salvage', async () => {
    const path = await journalOf([1, 2], [3, 4])
    await rm(path)
    expect((await outcomeOf(MiniStore.stream(path))).error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    const told: string[] = []
    expect(await collect(MiniStore.stream(path, { salvage: ({ code }) => void told.push(code) }))).toEqual([
      1, 2,
    ])
    expect(told).toEqual(['ERR_MINISTORE_CORRUPT'])
  })

  test.each([0, 1, 2])(
    'a damaged header of segment %i is an error; with salvage it is reported, and every record is returned',
    async (segment) => {
      const path = await journalOf(...segments)
      const file = segment === 2 ? path : `${path}.00${segment + 1}`
      await editFile(file, (content) => {
        const changed = Buffer.from(content)
        changed.write('/* ', 0)
        return changed
      })
      expect((await outcomeOf(MiniStore.stream(path))).error).toMatchObject({
        code: 'ERR_MINISTORE_CORRUPT',
        segment: names[segment],
        line: 1,
        offset: 0,
      })
      const told: MiniStoreError[] = []
      const entries = await collect(MiniStore.entries(path, { salvage: (damage) => void told.push(damage) }))
      expect(entries).toEqual(
        [...good, ...good, ...good].map((record, index) => ({ sequence: index + 1, record })),
      )
      expect(told[0]).toMatchObject({ segment: names[segment], line: 1 })
    },
  )

  test.each(Array.from({ length: 8 }, (_, bit) => bit))(
    'bit %i flipped anywhere in a header never silently changes or shifts a record',
    async (bit) => {
      const path = await journalOf([111, 222], [333, 444])
      await rm(`${path}.seal`)
      const header = '// MINISTORE JOURNAL v0.3.0 seq=3 id=5c1e9a70b2f4d833 prev=00000000\n'
      for (const at of numbers(0, header.length - 1)) {
        await editFile(path, (content) => flipped(content, at, bit))
        const { items, error } = await outcomeOf(MiniStore.stream<number>(path))
        const isTold = error !== undefined
        const isWhole = items.length === 4
        if (!isTold) expect(isWhole, `byte ${at}: ends early without an error`).toBe(true)
        expect([111, 222, 333, 444].slice(0, items.length), `byte ${at}`).toEqual(items)
        await editFile(path, (content) => flipped(content, at, bit))
      }
      expect(await MiniStore.replay(path)).toEqual([111, 222, 333, 444])
    },
  )

  test('a newer major version is refused by name', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeSegment(path, '// MINISTORE JOURNAL v1.0.0 seq=1', ['1'])
    const { error } = await outcomeOf(MiniStore.stream(path))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_UNSUPPORTED_VERSION', segment: 'journal.jsonl' })
    expect((error as Error).message).toContain('1.0.0')
  })

  test('a read that fails is an error with the system error as its cause, never the end', async () => {
    const path = await journalOf(numbered(1, 3000))
    const failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' })
    let reads = 0
    const fs = new ObservedFileSystem(({ operation, path: file }) => {
      if (operation === 'read' && file === path && ++reads === 5) throw failure
    })
    const { items, error } = await outcomeOf(MiniStore.stream<Numbered>(path, { fileSystem: fs }))
    expect(items.length).toBeGreaterThan(0)
    expect(numbersOf(items)).toEqual(numbers(1, items.length))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: failure, path })
    expect(fs.openFiles).toBe(0)
  })

  test('after an error the stream is unlocked, its file is closed, and it returns nothing more', async () => {
    const { path } = await damagedLine(1, 3, '{"b":')
    const fs = new ObservedFileSystem()
    const stream = MiniStore.stream(path, { fileSystem: fs })
    const { error } = await outcomeOf(stream)
    expect(stream.locked).toBe(false)
    expect(fs.openFiles).toBe(0)
    await expect(stream.getReader().read()).rejects.toBe(error)
    const iterator = MiniStore.stream(path).values()
    await take(iterator, 4)
    await expect(iterator.next()).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
  })

  test('overlapping calls of next() before damage: the records, the error once, then the end', async () => {
    const { path } = await damagedLine(0, 3, '{"b":')
    const iterator = MiniStore.stream(path).values()
    const answers = await Promise.allSettled([iterator.next(), iterator.next(), iterator.next()])
    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(answers[2]).toMatchObject({ value: { done: true } })
  })

  test('an error thrown by salvage ends the stream', async () => {
    const { path } = await damagedLine(0, 3, '{"b":')
    const fs = new ObservedFileSystem()
    const reason = new Error('too much damage')
    const salvage = (): void => {
      throw reason
    }
    const { items, error } = await outcomeOf(MiniStore.stream(path, { fileSystem: fs, salvage }))
    expect(items).toEqual([good[0]])
    expect(error).toBe(reason)
    expect(fs.openFiles).toBe(0)
  })
})

describe('the result of salvage', () => {
  /** Good and damaged lines mixed, and the numbers of the good ones. */
  async function halfDamaged(): Promise<{ path: string; good: number[] }> {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['1', '{', '3', '{', '{', '6'])
    return { path, good: [1, 3, 6] }
  }

  test('is awaited before the stream continues, if it is a promise', async () => {
    const { path } = await halfDamaged()
    const order: unknown[] = []
    const answer = async ({ sequence }: MiniStoreError): Promise<void> => {
      order.push(`${sequence} begins`)
      for (let turns = 0; turns < 3; turns++) await turn()
      order.push(`${sequence} ends`)
    }
    const salvage = (damage: MiniStoreError): unknown => answer(damage)
    for await (const record of MiniStore.stream(path, { salvage })) order.push(record)
    expect(order).toEqual([1, '2 begins', '2 ends', 3, '4 begins', '4 ends', '5 begins', '5 ends', 6])
  })

  test.each(['iterator', 'reader', 'array'])('ends the stream with its rejection, through an %s', async (way) => {
    const { path } = await halfDamaged()
    const fs = new ObservedFileSystem()
    const reason = new Error('too much damage')
    const answer = async ({ sequence }: MiniStoreError): Promise<void> => {
      await turn()
      if (sequence === 4) throw reason
    }
    const options = { fileSystem: fs, salvage: (damage: MiniStoreError): unknown => answer(damage) }
    if (way === 'array') await expect(MiniStore.replay(path, options)).rejects.toBe(reason)
    else if (way === 'iterator') {
      expect(await outcomeOf(MiniStore.stream(path, options))).toEqual({ items: [1, 3], error: reason })
    } else {
      const reader = MiniStore.stream(path, options).getReader()
      expect([(await reader.read()).value, (await reader.read()).value]).toEqual([1, 3])
      await expect(reader.read()).rejects.toBe(reason)
    }
    expect(fs.openFiles).toBe(0)
  })

  test('ends the stream when it rejects for damage to whole segments', async () => {
    const path = await journalOf([1], [2], [3], [4])
    await rm(`${path}.002`)
    const reason = new Error('no')
    const salvage = (): unknown => Promise.reject(reason)
    expect(await outcomeOf(MiniStore.stream(path, { salvage }))).toEqual({ items: [], error: reason })
  })

  test('is no longer awaited once the signal is aborted', async () => {
    const { path } = await halfDamaged()
    const abort = new AbortController()
    const salvage = (): unknown => new Promise(() => setImmediate(() => abort.abort('enough')))
    const { items, error } = await outcomeOf(MiniStore.stream(path, { salvage, signal: abort.signal }))
    expect({ items, error }).toEqual({ items: [1], error: 'enough' })
  })
})

describe('damage skipped in a replay', () => {
  const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833'
  const pathOf = async (...lines: string[]): Promise<string> => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeSegment(path, header, lines)
    return path
  }

  test('includes the damage right after its end', async () => {
    const path = await pathOf('1', '2', '{', '4')
    expect(await MiniStore.replay(path, { to: 2 })).toEqual([1, 2])
    expect(await outcomeOf(MiniStore.stream(path, { to: 3 }))).toMatchObject({
      items: [1, 2],
      error: { code: 'ERR_MINISTORE_CORRUPT', sequence: 3 },
    })
  })

  test('is reported in order with an asynchronous schema too, for damage and schema refusals alike', async () => {
    const path = await pathOf('1', '{', '3', '-4', '5', '{')
    const schema: StandardSchemaV1 = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: async (value) => {
          // The later the record, the earlier its result: a refusal must not count as unhandled
          // before its turn.
          for (let turns = 5 - Math.abs(value as number); turns > 0; turns--) await turn()
          return (value as number) > 0 ? { value } : { issues: [{ message: 'negative' }] }
        },
      },
    }
    const order: unknown[] = []
    const salvage = ({ sequence, code }: MiniStoreError): void => void order.push([sequence, code])
    for await (const { sequence, record } of MiniStore.entries(path, { schema, salvage })) order.push([sequence, record])
    expect(order).toEqual([
      [1, 1],
      [2, 'ERR_MINISTORE_CORRUPT'],
      [3, 3],
      [4, 'ERR_MINISTORE_SCHEMA'],
      [5, 5],
      [6, 'ERR_MINISTORE_CORRUPT'],
    ])
  })

  test('never includes the end of a sealed segment without a line feed, even if it is the last one', async () => {
    const path = await journalOf([1, 2], [])
    await rm(path)
    await rm(`${path}.seal`, { force: true })
    await editFile(`${path}.001`, (content) => content.subarray(0, -1))
    const error = { code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl.001', sequence: 2 }
    expect(await outcomeOf(MiniStore.stream(path))).toMatchObject({ items: [1], error })
  })
})

describe('the cost of lines', () => {
  const asynchronous: StandardSchemaV1 = {
    '~standard': { version: 1, vendor: 'test', validate: async (value) => ({ value }) },
  }
  const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833'
  const block = 64 * 1024

  test.each([
    { name: 'that are not JSON', line: 'x', options: {} },
    { name: 'that are blank', line: '', options: {} },
    { name: 'that hold a NUL', line: '\0', options: {} },
    { name: 'that an asynchronous schema takes', line: '1', options: { schema: asynchronous } },
  ])('does not grow with how many there are $name: each is counted once', async ({ line, options }) => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const lines = 3000
    await writeSegment(path, header, [...Array.from({ length: lines }, () => line), '1'])
    const spy = vi.spyOn(Buffer.prototype as Buffer, 'indexOf')
    onTestFinished(() => spy.mockRestore())
    let damages = 0
    const told = { salvage: (): void => void damages++ }
    const records = await MiniStore.replay(path, { ...told, ...options })
    expect(damages).toBe(line === '1' ? 0 : lines)
    expect(records).toHaveLength(lines + 1 - damages)
    expect(spy.mock.calls.length).toBeLessThan(5 * lines)
  })

  test.each([
    { name: 'records', bad: false, options: {} },
    { name: 'records of an asynchronous schema', bad: false, options: { schema: asynchronous } },
    { name: 'damage everywhere', bad: true, options: { salvage: () => {} } },
    { name: 'records that are passed over', bad: false, options: { from: 10 ** 6 } },
  ])('yields to the event loop at every block, even if nothing is awaited: $name', async ({ bad, options }) => {
    // In memory, reads complete without a turn of the event loop.
    const fs = new SimulatedFileSystem()
    const line = Buffer.from(bad ? `{"a":"${'x'.repeat(200)}"\n` : '{"a":1}\n')
    const blocks = 20
    const file = await fs.open('/journal.jsonl', 'create')
    const lines = Buffer.alloc(blocks * block - ((blocks * block) % line.length), line)
    await file.write(Buffer.concat([Buffer.from(`${header}\n`), lines]), 0)
    await file.close()
    let turns = 0
    let immediate = setImmediate(function count() {
      turns++
      immediate = setImmediate(count)
    })
    try {
      await MiniStore.replay('/journal.jsonl', { fileSystem: fs, ...options })
    } finally {
      clearImmediate(immediate)
    }
    expect(turns).toBeGreaterThanOrEqual(blocks - 1)
    // An abort in the next turn of the event loop ends the stream within the block.
    const abort = new AbortController()
    let told = 0
    const count = { salvage: (): void => void told++ }
    setImmediate(() => abort.abort('enough'))
    const stream = MiniStore.stream('/journal.jsonl', { fileSystem: fs, ...options, ...(bad ? count : {}), signal: abort.signal })
    const { items, error } = await outcomeOf(stream)
    expect(error).toBe('enough')
    expect((items.length + told) * line.length).toBeLessThanOrEqual(block)
  })
})

describe('lines and blocks', () => {
  const block = 64 * 1024
  const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833'

  /** A segment whose second record begins this many bytes before the first border of 64 KiB. */
  async function alignedJournal(
    before: number,
    records: readonly string[],
  ): Promise<{ path: string; filler: string }> {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const taken = header.length + 1 + 3
    const filler = 'f'.repeat(block - taken - before)
    await writeSegment(
      path,
      header,
      [filler, ...records].map((record) => JSON.stringify(record)),
    )
    return { path, filler }
  }

  test.each(numbers(0, 12))(
    'characters of 2, 3 and 4 bytes across the border of a block, %i bytes before it',
    async (before) => {
      const records = ['é', '€', '😀', 'é€😀', '😀😀😀😀', 'plain', '\u2028\u2029'].map(
        (text) => `${text}${before}`,
      )
      const { path, filler } = await alignedJournal(before, records)
      const told: unknown[] = []
      const all = await collect(MiniStore.stream(path, { salvage: (damage) => void told.push(damage) }))
      expect(all).toEqual([filler, ...records])
      expect(told).toEqual([])
      await using store = await MiniStore.open<string>(path)
      expect(store.recovery.torn).toBeUndefined()
      expect(await collect(store.stream({ from: 2 }))).toEqual(records)
    },
  )

  test.each(numbers(0, 4))(
    'a character of 4 bytes inside one long line, border after its byte %i',
    async (bytes) => {
      const path = join(await temporaryDirectory(), 'journal.jsonl')
      const text = `${'a'.repeat(block - header.length - 1 - 1 - bytes)}😀${'é'.repeat(block)}`
      await writeSegment(path, header, [JSON.stringify(text), '"next"'])
      expect(await MiniStore.replay(path)).toEqual([text, 'next'])
    },
  )

  test.each(
    [-2, -1, 0, 1, 2].flatMap((more) => [1, 2, 3].map((blocks) => ({ bytes: blocks * block + more }))),
  )('lines of $bytes bytes, alone and one after another', async ({ bytes }) => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    // The line length includes two quotes and the line feed.
    const text = (letter: string): string => letter.repeat(bytes - 3)
    const records = ['short', text('a'), text('b'), 'between', text('c')]
    await using store = await MiniStore.open<string>(path)
    for (const record of records) await store.append(record)
    expect(await store.replay()).toEqual(records)
    expect(await collect(MiniStore.stream(path, { fileSystem: new ObservedFileSystem() }))).toEqual(records)
    expect(await store.replay({ from: 4 })).toEqual(records.slice(3))
  })

  test('a line of 16 MiB and the lines around it read back intact', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const large = 'ü'.repeat(8 * 1024 * 1024 - 1)
    await writeJournal(path, [['before', large, 'after']])
    const records = await MiniStore.replay<string>(path)
    expect(records.map((record) => record.length)).toEqual([6, large.length, 5])
    expect(records[1] === large).toBe(true)
    await using store = await MiniStore.open<string>(path)
    expect(store.lastSequence).toBe(3)
    await expect(store.append(`${large}x`)).rejects.toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' })
  })

  test('lines of one byte fill several blocks', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const digits = Array.from({ length: 200_000 }, (_, index) => index % 10)
    await writeJournal(path, [digits])
    expect(await MiniStore.replay(path)).toEqual(digits)
  })

  test('records of every JSON type read back, including null, false and 0', async () => {
    const records = [
      0,
      1.5,
      -7,
      '',
      'text',
      null,
      false,
      true,
      [],
      [1, [2, null]],
      {},
      { a: { b: [] } },
      'line\nfeed\r\n\t\0',
    ]
    const path = await journalOf(records.slice(0, 5), records.slice(5))
    expect(await MiniStore.replay(path)).toEqual(records)
    const reader = MiniStore.stream(path).getReader()
    for (const record of records) expect(await reader.read()).toEqual({ done: false, value: record })
    const entries: Array<JournalEntry<unknown>> = await collect(MiniStore.entries(path))
    expect(entries).toEqual(records.map((record, index) => ({ sequence: index + 1, record })))
  })
})

describe('memory', () => {
  test('stays flat over a journal of 200 MiB', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const store = await MiniStore.open(path)
    const batch = numbers(1, 50_000).map((n) => ({
      n,
      type: 'UserCreated',
      name: `user ${n}`,
      tags: ['a', 'b'],
      pad: 'p'.repeat(60),
    }))
    let count = 0
    while (store.segments.reduce((sum, { bytes }) => sum + bytes, 0) < 200 * 1024 * 1024) {
      await store.appendAll(batch)
      count += batch.length
    }
    await store.close()
    const script = fileURLToPath(new URL('../support/measure-replay.js', import.meta.url))
    for (const way of ['iterator', 'reader', 'bytes']) {
      const child = fork(script, [path, way], { execArgv: ['--expose-gc'] })
      const [measured] = (await once(child, 'message')) as [
        { records: number; growth: number; samples: number },
      ]
      console.log(
        `replay of 200 MiB through ${way}: rss grew by ${(measured.growth / 2 ** 20).toFixed(1)} MiB`,
      )
      expect(measured.records).toBe(count)
      expect(measured.samples).toBeGreaterThan(50)
      // Data retained from one block to the next would make V8 use twice as much. The copies that
      // bytes() gives away are collected a little later.
      expect(measured.growth).toBeLessThan((way === 'bytes' ? 40 : 24) * 1024 * 1024)
    }
  }, 120_000)
})

function flipped(content: Buffer, at: number, bit: number): Buffer {
  const changed = Buffer.from(content)
  changed.writeUInt8(changed.readUInt8(at) ^ (1 << bit), at)
  return changed
}
