import type { StandardSchemaV1 } from '@standard-schema/spec'
import { produce } from 'immer'
import { describe, expectTypeOf, test } from 'vitest'
import * as z from 'zod'

import type { AppendedRange, MiniStore } from '../../src/index.ts'
import type { RestoredSnapshot, SnapStore } from '../../src/minisnap/index.ts'
import {
  type Codec, type CompactionReport, type DeepReadonly, type Journal, type JournalEntry, type LoadedSnapshot, type MutationContext,
  type SnapshotInfo, type Snapshots, StateManager, type StateOptions, type StateRecovery, StateView, type ViewOptions,
} from '../../src/ministate/index.ts'

// `tsc -p tsconfig.json` checks these types; at run time the functions are never called.

interface State {
  total: number
  readonly names: Map<string, string[]>
}
interface Add {
  by: number
}
interface Input {
  by: string
}
const schema = z.object({ by: z.string().transform(Number) })

type Adder = StateManager<State, Add>
declare const journal: MiniStore<Add, Input>
declare const snapshots: SnapStore<State>

const initialState = (): State => ({ total: 0, names: new Map() })
const mutator = (state: State, { by }: Add): void => void (state.total += by)

describe('StateManager.open', () => {
  test('takes its types from the initial state and the mutator', () => {
    const open = () =>
      StateManager.open('path', {
        initialState: () => ({ value: 0 }),
        mutator: (state, { by }: { by: number }) => {
          state.value += by
        },
        validate: (state, { by }) => {
          expectTypeOf(state).toEqualTypeOf<{ readonly value: number }>()
          expectTypeOf(by).toEqualTypeOf<number>()
        },
      })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<StateManager<{ value: number }, { by: number }>>()
  })

  test('takes the type of mutations from validate as well, in any order', () => {
    interface Push {
      items: number[]
    }
    const open = () =>
      StateManager.open('path', {
        initialState: () => [1],
        validate: (_state, { items }: Push) => {
          if (items.length === 0) throw new RangeError('nothing')
        },
        mutator: (list, mutation) => void list.push(...mutation.items),
      })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<StateManager<number[], Push>>()
  })

  test('takes its types from the type parameters', () => {
    const open = () => StateManager.open<State, Add>('path', { initialState, mutator: (state) => ({ ...state }) })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<Adder>()
  })

  test('takes the input of apply and of the mutator from a schema', () => {
    const open = () =>
      StateManager.open('path', {
        initialState,
        schema,
        mutator: (state, mutation) => {
          expectTypeOf(mutation).toEqualTypeOf<Add>()
          state.total += mutation.by
        },
      })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<StateManager<State, Add, Input>>()
  })

  test('accepts an Immer producer', () => {
    const producer = produce((draft: State, { by }: Add) => {
      draft.total += by
    })
    const open = () => StateManager.open<State, Add>('path', { initialState, mutator: producer })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<Adder>()
  })

  test('holds codecs against the types', () => {
    const states: Codec<State> = { encode: () => '', decode: initialState }
    const adds: Codec<Add> = { encode: () => '', decode: () => ({ by: 1 }) }
    const options = { initialState, mutator }
    const open = () => StateManager.open('path', { ...options, journal: { codec: adds }, snapshots: { codec: states } })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<Adder>()
    // @ts-expect-error the codec is for mutations
    expectTypeOf(() => StateManager.open('path', { ...options, snapshots: { codec: adds } })).toBeFunction()
  })

  test('accepts options passed on by a wrapper: every option may be undefined', () => {
    expectTypeOf<{
      initialState: () => State
      mutator: typeof mutator
      validate: undefined
      schema: undefined
      journal: undefined
      snapshots: undefined
      fileSystem: undefined
    }>().toExtend<StateOptions<State, Add>>()
  })

  test('refuses types that would fail at run time', () => {
    const promise = (): Promise<void> => Promise.resolve()
    const list = (): number[] => []
    const push = (numbers: number[], n: number): number => numbers.push(n)
    const retention = { maxSegments: 3 } as const
    const options = { initialState, mutator }
    // @ts-expect-error a mutator is synchronous
    expectTypeOf(() => StateManager.open('path', { initialState, mutator: promise })).toBeFunction()
    // @ts-expect-error the return value of push is not a state
    expectTypeOf(() => StateManager.open('path', { initialState: list, mutator: push })).toBeFunction()
    // @ts-expect-error retention would delete mutations
    expectTypeOf(() => StateManager.open('path', { ...options, journal: retention })).toBeFunction()
    // @ts-expect-error there is no such option
    expectTypeOf(() => StateManager.open('path', { ...options, snapshots: { every: 3 } })).toBeFunction()
    const validate = (state: DeepReadonly<State>): void => {
      // @ts-expect-error only the mutator may change a state
      state.total = 1
      // @ts-expect-error nested values are read-only too
      const names: string[] | undefined = state.names.get('a')
      expectTypeOf(names).not.toBeAny()
    }
    expectTypeOf(validate).toBeFunction()
  })
})

