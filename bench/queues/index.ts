import type { Loaders } from '../contestants/index.ts'
import { liteque } from './liteque.ts'
import { miniqueue } from './miniqueue.ts'
import { plainjob } from './plainjob.ts'
import type { QueueContestant } from './queue.ts'
import { betterSqlite3Table, nodeSqliteTable } from './sqlite-table.ts'

/** Loaders of all queues, the library's first. */
export const queues: Loaders<QueueContestant> = {
  miniqueue,
  'better-sqlite3': betterSqlite3Table,
  'node:sqlite': nodeSqliteTable,
  plainjob,
  liteque,
}
