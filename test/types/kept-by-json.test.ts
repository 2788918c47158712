import { describe, expectTypeOf, test } from 'vitest'
import * as z from 'zod'

import { type Codec, type JournalStream, type KeptByJson, MiniStore, type NotKeptByJson } from '../../src/index.ts'
import { MiniQueue } from '../../src/miniqueue/index.ts'
import { StateManager } from '../../src/ministate/index.ts'

// `tsc -p tsconfig.json` checks these types; at run time the functions are never called.

declare const brand: unique symbol
type Id = string & { readonly [brand]: 'id' }
interface Tree {
  readonly id: Id
  readonly name: string & { readonly __brand: 'name' }
  readonly parent?: Tree
  readonly note?: string | undefined
  readonly removed: string | undefined
  readonly children: readonly Tree[]
  readonly pair: [number, string?]
  readonly kind: 'a' | 'b'
  readonly by: Record<string, Tree | null>
  readonly rest: unknown
  readonly any: object
}
interface Tagged {
  readonly [brand]: 'tagged'
  readonly a: 1
}
type Json = string | number | boolean | null | Json[] | { [key: string]: Json }
type Expression = ['add', Expression, Expression] | ['number', number]
type Change = { type: 'grow'; tree: Tree } | { type: 'cut'; at: number }
interface Nested<T> {
  value: T
  deeper: Nested<T[]>
}

interface Dated {
  readonly id: string
  readonly createdAt: Date
}

describe('what JSON keeps', () => {
  test('can be stored', () => {
    expectTypeOf(() => MiniStore.open<Tree>('path')).returns.resolves.toEqualTypeOf<MiniStore<Tree>>()
    expectTypeOf(() => MiniStore.open<Change>('path')).returns.resolves.toEqualTypeOf<MiniStore<Change>>()
    expectTypeOf(() => MiniStore.open<Tagged>('path')).returns.resolves.toEqualTypeOf<MiniStore<Tagged>>()
    expectTypeOf(() => MiniStore.open<readonly string[]>('path')).returns.resolves.toEqualTypeOf<MiniStore<readonly string[]>>()
    expectTypeOf(() => MiniStore.open<Record<string, number>>('path')).toBeFunction()
    expectTypeOf(() => MiniStore.open<string | null>('path')).toBeFunction()
    expectTypeOf(() => MiniStore.open<object>('path')).toBeFunction()
    expectTypeOf<Awaited<ReturnType<typeof MiniStore.open>>>().toEqualTypeOf<MiniStore>()
  })

  test('may be recursive, in objects, arrays, tuples and without end', () => {
    expectTypeOf(() => MiniStore.open<Json>('path')).returns.resolves.toEqualTypeOf<MiniStore<Json>>()
    expectTypeOf(() => MiniStore.open<Expression>('path')).returns.resolves.toEqualTypeOf<MiniStore<Expression>>()
    expectTypeOf(() => MiniStore.open<{ all: Json; tree: Expression[] }>('path')).toBeFunction()
    expectTypeOf(() => MiniStore.open<Nested<string>>('path')).toBeFunction()
  })
})

describe('what JSON does not keep', () => {
  test('is named in the constraint, in the place of its property', () => {
    expectTypeOf<KeptByJson<Dated>>().toEqualTypeOf<{ readonly id: string; readonly createdAt: NotKeptByJson<Date> }>()
    expectTypeOf<KeptByJson<Date>>().toEqualTypeOf<NotKeptByJson<Date>>()
  })

  test('is refused as a record, in any depth', () => {
    // @ts-expect-error a date reads back as a string
    expectTypeOf(() => MiniStore.open<Dated>('path')).toBeFunction()
    // @ts-expect-error options change nothing
    expectTypeOf(() => MiniStore.open<Dated>('path', { lock: false })).toBeFunction()
    // @ts-expect-error nested, and optional
    expectTypeOf(() => MiniStore.open<{ a: { b?: { at: Date } } }>('path')).toBeFunction()
    // @ts-expect-error in one member of a union
    expectTypeOf(() => MiniStore.open<{ type: 'a' } | { type: 'b'; at: Date }>('path')).toBeFunction()
    // @ts-expect-error in a union of values
    expectTypeOf(() => MiniStore.open<{ at: string | Date }>('path')).toBeFunction()
    // @ts-expect-error in a recursive type
    expectTypeOf(() => MiniStore.open<{ all: Json; dated: Dated[] }>('path')).toBeFunction()
    // @ts-expect-error in a tuple
    expectTypeOf(() => MiniStore.open<{ pair: [string, Date] }>('path')).toBeFunction()
    // @ts-expect-error in an index signature
    expectTypeOf(() => MiniStore.open<Record<string, Date>>('path')).toBeFunction()
    // @ts-expect-error alone
    expectTypeOf(() => MiniStore.open<Date>('path')).toBeFunction()
  })

  test('is more than dates', () => {
    // @ts-expect-error a map reads back as {}
    expectTypeOf(() => MiniStore.open<{ a: Map<string, number> }>('path')).toBeFunction()
    // @ts-expect-error a set reads back as {}
    expectTypeOf(() => MiniStore.open<{ a: ReadonlySet<string> }>('path')).toBeFunction()
    // @ts-expect-error JSON has no bigint
    expectTypeOf(() => MiniStore.open<{ a: bigint }>('path')).toBeFunction()
    // @ts-expect-error a symbol is left out
    expectTypeOf(() => MiniStore.open<{ a: symbol }>('path')).toBeFunction()
    // @ts-expect-error a method is left out
    expectTypeOf(() => MiniStore.open<{ a(): void }>('path')).toBeFunction()
    // @ts-expect-error undefined in an array reads back as null
    expectTypeOf(() => MiniStore.open<Array<string | undefined>>('path')).toBeFunction()
    // @ts-expect-error the same in a property
    expectTypeOf(() => MiniStore.open<{ a: Array<string | undefined> }>('path')).toBeFunction()
    // @ts-expect-error a URL has a toJSON
    expectTypeOf(() => MiniStore.open<{ a: URL }>('path')).toBeFunction()
    // @ts-expect-error so has a Buffer
    expectTypeOf(() => MiniStore.open<{ a: Buffer }>('path')).toBeFunction()
    // @ts-expect-error bytes read back as an object of numbers
    expectTypeOf(() => MiniStore.open<{ a: Uint8Array }>('path')).toBeFunction()
    // @ts-expect-error an error reads back as {}
    expectTypeOf(() => MiniStore.open<{ a: Error }>('path')).toBeFunction()
  })

  test('is refused by the static readers, a queue and a state', () => {
    // @ts-expect-error a date reads back as a string
    expectTypeOf(() => MiniStore.stream<Dated>('path')).toBeFunction()
    // @ts-expect-error a date reads back as a string
    expectTypeOf(() => MiniStore.entries<Dated>('path', { from: 1 })).toBeFunction()
    // @ts-expect-error a date reads back as a string
    expectTypeOf(() => MiniStore.replay<Dated>('path')).toBeFunction()
    // @ts-expect-error a date reads back as a string
    expectTypeOf(() => MiniStore.read<Dated>('path')).toBeFunction()
    // @ts-expect-error a payload is stored as JSON
    expectTypeOf(() => MiniQueue.open<Dated>('path')).toBeFunction()
    const definition = { initialState: () => 0, mutator: (count: number, _dated: Dated) => count + 1 }
    // @ts-expect-error a mutation is stored as JSON
    expectTypeOf(() => StateManager.open('path', definition)).toBeFunction()
    // @ts-expect-error the same with type parameters
    expectTypeOf(() => StateManager.open<number, Dated>('path', definition)).toBeFunction()
  })
})

