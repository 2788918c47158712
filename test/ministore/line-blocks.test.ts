import { describe, expect, test } from 'vitest'

import type { File } from '../../src/fs/file-system.ts'
import { isCleanBlock, LineBlocks, type SpareBuffers, textOf } from '../../src/ministore/lines.ts'
import { createRandom, type Random } from '../../src/testing/random.ts'
import { pickSeed } from '../support/seeded-random.ts'

const block = 64 * 1024
const newline = 0x0a

describe('blocks of whole lines', () => {
  const seed = pickSeed('line blocks')
  /** Shared by all runs, as by the segments of a replay: old bytes must not show in a later run. */
  const spareBuffers: SpareBuffers = []

  test.each(Array.from({ length: 40 }, (_, run) => run))('join to the file, each ending after a line feed, run %i', async (run) => {
    const random = createRandom(seed, run)
    const content = anyLines(random)
    const end = random.below(3) === 0 ? random.below(content.length + 1) : Number.POSITIVE_INFINITY
    const visible = content.subarray(0, end)
    const file = memoryFile(content, random)
    const blocks = new LineBlocks(file, spareBuffers)
    const given: Buffer[] = []
    for (let at = 0, next = await blocks.next(end); next !== undefined; next = await blocks.next(end)) {
      expect(next.at(-1)).toBe(newline)
      // A result is larger than a block only if it is a single line.
      if (next.length > block) expect(next.indexOf(newline)).toBe(next.length - 1)
      at += next.length
      expect(blocks.offset).toBe(at)
      given.push(Buffer.from(next))
    }
    const whole = visible.lastIndexOf(newline) + 1
    expect(Buffer.concat(given).equals(visible.subarray(0, whole))).toBe(true)
    expect(blocks.rest.equals(visible.subarray(whole))).toBe(true)
    // The file has grown, or the text after the last line has been replaced.
    const later = Buffer.from(`${'y'.repeat(random.below(2 * block))}\n`)
    file.content = Buffer.concat([content.subarray(0, whole), later])
    blocks.forgetRest()
    expect((await blocks.next(Number.POSITIVE_INFINITY))?.equals(later)).toBe(true)
    expect(await blocks.next(Number.POSITIVE_INFINITY)).toBeUndefined()
    await blocks.release()
    expect(spareBuffers.length).toBeLessThanOrEqual(2)
  })

  test('of a small file hold no more memory than it needs, and are read once', async () => {
    const file = memoryFile(Buffer.from('1\n2\n'), createRandom(1, 1), { isWhole: true })
    const blocks = new LineBlocks(file)
    const first = await blocks.next(4)
    expect(first?.toString()).toBe('1\n2\n')
    expect(first?.buffer.byteLength).toBe(4)
    expect(await blocks.next(4)).toBeUndefined()
    expect(file.reads).toBe(1)
  })

  test('throw a failed read when its block is requested, after the blocks before it', async () => {
    const lines = Buffer.from(`${'z'.repeat(99)}\n`.repeat(10_000))
    const file = memoryFile(lines, createRandom(1, 1), { isWhole: true })
    const blocks = new LineBlocks(file)
    await blocks.next(lines.length)
    file.failure = new Error('EIO')
    let bytes = 0
    const readOn = async (): Promise<void> => {
      for (;;) bytes += (await blocks.next(lines.length))?.length ?? 0
    }
    await expect(readOn()).rejects.toBe(file.failure)
    expect(bytes).toBeGreaterThan(0)
    await blocks.release()
  })
})

describe('the text of a block', () => {
  const seed = pickSeed('text of blocks')
  const alphabet = ['a', '"', '\\', '\n', '\r', '\u007F', 'é', '\u07FF', '€', '\uFEFF', '\uFFFD', '\uFFFF', '😀', '\u{10FFFF}']

  test('is decoded as UTF-8, for any characters', () => {
    const random = createRandom(seed, 1)
    for (let run = 0; run < 2000; run++) {
      const letters = 1 + random.below(alphabet.length)
      const text = Array.from({ length: random.below(200) }, () => alphabet[random.below(letters)]).join('')
      expect(textOf(Buffer.from(text))).toBe(text)
    }
  })

  test('is undefined for bytes that are not UTF-8 or contain a NUL', () => {
    const random = createRandom(seed, 2)
    let refused = 0
    for (let run = 0; run < 5000; run++) {
      const bytes = Buffer.from('{"a":"é€😀"}\n'.repeat(3))
      for (let flips = 1 + random.below(3); flips > 0; flips--) {
        const at = random.below(bytes.length)
        bytes[at] = (bytes[at] as number) ^ (1 << random.below(8))
      }
      const text = textOf(bytes)
      if (text === undefined) refused++
      else expect(Buffer.from(text).equals(bytes)).toBe(true)
      if (isCleanBlock(bytes)) expect(text).toBeDefined()
    }
    expect(refused).toBeGreaterThan(1000)
    expect(textOf(Buffer.from('a\0b\n'))).toBeUndefined()
  })
})

/** Lines of all lengths, many near the borders of blocks and reads, and maybe a partial line. */
function anyLines(random: Random): Buffer {
  const lengths = [1, 2, 100, block - 1, block, block + 1, 4 * block - 1, 4 * block, 4 * block + 1, 11 * block]
  const parts: string[] = []
  for (let count = 1 + random.below(12); count > 0; count--) {
    const length = random.below(2) === 0 ? (lengths[random.below(lengths.length)] as number) : 1 + random.below(3000)
    const letter = String.fromCharCode(97 + random.below(26))
    for (let repeat = random.below(4) === 0 ? 50 : 1; repeat > 0; repeat--) parts.push(`${letter.repeat(Math.min(length, 70_000) - 1)}\n`)
    if (length > 70_000) parts.push(`${letter.repeat(length - 1)}\n`)
  }
  if (random.below(2) === 0) parts.push('u'.repeat(random.below(5 * block)))
  return Buffer.from(parts.join(''))
}

interface MemoryFile extends File {
  content: Buffer
  failure: Error | undefined
  reads: number
}

/** A file in memory whose reads sometimes return less than requested. */
function memoryFile(content: Buffer, random: Random, { isWhole = false } = {}): MemoryFile {
  const refuse = (): never => {
    throw new Error('Only read')
  }
  return {
    content,
    failure: undefined,
    reads: 0,
    async read(buffer, position) {
      this.reads++
      if (this.failure !== undefined) throw this.failure
      const there = Math.max(Math.min(buffer.length, this.content.length - position), 0)
      const bytes = there > 1 && !isWhole && random.below(4) === 0 ? 1 + random.below(there) : there
      this.content.copy(buffer, 0, position, position + bytes)
      return bytes
    },
    write: refuse,
    truncate: refuse,
    sync: refuse,
    dataSync: refuse,
    stat: refuse,
    close: refuse,
  }
}
