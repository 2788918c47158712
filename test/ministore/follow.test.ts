import { spawn } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { appendFile, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, onTestFinished, test, vi } from 'vitest'

import { recentBytes, RecentBytes } from '../../src/fs/bytes.ts'
import { type FileStat, type JournalEntry, type JournalIterator, type JournalStream, MiniStore } from '../../src/index.ts'
import { collect, outcomeOf, take, turn } from '../support/consume.ts'
import { crc32Of, idAt, numbers, writeJournal, writeOldJournal, writeSegment } from '../support/journals.ts'
import { Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { RemoteStore } from '../support/remote-store.ts'
import { pickSeed, seededRandom } from '../support/seeded-random.ts'
import { temporaryDirectory, temporaryProgram } from '../support/temporary-directory.ts'

const journalPath = async (): Promise<string> => join(await temporaryDirectory(), 'journal.jsonl')

/** The state of a promise after all ready tasks have run. */
async function stateOf(promise: Promise<unknown>): Promise<'pending' | 'settled'> {
  let state: 'pending' | 'settled' = 'pending'
  const settle = (): void => {
    state = 'settled'
  }
  promise.then(settle, settle)
  for (let turns = 0; turns < 5; turns++) await turn()
  return state
}

/** Takes the entries from `first` to `last` and checks that each record equals its number. */
async function expectEntries(
  iterator: JournalIterator<JournalEntry<number>>,
  first: number,
  last: number,
): Promise<void> {
  const entries = await take(iterator, last - first + 1)
  expect(entries).toEqual(numbers(first, last).map((n) => ({ sequence: n, record: n })))
}

describe.each(['instance', 'static'] as const)('a follower in the process of the writer, %s', (kind) => {
  const follower = (
    store: MiniStore<number>,
    options: { from?: number; to?: number; signal?: AbortSignal } = {},
  ): JournalIterator<JournalEntry<number>> =>
    (kind === 'instance'
      ? store.entries({ ...options, follow: true })
      : MiniStore.entries<number>(store.path, { ...options, follow: true })
    ).values()

  test('returns the history, then each record once it is acknowledged', async () => {
    await using store = await MiniStore.open<number>(await journalPath())
    await store.appendAll(numbers(1, 5))
    const live = follower(store)
    await expectEntries(live, 1, 5)
    for (const n of numbers(6, 20)) {
      const next = live.next()
      expect(await stateOf(next)).toBe('pending')
      await store.append(n)
      expect(await next).toEqual({ done: false, value: { sequence: n, record: n } })
    }
    await live.return()
  })

  test('uses one signal for all waits: each further signal would leave a trace in its sources', async () => {
    const any = vi.spyOn(AbortSignal, 'any')
    onTestFinished(() => any.mockRestore())
    await using store = await MiniStore.open<number>(await journalPath())
    const live = follower(store)
    for (const n of numbers(1, 50)) {
      const next = live.next()
      expect(await stateOf(next)).toBe('pending')
      await store.append(n)
      await next
    }
    await live.return()
    expect(any.mock.calls.length).toBeLessThanOrEqual(1)
  })

  test('keeps one listener on the signal of its waits, however often it waits', async () => {
    await using store = await MiniStore.open<number>(await journalPath())
    const live = follower(store)
    const add = vi.spyOn(AbortSignal.prototype, 'addEventListener')
    onTestFinished(() => add.mockRestore())
    for (const n of numbers(1, 20)) {
      const next = live.next()
      expect(await stateOf(next)).toBe('pending')
      await store.append(n)
      await next
    }
    const signals = new Set(add.mock.contexts as AbortSignal[])
    expect(signals.size).toBeGreaterThan(0)
    for (const signal of signals) expect(getEventListeners(signal, 'abort').length).toBeLessThanOrEqual(1)
    await live.return()
  })

  test('continues through rotations, deletions of records it has read, and empty segments', async () => {
    await using store = await MiniStore.open<number>(await journalPath(), { maxBytesPerSegment: 80 })
    const live = follower(store)
    for (let n = 1; n <= 30; n += 3) {
      await store.appendAll([n, n + 1, n + 2])
      await expectEntries(live, n, n + 2)
      if (n % 2 === 0) await store.rotate()
      if (n % 5 === 0) await store.truncateBefore(store.lastSequence + 1)
    }
    expect(store.firstSequence).toBeGreaterThan(1)
    await live.return()
  })

  test('starts with `from`, even before that record exists', async () => {
    await using store = await MiniStore.open<number>(await journalPath())
    await store.appendAll(numbers(1, 5))
    const inside = follower(store, { from: 4 })
    const ahead = follower(store, { from: 8 })
    await expectEntries(inside, 4, 5)
    const next = ahead.next()
    await store.append(6)
    await store.rotate()
    await store.append(7)
    expect(await stateOf(next)).toBe('pending')
    await store.append(8)
    expect((await next).value).toEqual({ sequence: 8, record: 8 })
    await expectEntries(inside, 6, 8)
    await Promise.all([inside.return(), ahead.return()])
  })

  test.each([2, 5, 7])('ends with `to` %i, in the history, at its end or beyond it', async (to) => {
    await using store = await MiniStore.open<number>(await journalPath())
    await store.appendAll(numbers(1, 5))
    const all = collect(follower(store, { to }))
    if (to <= 5) expect((await all).map(({ record }) => record)).toEqual(numbers(1, to))
    else expect(await stateOf(all)).toBe('pending')
    await store.append(6)
    await store.rotate()
    await store.appendAll([7, 8])
    expect((await all).map(({ record }) => record)).toEqual(numbers(1, to))
  })

  test('ends when its signal is aborted, with the reason', async () => {
    await using store = await MiniStore.open<number>(await journalPath())
    await store.append(1)
    const abort = new AbortController()
    const live = follower(store, { signal: abort.signal })
    await expectEntries(live, 1, 1)
    const next = live.next()
    const reason = new Error('enough')
    abort.abort(reason)
    await expect(next).rejects.toBe(reason)
    expect(await live.next()).toEqual({ done: true, value: undefined })
  })

  test('sees no record before it is acknowledged', async () => {
    const fs = new ObservedFileSystem()
    const path = await journalPath()
    await using store = await MiniStore.open<number>(path, { fileSystem: fs })
    await store.append(1)
    const gate = new Gate()
    fs.hook = ({ operation }) => (operation === 'dataSync' ? gate.wait() : undefined)
    const options = { follow: true, fileSystem: fs }
    const live =
      kind === 'instance' ? store.stream({ follow: true }) : MiniStore.stream<number>(path, options)
    const iterator = live.values()
    expect(await take(iterator, 1)).toEqual([1])
    const acknowledged = store.append(2)
    await gate.reached
    const next = iterator.next()
    expect(await stateOf(next)).toBe('pending')
    expect(await MiniStore.replay(path, { fileSystem: fs })).toEqual([1])
    expect(await store.replay()).toEqual([1])
    expect(await stateOf(acknowledged)).toBe('pending')
    fs.hook = () => {}
    gate.open()
    expect(await acknowledged).toBe(2)
    expect((await next).value).toBe(2)
    await iterator.return()
  })

  test('a slow follower leaves unread records on the disk: at most a block is parsed ahead', async () => {
    let parsed = 0
    const codec = {
      encode: (record: number) => JSON.stringify(record).padEnd(1000),
      decode: (line: string) => {
        parsed++
        return JSON.parse(line) as number
      },
    }
    const store = await MiniStore.open<number>(await journalPath(), { codec, maxBytesPerSegment: 300_000 })
    const live =
      kind === 'instance'
        ? store.stream({ follow: true, to: 2000 })
        : MiniStore.stream<number>(store.path, { codec, follow: true, to: 2000 })
    const iterator = live.values()
    let furthest = 0
    let taken = 0
    // The writer is always hundreds of records ahead of the reader.
    for (let n = 1; n <= 2000; n += 100) {
      await store.appendAll(numbers(n, n + 99))
      expect(await take(iterator, 20)).toEqual(numbers(taken + 1, taken + 20))
      taken += 20
      furthest = Math.max(furthest, parsed - taken)
    }
    for await (const record of iterator) {
      expect(record).toBe(++taken)
      furthest = Math.max(furthest, parsed - taken)
    }
    expect(taken).toBe(2000)
    expect(furthest).toBeGreaterThan(0)
    expect(furthest).toBeLessThanOrEqual(Math.ceil((64 * 1024) / 1000))
    await store.close()
  })

  test('resolves overlapping calls of next() in order, however many records come at once', async () => {
    await using store = await MiniStore.open<number>(await journalPath())
    const live = follower(store)
    let last = 0
    for (let round = 0; round < 12; round++) {
      const waits = Array.from({ length: 6 }, () => live.next())
      expect(await stateOf(Promise.race(waits))).toBe('pending')
      await store.append(last + 1)
      expect((await waits[0])?.value).toEqual({ sequence: last + 1, record: last + 1 })
      // Called while the others still wait, or have just got their records.
      if (round % 2 === 0) waits.push(live.next())
      const appended = store.appendAll(numbers(last + 2, last + 6))
      waits.push(live.next())
      await appended
      waits.push(live.next())
      await store.appendAll(numbers(last + 7, last + waits.length))
      const entries = (await Promise.all(waits)).map(({ value }) => value)
      expect(entries).toEqual(numbers(last + 1, last + waits.length).map((n) => ({ sequence: n, record: n })))
      last += waits.length
      if (round % 3 === 0) await store.rotate()
    }
    await live.return()
  })

  test('many followers at once each get everything', async () => {
    await using store = await MiniStore.open<number>(await journalPath(), { maxBytesPerSegment: 220 })
    const followers = Array.from({ length: 20 }, () => collect(follower(store, { to: 100 })))
    for (const n of numbers(1, 100)) await store.append(n)
    for (const entries of await Promise.all(followers)) {
      expect(entries.map(({ record }) => record)).toEqual(numbers(1, 100))
    }
  })
})

describe('a follower created from a store', () => {
  test('ends after the last record when the store is closed, waiting or reading', async () => {
    const store = await MiniStore.open<number>(await journalPath())
    await store.appendAll(numbers(1, 5))
    const waiting = collect(store.stream({ follow: true }))
    const reading = store.stream({ follow: true }).values()
    expect(await take(reading, 2)).toEqual([1, 2])
    expect(await stateOf(waiting)).toBe('pending')
    const appended = store.append(6)
    const closed = store.close()
    await Promise.all([appended, closed])
    expect(await waiting).toEqual(numbers(1, 6))
    expect(await collect(reading)).toEqual([3, 4, 5, 6])
  })

  test('ends with ERR_MINISTORE_POISONED after every acknowledged record', async () => {
    const fs = new ObservedFileSystem()
    const store = await MiniStore.open<number>(await journalPath(), { fileSystem: fs })
    await store.appendAll([1, 2])
    const waiting = outcomeOf(store.stream({ follow: true }))
    const reading = store.stream({ follow: true }).values()
    expect(await take(reading, 1)).toEqual([1])
    expect(await stateOf(waiting)).toBe('pending')
    fs.hook = ({ operation }) => {
      if (operation === 'dataSync')
        throw Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })
    }
    await expect(store.append(3)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    expect(await waiting).toMatchObject({ items: [1, 2], error: { code: 'ERR_MINISTORE_POISONED' } })
    expect(await outcomeOf(reading)).toMatchObject({ items: [2], error: { code: 'ERR_MINISTORE_POISONED' } })
    await store.close()
  })

  test('ends with ERR_MINISTORE_POISONED even after the poisoned store was closed', async () => {
    const fs = new ObservedFileSystem()
    const store = await MiniStore.open<number>(await journalPath(), { fileSystem: fs })
    await store.appendAll([1, 2])
    const reading = store.stream({ follow: true }).values()
    expect(await take(reading, 1)).toEqual([1])
    fs.hook = ({ operation }) => {
      if (operation === 'dataSync') throw new Error('EIO: i/o error, fdatasync')
    }
    await expect(store.append(3)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    await store.close()
    expect(await outcomeOf(reading)).toMatchObject({ items: [2], error: { code: 'ERR_MINISTORE_POISONED' } })
  })

  test('whose next record is deleted ends with ERR_MINISTORE_SEQUENCE_GONE', async () => {
    await using store = await MiniStore.open<number>(await journalPath())
    await store.appendAll([1, 2])
    const live = store.stream({ follow: true }).values()
    expect(await take(live, 2)).toEqual([1, 2])
    await store.rotate()
    await store.appendAll([3, 4])
    await store.rotate()
    await store.append(5)
    await store.truncateBefore(5)
    expect(await outcomeOf(live)).toMatchObject({
      items: [],
      error: { code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 3 },
    })
  })

  test('ends after the last record of its store, even if the next writer adds records', async () => {
    const path = await journalPath()
    const store = await MiniStore.open<string>(path)
    await store.append('a')
    const [reading, waiting, behind] = Array.from({ length: 3 }, () => store.stream({ follow: true }).values())
    for (const live of [reading, waiting, behind]) expect(await take(live as JournalIterator<string>, 1)).toEqual(['a'])
    const waited = waiting?.next()
    expect(await stateOf(waited as Promise<unknown>)).toBe('pending')
    await store.append('b')
    await store.rotate()
    await store.append('c')
    await store.close()
    const next = await MiniStore.open<string>(path)
    await next.append('other')
    expect((await waited)?.value).toBe('b')
    expect(await collect(waiting as JournalIterator<string>)).toEqual(['c'])
    await next.rotate()
    await next.append('others')
    expect(await collect(reading as JournalIterator<string>)).toEqual(['b', 'c'])
    await next.close()
    expect(await collect(behind as JournalIterator<string>)).toEqual(['b', 'c'])
    expect(await MiniStore.replay(path)).toEqual(['a', 'b', 'c', 'other', 'others'])
  })

  test('ends with an error when its store was closed and another journal is at its path', async () => {
    const path = await journalPath()
    const store = await MiniStore.open<string>(path)
    await store.append('a')
    const reading = store.stream({ follow: true }).values()
    const unread = store.stream({ follow: true })
    expect(await take(reading, 1)).toEqual(['a'])
    await store.rotate()
    await store.appendAll(['b', 'c'])
    await store.close()
    await rm(dirname(path), { recursive: true })
    await writeJournal(path, [['A', 'B', 'C', 'D']])
    for (const live of [reading, unread]) {
      expect(await outcomeOf(live)).toMatchObject({ items: [], error: { code: 'ERR_MINISTORE_FOREIGN_JOURNAL', path } })
    }
  })

  test('returns every acknowledged record before ERR_MINISTORE_POISONED, even those not read yet', async () => {
    const fs = new ObservedFileSystem()
    const store = await MiniStore.open<number>(await journalPath(), { fileSystem: fs })
    await store.append(1)
    const reading = store.stream({ follow: true }).values()
    expect(await take(reading, 1)).toEqual([1])
    await store.append(2)
    await store.rotate()
    await store.append(3)
    fs.hook = ({ operation }) => {
      if (operation === 'dataSync') throw new Error('EIO: i/o error, fdatasync')
    }
    await expect(store.append(4)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    expect(await outcomeOf(reading)).toMatchObject({ items: [2, 3], error: { code: 'ERR_MINISTORE_POISONED' } })
    await store.close()
  })

  test('never sees an append that is rolled back', async () => {
    const fs = new ObservedFileSystem()
    await using store = await MiniStore.open<number>(await journalPath(), { fileSystem: fs })
    await store.append(1)
    const live = store.stream({ follow: true }).values()
    expect(await take(live, 1)).toEqual([1])
    const next = live.next()
    fs.hook = ({ operation }) => {
      if (operation === 'write')
        throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
    }
    await expect(store.append(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    expect(await stateOf(next)).toBe('pending')
    fs.hook = () => {}
    expect(await store.append(22)).toBe(2)
    expect((await next).value).toBe(22)
    await live.return()
  })
})

describe('a follower by path', () => {
  test('outlives the writer in its process, and continues with the next one', async () => {
    const path = await journalPath()
    const first = await MiniStore.open<number>(path)
    await first.append(1)
    const live = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 5 }).values()
    expect(await take(live, 1)).toEqual([1])
    const next = live.next()
    await first.append(2)
    expect((await next).value).toBe(2)
    const later = live.next()
    await first.close()
    expect(await stateOf(later)).toBe('pending')
    const second = await MiniStore.open<number>(path)
    await second.rotate()
    await second.append(3)
    expect((await later).value).toBe(3)
    await second.close()
    await live.return()
  })

  test.each(['beside what is there', 'in directories that are not there'])(
    'may start before the journal exists, %s',
    async (where) => {
      const directory = await temporaryDirectory()
      const path = where.startsWith('beside')
        ? join(directory, 'journal.jsonl')
        : join(directory, 'a/b/journal.jsonl')
      const live = MiniStore.entries<number>(path, { follow: true, pollIntervalMs: 5 }).values()
      const next = live.next()
      expect(await stateOf(next)).toBe('pending')
      const writer = RemoteStore.inProcess()
      await writer.open(path)
      expect(await stateOf(next)).toBe('pending')
      await writer.append(1)
      expect((await next).value).toEqual({ sequence: 1, record: 1 })
      await writer.appendAll([2, 3])
      await expectEntries(live, 2, 3)
      await live.return()
    },
  )

  test('follows another process through appends, rotations and deletions without a gap', async () => {
    const path = await journalPath()
    const writer = RemoteStore.inProcess()
    await writer.open(path, { maxBytesPerSegment: 140 })
    const live = MiniStore.entries<number>(path, { follow: true, pollIntervalMs: 5 }).values()
    let last = 0
    for (let round = 1; round <= 25; round++) {
      const size = 1 + ((round * 7) % 5)
      const next = live.next()
      if (round % 2 === 0) await writer.appendAll(numbers(last + 1, last + size))
      else for (const n of numbers(last + 1, last + size)) await writer.append(n)
      expect((await next).value).toEqual({ sequence: last + 1, record: last + 1 })
      await expectEntries(live, last + 2, last + size)
      last += size
      if (round % 3 === 0) await writer.rotate()
      // Every earlier record was read, so no unread record is deleted.
      if (round % 4 === 0) await writer.truncateBefore(last + 1)
    }
    expect(last).toBeGreaterThan(60)
    await live.return()
  })

  test('reads its open segment to the end when it is deleted, then reports the missing records', async () => {
    const path = await journalPath()
    const writer = RemoteStore.inProcess()
    await writer.open(path)
    await writer.appendAll([1, 2])
    const live = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 5 }).values()
    expect(await take(live, 1)).toEqual([1])
    await writer.append(3)
    await writer.rotate()
    await writer.append(4)
    await writer.rotate()
    await writer.append(5)
    await writer.truncateBefore(5)
    expect(await outcomeOf(live)).toMatchObject({
      items: [2, 3],
      error: { code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 4 },
    })
  })

  test.each([
    { name: 'half a line', tail: '{"half": "a rec' },
    { name: 'half a character', tail: Buffer.from('"€', 'utf8').subarray(0, 3) },
    { name: 'a whole line of zeros', tail: Buffer.concat([Buffer.alloc(20), Buffer.from('\n')]) },
    { name: 'nothing but zeros', tail: Buffer.alloc(20), isPadding: true },
    { name: 'many blocks of half a line', tail: `"${'x'.repeat(200_000)}` },
  ])(
    'continues after kill -9 of the writer that leaves $name, and recovery by another writer',
    async ({ tail, isPadding }) => {
      const path = await journalPath()
      const killed = RemoteStore.inProcess()
      await killed.open(path)
      await killed.appendAll([1, 2])
      const fs = new ObservedFileSystem()
      const live = MiniStore.entries<number>(path, {
        follow: true,
        pollIntervalMs: 5,
        fileSystem: fs,
      }).values()
      await expectEntries(live, 1, 2)
      const next = live.next()
      await killed.append(3)
      expect((await next).value).toEqual({ sequence: 3, record: 3 })
      const later = live.next()
      // The follower has looked at the files that the dead writer left.
      const looked = new Gate()
      await killed.tear(tail)
      fs.hook = ({ operation, path: file }) => {
        if (operation === 'stat' && file === path) void looked.wait()
      }
      await looked.reached
      expect(await stateOf(later)).toBe('pending')
      const recoverer = RemoteStore.inProcess()
      const { recovery } = await recoverer.open(path)
      expect(recovery).toMatchObject({ torn: isPadding === true ? undefined : { sequence: 4, bytes: tail.length } })
      await recoverer.append(4)
      expect((await later).value).toEqual({ sequence: 4, record: 4 })
      await recoverer.rotate()
      await recoverer.append(5)
      await expectEntries(live, 5, 5)
      await live.return()
    },
  )

  test('returns a line that arrives in pieces only once it is complete', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1]])
    const looks = { count: 0 }
    const fs = new ObservedFileSystem(({ operation, path: file }) => {
      if (operation === 'stat' && file === path) looks.count++
    })
    const live = MiniStore.stream(path, { follow: true, pollIntervalMs: 2, fileSystem: fs }).values()
    expect(await take(live, 1)).toEqual([1])
    const next = live.next()
    for (const piece of ['{"a', '":"', 'é'.repeat(40_000), '"}']) {
      await appendFile(path, piece)
      const { count } = looks
      while (looks.count < count + 3) await turn()
      expect(await stateOf(next)).toBe('pending')
    }
    await appendFile(path, '\n')
    expect((await next).value).toEqual({ a: 'é'.repeat(40_000) })
    await live.return()
  })

  /** A journal in a new directory. A follower has read it, and looks again once the gate opens. */
  async function followedJournal(
    segments = [numbers(1, 4), numbers(5, 10)],
    write: (path: string, segments: number[][]) => Promise<void> = writeJournal,
  ): Promise<{ path: string; next: Promise<unknown>; gate: Gate }> {
    const path = join(await temporaryDirectory(), 'logs', 'journal.jsonl')
    await write(path, segments)
    const fs = new ObservedFileSystem()
    const gate = new Gate()
    const live = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 2, fileSystem: fs }).values()
    const records = segments.flat()
    expect(await take(live, records.length)).toEqual(records)
    fs.hook = () => gate.wait()
    const next = live.next()
    next.catch(() => {})
    await gate.reached
    return { path, next, gate }
  }

  test('ends with an error when the journal is deleted', async () => {
    const { path, next, gate } = await followedJournal()
    await rm(dirname(path), { recursive: true })
    gate.open()
    await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', path, segment: 'journal.jsonl' })
    await expect(next).rejects.toThrow('the journal was deleted while it was being read')
  })

  const foreign = /was replaced by another journal: its id was [0-9a-f]{16} and is now [0-9a-f]{16}$/

  test.each([5, 10, 12, 50])('ends with an error when the journal is deleted and created again, with %d records', async (count) => {
    const { path, next, gate } = await followedJournal()
    await rm(dirname(path), { recursive: true })
    await writeJournal(path, [numbers(1, count)])
    gate.open()
    await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL', path })
    await expect(next).rejects.toThrow(foreign)
  })

  test.each([5, 10, 12])('ends with an error when a journal without an identity is created again, with %d records', async (count) => {
    const { path, next, gate } = await followedJournal(undefined, writeOldJournal)
    await rm(dirname(path), { recursive: true })
    await writeOldJournal(path, [numbers(1, count)])
    gate.open()
    await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', path })
    await expect(next).rejects.toThrow('the journal was replaced by another while it was being followed')
  })

  test('ends with an error, also with salvage, when a journal begun anew is written into the same files', async () => {
    const path = await journalPath()
    await writeJournal(path, [numbers(1, 100)])
    const told: unknown[] = []
    const salvage = (damage: unknown): void => void told.push(damage)
    const live = MiniStore.entries<number>(path, { follow: true, pollIntervalMs: 2, salvage }).values()
    expect(await take(live, 100)).toHaveLength(100)
    const next = live.next()
    next.catch(() => {})
    const other = await journalPath()
    await writeJournal(other, [numbers(1, 150)])
    await writeFile(path, await readFile(other), { flag: 'r+' })
    await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL', path })
    expect(told).toEqual([])
  })

  test.each([
    { name: 'with records, by a rotation', segments: [[1, 2], [3]] },
    { name: 'with an empty active segment', segments: [[1, 2, 3], []] },
    { name: 'that is empty', segments: [[]] },
  ])('continues when opening gives an identity to an old journal $name', async ({ segments }) => {
    const { path, next, gate } = await followedJournal(segments, writeOldJournal)
    const ended = MiniStore.stream(path)
    const iterator = ended.values()
    const first = segments.flat().length === 0 ? undefined : await iterator.next()
    const store = await MiniStore.open<number>(path)
    expect(await idAt(path)).toBe(store.id)
    await store.append(4)
    await store.append(5)
    gate.open()
    expect(await next).toMatchObject({ value: 4 })
    await store.close()
    if (first !== undefined) expect(await collect(iterator)).toEqual(segments.flat().slice(1))
  })

  test('continues in a journal whose new segment lacks the identity: an older program has rotated', async () => {
    const { path, next, gate } = await followedJournal([[1, 2, 3]])
    await rename(path, `${path}.001`)
    await rm(`${path}.seal`)
    await writeSegment(path, `// MINISTORE JOURNAL v0.2.0 seq=4 prev=${await crc32Of(`${path}.001`)}`, ['4'])
    gate.open()
    expect(await next).toMatchObject({ value: 4 })
  })

  test('only checks the status of its file while nothing changes, and leaves no listener behind', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1]])
    const calls = new Map<string, number>()
    const fs = new ObservedFileSystem(({ operation }) => {
      calls.set(operation, (calls.get(operation) ?? 0) + 1)
    })
    const add = vi.spyOn(AbortSignal.prototype, 'addEventListener')
    onTestFinished(() => add.mockRestore())
    const live = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 1, fileSystem: fs }).values()
    expect(await take(live, 1)).toEqual([1])
    const next = live.next()
    await appendFile(path, '2\n')
    expect((await next).value).toBe(2)
    const later = live.next()
    expect(await stateOf(later)).toBe('pending')
    calls.clear()
    while ((calls.get('stat') ?? 0) < 40) await turn()
    calls.delete('stat')
    calls.delete('realPath')
    expect([...calls]).toEqual([])
    const counts = [...new Set(add.mock.contexts as AbortSignal[])].map((signal) => getEventListeners(signal, 'abort').length)
    expect(Math.max(...counts)).toBeLessThanOrEqual(1)
    expect(counts.filter((count) => count > 0).length).toBeLessThanOrEqual(2)
    await live.return()
  })

  test('ends with an error when its only segment was deleted and created again', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1, 2]])
    const live = MiniStore.stream<number>(path, { follow: true, pollIntervalMs: 2 }).values()
    expect(await take(live, 2)).toEqual([1, 2])
    await rm(path)
    await rm(`${path}.seal`)
    await writeJournal(path, [[1, 2, 3, 4]])
    await expect(live.next()).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL', path })
  })

  test.each([
    { name: 'begins where it is to go on', first: 4 },
    { name: 'begins within what it has read', first: 3 },
    { name: 'has no checksum of what was before', first: 4, header: '// MINISTORE JOURNAL v0.2.0 seq=4' },
  ])('never continues in another journal, which $name', async ({ first, header }) => {
    const { path, next, gate } = await followedJournal([[1, 2, 3]], writeOldJournal)
    const other = await journalPath()
    await writeOldJournal(other, [Array.from({ length: first - 1 }, () => 'before'), ['other', 'others']])
    await rm(dirname(path), { recursive: true })
    await mkdir(dirname(path))
    if (header === undefined) await rename(other, path)
    else await writeSegment(path, header, ['"other"', '"others"'])
    gate.open()
    await expect(next).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', path, segment: 'journal.jsonl' })
    await expect(next).rejects.toThrow('the journal was replaced by another while it was being followed')
  })

  test('continues in a copy of its journal: the earlier records are the same', async () => {
    const { path, next, gate } = await followedJournal([[1, 2, 3]])
    const store = await MiniStore.open(path)
    await store.rotate()
    await store.append(4)
    await store.truncateBefore(4)
    await store.close()
    const copy = await readFile(path)
    await rm(path)
    await writeFile(path, copy)
    gate.open()
    expect(await next).toMatchObject({ value: 4 })
  })

  test('detects a partial line replaced by another of the same length within the resolution of the clock', async () => {
    class OneTime extends ObservedFileSystem {
      override async stat(path: string): Promise<FileStat> {
        return { ...(await super.stat(path)), changedMs: 7 }
      }

      override async open(...parameters: Parameters<ObservedFileSystem['open']>): ReturnType<ObservedFileSystem['open']> {
        const file = await super.open(...parameters)
        const stat = file.stat.bind(file)
        return Object.assign(file, { stat: async () => ({ ...(await stat()), changedMs: 7 }) })
      }
    }
    const path = await journalPath()
    await writeJournal(path, [['first']])
    const looks = { count: 0 }
    const fs = new OneTime(({ operation, path: file }) => {
      if (operation === 'stat' && file === path) looks.count++
    })
    const live = MiniStore.stream<string>(path, { follow: true, pollIntervalMs: 2, fileSystem: fs }).values()
    expect(await take(live, 1)).toEqual(['first'])
    const next = live.next()
    await appendFile(path, '"half')
    const { count } = looks
    while (looks.count < count + 5) await turn()
    const content = await readFile(path)
    await writeFile(path, Buffer.concat([content.subarray(0, -5), Buffer.from('"ab"\n')]), { flag: 'r+' })
    expect((await next).value).toBe('ab')
    await live.return()
  })

  test('detects a journal that continued in files of the same inode and size', async () => {
    // A file system may reuse the inode of a deleted file: here all files have the same inode.
    class OneInode extends ObservedFileSystem {
      override async stat(path: string): Promise<FileStat> {
        return { ...(await super.stat(path)), inode: 7 }
      }

      override async open(
        ...parameters: Parameters<ObservedFileSystem['open']>
      ): ReturnType<ObservedFileSystem['open']> {
        const file = await super.open(...parameters)
        const stat = file.stat.bind(file)
        return Object.assign(file, { stat: async () => ({ ...(await stat()), inode: 7 }) })
      }
    }
    const path = await journalPath()
    const store = await MiniStore.open<string>(path)
    // `prev=` and its value make the header of a later segment longer by this length.
    await store.append(`first${'-'.repeat(' prev=00000000'.length)}`)
    const fs = new OneInode()
    const gate = new Gate()
    const looks = { count: 0 }
    const live = MiniStore.stream<string>(path, { follow: true, pollIntervalMs: 2, fileSystem: fs }).values()
    expect(await take(live, 1)).toHaveLength(1)
    fs.hook = ({ operation, path: file }) => {
      if (operation !== 'stat' || file !== path) return undefined
      looks.count++
      return gate.wait()
    }
    const next = live.next()
    await gate.reached
    const { bytes } = store.segments[0] as { bytes: number }
    await store.rotate()
    await store.append('other')
    expect(store.segments.at(-1)?.bytes).toBe(bytes)
    gate.open()
    while (looks.count < 50 && (await stateOf(next)) === 'pending');
    expect(await stateOf(next), 'after fifty looks').toBe('settled')
    expect((await next).value).toBe('other')
    await live.return()
    await store.close()
  })
})