describe('another type can be stored', () => {
  test('with a codec', () => {
    const codec: Codec<Dated> = { encode: () => '', decode: () => ({ id: '', createdAt: new Date() }) }
    expectTypeOf(() => MiniStore.open('path', { codec })).returns.resolves.toEqualTypeOf<MiniStore<Dated>>()
    expectTypeOf(() => MiniStore.stream('path', { codec })).returns.toEqualTypeOf<JournalStream<Dated>>()
    expectTypeOf(() => MiniStore.replay('path', { codec })).returns.resolves.toEqualTypeOf<Dated[]>()
    const lossy: Codec<Date, string> = { encode: String, decode: String }
    expectTypeOf(() => MiniStore.open('path', { codec: lossy })).returns.resolves.toEqualTypeOf<MiniStore<string, Date>>()
    const definition = { initialState: () => 0, mutator: (count: number, _dated: Dated) => count + 1 }
    expectTypeOf(() => StateManager.open('path', { ...definition, journal: { codec } })).returns.resolves.toEqualTypeOf<
      StateManager<number, Dated>
    >()
  })

  test('with a schema', () => {
    const schema = z.object({ id: z.string(), createdAt: z.string().transform((text) => new Date(text)) })
    expectTypeOf(() => MiniStore.open('path', { schema })).returns.resolves.toHaveProperty('append')
    expectTypeOf(() => MiniStore.replay('path', { schema })).returns.resolves.toEqualTypeOf<Array<{ id: string; createdAt: Date }>>()
    const definition = { initialState: () => 0, mutator: (count: number, _dated: { id: string; createdAt: Date }) => count + 1 }
    expectTypeOf(() => StateManager.open('path', { ...definition, schema })).returns.resolves.toEqualTypeOf<
      StateManager<number, { id: string; createdAt: Date }, { id: string; createdAt: string }>
    >()
  })

  test('with an assertion', () => {
    expectTypeOf((store: MiniStore) => store as MiniStore<Dated>).returns.toEqualTypeOf<MiniStore<Dated>>()
    expectTypeOf((queue: MiniQueue) => queue as MiniQueue<Dated>).returns.toEqualTypeOf<MiniQueue<Dated>>()
  })
})

describe('a type parameter of the caller', () => {
  test('repeats the constraint, alone or with others', () => {
    const open = <T extends KeptByJson<T>>(name: string) => MiniStore.open<T>(name)
    expectTypeOf(open<Tree>).returns.resolves.toEqualTypeOf<MiniStore<Tree>>()
    // @ts-expect-error the constraint holds here too
    expectTypeOf(open<Dated>).toBeFunction()
    const enqueue = async <T extends { id: string } & KeptByJson<T>>(job: T) => (await MiniQueue.open<T>('path')).enqueue(job)
    expectTypeOf(() => enqueue({ id: 'a', more: 1 })).returns.resolves.toBeNumber()
    class Log<T extends KeptByJson<T>> {
      open(): Promise<MiniStore<T>> {
        return MiniStore.open<T>('path')
      }
    }
    expectTypeOf<Log<Change>['open']>().returns.resolves.toEqualTypeOf<MiniStore<Change>>()
  })

  test('without it, or inside another type, is refused or asserted', () => {
    // @ts-expect-error nothing is known of T
    expectTypeOf(<T>() => MiniStore.open<T>('path')).toBeFunction()
    // @ts-expect-error the compiler does not look into T
    expectTypeOf(<T extends KeptByJson<T>>() => MiniStore.open<{ data: T }>('path')).toBeFunction()
    const open = async <T>() => {
      const store = await MiniStore.open('path')
      return store as MiniStore<{ data: T }>
    }
    expectTypeOf(open<string>).returns.resolves.toEqualTypeOf<MiniStore<{ data: string }>>()
  })
})
