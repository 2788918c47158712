import { PGlite } from '@electric-sql/pglite'
import { afterAll } from 'vitest'

import { createTables, type PostgresClient } from '../../src/postgres/index.ts'

/**
 * PostgreSQL in this process, shared by the tests of a file, with the tables. By default PGlite does not sync
 * its files (`-F`), and a journal refuses that.
 */
export async function openPGlite(): Promise<PGlite> {
  const database = new PGlite({ startParams: PGlite.defaultStartParams.filter((param) => param !== '-F') })
  await createTables(database)
  afterAll(() => database.close())
  return database
}

/** A client that passes every statement on, unless a step of the script has something else for it. */
export class ScriptedClient implements PostgresClient {
  readonly #client: PostgresClient
  /** What the next statements of a kind meet, in order: an error in place of it, or after it was done. */
  readonly script: Step[] = []
  /** The statements that came, by their kind. */
  readonly seen: string[] = []

  constructor(client: PostgresClient) {
    this.#client = client
  }

  async query(text: string, values: Array<string | null>): Promise<{ rows: unknown[]; notices?: readonly unknown[] }> {
    const kind = kindOf(text)
    this.seen.push(kind)
    const at = this.script.findIndex((step) => step.on === kind)
    const [step] = at === -1 ? [] : this.script.splice(at, 1)
    await step?.before?.()
    if (step?.instead !== undefined) throw step.instead
    const answer = await this.#client.query(text, values)
    await step?.after?.()
    if (step?.lost !== undefined) throw step.lost
    return step?.notice === undefined ? answer : { ...answer, notices: [step.notice] }
  }
}

export interface Step {
  /** The kind of statement that it waits for. */
  readonly on: 'append' | 'touch' | 'truncate' | 'adopt' | 'open' | 'snapshot' | 'page' | 'wrote' | 'row' | 'settings' | 'other'
  /** Runs before the statement. */
  readonly before?: () => Promise<void>
  /** The error that comes in place of the statement, which is not sent. */
  readonly instead?: Error
  /** Runs after the statement. */
  readonly after?: () => Promise<void>
  /** The error that comes in place of the answer, after the statement was done. */
  readonly lost?: Error
  /** A notice that comes with the answer. */
  readonly notice?: object
}

function kindOf(text: string): Step['on'] {
  const kinds: ReadonlyArray<readonly [string, Step['on']]> = [
    ['unnest(', 'append'], ['delete from "ministore".records', 'truncate'], ['insert into "ministore".snapshots', 'snapshot'],
    ['set id =', 'adopt'], ['on conflict (name)', 'open'], ['string_agg', 'page'], ['exists (', 'wrote'], ["'fsync'", 'settings'],
    ['set epoch = epoch', 'touch'], ['select id, epoch', 'row'],
  ]
  return kinds.find(([part]) => text.includes(part))?.[1] ?? 'other'
}

/** An error as a client gives it. */
export function serverError(code: string | undefined, message = `error ${code}`): Error {
  return Object.assign(new Error(message), code === undefined ? {} : { code })
}

let count = 0

/** A name that no other journal of this process has. */
export function newName(): string {
  return `journal ${process.pid}-${++count}`
}