describe('a manager', () => {
  test('has the types of its methods', () => {
    expectTypeOf<StateManager<State, Add, Input>['apply']>().parameter(0).toEqualTypeOf<Input>()
    expectTypeOf<Adder['apply']>().returns.resolves.toBeNumber()
    expectTypeOf<StateManager<State, Add, Input>['applyAll']>().parameter(0).toEqualTypeOf<Iterable<Input>>()
    expectTypeOf<Adder['applyAll']>().returns.resolves.toEqualTypeOf<AppendedRange>()
    expectTypeOf<Adder['state']>().toEqualTypeOf<DeepReadonly<State>>()
    expectTypeOf<Adder['snapshot']>().returns.toEqualTypeOf<State>()
    expectTypeOf<Adder['sequence']>().toBeNumber()
    expectTypeOf<Adder['recovery']>().toEqualTypeOf<StateRecovery>()
    expectTypeOf<Adder['createSnapshot']>().returns.resolves.toEqualTypeOf<SnapshotInfo>()
    expectTypeOf<Adder['compact']>().returns.resolves.toEqualTypeOf<CompactionReport>()
    expectTypeOf<Adder['stateAt']>().returns.resolves.toEqualTypeOf<State>()
    expectTypeOf<Adder['changes']>().returns.toEqualTypeOf<ReadableStream<JournalEntry<Add>>>()
    expectTypeOf<Adder>().toExtend<AsyncDisposable>()
    expectTypeOf<MutationContext>().toEqualTypeOf<{ readonly sequence: number }>()
  })
})

describe('a journal', () => {
  test('is implemented by MiniStore', () => {
    expectTypeOf<MiniStore<Add>>().toExtend<Journal<Add>>()
    expectTypeOf<MiniStore<Add, Input>>().toExtend<Journal<Add, Input>>()
    expectTypeOf<MiniStore<Add>>().not.toExtend<Journal<string>>()
  })

  test('gives its types to a manager over it', () => {
    const over = () => StateManager.over(journal, snapshots, { initialState, mutator, schema })
    expectTypeOf(over).returns.resolves.toEqualTypeOf<StateManager<State, Add, Input>>()
    const standard: StandardSchemaV1<Input, Add> = schema
    expectTypeOf(() => StateManager.over(journal, snapshots, { initialState, mutator, schema: standard })).toBeFunction()
  })
})

