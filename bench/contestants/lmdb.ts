import { loadPackage } from '../packages.ts'
import type { Contestant } from './contestant.ts'

/** The part of an lmdb database that the bench uses. */
interface Lmdb {
  put(key: number, value: unknown): Promise<boolean>
  batch(action: () => void): Promise<boolean>
  getKeys(options: { readonly reverse: boolean; readonly limit: number }): Iterable<number>
  getRange(): Iterable<{ readonly value: unknown }>
  close(): Promise<void>
}

interface LmdbOptions {
  readonly path: string
  readonly overlappingSync: boolean
  readonly noSync: boolean
}

interface LmdbExports {
  readonly open: (options: LmdbOptions) => Lmdb
}

/** LMDB, with the sequence number as the key and with its default encoding, MessagePack. */
export async function lmdb(): Promise<Contestant> {
  const name = 'lmdb'
  const { exports, version } = await loadPackage<LmdbExports>(name)
  // By default a put resolves on commit, and the sync follows later. With `overlappingSync: false`
  // the sync is part of the commit.
  const openLmdb = (path: string, isSynced: boolean): Lmdb =>
    exports.open({ path, overlappingSync: false, noSync: !isSynced })
  return {
    name,
    version,
    promise: 'awaited `put`, `overlappingSync: false`; concurrent appends share a sync',
    blocksEventLoop: false,
    sharing: 'groups concurrent appends',
    async open(path) {
      const database = openLmdb(path, true)
      const next = keysOf(database)
      return {
        append: (record) => database.put(next(), record),
        appendAll: (records) => putAll(database, records, next),
        close: () => database.close(),
      }
    },
    async fill(path, batches) {
      const database = openLmdb(path, false)
      const next = keysOf(database)
      for (const batch of batches) await putAll(database, batch, next)
      await database.close()
    },
    replays: [
      {
        name: `${name}, getRange()`,
        notes: ['MessagePack instead of JSON'],
        blocksEventLoop: true,
        async run(path) {
          const database = openLmdb(path, true)
          let records = 0
          for (const { value } of database.getRange()) if (value !== undefined) records++
          await database.close()
          return records
        },
      },
    ],
  }
}

function keysOf(database: Lmdb): () => number {
  const [last = 0] = database.getKeys({ reverse: true, limit: 1 })
  let sequence = last
  return () => ++sequence
}

function putAll(database: Lmdb, records: readonly unknown[], next: () => number): Promise<boolean> {
  return database.batch(() => {
    // The promise of the batch covers all its puts.
    for (const record of records) void database.put(next(), record)
  })
}
