import * as fc from 'fast-check'

// Commands on a journal as plain data, so that a failing sequence can be shrunk, printed and kept.

export type Json = fc.JsonValue

/** Limits on segments; an absent limit has its default. */
export interface Limits {
  readonly maxBytesPerSegment?: number | undefined
  readonly preallocate?: number | undefined
  readonly maxSegments?: number | undefined
}

/**
 * Why a record is refused. `mixed`: an `appendAll` of a good record and one that has no JSON form.
 */
export type Refusal = 'undefined' | 'bigint' | 'cycle' | 'too-large' | 'mixed'

/** A call that takes its turn in the writer's queue. */
export type Call =
  | { readonly do: 'append'; readonly record: Json }
  /** A record of this many bytes, longer than a reader's block. */
  | { readonly do: 'append-long'; readonly bytes: number }
  | { readonly do: 'append-all'; readonly records: readonly Json[] }
  | { readonly do: 'refuse'; readonly why: Refusal }
  | { readonly do: 'rotate' }
  /** Truncates before a record; this number picks which. */
  | { readonly do: 'truncate'; readonly pick: number }
  | { readonly do: 'replay' }

/** Calls made at once, none awaited before the next, or closing and reopening the store. */
export type Action =
  | { readonly do: 'calls'; readonly calls: readonly Call[] }
  | { readonly do: 'reopen'; readonly limits: Limits }

/** What is left of the disk: everything after a killed process, or what a power failure leaves. */
export type Loss =
  | { readonly of: 'process' }
  | { readonly of: 'power'; readonly keep: 'none' | 'all' }
  /** One of the states that a power failure may leave. */
  | { readonly of: 'power'; readonly keep: 'some'; readonly pick: number }

/** A stop before the operation that comes after `after` others. */
export interface Crash {
  readonly after: number
  readonly loss: Loss
}

export type Command =
  | Action
  | {
      readonly do: 'read'
      readonly how: 'stream' | 'entries' | 'replay' | 'static'
      readonly from?: number | undefined
      readonly to?: number | undefined
      readonly salvage: boolean
    }
  /**
   * A follower that stays open until the store closes. A lazy one takes one record and then waits
   * for the close.
   */
  | { readonly do: 'follow'; readonly from?: number | undefined; readonly isLazy: boolean }
  /**
   * A crash in the middle of an action, perhaps followed by crashes in the middle of the
   * recoveries.
   */
  | {
      readonly do: 'crash'
      readonly action: Action
      readonly crash: Crash
      readonly inRecovery: readonly Crash[]
      readonly limits: Limits
    }
  /** A disk with room for this many more bytes while these actions run. */
  | { readonly do: 'fill-disk'; readonly roomBytes: number; readonly actions: readonly Action[] }
  /**
   * One sync fails. Then the store is closed, or its process crashes, and the store is opened
   * again.
   */
  | {
      readonly do: 'fail-sync'
      readonly nth: number
      readonly action: Action
      readonly afterwards: 'close' | Loss
      readonly limits: Limits
    }

/**
 * Text that is hard for lines of JSON: Unicode line ends that end no line here, lone surrogates,
 * and text that looks like the journal's format.
 */
const hardText = fc.string({
  unit: fc.constantFrom(
    '\u2028', '\u2029', '\u0085', '\n', '\r', '\0', '\ud800', '\udc00',
    '\ufeff', '😀', '"', '\\', '// ', 'é', 'a',
  ),
  maxLength: 8,
})

const value = fc.oneof(
  { weight: 4, arbitrary: fc.jsonValue({ maxDepth: 2, depthSize: 'small' }) },
  { weight: 2, arbitrary: fc.nat({ max: 99 }) },
  { weight: 2, arbitrary: hardText },
  { weight: 1, arbitrary: fc.constantFrom(-0, null, '', 5e-324, 2 ** 53, -1e21, '__proto__') },
)

const key = fc.oneof(fc.constantFrom('__proto__', 'constructor', 'toString', '0', ''), hardText)

const record: fc.Arbitrary<Json> = fc.oneof(
  { weight: 4, arbitrary: value },
  {
    weight: 1,
    // `fromEntries` makes `__proto__` an ordinary key, which an assignment would not.
    arbitrary: fc.array(fc.tuple(key, value), { maxLength: 3 }).map((entries) => Object.fromEntries(entries)),
  },
)

