import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expectTypeOf, test } from 'vitest'
import * as z from 'zod'

import {
  type Codec, type CreateOptions, type MiniStoreError, type RestoredSnapshot, type RestoreOptions, type SnapshotInfo, SnapStore,
  type SnapStoreOptions,
} from '../../src/minisnap/index.ts'

// `tsc -p tsconfig.json` checks these types; at run time the functions are never called.

interface State {
  readonly total: number
}

/** A schema whose input and output differ: a string and its length. */
const schema = z.object({ text: z.string().transform((text) => text.length), note: z.string().default('') })
interface Input {
  text: string
  note?: string | undefined
}
interface Output {
  text: number
  note: string
}

describe('SnapStore', () => {
  test('without a type stores unknown', () => {
    const make = () => new SnapStore('path')
    expectTypeOf<ReturnType<typeof make>>().toEqualTypeOf<SnapStore<unknown, unknown>>()
  })

  test('stores its type parameter, and options do not change that', () => {
    const make = (options: SnapStoreOptions<State>) => new SnapStore<State>('path', options)
    expectTypeOf<ReturnType<typeof make>>().toEqualTypeOf<SnapStore<State>>()
    expectTypeOf<SnapStore<State>['create']>().parameters.toEqualTypeOf<
      [state: State, sequence: number, options?: CreateOptions | undefined]
    >()
    expectTypeOf<SnapStore<State>['create']>().returns.resolves.toEqualTypeOf<SnapshotInfo>()
    expectTypeOf<SnapStore<State>['restore']>().parameters.toEqualTypeOf<[options?: RestoreOptions | undefined]>()
    expectTypeOf<SnapStore<State>['restore']>().returns.resolves.toEqualTypeOf<RestoredSnapshot<State> | undefined>()
    expectTypeOf<SnapStore<State>['list']>().returns.resolves.toEqualTypeOf<SnapshotInfo[]>()
  })

  test('takes its types from the schema', () => {
    const make = () => new SnapStore('path', { schema, keep: 3 })
    expectTypeOf<ReturnType<typeof make>>().toEqualTypeOf<SnapStore<Output, Input>>()
  })

  test('takes its types from the schema with a codec that returns unknown', () => {
    const codec: Codec<unknown, unknown> = { encode: String, decode: (text) => text }
    const make = () => new SnapStore('path', { schema, codec })
    expectTypeOf<ReturnType<typeof make>['restore']>().returns.resolves.toEqualTypeOf<RestoredSnapshot<Output> | undefined>()
  })

  test('takes its types from the codec', () => {
    const codec: Codec<Map<string, number>> = { encode: () => '', decode: () => new Map() }
    const make = () => new SnapStore('path', { codec })
    expectTypeOf<ReturnType<typeof make>>().toEqualTypeOf<SnapStore<Map<string, number>>>()
  })

  test('takes options that may be undefined', () => {
    const standard = undefined as StandardSchemaV1<State, State> | undefined
    const make = () => new SnapStore<State>('path', { keep: undefined, codec: undefined, schema: standard, fileSystem: undefined })
    expectTypeOf<ReturnType<typeof make>>().toEqualTypeOf<SnapStore<State>>()
  })

  test('refuses values of the wrong type', () => {
    // @ts-expect-error -- the schema is for another state
    const wrongSchema = () => new SnapStore<State>('path', { schema })
    // @ts-expect-error -- no such option
    const misspelled = () => new SnapStore('path', { keeps: 2 })
    // @ts-expect-error -- it has no sequence number
    const unnumbered = (store: SnapStore<State>) => store.create({ total: 1 })
    // @ts-expect-error -- another state
    const other = (store: SnapStore<State>) => store.create({ total: 'one' }, 1)
    expectTypeOf([wrongSchema, misspelled, unnumbered, other]).not.toBeAny()
  })

  test('returns damaged snapshots as read-only errors', () => {
    expectTypeOf<RestoredSnapshot<State>['damaged']>().toEqualTypeOf<readonly MiniStoreError[]>()
  })
})
