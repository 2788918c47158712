import type { StandardSchemaV1 } from '@standard-schema/spec'
import * as v from 'valibot'
import { describe, expectTypeOf, test } from 'vitest'
import * as z from 'zod'

import {
  type AppendOptions,
  type Codec,
  type JournalEntry,
  type JournalIterator,
  type JournalStream,
  type KeptByJson,
  MiniStore,
  type MiniStoreError,
  type MiniStoreErrorCode,
  type OpenOptions,
  type PreparedRecord,
  type ReadOptions,
  type RecoveryReport,
  type SegmentInfo,
  type StreamOptions,
} from '../../src/index.ts'

// `tsc -p tsconfig.json` checks these types; at run time the functions are never called.

interface Event {
  readonly type: string
  readonly id: number
}

/** A schema whose input and output differ: a string and its length. */
const zodSchema = z.object({
  text: z.string().transform((text) => text.length),
  note: z.string().default(''),
})
interface Input {
  text: string
  note?: string | undefined
}
interface Output {
  text: number
  note: string
}

const valibotSchema = v.object({
  text: v.pipe(
    v.string(),
    v.transform((text) => text.length),
  ),
  note: v.optional(v.string(), ''),
})
const standardSchema: StandardSchemaV1<Input, Output> = zodSchema

type Untyped = MiniStore
type Events = MiniStore<Event>
type Texts = MiniStore<Output, Input>

// Used only in functions that must not compile; it has no value at run time.
declare const texts: Texts

describe('MiniStore.open', () => {
  test('without a type returns a store of unknown', () => {
    const open = () => MiniStore.open('path')
    expectTypeOf(open).returns.resolves.toEqualTypeOf<MiniStore>()
    expectTypeOf(open).returns.resolves.toEqualTypeOf<MiniStore<unknown, unknown>>()
    expectTypeOf(() => MiniStore.open('path', { lock: false })).returns.resolves.toEqualTypeOf<MiniStore>()
  })

  test('with a type parameter returns a store with it as input and output', () => {
    expectTypeOf(() => MiniStore.open<Event>('path')).returns.resolves.toEqualTypeOf<MiniStore<Event>>()
    expectTypeOf(() => MiniStore.open<Event>('path', { maxRecordBytes: 1 })).returns.resolves.toEqualTypeOf<
      MiniStore<Event, Event>
    >()
  })

  test('with a schema accepts its input and returns its output', () => {
    expectTypeOf(() => MiniStore.open('path', { schema: zodSchema })).returns.resolves.toEqualTypeOf<
      MiniStore<Output, Input>
    >()
    expectTypeOf(() => MiniStore.open('path', { schema: valibotSchema })).returns.resolves.toEqualTypeOf<
      MiniStore<Output, Input>
    >()
    expectTypeOf(() => MiniStore.open('path', { schema: standardSchema })).returns.resolves.toEqualTypeOf<
      MiniStore<Output, Input>
    >()
    expectTypeOf(() =>
      MiniStore.open('path', { schema: zodSchema, maxSegments: 3, lock: false }),
    ).returns.resolves.toEqualTypeOf<MiniStore<Output, Input>>()
  })

  test('with a codec returns a store of the type that it encodes', () => {
    const codec: Codec<Event> = { encode: JSON.stringify, decode: JSON.parse }
    expectTypeOf(() => MiniStore.open('path', { codec })).returns.resolves.toEqualTypeOf<MiniStore<Event>>()
    expectTypeOf(() => MiniStore.open<Event>('path', { codec })).returns.resolves.toEqualTypeOf<
      MiniStore<Event>
    >()
  })

  test('with a schema and a codec checks that they fit', () => {
    const codec: Codec<Input> = { encode: JSON.stringify, decode: JSON.parse }
    expectTypeOf(() => MiniStore.open('path', { schema: zodSchema, codec })).returns.resolves.toEqualTypeOf<
      MiniStore<Output, Input>
    >()
    const wrong: Codec<Event> = { encode: JSON.stringify, decode: JSON.parse }
    // @ts-expect-error the codec encodes another type than the schema accepts
    expectTypeOf(() => MiniStore.open('path', { schema: zodSchema, codec: wrong })).toBeFunction()
  })

  test('accepts options passed on by a wrapper: every option may be undefined', () => {
    expectTypeOf<{
      maxSegments: undefined
      lock: undefined
      codec: undefined
      fileSystem: undefined
    }>().toExtend<OpenOptions>()
    const wrap = <T extends KeptByJson<T>>(options: OpenOptions<T> | undefined) => MiniStore.open<T>('path', options ?? {})
    expectTypeOf(wrap<Event>).returns.resolves.toEqualTypeOf<MiniStore<Event>>()
  })

  test('refuses options that are misspelt or of another type', () => {
    // @ts-expect-error there is no such option
    expectTypeOf(() => MiniStore.open('path', { maxBytesPerSegments: 1 })).toBeFunction()
    // @ts-expect-error the option is a number
    expectTypeOf(() => MiniStore.open('path', { maxBytesPerSegment: '1' })).toBeFunction()
    // @ts-expect-error following is for streams
    expectTypeOf(() => MiniStore.open('path', { follow: true })).toBeFunction()
    // @ts-expect-error a schema is a Standard Schema
    expectTypeOf(() => MiniStore.open('path', { schema: {} })).toBeFunction()
    // @ts-expect-error without a path there is no journal
    expectTypeOf(() => MiniStore.open()).toBeFunction()
  })

  test('is the only way to a store: there is no public constructor', () => {
    // @ts-expect-error the constructor is private
    expectTypeOf<ConstructorParameters<typeof MiniStore>>().toBeArray()
  })
})

