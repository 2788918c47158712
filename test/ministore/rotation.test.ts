import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { MiniStore, type OpenOptions } from '../../src/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const name = 'journal.jsonl'

async function journalPath(): Promise<string> {
  return join(await temporaryDirectory(), name)
}

/** Suffixes of the sealed segments in the directory, in numeric order. */
async function sealedNumbers(path: string): Promise<string[]> {
  const endings = (await readdir(join(path, '..'))).map((file) => file.slice(name.length + 1))
  return endings
    .filter((ending) => /^\d+$/.test(ending))
    .toSorted((left, right) => Number(left) - Number(right))
}

function hex(bytes: Buffer): string {
  return crc32(bytes).toString(16).padStart(8, '0')
}

/**
 * Checks the real bytes of all segments: every header names its first record, the checksum of the
 * segment before and the same identity. Resolves with the last sequence number.
 */
async function expectWholeChain(path: string, first = 1): Promise<number> {
  const paths = [...(await sealedNumbers(path)).map((number) => `${path}.${number}`), path]
  let sequence = first
  let before: Buffer | undefined
  let id: string | undefined
  for (const segment of paths) {
    const bytes = await readFile(segment)
    const lines = bytes.toString().split('\n')
    expect(lines.pop(), `${segment} ends in a line feed`).toBe('')
    const [header, ...records] = lines
    const previous = before === undefined ? '' : ` prev=${hex(before)}`
    id ??= / id=([0-9a-f]{16})\b/.exec(header ?? '')?.[1]
    // After deletions the first remaining header names a segment that is gone.
    const expected = `// MINISTORE JOURNAL v0.3.0 seq=${sequence} id=${id}`
    if (before === undefined && first > 1)
      expect(header).toMatch(new RegExp(`^${expected} prev=[0-9a-f]{8}$`))
    else expect(header).toBe(expected + previous)
    for (const record of records) expect(() => void JSON.parse(record), record).not.toThrow()
    sequence += records.length
    before = bytes
  }
  return sequence - 1
}

/** Expects the seal to cover the whole active segment and its own line. */
async function expectSealOfActive(path: string): Promise<void> {
  const active = await readFile(path)
  const records = active.filter((byte) => byte === 0x0a).length - 1
  const facts = `bytes=${active.length} records=${records} crc32=${hex(active)}`
  const seal = await readFile(`${path}.seal`, 'utf8')
  expect(seal).toBe(`${facts} check=${hex(Buffer.from(facts))}\n`)
}

async function open(path: string, options: OpenOptions = {}): Promise<MiniStore> {
  return MiniStore.open(path, options)
}

describe('the names of sealed segments', () => {
  test('are .001, .002 and so on, oldest first', async () => {
    const path = await journalPath()
    const store = await open(path, { maxBytesPerSegment: 1 })
    for (let n = 1; n <= 4; n++) await store.append(n)
    expect(await sealedNumbers(path)).toEqual(['001', '002', '003'])
    expect(store.segments.map((segment) => segment.path)).toEqual([
      `${path}.001`,
      `${path}.002`,
      `${path}.003`,
      path,
    ])
    expect(
      store.segments.map(({ isSealed, firstSequence, lastSequence }) => [
        isSealed,
        firstSequence,
        lastSequence,
      ]),
    ).toEqual([
      [true, 1, 1],
      [true, 2, 2],
      [true, 3, 3],
      [false, 4, 4],
    ])
    await store.close()
  })

  test('continue from .999 to .1000, and are ordered by number, not by string', async () => {
    const path = await journalPath()
    let before: Buffer | undefined
    for (let number = 997; number <= 998; number++) {
      const previous = before === undefined ? 'deadbeef' : hex(before)
      before = Buffer.from(`// MINISTORE JOURNAL v0.3.0 seq=${number} id=5c1e9a70b2f4d833 prev=${previous}\n${number}\n`)
      await writeFile(`${path}.${number}`, before)
    }
    await writeFile(path, `// MINISTORE JOURNAL v0.3.0 seq=999 id=5c1e9a70b2f4d833 prev=${hex(before ?? Buffer.alloc(0))}\n999\n`)

    const store = await open(path, { maxBytesPerSegment: 1 })
    for (let n = 1000; n <= 1002; n++) expect(await store.append(n)).toBe(n)
    expect(await store.replay()).toEqual([997, 998, 999, 1000, 1001, 1002])
    await store.close()
    expect(await sealedNumbers(path)).toEqual(['997', '998', '999', '1000', '1001'])
    expect(await expectWholeChain(path, 997)).toBe(1002)
    const again = await open(path)
    expect(again.segments.map((segment) => segment.path.slice(path.length))).toEqual([
      '.997',
      '.998',
      '.999',
      '.1000',
      '.1001',
      '',
    ])
    expect(await MiniStore.replay(path)).toEqual([997, 998, 999, 1000, 1001, 1002])
    await again.close()
  })

  test('continue from the remaining ones when the oldest were deleted, also after a restart', async () => {
    const path = await journalPath()
    const store = await open(path, { maxBytesPerSegment: 1 })
    for (let n = 1; n <= 4; n++) await store.append(n)
    await store.truncateBefore(3)
    await store.append(5)
    await store.close()
    const again = await open(path, { maxBytesPerSegment: 1 })
    await again.append(6)
    await again.close()
    expect(await sealedNumbers(path)).toEqual(['003', '004', '005'])
    expect(await expectWholeChain(path, 3)).toBe(6)
  })
})

