import { ignoreOutcome, isThenable } from '../async.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import type { StateJournalOptions } from '../ministate/index.ts'
import {
  boolean, type Fields, fields, finiteNumber, integer, isObject, maxMs, optionalCallback, shown, signalOption,
} from '../options.ts'
import { type Clock, systemClock } from './clock.ts'

/**
 * Options of `MiniQueue.open`. They are not stored with the queue, so they may differ each time the
 * queue is opened.
 */
export interface QueueOptions extends FileSystemOption {
  /**
   * Milliseconds until the lease of a message from `receive` or `consume` ends. Without an ack, nack
   * or extension by then, the message is ready again, or becomes a dead letter after its last
   * attempt. A handler of `process` keeps its message, see `ProcessOptions.handlerTimeoutMs`.
   * Minimum 1, maximum 10^13.
   *
   * @default 30_000
   */
  readonly visibilityTimeoutMs?: number | undefined
  /**
   * Number of deliveries after which a message without an ack becomes a dead letter. With
   * `Infinity`, no message becomes a dead letter. Minimum 1.
   *
   * @default 5
   */
  readonly maxAttempts?: number | undefined
  /**
   * How long a message waits after a nack that gives no `delayMs`.
   *
   * @default 1 s, doubled each time, at most 5 min, jitter 0.2
   */
  readonly backoff?: Backoff | BackoffFunction | undefined
  /**
   * Maximum number of messages that wait or are in flight. Dead letters do not count. Minimum 1.
   *
   * @default Infinity
   */
  readonly maxDepth?: number | undefined
  /**
   * Maximum size of one payload, in bytes of JSON. Minimum 1, maximum 256 MiB.
   *
   * @default 1_048_576 (1 MiB)
   */
  readonly maxPayloadBytes?: number | undefined
  /**
   * Milliseconds for which the `dedupeKey` of a message stays taken after the message was
   * acknowledged. Minimum 0, maximum 10^13.
   *
   * @default 0
   */
  readonly dedupeWindowMs?: number | undefined
  /** When the queue compacts by itself. */
  readonly compaction?: QueueCompactionOptions | undefined
  /** Options of the journal in which the queue stores its changes. */
  readonly journal?: QueueJournalOptions | undefined
  /** Number of snapshots to keep. Minimum 1. @default 2 */
  readonly keepSnapshots?: number | undefined
  /** The source of time; replace it in tests. @default the clock of this machine */
  readonly clock?: Clock | undefined
  /** Returns numbers from 0 up to 1, for the jitter of the backoff. @default Math.random */
  readonly random?: (() => number) | undefined
  /**
   * Called with the error of a failure that no call reports: a compaction, turning a message whose
   * lease has ended into a dead letter, an ack or nack of `process`, or refunding attempts of
   * messages that no receiver got. If it throws, that becomes a process warning.
   *
   * @default process.emitWarning
   */
  readonly onError?: ((error: unknown) => void) | undefined
}

/**
 * When the queue compacts by itself: once its journal has grown, since the last compaction, by more
 * than both limits. The call that exceeds them compacts after its own change is durable and before
 * it resolves.
 */
export interface QueueCompactionOptions {
  /** Growth of the journal in bytes. Minimum 1. @default 4_194_304 (4 MiB) */
  readonly minBytes?: number | undefined
  /**
   * Growth of the journal as a multiple of the bytes of all messages and dead letters. Minimum 1;
   * fractions are allowed.
   *
   * @default 4
   */
  readonly ratio?: number | undefined
}

/** Options of the journal in which the queue stores its changes, as for `MiniStore.open`. */
export type QueueJournalOptions = Pick<StateJournalOptions<unknown>, 'maxBytesPerSegment' | 'preallocate' | 'lock' | 'mode'>

/** Options of `enqueue`. */
export interface EnqueueOptions {
  /**
   * Milliseconds, on the wall clock, before the message can be delivered. Minimum 0, maximum 10^13.
   *
   * @default 0
   */
  readonly delayMs?: number | undefined
  /**
   * Priority of the message, a safe integer. Higher priorities are delivered first; it may be
   * negative.
   *
   * @default 0
   */
  readonly priority?: number | undefined
  /**
   * Prevents duplicates. While a message with the same key waits or is in flight, and for
   * `dedupeWindowMs` after it was acknowledged, nothing is enqueued. 1 to 1024 characters.
   *
   * @default no key
   */
  readonly dedupeKey?: string | undefined
}