describe('a store', () => {
  test('appends its input', () => {
    expectTypeOf<Texts['append']>().parameters.toEqualTypeOf<[record: Input, options?: AppendOptions | undefined]>()
    expectTypeOf<Texts['append']>().returns.toEqualTypeOf<Promise<number>>()
    expectTypeOf<Texts['appendAll']>().parameters.toEqualTypeOf<
      [records: Iterable<Input | PreparedRecord>, options?: AppendOptions | undefined]
    >()
    expectTypeOf<Texts['appendAll']>().returns.toEqualTypeOf<Promise<{ first: number; last: number }>>()
    expectTypeOf<Texts['writable']>().returns.toEqualTypeOf<WritableStream<Input>>()
    expectTypeOf<Events['append']>().parameter(0).toEqualTypeOf<Event>()
    expectTypeOf<Untyped['append']>().parameter(0).toEqualTypeOf<unknown>()
    // @ts-expect-error the output is not a valid input
    expectTypeOf((output: Output) => texts.append(output)).toBeFunction()
    // @ts-expect-error appendAll takes no asynchronous iterable: pipe it to writable()
    expectTypeOf((list: AsyncIterable<Input>) => texts.appendAll(list)).toBeFunction()
  })

  test('reads its output', () => {
    expectTypeOf<Texts['stream']>().returns.toEqualTypeOf<JournalStream<Output>>()
    expectTypeOf<Texts['entries']>().returns.toEqualTypeOf<JournalStream<JournalEntry<Output>>>()
    expectTypeOf<Texts['replay']>().returns.toEqualTypeOf<Promise<Output[]>>()
    expectTypeOf<Events['stream']>().returns.toEqualTypeOf<JournalStream<Event>>()
    expectTypeOf<Untyped['stream']>().returns.toEqualTypeOf<JournalStream<unknown>>()
    expectTypeOf<Untyped['replay']>().returns.toEqualTypeOf<Promise<unknown[]>>()
  })

  test('takes options of a replay, and no `follow` for an array', () => {
    expectTypeOf<Texts['stream']>().parameters.toEqualTypeOf<[options?: StreamOptions | undefined]>()
    expectTypeOf<Texts['entries']>().parameters.toEqualTypeOf<[options?: StreamOptions | undefined]>()
    expectTypeOf<Texts['replay']>().parameters.toEqualTypeOf<
      [options?: Omit<StreamOptions, 'follow'> | undefined]
    >()
    expectTypeOf<StreamOptions>().toEqualTypeOf<{
      readonly from?: number | undefined
      readonly to?: number | undefined
      readonly signal?: AbortSignal | undefined
      readonly follow?: boolean | undefined
      readonly salvage?: ((damage: MiniStoreError) => void) | undefined
    }>()
    // @ts-expect-error an array of records that never end cannot be
    expectTypeOf(() => texts.replay({ follow: true })).toBeFunction()
    // @ts-expect-error the store has its schema already
    expectTypeOf(() => texts.stream({ schema: zodSchema })).toBeFunction()
  })

  test('tells what it is', () => {
    expectTypeOf<
      Pick<Texts, 'path' | 'firstSequence' | 'lastSequence' | 'segments' | 'recovery'>
    >().toEqualTypeOf<{
      readonly path: string
      readonly firstSequence: number
      readonly lastSequence: number
      readonly segments: readonly SegmentInfo[]
      readonly recovery: RecoveryReport
    }>()
  })

  test('rotates, truncates and closes', () => {
    expectTypeOf<Texts['rotate']>().toEqualTypeOf<() => Promise<void>>()
    expectTypeOf<Texts['truncateBefore']>().toEqualTypeOf<(sequence: number) => Promise<void>>()
    expectTypeOf<Texts['close']>().toEqualTypeOf<() => Promise<void>>()
    expectTypeOf<Texts>().toExtend<AsyncDisposable>()
  })
})

