import { join } from 'node:path'
import { setImmediate as turnOfTheLoop } from 'node:timers/promises'

import { betterSqlite3Driver, type Database } from '../contestants/sqlite-drivers.ts'
import { deferred } from '../deferred.ts'
import { loadPackage } from '../packages.ts'
import type { OpenQueue, QueueContestant, Worker } from './queue.ts'

/** The part of plainjob that the bench uses. */
interface PlainjobExports {
  readonly better: (database: Database) => object
  readonly defineQueue: (options: { readonly connection: object; readonly logger: object }) => Queue
  readonly defineWorker: (
    type: string,
    processor: (job: Job) => void,
    options: { readonly queue: Queue; readonly pollIntervall: number; readonly logger: object },
  ) => { start(): Promise<void>; stop(): Promise<void> }
  readonly JobStatus: { readonly Pending: number; readonly Processing: number }
}

interface Queue {
  add(type: string, data: unknown): unknown
  addMany(type: string, data: readonly unknown[]): unknown
  getAndMarkJobAsProcessing(type: string): { readonly id: number } | undefined
  getJobById(id: number): Job | undefined
  markJobAsDone(id: number): void
  countJobs(options: { readonly status: number }): number
  close(): void
}

interface Job {
  readonly data: string
}

const type = 'job'
const pollMs = 1
const way = 'plainjob, worker'

function ignore(): void {}

const silent = { error: ignore, warn: ignore, info: ignore, debug: ignore }

/** plainjob on better-sqlite3. */
export async function plainjob(): Promise<QueueContestant> {
  const { Database } = await betterSqlite3Driver()
  const { exports, version } = await loadPackage<PlainjobExports>('plainjob')
  return {
    name: 'plainjob',
    version,
    promise:
      'one transaction each, `synchronous=FULL` (it sets NORMAL itself); counts no attempts, keeps done jobs',
    blocksEventLoop: true,
    waking: `looks every ${pollMs} ms (its default: 1 s)`,
    ways: [way],
    async open(directory) {
      const database = new Database(join(directory, 'jobs.db'))
      const queue = exports.defineQueue({ connection: exports.better(database), logger: silent })
      database.exec('PRAGMA synchronous = FULL')
      return openQueue(exports, queue, database)
    },
  }
}

function openQueue(
  { defineWorker, JobStatus }: PlainjobExports,
  queue: Queue,
  database: Database,
): OpenQueue {
  const work = (handler: (payload: unknown) => void): Worker => {
    const options = { queue, pollIntervall: pollMs, logger: silent }
    const worker = defineWorker(type, ({ data }) => handler(JSON.parse(data)), options)
    const run = worker.start()
    return {
      async stop() {
        await worker.stop()
        await run
      },
    }
  }
  return {
    enqueue(payload) {
      queue.add(type, payload)
      return undefined
    },
    async fill(payloads) {
      queue.addMany(type, payloads)
      database.exec('PRAGMA wal_checkpoint(TRUNCATE)')
    },
    async drain(messages) {
      for (let taken = 0; taken < messages; taken++) {
        const { id } = queue.getAndMarkJobAsProcessing(type) as { readonly id: number }
        JSON.parse((queue.getJobById(id) as Job).data)
        queue.markJobAsDone(id)
        await turnOfTheLoop()
      }
    },
    drainBy: (_way, messages) => drainByWorker(work, messages),
    work,
    countLeft() {
      const { Pending, Processing } = JobStatus
      return queue.countJobs({ status: Pending }) + queue.countJobs({ status: Processing })
    },
    close: async () => queue.close(),
  }
}

async function drainByWorker(work: OpenQueue['work'], messages: number): Promise<void> {
  let taken = 0
  const all = deferred()
  const worker = work(() => {
    if (++taken === messages) all.resolve()
  })
  await all.promise
  await worker.stop()
}