describe.each(['instance', 'static'])('a follower that waits, %s', (kind) => {
  /** A store and followers in its process, with views from the writer and from the disk. */
  async function waiting(): Promise<{ store: MiniStore<number>; stream: () => JournalStream<number> }> {
    const store = await MiniStore.open<number>(await journalPath())
    await store.append(1)
    const stream = (): JournalStream<number> =>
      kind === 'instance' ? store.stream({ follow: true }) : MiniStore.stream<number>(store.path, { follow: true })
    return { store, stream }
  }

  test('is left by return(), for all waiting calls of next()', async () => {
    const { store, stream } = await waiting()
    const live = stream().values()
    expect(await take(live, 1)).toEqual([1])
    const nexts = [live.next(), live.next()]
    expect(await stateOf(nexts[0] as Promise<unknown>)).toBe('pending')
    expect(await live.return()).toEqual({ done: true, value: undefined })
    expect(await Promise.all(nexts)).toEqual([{ done: true }, { done: true }].map((each) => ({ ...each, value: undefined })))
    await store.close()
  })

  test('is left by return(), even after a read that was released while it waited', async () => {
    const { store, stream } = await waiting()
    const source = stream()
    const reader = new ReadableStreamDefaultReader(source)
    expect((await reader.read()).value).toBe(1)
    const refused = reader.read()
    expect(await stateOf(refused)).toBe('pending')
    reader.releaseLock()
    await expect(refused).rejects.toThrow(TypeError)
    const live = source.values()
    const next = live.next()
    expect(await stateOf(next)).toBe('pending')
    expect(await live.return()).toEqual({ done: true, value: undefined })
    expect(await next).toEqual({ done: true, value: undefined })
    await store.close()
  })

  test('is left by destroy() of a Node stream that reads it', async () => {
    const { store, stream } = await waiting()
    const readable = Readable.from(stream())
    const [first] = (await once(readable, 'data')) as [number]
    expect(first).toBe(1)
    await turn()
    readable.destroy()
    await once(readable, 'close')
    await store.close()
  })

  test('inside a generator returns the requested record, and is freed by return()', async () => {
    const { store, stream } = await waiting()
    const source = stream()
    async function* doubled(): AsyncGenerator<number> {
      for await (const record of source) yield record * 2
    }
    const generator = doubled()
    expect(await take(generator, 1)).toEqual([2])
    const next = generator.next()
    // By the rules of the language a generator does not run return() while its next() waits.
    const left = generator.return(undefined)
    expect(await stateOf(left)).toBe('pending')
    await store.append(2)
    expect(await next).toEqual({ done: false, value: 4 })
    await left
    expect(source.locked).toBe(false)
    expect(await collect(source)).toEqual([])
    await store.close()
  })

  test('is left by return() of an iterator that keeps the stream, which loses no record and goes on', async () => {
    const { store, stream } = await waiting()
    const shared = stream()
    const seen: unknown[] = []
    for (let round = 0; round < 12; round++) {
      const live = shared.values({ preventCancel: true })
      while (seen.length < store.lastSequence) seen.push((await live.next()).value)
      const nexts = [live.next(), live.next()]
      expect(await stateOf(Promise.race(nexts))).toBe('pending')
      // Also at the moment in which the records come.
      const appended = round % 3 === 0 ? store.append(seen.length + 1) : undefined
      if (round % 2 === 0) await appended
      expect(await live.return()).toEqual({ done: true, value: undefined })
      for (const { done, value } of await Promise.all(nexts)) if (done !== true) seen.push(value)
      expect(shared.locked).toBe(false)
      await appended
      await store.append(store.lastSequence + 1)
    }
    const last = shared.values()
    while (seen.length < store.lastSequence) seen.push((await last.next()).value)
    expect(seen).toEqual(numbers(1, store.lastSequence))
    await last.return()
    await store.close()
  })

  test('loses no record to a reader that is released while its read waits', async () => {
    const { store, stream } = await waiting()
    for (const way of ['reader', 'iterator']) {
      const shared = stream()
      const reader = shared.getReader()
      const last = store.lastSequence
      for (let n = 1; n <= last; n++) expect((await reader.read()).value).toBe(n)
      const refused = reader.read()
      expect(await stateOf(refused)).toBe('pending')
      reader.releaseLock()
      await expect(refused).rejects.toThrow(TypeError)
      const other = shared.getReader()
      const next = way === 'reader' ? other.read() : undefined
      if (next === undefined) other.releaseLock()
      const iterator = next === undefined ? shared.values() : undefined
      const following = next ?? iterator?.next()
      await store.appendAll([last + 1, last + 2])
      expect((await following)?.value).toBe(last + 1)
      const after = iterator?.next() ?? other.read()
      expect((await after).value).toBe(last + 2)
      await (iterator === undefined ? other.cancel() : iterator.return())
    }
    await store.close()
  })
})

