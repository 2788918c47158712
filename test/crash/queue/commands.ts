import * as fc from 'fast-check'

// Commands on a queue as plain data, so that a failing sequence can be shrunk, printed and kept.

/** A message to enqueue. */
export interface Job {
  readonly delayMs?: number | undefined
  readonly priority?: number | undefined
  readonly key?: string | undefined
  /** Whether the message is longer than a segment or a reader's block. */
  readonly isLong?: boolean | undefined
  /** Its own limit of attempts. */
  readonly maxAttempts?: number | undefined
  /** Whether it has a header with its name. */
  readonly isTagged?: boolean | undefined
}

/** A call that may be made while another is in progress. */
export type Call =
  | { readonly do: 'enqueue'; readonly job: Job }
  | { readonly do: 'enqueue-all'; readonly jobs: readonly Job[] }
  /** Acks a message received earlier; this number picks which. Its lease may have ended. */
  | { readonly do: 'ack'; readonly pick: number }
  | {
      readonly do: 'nack'
      readonly pick: number
      readonly delayMs?: number | undefined
      readonly reason?: string | undefined
      readonly dead?: boolean | undefined
    }
  /** Cancels a message that was enqueued at some time; this number picks which. */
  | { readonly do: 'cancel'; readonly pick: number }
  | { readonly do: 'compact' | 'purge' }

/** A call that changes what is on the disk. */
export type Action =
  | Call
  | { readonly do: 'together'; readonly calls: readonly Call[] }
  | { readonly do: 'receive'; readonly max: number }
  /**
   * Takes one dead letter, picked by this number; `all` takes all, and `none` names an id that does
   * not exist.
   */
  | { readonly do: 'redrive' | 'discard'; readonly pick: number | 'all' | 'none' }
  /** Time passes on both clocks. */
  | { readonly do: 'advance'; readonly ms: number }
  | { readonly do: 'reopen'; readonly options: Options }
  /** Enqueues messages while a receive waits; up to `max` of them are delivered at once. */
  | { readonly do: 'awaited'; readonly max: number; readonly jobs: readonly Job[] }
  /**
   * Reads some messages from a stream that has prefetched more, with a pause after each. Then the
   * stream is cancelled, or it stays open while the queue is closed and opened again.
   */
  | {
      readonly do: 'consume'
      readonly prefetch: number
      readonly take: number
      readonly isAcked: boolean
      readonly pauseMs: number
      readonly isLeft: boolean
    }
  /**
   * Runs handlers, some of which throw, until nothing is ready. For what a crash leaves, only one
   * handler at a time is predictable.
   */
  | {
      readonly do: 'process'
      readonly concurrency: number
      readonly throwsAt: number
      /**
       * How a handler that does not just succeed ends: it throws, it throws for good, or it stops its
       * own run and then throws or succeeds.
       */
      readonly ending?: 'permanent' | 'stopped' | 'finished' | undefined
    }

/** What is left of the disk: everything after a killed process, or what a power failure leaves. */
export type Loss = 'process' | 'power-none' | 'power-all' | { readonly pick: number }

export type Command =
  | Action
  | { readonly do: 'extend'; readonly pick: number; readonly ms: number }
  /** A receive on a queue that has nothing ready, and the event that ends its wait. */
  | {
      readonly do: 'wait'
      readonly max: number
      readonly until: 'enqueue' | 'time' | 'jump' | 'timeout' | 'abort'
    }
  /** Sets the wall clock. Then a receive follows, or half a minute passes. */
  | { readonly do: 'jump'; readonly ms: number; readonly behind: 'receive' | 'half-a-minute' }
  /**
   * A stop before the operation that comes after `after` others, in this action or in the reopening
   * after it.
   */
  | {
      readonly do: 'crash'
      readonly action: Action
      readonly after: number
      readonly loss: Loss
      readonly options: Options
    }
  /**
   * During one action the disk is full, one sync fails, or no snapshot can be written. Only an
   * explicit compaction may reject because of the last one.
   */
  | {
      readonly do: 'fault'
      readonly kind: 'full-disk' | 'no-snapshots' | 'failed-sync'
      readonly action: Action
      readonly options: Options
    }

/** Options that may differ at each opening. */
export interface Options {
  readonly maxAttempts?: number | undefined
  readonly maxDepth?: number | undefined
  readonly dedupeWindowMs?: number | undefined
  readonly keepSnapshots?: number | undefined
  /** When a queue compacts by itself. */
  readonly compaction?: { readonly minBytes: number; readonly ratio: number } | undefined
  readonly maxBytesPerSegment?: number | undefined
  /** Whether a schema refuses long messages, when they are delivered. */
  readonly refusesLong?: boolean | undefined
}

/** Keys of messages. They are few, so that they are reused. */
export const keys: readonly string[] = ['a', 'b', '__proto__', '1']

/**
 * A message is due either at once or only after this delay. The oracle's clock starts early enough
 * that a delay is visible.
 */
export const longDelayMs: number = 10 * 86_400_000

const pick = fc.nat({ max: 30 })

