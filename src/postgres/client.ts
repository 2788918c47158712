import { clearTimeout, setTimeout } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'

import PQueue from 'p-queue'

import { addInContext, ignoreOutcome } from '../async.ts'
import { isMiniStoreError, messageOf, MiniStoreError, propertyOf } from '../errors.ts'
import { isObject, shown } from '../options.ts'

/**
 * A client of a PostgreSQL server: `Pool` or `Client` of the package `pg`, PGlite, or an object of your
 * own with these methods.
 *
 * A client of your own must reject if the connection is lost before the server has reported that it is
 * ready for the next statement. Only then has it committed this one.
 */
export interface PostgresClient {
  /**
   * Runs one statement in its own transaction, with values for `$1`, `$2` …, each a text or null.
   * Resolves once it is committed.
   */
  query(text: string, values: Array<string | null>): Promise<PostgresAnswer>
  /**
   * Calls back for each notification of a channel. Resolves with a function that ends this, or with an
   * object that has one, named `unlisten`. Readers then notice new records at once if the writer's client
   * has this method too.
   *
   * @default only polling
   */
  listen?(channel: string, callback: () => void): PromiseLike<unknown>
}

/** What a client answers to a statement. */
export interface PostgresAnswer {
  /** The rows, as objects by the names of their columns. */
  rows: unknown[]
  /**
   * Notices that came with the statement. A warning that the wait for a synchronous standby was cancelled
   * is heeded. Those of a `Pool` and a `Client` are known without this.
   *
   * @default none
   */
  notices?: readonly unknown[]
}

/** A statement and its values. */
export interface Statement {
  readonly text: string
  readonly values: Array<string | null>
}

/** A row that was read. */
export type Row = Readonly<Record<string, unknown>>

/** How the outcome of a write is told from what the server answers. */
export interface WriteRules<T> {
  /** The result if this row of the write shows that it had its effect. */
  readonly done: (row: Row) => T | undefined
  /** The write that decides, if the write itself had no effect or its answer was lost. */
  readonly decide: Statement
  /**
   * The result if the row of the deciding write shows that an earlier attempt had its effect; undefined to
   * try again.
   *
   * @throws {MiniStoreError} if it shows that no attempt can have an effect any more.
   */
  readonly decided: (row: Row, wasLost: boolean) => Promise<T | undefined> | T | undefined
  /** Size of the values. @default small */
  readonly bytes?: number
  /** Whether the caller may simply repeat the call if its outcome is unknown. @default false */
  readonly isRepeatable?: boolean
}

/**
 * Asks a server until its answer is certain.
 *
 * **Invariant.** A write is reported as done only by an answer to a write that had to wait for the
 * disk, and for a synchronous standby if there is one. A `select` proves nothing: it also shows a commit
 * whose wait for the standby was cut off, and which a failover loses.
 */
export class Server {
  readonly #client: PostgresClient
  readonly #timeoutMs: number

  constructor(client: PostgresClient, timeoutMs: number) {
    this.#client = clientOf(client)
    this.#timeoutMs = timeoutMs
  }

  /**
   * Reads. Repeats the statement after a failure that a failover can explain.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO`.
   */
  async read(doing: string, statement: Statement): Promise<Row[]> {
    return await this.#repeat(doing, {}, async (remainingMs) => (await this.#ask(statement, remainingMs)).rows)
  }