describe('a process whose only work is a waiting follower', () => {
  /** Runs a program in a child process; `P` is a fresh path. Its first output says it is ready. */
  async function run(program: string): Promise<{ output: string; code: number | null }> {
    const library = JSON.stringify(new URL('../../dist/index.js', import.meta.url))
    const path = JSON.stringify(await journalPath())
    const source = `
      import { MiniStore } from ${library}
      const P = ${path}
      const store = await MiniStore.open(P)
      await store.append(1)
      ${program}`
    const child = spawn(process.execPath, await temporaryProgram(source), { stdio: ['pipe', 'pipe', 'inherit'] })
    onTestFinished(() => void child.kill('SIGKILL'))
    const exited = once(child, 'exit') as Promise<[number | null]>
    const output = text(child.stdout)
    await Promise.race([once(child.stdout, 'readable'), exited])
    // Text on standard input lets the program continue. The program unreferences the stream, so it
    // does not keep the process alive.
    child.stdin.on('error', () => {}) // The process may have ended by itself already.
    child.stdin.end('go on')
    const [code] = await exited
    return { output: await output, code }
  }

  // The process is idle except for the follower: its timer and its input are unreferenced.
  const idle = `
    const goOn = new Promise((resolve) => process.stdin.once('data', resolve))
    process.stdin.unref()
    const idleTurns = async () => { for (let n = 0; n < 20; n++) await new Promise((resolve) => setTimeout(resolve, 1).unref()) }`

  const isDeno = 'deno' in process.versions
  if (isDeno) console.log('skipped: a follower keeps its process alive, because Deno cannot unreference standard input')

  test.skipIf(isDeno).each([
    { kind: 'made from a store', stream: 'store.stream({ follow: true, signal: abort.signal })' },
    { kind: 'by path', stream: 'MiniStore.stream(P, { follow: true, signal: abort.signal })' },
  ])('lives until the signal ends it: $kind', async ({ stream }) => {
    const { output, code } = await run(`
      const abort = new AbortController()
      ${idle}
      goOn.then(idleTurns).then(() => abort.abort('enough'))
      try {
        for await (const record of ${stream}) console.log(record)
      } catch (error) {
        console.log(error)
      }`)
    expect({ output, code }).toEqual({ output: '1\nenough\n', code: 0 })
  })

  test.skipIf(isDeno)('lives until its store is closed', async () => {
    const { output, code } = await run(`
      ${idle}
      goOn.then(idleTurns).then(() => store.append(2)).then(() => store.close())
      for await (const record of store.stream({ follow: true })) console.log(record)
      console.log('closed')`)
    expect({ output, code }).toEqual({ output: '1\n2\nclosed\n', code: 0 })
  })

  test.each(['return', 'cancel', 'break'])('ends by itself once the follower is left by %s', async (way) => {
    const { output, code } = await run(`
      const leave = {
        return: async () => { const it = store.stream({ follow: true }).values(); await it.next(); it.next(); await it.return() },
        cancel: async () => {
          const reader = store.stream({ follow: true }).getReader(); await reader.read(); reader.read(); await reader.cancel()
        },
        break: async () => { for await (const record of store.stream({ follow: true })) break },
      }
      await leave['${way}']()
      console.log('left')`)
    expect({ output, code }).toEqual({ output: 'left\n', code: 0 })
  })
})

