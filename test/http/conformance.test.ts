import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { runConformanceTests } from '@durable-streams/server-conformance-tests'
import { afterAll, beforeAll, describe } from 'vitest'

import { serve, type Served } from './support.ts'

// The suite of the protocol's authors, whole. It skips subscriptions, which are an extension.
describe('the conformance suite of Durable Streams', () => {
  const target = { baseUrl: '', longPollTimeoutMs: 500 }
  let served: Served
  let directory: string

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'ministore-'))
    served = await serve({ directory, longPollMs: target.longPollTimeoutMs, allowOrigin: '*' })
    target.baseUrl = served.url
  })

  afterAll(async () => {
    await served.close()
    await rm(directory, { recursive: true })
  })

  runConformanceTests(target)
})