describe('the header chain and the seal', () => {
  test('stay valid across rotations by size, by hand, in appendAll and across restarts', async () => {
    const path = await journalPath()
    const record = (n: number): unknown => ({ n, text: 'ä€😀'.repeat(n % 7) })
    let last = 0
    for (let session = 0; session < 4; session++) {
      const store = await open(path, { maxBytesPerSegment: 170 + session })
      for (let n = 0; n < 6; n++) last = await store.append(record(last))
      await store.rotate()
      last = (await store.appendAll([record(last), record(last + 1), record(last + 2)])).last
      await store.close()
      expect(await expectWholeChain(path)).toBe(last)
      await expectSealOfActive(path)
    }
    expect((await sealedNumbers(path)).length).toBeGreaterThan(8)
    expect(last).toBe(36)
  })

  test('the seal after open and after close covers every record; a rotation removes it in between', async () => {
    const path = await journalPath()
    const store = await open(path)
    await expectSealOfActive(path)
    await store.append(1)
    await store.rotate()
    await expect(stat(`${path}.seal`)).rejects.toThrow('ENOENT')
    await store.append(2)
    await store.close()
    await expectSealOfActive(path)
  })

  test('an empty active segment is sealed too', async () => {
    const path = await journalPath()
    const store = await open(path)
    await store.append(1)
    await store.rotate()
    await store.close()
    await expectSealOfActive(path)
    expect(await readFile(`${path}.seal`, 'utf8')).toMatch(/^bytes=\d+ records=0 /)
  })
})

describe('maxBytesPerSegment', () => {
  test('no segment is larger, and none is smaller than necessary', async () => {
    const path = await journalPath()
    const maxBytesPerSegment = 220
    const store = await open(path, { maxBytesPerSegment })
    for (let n = 1; n <= 60; n++) await store.append('x'.repeat(n % 13))
    const sizes: number[] = []
    for (const { path: segment, bytes } of store.segments) {
      expect((await stat(segment)).size).toBe(bytes)
      expect(bytes).toBeLessThanOrEqual(maxBytesPerSegment)
      sizes.push(bytes)
    }
    expect(sizes.length).toBeGreaterThan(3)
    // The longest line is 15 bytes: a segment with more room than that was sealed too early.
    for (const size of sizes.slice(0, -1)) expect(size).toBeGreaterThan(maxBytesPerSegment - 15)
    await store.close()
  })

  test('a segment may be exactly this large', async () => {
    const path = await journalPath()
    const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n'.length
    const store = await open(path, { maxBytesPerSegment: header + 4 })
    await store.append(1)
    await store.append(2)
    expect(store.segments).toHaveLength(1)
    await store.append(3)
    expect(store.segments.map(({ firstSequence }) => firstSequence)).toEqual([1, 3])
    await store.close()
  })

  test('a record or appendAll larger than a segment gets its own segment', async () => {
    const path = await journalPath()
    const store = await open(path, { maxBytesPerSegment: 120 })
    const long = 'x'.repeat(300)
    await store.append(1)
    await store.append(long)
    await store.append(2)
    await store.appendAll([long, long, long])
    await store.append(3)
    expect(store.segments.map(({ firstSequence, lastSequence }) => [firstSequence, lastSequence])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
      [4, 6],
      [7, 7],
    ])
    expect(await store.replay()).toEqual([1, long, 2, long, long, long, 3])
    await store.close()
    expect(await expectWholeChain(path)).toBe(7)
  })

  test('the first record of an empty journal never creates an empty sealed segment, however long it is', async () => {
    const path = await journalPath()
    const store = await open(path, { maxBytesPerSegment: 1 })
    await store.append('x'.repeat(1000))
    expect(await sealedNumbers(path)).toEqual([])
    await store.close()
  })
})

