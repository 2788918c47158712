/**
 * What the journal of a stream holds: its records as lines, the state that they fold to, and the
 * judgement of a change against that state. Everything here is pure.
 *
 * **Invariant.** One request is one record. So its messages, its producer's number and the end of
 * the stream are durable together or not at all.
 */
import { SerializedRecord } from '../schema.ts'

/** One line of the journal of a stream. The messages come last; see {@link dataIn}. */
export interface StreamRecord {
  /** Makes the stream; the first record of every stream. */
  readonly create?: Creation
  /** When it was written, in milliseconds since 1970. Only in streams with a time to live. */
  readonly at?: number
  /** Producer-Id, Producer-Epoch and Producer-Seq. */
  readonly producer?: readonly [id: string, epoch: number, seq: number]
  /** Stream-Seq. */
  readonly seq?: string
  /** The stream takes no more messages. */
  readonly close?: true
  /** Another stream, whose name this is, reads the beginning of this one. */
  readonly fork?: string
  /** That stream is gone. */
  readonly unfork?: string
  /** The stream is deleted, but its forks still read it. */
  readonly deleted?: true
  /** The messages of a JSON stream, as they were sent. */
  readonly messages?: unknown
  /** The bytes of any other stream, if they are UTF-8. */
  readonly text?: unknown
  /** The bytes of any other stream. */
  readonly base64?: unknown
}

/** What a stream is from its beginning. */
export interface Creation {
  /** The name of the stream: its path below the prefix, as in the URL. */
  readonly name: string
  /** Content type. */
  readonly type: string
  /** Stream-TTL, in seconds. */
  readonly ttl?: number
  /** Stream-Expires-At, in milliseconds since 1970. */
  readonly expires?: number
  /** Present in a fork. */
  readonly fork?: Fork
}

/** Where a fork leaves its source. */
export interface Fork {
  /** Name of the source. */
  readonly from: string
  /** Identity of the source's journal. */
  readonly id: string
  /** The fork begins with everything in the source up to this offset. */
  readonly at: number
  /** Stream-Fork-Sub-Offset: how much of the source's next record was copied into the first record of the fork. */
  readonly sub: number
}

/** The state of a stream: small, whatever its length. */
export interface StreamState {
  /** Undefined until the first record, and so for a stream that does not exist. */
  creation: Creation | undefined
  /** Sequence number of the last record with messages. */
  tail: number
  isClosed: boolean
  isDeleted: boolean
  /** The greatest Stream-Seq. */
  seq: string | undefined
  /** The newest `at`. */
  touched: number
  /** Epoch and last number of each producer, the one that wrote last at the end. */
  producers: Record<string, readonly [epoch: number, seq: number]>
  producerCount: number
  /** Names of the forks. One of them may never have been made, or be gone: see `Streams`. */
  forks: readonly string[]
}

/** Producers that a stream remembers. When there are more, a tenth of them, those that wrote least recently, is forgotten. */
export const maxProducers = 10_000

export function emptyState(): StreamState {
  return {
    creation: undefined, tail: 0, isClosed: false, isDeleted: false, seq: undefined, touched: 0, producers: {},
    producerCount: 0, forks: [],
  }
}

/**
 * A copy to try out changes on. It shares what is large: the producers of the copy shadow those of
 * the original.
 */
export function draftOf(state: StreamState): StreamState {
  return { ...state, producers: Object.create(state.producers) as StreamState['producers'] }
}

/** The mutator: makes a record part of the state. Never looks at what the messages are. */
export function fold(state: StreamState, record: StreamRecord, { sequence }: { readonly sequence: number }): void {
  const { create, at, producer, seq, close, fork, unfork, deleted } = record
  if (create !== undefined) state.creation = create
  if (at !== undefined) state.touched = at
  if (producer !== undefined) remember(state, producer)
  if (seq !== undefined) state.seq = seq
  if (close === true) state.isClosed = true
  if (deleted === true) state.isDeleted = true
  if (fork !== undefined && !state.forks.includes(fork)) state.forks = [...state.forks, fork]
  if (unfork !== undefined) state.forks = state.forks.filter((name) => name !== unfork)
  if ('messages' in record || 'text' in record || 'base64' in record) state.tail = sequence
}

