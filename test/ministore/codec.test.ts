import { appendFile, readFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, onTestFinished, test, vi } from 'vitest'

import { type Codec, MiniStore, type MiniStoreError } from '../../src/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** Text that must not appear in a journal line. */
const base64: Codec = {
  encode: (record) => Buffer.from(JSON.stringify(record)).toString('base64'),
  decode: (line) => JSON.parse(Buffer.from(line, 'base64').toString()) as unknown,
}

interface Rich {
  readonly at: Date
  readonly count: bigint
  readonly tags: ReadonlySet<string>
}

/** Like superjson: types that JSON lacks, marked beside their text form. */
const typed: Codec<Rich> = {
  encode: ({ at, count, tags }) =>
    JSON.stringify({
      json: { at: at.toISOString(), count: `${count}`, tags: [...tags] },
      meta: { at: 'Date', count: 'bigint', tags: 'set' },
    }),
  decode: (line) => {
    const { json } = JSON.parse(line) as { json: { at: string; count: string; tags: string[] } }
    return { at: new Date(json.at), count: BigInt(json.count), tags: new Set(json.tags) }
  },
}

const rich = (seconds: number): Rich => ({
  at: new Date(Date.UTC(2026, 0, 1, 0, 0, seconds)),
  count: 2n ** 64n + BigInt(seconds),
  tags: new Set(['é', `${seconds}`]),
})

interface Case<T> {
  readonly name: string
  readonly codec: Codec<T>
  readonly records: readonly [T, T, T, T]
}

const cases: Array<Case<never>> = [
  {
    name: 'base64 of JSON',
    codec: base64,
    records: [{ a: 1 }, 'two\nlines', [null], 'é€😀'],
  } as Case<unknown> as Case<never>,
  {
    name: 'types beyond JSON',
    codec: typed,
    records: [rich(1), rich(2), rich(3), rich(4)],
  } as Case<Rich> as Case<never>,
]

async function journalPath(): Promise<string> {
  return join(await temporaryDirectory(), 'journal.jsonl')
}

async function linesIn(path: string): Promise<string[]> {
  return (await readFile(path, 'utf8')).split('\n').slice(1, -1)
}

async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of stream) items.push(item)
  return items
}

describe.each(cases)('a codec: $name', ({ codec, records }) => {
  test('encodes each record into its line', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { codec })
    await store.append(records[0])
    await store.appendAll(records.slice(1))
    expect(await linesIn(path)).toEqual(records.map((record) => codec.encode(record)))
  })

  test('returns every record through stream, entries, replay, a reader and a pipe', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { codec })
    await store.appendAll(records)
    const numbered = records.map((record, at) => ({ sequence: at + 1, record }))
    expect(await collect(store.stream())).toEqual(records)
    expect(await collect(store.stream({ from: 2, to: 3 }))).toEqual(records.slice(1, 3))
    expect(await collect(store.entries())).toEqual(numbered)
    expect(await store.replay()).toEqual(records)
    const reader = store.stream().getReader()
    expect(await reader.read()).toEqual({ done: false, value: records[0] })
    await reader.cancel()

    await using copy = await MiniStore.open(await journalPath(), { codec })
    await store.stream().pipeTo(copy.writable())
    expect(await copy.replay()).toEqual(records)
  })

  test('returns every record through the static readers, while the store is open and after', async () => {
    const path = await journalPath()
    const store = await MiniStore.open(path, { codec })
    await store.appendAll(records)
    const numbered = records.map((record, at) => ({ sequence: at + 1, record }))
    for (const isClosed of [false, true]) {
      if (isClosed) await store.close()
      expect(await MiniStore.replay(path, { codec })).toEqual(records)
      expect(await collect(MiniStore.stream(path, { codec }))).toEqual(records)
      expect(await collect(MiniStore.entries(path, { codec }))).toEqual(numbered)
    }
  })

  test('returns every record to followers, history and live', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { codec })
    await store.appendAll(records.slice(0, 2))
    const inStore = store.stream({ follow: true }).values()
    const byPath = MiniStore.stream(path, { codec, follow: true }).values()
    for (const follower of [inStore, byPath]) {
      for (const value of records.slice(0, 2)) expect(await follower.next()).toEqual({ done: false, value })
    }
    const waiting = [inStore.next(), byPath.next()]
    await store.append(records[2])
    expect(await Promise.all(waiting)).toEqual([
      { done: false, value: records[2] },
      { done: false, value: records[2] },
    ])
    await Promise.all([inStore.return(), byPath.return()])
  })

  test('returns every record after the journal is reopened, and across segments', async () => {
    const path = await journalPath()
    const store = await MiniStore.open(path, { codec, maxBytesPerSegment: 1 })
    for (const record of records) await store.append(record)
    expect(store.segments).toHaveLength(4)
    await store.close()
    await using again = await MiniStore.open(path, { codec })
    expect(await again.replay()).toEqual(records)
  })
})