describe('the static readers', () => {
  test('without a type return unknown', () => {
    expectTypeOf(() => MiniStore.stream('path')).returns.toEqualTypeOf<JournalStream<unknown>>()
    expectTypeOf(() => MiniStore.bytes('path')).returns.toEqualTypeOf<JournalStream<Uint8Array<ArrayBuffer>>>()
    expectTypeOf((store: MiniStore<Event>) => new Response(store.bytes({ from: 1 }))).returns.toEqualTypeOf<Response>()
    // @ts-expect-error bytes() leaves no damage out
    expectTypeOf((store: MiniStore<Event>) => store.bytes({ salvage: () => {} })).toBeFunction()
    // @ts-expect-error bytes() runs no schema
    expectTypeOf(() => MiniStore.bytes('path', { schema: zodSchema })).toBeFunction()
    expectTypeOf(() => MiniStore.entries('path')).returns.toEqualTypeOf<
      JournalStream<JournalEntry<unknown>>
    >()
    expectTypeOf(() => MiniStore.replay('path')).returns.toEqualTypeOf<Promise<unknown[]>>()
  })

  test('with a type parameter return that type', () => {
    expectTypeOf(() => MiniStore.stream<Event>('path', { follow: true })).returns.toEqualTypeOf<
      JournalStream<Event>
    >()
    expectTypeOf(() => MiniStore.entries<Event>('path')).returns.toEqualTypeOf<
      JournalStream<JournalEntry<Event>>
    >()
    expectTypeOf(() => MiniStore.replay<Event>('path', { from: 3 })).returns.toEqualTypeOf<Promise<Event[]>>()
  })

  test('with a schema return its output', () => {
    for (const schema of [zodSchema, standardSchema]) {
      expectTypeOf(() => MiniStore.stream('path', { schema })).returns.toEqualTypeOf<JournalStream<Output>>()
      expectTypeOf(() => MiniStore.entries('path', { schema })).returns.toEqualTypeOf<
        JournalStream<JournalEntry<Output>>
      >()
      expectTypeOf(() => MiniStore.replay('path', { schema, to: 3 })).returns.toEqualTypeOf<
        Promise<Output[]>
      >()
    }
    expectTypeOf(() => MiniStore.stream('path', { schema: valibotSchema })).returns.toEqualTypeOf<
      JournalStream<Output>
    >()
  })

  test('with a codec, or only its decode, return the decoded type', () => {
    const codec: Codec<Event> = { encode: JSON.stringify, decode: JSON.parse }
    expectTypeOf(() => MiniStore.stream('path', { codec })).returns.toEqualTypeOf<JournalStream<Event>>()
    const decode = (line: string): Event => JSON.parse(line) as Event
    expectTypeOf(() => MiniStore.replay('path', { codec: { decode } })).returns.toEqualTypeOf<
      Promise<Event[]>
    >()
    expectTypeOf(() => MiniStore.entries('path', { codec: { decode } })).returns.toEqualTypeOf<
      JournalStream<JournalEntry<Event>>
    >()
  })

  test('take the options of a replay and those of a path', () => {
    expectTypeOf<ReadOptions>().toExtend<StreamOptions>()
    expectTypeOf<keyof ReadOptions>().toEqualTypeOf<
      keyof StreamOptions | 'codec' | 'pollIntervalMs' | 'fileSystem'
    >()
    // @ts-expect-error an array of records that never end cannot be
    expectTypeOf(() => MiniStore.replay('path', { follow: true })).toBeFunction()
    // @ts-expect-error a reader writes no records
    expectTypeOf(() => MiniStore.stream('path', { maxRecordBytes: 1 })).toBeFunction()
  })
})

