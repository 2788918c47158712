import { ignoreOutcome, isThenable } from '../async.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import type { StateJournalOptions } from '../ministate/index.ts'
import {
  type Fields, fields, finiteNumber, integer, integerOrInfinity, isObject, maxMs, shown, signalOption,
} from '../options.ts'
import { type Clock, systemClock } from './clock.ts'

/** Options of `MiniQueue.open`. They are not kept: another opening may have others. */
export interface QueueOptions extends FileSystemOption {
  /**
   * Milliseconds that whoever receives a message has to settle it, or to extend its lease; after that it is
   * ready again.
   *
   * @default 30_000; minimum 1
   */
  readonly visibilityTimeoutMs?: number | undefined
  /**
   * Deliveries of a message that is never acknowledged; then it becomes a dead letter. Infinity: never.
   *
   * @default 5; minimum 1
   */
  readonly maxAttempts?: number | undefined
  /**
   * How long a message waits after it was nacked. @default 1 s, doubled each time, 5 min at most, jitter 0.2
   */
  readonly backoff?: Backoff | BackoffFunction | undefined
  /** Messages that may wait or be in flight; dead letters do not count. @default Infinity; minimum 1 */
  readonly maxDepth?: number | undefined
  /** Bytes of JSON that one payload may have. @default 1_048_576 (1 MiB); minimum 1, maximum 256 MiB */
  readonly maxPayloadBytes?: number | undefined
  /** Milliseconds that a key is kept after its message was acknowledged. @default 0 */
  readonly dedupeWindowMs?: number | undefined
  /** When the queue compacts by itself. */
  readonly compaction?: QueueCompactionOptions | undefined
  readonly journal?: QueueJournalOptions | undefined
  /** Snapshots to keep. @default 2; minimum 1 */
  readonly keepSnapshots?: number | undefined
  /** @default the clock of this machine */
  readonly clock?: Clock | undefined
  /** Gives numbers from 0 up to 1, for the jitter. @default Math.random */
  readonly random?: (() => number) | undefined
  /**
   * Is told of what failed with nobody waiting for it: a compaction, the burial of a message whose lease has
   * ended, an ack or nack of `process`, the taking back of attempts that nobody has made.
   *
   * @default process.emitWarning
   */
  readonly onError?: ((error: unknown) => void) | undefined
}

/**
 * A call that makes the journal longer than both since the last compaction compacts, before it resolves and
 * after its own effect is durable.
 */
export interface QueueCompactionOptions {
  /** @default 4_194_304 (4 MiB); minimum 1 */
  readonly minBytes?: number | undefined
  /** Times the bytes of all messages and dead letters. @default 4; minimum 1 */
  readonly ratio?: number | undefined
}

/** Options of the journal beneath. */
export type QueueJournalOptions = Pick<StateJournalOptions<unknown>, 'maxBytesPerSegment' | 'lock' | 'mode'>

/** Options of `enqueue`. */
export interface EnqueueOptions {
  /** Milliseconds, on the wall clock, before it can be delivered. @default 0 */
  readonly delayMs?: number | undefined
  /** Higher ones are delivered first; may be negative. @default 0 */
  readonly priority?: number | undefined
  /**
   * Says which message this is: while one of the same key waits or is in flight, and for `dedupeWindowMs`
   * after it was acknowledged, nothing is enqueued. 1 to 1024 characters. @default none
   */
  readonly dedupeKey?: string | undefined
}

