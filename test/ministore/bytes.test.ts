import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip, gunzipSync } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { type BytesOptions, JournalStream, MiniStore, MiniStoreError } from '../../src/index.ts'
import { outcomeOf, turn } from '../support/consume.ts'
import { addBytes, crc32Of, editFile, numbers, writeJournal, writeOldJournal, writeSegment } from '../support/journals.ts'
import { Gate, ObservedFileSystem } from '../support/observed-file-system.ts'
import { RemoteStore } from '../support/remote-store.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const blockBytes = 64 * 1024
const records = (first: number, last: number): object[] => numbers(first, last).map((n) => ({ n, pad: '€'.repeat(20) }))

async function journalPath(): Promise<string> {
  return join(await temporaryDirectory(), 'journal.jsonl')
}

/** A journal of three segments, each several blocks long: 9000 records. */
async function longJournal(): Promise<string> {
  const path = await journalPath()
  await writeJournal(path, [records(1, 3000), records(3001, 6000), records(6001, 9000)])
  return path
}

/** The lines of a journal, read without the library, each with its line feed. */
async function linesOf(path: string): Promise<string[]> {
  const directory = join(path, '..')
  const sealed = (await readdir(directory)).filter((name) => /\.\d+$/.test(name)).toSorted()
  const texts = await Promise.all([...sealed.map((name) => join(directory, name)), path].map((file) => readFile(file, 'utf8')))
  return texts.flatMap((text) => text.split(/(?<=\n)/).slice(1))
}