describe('maxSegments', () => {
  test('keeps this many segments, including the active one, with the newest records', async () => {
    for (const maxSegments of [1, 2, 5]) {
      const path = await journalPath()
      const store = await open(path, { maxBytesPerSegment: 1, maxSegments })
      for (let n = 1; n <= 8; n++) await store.append(n)
      expect(store.segments).toHaveLength(maxSegments)
      expect((await sealedNumbers(path)).length).toBe(maxSegments - 1)
      expect([store.firstSequence, store.lastSequence]).toEqual([9 - maxSegments, 8])
      expect(await store.replay()).toEqual([1, 2, 3, 4, 5, 6, 7, 8].slice(-maxSegments))
      await store.close()
      expect(await expectWholeChain(path, 9 - maxSegments)).toBe(8)
    }
  })

  test('opening deletes nothing; the next rotation does', async () => {
    const path = await journalPath()
    const store = await open(path, { maxBytesPerSegment: 1 })
    for (let n = 1; n <= 5; n++) await store.append(n)
    await store.close()
    const fewer = await open(path, { maxSegments: 2 })
    expect([fewer.firstSequence, fewer.segments.length]).toEqual([1, 5])
    await fewer.append(6)
    expect(fewer.segments).toHaveLength(5)
    await fewer.rotate()
    expect([fewer.firstSequence, fewer.segments.length]).toEqual([5, 2])
    expect(await fewer.replay()).toEqual([5, 6])
    await fewer.close()
    expect(await sealedNumbers(path)).toEqual(['005'])
  })
})

describe('rotate', () => {
  test('seals the active segment, whatever its size, and begins the next one', async () => {
    const path = await journalPath()
    const store = await open(path)
    await store.append(1)
    await store.rotate()
    expect(await sealedNumbers(path)).toEqual(['001'])
    expect([store.firstSequence, store.lastSequence]).toEqual([1, 1])
    expect(await store.append(2)).toBe(2)
    expect(await store.replay()).toEqual([1, 2])
    await store.close()
    expect(await expectWholeChain(path)).toBe(2)
  })

  test('does nothing while the active segment is empty, however often it is called', async () => {
    const path = await journalPath()
    const store = await open(path)
    await Promise.all([store.rotate(), store.rotate()])
    expect(await sealedNumbers(path)).toEqual([])
    await store.append(1)
    await Promise.all([store.rotate(), store.rotate(), store.rotate()])
    expect(await sealedNumbers(path)).toEqual(['001'])
    await store.close()
  })

  test('takes its turn among appends', async () => {
    const path = await journalPath()
    const store = await open(path)
    await Promise.all([
      store.append(1),
      store.rotate(),
      store.append(2),
      store.append(3),
      store.rotate(),
      store.append(4),
    ])
    expect(store.segments.map(({ firstSequence, lastSequence }) => [firstSequence, lastSequence])).toEqual([
      [1, 1],
      [2, 3],
      [4, 4],
    ])
    await store.close()
  })
})

