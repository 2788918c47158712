import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createContext, runInContext } from 'node:vm'

import { describe, expect, test } from 'vitest'

import { MiniStore } from '../src/index.ts'
import { MiniQueue } from '../src/miniqueue/index.ts'
import { SnapStore } from '../src/minisnap/index.ts'
import { StateManager, StateView } from '../src/ministate/index.ts'
import { temporaryDirectory } from './support/temporary-directory.ts'

const counter = { initialState: () => 0, mutator: (sum: number, by: number) => sum + by }

/** Writes something at a path, closes it, and resolves with the absolute path that was used. */
type Use = (path: string | URL) => Promise<unknown>

async function writeRecord(path: string | URL): Promise<string> {
  await using store = await MiniStore.open(path)
  await store.append('a')
  return store.path
}

/** Every function of the package that takes a path or a directory. Each resolves with what it used or found. */
const places: ReadonlyArray<{ readonly name: string; readonly use: Use; readonly gives: (path: string) => unknown }> = [
  { name: 'MiniStore.open', use: writeRecord, gives: (path) => path },
  { name: 'MiniStore.stream', use: async (path) => (await MiniStore.stream(path).getReader().read()).value, gives: () => 'a' },
  {
    name: 'MiniStore.entries',
    use: async (path) => (await MiniStore.entries(path).getReader().read()).value,
    gives: () => ({ sequence: 1, record: 'a' }),
  },
  { name: 'MiniStore.replay', use: (path) => MiniStore.replay(path), gives: () => ['a'] },
  {
    name: 'MiniStore.read',
    use: async (path) => {
      await using reader = await MiniStore.read(path)
      return [reader.path, reader.lastSequence]
    },
    gives: (path) => [path, 1],
  },
  { name: 'SnapStore', use: async (directory) => new SnapStore(directory).directory, gives: (path) => path },
  {
    name: 'StateManager.open',
    use: async (directory) => {
      await using manager = await StateManager.open(directory, counter)
      await manager.apply(1)
      return (await manager.createSnapshot()).path
    },
    gives: (path) => join(path, 'snapshot-1.json'),
  },
  {
    name: 'StateView.open',
    use: async (source) => {
      await using view = await StateView.open(source, { initialState: () => '', mutator: (_, record: string) => record })
      return view.state
    },
    gives: () => 'a',
  },
  {
    name: 'the snapshots of StateView.open',
    use: async (directory) => {
      await using journal = await MiniStore.open<number>(join(await temporaryDirectory(), 'journal.jsonl'))
      await journal.append(1)
      await (await StateView.open(journal, { ...counter, snapshots: { directory } })).close()
      return (await new SnapStore(directory).list()).map(({ path }) => path)
    },
    gives: (path) => [join(path, 'snapshot-1.json')],
  },
  {
    name: 'MiniQueue.open',
    use: async (directory) => {
      await using queue = await MiniQueue.open(directory)
      await queue.enqueue('a')
      return queue.directory
    },
    gives: (path) => path,
  },
]
const readers = new Set(['MiniStore.stream', 'MiniStore.entries', 'MiniStore.replay', 'MiniStore.read', 'StateView.open'])

/** URLs as another realm has them: no class of this realm. */
const foreignUrl = (href: string): URL =>
  runInContext(`({ href: ${JSON.stringify(href)}, protocol: ${JSON.stringify(new URL(href).protocol)} })`, createContext({})) as URL

describe.each(places)('$name', ({ name, use, gives }) => {
  test.each([
    ['of this realm', (url: URL) => url],
    ['of another realm', ({ href }: URL) => foreignUrl(href)],
  ])('takes a `file:` URL %s', async (_, made) => {
    const path = join(await temporaryDirectory(), 'with space, # and ä')
    if (readers.has(name)) await writeRecord(path)
    expect(await use(made(pathToFileURL(path)))).toEqual(gives(path))
  })

  const subject = name === 'StateView.open' ? 'source' : name.startsWith('MiniStore') ? 'path' : 'directory'

  test.each([
    ['another protocol', 'https://example.com/a', /: .*scheme file$/],
    ['a host', 'file://server/a', /: .*host/],
    ['an encoded slash', 'file:///a%2Fb', /: .*encoded/],
    ['bytes that are no UTF-8', 'file:///a%FF', /: URI malformed$/],
    ['NUL', 'file:///a%00', /: its path includes NUL$/],
    ['a query', 'file:///a?b', /: it has a query or a fragment; write \? as %3F and # as %23$/],
    ['a fragment', 'file:///a#1', /: it has a query or a fragment; write \? as %3F and # as %23$/],
  ])('refuses a URL with %s', async (_, href, reason) => {
    for (const url of [new URL(href), foreignUrl(href)]) {
      const error: unknown = await Promise.resolve(url).then(use).catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(TypeError)
      const { message } = error as TypeError
      expect(message).toContain(`Expected \`${subject}\` to be a path or a \`file:\` URL, got the URL ${href}: `)
      expect(message).toMatch(reason)
    }
  })
})
