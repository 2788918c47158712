import { tell } from '../async.ts'
import { hasCode, propertyOf } from '../errors.ts'
import { isOutOfSpace } from '../fs/durable.ts'
import { type Answer, catchUp, headersOf, type LiveReader, longPoll, readRequest, serverSentEvents } from './read.ts'
import { dataOf, isSameType, judge, offsetText, positionOf, Problem, type StreamRecord, tryAgain } from './record.ts'
import { type DurableStreamsOptions, type HttpSettings, httpSettings } from './settings.ts'
import { JournalSource, NoStream, type Source } from './source.ts'
import type { Written } from './stream.ts'
import { type CreateRequest, Streams } from './streams.ts'

/** A server of streams, made by {@link durableStreams}. */
export interface DurableStreams extends AsyncDisposable {
  /** Answers a request. Never rejects. Must not be called for requests that the caller has to refuse. */
  readonly handler: (request: Request) => Promise<Response>
  /**
   * Deletes the streams whose time is over. Without it, such a stream is deleted when it is next asked
   * for. Opens every stream, one after another. What cannot be opened is reported to `onError`.
   *
   * @throws {Error} the system error if the directory cannot be read.
   */
  deleteExpired(): Promise<void>
  /**
   * Answers the requests that wait, waits for those that write, and closes all files. Later requests are
   * answered with 503. Further calls return the same promise.
   *
   * @throws {MiniStoreError} if a file could not be closed. All others are closed anyway.
   */
  close(): Promise<void>
}

/**
 * Serves streams over HTTP with the Durable Streams protocol: those of a directory, which clients
 * make, append to, read, follow and delete; and existing journals, which they read and follow.
 *
 * An answer that confirms a change is given once the change is on stable storage. After a crash, what was
 * confirmed is there, once, and a request without an answer took effect as a whole or not at all.
 *
 * ```ts
 * await using streams = await durableStreams({ directory: 'streams' })
 * const response = await streams.handler(new Request('http://localhost/orders', { method: 'PUT' }))
 * ```
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_LOCKED` if another server uses the directory, and the errors of
 *   `MiniStore.read` for the path of a journal.
 * @throws {TypeError | RangeError} if an option is invalid.
 */
export async function durableStreams(options: DurableStreamsOptions): Promise<DurableStreams> {
  const settings = httpSettings(options)
  const onError = (error: unknown): void => tell(settings.onError, error)
  const journals = new Map<string, JournalSource>()
  for (const [name, journal] of settings.journals) journals.set(name, await JournalSource.open(journal, onError))
  const streams = settings.directory === undefined ? undefined : await Streams.open(settings.directory, settings)
  return new Server(settings, journals, streams)
}

/** Longest path of a request, and longest value of a header that is stored, in characters. */
const maxPathLength = 2048
const maxHeaderLength = 1024

class Server implements DurableStreams {
  readonly #settings: HttpSettings
  readonly #journals: ReadonlyMap<string, JournalSource>
  readonly #streams: Streams | undefined
  readonly #live = new Set<AbortController>()
  readonly #active = new Set<Promise<unknown>>()
  #closing: Promise<void> | undefined

  constructor(settings: HttpSettings, journals: ReadonlyMap<string, JournalSource>, streams: Streams | undefined) {
    this.#settings = settings
    this.#journals = journals
    this.#streams = streams
  }