/** Options of `receive`. */
export interface ReceiveOptions {
  /** Maximum number of messages. Minimum 1. @default 1 */
  readonly max?: number | undefined
  /**
   * Milliseconds to wait for the first message. Minimum 0, maximum 10^13 or `Infinity`.
   *
   * @default 0
   */
  readonly waitMs?: number | undefined
  /** When it is aborted, the call rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `consume`. */
export interface ConsumeOptions {
  /** When it is aborted, the stream fails with the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /**
   * Number of messages to fetch at once, with one fsync. The attempt of a message counts when the
   * message is fetched. If the process is killed, messages that were fetched and not yet taken have
   * used one attempt. Minimum 1.
   *
   * @default 1
   */
  readonly prefetch?: number | undefined
}

/** Options of `process`. */
export interface ProcessOptions {
  /** Maximum number of handlers that run at the same time. Minimum 1. @default 1 */
  readonly concurrency?: number | undefined
  /** When it is aborted, the run stops: it receives no more messages and drains. */
  readonly signal?: AbortSignal | undefined
  /**
   * Milliseconds that handlers may go on after the run is stopped. Then the signals of their
   * messages fire. With 0 they fire at once. Minimum 0, maximum 10^13 or `Infinity`.
   *
   * @default 30_000
   */
  readonly drainMs?: number | undefined
  /**
   * Milliseconds after which a handler loses its message: the signal of the message fires, and the
   * message is ready again, or a dead letter after its last attempt. The handler counts as running
   * until it ends. Without a limit, a handler that hangs holds its message for as long as its
   * process lives. Minimum 1, maximum 10^13 or `Infinity`.
   *
   * @default Infinity
   */
  readonly handlerTimeoutMs?: number | undefined
}

/** Options of `close`. */
export interface CloseOptions {
  /**
   * Milliseconds that handlers of `process` may go on, as for `process`.
   *
   * @default the `drainMs` of each run
   */
  readonly drainMs?: number | undefined
}

/** Options of `nack`. */
export interface NackOptions {
  /**
   * Milliseconds, on the wall clock, before the message can be delivered again. With 0 it is ready
   * at once. Minimum 0, maximum 10^13.
   *
   * @default the delay that `QueueOptions.backoff` gives
   */
  readonly delayMs?: number | undefined
  /**
   * Why the message was not processed, for the dead letter that it may become. Cut to 1000
   * characters.
   *
   * @default no reason
   */
  readonly reason?: string | undefined
  /**
   * Whether the message becomes a dead letter at once, whatever attempts it has left. Excludes
   * `delayMs`.
   *
   * @default false
   */
  readonly dead?: boolean | undefined
}

const mebibyte = 1024 * 1024
/** A record with many small messages, or with all ids of a large queue, may exceed one payload. */
const minRecordBytes = 64 * mebibyte

/** Options that are validated and have their defaults filled in. */
type Settings<Options> = {
  readonly [Name in keyof Options]-?: Name extends 'signal' ? Options[Name] : Exclude<Options[Name], undefined>
}

type PlainOptions = 'visibilityTimeoutMs' | 'maxAttempts' | 'maxDepth' | 'maxPayloadBytes' | 'dedupeWindowMs' | 'clock'

/** Options of a queue, validated once. */
export interface QueueSettings extends Settings<Pick<QueueOptions, PlainOptions | 'fileSystem'>> {
  readonly backoff: BackoffFunction
  readonly compaction: Settings<QueueCompactionOptions>
  readonly onError: QueueOptions['onError']
  /** Options for the state manager, which validates them itself. */
  readonly state: { readonly journal: Fields; readonly snapshots: Fields }
}

/** @throws {TypeError | RangeError} if an option of `MiniQueue.open` is unknown or invalid. */
export function queueSettings(options: unknown): QueueSettings {
  const given = fields(options, [
    'visibilityTimeoutMs', 'maxAttempts', 'backoff', 'maxDepth', 'maxPayloadBytes', 'dedupeWindowMs',
    'compaction', 'journal', 'keepSnapshots', 'clock', 'random', 'onError', 'fileSystem',
  ])
  const { visibilityTimeoutMs, maxAttempts, maxDepth, dedupeWindowMs, keepSnapshots, random, onError } = given
  const payloadLimits = { default: mebibyte, max: 256 * mebibyte }
  const maxPayloadBytes = integer('maxPayloadBytes', given['maxPayloadBytes'], payloadLimits)
  // A record holds other fields besides the payload, such as the key.
  const maxRecordBytes = Math.max(minRecordBytes, maxPayloadBytes + mebibyte)
  const compaction = fields(given['compaction'], ['minBytes', 'ratio'], 'compaction')
  return {
    visibilityTimeoutMs: integer('visibilityTimeoutMs', visibilityTimeoutMs, { default: 30_000, max: maxMs }),
    maxAttempts: integer('maxAttempts', maxAttempts, { default: 5, orInfinity: true }),
    backoff: backoffFunction(given['backoff'], optionalCallback('random', random) ?? Math.random),
    maxDepth: integer('maxDepth', maxDepth, { default: Number.POSITIVE_INFINITY, orInfinity: true }),
    maxPayloadBytes,
    dedupeWindowMs: integer('dedupeWindowMs', dedupeWindowMs, { default: 0, min: 0, max: maxMs }),
    compaction: {
      minBytes: integer('minBytes', compaction['minBytes'], { default: 4 * mebibyte }),
      ratio: finiteNumber('ratio', compaction['ratio'], { default: 4, min: 1 }),
    },
    clock: clockOption(given['clock']),
    onError: optionalCallback('onError', onError),
    fileSystem: fileSystemOption(given['fileSystem']),
    state: {
      journal: { ...fields(given['journal'], ['maxBytesPerSegment', 'preallocate', 'lock', 'mode'], 'journal'), maxRecordBytes },
      snapshots: { keep: integer('keepSnapshots', keepSnapshots, { default: 2 }) },
    },
  }
}

/** @throws {TypeError | RangeError} if an option of `receive` is invalid. */
export function receiveSettings(options: unknown): Settings<ReceiveOptions> {
  const { max, waitMs, signal } = fields(options, ['max', 'waitMs', 'signal'])
  return {
    max: integer('max', max, { default: 1 }),
    waitMs: integer('waitMs', waitMs, { default: 0, min: 0, max: maxMs, orInfinity: true }),
    signal: signalOption(signal),
  }
}

/** @throws {TypeError | RangeError} if an option of `consume` is invalid. */
export function consumeSettings(options: unknown): Settings<ConsumeOptions> {
  const { prefetch, signal } = fields(options, ['prefetch', 'signal'])
  return { prefetch: integer('prefetch', prefetch, { default: 1 }), signal: signalOption(signal) }
}

/** Options of `process`, validated. */
export type ProcessSettings = Settings<ProcessOptions>

/** @throws {TypeError | RangeError} if an option of `process` is invalid. */
export function processSettings(options: unknown): ProcessSettings {
  const { concurrency, signal, drainMs, handlerTimeoutMs } = fields(
    options, ['concurrency', 'signal', 'drainMs', 'handlerTimeoutMs'],
  )
  return {
    concurrency: integer('concurrency', concurrency, { default: 1 }),
    signal: signalOption(signal),
    drainMs: drainOption(drainMs) ?? 30_000,
    handlerTimeoutMs: integer('handlerTimeoutMs', handlerTimeoutMs, {
      default: Number.POSITIVE_INFINITY, max: maxMs, orInfinity: true,
    }),
  }
}

/** @throws {TypeError | RangeError} if an option of `close` is invalid. */
export function closeSettings(options: unknown): Required<CloseOptions> {
  return { drainMs: drainOption(fields(options, ['drainMs'])['drainMs']) }
}

function drainOption(value: unknown): number | undefined {
  return value === undefined ? undefined : integer('drainMs', value, { min: 0, max: maxMs, orInfinity: true })
}

/** Options of `nack`, validated. */
export type NackSettings = NackOptions

/** @throws {TypeError | RangeError} if an option of `nack` is invalid. */
export function nackSettings(options: unknown): NackSettings {
  const { delayMs, reason, dead } = fields(options, ['delayMs', 'reason', 'dead'])
  if (reason !== undefined && typeof reason !== 'string') {
    throw new TypeError(`Expected \`reason\` to be a string, got ${shown(reason)}`)
  }
  const isDead = boolean('dead', dead, { default: false })
  if (isDead && delayMs !== undefined) throw new TypeError('Expected `delayMs` or `dead`, got both')
  return {
    delayMs: delayMs === undefined ? undefined : integer('delayMs', delayMs, { min: 0, max: maxMs }),
    reason: reason === undefined ? undefined : cutReason(reason),
    dead: isDead,
  }
}

/** The text of a reason as it is stored. */
export function cutReason(reason: string): string {
  return reason.slice(0, 1000)
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
      // This timer cannot be cancelled, so it may ring when it is no longer needed. An early ring
      // does no harm.
      if (isThenable(cancel)) ignoreOutcome(cancel)
      return () => {}
    },
  }
}

