import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'

import { type DurableStreams, durableStreams, type DurableStreamsOptions, nodeListener } from '../../src/http/index.ts'

/** A server of streams on an ephemeral port of this machine. */
export interface Served extends AsyncDisposable {
  readonly url: string
  readonly streams: DurableStreams
  readonly server: Server
  close(): Promise<void>
}

export async function serve({ port = 0, ...options }: DurableStreamsOptions & { readonly port?: number }): Promise<Served> {
  const streams = await durableStreams(options)
  const server = createServer(nodeListener(streams.handler))
  await new Promise<void>((resolve) => {
    server.listen(port, '127.0.0.1', resolve)
  })
  const close = async (): Promise<void> => {
    const closed = new Promise((resolve) => {
      server.close(resolve)
    })
    await streams.close()
    server.closeAllConnections()
    await closed
  }
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    streams,
    server,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** What a request has beside its method and its path. */
export interface Asked {
  readonly headers?: Record<string, string>
  readonly body?: string | Uint8Array
}

/** Asks a handler, without a network. A body is JSON unless the headers say otherwise. */
export async function ask(streams: Pick<DurableStreams, 'handler'>, what: string, { headers = {}, body }: Asked = {}): Promise<Response> {
  const [method, path] = what.split(' ') as [string, string]
  const type = body === undefined && method !== 'PUT' ? {} : { 'content-type': 'application/json' }
  const given = { ...type, ...Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])) }
  return await streams.handler(new Request(`http://localhost${path}`, { method, headers: given, body: body ?? null }))
}

/** The offset after everything that an answer tells of. */
export function offsetIn({ headers }: Response): string {
  const offset = headers.get('stream-next-offset')
  if (offset === null) throw new Error('The answer has no Stream-Next-Offset')
  return offset
}