async function textOf(source: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  for await (const chunk of source) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

describe.each(['instance', 'static', 'reader'] as const)('bytes(), %s', (kind) => {
  /** Calls `bytes` on the journal at a path. */
  async function opened(path: string): Promise<{ bytes: (options?: BytesOptions) => ReturnType<typeof MiniStore.bytes>; close: () => Promise<void> }> {
    if (kind === 'static') return { bytes: (options) => MiniStore.bytes(path, options), close: async () => {} }
    const store = kind === 'reader' ? await MiniStore.read(path) : await MiniStore.open(path)
    return { bytes: (options) => store.bytes(options), close: () => store.close() }
  }

  test('gives the lines of every range of several segments, byte for byte and without headers', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1, { b: 'ä€😀' }, [3]], [4], ['five', 6, null], [8, 9]])
    const lines = await linesOf(path)
    expect(lines).toHaveLength(9)
    const { bytes, close } = await opened(path)
    expect(await textOf(bytes())).toBe(lines.join(''))
    for (let from = 1; from <= 10; from++) {
      expect(await textOf(bytes({ from }))).toBe(lines.slice(from - 1).join(''))
      for (let to = from; to <= 11; to++) {
        expect(await textOf(bytes({ from, to })), `${from} to ${to}`).toBe(lines.slice(from - 1, to).join(''))
      }
    }
    await close()
  })

  test('cuts a range out of blocks at its lines', async () => {
    const path = await longJournal()
    const lines = await linesOf(path)
    const { bytes, close } = await opened(path)
    expect(await textOf(bytes())).toBe(lines.join(''))
    for (const [from, to] of [[1, 1], [700, 701], [2999, 3001], [3000, 3000], [3001, 6000], [3001, 6001], [5999, 9000], [9000, 9001]] as const) {
      expect(await textOf(bytes({ from, to })), `${from} to ${to}`).toBe(lines.slice(from - 1, to).join(''))
    }
    await close()
  })

  test('gives blocks of about 64 KiB of whole lines, each with a buffer of its own', async () => {
    const { bytes, close } = await opened(await longJournal())
    const chunks = (await outcomeOf(bytes())).items
    const buffers = new Set(chunks.map(({ buffer }) => buffer))
    expect(buffers.size).toBe(chunks.length)
    for (const chunk of chunks) {
      expect(chunk.constructor).toBe(Uint8Array)
      expect(chunk.at(-1)).toBe(0x0a)
      expect(chunk.length).toBe(chunk.buffer.byteLength)
      expect(chunk.length).toBeLessThanOrEqual(blockBytes)
    }
    // Only the last block before the end of a read or a segment is smaller.
    expect(chunks.filter(({ length }) => length > blockBytes * 0.9).length).toBeGreaterThan(chunks.length * 0.6)
    await close()
  })

  test('goes on as before when its chunks are overwritten or transferred', async () => {
    const path = await longJournal()
    const { bytes, close } = await opened(path)
    for (const spoil of [(chunk: Uint8Array) => chunk.fill(0), (chunk: Uint8Array<ArrayBuffer>) => structuredClone(chunk, { transfer: [chunk.buffer] })]) {
      let text = ''
      for await (const chunk of bytes()) {
        text += Buffer.from(chunk).toString()
        spoil(chunk)
      }
      expect(text).toBe((await linesOf(path)).join(''))
    }
    await close()
  })

  test('gives a line longer than a block alone in its chunk, and the lines around it', async () => {
    const path = await journalPath()
    const long = ['x'.repeat(blockBytes), 'y'.repeat(3 * 1024 * 1024)]
    await writeJournal(path, [[1, long[0], 2], [long[1], 3]])
    const { bytes, close } = await opened(path)
    const chunks = (await outcomeOf(bytes())).items
    expect(Buffer.concat(chunks).toString()).toBe((await linesOf(path)).join(''))
    expect(Math.max(...chunks.map(({ length }) => length))).toBe(3 * 1024 * 1024 + 3)
    await close()
  })

  test('is empty for a journal without records, and beyond the end', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1, 2], []])
    const { bytes, close } = await opened(path)
    expect((await outcomeOf(bytes({ from: 3 }))).items).toEqual([])
    expect(await textOf(bytes({ from: 2 }))).toBe('2\n')
    await close()
  })

  test('refuses salvage, which would leave lines out, and options that do not exist', async () => {
    const { bytes, close } = await opened(await longJournal())
    const refused = (options: object): unknown => {
      try {
        return bytes(options)
      } catch (error) {
        return error
      }
    }
    expect(refused({ salvage: () => {} })).toEqual(new TypeError('Expected `salvage` to be absent: bytes() gives whole lines as they are'))
    expect(refused({ fron: 1 })).toBeInstanceOf(TypeError)
    expect(refused({ from: 3, to: 2 })).toBeInstanceOf(RangeError)
    expect(refused({ follow: 1 })).toBeInstanceOf(TypeError)
    expect(refused({ salvage: undefined })).toBeInstanceOf(JournalStream)
    await close()
  })

  test('is a Response, a gzip stream, a Readable and a stream for tee', async () => {
    const path = await longJournal()
    const text = (await linesOf(path)).join('')
    const { bytes, close } = await opened(path)
    expect(await new Response(bytes()).text()).toBe(text)
    const packed = await new Response(bytes().pipeThrough(new CompressionStream('gzip'))).arrayBuffer()
    expect(gunzipSync(packed).toString()).toBe(text)
    expect(packed.byteLength).toBeLessThan(text.length / 2)
    expect(await textOf(Readable.fromWeb(bytes() as never))).toBe(text)
    const written: Buffer[] = []
    await pipeline(bytes(), createGzip(), new Writable({ write: (chunk: Buffer, _, done) => (written.push(chunk), done()) }))
    expect(gunzipSync(Buffer.concat(written)).toString()).toBe(text)
    const [one, other] = bytes().tee()
    // Two consumers of one stream must not change the chunks of each other.
    const overwritten = one.pipeTo(new WritableStream({ write: (chunk) => void chunk.fill(0) }))
    expect(await new Response(other).text()).toBe(text)
    await overwritten
    await close()
  })

  test('fills the buffer of a byob reader, and ends its pending read', async () => {
    const path = await longJournal()
    const { bytes, close } = await opened(path)
    const stream = bytes()
    const reader = stream.getReader({ mode: 'byob' })
    const parts: Buffer[] = []
    for (let view = new Uint8Array(1000); ; ) {
      const read = await reader.read(view)
      if (read.done) break
      parts.push(Buffer.from(read.value))
      view = new Uint8Array(read.value.buffer)
      if (parts.length === 3) break
    }
    reader.releaseLock()
    // What the byob reader has left is still there for another consumer.
    parts.push(Buffer.from(await textOf(stream)))
    expect(Buffer.concat(parts).toString()).toBe((await linesOf(path)).join(''))
    const whole = bytes({ from: 8999 }).getReader({ mode: 'byob' })
    const first = await whole.read(new Uint8Array(blockBytes))
    expect(Buffer.from(first.value as Uint8Array).toString()).toBe((await linesOf(path)).slice(8998).join(''))
    expect((await whole.read(new Uint8Array(10))).done).toBe(true)
    await close()
  })
})

