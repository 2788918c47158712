import type { StandardSchemaV1 } from '@standard-schema/spec'

import { ignoreOutcome, isThenable } from '../async.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import type { StateJournalOptions } from '../ministate/index.ts'
import {
  boolean, type Fields, fields, finiteNumber, integer, isObject, maxMs, optionalCallback, shown, signalOption,
} from '../options.ts'
import { schemaOption } from '../schema.ts'
import { type Backoff, type BackoffFunction, backoffFunction, type Clock, systemClock } from './clock.ts'

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
  /**
   * A Standard Schema for payloads. A payload is checked as its JSON reads back: when it is enqueued,
   * and each time it is delivered. The receiver gets the output of the schema. A stored payload that
   * no longer fits becomes a dead letter, with the issues as its reason. The schema should be fast.
   *
   * @default payloads are not checked
   */
  readonly schema?: StandardSchemaV1 | undefined
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
  /**
   * Number of deliveries after which this message becomes a dead letter, in place of
   * `QueueOptions.maxAttempts`. It is stored with the message. Minimum 1, or `Infinity`.
   *
   * @default QueueOptions.maxAttempts, as it is when an attempt fails
   */
  readonly maxAttempts?: number | undefined
  /**
   * Texts that accompany the payload, for example the context of a trace. They are stored with the
   * message, given to its receivers, and published with its events. At most 16 KiB of JSON.
   *
   * @default {}
   */
  readonly headers?: Readonly<Record<string, string>> | undefined
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
  /**
   * How many messages may be delivered to this run. It applies before a message is delivered, so
   * waiting costs neither lease nor attempt.
   *
   * @default no limit
   */
  readonly rateLimit?: RateLimitOptions | undefined
}

/** A limit on how often handlers begin. */
export interface RateLimitOptions {
  /**
   * Number of messages in any second, from 0.001 to 10^6. A fraction is a longer span for one: 0.5
   * is one message in any two seconds.
   */
  readonly perSecond: number
}

/** Options of `messages`. */
export interface MessagesOptions {
  /** Lists only messages in this state. @default all states */
  readonly state?: MessageState | undefined
  /** Lists only messages with this id or a higher one. Minimum 1. @default 1 */
  readonly from?: number | undefined
  /** Maximum number of messages. Minimum 1, or `Infinity`. @default 100 */
  readonly limit?: number | undefined
}

/** Where a message is, see `MiniQueue.stats`. */
export type MessageState = 'ready' | 'delayed' | 'inFlight' | 'dead'

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
  readonly schema: StandardSchemaV1 | undefined
  readonly onError: QueueOptions['onError']
  /** Options for the state manager, which validates them itself. */
  readonly state: { readonly journal: Fields; readonly snapshots: Fields }
}

/** @throws {TypeError | RangeError} if an option of `MiniQueue.open` is unknown or invalid. */
export function queueSettings(options: unknown): QueueSettings {
  const given = fields(options, [
    'visibilityTimeoutMs', 'maxAttempts', 'backoff', 'maxDepth', 'maxPayloadBytes', 'dedupeWindowMs',
    'schema', 'compaction', 'journal', 'keepSnapshots', 'clock', 'random', 'onError', 'fileSystem',
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
    schema: schemaOption(given['schema']),
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
export interface ProcessSettings extends Settings<Omit<ProcessOptions, 'rateLimit'>> {
  readonly rateLimit: RateLimitOptions | undefined
}

/** @throws {TypeError | RangeError} if an option of `process` is invalid. */
export function processSettings(options: unknown): ProcessSettings {
  const { concurrency, signal, drainMs, handlerTimeoutMs, rateLimit } = fields(
    options, ['concurrency', 'signal', 'drainMs', 'handlerTimeoutMs', 'rateLimit'],
  )
  const limits = { min: 0.001, max: 10 ** 6 }
  const perSecond = (): number => finiteNumber('perSecond', fields(rateLimit, ['perSecond'], 'rateLimit')['perSecond'], limits)
  return {
    concurrency: integer('concurrency', concurrency, { default: 1 }),
    signal: signalOption(signal),
    drainMs: drainOption(drainMs) ?? 30_000,
    handlerTimeoutMs: integer('handlerTimeoutMs', handlerTimeoutMs, {
      default: Number.POSITIVE_INFINITY, max: maxMs, orInfinity: true,
    }),
    rateLimit: rateLimit === undefined ? undefined : { perSecond: perSecond() },
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

/** @throws {TypeError | RangeError} if an option of `messages` is invalid. */
export function messagesSettings(options: unknown): {
  readonly state: MessageState | undefined
  readonly from: number
  readonly limit: number
} {
  const { state, from, limit } = fields(options, ['state', 'from', 'limit'])
  const isState = state === undefined || (typeof state === 'string' && states.includes(state))
  if (!isState) throw new TypeError(`Expected \`state\` to be one of ${states.join(', ')}, got ${shown(state)}`)
  return {
    state: state as MessageState | undefined,
    from: integer('from', from, { default: 1 }),
    limit: integer('limit', limit, { default: 100, orInfinity: true }),
  }
}

const states: readonly string[] = ['ready', 'delayed', 'inFlight', 'dead'] satisfies MessageState[]

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