describe('records just acknowledged', () => {
  /** Opens a store whose followers by path find it too, and counts the reads of its files. */
  async function observed(options: { maxBytesPerSegment?: number } = {}): Promise<{
    store: MiniStore
    fs: ObservedFileSystem
    reads: () => number
  }> {
    const fs = new ObservedFileSystem()
    let reads = 0
    fs.hook = ({ operation }) => {
      if (operation === 'read' || operation === 'open') reads++
    }
    const store = await MiniStore.open(await journalPath(), { ...options, fileSystem: fs })
    return { store, fs, reads: () => reads }
  }

  test.each(['instance', 'static'])('are handed over from memory: a follower that waits reads no file, %s', async (kind) => {
    const { store, fs, reads } = await observed()
    await store.append({ n: 0 })
    const options = { follow: true, fileSystem: fs }
    const streams = kind === 'instance' ? () => store.stream({ follow: true }) : () => MiniStore.stream(store.path, options)
    const followers = Array.from({ length: 3 }, () => streams().values())
    for (const live of followers) expect(await take(live, 1)).toEqual([{ n: 0 }])
    const waits = followers.map((live) => live.next())
    expect(await stateOf(Promise.race(waits))).toBe('pending')
    const before = reads()
    await store.append({ n: 1 })
    const given = await Promise.all(waits)
    expect(given.map(({ value }) => value)).toEqual([{ n: 1 }, { n: 1 }, { n: 1 }])
    // Each follower has an object of its own.
    expect(new Set(given.map(({ value }) => value)).size).toBe(3)
    await store.appendAll(numbers(2, 500).map((n) => ({ n })))
    for (const live of followers) expect(await take(live, 499)).toEqual(numbers(2, 500).map((n) => ({ n })))
    expect(reads()).toBe(before)
    await Promise.all(followers.map((live) => live.return()))
    await store.close()
  })

  test.each(['synchronous', 'asynchronous'])('pass the codec and a schema that is %s, and damage is reported in its place', async (kind) => {
    interface Numbered {
      readonly n: number
    }
    const codec = {
      encode: (record: Numbered) => `n=${record.n}`,
      decode: (line: string): Numbered => {
        const n = Number(line.slice(2))
        if (n % 7 === 0 && isRefusing) throw new Error(`refused ${n}`)
        return { n }
      },
    }
    const check = (value: unknown): StandardSchemaV1.Result<Numbered> => {
      const { n } = value as Numbered
      return n % 5 === 0 && isRefusing ? { issues: [{ message: `not ${n}` }] } : { value: { n: n * 10 } }
    }
    const validate = (value: unknown): StandardSchemaV1.Result<Numbered> | Promise<StandardSchemaV1.Result<Numbered>> =>
      kind === 'synchronous' ? check(value) : turn().then(() => check(value))
    const schema: StandardSchemaV1<Numbered> = { '~standard': { version: 1, vendor: 'test', validate } }
    let isRefusing = false
    const store = await MiniStore.open(await journalPath(), { codec, schema })
    await store.append({ n: 1 })
    const told: unknown[] = []
    const salvage = (damage: { sequence?: number | undefined }): void => void told.push(damage.sequence)
    const [live, strict] = [store.entries({ follow: true, salvage }).values(), store.stream({ follow: true }).values()]
    expect((await take(live, 1))[0]).toEqual({ sequence: 1, record: { n: 10 } })
    expect((await take(strict, 1))[0]).toEqual({ n: 10 })
    for (let n = 2; n <= 40; ) {
      const next = live.next()
      expect(await stateOf(next)).toBe('pending')
      const count = n % 4
      isRefusing = false
      const written = store.appendAll(numbers(n, n + count).map((each) => ({ n: each })))
      await written
      isRefusing = true
      const good = numbers(n, n + count).filter((each) => each % 5 !== 0 && each % 7 !== 0)
      const [first, ...rest] = good
      if (first !== undefined) expect((await next).value).toEqual({ sequence: first, record: { n: first * 10 } })
      expect(await take(live, rest.length)).toEqual(rest.map((each) => ({ sequence: each, record: { n: each * 10 } })))
      n += count + 1
      if (first !== undefined) continue
      isRefusing = false
      await store.append({ n })
      expect((await next).value).toEqual({ sequence: n, record: { n: n * 10 } })
      n++
    }
    expect(told.length).toBeGreaterThan(8)
    expect(told.every((sequence) => Number(sequence) % 5 === 0 || Number(sequence) % 7 === 0)).toBe(true)
    expect(new Set(told).size).toBe(told.length)
    isRefusing = true
    expect(await outcomeOf(strict)).toMatchObject({ items: [2, 3, 4].map((n) => ({ n: n * 10 })), error: { code: 'ERR_MINISTORE_SCHEMA', sequence: 5 } })
    await live.return()
    await store.close()
  })

  test.each(['waits', 'is behind'])('are taken in order by a follower that %s, whose codec asks for the next record while it decodes one', async (how) => {
    const nexts: Array<Promise<IteratorResult<number>>> = []
    const ask = (): void => {
      const index = nexts.push(Promise.reject(new Error('not called'))) - 1
      nexts[index]?.catch(() => {})
      nexts[index] = live.next()
    }
    const codec = {
      encode: String,
      decode: (line: string): number => {
        if (Number(line) % 3 === 0) ask()
        return Number(line)
      },
    }
    const store = await MiniStore.open<number>(await journalPath(), { codec })
    await store.append(1)
    const live = store.stream({ follow: true }).values()
    expect(await take(live, 1)).toEqual([1])
    // From the first wait on, records are kept in memory.
    ask()
    await turn()
    await store.append(2)
    await nexts[0]
    for (let n = 3; n <= 21; n += 3) {
      if (how === 'waits') ask()
      await turn()
      const appended = store.appendAll([n, n + 1, n + 2])
      if (how === 'waits') ask()
      await appended
      ask()
      // No further append is needed for them.
      if (how === 'is behind') await Promise.all(nexts)
    }
    while (nexts.length < 21) ask()
    expect((await Promise.all(nexts.slice(0, 21))).map(({ value }) => value as number)).toEqual(numbers(2, 22))
    await store.close()
  })

  test('are read from the file by a follower that is further behind than the memory kept', async () => {
    const { store, reads } = await observed()
    const long = 'x'.repeat(10_000)
    await store.append([0, long])
    const live = store.stream({ follow: true }).values()
    expect(await take(live, 1)).toEqual([[0, long]])
    const next = live.next()
    expect(await stateOf(next)).toBe('pending')
    await store.append([1, long])
    expect((await next).value).toEqual([1, long])
    const before = reads()
    for (const n of numbers(2, 100)) await store.append([n, long])
    expect(await take(live, 99)).toEqual(numbers(2, 100).map((n) => [n, long]))
    expect(reads()).toBeGreaterThan(before)
    // Followed again, and longer than everything that is kept.
    await store.append(['long', 'y'.repeat(600_000)])
    expect((await live.next()).value).toEqual(['long', 'y'.repeat(600_000)])
    await live.return()
    await store.close()
  })

  test('are the same from memory and from the file, in steps of any size, through rotations and failed writes', async () => {
    const random = seededRandom(pickSeed('followers'))
    const { store, fs } = await observed({ maxBytesPerSegment: 400_000 })
    const followers = Array.from({ length: 6 }, () => ({ live: store.entries({ follow: true }).values(), taken: 0 }))
    const expected: unknown[] = []
    for (let round = 0; round < 150; round++) {
      const records = Array.from({ length: 1 + random(4) }, () => 'z'.repeat(random(random(8) === 0 ? 90_000 : 900)))
      if (random(6) === 0) {
        const count = fs.hook
        fs.hook = ({ operation }) => {
          if (operation === 'write') throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' })
        }
        await expect(store.append('never')).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
        fs.hook = count
      }
      await store.appendAll(records)
      expected.push(...records)
      if (random(20) === 0) await store.rotate()
      for (const [index, follower] of followers.entries()) {
        // The first one keeps up, and the others fall behind more and more.
        const ready = expected.length - follower.taken
        const count = random(index + 1) === 0 ? ready : Math.min(ready, random(4))
        const entries = await take(follower.live, count)
        const sequences = entries.map(({ sequence }) => sequence)
        expect(sequences).toEqual(numbers(follower.taken + 1, follower.taken + count))
        expect(entries.map(({ record }) => record)).toEqual(expected.slice(follower.taken, follower.taken + count))
        follower.taken += count
      }
    }
    await store.close()
    for (const { live, taken } of followers) {
      expect((await collect(live)).map(({ record }) => record)).toEqual(expected.slice(taken))
    }
  })
})