/** Options of `receive`. */
export interface ReceiveOptions {
  /** Messages at most. @default 1; minimum 1 */
  readonly max?: number | undefined
  /** Milliseconds to wait for the first message. @default 0; Infinity is allowed */
  readonly waitMs?: number | undefined
  /** Ends the wait with the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `consume`. */
export interface ConsumeOptions {
  /** Ends the stream with the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /**
   * Messages to fetch at once, with one fsync. Each counts as an attempt when it is fetched: if the process is
   * killed, also those of which nothing was seen yet. @default 1; minimum 1
   */
  readonly prefetch?: number | undefined
}

/** Options of `process`. */
export interface ProcessOptions {
  /** Handlers that run at the same time. @default 1; minimum 1 */
  readonly concurrency?: number | undefined
  /** Stops it: no more messages are received, and the signals of those in flight fire. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `nack`. */
export interface NackOptions {
  /** Milliseconds before it can be delivered again. @default as `backoff` says */
  readonly delayMs?: number | undefined
  /** Why, for the dead letter that it may become; kept up to 1000 characters. */
  readonly reason?: string | undefined
}

/** Options of a queue, checked and complete. */
export interface QueueSettings {
  readonly visibilityTimeoutMs: number
  readonly maxAttempts: number
  readonly backoff: BackoffFunction
  readonly maxDepth: number
  readonly maxPayloadBytes: number
  readonly dedupeWindowMs: number
  readonly compaction: { readonly minBytes: number; readonly ratio: number }
  readonly clock: Clock
  readonly onError: ((error: unknown) => void) | undefined
  readonly fileSystem: FileSystem
  /** For the state manager, which checks them. */
  readonly state: { readonly journal: Fields; readonly snapshots: Fields }
}

const mebibyte = 1024 * 1024
/** A record of many small messages, or of all ids of a large queue, may be longer than a payload. */
const minRecordBytes = 64 * mebibyte

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function queueSettings(options: unknown): QueueSettings {
  const given = fields(options, [
    'visibilityTimeoutMs', 'maxAttempts', 'backoff', 'maxDepth', 'maxPayloadBytes', 'dedupeWindowMs',
    'compaction', 'journal', 'keepSnapshots', 'clock', 'random', 'onError', 'fileSystem',
  ])
  const { visibilityTimeoutMs, maxAttempts, maxDepth, dedupeWindowMs, keepSnapshots, random, onError } = given
  const maxPayloadBytes = integer('maxPayloadBytes', given['maxPayloadBytes'], {
    otherwise: mebibyte,
    most: 256 * mebibyte,
  })
  // Room for all else that a record says.
  const maxRecordBytes = Math.max(minRecordBytes, maxPayloadBytes + mebibyte)
  const compaction = nested('compaction', given['compaction'], ['minBytes', 'ratio'])
  return {
    visibilityTimeoutMs: integer('visibilityTimeoutMs', visibilityTimeoutMs, {
      otherwise: 30_000,
      most: maxMs,
    }),
    maxAttempts: integerOrInfinity('maxAttempts', maxAttempts, { otherwise: 5 }),
    backoff: backoffFunction(given['backoff'], callback('random', random) ?? Math.random),
    maxDepth: integerOrInfinity('maxDepth', maxDepth, { otherwise: Number.POSITIVE_INFINITY }),
    maxPayloadBytes,
    dedupeWindowMs: integer('dedupeWindowMs', dedupeWindowMs, { otherwise: 0, least: 0, most: maxMs }),
    compaction: {
      minBytes: integer('minBytes', compaction['minBytes'], { otherwise: 4 * mebibyte }),
      ratio: finiteNumber('ratio', compaction['ratio'], { otherwise: 4, least: 1 }),
    },
    clock: clockOption(given['clock']),
    onError: callback('onError', onError),
    fileSystem: fileSystemOption(given['fileSystem']),
    state: {
      journal: { ...nested('journal', given['journal'], ['maxBytesPerSegment', 'lock', 'mode']), maxRecordBytes },
      snapshots: { keep: integer('keepSnapshots', keepSnapshots, { otherwise: 2 }) },
    },
  }
}

/** @throws {TypeError | RangeError} for options of `receive` that are none. */
export function receiveSettings(options: unknown): {
  readonly max: number
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
} {
  const { max, waitMs, signal } = fields(options, ['max', 'waitMs', 'signal'])
  return {
    max: integer('max', max, { otherwise: 1 }),
    waitMs: integerOrInfinity('waitMs', waitMs, { otherwise: 0, least: 0, most: maxMs }),
    signal: signalOption(signal),
  }
}

/** @throws {TypeError | RangeError} for options of `consume` that are none. */
export function consumeSettings(options: unknown): {
  readonly prefetch: number
  readonly signal: AbortSignal | undefined
} {
  const { prefetch, signal } = fields(options, ['prefetch', 'signal'])
  return { prefetch: integer('prefetch', prefetch, { otherwise: 1 }), signal: signalOption(signal) }
}

/** @throws {TypeError | RangeError} for options of `process` that are none. */
export function processSettings(options: unknown): {
  readonly concurrency: number
  readonly signal: AbortSignal | undefined
} {
  const { concurrency, signal } = fields(options, ['concurrency', 'signal'])
  return { concurrency: integer('concurrency', concurrency, { otherwise: 1 }), signal: signalOption(signal) }
}

/** Options of `nack`, checked. */
export interface NackSettings {
  readonly delayMs: number | undefined
  readonly reason: string | undefined
}

/** @throws {TypeError | RangeError} for options of `nack` that are none. */
export function nackSettings(options: unknown): NackSettings {
  const { delayMs, reason } = fields(options, ['delayMs', 'reason'])
  if (reason !== undefined && typeof reason !== 'string') {
    throw new TypeError(`Expected \`reason\` to be a string, got ${shown(reason)}`)
  }
  return {
    delayMs: delayMs === undefined ? undefined : integer('delayMs', delayMs, { least: 0, most: maxMs }),
    reason: reason?.slice(0, 1000),
  }
}

function clockOption(value: unknown): Clock {
  if (value === undefined) return systemClock
  const methods = ['wallMs', 'monotonicMs', 'setTimer']
  const isClock = isObject(value) && methods.every((name) => typeof Reflect.get(value, name) === 'function')
  if (!isClock) throw new TypeError(`Expected \`clock\` to have ${methods.join(', ')}, got ${shown(value)}`)
  const clock = value as Clock
  return {
    wallMs: () => clockMs('wallMs', clock.wallMs()),
    monotonicMs: () => clockMs('monotonicMs', clock.monotonicMs()),
    setTimer: (ms, ring, options) => {
      const cancel: unknown = clock.setTimer(ms, ring, options)
      if (typeof cancel === 'function') return cancel as () => void
      // It rings too early then, which does no harm.
      if (isThenable(cancel)) ignoreOutcome(cancel)
      return () => {}
    },
  }
}

/** Far from the last moment that a date can be, so that it is one after every delay too. */
const latestMs = 8.6e15

/** A time that is none would be written down, and fail whoever opens the queue. */
function clockMs(method: string, ms: unknown): number {
  if (typeof ms === 'number' && Math.abs(ms) <= latestMs) return ms
  if (isThenable(ms)) ignoreOutcome(ms)
  throw new TypeError(`Expected \`clock.${method}\` to give milliseconds, got ${shown(ms)}`)
}

function nested(name: string, value: unknown, known: readonly string[]): Fields {
  if (value === undefined || isObject(value)) return fields(value, known)
  throw new TypeError(`Expected \`${name}\` to be an object, got ${shown(value)}`)
}

function callback<Given extends unknown[], T>(
  name: string,
  value: unknown,
): ((...given: Given) => T) | undefined {
  if (value === undefined || typeof value === 'function') return value as ((...given: Given) => T) | undefined
  throw new TypeError(`Expected \`${name}\` to be a function, got ${shown(value)}`)
}

/** How long a message waits after a failed attempt: longer each time, up to a limit. */
export interface Backoff {
  /** Milliseconds after the first attempt. @default 1000 */
  readonly initialMs?: number | undefined
  /** How many times longer after each further one. @default 2; minimum 1 */
  readonly factor?: number | undefined
  /** Milliseconds at most. @default 300_000 (5 minutes) */
  readonly maxMs?: number | undefined
  /**
   * Share of the time by which it is shortened at random, from 0 to 1: 0.2 gives 80 to 100 % of it. So
   * messages that failed together do not all come back together.
   *
   * @default 0.2
   */
  readonly jitter?: number | undefined
}

/** Milliseconds that a message waits after its `attempt`, which is 1 for the first. */
export type BackoffFunction = (attempt: number) => number

/** @throws {TypeError | RangeError} for what is neither a backoff nor a function. */
export function backoffFunction(backoff: unknown, random: () => number): BackoffFunction {
  if (typeof backoff === 'function') return checked(backoff as BackoffFunction)
  if (backoff !== undefined && !isObject(backoff)) {
    throw new TypeError(`Expected \`backoff\` to be an object or a function, got ${shown(backoff)}`)
  }
  const given = fields(backoff, ['initialMs', 'factor', 'maxMs', 'jitter'])
  const initial = integer('initialMs', given['initialMs'], { otherwise: 1000, least: 0, most: maxMs })
  const factor = finiteNumber('factor', given['factor'], { otherwise: 2, least: 1 })
  const most = integer('maxMs', given['maxMs'], { otherwise: 300_000, least: 0, most: maxMs })
  const jitter = finiteNumber('jitter', given['jitter'], { otherwise: 0.2, least: 0, most: 1 })
  return (attempt) => {
    // 0 times a power that is too large for a number would be none.
    const full = initial === 0 ? 0 : Math.min(most, initial * factor ** (attempt - 1))
    return Math.round(full * (1 - jitter * checkedShare(random())))
  }
}

function checkedShare(share: unknown): number {
  if (typeof share === 'number' && share >= 0 && share <= 1) return share
  throw refused('random', 'a number from 0 up to 1', share)
}

function checked(backoff: BackoffFunction): BackoffFunction {
  return (attempt) => {
    const ms: unknown = backoff(attempt)
    if (typeof ms === 'number' && ms >= 0) return Math.min(Math.round(ms), maxMs)
    throw refused('backoff', 'milliseconds, 0 or more', ms)
  }
}

function refused(name: string, expected: string, given: unknown): TypeError {
  if (isThenable(given)) ignoreOutcome(given)
  return new TypeError(`Expected \`${name}\` to give ${expected}, got ${shown(given)}`)
}
