import { firstLine, loadPackage, NotInstalledError } from '../packages.ts'

/** A value of a row. */
export type SqliteValue = string | number

/** What better-sqlite3 and node:sqlite have in common, as far as it is used. */
export interface Database {
  exec(sql: string): unknown
  prepare(sql: string): Statement
  close(): void
}

export interface Statement {
  run(...values: SqliteValue[]): unknown
  get(...values: SqliteValue[]): unknown
  all(...values: SqliteValue[]): unknown[]
  iterate(...values: SqliteValue[]): Iterable<unknown>
}

/** One of the two. */
export interface SqliteDriver {
  readonly name: string
  readonly version: string
  readonly Database: new (path: string) => Database
}

/** @throws {NotInstalledError} when it is not installed, or its compiled part cannot be loaded. */
export async function betterSqlite3Driver(): Promise<SqliteDriver> {
  const name = 'better-sqlite3'
  const { exports, version } = await loadPackage<{ readonly default: SqliteDriver['Database'] }>(name)
  const Database = exports.default
  try {
    // Its compiled part is loaded by the first database, not by the import.
    new Database(':memory:').close()
  } catch (error) {
    throw new NotInstalledError(`not installed: ${firstLine(error)}`, { cause: error })
  }
  return { name, version, Database }
}

/** @throws {NotInstalledError} when this version of Node has none. */
export async function nodeSqliteDriver(): Promise<SqliteDriver> {
  // Not to be resolved when this is compiled: older versions of Node do not have it.
  const name = 'node:sqlite'
  try {
    const exports = (await import(name)) as { readonly DatabaseSync: SqliteDriver['Database'] }
    return { name, version: process.version, Database: exports.DatabaseSync }
  } catch (error) {
    throw new NotInstalledError(`not in Node ${process.version}: ${firstLine(error)}`, { cause: error })
  }
}

/** Runs an action in a transaction of its own. */
export function transact(database: Database, action: () => void): void {
  database.exec('BEGIN IMMEDIATE')
  action()
  database.exec('COMMIT')
}

/** From here on every transaction is on stable storage when it has ended. */
export function makeDurable(database: Database): void {
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
}