describe('truncateBefore', () => {
  async function sixInThree(): Promise<{ path: string; store: MiniStore }> {
    const path = await journalPath()
    const store = await open(path)
    for (let n = 1; n <= 6; n++) {
      await store.append(n)
      if (n === 2 || n === 4) await store.rotate()
    }
    return { path, store }
  }

  test.each([
    [1, 1],
    [2, 1],
    [3, 3],
    [4, 3],
    [5, 5],
    [6, 5],
    [7, 5],
  ])('%i: only whole segments below it are deleted, so the first record left is %i', async (sequence, first) => {
    const { path, store } = await sixInThree()
    await store.truncateBefore(sequence)
    expect(store.firstSequence).toBe(first)
    expect(await store.replay()).toEqual([1, 2, 3, 4, 5, 6].slice(first - 1))
    await store.truncateBefore(sequence)
    expect(store.firstSequence).toBe(first)
    await store.close()
    expect(await MiniStore.replay(path)).toEqual([1, 2, 3, 4, 5, 6].slice(first - 1))
    expect(await expectWholeChain(path, first)).toBe(6)
  })

  test('beyond the next sequence number is a RangeError, and deletes nothing', async () => {
    const { path, store } = await sixInThree()
    await expect(store.truncateBefore(8)).rejects.toThrow(RangeError)
    await expect(store.truncateBefore(8)).rejects.toThrow(/at most 7.*got 8/)
    for (const wrong of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      await expect(store.truncateBefore(wrong)).rejects.toThrow(RangeError)
    }
    expect(await sealedNumbers(path)).toEqual(['001', '002'])
    expect(await store.append(7)).toBe(7)
    await store.close()
  })

  test('after rotate empties the journal, which keeps its next number after reopening', async () => {
    const { path, store } = await sixInThree()
    await store.rotate()
    await store.truncateBefore(7)
    expect([store.firstSequence, store.lastSequence]).toEqual([7, 6])
    expect(await store.replay()).toEqual([])
    await store.close()
    expect(await sealedNumbers(path)).toEqual([])
    expect(await MiniStore.replay(path)).toEqual([])

    const again = await open(path)
    expect([again.firstSequence, again.lastSequence]).toEqual([7, 6])
    expect(again.recovery).toMatchObject({ isNew: false, isActiveRestored: false, torn: undefined })
    await expect(MiniStore.replay(path, { from: 6 })).rejects.toMatchObject({
      code: 'ERR_MINISTORE_SEQUENCE_GONE',
    })
    expect(await again.append('seven')).toBe(7)
    await again.rotate()
    await again.close()
    expect(await expectWholeChain(path, 7)).toBe(7)
  })
})

/** Reads by the rules of the Rust crate: line 1 has the magic, every other line is a JSON value. */
function readAsRustCrate(text: string): unknown[] {
  const [header = '', ...lines] = text.split('\n')
  expect(header.startsWith('// MINISTORE JOURNAL v')).toBe(true)
  expect(lines.pop()).toBe('')
  return lines.map((line) => JSON.parse(line) as unknown)
}

describe('the Rust crate', () => {
  test('can read every segment by its rules: a magic prefix, then one JSON value per line', async () => {
    const path = await journalPath()
    const records = [
      { text: 'two\nlines, \u2028 and \r' },
      null,
      0,
      '',
      [],
      'ä€😀\0',
      { __proto__: null, deep: [[{}]] },
    ]
    const store = await open(path, { maxBytesPerSegment: 100 })
    for (const record of records) await store.append(record)
    await store.close()
    const paths = [...(await sealedNumbers(path)).map((number) => `${path}.${number}`), path]
    expect(paths.length).toBeGreaterThan(2)
    const read: unknown[] = []
    for (const segment of paths) read.push(...readAsRustCrate(await readFile(segment, 'utf8')))
    expect(JSON.stringify(read)).toBe(JSON.stringify(records))
  })

  test('has written segments that open continues from: version 0.1 headers, six digits, no sequence', async () => {
    const path = await journalPath()
    await writeFile(`${path}.000001`, '// MINISTORE JOURNAL v0.1.4\n1\n2\n')
    await writeFile(path, '// MINISTORE JOURNAL v0.1.4\n3\n')
    const store = await open(path)
    expect([store.firstSequence, store.lastSequence]).toEqual([1, 3])
    // Opening gives the journal an identity by a rotation.
    expect(store.segments.map(({ version, firstSequence }) => [version, firstSequence])).toEqual([
      ['0.1.4', 1],
      ['0.1.4', 3],
      ['0.3.0', 4],
    ])
    await store.rotate()
    expect(await store.append(4)).toBe(4)
    expect(await store.replay()).toEqual([1, 2, 3, 4])
    await store.close()
    const [header] = (await readFile(path, 'utf8')).split('\n')
    expect(header).toBe(`// MINISTORE JOURNAL v0.3.0 seq=4 id=${store.id} prev=${hex(await readFile(`${path}.002`))}`)
    expect(await MiniStore.replay(path)).toEqual([1, 2, 3, 4])
  })
})