describe('a stream of bytes', () => {
  test('opens nothing before it is read, reads no further than asked, and frees its file when it is left', async () => {
    const path = await longJournal()
    const fs = new ObservedFileSystem()
    for (const leave of ['return', 'cancel', 'break'] as const) {
      const { calls, openFiles } = fs
      const stream = MiniStore.bytes(path, { fileSystem: fs })
      await turn()
      expect(fs.calls).toBe(calls)
      let reads = 0
      fs.hook = ({ operation }) => void (operation === 'read' && reads++)
      if (leave === 'break') {
        for await (const chunk of stream) {
          expect(chunk.length).toBeGreaterThan(0)
          break
        }
      } else if (leave === 'return') {
        const iterator = stream.values()
        await iterator.next()
        expect(fs.openFiles).toBe(openFiles + 1)
        for (let turns = 0; turns < 20; turns++) await turn()
        await iterator.return()
      } else {
        const reader = stream.getReader()
        await reader.read()
        for (let turns = 0; turns < 20; turns++) await turn()
        await reader.cancel()
        reader.releaseLock()
      }
      // Seals, headers, the first block and the one that is read ahead.
      expect(reads, leave).toBeLessThanOrEqual(10)
      expect(fs.openFiles).toBe(openFiles)
      expect(await textOf(stream)).toBe('')
    }
  })

  test('waits for a slow consumer: a pipe takes one block at a time', async () => {
    const path = await longJournal()
    const fs = new ObservedFileSystem()
    const gate = new Gate()
    let given = 0
    const slow = new WritableStream<Uint8Array>({
      write: () => (++given === 2 ? gate.wait() : undefined),
    }, { highWaterMark: 1 })
    let read = 0
    const counting = MiniStore.bytes(path, { fileSystem: fs })
    const piping = counting.pipeTo(slow)
    await gate.reached
    fs.hook = ({ operation }) => void (operation === 'read' && read++)
    for (let turns = 0; turns < 50; turns++) await turn()
    expect(given).toBe(2)
    expect(read).toBeLessThanOrEqual(1)
    gate.open()
    await piping
    expect(given).toBeGreaterThan(8)
    expect(fs.openFiles).toBe(0)
  })

  test('ends with the reason of its signal and leaves no file open', async () => {
    const path = await longJournal()
    const fs = new ObservedFileSystem()
    const abort = new AbortController()
    const reason = new Error('enough')
    const iterator = MiniStore.bytes(path, { fileSystem: fs, signal: abort.signal }).values()
    await iterator.next()
    abort.abort(reason)
    await expect(iterator.next()).rejects.toBe(reason)
    await fs.untilOpen(0)
    expect(fs.openFiles).toBe(0)
    await expect(new Response(MiniStore.bytes(path, { signal: abort.signal })).text()).rejects.toBe(reason)
  })

  test('of a store ends at the record that was acknowledged when it was made', async () => {
    await using store = await MiniStore.open(await journalPath())
    await store.appendAll([1, 2])
    const bytes = store.bytes()
    await store.append(3)
    await store.rotate()
    await store.append(4)
    expect(await textOf(bytes)).toBe('1\n2\n')
  })

  test('is refused by a closed store, and says what retention has removed', async () => {
    const store = await MiniStore.open(await journalPath())
    await store.appendAll([1, 2])
    await store.rotate()
    await store.append(3)
    const before = store.bytes()
    await store.truncateBefore(3)
    await expect(textOf(before)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 1 })
    await expect(textOf(store.bytes({ from: 2 }))).rejects.toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE' })
    expect(await textOf(store.bytes())).toBe('3\n')
    await store.close()
    expect(() => store.bytes()).toThrow(MiniStoreError)
  })

  test('of a reader notices another journal in the place of its own', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1, 2]])
    const reader = await MiniStore.read(path)
    expect(await textOf(reader.bytes())).toBe('1\n2\n')
    await rm(join(path, '..'), { recursive: true })
    await writeJournal(path, [[3, 4]])
    await expect(textOf(reader.bytes())).rejects.toMatchObject({ code: 'ERR_MINISTORE_FOREIGN_JOURNAL' })
  })

  test('calls no codec and no schema, and parses no line of a codec', async () => {
    const path = await journalPath()
    const never = (): never => expect.unreachable('it was called')
    const codec = { encode: (text: string) => text, decode: (line: string) => line }
    await using store = await MiniStore.open<string, string>(path, { codec })
    await store.appendAll(['not JSON', '{'])
    await store.rotate()
    await store.append('nor this')
    const lines = 'not JSON\n{\nnor this\n'
    expect(await textOf(store.bytes())).toBe(lines)
    expect(await textOf(store.bytes({ to: 1 }))).toBe('not JSON\n')
    const fileSystem = new ObservedFileSystem()
    expect(await textOf(MiniStore.bytes(path, { fileSystem, codec: { decode: never } }))).toBe(lines)
    const schema = { '~standard': { version: 1, vendor: 'test', validate: never } } as const
    const reader = await MiniStore.read(path, { schema, codec: { decode: never } } as never)
    expect(await textOf(reader.bytes())).toBe(lines)
    expect(() => MiniStore.bytes(path, { schema } as never)).toThrow(TypeError)
    // Without the codec, the lines that no checksum covers are not JSON.
    await expect(textOf(MiniStore.bytes(path, { fileSystem, from: 3 }))).rejects.toThrow('A line is not JSON at journal.jsonl, line 2')
  })
})