  readonly handler = async (request: Request): Promise<Response> => {
    const answering = this.#answer(request)
    this.#active.add(answering)
    const { status, headers, body } = await answering
    this.#active.delete(answering)
    const isEmpty = status === 204 || status === 304 || request.method === 'HEAD'
    return new Response(isEmpty ? null : body, { status, headers: { ...this.#commonHeaders(), ...headers } })
  }

  async deleteExpired(): Promise<void> {
    await this.#streams?.deleteExpired()
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    for (const reader of this.#live) reader.abort()
    await Promise.all(this.#active)
    for (const journal of this.#journals.values()) journal.stop()
    await this.#streams?.close()
  }

  async #answer(request: Request): Promise<Answer> {
    try {
      if (this.#closing !== undefined) throw tryAgain(503, 'The server is closing')
      return await this.#route(request)
    } catch (error) {
      const { status, message, headers } = problemOf(error)
      if (status === 500) tell(this.#settings.onError, error)
      return { status, headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store', ...headers }, body: `${message}\n` }
    }
  }

  async #route(request: Request): Promise<Answer> {
    const url = new URL(request.url)
    this.#refuseForeignPages(request, url)
    const { method, headers } = request
    if (method === 'OPTIONS') return { status: 204, headers: preflight }
    if (url.pathname.length > maxPathLength) throw new Problem(414, `Expected a path of at most ${maxPathLength} characters`)
    for (const name of storedHeaders) {
      if ((headers.get(name)?.length ?? 0) > maxHeaderLength) throw new Problem(431, `Expected a ${name} of at most ${maxHeaderLength} characters`)
    }
    const name = this.#nameOf(url)
    if (name === undefined) throw new NoStream(false)
    const journal = this.#journals.get(name)
    if (method === 'GET' || method === 'HEAD') return await this.#read(request, { url, name, journal })
    if (!['PUT', 'POST', 'DELETE'].includes(method)) throw new Problem(405, `There is no method ${method}`, { allow: methods })
    const streams = this.#streams
    if (journal !== undefined || streams === undefined) throw new Problem(405, 'This stream can only be read', { allow: 'GET, HEAD, OPTIONS' })
    if (method === 'PUT') return await this.#create(streams, request, { url, name })
    if (method === 'POST') return await this.#append(streams, request, name)
    await streams.delete(name)
    return { status: 204 }
  }

  async #read(
    request: Request,
    { url, name, journal }: { readonly url: URL; readonly name: string; readonly journal: JournalSource | undefined },
  ): Promise<Answer> {
    const source = (isLive: boolean): Source => journal?.reader({ isLive }) ?? (this.#streams ?? missing()).source(name)
    if (request.method === 'HEAD') {
      return await using(source(false), async (opened) => {
        const look = await opened.look({ isRead: false })
        return { status: 200, headers: { ...headersOf(look), 'cache-control': 'no-store' } }
      })
    }
    const wanted = readRequest(url.searchParams, request.headers)
    if (wanted.live === undefined) return await using(source(false), (opened) => catchUp(opened, wanted, this.#settings))
    const opened = source(true)
    const reader = this.#reader(request, opened)
    try {
      if (wanted.live === 'sse') return await serverSentEvents(opened, wanted, this.#settings, reader)
      const answer = await longPoll(opened, wanted, this.#settings, reader)
      reader.release()
      return answer
    } catch (error) {
      reader.release()
      throw error
    }
  }

  /** Lets a request wait for messages. */
  #reader({ signal }: Request, source: Source): LiveReader {
    if (this.#live.size >= this.#settings.maxReaders) {
      source.release()
      throw tryAgain(503, 'Too many requests wait for messages')
    }
    const stop = new AbortController()
    const abort = (): void => stop.abort()
    this.#live.add(stop)
    signal.addEventListener('abort', abort, { once: true })
    const release = (): void => {
      if (!this.#live.delete(stop)) return
      signal.removeEventListener('abort', abort)
      stop.abort()
      source.release()
    }
    return { signal: stop.signal, release }
  }

  async #create(streams: Streams, request: Request, { url, name }: { readonly url: URL; readonly name: string }): Promise<Answer> {
    const { headers } = request
    const given = headers.get('content-type')
    const create: CreateRequest = {
      type: given !== null && /^[\w.+-]+\/[\w.+-]+/.test(given) ? given : undefined,
      ...lifetimeIn(headers),
      close: headers.get('stream-closed') === 'true',
      fork: this.#forkIn(headers, url),
      body: await bodyOf(request, this.#settings.maxBodyBytes),
    }
    const { isNew, type, tail, isClosed } = await streams.create(name, create)
    const answer = {
      'content-type': type, 'stream-next-offset': offsetText(tail),
      ...(isClosed ? { 'stream-closed': 'true' } : {}), ...(isNew ? { location: `${url.origin}${url.pathname}` } : {}),
    }
    return { status: isNew ? 201 : 200, headers: answer }
  }

  async #append(streams: Streams, request: Request, name: string): Promise<Answer> {
    const { headers } = request
    const type = headers.get('content-type') ?? undefined
    const producer = producerIn(headers)
    const seq = headers.get('stream-seq') ?? undefined
    const close = headers.get('stream-closed') === 'true'
    const body = await bodyOf(request, this.#settings.maxBodyBytes)
    const hasData = body.length > 0
    if (!hasData && !close) throw new Problem(400, 'Expected a body')
    return await streams.on(name, async (stream) => {
      if (hasData && type === undefined) throw new Problem(400, 'Expected a Content-Type')
      const streamType = stream.look().type
      const isRight = type !== undefined && isSameType(type, streamType)
      const data = isRight ? dataOf(body, streamType) : undefined
      if (isRight && hasData && data === undefined) throw new Problem(400, 'Expected messages, got an empty array')
      const record: StreamRecord = {
        ...(producer === undefined ? {} : { producer }), ...(seq === undefined ? {} : { seq }), ...(close ? { close } : {}),
      }
      const written = await stream.write({ judge: (state) => judge(state, { type, producer, seq, close, hasData }), record, data })
      stream.touch()
      return appended(written, { producer, hasData })
    })
  }

  /** The name of the stream that a URL leads to. Undefined if none can be there. */
  #nameOf({ pathname }: URL): string | undefined {
    const { prefix } = this.#settings
    return pathname.startsWith(prefix) && pathname.length > prefix.length ? pathname.slice(prefix.length) : undefined
  }

  #forkIn(headers: Headers, url: URL): CreateRequest['fork'] {
    const source = headers.get('stream-forked-from')
    const offset = headers.get('stream-fork-offset')
    const sub = headers.get('stream-fork-sub-offset')
    if (sub !== null && (source === null || !/^(?:0|[1-9]\d{0,14})$/.test(sub))) throw new Problem(400, 'Expected Stream-Fork-Sub-Offset to be a whole number, beside Stream-Forked-From')
    if (source === null) return undefined
    const from = URL.canParse(source, url.href) ? this.#nameOf(new URL(source, url)) : undefined
    const at = offset === null ? undefined : positionOf(offset)
    if (offset !== null && at === undefined) throw new Problem(400, 'Expected Stream-Fork-Offset to be an offset')
    if (from === undefined) throw new Problem(404, 'There is no such source')
    return { from, at, sub: Number(sub ?? 0) }
  }

  /** A browser says for which page it sends a request. */
  #refuseForeignPages({ headers }: Request, url: URL): void {
    const origin = headers.get('origin')
    const { allowOrigin } = this.#settings
    if (origin === null || allowOrigin === '*' || origin === allowOrigin || origin === url.origin) return
    throw new Problem(403, 'The streams are not open to this page: see `allowOrigin`')
  }

  #commonHeaders(): Record<string, string> {
    const { allowOrigin } = this.#settings
    const common = { 'x-content-type-options': 'nosniff' }
    if (allowOrigin === undefined) return { ...common, 'cross-origin-resource-policy': 'same-origin' }
    return {
      ...common,
      'cross-origin-resource-policy': 'cross-origin',
      'access-control-allow-origin': allowOrigin,
      'access-control-expose-headers': exposed,
      ...(allowOrigin === '*' ? {} : { vary: 'origin' }),
    }
  }
}

const methods = 'GET, HEAD, PUT, POST, DELETE, OPTIONS'

const storedHeaders = ['content-type', 'stream-seq', 'producer-id', 'stream-forked-from'] as const

const exposed = [
  'Stream-Next-Offset', 'Stream-Cursor', 'Stream-Up-To-Date', 'Stream-Closed', 'Stream-TTL', 'Stream-Expires-At',
  'Stream-SSE-Data-Encoding', 'Producer-Epoch', 'Producer-Seq', 'Producer-Expected-Seq', 'Producer-Received-Seq',
  'ETag', 'Location', 'Retry-After',
].join(', ')

const preflight = {
  allow: methods,
  'access-control-allow-methods': methods,
  'access-control-allow-headers': [
    'Content-Type', 'Authorization', 'If-None-Match', 'Stream-Seq', 'Stream-TTL', 'Stream-Expires-At', 'Stream-Closed',
    'Producer-Id', 'Producer-Epoch', 'Producer-Seq', 'Stream-Forked-From', 'Stream-Fork-Offset', 'Stream-Fork-Sub-Offset',
  ].join(', '),
  'access-control-max-age': '86400',
}

function missing(): never {
  throw new NoStream(false)
}

async function using<T>(source: Source, work: (source: Source) => Promise<T>): Promise<T> {
  try {
    return await work(source)
  } finally {
    source.release()
  }
}

/** @throws {Problem} if the body is too large or ends early. */
async function bodyOf({ body, headers }: Request, maxBytes: number): Promise<Uint8Array> {
  const tooLarge = (): Problem => new Problem(413, `Expected a body of at most ${maxBytes} bytes`)
  if (Number(headers.get('content-length')) > maxBytes) throw tooLarge()
  const parts: Uint8Array[] = []
  let bytes = 0
  if (body !== null) {
    const stream = body as ReadableStream<Uint8Array>
    try {
      for await (const part of stream) {
        bytes += part.length
        if (bytes > maxBytes) throw tooLarge()
        parts.push(part)
      }
    } catch (error) {
      throw error instanceof Problem ? error : new Problem(400, 'The body ended early')
    }
  }
  return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts)
}

/** @throws {Problem} if only some of the headers are there, or one is invalid. */
function producerIn(headers: Headers): StreamRecord['producer'] {
  const id = headers.get('producer-id')
  const numbers = [headers.get('producer-epoch'), headers.get('producer-seq')]
  if (id === null && numbers.every((given) => given === null)) return undefined
  if (id === null || id === '' || numbers.includes(null)) throw new Problem(400, 'Expected Producer-Id, Producer-Epoch and Producer-Seq together')
  const [epoch, seq] = numbers.map((given) => (/^\d{1,16}$/.test(given as string) ? Number(given) : Number.NaN)) as [number, number]
  if (Number.isSafeInteger(epoch) && Number.isSafeInteger(seq)) return [id, epoch, seq]
  throw new Problem(400, 'Expected Producer-Epoch and Producer-Seq to be whole numbers up to 2^53 - 1')
}

/** @throws {Problem} if there are both headers, or one is invalid. */
function lifetimeIn(headers: Headers): Pick<CreateRequest, 'ttl' | 'expires'> {
  const ttl = headers.get('stream-ttl')
  const expires = headers.get('stream-expires-at')
  if (ttl !== null && expires !== null) throw new Problem(400, 'Expected Stream-TTL or Stream-Expires-At, got both')
  if (ttl !== null && !/^(?:0|[1-9]\d{0,9})$/.test(ttl)) throw new Problem(400, 'Expected Stream-TTL to be a whole number of seconds')
  const at = expires === null ? undefined : rfc3339.test(expires) ? Date.parse(expires) : Number.NaN
  if (Number.isNaN(at)) throw new Problem(400, 'Expected Stream-Expires-At to be a time as in RFC 3339')
  return { ttl: ttl === null ? undefined : Number(ttl), expires: at }
}

const rfc3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/i

/** The answer to a POST. */
function appended(written: Written, { producer, hasData }: { readonly producer: StreamRecord['producer']; readonly hasData: boolean }): Answer {
  const { refusal, tail, isClosed } = written
  const isDuplicate = refusal?.reason === 'duplicate'
  if (refusal !== undefined && !isDuplicate) throw refused(written, refusal, producer)
  const [, epoch, seq] = producer ?? []
  const last = isDuplicate ? refusal.seq : seq
  const numbers = epoch === undefined ? undefined : { 'producer-epoch': String(epoch), 'producer-seq': String(last) }
  return {
    status: producer !== undefined && hasData && !isDuplicate ? 200 : 204,
    headers: { 'stream-next-offset': offsetText(tail), ...(isClosed ? { 'stream-closed': 'true' } : {}), ...numbers },
  }
}

function refused(
  { tail }: Written,
  refusal: Exclude<NonNullable<Written['refusal']>, { readonly reason: 'duplicate' }>,
  producer: StreamRecord['producer'],
): Problem {
  switch (refusal.reason) {
    case 'missing':
    case 'deleted':
      return new NoStream(refusal.reason === 'deleted')
    case 'stale':
      return new Problem(403, 'A later epoch of this producer has begun', { 'producer-epoch': String(refusal.epoch) })
    case 'new-epoch':
      return new Problem(400, 'Expected a new epoch to begin with Producer-Seq 0')
    case 'gap':
      return new Problem(409, 'An earlier request of this producer is missing', {
        'producer-expected-seq': String(refusal.expected), 'producer-received-seq': String(producer?.[2]),
      })
    case 'closed':
      return new Problem(409, 'The stream is closed', { 'stream-closed': 'true', 'stream-next-offset': offsetText(tail) })
    case 'type':
      return new Problem(409, 'The stream has another content type')
    case 'seq':
      return new Problem(409, 'Expected a Stream-Seq after the last one')
    case 'exists':
      break
  }
  return new Problem(409, 'The stream is there already')
}

/** What an error is to the client. */
function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error
  for (let cause = error; cause !== undefined; cause = propertyOf(cause, 'cause')) {
    if (isOutOfSpace(cause)) return tryAgain(507, 'The disk is full')
  }
  if (hasCode(error, 'ERR_MINISTORE_RECORD_TOO_LARGE')) return new Problem(413, 'The messages are too large')
  if (hasCode(error, 'ERR_MINISTORE_SEQUENCE_GONE')) return new Problem(410, 'The messages after this offset are no longer there')
  return hasCode(error, ...again) ? tryAgain(503, 'It is not known whether this took effect') : new Problem(500, 'The server failed')
}

/** Errors after which the stream is opened again, which tells what it holds. */
const again = ['ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MOVED', 'ERR_MINISTORE_CLOSED'] as const
