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
  const queue = await MiniQueue.open<Event>('queue')
  await queue.process(async (job, message) => console.log(job.count, message.id), { concurrency: 2 })
  await new SnapStore<Event>('snapshots').create({ type: 'Counted', count: 1 }, 1)
  // @ts-expect-error A record of another type is refused.
  await store.append({ type: 1 })
}
`
