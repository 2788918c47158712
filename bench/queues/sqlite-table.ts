import { join } from 'node:path'
import { setImmediate as turnOfTheLoop } from 'node:timers/promises'

import {
  betterSqlite3Driver, type Database, makeDurable, nodeSqliteDriver, type SqliteDriver, type Statement,
  transact,
} from '../contestants/sqlite-drivers.ts'
import { deferred } from '../deferred.ts'
import { type OpenQueue, type QueueContestant, width, type Worker } from './queue.ts'

const leaseMs = 30_000

interface Job {
  readonly id: number
  readonly payload: string
}

export async function betterSqlite3Table(): Promise<QueueContestant> {
  return sqliteTable(await betterSqlite3Driver())
}

export async function nodeSqliteTable(): Promise<QueueContestant> {
  return sqliteTable(await nodeSqliteDriver())
}

/**
 * A handwritten queue: a table of jobs with leases and attempts, and one statement for each step.
 */
function sqliteTable({ name, version, Database }: SqliteDriver): QueueContestant {
  const title = `${name}, a table by hand`
  return {
    name: title,
    version,
    promise: 'one transaction each, `journal_mode=WAL`, `synchronous=FULL`',
    blocksEventLoop: true,
    waking: 'told at once, by hand',
    ways: [`${title}, ${width} at a time`],
    open: async (directory) => new Table(new Database(join(directory, 'jobs.db'))),
  }
}

class Table implements OpenQueue {
  readonly #database: Database
  readonly #insert: Statement
  readonly #claim: Statement
  readonly #remove: Statement
  readonly #count: Statement
  #added = deferred()

  constructor(database: Database) {
    makeDurable(database)
    database.exec(
      'CREATE TABLE jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL, ' +
        'attempts INTEGER NOT NULL, leased_until INTEGER NOT NULL)',
    )
    const ready = 'SELECT id FROM jobs WHERE leased_until < ? ORDER BY id LIMIT ?'
    const lease = `UPDATE jobs SET attempts = attempts + 1, leased_until = ? WHERE id IN (${ready})`
    this.#database = database
    this.#insert = database.prepare('INSERT INTO jobs (payload, attempts, leased_until) VALUES (?, 0, 0)')
    this.#claim = database.prepare(`${lease} RETURNING id, payload`)
    this.#remove = database.prepare('DELETE FROM jobs WHERE id = ?')
    this.#count = database.prepare('SELECT count(*) AS jobs FROM jobs')
  }

  enqueue(payload: unknown): undefined {
    this.#insert.run(JSON.stringify(payload))
    this.#added.resolve()
  }

  async fill(payloads: readonly unknown[]): Promise<void> {
    transact(this.#database, () => {
      for (const payload of payloads) this.#insert.run(JSON.stringify(payload))
    })
    this.#database.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  }

  drain(messages: number): Promise<void> {
    return this.#drain(messages, 1)
  }

  drainBy(_way: string, messages: number): Promise<void> {
    return this.#drain(messages, width)
  }

  work(handler: (payload: unknown) => void): Worker {
    const stop = new AbortController()
    const ended = this.#work(handler, stop.signal)
    const stopAndWait = async (): Promise<void> => {
      stop.abort()
      this.#added.resolve()
      await ended
    }
    return { stop: stopAndWait }
  }

  countLeft(): number {
    return (this.#count.get() as { readonly jobs: number }).jobs
  }

  async close(): Promise<void> {
    this.#database.close()
  }

  #take(most: number): Job[] {
    const now = Date.now()
    return this.#claim.all(now + leaseMs, now, most) as Job[]
  }

  async #drain(messages: number, most: number): Promise<void> {
    for (let taken = 0; taken < messages; ) {
      for (const { id, payload } of this.#take(Math.min(most, messages - taken))) {
        JSON.parse(payload)
        this.#remove.run(id)
        taken++
        await turnOfTheLoop()
      }
    }
  }

  async #work(handler: (payload: unknown) => void, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const [job] = this.#take(1)
      if (job === undefined) {
        this.#added = deferred()
        await this.#added.promise
      } else {
        handler(JSON.parse(job.payload))
        this.#remove.run(job.id)
        await turnOfTheLoop()
      }
    }
  }
}
