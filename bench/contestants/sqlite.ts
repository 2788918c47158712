import type { Appendable, Contestant, Log } from './contestant.ts'
import { betterSqlite3Driver, type Database, nodeSqliteDriver, type SqliteDriver } from './sqlite-drivers.ts'

export async function betterSqlite3(): Promise<Contestant> {
  return sqlite(await betterSqlite3Driver())
}

export async function nodeSqlite(): Promise<Contestant> {
  return sqlite(await nodeSqliteDriver())
}

/** SQLite whose write-ahead log was written before: a commit overwrites bytes that exist. */
export async function betterSqlite3Warm(): Promise<Appendable> {
  return warm(await betterSqlite3Driver())
}

export async function nodeSqliteWarm(): Promise<Appendable> {
  return warm(await nodeSqliteDriver())
}

function warm(driver: SqliteDriver): Appendable {
  const { name, promise, ...rest } = sqlite(driver)
  return {
    ...rest,
    name: `${name}, warm WAL`,
    promise: `${promise}, a log of ${warmPages} pages used again`,
    async open(path) {
      const database = openDatabase(driver, path, 'OFF')
      const write = writerOf(database)
      for (let page = 0; page < warmPages; page++) write.one(null)
      database.exec(`PRAGMA wal_checkpoint(RESTART); PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = ${warmPages}`)
      return logOf(database)
    },
  }
}

/** Pages of 4 KiB that the log of a warm database has, and after which it begins anew. SQLite's default. */
const warmPages = 1000

function sqlite(driver: SqliteDriver): Contestant {
  const { name, version, Database } = driver
  return {
    name,
    version,
    promise: 'one transaction each, `journal_mode=WAL`, `synchronous=FULL`',
    blocksEventLoop: true,
    sharing: undefined,
    async open(path) {
      const database = openDatabase(driver, path, 'FULL')
      // With checkpoints the log would be used again after 1,000 pages: see `warm`.
      database.exec('PRAGMA wal_autocheckpoint = 0')
      return logOf(database)
    },
    async fill(path, batches) {
      const database = openDatabase(driver, path, 'OFF')
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
          const rows = select.iterate() as Iterable<{ readonly record: string }>
          for (const { record } of rows) if (JSON.parse(record) !== undefined) records++
          database.close()
          return records
        },
      },
    ],
  }
}

function openDatabase({ Database }: SqliteDriver, path: string, synchronous: 'FULL' | 'OFF'): Database {
  const database = new Database(path)
  database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${synchronous}`)
  database.exec('CREATE TABLE IF NOT EXISTS records (sequence INTEGER PRIMARY KEY, record TEXT NOT NULL)')
  return database
}

function logOf(database: Database): Log {
  const write = writerOf(database)
  return { append: write.one, appendAll: write.all, close: async () => database.close() }
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
