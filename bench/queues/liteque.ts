import { join } from 'node:path'
import { setImmediate as turnOfTheLoop } from 'node:timers/promises'

import { betterSqlite3Driver } from '../contestants/sqlite-drivers.ts'
import { loadPackage } from '../packages.ts'
import { type OpenQueue, type QueueContestant, width, type Worker } from './queue.ts'

/** The part of liteque that the bench uses. */
interface LitequeExports {
  readonly buildDBClient: (path: string, options: { readonly runMigrations: boolean }) => Client
  readonly SqliteQueue: new (name: string, client: Client, options: object) => Queue
  readonly Runner: new (
    queue: Queue,
    functions: { readonly run: (job: { readonly data: unknown }) => Promise<void> },
    options: { readonly pollIntervalMs: number; readonly timeoutSecs: number; readonly concurrency: number },
  ) => { run(): Promise<void>; runUntilEmpty(): Promise<void>; stop(): void }
}

/** liteque's database, as drizzle provides it. */
interface Client {
  transaction: (action: (client: Client) => Promise<unknown>) => Promise<unknown>
  run(query: object): unknown
  readonly session: { readonly client: { close(): void } }
}

interface DrizzleExports {
  readonly sql: { raw(text: string): object }
}

interface Queue {
  enqueue(payload: unknown): Promise<unknown>
  attemptDequeue(options: { readonly timeoutSecs: number }): Promise<Job | null>
  finalize(id: number, allocationId: string, status: 'completed'): Promise<void>
  stats(): Promise<Readonly<Record<'pending' | 'pending_retry' | 'running' | 'failed', number>>>
}

interface Job {
  readonly id: number
  readonly allocationId: string
  readonly payload: string
}

const pollIntervalMs = 1
/**
 * Each job keeps a timer for this long, even after the job is done. The process cannot end before
 * the last timer has fired.
 */
const timeoutSecs = 5

/** liteque on better-sqlite3. */
export async function liteque(): Promise<QueueContestant> {
  // liteque imports better-sqlite3. If better-sqlite3 cannot be loaded, loading it here first
  // reports that reason.
  await betterSqlite3Driver()
  const { exports, version } = await loadPackage<LitequeExports>('liteque')
  const { exports: drizzle } = await loadPackage<DrizzleExports>('drizzle-orm')
  const without = 'it dequeues in no transaction: better-sqlite3 12 refuses its asynchronous ones'
  return {
    name: 'liteque',
    version,
    promise: `one statement each, \`synchronous=FULL\` (it sets NORMAL itself); ${without}`,
    blocksEventLoop: true,
    waking: `looks every ${pollIntervalMs} ms`,
    ways: [`liteque, Runner concurrency=${width}`],
    async open(directory) {
      const client = exports.buildDBClient(join(directory, 'jobs.db'), { runMigrations: true })
      // better-sqlite3 before version 12 committed such a transaction before its first query ran,
      // which has the same effect as no transaction.
      client.transaction = (action) => action(client)
      const set = (setting: string): unknown => client.run(drizzle.sql.raw(`PRAGMA ${setting}`))
      set('synchronous = FULL')
      return openQueue(exports, client, set)
    },
  }
}

function openQueue(
  { SqliteQueue, Runner }: LitequeExports,
  client: Client,
  set: (setting: string) => unknown,
): OpenQueue {
  const queue = new SqliteQueue('jobs', client, { defaultJobArgs: { numRetries: 5 }, keepFailedJobs: true })
  const runnerOf = (run: (job: { readonly data: unknown }) => Promise<void>, concurrency: number) =>
    new Runner(queue, { run }, { pollIntervalMs, timeoutSecs, concurrency })
  return {
    enqueue: (payload) => queue.enqueue(payload),
    async fill(payloads) {
      set('synchronous = OFF')
      for (const payload of payloads) await queue.enqueue(payload)
      set('synchronous = FULL')
      set('wal_checkpoint(TRUNCATE)')
    },
    async drain(messages) {
      for (let taken = 0; taken < messages; taken++) {
        const { id, allocationId, payload } = (await queue.attemptDequeue({ timeoutSecs })) as Job
        JSON.parse(payload)
        await queue.finalize(id, allocationId, 'completed')
        await turnOfTheLoop()
      }
    },
    drainBy: () => runnerOf(async () => {}, width).runUntilEmpty(),
    work(handler): Worker {
      const runner = runnerOf(async ({ data }) => handler(data), 1)
      const ended = runner.run()
      return {
        async stop() {
          runner.stop()
          await ended
        },
      }
    },
    async countLeft() {
      const { pending, pending_retry: retried, running, failed } = await queue.stats()
      return pending + retried + running + failed
    },
    close: async () => client.session.client.close(),
  }
}
