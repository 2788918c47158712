import { readFileSync } from 'node:fs'

import { groupCommit, MiniStore } from '../library.ts'
import type { Appendable, Contestant, Replay } from './contestant.ts'

/** The library, with default options. */
export async function ministore(): Promise<Contestant> {
  return {
    name: 'ministore',
    version: ownVersion(),
    promise: 'in a JSON Lines file: one `fdatasync` each, in call order',
    blocksEventLoop: false,
    sharing: undefined,
    async open(path) {
      const store = await MiniStore.open(path)
      return {
        append: (record) => store.append(record),
        appendAll: (records) => store.appendAll(records),
        close: () => store.close(),
      }
    },
    async fill(path, batches) {
      await using store = await MiniStore.open(path)
      for (const batch of batches) await store.appendAll(batch)
    },
    replays,
  }
}

/** The library with preallocation, otherwise with default options. */
export async function ministorePreallocating(): Promise<Appendable> {
  return {
    name: 'ministore, preallocate',
    version: ownVersion(),
    promise: 'one `fdatasync` each, into bytes written ahead, in call order',
    blocksEventLoop: false,
    sharing: undefined,
    async open(path) {
      const store = await MiniStore.open(path, { preallocate: true })
      return {
        append: (record) => store.append(record),
        appendAll: (records) => store.appendAll(records),
        close: () => store.close(),
      }
    },
  }
}

/** The library with one group for all callers, with default options. */
export async function ministoreGroup(): Promise<Appendable> {
  return {
    name: 'ministore, groupCommit',
    version: ownVersion(),
    promise: 'concurrent appends share a `fdatasync`, in call order',
    blocksEventLoop: false,
    sharing: 'groups concurrent appends',
    async open(path) {
      const store = await MiniStore.open(path)
      const group = groupCommit(store)
      return {
        append: (record) => group.append(record),
        appendAll: (records) => store.appendAll(records),
        async close() {
          await group.close()
          await store.close()
        },
      }
    },
  }
}

const replays: readonly Replay[] = [
  {
    name: 'ministore, for await',
    notes: [],
    blocksEventLoop: false,
    async run(path) {
      let records = 0
      for await (const record of MiniStore.stream(path)) if (record !== undefined) records++
      return records
    },
  },
  {
    name: 'ministore, getReader()',
    notes: [],
    blocksEventLoop: false,
    async run(path) {
      let records = 0
      const reader = MiniStore.stream(path).getReader()
      for (let read = await reader.read(); !read.done; read = await reader.read()) records++
      return records
    },
  },
  {
    name: 'ministore, pipeThrough()',
    notes: ['TransformStream and WritableStream'],
    blocksEventLoop: false,
    async run(path) {
      let records = 0
      const transform = new TransformStream<unknown, unknown>()
      const counter = new WritableStream({ write: () => void records++ })
      await MiniStore.stream(path).pipeThrough(transform).pipeTo(counter)
      return records
    },
  },
  {
    name: 'ministore, entries()',
    notes: ['with sequence numbers'],
    blocksEventLoop: false,
    async run(path) {
      let records = 0
      for await (const { sequence } of MiniStore.entries(path)) records = sequence
      return records
    },
  },
  {
    name: 'ministore, replay()',
    notes: ['all in one array'],
    blocksEventLoop: false,
    run: async (path) => (await MiniStore.replay(path)).length,
  },
]

export function ownVersion(): string {
  const manifest = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(manifest) as { readonly version: string }).version
}
