import { firstLine, loadPackage, NotInstalledError } from '../packages.ts'

/** A value bound to a parameter of a statement. */
export type SqliteValue = string | number

/** The part that better-sqlite3 and node:sqlite have in common and that the bench uses. */
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

/** better-sqlite3 or node:sqlite. */
export interface SqliteDriver {
  readonly name: string
  readonly version: string
  readonly Database: new (path: string) => Database
}

/** @throws {NotInstalledError} if it is not installed or its native addon cannot be loaded. */
export async function betterSqlite3Driver(): Promise<SqliteDriver> {
  const name = 'better-sqlite3'
  const { exports, version } = await loadPackage<{ readonly default: SqliteDriver['Database'] }>(name)
  const Database = exports.default
  try {
    // The first database loads the native addon; the import does not.
    new Database(':memory:').close()
  } catch (error) {
    throw new NotInstalledError(`not installed: ${firstLine(error)}`, { cause: error })
  }
  return { name, version, Database }
}

/** @throws {NotInstalledError} if this version of Node lacks node:sqlite. */
export async function nodeSqliteDriver(): Promise<SqliteDriver> {
  // A variable keeps the compiler from resolving the import, which older versions of Node lack.
  const name = 'node:sqlite'
  try {
    const exports = (await import(name)) as { readonly DatabaseSync: SqliteDriver['Database'] }
    return { name, version: process.version, Database: exports.DatabaseSync }
  } catch (error) {
    throw new NotInstalledError(`not in Node ${process.version}: ${firstLine(error)}`, { cause: error })
  }
}

/** Runs an action in its own transaction. If the action throws, the transaction stays open. */
export function transact(database: Database, action: () => void): void {
  database.exec('BEGIN IMMEDIATE')
  action()
  database.exec('COMMIT')
}

/** From this call on, every transaction of the database is on stable storage when it ends. */
export function makeDurable(database: Database): void {
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
}
