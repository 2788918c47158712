import { describe, expect, test } from 'vitest'

import { Heap } from '../../src/miniqueue/messages.ts'
import { createRandom } from '../../src/testing/random.ts'

interface Item {
  readonly rank: number
  position: number
}

function itemHeap(): Heap<Item> {
  return new Heap<Item>(
    (left, right) => left.rank < right.rank,
    (item, position) => {
      item.position = position
    },
  )
}

function drain<T>(heap: Heap<T>): T[] {
  const items: T[] = []
  for (let item = heap.pop(); item !== undefined; item = heap.pop()) items.push(item)
  return items
}

describe('Heap', () => {
  test('an empty heap has no first item and returns undefined', () => {
    const heap = new Heap<number>((left, right) => left < right)
    expect([heap.size, heap.first, heap.pop()]).toEqual([0, undefined, undefined])
  })

  test.each([1, 2, 3])('returns pushed items in order, including zero and equal ones (seed %i)', (seed) => {
    const random = createRandom(seed)
    const numbers = Array.from({ length: 200 }, () => random.below(50))
    const heap = new Heap<number>((left, right) => left < right)
    for (const number of numbers) heap.push(number)
    expect(heap.size).toBe(200)
    expect(drain(heap)).toEqual(numbers.toSorted((left, right) => left - right))
  })

  test.each([1, 2, 3])('removes from any position that it reports (seed %i)', (seed) => {
    const random = createRandom(seed)
    const heap = itemHeap()
    const items = Array.from({ length: 100 }, () => ({ rank: random.below(1000), position: -1 }))
    for (const item of items) heap.push(item)
    const [gone, left] = [items.filter((_, index) => index % 3 === 0), items.filter((_, index) => index % 3 !== 0)]
    for (const item of gone) {
      heap.remove(item.position)
      expect(item.position).toBe(-1)
    }
    expect(drain(heap).map(({ rank }) => rank)).toEqual(
      left.map(({ rank }) => rank).toSorted((one, other) => one - other),
    )
    expect(left.every(({ position }) => position === -1)).toBe(true)
  })

  test('a refill replaces all items', () => {
    const heap = itemHeap()
    const old = { rank: 1, position: -1 }
    heap.push(old)
    const items = [5, 3, 9, 1, 7].map((rank) => ({ rank, position: -1 }))
    heap.refill([...items])
    expect(old.position).toBe(-1)
    expect(items.map(({ position }) => position).toSorted((left, right) => left - right)).toEqual([0, 1, 2, 3, 4])
    expect(drain(heap).map(({ rank }) => rank)).toEqual([1, 3, 5, 7, 9])
  })
})