describe('the bytes kept for followers', () => {
  test('are the last of one file, and never more than the limit', () => {
    const random = seededRandom(pickSeed('recent bytes'))
    const recent = new RecentBytes()
    const [one, other] = [{}, {}]
    recent.add(one, Buffer.from('not kept'), 0)
    expect(recent.read(one, 0, 8)).toBeUndefined()
    recent.keep()
    let [file, start] = [one, 100]
    let written = Buffer.alloc(0)
    for (let round = 0; round < 300; round++) {
      if (random(40) === 0) {
        // A rotation: the next bytes belong to another file, at positions that were used before.
        file = file === one ? other : one
        start = random(200)
        written = Buffer.alloc(0)
      }
      const bytes = Buffer.alloc(1 + random(random(10) === 0 ? 600_000 : 40_000), String(random(2 ** 32)))
      recent.add(file, bytes, start + written.length)
      written = Buffer.concat([written, bytes])
      const end = start + written.length
      const kept = Math.min(written.length, recentBytes)
      for (const back of [1, random(kept) + 1, kept]) {
        const most = 1 + random(back + 10)
        const read = recent.read(file, end - back, most)
        expect(read?.length).toBe(Math.min(most, back))
        expect(read?.equals(written.subarray(-back).subarray(0, most))).toBe(true)
      }
      expect(recent.read(file, end, 1)).toBeUndefined()
      expect(recent.read(file, end - kept - 1, 1)).toBeUndefined()
      expect(recent.read(file === one ? other : one, end - 1, 1)).toBeUndefined()
    }
  })
})
