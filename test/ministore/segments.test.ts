import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { indexAt, indexOfSegment } from '../../src/ministore/view.ts'
import { SealedSegments } from '../../src/ministore/rotation.ts'
import type { Segment } from '../../src/ministore/segments.ts'
import { collect } from '../support/consume.ts'
import { numbers, writeSegment } from '../support/journals.ts'
import { pickSeed, seededRandom } from '../support/seeded-random.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** A segment that exists only in memory. */
function segmentAt(firstSequence: number, inode = firstSequence): Segment {
  const header = { text: `header ${inode}`, bytes: 10, version: '0.3.0', sequence: firstSequence, id: 'id', previousCrc32: 0 }
  const name = `journal.jsonl.${inode}`
  return { number: inode, name, path: `/${name}`, header, bytes: 100, inode, padding: 0, changedMs: 0, firstSequence }
}

/** Writes a journal of segments with one record each, without the library. Resolves with its path. */
async function writeSmallSegments(count: number): Promise<string> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  let previous = ''
  for (const n of numbers(1, count)) {
    const header = `// MINISTORE JOURNAL v0.3.0 seq=${n} id=5c1e9a70b2f4d833${previous}`
    await writeSegment(n === count ? path : `${path}.${String(n).padStart(3, '0')}`, header, [String(n)])
    previous = ` prev=${crc32(`${header}\n${n}\n`).toString(16).padStart(8, '0')}`
  }
  return path
}

describe('the search for a segment', () => {
  test('finds what a search of all segments finds, in any order and with empty segments', () => {
    const random = seededRandom(pickSeed('segments'))
    for (let round = 0; round < 300; round++) {
      let [first, inode] = [1 + random(5), 1]
      const segments = Array.from({ length: random(12) }, () => segmentAt((first += random(3)), inode++))
      for (const sequence of numbers(0, first + 2)) {
        const known = segments.findLastIndex(({ firstSequence }) => firstSequence <= sequence)
        expect(indexAt(segments, sequence)).toBe(known)
        const shuffled = segments.toSorted(() => random(3) - 1)
        const last = shuffled.findLastIndex(({ firstSequence }) => firstSequence <= sequence)
        expect(indexAt(shuffled, sequence, false)).toBe(last)
      }
      for (const [index, segment] of segments.entries()) expect(indexOfSegment(segments, { ...segment })).toBe(index)
      expect(indexOfSegment(segments, segmentAt(first, inode))).toBe(-1)
    }
  })

  test('looks at few of many segments', () => {
    let looks = 0
    const segments = numbers(1, 30_000).map((n) => {
      const segment = segmentAt(n)
      return Object.defineProperty({ ...segment }, 'firstSequence', { get: () => (looks++, n) })
    })
    expect(indexAt(segments, 12_345)).toBe(12_344)
    expect(indexOfSegment(segments, segmentAt(23_456))).toBe(23_455)
    expect(looks).toBeLessThan(40)
  })
})

describe('the sealed segments of an open journal', () => {
  const active = segmentAt(1000)

  test('are shown as one array until they change, and what was shown never changes', () => {
    const sealed = new SealedSegments([segmentAt(1), segmentAt(2)])
    const shown = sealed.followedBy(active)
    expect(sealed.followedBy(active)).toBe(shown)
    sealed.add(segmentAt(3))
    const more = sealed.followedBy(active)
    sealed.removeOldest()
    const less = sealed.followedBy(active)
    const next = sealed.followedBy(segmentAt(2000))
    const firsts = [shown, more, less, next].map((segments) => segments.map(({ firstSequence }) => firstSequence))
    expect(firsts).toEqual([[1, 2, 1000], [1, 2, 3, 1000], [2, 3, 1000], [2, 3, 2000]])
  })

  test('are removed from the front, one by one, while others are added', () => {
    const random = seededRandom(pickSeed('sealed segments'))
    const sealed = new SealedSegments([])
    const expected: Segment[] = []
    for (let number = 1, step = 0; step < 1000; step++) {
      if (expected.length > 0 && random(2) === 0) {
        sealed.removeOldest()
        expected.shift()
        if (expected.length === 0) number = 1
      } else {
        const segment = segmentAt(number++)
        sealed.add(segment)
        expected.push(segment)
      }
      expect(sealed).toMatchObject({ length: expected.length, nextNumber: number })
      expect([sealed.oldest, sealed.second]).toEqual([expected[0], expected[1]])
      if (random(4) === 0) expect(sealed.followedBy(active)).toEqual([...expected, active])
    }
  })
})

describe('a journal of many segments', () => {
  test('lets the event loop run while it is opened', async () => {
    const path = await writeSmallSegments(1000)
    let [turns, isOpen] = [0, false]
    const countTurn = (): void => {
      turns++
      if (!isOpen) setImmediate(countTurn)
    }
    setImmediate(countTurn)
    const store = await MiniStore.open(path)
    isOpen = true
    expect(turns).toBeGreaterThan(10)
    await store.close()
  })

  test('is read, cut at its beginning and read on, by a reader from before too', async () => {
    const store = await MiniStore.open<number>(await writeSmallSegments(300))
    const before = store.stream().values()
    expect((await before.next()).value).toBe(1)
    await store.truncateBefore(200)
    expect(store).toMatchObject({ firstSequence: 200, lastSequence: 300 })
    expect(await collect(store.stream())).toEqual(numbers(200, 300))
    await expect(collect(before)).rejects.toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 2 })
    await store.close()
    expect(await MiniStore.replay(store.path)).toEqual(numbers(200, 300))
  })
})