describe('a stream', () => {
  test('is a ReadableStream and iterates', () => {
    expectTypeOf<JournalStream<Event>>().toExtend<ReadableStream<Event>>()
    expectTypeOf<JournalStream<Event>>().toExtend<AsyncIterable<Event>>()
    expectTypeOf<JournalStream<Event>['values']>().returns.toEqualTypeOf<JournalIterator<Event>>()
    expectTypeOf<JournalIterator<Event>>().toExtend<AsyncIterableIterator<Event>>()
    expectTypeOf(async (stream: JournalStream<Event>) => {
      for await (const event of stream) return event
      return undefined
    }).returns.resolves.toEqualTypeOf<Event | undefined>()
  })

  test('pipes into the writable of a store of the same type', () => {
    expectTypeOf((from: MiniStore<Event>, to: MiniStore<Event>) =>
      from.stream().pipeTo(to.writable()),
    ).returns.toEqualTypeOf<Promise<void>>()
    // @ts-expect-error events are no inputs of the other store
    expectTypeOf((from: MiniStore<Event>) => from.stream().pipeTo(texts.writable())).toBeFunction()
  })

  test('of entries has sequence numbers beside the records', () => {
    expectTypeOf<JournalEntry<Event>>().toEqualTypeOf<{ readonly sequence: number; readonly record: Event }>()
  })
})

describe('the codec', () => {
  test('has two synchronous functions', () => {
    expectTypeOf<Codec<Input, Output>>().toEqualTypeOf<{
      encode(record: Input): string
      decode(line: string): Output
    }>()
    expectTypeOf<Codec<Event>>().toEqualTypeOf<Codec<Event, Event>>()
    expectTypeOf<Codec>().toEqualTypeOf<Codec<unknown, unknown>>()
  })
})

describe('an error', () => {
  test('has one of the known codes and says where', () => {
    expectTypeOf<MiniStoreError>().toExtend<Error>()
    expectTypeOf<MiniStoreError['code']>().toEqualTypeOf<MiniStoreErrorCode>()
    expectTypeOf<Pick<MiniStoreError, 'path' | 'segment' | 'line' | 'offset' | 'sequence'>>().toEqualTypeOf<{
      readonly path: string | undefined
      readonly segment: string | undefined
      readonly line: number | undefined
      readonly offset: number | undefined
      readonly sequence: number | undefined
    }>()
  })
})
