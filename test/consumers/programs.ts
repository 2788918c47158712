/** What a consumer does with the library. It is the same in every environment; only the import differs. */
const body = `
async function main() {
  const directory = await mkdtemp(join(tmpdir(), 'consumer-'))
  const path = join(directory, 'journal.jsonl')
  const store = await MiniStore.open(path)
  await store.append({ type: 'Started' })
  await store.appendAll([{ type: 'Stopped' }])
  const refused = await MiniStore.open(path).then(() => 'opened', (error) => error.code)
  const types = []
  for await (const record of store.stream({ signal: new AbortController().signal })) types.push(record.type)
  await store.close()
  const manager = await StateManager.open(join(directory, 'state'), {
    initialState: () => ({ count: 0 }),
    mutator: (state, by) => { state.count += by },
  })
  await manager.apply(2)
  await manager.createSnapshot()
  const { count } = manager.state
  await manager.close()
  const queue = await MiniQueue.open(join(directory, 'queue'))
  await queue.enqueue('job')
  const [message] = await queue.receive()
  await message.ack()
  await queue.close()
  await rm(directory, { recursive: true })
  return JSON.stringify({ types, refused, count, payload: message.payload })
}
`

/** What `main` resolves with. */
export const expected = JSON.stringify({
  types: ['Started', 'Stopped'],
  refused: 'ERR_MINISTORE_LOCKED',
  count: 2,
  payload: 'job',
})

const modules: ReadonlyArray<readonly [names: string, specifier: string]> = [
  ['MiniStore', '@mini-ts/ministore'],
  ['StateManager', '@mini-ts/ministore/ministate'],
  ['MiniQueue', '@mini-ts/ministore/miniqueue'],
  ['mkdtemp, rm', 'node:fs/promises'],
  ['tmpdir', 'node:os'],
  ['join', 'node:path'],
]

const printResult = `
main().then(console.log, (error) => {
  console.log(error.code, error.message)
  process.exitCode = 1
})
`

const imports = modules.map(([names, from]) => `import { ${names} } from '${from}'\n`).join('')
const requires = modules.map(([names, from]) => `const { ${names} } = require('${from}')\n`).join('')

/** An ES module that prints {@link expected}. */
export const esModule = imports + body + printResult

/** A CommonJS module that prints {@link expected}. */
export const commonJs = requires + body + printResult

/** A Jest test in an ES module. */
export const jestEsModule = `${imports}${body}
test('works', async () => expect(await main()).toBe(${JSON.stringify(expected)}))
`

/** A Jest test in an ES module that fakes the clock. */
export const jestFakeTimers = `import { jest } from '@jest/globals'
${imports}${body}
test('works', async () => {
  jest.useFakeTimers({ doNotFake: ['queueMicrotask', 'nextTick'] })
  expect(await main()).toBe(${JSON.stringify(expected)})
})
`

/** A Jest test in CommonJS that imports the library when it runs. */
export const jestCommonJs = `
test('works', async () => {
${modules.map(([names, from]) => `  const { ${names} } = await import('${from}')\n`).join('')}${body}
  expect(await main()).toBe(${JSON.stringify(expected)})
})
`

/** A Jest test in CommonJS that requires the library. */
export const jestRequire = `${requires}${body}
test('works', async () => expect(await main()).toBe(${JSON.stringify(expected)}))
`