const limits: fc.Arbitrary<Limits> = fc.record({
  maxBytesPerSegment: fc.option(fc.integer({ min: 1, max: 300 }), { freq: 5, nil: undefined }),
  preallocate: fc.option(fc.integer({ min: 1, max: 300 }), { freq: 1, nil: undefined }),
  maxSegments: fc.option(fc.integer({ min: 1, max: 5 }), { freq: 1, nil: undefined }),
})

const call: fc.Arbitrary<Call> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('append' as const), record }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('append-all' as const),
      records: fc.array(record, { maxLength: 5 }),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ do: 'rotate' as const }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('truncate' as const), pick: fc.nat({ max: 99 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('refuse' as const),
      why: fc.constantFrom<Refusal[]>('undefined', 'bigint', 'cycle', 'too-large', 'mixed'),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'replay' as const }) },
)

const longRecord: fc.Arbitrary<Call> = fc.record({
  do: fc.constant('append-long' as const),
  bytes: fc.integer({ min: 60_000, max: 140_000 }),
})

const calls = (max: number): fc.Arbitrary<Action> =>
  fc.record({ do: fc.constant('calls' as const), calls: fc.array(call, { minLength: 1, maxLength: max }) })

const reopen: fc.Arbitrary<Action> = fc.record({ do: fc.constant('reopen' as const), limits })

const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 4, arbitrary: calls(1) },
  { weight: 3, arbitrary: calls(6) },
  { weight: 2, arbitrary: reopen },
)

const loss: fc.Arbitrary<Loss> = fc.oneof(
  { weight: 2, arbitrary: fc.constant({ of: 'process' as const }) },
  {
    weight: 2,
    arbitrary: fc.record({
      of: fc.constant('power' as const),
      keep: fc.constantFrom('none' as const, 'all' as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      of: fc.constant('power' as const),
      keep: fc.constant('some' as const),
      pick: fc.nat({ max: 9999 }),
    }),
  },
)

/** An append takes two operations, opening a journal about twenty. */
const crash: fc.Arbitrary<Crash> = fc.record({
  after: fc.oneof(fc.nat({ max: 3 }), fc.nat({ max: 16 })),
  loss,
})

/**
 * Actions to crash. They favour rotations, the longest path from one state of the journal to the
 * next.
 */
const crashedAction: fc.Arbitrary<Action> = fc.oneof(
  { weight: 2, arbitrary: action },
  {
    weight: 1,
    arbitrary: record.map((last): Action => {
      return { do: 'calls', calls: [{ do: 'append', record: last }, { do: 'rotate' }] }
    }),
  },
)

const sequence = fc.option(fc.nat({ max: 60 }), { freq: 2, nil: undefined })

const harmless = [
  { weight: 10, arbitrary: calls(1) },
  { weight: 5, arbitrary: calls(8) },
  { weight: 3, arbitrary: reopen },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('read' as const),
      how: fc.constantFrom('stream' as const, 'entries' as const, 'replay' as const, 'static' as const),
      from: sequence,
      to: sequence,
      salvage: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('follow' as const), from: sequence, isLazy: fc.boolean() }),
  },
  {
    weight: 0.3,
    arbitrary: longRecord.map((long): Action => ({ do: 'calls', calls: [long] })),
  },
]

/** Commands that can run on any disk. */
export const harmlessCommand: fc.Arbitrary<Command> = oneOf(harmless)

/** Commands for a disk that can be made to fail. */
export const anyCommand: fc.Arbitrary<Command> = oneOf([
  ...harmless,
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('crash' as const),
      action: crashedAction,
      crash,
      inRecovery: fc.array(crash, { maxLength: 2 }),
      limits,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('fill-disk' as const),
      roomBytes: fc.nat({ max: 200 }),
      actions: fc.array(action, { minLength: 1, maxLength: 4 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('fail-sync' as const),
      nth: fc.integer({ min: 1, max: 12 }),
      action,
      afterwards: fc.oneof(fc.constant('close' as const), loss),
      limits,
    }),
  },
])

/** fast-check's weights are whole numbers. */
function oneOf(
  choices: ReadonlyArray<{ readonly weight: number; readonly arbitrary: fc.Arbitrary<Command> }>,
): fc.Arbitrary<Command> {
  return fc.oneof(...choices.map(({ weight, arbitrary }) => ({ weight: Math.round(weight * 10), arbitrary })))
}
