import { firstLine, loadPackage, NotInstalledError } from '../packages.ts'
import type { Contestant } from './contestant.ts'

/** What better-sqlite3 and node:sqlite have in common. */
interface Database {
  exec(sql: string): unknown
  prepare(sql: string): {
    run(...values: string[]): unknown
    iterate(): Iterable<{ readonly record: string }>
  }
  close(): void
}

type DatabaseConstructor = new (path: string) => Database

export async function betterSqlite3(): Promise<Contestant> {
  const loaded = await loadPackage<{ readonly default: DatabaseConstructor }>('better-sqlite3')
  const Database = loaded.exports.default
  try {
    // Its compiled part is loaded by the first database, not by the import.
    new Database(':memory:').close()
  } catch (error) {
    throw new NotInstalledError(`not installed: ${firstLine(error)}`, { cause: error })
  }
  return sqlite({ name: 'better-sqlite3', version: loaded.version, Database })
}

export async function nodeSqlite(): Promise<Contestant> {
  // Not to be resolved when this is compiled: older versions of Node do not have it.
  const name = 'node:sqlite'
  try {
    const { DatabaseSync } = (await import(name)) as { readonly DatabaseSync: DatabaseConstructor }
    return sqlite({ name, version: process.version, Database: DatabaseSync })
  } catch (error) {
    throw new NotInstalledError(`not in Node ${process.version}: ${firstLine(error)}`, { cause: error })
  }
}

function sqlite(about: {
  readonly name: string
  readonly version: string
  readonly Database: DatabaseConstructor
}): Contestant {
  const { name, version, Database } = about
  return {
    name,
    version,
    promise: 'one transaction each, `journal_mode=WAL`, `synchronous=FULL`',
    blocksEventLoop: true,
    sharing: undefined,
    async open(path) {
      const database = openDatabase(Database, path, 'FULL')
      const write = writerOf(database)
      return { append: write.one, appendAll: write.all, close: async () => database.close() }
    },
    async fill(path, batches) {
      const database = openDatabase(Database, path, 'OFF')
      const write = writerOf(database)
      for (const batch of batches) write.all(batch)
      database.close()
    },
    replays: [
      {
        name: `${name}, iterate() + JSON.parse`,
        notes: [],
        blocksEventLoop: true,
        async run(path) {
          const database = new Database(path)
          const select = database.prepare('SELECT record FROM records ORDER BY sequence')
          let records = 0
          for (const { record } of select.iterate()) if (JSON.parse(record) !== undefined) records++
          database.close()
          return records
        },
      },
    ],
  }
}

function openDatabase(Database: DatabaseConstructor, path: string, synchronous: 'FULL' | 'OFF'): Database {
  const database = new Database(path)
  database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${synchronous}`)
  database.exec('CREATE TABLE IF NOT EXISTS records (sequence INTEGER PRIMARY KEY, record TEXT NOT NULL)')
  return database
}

function writerOf(database: Database): {
  readonly one: (record: unknown) => undefined
  readonly all: (records: readonly unknown[]) => undefined
} {
  const insert = database.prepare('INSERT INTO records (record) VALUES (?)')
  const begin = database.prepare('BEGIN IMMEDIATE')
  const commit = database.prepare('COMMIT')
  return {
    one(record) {
      insert.run(JSON.stringify(record))
    },
    all(records) {
      begin.run()
      for (const record of records) insert.run(JSON.stringify(record))
      commit.run()
    },
  }
}