/** A program in TypeScript that uses every entry point, and a mistake that must be reported. */
export const typeScript = `
import { pathToFileURL } from 'node:url'

import { type JournalStream, MiniStore, MiniStoreError } from '@mini-ts/ministore'
import { MiniQueue } from '@mini-ts/ministore/miniqueue'
import { SnapStore } from '@mini-ts/ministore/minisnap'
import { StateManager } from '@mini-ts/ministore/ministate'
import { SimulatedFileSystem } from '@mini-ts/ministore/testing'

interface Event {
  type: string
  count: number
}

export async function main(): Promise<void> {
  const store = await MiniStore.open<Event>('journal.jsonl', { fileSystem: new SimulatedFileSystem() })
  const sequence: number = await store.append({ type: 'Counted', count: 1 })
  const stream: JournalStream<Event> = store.stream({ signal: AbortSignal.timeout(1000) })
  for await (const { type, count } of stream) console.log(type.length, count.toFixed(), sequence)
  await store.stream().pipeTo(store.writable()).catch((error: unknown) => {
    if (error instanceof MiniStoreError) console.log(error.code)
  })
  const manager = await StateManager.open<{ count: number }, number>('state', {
    initialState: () => ({ count: 0 }),
    mutator: (state, by) => {
      state.count += by
    },
  })
  await manager.apply(manager.state.count)
  const queue = await MiniQueue.open<Event>(new URL('queue', pathToFileURL('/tmp/')))
  for await (const { type } of MiniStore.stream<Event>(pathToFileURL('journal.jsonl'))) console.log(type)
  await queue.process(async (job, message) => console.log(job.count, message.id), { concurrency: 2 })
  await new SnapStore<Event>('snapshots').create({ type: 'Counted', count: 1 }, 1)
  // @ts-expect-error A date would read back as a string.
  await MiniStore.open<{ at: Date }>('journal.jsonl')
  // @ts-expect-error A record of another type is refused.
  await store.append({ type: 1 })
}
`

/**
 * A program as users of Bun and Deno write it: TypeScript without a compiler, `await using`, a follower, a
 * rotation, a lock that is contended, a snapshot and a queue. It prints {@link expectedElsewhere}.
 */
export const runtimeProgram = `
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MiniStore } from '@mini-ts/ministore'
import { MiniQueue } from '@mini-ts/ministore/miniqueue'
import { StateManager } from '@mini-ts/ministore/ministate'

const directory = await mkdtemp(join(tmpdir(), 'consumer-'))

async function useJournal(path: string): Promise<unknown> {
  await using store = await MiniStore.open<{ n: number }>(path)
  const signal = AbortSignal.timeout(20_000)
  const followed = (async () => {
    const seen: number[] = []
    for await (const { n } of store.stream({ follow: true, signal })) {
      seen.push(n)
      if (n === 4) break
    }
    return seen
  })()
  await store.append({ n: 1 })
  await store.appendAll([{ n: 2 }, { n: 3 }])
  await store.rotate()
  await store.append({ n: 4 })
  const refused = await MiniStore.open(path).then(() => 'opened', (error: { code: string }) => error.code)
  return { followed: await followed, refused }
}

async function useState(path: string): Promise<unknown> {
  const options = { initialState: () => ({ sum: 0 }), mutator: (state: { sum: number }, by: number) => void (state.sum += by) }
  {
    await using counter = await StateManager.open(path, options)
    await counter.apply(2)
    await counter.createSnapshot()
    await counter.apply(3)
  }
  await using again = await StateManager.open(path, options)
  return again.state.sum
}

async function useQueue(path: string): Promise<unknown> {
  await using queue = await MiniQueue.open<string>(path)
  await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
  const done: string[] = []
  const stop = new AbortController()
  await queue.process(async (payload) => {
    done.push(payload)
    if (done.length === 2) stop.abort()
  }, { signal: stop.signal })
  return done
}

console.log(JSON.stringify({
  journal: await useJournal(join(directory, 'journal.jsonl')),
  sum: await useState(join(directory, 'state')),
  done: await useQueue(join(directory, 'queue')),
}))
await rm(directory, { recursive: true })
`

/** What {@link runtimeProgram} prints. */
export const expectedElsewhere = JSON.stringify({
  journal: { followed: [1, 2, 3, 4], refused: 'ERR_MINISTORE_LOCKED' },
  sum: 5,
  done: ['a', 'b'],
})