  /**
   * Writes, and resolves with the result once it is certain that the write is durable.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if nothing was written, or if the write may be repeated;
   *   `…_OUTCOME_UNKNOWN` if it is not known; and what the rules throw.
   */
  async write<T>(doing: string, statement: Statement, { done, decide, decided, ...rest }: WriteRules<T>): Promise<T> {
    return await this.#repeat(doing, { ...rest, isWrite: true }, async (remainingMs, wasLost) => {
      const result = done(await this.#askToWrite(doing, statement, remainingMs))
      return result ?? (await decided(await this.#askToWrite(doing, decide, remainingMs), wasLost))
    })
  }

  /** Makes one attempt, and does not wait for the disk. Rejects as the client does. */
  async attempt(statement: Statement): Promise<void> {
    await this.#ask(statement, this.#timeoutMs / attempts)
  }

  /** Whether followers may wait for notifications. */
  get hasNotifications(): boolean {
    return this.#client.listen !== undefined
  }

  /** Calls back for each notification. Resolves with a function that ends this. Never rejects. */
  async listen(channel: string, callback: () => void): Promise<() => void> {
    try {
      const listening = await this.#client.listen?.(channel, callback)
      const end: unknown = typeof listening === 'function' ? listening : propertyOf(listening, 'unlisten')
      // A connection that is lost has nothing to end.
      return () => void (typeof end === 'function' && Promise.resolve().then(() => end.call(listening) as unknown).catch(() => {}))
    } catch {
      // The follower polls as well.
      return () => {}
    }
  }

  /** Tries a task until it has a result. The task may have had its effect, even if it fails. */
  async #repeat<T>(
    doing: string,
    { bytes = 0, isWrite = false, isRepeatable = !isWrite }: Pick<WriteRules<T>, 'bytes' | 'isRepeatable'> & { readonly isWrite?: boolean },
    task: (remainingMs: number, wasLost: boolean) => Promise<T | undefined>,
  ): Promise<T> {
    const deadline = performance.now() + this.#timeoutMs + bytes / bytesPerMs
    let wasLost = false
    let cause: unknown
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
      try {
        const limitMs = Math.max(this.#timeoutMs / attempts, 1) + bytes / bytesPerMs
        const result = await task(Math.min(limitMs, Math.max(deadline - performance.now(), 1)), wasLost)
        if (result !== undefined) return result
        // An earlier attempt had no effect, or a failover has lost it.
      } catch (error) {
        if (isMiniStoreError(error)) throw error
        if (!wasLost && isRefusal(error)) throw failure('ERR_MINISTORE_IO', doing, error)
        wasLost ||= !isConflict(error)
        cause = error
      }
      if (performance.now() + pauseMs >= deadline) {
        const isKnown = isRepeatable || !wasLost
        throw failure(isKnown ? 'ERR_MINISTORE_IO' : 'ERR_MINISTORE_OUTCOME_UNKNOWN', doing, cause, isWrite && wasLost)
      }
      await sleep(pauseMs)
    }
  }

  /** Resolves with the row of a write. */
  async #askToWrite(doing: string, statement: Statement, limitMs: number): Promise<Row> {
    const { rows, notices } = await this.#ask(statement, limitMs)
    if (notices.some(isCancelledWait)) {
      const error = new Error('The wait for a synchronous standby was cancelled, so a failover may lose the commit')
      throw failure('ERR_MINISTORE_OUTCOME_UNKNOWN', doing, error, true)
    }
    const [row = {}] = rows
    if (row['commit'] !== 'off') return row
    const message = 'Expected every session of the client to wait for its commits, got one with synchronous_commit = off'
    throw Object.assign(new Error(message), { code: '55000' })
  }

  /** Asks once. */
  async #ask(statement: Statement, limitMs: number): Promise<{ readonly rows: Row[]; readonly notices: readonly unknown[] }> {
    const client: unknown = this.#client
    if (!isPool(client)) return await limited(askClient(this.#client, statement), limitMs)
    const connecting = client.connect()
    let session: PooledSession
    try {
      session = await limited(connecting, limitMs)
    } catch (error) {
      connecting.then((late) => late.release(), () => {})
      throw error
    }
    // The pool listens to errors of idle connections only. The pending query rejects with the same error.
    session.on('error', ignore)
    let isUsable = false
    try {
      const answer = await limited(askSession(session, statement), limitMs)
      isUsable = true
      return answer
    } catch (error) {
      isUsable = stateOf(error) !== ''
      throw error
    } finally {
      session.removeListener('error', ignore)
      // A connection that does not answer would be lent out again.
      session.release(!isUsable)
    }
  }
}

const ignore = (): void => {}

/** Number of attempts for which there is time if none is answered. */
const attempts = 5
const firstPauseMs = 50
const longestPauseMs = 1000
/** A write gets a second more for each mebibyte. */
const bytesPerMs = (1024 * 1024) / 1000

/** A client that emits notices: `Client` of the package `pg`, alone or from a pool. */
interface Session extends PostgresClient {
  on(event: string, listener: (value: unknown) => void): unknown
  removeListener(event: string, listener: (value: unknown) => void): unknown
}

interface PooledSession extends Session {
  release(isBroken?: boolean): void
}