function remember(state: StreamState, [id, epoch, seq]: NonNullable<StreamRecord['producer']>): void {
  const { producers } = state
  const key = keyOf(id)
  if (producers[key] === undefined) state.producerCount += 1
  // Added anew, so that the keys are in the order of the last writes.
  delete producers[key]
  producers[key] = [epoch, seq]
  if (state.producerCount <= maxProducers) return
  const keys = Object.keys(producers)
  // A draft has only the keys of its own changes.
  if (keys.length <= maxProducers) return
  const forgotten = keys.slice(0, keys.length - maxProducers * 0.9)
  for (const old of forgotten) delete producers[old]
  state.producerCount -= forgotten.length
}

/** The first letter keeps a producer called `__proto__` or `1` an ordinary key, in its place in the order. */
function keyOf(producer: string): string {
  return `p${producer}`
}

/** A change that a request asks for, beside its messages. */
export interface Append {
  /** Content type; undefined if the request does not say. */
  readonly type: string | undefined
  readonly producer: StreamRecord['producer']
  readonly seq: string | undefined
  readonly close: boolean
  readonly hasData: boolean
}

/** Why a change is not written. */
export type Refusal =
  | { readonly reason: 'missing' | 'exists' | 'deleted' | 'closed' | 'type' | 'seq' | 'new-epoch' }
  /** Written before: the producer's last number. */
  | { readonly reason: 'duplicate'; readonly seq: number }
  /** Another instance of the producer has taken over: its epoch. */
  | { readonly reason: 'stale'; readonly epoch: number }
  | { readonly reason: 'gap'; readonly expected: number }

/** Judges an append against the state that all earlier changes make. Undefined if it may be written. */
export function judge(state: StreamState, { type, producer, seq, close, hasData }: Append): Refusal | undefined {
  if (state.creation === undefined) return { reason: 'missing' }
  if (state.isDeleted) return { reason: 'deleted' }
  // A request that only closes has no content.
  if (hasData && (type === undefined || !isSameType(type, state.creation.type))) return { reason: 'type' }
  const problem = producer && producerProblem(state, producer)
  if (problem?.reason === 'duplicate' || problem?.reason === 'stale') return problem
  if (state.isClosed) {
    // To close a closed stream again changes nothing.
    const isDone = close && !hasData && producer === undefined
    return isDone ? { reason: 'duplicate', seq: 0 } : { reason: 'closed' }
  }
  if (problem !== undefined) return problem
  // Both hold the bytes of a header, one to a code unit, so this compares bytes.
  if (seq !== undefined && state.seq !== undefined && seq <= state.seq) return { reason: 'seq' }
  return undefined
}

function producerProblem(
  { producers }: StreamState,
  [id, epoch, seq]: NonNullable<StreamRecord['producer']>,
): Refusal | undefined {
  const known = producers[keyOf(id)]
  if (known === undefined) return seq === 0 ? undefined : { reason: 'gap', expected: 0 }
  const [knownEpoch, last] = known
  if (epoch < knownEpoch) return { reason: 'stale', epoch: knownEpoch }
  if (epoch > knownEpoch) return seq === 0 ? undefined : { reason: 'new-epoch' }
  if (seq <= last) return { reason: 'duplicate', seq: last }
  return seq === last + 1 ? undefined : { reason: 'gap', expected: last + 1 }
}

/** Whether two content types are the same, whatever their parameters. */
export function isSameType(left: string, right: string): boolean {
  return essenceOf(left) === essenceOf(right)
}

/** A content type without its parameters, in lower case. */
export function essenceOf(type: string): string {
  return (type.split(';', 1)[0] as string).trim().toLowerCase()
}

export function isJson(type: string): boolean {
  return essenceOf(type) === 'application/json'
}

/** The messages of a record, in the two forms that they have. */
export interface Data {
  /** The last property of the record, as text. */
  readonly property: string
  /**
   * What readers get: the bytes as they were sent. Of a JSON stream, the messages with commas between
   * them, on one line.
   */
  readonly body: Buffer
}

