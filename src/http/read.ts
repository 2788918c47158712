import { Buffer } from 'node:buffer'

import { essenceOf, isJson, offsetText, positionOf, Problem } from './record.ts'
import type { HttpSettings } from './settings.ts'
import { type Chunk, type Look, NoStream, type Source } from './source.ts'

/** An answer without the headers that all answers have. */
export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array | string | ReadableStream<Uint8Array> | undefined
}

/** A request to read. */
export interface ReadRequest {
  readonly offset: string | undefined
  readonly live: 'long-poll' | 'sse' | undefined
  /** The cursor of the last answer. */
  readonly cursor: string | undefined
  readonly ifNoneMatch: string | null
}

/** A reader that waits for messages. */
export interface LiveReader {
  /** Aborted when the client is gone, or the server closes. */
  readonly signal: AbortSignal
  /** Must be called at the end. */
  readonly release: () => void
}

/** @throws {Problem} if a parameter is invalid. */
export function readRequest(query: URLSearchParams, headers: Headers): ReadRequest {
  const offsets = query.getAll('offset')
  const live = query.get('live') ?? undefined
  const [offset] = offsets
  if (offsets.length > 1) throw new Problem(400, 'Expected one offset, got several')
  if (live !== undefined && live !== 'long-poll' && live !== 'sse') throw new Problem(400, 'Expected live to be long-poll or sse')
  if (live !== undefined && offset === undefined) throw new Problem(400, `Expected an offset with live=${live}`)
  if (offset !== undefined && !['-1', 'now'].includes(offset) && positionOf(offset) === undefined) {
    throw new Problem(400, 'Expected an offset that this server gave')
  }
  return { offset, live, cursor: query.get('cursor') ?? undefined, ifNoneMatch: headers.get('if-none-match') }
}

/** Answers with the messages after the offset, as many as fit. */
export async function catchUp(source: Source, request: ReadRequest, settings: HttpSettings): Promise<Answer> {
  const look = await source.look({ isRead: true })
  const from = startOf(request, look)
  if (request.offset !== 'now') return answerWith(await source.read(from, settings.maxChunkBytes), { from, look, request, settings })
  const headers = { ...headersAt(look, from), 'cache-control': 'no-store' }
  return { status: 200, headers, body: bodyOf({ next: from, body: Buffer.alloc(0) }, look.type) }
}

/** Waits for a message, then answers with the messages after the offset. */
export async function longPoll(source: Source, request: ReadRequest, settings: HttpSettings, { signal }: LiveReader): Promise<Answer> {
  const until = Date.now() + settings.longPollMs
  let from: number | undefined
  for (;;) {
    const { version } = source.waiters
    const look = await source.look({ isRead: true })
    from ??= startOf(request, look)
    if (from < look.tail) return answerWith(await source.read(from, settings.maxChunkBytes), { from, look, request, settings })
    const leftMs = until - Date.now()
    const isOver = look.isClosed || leftMs <= 0 || (await source.waiters.wait(version, leftMs, signal)) === 'aborted'
    if (!isOver) continue
    const headers = { ...headersAt(look, from), 'stream-cursor': cursorAfter(request.cursor), 'cache-control': 'no-store' }
    return { status: 204, headers }
  }
}

