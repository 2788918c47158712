import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { jsonPieces, jsonProperties } from '../../src/minisnap/json-pieces.ts'
import { pickSeed } from '../support/seeded-random.ts'

const mebibyte = 1024 * 1024
const piecesOf = (value: unknown): string[] => [...jsonPieces(value, 'state')]
const joined = (value: unknown): string => piecesOf(value).join('')

describe('the pieces of a JSON text', () => {
  test('join to the output of JSON.stringify', () => {
    const seed = pickSeed('json-pieces')
    const values = fc.jsonValue({ maxDepth: 12, stringUnit: 'binary' })
    fc.assert(fc.property(values, (value) => joined(value) === JSON.stringify(value)), { seed, numRuns: 2000 })
  })

  const entry = (n: number): unknown => ({ n, text: 'x'.repeat((n * 7919) % 200) })
  const range = (length: number): number[] => Array.from({ length }, (_, n) => n)
  const shapes: ReadonlyArray<readonly [name: string, value: unknown]> = [
    ['many small elements', range(20_000).map(entry)],
    ['many small properties', Object.fromEntries(range(5000).map((n) => [`key ${n}`, entry(n)]))],
    ['keys that are numbers, which come first', { b: 1, 10: 2, 9: 3, a: 4 }],
    ['properties that are undefined, alone and by the batch', {
      a: undefined, b: 1, c: undefined,
      ...Object.fromEntries(range(3000).map((n) => [`u${n}`, n % 2000 < 10 ? n : undefined])),
    }],
    ['what is large between what is small', { a: 1, b: range(50_000).map(entry), c: {}, d: [range(50_000), 1, ['x'.repeat(70_000)]], e: 2 }],
    ['nothing but undefined properties', { a: undefined, b: undefined }],
    ['small elements behind large ones, and large ones behind small', [
      'x'.repeat(mebibyte), ...range(3000), 'y'.repeat(mebibyte), { z: [] },
    ]],
    ['an own __proto__, alone and in a batch', JSON.parse('[{"__proto__":{"a":1}},{"a":1,"b":2,"c":3,"d":4,"__proto__":[5]}]')],
    ['an element that is shared', (() => {
      const shared = { blob: 'x'.repeat(100_000) }
      return [shared, shared, { shared, list: [shared] }]
    })()],
    ['deep ones', JSON.parse(`${'{"a":[1,'.repeat(500)}2${']}'.repeat(500)}`)],
  ]

  test.each(shapes)('hold %s', (_, value) => {
    expect(joined(value) === JSON.stringify(value)).toBe(true)
  })

  test('hold the properties that an object gives itself, which are checked like all others', () => {
    const given = (count: number, last: unknown = null): object => ({
      *[jsonProperties]() {
        for (let n = 0; n < count; n++) yield [`key ${n}`, entry(n)]
        yield ['gone', undefined]
        yield ['last', last]
      },
    })
    for (const count of [0, 1, 20_000]) {
      const entries = range(count).map((n): [string, unknown] => [`key ${n}`, entry(n)])
      const plain: unknown = Object.fromEntries([...entries, ['last', null]])
      expect(joined({ a: 1, table: given(count), b: [given(count)] })).toBe(JSON.stringify({ a: 1, table: plain, b: [plain] }))
    }
    expect(() => joined({ table: given(2, { at: new Date(0) }) })).toThrow('JSON to keep `state.table.last.at`, got an instance of Date')
    const lazy = jsonPieces({ table: given(50_000) }, 'state')
    expect(lazy.next().value).toMatch(/^\{"table":\{"key 0":/)
  })

  test('are not much longer than a mebibyte, however large the entries', () => {
    const blob = 'b'.repeat(mebibyte / 2)
    const list = range(8).map((n) => ({ n, blob }))
    const blobs = { list, keyed: Object.fromEntries(range(8).map((n) => [n, blob])) }
    for (const value of [blobs, range(1_000_000)]) {
      const pieces = piecesOf(value)
      expect(pieces.length).toBeGreaterThan(4)
      expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThan(1.6 * mebibyte)
    }
  })

  test('are produced on demand', () => {
    const list: unknown[] = range(20_000).map(entry)
    const pieces = jsonPieces(list, 'state')
    expect(pieces.next().value?.slice(0, 12)).toBe(JSON.stringify(list).slice(0, 12))
    list[list.length - 1] = 'changed since'
    expect([...pieces].at(-1)).toMatch(/"changed since"\]$/)
  })

  test('reflect one reading of an object whose properties come and go', () => {
    let calls = 0
    const state = {}
    const keys = ['a', 'b', 'c', 'd', 'e', 'f']
    const get = (): unknown => (++calls <= keys.length ? 1 : undefined)
    for (const key of keys) Object.defineProperty(state, key, { enumerable: true, get })
    expect(joined(state)).toBe('{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}')
  })

  test('split a large value after small ones', () => {
    const large = Object.fromEntries(range(100_000).map((n) => [n, entry(n)]))
    const pieces = piecesOf({ n: 1, m: 2, large, dead: {}, more: [1, 2, large] })
    expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThan(1.2 * mebibyte)
    expect(pieces.length).toBeGreaterThan(15)
  })
})