/** Thrown for a request that cannot be answered with what it asks for. */
export class Problem extends Error {
  /** Status of the answer. */
  readonly status: number
  /** Headers of the answer, beside those that all have. */
  readonly headers: Readonly<Record<string, string>>

  constructor(status: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

/** A {@link Problem} that may be gone soon. */
export function tryAgain(status: number, message: string): Problem {
  return new Problem(status, message, { 'retry-after': '1' })
}

/**
 * The messages in a body. Undefined if there are none.
 *
 * @throws {Problem} if a JSON stream gets something else.
 */
export function dataOf(body: Uint8Array, type: string): Data | undefined {
  if (body.length === 0) return undefined
  return isJson(type) ? messagesIn(body) : bytesAsData(body)
}

function messagesIn(body: Uint8Array): Data | undefined {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(body)
    value = JSON.parse(text)
  } catch {
    throw new Problem(400, 'Expected a body of JSON')
  }
  // Outside of strings, where JSON allows no line break as it is, a space means the same.
  const line = text.replace(/[\r\n]+/g, ' ').trim()
  const inner = Array.isArray(value) ? line.slice(1, -1).trim() : line
  return inner === '' ? undefined : jsonData(inner)
}

/** @param inner one or more JSON values with commas between them, on one line. */
export function jsonData(inner: string): Data {
  return { property: `"messages":[${inner}]`, body: Buffer.from(inner) }
}

export function bytesAsData(bytes: Uint8Array): Data {
  const body = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const base64Length = Math.ceil(body.length / 3) * 4
  try {
    // With `ignoreBOM` the mark stays, so that the bytes that are read are those that were sent.
    const text = JSON.stringify(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body))
    // Text of control characters is up to six times as long.
    if (text.length <= base64Length + 100) return { property: `"text":${text}`, body }
  } catch {
    // Not UTF-8.
  }
  return { property: `"base64":"${body.toString('base64')}"`, body }
}

/** The record as its journal takes it. */
export function serialize(record: StreamRecord, data: Data | undefined): SerializedRecord<StreamRecord> {
  const text = JSON.stringify(record)
  if (data === undefined) return new SerializedRecord(text, record)
  const line = `${text.slice(0, -1)}${text === '{}' ? '' : ','}${data.property}}`
  // In place of the messages, which nothing looks at: see `fold`.
  return new SerializedRecord(line, { ...record, messages: true })
}

const markers = (['messages', 'text', 'base64'] as const).map((name) => Buffer.from(`"${name}":${name === 'messages' ? '[' : '"'}`))

/**
 * The messages in a line of the journal, in the form of {@link Data.body}. Undefined if it holds none.
 *
 * They are found without parsing the line. Before them, there are only names of this format, numbers
 * and strings. A quote in a string has a backslash before it, so none of the markers is part of one.
 */
export function dataIn(line: Buffer, type: string): Buffer | undefined {
  const [messages, text, base64] = markers as [Buffer, Buffer, Buffer]
  if (isJson(type)) {
    const at = line.indexOf(messages)
    return at === -1 ? undefined : line.subarray(at + messages.length, -2)
  }
  // The first of the two, because the other may be part of a text only behind it.
  const atText = line.indexOf(text)
  if (atText !== -1) return Buffer.from(JSON.parse(line.toString('utf8', atText + text.length - 1, line.length - 1)) as string)
  const atBase64 = line.indexOf(base64)
  return atBase64 === -1 ? undefined : Buffer.from(line.toString('latin1', atBase64 + base64.length, line.length - 2), 'base64')
}

/** An offset as clients see it. Offsets sort as text. */
export function offsetText(position: number): string {
  return String(position).padStart(16, '0')
}

/**
 * The position that an offset stands for: that many records of the journal come before it. Undefined if
 * it is no offset. The second half, which other servers count bytes in, may only be zero.
 */
export function positionOf(offset: string): number | undefined {
  const digits = /^(\d{16})(?:_0{16})?$/.exec(offset)?.[1]
  const position = Number(digits)
  return Number.isSafeInteger(position) ? position : undefined
}