interface Pool {
  connect(): Promise<PooledSession>
}

function isPool(client: unknown): client is Pool {
  return typeof propertyOf(client, 'totalCount') === 'number' && typeof propertyOf(client, 'connect') === 'function'
}

function isSession(client: unknown): client is Session {
  return ['on', 'removeListener'].every((method) => typeof propertyOf(client, method) === 'function')
}

/** A session takes one statement at a time. Later versions of pg do not queue others. */
const turns = new WeakMap<PostgresClient, PQueue>()

function askClient(client: PostgresClient, statement: Statement): ReturnType<typeof askSession> {
  if (!isSession(client)) return askSession(client, statement)
  const turn = turns.get(client) ?? new PQueue({ concurrency: 1 })
  turns.set(client, turn)
  return addInContext(turn, () => askSession(client, statement))
}

async function askSession(
  client: PostgresClient,
  { text, values }: Statement,
): Promise<{ readonly rows: Row[]; readonly notices: readonly unknown[] }> {
  const notices: unknown[] = []
  const note = (notice: unknown): void => void notices.push(notice)
  const session = isSession(client) ? client : undefined
  session?.on('notice', note)
  try {
    // A copy: a client may convert the values in place.
    const answer = await client.query(text, [...values])
    return { rows: answer.rows as Row[], notices: [...notices, ...(answer.notices ?? [])] }
  } finally {
    session?.removeListener('notice', note)
  }
}

/** Settles as the call does, or rejects after this time. */
async function limited<T>(call: Promise<T>, limitMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`The server has not answered within ${Math.round(limitMs)} ms`)), limitMs)
  })
  try {
    return await Promise.race([call, late])
  } finally {
    clearTimeout(timer)
    ignoreOutcome(call)
  }
}

function clientOf(client: unknown): PostgresClient {
  if (isObject(client) || typeof client === 'function') {
    const { query, listen } = client as { readonly query?: unknown; readonly listen?: unknown }
    if (typeof query === 'function' && (listen === undefined || typeof listen === 'function')) return client as PostgresClient
  }
  throw new TypeError(`Expected \`client\` to have a method query(text, values), got ${shown(client)}`)
}

/** The SQLSTATE of an error of the server. Empty for any other error, such as a lost connection. */
export function stateOf(error: unknown): string {
  const code = propertyOf(error, 'code')
  // Node has codes of five letters, such as EPIPE. No SQLSTATE begins with E.
  return typeof code === 'string' && /^[0-9A-DF-Z][0-9A-Z]{4}$/.test(code) ? code : ''
}

/** SQLSTATEs of something that exists already. */
export const duplicateStates: ReadonlySet<string> = new Set(['23505', '42P06', '42P07', '42710'])

/**
 * Classes of SQLSTATEs with which a server refuses a statement: it is rolled back. Those of lost
 * connections (08), failing systems (57P, 58, XX), unknown outcomes (40003) and demoted leaders (25006)
 * are not among them.
 */
const refusals = ['0A', '21', '22', '23', '28', '3D', '3F', '42', '44', '53', '54', '55', '57014', 'P0']

function isRefusal(error: unknown): boolean {
  return refusals.some((state) => stateOf(error).startsWith(state))
}

/** Whether the transaction was rolled back because of another one, so that it is simply tried again. */
function isConflict(error: unknown): boolean {
  return ['40001', '40P01'].includes(stateOf(error))
}

/**
 * Whether a notice says that a commit no longer waits for a standby. Its text may be in any language, but
 * not the name of the routine that sent it.
 */
function isCancelledWait(notice: unknown): boolean {
  return propertyOf(notice, 'routine') === 'SyncRepWaitForLSN' || /synchronous replication/.test(messageOf(notice))
}

function failure(
  code: 'ERR_MINISTORE_IO' | 'ERR_MINISTORE_OUTCOME_UNKNOWN',
  doing: string,
  cause: unknown,
  mayBeDone = false,
): MiniStoreError {
  const why = cause === undefined ? 'it had no effect' : messageOf(cause)
  const hint = stateOf(cause) === '42P01' ? '. Run createTables first' : ''
  const message = mayBeDone ? `It is not known whether the server could ${doing}` : `Could not ${doing}, and nothing is written`
  return new MiniStoreError(code, `${message}: ${why}${hint}`, { cause })
}
