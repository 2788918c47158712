import { appendFile, readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { describe, expect, test } from 'vitest'
import * as z from 'zod'

import { type Codec, type Journal, MiniStore, PreparedRecord } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { collect } from '../support/consume.ts'
import { numbers } from '../support/journals.ts'
import { Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const journalPath = async (): Promise<string> => join(await temporaryDirectory(), 'journal.jsonl')

/** The names and contents of the files in the directory of a journal. */
async function filesBeside(path: string): Promise<Record<string, string>> {
  const names = (await readdir(dirname(path))).toSorted()
  const contents = names.map(async (name) => [name, await readFile(join(dirname(path), name), 'utf8')] as const)
  return Object.fromEntries(await Promise.all(contents))
}

/** The error that a promise rejects with. */
async function rejection(promise: Promise<unknown>): Promise<unknown> {
  const [outcome] = await Promise.allSettled([promise])
  return outcome.status === 'rejected' ? outcome.reason : undefined
}

describe('an append that expects a sequence number', () => {
  test('is written if the journal is there, and takes the next number', async () => {
    await using store = await MiniStore.open<string>(await journalPath())
    expect(await store.append('a', { expectedSequence: 0 })).toBe(1)
    expect(await store.append('b', { expectedSequence: 1 })).toBe(2)
    expect(await store.appendAll(['c', 'd'], { expectedSequence: 2 })).toEqual({ first: 3, last: 4 })
    expect(await store.replay()).toEqual(['a', 'b', 'c', 'd'])
  })

  test('changes no file if the journal is elsewhere, and tells both numbers', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open<string>(path, { maxBytesPerSegment: 1 })
    await store.append('a')
    const before = await filesBeside(path)
    const code = 'ERR_MINISTORE_SEQUENCE_CONFLICT'
    // Without the condition, each of these would rotate first.
    const one = await rejection(store.append('b', { expectedSequence: 0 }))
    expect(one).toMatchObject({ code, path, sequence: 1, expectedSequence: 0 })
    expect(one).toMatchObject({ message: expect.stringContaining('at sequence number 0, got 1; nothing is written') as string })
    expect(JSON.parse(JSON.stringify(one))).toMatchObject({ code, sequence: 1, expectedSequence: 0 })
    const all = await rejection(store.appendAll(['b', 'c'], { expectedSequence: 2 }))
    expect(all).toMatchObject({ code, sequence: 1, expectedSequence: 2 })
    expect(await rejection(store.appendAll([], { expectedSequence: 2 }))).toMatchObject({ code })
    expect(await filesBeside(path)).toEqual(before)
    expect(await store.append('b', { expectedSequence: 1 })).toBe(2)
  })

  test('is decided when its turn comes, not when it is called', async () => {
    await using store = await MiniStore.open<string>(await journalPath())
    const appends = [store.append('a'), store.append('b', { expectedSequence: 1 }), store.append('c', { expectedSequence: 1 })]
    expect((await Promise.allSettled(appends)).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
    expect(await store.replay()).toEqual(['a', 'b'])
  })

  test('counts an acknowledged append that was rolled back as not written', async () => {
    const files = new SimulatedFileSystem()
    await using store = await MiniStore.open<string>('/journal.jsonl', { fileSystem: files })
    await store.append('a')
    files.failOn({ operation: 'write', path: '/journal.jsonl' }, 'ENOSPC')
    const [failed, next] = await Promise.allSettled([store.append('b'), store.append('c', { expectedSequence: 1 })])
    expect([failed.status, next]).toEqual(['rejected', { status: 'fulfilled', value: 2 }])
  })

  test('lets exactly one of 16 callers win each number', async () => {
    await using store = await MiniStore.open<{ caller: number; after: number }>(await journalPath())
    const wins = new Map<number, number[]>()
    const callers = Array.from({ length: 16 }, async (_, caller) => {
      while (store.lastSequence < 300) {
        const after = store.lastSequence
        const sequence = await store.append({ caller, after }, { expectedSequence: after }).catch(() => undefined)
        if (sequence !== undefined) wins.set(sequence, [...(wins.get(sequence) ?? []), caller])
      }
    })
    await Promise.all(callers)
    const records = await store.replay()
    expect(records.map(({ after }) => after)).toEqual(records.map((_, index) => index))
    expect([...wins.values()].map((winners) => winners.length)).toEqual(records.map(() => 1))
    expect(records.map(({ caller }) => caller)).toEqual(records.map((_, index) => wins.get(index + 1)?.[0]))
  })

  test('refuses a bad record before it looks at the number', async () => {
    await using store = await MiniStore.open(await journalPath(), { schema: z.number() })
    await expect(store.append('no' as never, { expectedSequence: 9 })).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
  })

  test.each([[-1, RangeError], [1.5, RangeError], ['1', TypeError]])('refuses the number %j', async (value, type) => {
    await using store = await MiniStore.open(await journalPath())
    const options = { expectedSequence: value as number }
    await expect(store.append(1, options)).rejects.toThrow(type)
    await expect(store.appendAll([1], options)).rejects.toThrow(type)
    await expect(store.append(1, { expected: 1 } as never)).rejects.toThrow('did you mean `expectedSequence`?')
    expect(store.lastSequence).toBe(0)
  })
})

describe('a prepared record', () => {
  test('holds the record as it was when it was prepared', async () => {
    await using store = await MiniStore.open<{ n: number }>(await journalPath())
    const record = { n: 1 }
    const prepared = store.prepare(record)
    record.n = 2
    expect(store.lastSequence).toBe(0)
    await store.appendAll([prepared, record])
    expect(await store.replay()).toEqual([{ n: 1 }, { n: 2 }])
  })

  test('is refused when it is prepared, as append would refuse it', async () => {
    await using store = await MiniStore.open(await journalPath(), { schema: z.string(), maxRecordBytes: 10 })
    expect(() => store.prepare(1 as never)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_SCHEMA' }))
    expect(() => store.prepare('x'.repeat(9))).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' }))
    expect(() => store.prepare(undefined as never)).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' }))
  })

  test('of an asynchronous schema is refused when it is appended, with its whole batch', async () => {
    const schema = z.string().refine(async (text) => text !== 'no')
    await using store = await MiniStore.open(await journalPath(), { schema })
    const batch = [store.prepare('yes'), store.prepare('no')]
    await expect(store.appendAll(batch)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SCHEMA' })
    expect(store.lastSequence).toBe(0)
    expect(await store.appendAll(batch.slice(0, 1))).toEqual({ first: 1, last: 1 })
  })

  test('runs through codec and schema once', async () => {
    let encoded = 0
    let checked = 0
    const codec: Codec<string> = {
      encode: (record) => {
        encoded++
        return `<${record}>`
      },
      decode: (line) => line.slice(1, -1),
    }
    const schema = z.string().refine(() => ++checked > 0)
    await using store = await MiniStore.open(await journalPath(), { codec, schema })
    const prepared = store.prepare('a')
    await store.appendAll([prepared])
    expect([encoded, checked]).toEqual([1, 1])
    expect(await store.replay()).toEqual(['a'])
  })

  test('of another copy of the library is known by its mark', async () => {
    await using store = await MiniStore.open(await journalPath())
    const [mark] = Object.getOwnPropertySymbols(PreparedRecord.prototype)
    expect(Symbol.keyFor(mark as symbol)).toBeDefined()
    await store.appendAll([{ text: '{"a":1}', validation: undefined, [mark as symbol]: true }])
    expect(await store.replay()).toEqual([{ a: 1 }])
  })

  test('is refused by a journal that could not read its line, with its whole batch', async () => {
    const codec: Codec<string[]> = { encode: (record) => record.join(';'), decode: (line) => line.split(';') }
    await using other = await MiniStore.open(await journalPath(), { codec })
    const foreign = other.prepare(['a', 'b'])
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    for (const bad of [foreign, new PreparedRecord('not json')]) {
      const error = await rejection(store.appendAll([{ n: 1 }, bad]))
      expect(error).toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE', path })
    }
    expect(store.lastSequence).toBe(0)
    expect(await store.append('next')).toBe(1)
    expect(await store.replay()).toEqual(['next'])
  })

  test('is refused by the codec of the journal that gets it', async () => {
    const decode = (line: string): string => {
      if (!line.startsWith('<')) throw new Error('not mine')
      return line.slice(1, -1)
    }
    await using store = await MiniStore.open(await journalPath(), { codec: { encode: (record: string) => `<${record}>`, decode } })
    await expect(store.appendAll([new PreparedRecord('a')])).rejects.toMatchObject({ code: 'ERR_MINISTORE_CODEC' })
    await store.appendAll([new PreparedRecord('<a>')])
    expect(await store.replay()).toEqual(['a'])
  })

  test('of another copy of the library is refused if it is not one line', async () => {
    await using store = await MiniStore.open(await journalPath())
    const [mark] = Object.getOwnPropertySymbols(PreparedRecord.prototype)
    const forged = { text: '1\n2', validation: undefined, [mark as symbol]: true }
    await expect(store.appendAll([forged])).rejects.toThrow('Expected a prepared record to hold a non-empty line')
  })

  test('is limited to `maxRecordBytes` of the journal that gets it', async () => {
    await using store = await MiniStore.open(await journalPath(), { maxRecordBytes: 3 })
    await expect(store.appendAll([new PreparedRecord('1234')])).rejects.toMatchObject({ code: 'ERR_MINISTORE_RECORD_TOO_LARGE' })
  })

  test.each(['', '1\n2', '"\0"', '"\ud800"', 5, undefined])('cannot be made of %j', (text) => {
    expect(() => new PreparedRecord(text as string)).toThrow(TypeError)
  })
})

describe('preparedEntries', () => {
  test('gives the lines with their numbers, for another journal', async () => {
    const path = await journalPath()
    await using from = await MiniStore.open<number>(path, { maxBytesPerSegment: 100 })
    await from.appendAll(numbers(1, 9))
    await using to = await MiniStore.open<number>(await journalPath())
    const entries = await collect(from.preparedEntries({ from: 3, to: 7 }))
    expect(entries.map(({ sequence, record }) => [sequence, record.text])).toEqual(numbers(3, 7).map((n) => [n, `${n}`]))
    await to.appendAll(entries.map(({ record }) => record))
    expect(await to.replay()).toEqual(numbers(3, 7))
  })

  test('keeps the text of a line and leaves the schema out', async () => {
    const path = await journalPath()
    let checked = 0
    const schema = z.number().refine(() => ++checked > 0)
    await using store = await MiniStore.open(path, { schema })
    await store.appendAll([new PreparedRecord('1.50'), new PreparedRecord('1e2')])
    const texts = (await collect(store.preparedEntries())).map(({ record }) => record.text)
    expect([texts, checked]).toEqual([['1.50', '1e2'], 0])
  })
})

describe('MiniStore.read', () => {
  test('knows the range of a journal of another process as of the last look', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open<number>(path, { maxBytesPerSegment: 200 })
    await store.appendAll(numbers(1, 5))
    await store.close()
    const reader: Journal<number, never> & { refresh(): Promise<void> } = await MiniStore.read<number>(path)
    expect([reader.firstSequence, reader.lastSequence]).toEqual([1, 5])
    await using again = await MiniStore.open<number>(path, { maxBytesPerSegment: 60 })
    for (const n of numbers(6, 30)) await again.append(n)
    await again.truncateBefore(20)
    expect(reader.lastSequence).toBe(5)
    await reader.refresh()
    expect([reader.firstSequence, reader.lastSequence]).toEqual([again.firstSequence, 30])
    expect((await collect(reader.entries({ from: 28 }))).map(({ sequence }) => sequence)).toEqual([28, 29, 30])
  })

  test('of a missing journal is empty, and sees it once it is there', async () => {
    const path = await journalPath()
    const reader = await MiniStore.read<number>(path)
    expect([reader.firstSequence, reader.lastSequence, reader.segments]).toEqual([1, 0, []])
    await using store = await MiniStore.open<number>(path)
    await store.append(1)
    await reader.refresh()
    expect([reader.firstSequence, reader.lastSequence, await reader.replay()]).toEqual([1, 1, [1]])
  })

  test('refuses to write', async () => {
    const reader = await MiniStore.read(await journalPath())
    await expect(reader.append(1 as never)).rejects.toThrow(/open for writing, got a reader of .*journal\.jsonl/)
    await expect(reader.truncateBefore(1)).rejects.toThrow(TypeError)
  })

  test('decodes with its own codec and schema, and takes no range', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open<number>(path)
    await store.append(1)
    const reader = await MiniStore.read(path, { schema: z.number().transform((n) => `n${n}`) })
    expect(await reader.replay()).toEqual(['n1'])
    await expect(MiniStore.read(path, { from: 1 } as never)).rejects.toThrow('Unknown option `from`')
    expect(() => reader.stream({ codec: undefined } as never)).toThrow('Unknown option `codec`')
  })
})

/** Lines are counted in a file that another process changes: torn tails come and go. */
describe('a reader beside a writer of another process', () => {
  const header = '// MINISTORE JOURNAL v0.2.0 seq=1\n'

  async function simulated(): Promise<{ files: SimulatedFileSystem; write: (text: string) => Promise<void> }> {
    const files = new SimulatedFileSystem()
    const file = await files.open('/journal.jsonl', 'create')
    const write = async (text: string): Promise<void> => {
      await file.truncate(0)
      await file.write(Buffer.from(text), 0)
    }
    return { files, write }
  }

  test('counts whole lines only, also where a torn line was replaced', async () => {
    const { files, write } = await simulated()
    await write(`${header}1\n"a torn line that is lo`)
    const reader = await MiniStore.read('/journal.jsonl', { fileSystem: files })
    expect(reader.lastSequence).toBe(1)
    await write(`${header}1\n2\n3\n"a longer line than the torn one was before"\n`)
    await reader.refresh()
    expect(reader.lastSequence).toBe(4)
    await write(`${header}1\n`)
    await reader.refresh()
    expect(reader.lastSequence).toBe(1)
  })

  test.each([
    ['fewer', '"a longer line than those that were rolled back"\n', 2],
    ['as many bytes of fewer', '22222\n', 2],
    ['more', '"x"\n4\n5\n6\n7\n', 6],
  ])('counts again if an append was rolled back and replaced by %s lines', async (_what, text, last) => {
    const { files, write } = await simulated()
    await write(`${header}1\n2\n3\n4\n`)
    const reader = await MiniStore.read('/journal.jsonl', { fileSystem: files })
    expect(reader.lastSequence).toBe(4)
    await write(`${header}1\n${text}`)
    await reader.refresh()
    expect([reader.lastSequence, (await reader.replay()).length]).toEqual([last, last])
  })

  test('counts on over blocks and long lines', async () => {
    const { files, write } = await simulated()
    const long = JSON.stringify('x'.repeat(300_000))
    await write(`${header}${'1\n'.repeat(5000)}`)
    const reader = await MiniStore.read('/journal.jsonl', { fileSystem: files })
    for (let round = 1; round <= 3; round++) {
      await write(`${header}${'1\n'.repeat(5000)}${`${long}\n2\n`.repeat(round)}`)
      await reader.refresh()
      expect(reader.lastSequence).toBe(5000 + 2 * round)
    }
    await write(`${header}${'1\n'.repeat(5000)}${`${long}\n3\n`.repeat(4)}`)
    await reader.refresh()
    expect(reader.lastSequence).toBe(5008)
  })

  test('inspects only the active segment while nothing else changes', async () => {
    const directory = await temporaryDirectory()
    const file = join(directory, 'journal.jsonl')
    const store = await MiniStore.open<number>(file, { maxBytesPerSegment: 1 })
    for (const n of numbers(1, 20)) await store.append(n)
    await store.close()
    const opened: string[] = []
    const observed = new ObservedFileSystem(({ operation, path }) => {
      if (operation === 'open') opened.push(path)
    })
    const reader = await MiniStore.read<number>(file, { fileSystem: observed })
    opened.length = 0
    await reader.refresh()
    expect(opened.filter((path) => path !== file)).toEqual([])
    expect([reader.firstSequence, reader.lastSequence, reader.segments.length]).toEqual([1, 20, 20])
    await using again = await MiniStore.open<number>(file)
    await again.truncateBefore(15)
    await again.close()
    await reader.refresh()
    expect([reader.firstSequence, reader.lastSequence]).toEqual([15, 20])
  })

  test('keeps the newer of two looks at once', async () => {
    const directory = await temporaryDirectory()
    const file = join(directory, 'journal.jsonl')
    await writeFile(file, `${header}1\n`)
    const files = new ObservedFileSystem()
    const reader = await MiniStore.read<number>(file, { fileSystem: files })
    await appendFile(file, '2\n')
    const gate = new Gate()
    let isGated = true
    files.hook = ({ operation, path }) => {
      if (!isGated || operation !== 'read' || path !== file) return undefined
      isGated = false
      return gate.wait()
    }
    const older = reader.refresh()
    await gate.reached
    await appendFile(file, '3\n')
    const newer = reader.refresh()
    await new Promise((resolve) => setTimeout(resolve, 20))
    gate.open()
    await Promise.all([older, newer])
    expect(reader.lastSequence).toBe(3)
  })

  test('counts no line with a NUL: a torn one may end in a line feed, and padding is none', async () => {
    const { files, write } = await simulated()
    await write(`${header}1\n\0\0\0d"\n`)
    const reader = await MiniStore.read('/journal.jsonl', { fileSystem: files })
    expect(reader.lastSequence).toBe(1)
    await write(`${header}1\n"added"\n\0\0\0`)
    await reader.refresh()
    expect([reader.lastSequence, await reader.replay()]).toEqual([2, [1, 'added']])
  })
})