describe('a view', () => {
  test('takes its types from the initial state and the mutator, or from the journal', () => {
    const open = () => StateView.open('path', { initialState, mutator })
    expectTypeOf(open).returns.resolves.toEqualTypeOf<StateView<State, Add>>()
    const over = () => StateView.open(journal, { initialState, mutator: (state, { by }) => void (state.total += by) })
    expectTypeOf(over).returns.resolves.toEqualTypeOf<StateView<State, Add>>()
    const checked = () => StateView.open('path', { initialState, schema, mutator: (state, { by }) => void (state.total += by) })
    expectTypeOf(checked).returns.resolves.toEqualTypeOf<StateView<State, Add>>()
  })

  test('has the types of its methods', () => {
    type Totals = StateView<State, Add>
    expectTypeOf<Totals['state']>().toEqualTypeOf<DeepReadonly<State>>()
    expectTypeOf<Totals['snapshot']>().returns.toEqualTypeOf<State>()
    expectTypeOf<Totals['sequence']>().toBeNumber()
    expectTypeOf<Totals['caughtUp']>().returns.resolves.toBeNumber()
    expectTypeOf<Totals['changes']>().returns.toEqualTypeOf<ReadableStream<JournalEntry<Add>>>()
    expectTypeOf<Totals>().toExtend<AsyncDisposable>()
    expectTypeOf<Totals>().not.toHaveProperty('apply')
  })

  test('accepts options passed on by a wrapper: every option may be undefined', () => {
    expectTypeOf<{
      initialState: () => State
      mutator: typeof mutator
      schema: undefined
      codec: undefined
      snapshots: undefined
      onError: undefined
      signal: undefined
      pollIntervalMs: undefined
      fileSystem: undefined
    }>().toExtend<ViewOptions<State, Add>>()
  })
})

describe('snapshots', () => {
  test('are implemented by SnapStore', () => {
    expectTypeOf<SnapStore<State>>().toExtend<Snapshots<State>>()
    expectTypeOf<SnapStore<State>>().not.toExtend<Snapshots<Add>>()
    expectTypeOf<RestoredSnapshot<State>>().toExtend<LoadedSnapshot<State>>()
  })

  test('and a journal can be written by hand, with no more than a manager needs', () => {
    const info: SnapshotInfo = { sequence: 1, path: 'a row', bytes: 0 }
    const own = {
      keep: 1,
      create: (_state: State, _sequence: number) => Promise.resolve(info),
      restore: (_options?: { readonly atMost?: number | undefined }) => Promise.resolve({ state: initialState(), sequence: 1 }),
      list: () => Promise.resolve([info]),
    }
    const log = {
      firstSequence: 1,
      lastSequence: 0,
      append: (_record: Add) => Promise.resolve(1),
      entries: () => new ReadableStream<JournalEntry<Add>>(),
      truncateBefore: (_sequence: number) => Promise.resolve(),
      close: () => Promise.resolve(),
    }
    const over = () => StateManager.over(log, own, { initialState, mutator })
    expectTypeOf(over).returns.resolves.toEqualTypeOf<Adder>()
    const { list: _list, ...rest } = own
    // @ts-expect-error without a list, compaction could not know what it may drop
    expectTypeOf(() => StateManager.over(log, rest, { initialState, mutator })).toBeFunction()
    const others = { ...own, create: (_state: string, _sequence: number) => Promise.resolve(info) }
    // @ts-expect-error the snapshots are of other states
    expectTypeOf(() => StateManager.over(log, others, { initialState, mutator })).toBeFunction()
  })
})

describe('DeepReadonly', () => {
  test('makes every part read-only, except functions and dates', () => {
    interface Parts {
      list: Array<{ n: number }>
      pair: [string, number[]]
      map: Map<{ key: string }, Set<number>>
      at: Date
      run: (n: number) => void
      either: string | { deep: boolean } | undefined
      maybe?: number[]
      any: unknown
    }
    expectTypeOf<DeepReadonly<Parts>>().toEqualTypeOf<{
      readonly list: ReadonlyArray<{ readonly n: number }>
      readonly pair: readonly [string, readonly number[]]
      readonly map: ReadonlyMap<{ readonly key: string }, ReadonlySet<number>>
      readonly at: Date
      readonly run: (n: number) => void
      readonly either: string | { readonly deep: boolean } | undefined
      readonly maybe?: readonly number[]
      readonly any: unknown
    }>()
    expectTypeOf<DeepReadonly<number>>().toEqualTypeOf<number>()
    expectTypeOf<DeepReadonly<unknown>>().toEqualTypeOf<unknown>()
  })
})