describe('a follower of bytes', () => {
  test.each(['instance', 'static'] as const)('in the process of the writer gives each record as it is acknowledged, %s', async (kind) => {
    await using store = await MiniStore.open<number>(await journalPath())
    await store.appendAll([1, 2])
    const live = (kind === 'instance' ? store.bytes({ follow: true }) : MiniStore.bytes(store.path, { follow: true })).values()
    const next = async (): Promise<string> => Buffer.from((await live.next()).value ?? []).toString()
    expect(await next()).toBe('1\n2\n')
    for (const n of [3, 4, 5]) {
      const waiting = next()
      await store.append(n)
      expect(await waiting).toBe(`${n}\n`)
      if (n === 4) await store.rotate()
    }
    // Leaving answers at once, although a call waits for a record.
    const waiting = live.next()
    await turn()
    expect(await live.return()).toEqual({ done: true, value: undefined })
    expect(await waiting).toEqual({ done: true, value: undefined })
  })

  test('ends at `to`, and when its store is closed', async () => {
    const store = await MiniStore.open<number>(await journalPath())
    await store.append(1)
    const [until, open] = [textOf(store.bytes({ follow: true, to: 3 })), textOf(store.bytes({ follow: true }))]
    await store.append(2)
    await store.rotate()
    await store.appendAll([3, 4])
    expect(await until).toBe('1\n2\n3\n')
    await store.close()
    expect(await open).toBe('1\n2\n3\n4\n')
  })

  test('from another process gives every line once, across rotations, and never a torn one', async () => {
    const path = await journalPath()
    const remote = RemoteStore.inProcess()
    await remote.open(path, { maxBytesPerSegment: 2000 })
    await remote.append(1)
    const followed = textOf(MiniStore.bytes(path, { follow: true, to: 500, pollIntervalMs: 5 }))
    for (let first = 2; first <= 500; first += 7) await remote.appendAll(numbers(first, Math.min(first + 6, 500)))
    expect(await followed).toBe(numbers(1, 500).map((n) => `${n}\n`).join(''))
    await remote.tear('501\n502\n50')
    expect(await textOf(MiniStore.bytes(path, { from: 499 }))).toBe('499\n500\n501\n502\n')
    await addBytes(path, '\0\n')
    expect(await textOf(MiniStore.bytes(path, { from: 499 }))).toBe('499\n500\n501\n502\n')
  })

  test('parses what comes after the seal, and names the line that is not JSON', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1, 2]])
    await addBytes(path, '3\n')
    const live = MiniStore.bytes(path, { follow: true, pollIntervalMs: 5 }).values()
    expect(Buffer.from((await live.next()).value ?? []).toString()).toBe('1\n2\n3\n')
    await addBytes(path, '4\nfive\n6\n')
    expect(Buffer.from((await live.next()).value ?? []).toString()).toBe('4\n')
    await expect(live.next()).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', line: 6, sequence: 5, segment: 'journal.jsonl' })
  })
})