/**
 * Below 8.64e15, the last moment that a `Date` can hold, by more than the longest delay. So a time
 * plus any delay is still a valid date.
 */
const latestMs = 8.6e15

/** Refuses an invalid time. It would be written to the journal and fail every later opening. */
function clockMs(method: string, ms: unknown): number {
  if (typeof ms === 'number' && Math.abs(ms) <= latestMs) return ms
  if (isThenable(ms)) ignoreOutcome(ms)
  throw new TypeError(`Expected \`clock.${method}\` to give milliseconds, got ${shown(ms)}`)
}

/** How long a message waits after a failed attempt: longer each time, up to a limit. */
export interface Backoff {
  /** Milliseconds to wait after the first attempt. Minimum 0, maximum 10^13. @default 1000 */
  readonly initialMs?: number | undefined
  /**
   * Factor by which the wait grows with each further attempt. Minimum 1; fractions are allowed.
   *
   * @default 2
   */
  readonly factor?: number | undefined
  /** Longest wait in milliseconds. Minimum 0, maximum 10^13. @default 300_000 (5 minutes) */
  readonly maxMs?: number | undefined
  /**
   * Maximum share of the wait, from 0 to 1, by which it is shortened at random. For example, 0.2
   * gives 80 to 100 % of the wait. Jitter spreads out the retries of messages that failed together.
   *
   * @default 0.2
   */
  readonly jitter?: number | undefined
}