describe('a codec', () => {
  test('keeps its `this`', async () => {
    class Counting implements Codec {
      encoded = 0
      decoded = 0
      encode(record: unknown): string {
        this.encoded += 1
        return JSON.stringify(record)
      }
      decode(line: string): unknown {
        this.decoded += 1
        return JSON.parse(line)
      }
    }
    const codec = new Counting()
    const path = await journalPath()
    await using store = await MiniStore.open(path, { codec })
    await store.appendAll(['a', 'b'])
    expect(await store.replay()).toEqual(['a', 'b'])
    expect(await MiniStore.replay(path, { codec })).toEqual(['a', 'b'])
    expect(codec).toMatchObject({ encoded: 2, decoded: 4 })
  })

  test('may produce a carriage return, a tab, a byte order mark and text that looks like a header', async () => {
    const raw: Codec<string> = { encode: (record) => record, decode: (line) => line }
    const path = await journalPath()
    const records = [
      'a\r',
      '\r',
      '\t',
      ' ',
      '\uFEFFa',
      '// MINISTORE JOURNAL v9.9.9 seq=7',
      '\u2028',
      '\u0085',
      '\u001b[0m',
    ]
    const store = await MiniStore.open(path, { codec: raw })
    for (const record of records) await store.append(record)
    await store.close()
    await using again = await MiniStore.open(path, { codec: raw })
    expect(again.lastSequence).toBe(records.length)
    expect(await again.replay()).toEqual(records)
  })

  test('that cannot decode a line ends the stream with the line position, after the good records', async () => {
    const path = await journalPath()
    const store = await MiniStore.open(path, { codec: typed })
    await store.appendAll([rich(1), rich(2)])
    await store.close()
    const offset = (await readFile(path)).length
    await appendFile(path, '{"json":{}}\n')
    const read: Rich[] = []
    const reading = async (): Promise<void> => {
      for await (const record of MiniStore.stream(path, { codec: typed })) read.push(record)
    }
    await expect(reading()).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CODEC',
      path,
      segment: 'journal.jsonl',
      line: 4,
      offset,
      sequence: 3,
      message: expect.stringMatching(/decode threw at journal\.jsonl, line 4, offset \d+: /) as string,
      cause: expect.any(Error) as Error,
    })
    expect(read).toEqual([rich(1), rich(2)])

    const salvage = vi.fn<(damage: MiniStoreError) => void>()
    expect(await collect(MiniStore.stream(path, { codec: typed, salvage }))).toEqual(read)
    expect(salvage.mock.calls).toMatchObject([[{ code: 'ERR_MINISTORE_CODEC', sequence: 3 }]])
  })

  test('needs no encode for reading only', async () => {
    const path = await journalPath()
    const store = await MiniStore.open(path, { codec: base64 })
    onTestFinished(() => store.close())
    await store.append('record')
    expect(await MiniStore.replay(path, { codec: { decode: (line) => base64.decode(line) } })).toEqual([
      'record',
    ])
  })

  test('replaces JSON entirely: without the codec its lines are damage', async () => {
    const path = await journalPath()
    await using store = await MiniStore.open(path, { codec: base64 })
    await store.append('record')
    await expect(MiniStore.replay(path)).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CORRUPT',
      line: 2,
      sequence: 1,
    })
  })

  test('with an asynchronous encode is refused at append: the result is not a string', async () => {
    const path = await journalPath()
    const codec = { encode: async (record: unknown) => JSON.stringify(record), decode: JSON.parse }
    await using store = await MiniStore.open(path, { codec: codec as unknown as Codec })
    await expect(store.append('record')).rejects.toMatchObject({ code: 'ERR_MINISTORE_CODEC' })
    expect(await linesIn(path)).toEqual([])
  })

  test.each(['resolves', 'rejects'])('with an asynchronous decode is refused when reading, %s', async (how) => {
    const path = await journalPath()
    await using store = await MiniStore.open(path)
    await store.append('record')
    const decode = async (line: string): Promise<unknown> => {
      if (how === 'rejects') throw new Error('no')
      return JSON.parse(line) as unknown
    }
    await expect(MiniStore.replay(path, { codec: { decode } })).rejects.toMatchObject({
      code: 'ERR_MINISTORE_CODEC',
      message: expect.stringMatching(/decode at journal\.jsonl, line 2, offset \d+ to return a record, got a promise/) as string,
      line: 2,
      sequence: 1,
    })
  })
})