describe('damage', () => {
  test('in the middle of a block comes after the good lines of the block', async () => {
    for (const [text, reason] of [['\0', 'NUL byte'], ['\n', 'blank'], [Buffer.from([0xff]), 'not UTF-8']] as const) {
      const path = await longJournal()
      const lines = await linesOf(path)
      const at = Buffer.byteLength(lines.slice(0, 4000 - 1).join('')) - Buffer.byteLength(lines.slice(0, 3000).join(''))
      await editFile(`${path}.002`, (content) => {
        const header = content.indexOf('\n') + 1
        content.set(Buffer.from(text as string), header + at)
        return content
      })
      const { items, error } = await outcomeOf(MiniStore.bytes(path))
      expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl.002', line: 1001, sequence: 4000, reason: expect.stringContaining(reason) as string })
      expect(Buffer.concat(items).toString()).toBe(lines.slice(0, 3999).join(''))
    }
  })

  test('that leaves text is reported at the end of its segment, also if the range ends with the next one', async () => {
    const path = await longJournal()
    // A line feed in place of a letter makes two lines of one: the last number of the range comes early.
    await editFile(`${path}.001`, (content) => {
      content[content.lastIndexOf('pad')] = 0x0a
      return content
    })
    for (const to of [undefined, 3001, 3002, 9000]) {
      const { items, error } = await outcomeOf(MiniStore.bytes(path, { to }))
      expect(error, String(to)).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: 'journal.jsonl.001' })
      expect(Buffer.concat(items).toString().split('\n').length).toBeLessThanOrEqual(3002)
    }
    // Here the range ends before the checksum, so its lines are parsed.
    await expect(textOf(MiniStore.bytes(path, { to: 3000 }))).rejects.toThrow('A line is not JSON at journal.jsonl.001, line 3001')
    expect(await textOf(MiniStore.bytes(path, { to: 2999 }))).toBe((await linesOf(path)).slice(0, 2999).join(''))
  })

  test('in segments without a checksum is found by parsing', async () => {
    const path = await journalPath()
    await writeSegment(`${path}.001`, '// MINISTORE JOURNAL v0.1.4', ['1', 'two', '3'])
    await writeSegment(path, '// MINISTORE JOURNAL v0.1.4', ['4'])
    const { items, error } = await outcomeOf(MiniStore.bytes(path))
    expect(Buffer.concat(items).toString()).toBe('1\n')
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', line: 3, sequence: 2 })
    const old = await journalPath()
    await writeOldJournal(old, [[1, 2], [3]])
    expect(await textOf(MiniStore.bytes(old))).toBe('1\n2\n3\n')
  })

  test('a number of lines that the next header does not allow is an error', async () => {
    const path = await journalPath()
    await writeJournal(path, [[1, 2, 3], [4]])
    await editFile(`${path}.001`, (content) => Buffer.concat([content, Buffer.from('5\n')]))
    const crc = await crc32Of(`${path}.001`)
    await editFile(path, (content) => Buffer.from(content.toString().replace(/prev=\w+/, `prev=${crc}`)))
    await rm(`${path}.seal`)
    await expect(textOf(MiniStore.bytes(path))).rejects.toThrow('it begins with sequence 4, expected 5')
  })
})
