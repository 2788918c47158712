import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

import { messageOf, propertyOf } from '../../errors.ts'
import { durableStreams, nodeListener } from '../../http/index.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { exitCodes, Interrupted, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { print } from '../render.ts'

/** The port that the protocol proposes. */
const defaultPort = 4437
const defaultHost = '127.0.0.1'

/** Milliseconds between two searches for streams whose time is over. */
const expiryMs = 3_600_000

export const serve: Command = {
  name: 'serve',
  summary: 'serves streams over HTTP, with the Durable Streams protocol',
  positionals: ['DIR'],
  options: {
    port: { value: 'N', short: 'p', help: `the port; 0 for any that is free (default: ${defaultPort})` },
    host: { value: 'HOST', help: `the address to listen on (default: ${defaultHost}, for this machine only)` },
    'long-poll-ms': { value: 'N', help: 'how long a long-poll waits for a message (default: 30000)' },
    'allow-origin': { value: 'ORIGIN', help: 'the web pages that may use the streams, or * for all (default: none)' },
    json: commonOptions.json,
  },
  details: [
    'Clients make streams below /, append to them, read and follow them. Each stream is a journal in a',
    'directory of its own in DIR, which is created if it does not exist, and locked. Prints its address,',
    'and runs until Ctrl-C. What it has confirmed is on the disk.',
    '',
    'There is no access control: whoever reaches the port may read, write and delete. To add one, mount',
    'the handler of @mini-ts/ministore/http in a program of your own.',
  ],
  examples: ['ministore serve streams', 'ministore serve streams --port 8080 --host 0.0.0.0'],
  changes: () => true,
  run: runServe,
}

async function runServe(args: Arguments, io: Io): Promise<number> {
  const [directory, host] = [args.positional(0), args.text('host') ?? defaultHost]
  const port = args.integer('port', { min: 0, max: 65_535 }) ?? defaultPort
  const longPollMs = args.integer('long-poll-ms', { max: 0x7fffffff })
  const options = { directory, longPollMs, allowOrigin: args.text('allow-origin') }
  await using streams = await durableStreams(options).catch((error: unknown) => {
    throw propertyOf(error, 'name') === 'TypeError' ? new UsageError(messageOf(error), { cause: error }) : error
  })
  const server = createServer(nodeListener(streams.handler))
  const closed = new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.once('close', resolve)
  })
  // Awaited below; a failure to listen comes earlier.
  closed.catch(() => {})
  await Promise.race([closed, new Promise<void>((resolve) => server.listen(port, host, resolve))])
  const { address, port: bound, family } = server.address() as AddressInfo
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${bound}/`
  await print({ url, directory }, { args, io }, () => [`Serving ${directory} at ${url}`])
  await io.stdout.flush()
  const expiry = setInterval(() => {
    streams.deleteExpired().catch((error: unknown) => process.emitWarning(error as Error))
  }, expiryMs)
  io.signal.addEventListener('abort', () => {
    server.close()
    streams.close().finally(() => server.closeAllConnections()).catch(() => {})
  })
  await closed
  clearInterval(expiry)
  await streams.close()
  // An interrupt is the normal end of serving.
  if (io.signal.reason instanceof Interrupted) throw new Interrupted(io.signal.reason.signal, exitCodes.ok)
  return exitCodes.ok
}
