import { NotInstalledError } from '../packages.ts'
import { classicLevel } from './classic-level.ts'
import type { Appendable, Readable } from './contestant.ts'
import { naiveHandle, readline, split2, synchronousLoop } from './json-lines.ts'
import { lmdb } from './lmdb.ts'
import { ministore, ministoreGroup, ministorePreallocating } from './ministore.ts'
import { betterSqlite3, betterSqlite3Warm, nodeSqlite, nodeSqliteWarm } from './sqlite.ts'

export type Loaders<Item> = Readonly<Record<string, () => Promise<Item>>>

/** Loaders of all stores that append, the library first. */
export const appendables: Loaders<Appendable> = {
  ministore,
  'better-sqlite3': betterSqlite3,
  'node:sqlite': nodeSqlite,
  'classic-level': classicLevel,
  lmdb,
  'fs.promises': naiveHandle,
  'writeSync loop': synchronousLoop,
}

/** Loaders of all ways to append one record: the stores, and the library with options. */
export const appenders: Loaders<Appendable> = {
  ministore,
  'ministore preallocate': ministorePreallocating,
  'ministore group': ministoreGroup,
  ...appendables,
  'better-sqlite3, warm WAL': betterSqlite3Warm,
  'node:sqlite, warm WAL': nodeSqliteWarm,
}

/** Loaders of all stores and readers to replay, the library first. */
export const readables: Loaders<Readable> = {
  ministore,
  readline,
  split2,
  'better-sqlite3': betterSqlite3,
  'node:sqlite': nodeSqlite,
  'classic-level': classicLevel,
  lmdb,
}

/** The contestants that were loaded, and the reasons why others were not. */
export interface Loaded<Item> {
  readonly loaded: readonly Item[]
  readonly missing: ReadonlyArray<{ readonly name: string; readonly reason: string }>
}

/**
 * Loads contestants. Those that throw `NotInstalledError` are listed in `missing`; other errors
 * reject.
 */
export async function loadAll<Item>(loaders: Loaders<Item>): Promise<Loaded<Item>> {
  const loaded: Item[] = []
  const missing: Array<{ readonly name: string; readonly reason: string }> = []
  for (const [name, load] of Object.entries(loaders)) {
    try {
      loaded.push(await load())
    } catch (error) {
      if (!(error instanceof NotInstalledError)) throw error
      missing.push({ name, reason: error.message })
    }
  }
  return { loaded, missing }
}