/**
 * Returns the milliseconds that a message waits after its `attempt`, which is 1 for the first. The
 * result must be 0 or more; it is rounded, and limited to 10^13. Or it returns `'dead'`, and the
 * message becomes a dead letter. With any other result, the nack rejects with a `TypeError` and the
 * lease goes on.
 */
export type BackoffFunction = (attempt: number) => number | 'dead'

/**
 * Turns the `backoff` option into a function.
 *
 * @throws {TypeError | RangeError} if `backoff` is neither a function nor valid options.
 */
export function backoffFunction(backoff: unknown, random: () => number): BackoffFunction {
  if (typeof backoff === 'function') return checked(backoff as BackoffFunction)
  if (backoff !== undefined && !isObject(backoff)) {
    throw new TypeError(`Expected \`backoff\` to be an object or a function, got ${shown(backoff)}`)
  }
  const given = fields(backoff, ['initialMs', 'factor', 'maxMs', 'jitter'])
  const initial = integer('initialMs', given['initialMs'], { default: 1000, min: 0, max: maxMs })
  const factor = finiteNumber('factor', given['factor'], { default: 2, min: 1 })
  const most = integer('maxMs', given['maxMs'], { default: 300_000, min: 0, max: maxMs })
  const jitter = finiteNumber('jitter', given['jitter'], { default: 0.2, min: 0, max: 1 })
  return (attempt) => {
    // The power may overflow to Infinity, and 0 times Infinity is NaN.
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
    if (ms === 'dead') return ms
    throw refused('backoff', 'milliseconds, 0 or more, or "dead"', ms)
  }
}

function refused(name: string, expected: string, given: unknown): TypeError {
  if (isThenable(given)) ignoreOutcome(given)
  return new TypeError(`Expected \`${name}\` to give ${expected}, got ${shown(given)}`)
}