/** Sends the messages after the offset as server-sent events, and then each new one. */
export async function serverSentEvents(
  source: Source,
  request: ReadRequest,
  settings: HttpSettings,
  { signal, release }: LiveReader,
): Promise<Answer> {
  const first = await source.look({ isRead: true })
  const { type } = first
  const until = Date.now() + settings.sseMs
  let from = startOf(request, first)
  let isTold = false

  const next = async (): Promise<{ readonly events: readonly Uint8Array[]; readonly isLast: boolean }> => {
    for (;;) {
      if (signal.aborted) return { events: [], isLast: true }
      const { version } = source.waiters
      const look = await source.look({ isRead: true })
      if (from < look.tail || !isTold || look.isClosed) {
        const chunk = from < look.tail ? await source.read(from, settings.maxChunkBytes) : undefined
        from = chunk?.next ?? from
        isTold = true
        const isLast = look.isClosed && from >= look.tail
        const control = controlEvent(from, { look, cursor: request.cursor })
        return { events: chunk === undefined ? [control] : [dataEvent(chunk, type), control], isLast }
      }
      const leftMs = until - Date.now()
      const outcome = leftMs <= 0 ? 'aborted' : await source.waiters.wait(version, Math.min(leftMs, settings.longPollMs), signal)
      if (outcome === 'aborted') return { events: [], isLast: true }
      // Tells the client, and everything between, that the connection is alive.
      if (outcome === 'timeout') return { events: [controlEvent(from, { look, cursor: request.cursor })], isLast: false }
    }
  }

  const body = new ReadableStream<Uint8Array>({
    // Called again only when the client has taken what was sent, so a slow one costs one chunk.
    async pull(controller) {
      try {
        const { events, isLast } = await next()
        for (const event of events) controller.enqueue(event)
        if (!isLast) return
        release()
        controller.close()
      } catch (error) {
        release()
        // The client connects anew, and is told then.
        if (error instanceof NoStream) controller.close()
        else controller.error(error)
      }
    },
    cancel: release,
  })
  const encoding = isText(type) ? {} : { 'stream-sse-data-encoding': 'base64' }
  return { status: 200, headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', ...encoding }, body }
}

/** The headers that tell what a stream is. */
export function headersOf({ type, tail, isClosed, ttl, expires }: Look): Record<string, string> {
  return {
    'content-type': type,
    'stream-next-offset': offsetText(tail),
    ...(isClosed ? { 'stream-closed': 'true' } : {}),
    ...(ttl === undefined ? {} : { 'stream-ttl': String(ttl) }),
    ...(expires === undefined ? {} : { 'stream-expires-at': new Date(expires).toISOString() }),
  }
}

/** @throws {Problem} if the stream is not at the offset any more, or not yet. */
function startOf({ offset }: ReadRequest, { first, tail }: Look): number {
  if (offset === undefined || offset === '-1') return first
  if (offset === 'now') return tail
  const from = positionOf(offset) as number
  // Not an offset of this stream: it was deleted and made again, or its journal restored from a backup.
  if (from > tail) throw new Problem(400, 'Expected an offset of this stream, got one after its end')
  if (from < first) throw new Problem(410, 'The messages after this offset are no longer there')
  return from
}

function answerWith(
  chunk: Chunk,
  { from, look, request, settings }: {
    readonly from: number
    readonly look: Look
    readonly request: ReadRequest
    readonly settings: HttpSettings
  },
): Answer {
  const { isClosed, tail } = look
  const isAtTail = chunk.next >= tail
  const etag = `"${look.id}:${from}:${chunk.next}${isClosed && isAtTail ? ':c' : ''}"`
  const headers = {
    ...headersAt(look, chunk.next),
    etag,
    'cache-control': cacheControl(look, { isAtTail: isAtTail && request.live === undefined, isPublic: settings.isPublic }),
    ...(request.live === undefined ? {} : { 'stream-cursor': cursorAfter(request.cursor) }),
  }
  if (request.ifNoneMatch === etag) return { status: 304, headers }
  return { status: 200, headers, body: bodyOf(chunk, look.type) }
}

function headersAt(look: Look, position: number): Record<string, string> {
  const isAtTail = position >= look.tail
  return {
    'content-type': look.type,
    'stream-next-offset': offsetText(position),
    ...(isAtTail ? { 'stream-up-to-date': 'true' } : {}),
    ...(isAtTail && look.isClosed ? { 'stream-closed': 'true' } : {}),
  }
}

/**
 * What ends before the tail never changes. At the tail, the same request gets more later, so caches must
 * ask: the entity tag tells. A long-poll has a cursor, which makes each request another one.
 */
function cacheControl(
  { ttl, expires }: Look,
  { isAtTail, isPublic }: { readonly isAtTail: boolean; readonly isPublic: boolean },
): string {
  const scope = isPublic ? 'public' : 'private'
  if (isAtTail) return `${scope}, no-cache`
  // Nothing may outlive its stream.
  const left = Math.min(ttl ?? 60, expires === undefined ? 60 : Math.max(0, Math.floor((expires - Date.now()) / 1000)))
  return left < 60 ? `${scope}, max-age=${left}` : `${scope}, max-age=60, stale-while-revalidate=300`
}

function bodyOf({ body }: Chunk, type: string): Uint8Array | ReadableStream<Uint8Array> {
  if (body.length < minStreamedBytes) return isJson(type) ? Buffer.concat([opening, body, closing]) : body
  // A `Response` copies bytes that it gets, but not those of a stream.
  const parts = isJson(type) ? [opening, body, closing] : [body]
  return new ReadableStream<Uint8Array>({
    pull(controller) {
      const part = parts.shift()
      if (part === undefined) controller.close()
      else controller.enqueue(part)
    },
  })
}

const minStreamedBytes = 64 * 1024

const opening = Buffer.from('[')
const closing = Buffer.from(']')

/** Cursors count intervals since a day before all of them, as the protocol suggests. */
const cursorEpochMs = Date.UTC(2024, 9, 9)
const cursorMs = 20_000

/**
 * Returns a cursor after the client's own. Caches keep an answer for the cursor in its request, so with
 * another one, a client does not get the same answer again for ever.
 */
function cursorAfter(given: string | undefined): string {
  const now = Math.floor((Date.now() - cursorEpochMs) / cursorMs)
  const last = given !== undefined && /^\d{1,15}$/.test(given) ? Number(given) : -1
  return String(last < now ? now : last + 1 + Math.floor(Math.random() * 180))
}

/** Events that were made, for the readers that share a chunk. */
const eventsMade = new WeakMap<Chunk, Uint8Array>()

function dataEvent(chunk: Chunk, type: string): Uint8Array {
  let event = eventsMade.get(chunk)
  if (event === undefined) {
    const text = isJson(type) ? `[${chunk.body.toString()}]` : chunk.body.toString(isText(type) ? 'utf8' : 'base64')
    // Each kind of line break would end the line, and let a message pass for events of its own. Clients
    // take away one space at the beginning of a line.
    const lines = text.split(/\r\n|\r|\n/).map((line) => `data:${line.startsWith(' ') ? ' ' : ''}${line}\n`)
    event = Buffer.from(`event: data\n${lines.join('')}\n`)
    eventsMade.set(chunk, event)
  }
  return event
}

function controlEvent(position: number, { look, cursor }: { readonly look: Look; readonly cursor: string | undefined }): Uint8Array {
  const isAtTail = position >= look.tail
  const control = {
    streamNextOffset: offsetText(position),
    ...(isAtTail && look.isClosed ? { streamClosed: true } : { streamCursor: cursorAfter(cursor), ...(isAtTail ? { upToDate: true } : {}) }),
  }
  return Buffer.from(`event: control\ndata:${JSON.stringify(control)}\n\n`)
}

function isText(type: string): boolean {
  return isJson(type) || essenceOf(type).startsWith('text/')
}
