import { join } from 'node:path'

import {
  betterSqlite3Driver, makeDurable, nodeSqliteDriver, type SqliteDriver, transact,
} from '../contestants/sqlite-drivers.ts'
import type { StateKeeper } from './state-keeper.ts'

export async function betterSqlite3Rows(): Promise<StateKeeper> {
  return sqliteRows(await betterSqlite3Driver())
}

export async function nodeSqliteRows(): Promise<StateKeeper> {
  return sqliteRows(await nodeSqliteDriver())
}

/** One row per key, and one UPDATE per change. */
function sqliteRows({ name, version, Database }: SqliteDriver): StateKeeper {
  return {
    name: `${name}, UPDATE of a row`,
    version,
    promise: 'one transaction each, `journal_mode=WAL`, `synchronous=FULL`',
    blocksEventLoop: true,
    notes: [],
    async open(directory, entries) {
      const database = new Database(join(directory, 'state.db'))
      makeDurable(database)
      database.exec('CREATE TABLE entries (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID')
      const insert = database.prepare('INSERT INTO entries (key, value) VALUES (?, ?)')
      transact(database, () => {
        for (const [key, value] of Object.entries(entries)) insert.run(key, value)
      })
      const update = database.prepare('UPDATE entries SET value = ? WHERE key = ?')
      return {
        set(key, value) {
          update.run(value, key)
          return undefined
        },
        close: async () => database.close(),
      }
    },
  }
}
