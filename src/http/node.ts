import type { IncomingMessage, ServerResponse } from 'node:http'

/**
 * Returns a listener for `createServer` of `node:http` or `node:https`, for a handler of web requests
 * such as that of `durableStreams`. A slow client holds up its own response only, and a client that
 * leaves aborts the signal of its request.
 */
export function nodeListener(
  handler: (request: Request) => Promise<Response>,
): (request: IncomingMessage, response: ServerResponse) => void {
  return (incoming, outgoing) => {
    answer(handler, incoming, outgoing).catch(() => {
      // Whatever it is, this connection cannot be used any more.
      outgoing.destroy()
    })
  }
}

async function answer(
  handler: (request: Request) => Promise<Response>,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const left = new AbortController()
  outgoing.once('close', () => {
    if (!outgoing.writableFinished) left.abort()
  })
  const request = requestOf(incoming, left.signal)
  if (request === undefined) {
    outgoing.writeHead(400).end()
    return
  }
  const { status, headers, body } = await handler(request)
  // What is left of a refused body is read and dropped, so that the client sees the answer.
  if (!incoming.complete) {
    outgoing.setHeader('connection', 'close')
    request.body?.cancel().catch(() => {})
  }
  outgoing.writeHead(status, Object.fromEntries(headers))
  if (body === null) {
    outgoing.end()
    return
  }
  const reader = (body as ReadableStream<Uint8Array>).getReader()
  const cancel = (): void => {
    reader.cancel().catch(() => {})
  }
  if (outgoing.closed) cancel()
  outgoing.once('close', cancel)
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    if (!outgoing.write(value)) await drained(outgoing)
  }
  outgoing.off('close', cancel)
  outgoing.end()
}

/** Undefined for a request whose target or Host is no URL. */
function requestOf(incoming: IncomingMessage, signal: AbortSignal): Request | undefined {
  const { method = 'GET', url: target = '/', rawHeaders, headers: known } = incoming
  const scheme = 'encrypted' in incoming.socket ? 'https' : 'http'
  const url = target.startsWith('/') ? `${scheme}://${known.host ?? 'localhost'}${target}` : target
  if (!URL.canParse(url)) return undefined
  const headers = new Headers()
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string
    // HTTP/2 has the parts of the request line as headers.
    if (!name.startsWith(':')) headers.append(name, rawHeaders[index + 1] as string)
  }
  const hasBody = method !== 'GET' && method !== 'HEAD'
  const body = hasBody ? { body: bodyOf(incoming), duplex: 'half' as const } : {}
  return new Request(url, { method, headers, signal, ...body })
}

/**
 * The body of a request. Cancelling it drops what is left of it, and leaves the connection open for
 * the answer. `Readable.toWeb` would close the connection.
 */
function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  let isSettled = false
  const settle = (how: () => void): void => {
    if (isSettled) return
    isSettled = true
    how()
  }
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        incoming.pause()
        incoming.on('data', (part: Uint8Array) => {
          if (isSettled) return
          controller.enqueue(part)
          incoming.pause()
        })
        incoming.once('end', () => settle(() => controller.close()))
        incoming.once('error', (error) => settle(() => controller.error(error)))
        incoming.once('close', () => settle(() => controller.error(new Error('The connection was closed'))))
      },
      pull() {
        incoming.resume()
      },
      cancel() {
        isSettled = true
        incoming.resume()
      },
    },
    { highWaterMark: 0 },
  )
}

function drained(outgoing: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      outgoing.off('drain', end)
      outgoing.off('close', end)
      resolve()
    }
    if (outgoing.closed) return resolve()
    outgoing.once('drain', end)
    outgoing.once('close', end)
  })
}
