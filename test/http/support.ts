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

export async function serve(options: DurableStreamsOptions): Promise<Served> {
  const streams = await durableStreams(options)
  const server = createServer(nodeListener(streams.handler))
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
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