const job: fc.Arbitrary<Job> = fc.record(
  {
    delayMs: fc.constantFrom(0, 1, 700, 20_000, longDelayMs),
    priority: fc.constantFrom(-1, 0, 1, 7),
    key: fc.constantFrom(...keys),
    isLong: fc.constantFrom(false, false, false, true),
    maxAttempts: fc.constantFrom(undefined, undefined, undefined, 1, 2),
    isTagged: fc.boolean(),
  },
  { requiredKeys: [] },
)

const call: fc.Arbitrary<Call> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('enqueue' as const), job }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('enqueue-all' as const), jobs: fc.array(job, { maxLength: 5 }) }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('ack' as const), pick }) },
  {
    weight: 4,
    arbitrary: fc.record(
      {
        do: fc.constant('nack' as const),
        pick,
        delayMs: fc.constantFrom(0, 0, 5, 2000, longDelayMs),
        reason: fc.constantFrom('broken', 'ä "€" \n'),
      },
      { requiredKeys: ['do', 'pick'] },
    ),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('nack' as const), pick, dead: fc.constant(true) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('cancel' as const), pick: fc.nat({ max: 99 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('compact' as const, 'purge' as const) }) },
)

const options: fc.Arbitrary<Options> = fc.record(
  {
    maxAttempts: fc.constantFrom(1, 2, 3, 5),
    maxDepth: fc.constantFrom(3, 10, 100),
    dedupeWindowMs: fc.constantFrom(0, 1000, 50_000),
    keepSnapshots: fc.constantFrom(1, 2, 3),
    compaction: fc.constantFrom(
      { minBytes: 100, ratio: 1 },
      { minBytes: 600, ratio: 2 },
      { minBytes: 2000, ratio: 4 },
    ),
    maxBytesPerSegment: fc.constantFrom(1, 200, 1000, 100_000),
  },
  { requiredKeys: [] },
)

const doesReceive = fc.record({ do: fc.constant('receive' as const), max: fc.integer({ min: 1, max: 4 }) })
const doesAdvance = fc.record({
  do: fc.constant('advance' as const),
  ms: fc.constantFrom(1, 600, 15_000, 30_000, 100_000),
})

function doesProcess(maxConcurrency: number): fc.Arbitrary<Extract<Action, { do: 'process' }>> {
  return fc.record({
    do: fc.constant('process' as const),
    concurrency: fc.integer({ min: 1, max: maxConcurrency }),
    throwsAt: fc.integer({ min: 1, max: 3 }),
    ending: fc.constantFrom(undefined, undefined, 'permanent' as const, 'stopped' as const, 'finished' as const),
  })
}

/** Any action that changes what is on the disk. */
export const anyAction: fc.Arbitrary<Action> = fc.oneof(
  { weight: 10, arbitrary: call },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('together' as const),
      calls: fc.array(call, { minLength: 2, maxLength: 5 }),
    }),
  },
  { weight: 9, arbitrary: doesReceive },
  { weight: 5, arbitrary: doesAdvance },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom('redrive' as const, 'discard' as const),
      pick: fc.oneof(
        { weight: 3, arbitrary: fc.nat({ max: 9 }) },
        { weight: 2, arbitrary: fc.constantFrom('all' as const, 'none' as const) },
      ),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reopen' as const), options }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('awaited' as const),
      max: fc.integer({ min: 1, max: 3 }),
      jobs: fc.array(job, { minLength: 1, maxLength: 3 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('consume' as const),
      prefetch: fc.integer({ min: 1, max: 4 }),
      take: fc.integer({ min: 1, max: 3 }),
      isAcked: fc.boolean(),
      // Half a minute is the length of a lease. With any other pause, messages that become due
      // meanwhile would come after the prefetched ones.
      pauseMs: fc.constantFrom(0, 0, 30_000),
      isLeft: fc.constantFrom(true, true, false),
    }),
  },
  { weight: 2, arbitrary: doesProcess(1) },
)

const loss: fc.Arbitrary<Loss> = fc.oneof(
  fc.constantFrom('process' as const, 'power-none' as const, 'power-all' as const),
  fc.record({ pick: fc.nat({ max: 999 }) }),
)

/** A write takes few operations, a compaction more. */
const operations = fc.oneof(fc.nat({ max: 3 }), fc.nat({ max: 12 }))

/** Any command. */
export const anyCommand: fc.Arbitrary<Command> = fc.oneof(
  { weight: 12, arbitrary: anyAction },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('extend' as const), pick, ms: fc.constantFrom(1, 1000, 40_000) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('wait' as const),
      max: fc.integer({ min: 1, max: 3 }),
      until: fc.constantFrom(
        'enqueue' as const,
        'time' as const,
        'jump' as const,
        'timeout' as const,
        'abort' as const,
      ),
    }),
  },
  { weight: 1, arbitrary: doesProcess(3) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('jump' as const),
      ms: fc.constantFrom(-3_600_000, -1000, 1000, 3_600_000),
      behind: fc.constantFrom('receive' as const, 'half-a-minute' as const),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('crash' as const),
      action: anyAction,
      after: operations,
      loss,
      options,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('fault' as const),
      kind: fc.constantFrom('full-disk' as const, 'no-snapshots' as const, 'failed-sync' as const),
      action: anyAction,
      options,
    }),
  },
)
