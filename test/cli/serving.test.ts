import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ministore, ministoreProcess, outcomeOf, start, textUntil } from './run-command.ts'

test.each(['SIGINT', 'SIGTERM'] as const)('serve prints its address, serves streams, and ends with exit code 0 after %s', async (signal) => {
  const directory = join(await temporaryDirectory(), 'streams')
  const child = start(['serve', directory, '--port', '0', '--long-poll-ms', '60000'])
  const line = await textUntil(child.stdout, '\n')
  const [, url = ''] = /^Serving .* at (http:\/\/127\.0\.0\.1:\d+\/)\n$/.exec(line) ?? []
  const headers = { 'content-type': 'application/json' }
  expect((await fetch(`${url}orders`, { method: 'PUT', headers, body: '[{"n":1}]' })).status).toBe(201)
  expect((await fetch(`${url}orders`, { headers: { origin: 'https://example.com' } })).status).toBe(403)
  expect(await (await fetch(`${url}orders`)).json()).toEqual([{ n: 1 }])
  const waiting = fetch(`${url}orders?offset=now&live=long-poll`)
  // It waits once a later request was answered.
  await fetch(`${url}orders`, { method: 'HEAD' })
  child.kill(signal)
  expect((await waiting).status).toBe(204)
  expect(await outcomeOf(child)).toMatchObject({ code: 0, stderr: '' })
  expect(await readdir(directory)).toContain('+orders')
})

test('serve --json prints its address for programs', async () => {
  const child = start(['serve', await temporaryDirectory(), '--port', '0', '--json'])
  expect(JSON.parse(await textUntil(child.stdout, '\n'))).toMatchObject({ url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+\/$/) as string })
  child.kill('SIGTERM')
  await once(child, 'exit')
})

test('serve refuses a port that is taken, a directory in use, and options that are none', async () => {
  const directory = await temporaryDirectory()
  const taken = createServer()
  await new Promise<void>((resolve) => {
    taken.listen(0, '127.0.0.1', resolve)
  })
  const { port } = taken.address() as AddressInfo
  expect(await ministoreProcess(['serve', directory, '--port', String(port)])).toMatchObject({ code: 1, stderr: expect.stringContaining('EADDRINUSE') as string })
  taken.close()
  const child = start(['serve', directory, '--port', '0'])
  await textUntil(child.stdout, '\n')
  expect(await ministoreProcess(['serve', directory, '--port', '0'])).toMatchObject({ code: 1, stderr: expect.stringContaining('is already open') as string })
  child.kill('SIGKILL')
  expect(await ministore(['serve', directory, '--port', '70000'])).toMatchObject({ code: 2 })
  expect(await ministore(['serve', directory, '--allow-origin', 'example.com'])).toMatchObject({
    code: 2, stderr: expect.stringContaining('Expected `allowOrigin` to be `*` or an origin') as string,
  })
})
