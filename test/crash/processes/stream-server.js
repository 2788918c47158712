// A server of streams that runs until it is killed. See ../http/kill.test.ts.
import { createServer } from 'node:http'

import { durableStreams, nodeListener } from '../../../dist/http/index.js'
import { fail, instructions, report } from './report.js'

const { directory } = await instructions()

try {
  const streams = await durableStreams({ directory, longPollMs: 2000, maxChunkBytes: 4096 })
  const server = createServer(nodeListener(streams.handler))
  server.listen(0, '127.0.0.1', () => report({ type: 'listening', port: server.address().port }))
} catch (error) {
  fail(error)
}
