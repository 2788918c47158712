import { createContext, runInContext } from 'node:vm'

import { describe, expect, test } from 'vitest'

import { SnapStore } from '../../src/minisnap/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

const newStore = (): SnapStore => new SnapStore('/snaps', { fileSystem: new SimulatedFileSystem() })

class Point {
  x = 1
}

class List extends Array<number> {}

const cycle: { self?: unknown; a: { b: unknown[] } } = { a: { b: [] } }
cycle.a.b.push(1, cycle.a)

/** An array with some elements replaced. */
function many(others: Readonly<Record<number, unknown>>): unknown[] {
  return Array.from({ length: 5000 }, (_, n) => (n in others ? others[n] : { n }))
}

function withoutElement(elements: unknown[], index: number): unknown[] {
  Reflect.deleteProperty(elements, index)
  return elements
}

function cycleAmongMany(): unknown {
  const state: { list?: unknown[] } = {}
  state.list = many({ 3000: state })
  return state
}

const lost: ReadonlyArray<readonly [what: string, state: unknown, message: RegExp]> = [
  ['undefined', undefined, /keep `state`, got undefined/],
  ['a function', () => 1, /keep `state`, got a function/],
  ['a symbol', { key: Symbol('s') }, /`state\.key`, got a symbol/],
  ['a bigint', [1, [2n]], /`state\[1\]\[0\]`, got a bigint/],
  ['NaN', { users: [{ age: Number.NaN }] }, /`state\.users\[0\]\.age`, got NaN/],
  ['Infinity', { 'a b': { $c: -Infinity } }, /`state\["a b"\]\.\$c`, got -Infinity/],
  ['undefined in an array', [1, undefined], /`state\[1\]`, got undefined/],
  // oxlint-disable-next-line no-sparse-arrays -- the test needs a sparse array
  ['a hole', [1, , 3], /`state\[1\]`, got a hole/],
  ['a Map', { byId: new Map([[1, 2]]) }, /`state\.byId`, got an instance of Map/],
  ['a Set', new Set([1]), /`state`, got an instance of Set/],
  ['a Date', { at: new Date(0) }, /`state\.at`, got an instance of Date/],
  ['a Buffer', [Buffer.from('x')], /`state\[0\]`, got an instance of Buffer/],
  ['a boxed number', [Object(1)], /`state\[0\]`, got an instance of Number/],
  ['an instance of a class', { at: new Point() }, /`state\.at`, got an instance of Point/],
  ['an array of its own class', List.from([1]), /`state`, got an instance of List/],
  ['an object made of another', Object.create({ x: 1 }), /`state`, got an instance of Object/],
  ['an object made of one without a constructor', Object.create(Object.create(null) as object), /with a custom prototype/],
  ['a toJSON', { a: { toJSON: () => 1 } }, /`state\.a`, got an object with a toJSON/],
  ['a toJSON of an array', Object.assign([1], { toJSON: () => 1 }), /`state`, got an array with a toJSON/],
  ['a symbol for a key', { a: { [Symbol('s')]: 1 } }, /`state\.a`, got an object with a symbol for a key/],
  ['a cycle', cycle, /`state\.a\.b\[1\]`, got a reference to an object that contains it/],
  ['something among many small elements', many({ 4321: { n: Number.NaN } }), /`state\[4321\]\.n`, got NaN/],
  ['a hole among many small elements', withoutElement(many({}), 4000), /`state\[4000\]`, got a hole/],
  ['a hole behind large elements', withoutElement(['x'.repeat(100_000), 'x'.repeat(100_000), 1, 2], 2), /`state\[2\]`, got a hole/],
  ['something among many small properties', { by: Object.fromEntries(many({ 4321: new Date(0) }).entries()) }, /`state\.by\["4321"\]`, got an instance of Date/],
  ['something deep', { a: [{ b: [{ c: [{ d: [{ e: [{ f: [Infinity] }] }] }] }] }] }, /`state\.a\[0\]\.b\[0\]\.c\[0\]\.d\[0\]\.e\[0\]\.f\[0\]`, got Infinity/],
  ['a cycle among many', cycleAmongMany(), /`state\.list\[3000\]`, got a reference to an object that contains it/],
  ['no prototype', { by: Object.assign(Object.create(null) as object, { a: 1 }) }, /`state\.by`, got an object without a prototype/],
  ['a getter that throws', Object.defineProperty({}, 'x', { enumerable: true, get: () => { throw new Error('no x') } }), /no x/],
]

describe('a state that would change when read back', () => {
  const cases = [true, false].flatMap((frozen) => lost.map(([what, ...rest]) => [what, frozen, ...rest] as const))
  test.each(cases)('is refused: %s, frozen %s', async (_, frozen, state, message) => {
    const store = newStore()
    const created = store.create(state, 1, { frozen })
    await expect(created).rejects.toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE', sequence: 1 })
    await expect(created).rejects.toThrow(message)
    await expect(created).rejects.toThrow(/Use a codec to store it/)
    expect(await store.exists()).toBe(false)
  })

  test('is refused when it is nested too deep to be written', async () => {
    let deep: unknown = 1
    for (let depth = 0; depth < 200_000; depth++) deep = depth % 2 === 0 ? [deep] : { deep }
    const created = newStore().create(deep, 1)
    await expect(created).rejects.toMatchObject({ code: 'ERR_MINISTORE_NOT_SERIALIZABLE' })
    await expect(created).rejects.toThrow(/nested deeper than JSON\.stringify can follow/)
  })
})

describe('a state that reads back unchanged', () => {
  const shared = { n: 1 }
  const kept: ReadonlyArray<readonly [what: string, state: unknown, as?: unknown]> = [
    ['one object in two places', { a: shared, b: [shared, shared] }],
    ['an undefined property, which is dropped', { a: undefined, b: 1 }, { b: 1 }],
    ['a getter, of which its value is kept', { get a() { return 1 } }, { a: 1 }],
    ['objects of another realm', runInContext('({ a: [1, { b: [] }] })', createContext()), { a: [1, { b: [] }] }],
    ['a property that shadows a method', { toJSON: 1, constructor: 2, hasOwnProperty: 3, length: 4 }],
    ['an own __proto__', JSON.parse('{"__proto__":{"a":1}}')],
    ['half a surrogate pair', { text: 'a\ud83d', '\udc00': '\ude00b' }],
    ['frozen objects', Object.freeze({ a: Object.freeze([1]) })],
    ['nesting that is deep', JSON.parse('['.repeat(2000) + ']'.repeat(2000))],
    ['numbers to the last bit', [5e-324, Number.MAX_VALUE, 0.1 + 0.2, -1, 2 ** 53 - 1]],
  ]

  test.each(kept)('is accepted: %s', async (_, state, as = state) => {
    const store = newStore()
    await store.create(state, 1)
    expect(JSON.stringify((await store.restore())?.state)).toBe(JSON.stringify(as))
  })
})
