import type { Loaders } from '../contestants/index.ts'
import { journalOnly, ministate } from './ministate.ts'
import { betterSqlite3Rows, nodeSqliteRows } from './sqlite-rows.ts'
import type { StateKeeper } from './state-keeper.ts'
import { lowdb, writeFileAtomic } from './whole-file.ts'

/** Loaders of all state keepers, the library's first. */
export const stateKeepers: Loaders<StateKeeper> = {
  ministate,
  'ministore alone': journalOnly,
  'better-sqlite3': betterSqlite3Rows,
  'node:sqlite': nodeSqliteRows,
  'write-file-atomic': writeFileAtomic,
  lowdb,
}
