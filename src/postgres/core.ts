import { createHash, randomBytes } from 'node:crypto'

import type { StandardSchemaV1 } from '@standard-schema/spec'
import PQueue from 'p-queue'

import { addInContext, type ChangeSignal, ignoreOutcome } from '../async.ts'
import { foreignJournal, hasCode, MiniStoreError, poisonedBy, sequenceConflict } from '../errors.ts'
import type { EncodedRecords } from '../journal/record-codec.ts'
import type { Codec } from '../schema.ts'
import { type PostgresClient, type Row, Server, type Statement, type WriteRules } from './client.ts'
import { changeOrTime, type Page, type PageSource } from './pages.ts'
import { type Claim, format, Statements } from './statements.ts'

/** Records removed by one statement. */
const removedAtOnce = 10_000

/** A statement must fit into a message of the protocol, and into the memory of both sides. */
export const maxStatementBytes: number = 256 * 1024 * 1024

/** Options, validated and with defaults filled in. */
export interface JournalSettings {
  readonly name: string
  readonly codec: Codec | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly maxRecordBytes: number
  readonly timeoutMs: number
  readonly pollIntervalMs: number
  readonly databaseSchema: string
}

/**
 * A journal and what is known of it, without its codec.
 *
 * **Invariant.** A writer's {@link lastSequence} is that of its last acknowledged record, and nobody else
 * can have written after it, as long as the row of the journal names this writer.
 */
export class JournalCore implements PageSource {
  readonly name: string
  readonly server: Server
  readonly statements: Statements
  readonly path: string
  id: string | undefined
  firstSequence = 1
  lastSequence = 0
  readonly #settings: JournalSettings
  readonly #queue = new PQueue({ concurrency: 1 })
  /** Followers of this writer wait for it. */
  readonly #followers = new Set<ChangeSignal>()
  readonly #channel: string
  #claim: Claim | undefined
  #failure: MiniStoreError | undefined
  #isClosed = false
  /** The notification under way, and whether another one is due. */
  #notifying: Promise<void> | undefined
  #mustNotify = false

  constructor(client: PostgresClient, settings: JournalSettings) {
    this.name = settings.name
    this.server = new Server(client, settings.timeoutMs)
    this.statements = new Statements(settings.databaseSchema)
    this.path = `postgres:${settings.databaseSchema}/${settings.name}`
    this.#channel = `ministore_${createHash('sha256').update(this.path).digest('hex').slice(0, 16)}`
    this.#settings = settings
  }

  /** The sequence number up to which a writer may be read. */
  get acknowledged(): number | undefined {
    return this.#claim === undefined ? undefined : this.lastSequence
  }

  /** @throws {MiniStoreError | TypeError} unless the journal can be read or, if asked, written. */
  assertUsable(isWrite = false): void {
    if (this.#isClosed) throw new MiniStoreError('ERR_MINISTORE_CLOSED', `The journal ${this.name} is closed`, this)
    if (isWrite && this.#claim === undefined) {
      throw new TypeError(`Expected a journal that is open for writing, got a reader of ${this.path}`)
    }
    if (isWrite) this.#assertSound()
  }

  /** @throws {MiniStoreError} unless commits of the server survive a crash, and its texts are UTF-8. */
  async checkServer(): Promise<void> {
    const [row = {}] = await this.server.read(`open the journal ${this.name}`, this.statements.settings(this.name))
    const refused = (message: string): MiniStoreError => new MiniStoreError('ERR_MINISTORE_IO', `${message}. Nothing is written`, this)
    if (row['fsync'] === 'off') throw refused('Expected a server with fsync = on, got off: a crash would lose records')
    const encoding = textIn(row, 'encoding') ?? 'UTF8'
    if (encoding !== 'UTF8') throw refused(`Expected a database with the encoding UTF8, got ${encoding}`)
    const found = numberIn(row, 'format') ?? format
    if (found <= format) return
    const message = `The tables of ${this.path} have the format ${found}, and this version reads ${format}`
    throw new MiniStoreError('ERR_MINISTORE_UNSUPPORTED_VERSION', message, this)
  }

  /** Becomes the only writer. */
  async claim(): Promise<void> {
    await this.checkServer()
    const [id, writer] = [randomBytes(8).toString('hex'), randomBytes(8).toString('hex')]
    const opening = this.statements.open(this.name, id, writer)
    // Opening again changes nothing, so it decides too.
    const row = await this.server.write(`open the journal ${this.name}`, opening, {
      done: claimed, decide: opening, decided: claimed, isRepeatable: true,
    })
    this.#see(row)
    this.#claim = { name: this.name, epoch: numberIn(row, 'epoch') as number, writer }
  }

  append({ lines, count, validation }: EncodedRecords, expectedSequence: number | undefined): Promise<number> {
    return this.#inTurn(async () => {
      await validation
      const last = this.lastSequence
      if (expectedSequence !== undefined && expectedSequence !== last) {
        throw sequenceConflict(`the journal ${this.name}`, { expectedSequence, sequence: last, path: this.path })
      }
      if (count === 0) return last
      refuseTooLarge(lines.length, this.path)
      const wanted = last + count
      if (!Number.isSafeInteger(wanted)) throw new RangeError(`The sequence numbers of the journal ${this.name} are used up`)
      const values = { last, count, lines: lines.toString('utf8', 0, lines.length - 1) }
      this.lastSequence = await this.change(`append to the journal ${this.name}`, (claim) => this.statements.append(claim, values), {
        done: (row) => numberIn(row, 'last'),
        isThere: (row) => (numberIn(row, 'last') === wanted ? wanted : undefined),
        mayBe: wanted,
        bytes: lines.length,
      })
      for (const follower of this.#followers) follower.wakeSoon()
      this.#notify()
      return wanted
    })
  }

  truncateBefore(sequence: number): Promise<void> {
    return this.#inTurn(async () => {
      const { lastSequence } = this
      if (sequence > lastSequence + 1) {
        throw new RangeError(`Expected \`sequence\` to be at most ${lastSequence + 1}, one above the last record, got ${sequence}`)
      }
      while (this.firstSequence < sequence) {
        const range = { from: this.firstSequence, to: Math.min(sequence, this.firstSequence + removedAtOnce) }
        this.firstSequence = await this.change(`truncate the journal ${this.name}`, (claim) => this.statements.truncate(claim, range), {
          done: (row) => numberIn(row, 'first'),
          isRepeatable: true,
        })
      }
    })
  }

  adopt(id: string, firstSequence: number): Promise<void> {
    return this.#inTurn(async () => {
      const { lastSequence } = this
      if (id === this.id && (lastSequence > 0 || firstSequence === this.firstSequence)) return
      if (lastSequence > 0) throw foreignJournal(`${this.path} has had records as the journal ${this.id}`, this.path)
      await this.change(`adopt an identity for the journal ${this.name}`, (claim) => this.statements.adopt(claim, { id, firstSequence }), {
        done: (row) => numberIn(row, 'last'),
        isThere: (row) => (row['id'] === id ? numberIn(row, 'last') : undefined),
      })
      this.id = id
      this.firstSequence = firstSequence
      this.lastSequence = firstSequence - 1
    })
  }

  refresh(): Promise<void> {
    return addInContext(this.#queue, async () => {
      if (this.#claim !== undefined) this.#assertSound()
      const [row] = await this.server.read(`read the journal ${this.name}`, this.statements.row(this.name))
      this.refuseOthers(row ?? {})
      if (this.#claim === undefined && row !== undefined) this.#see(row)
      else if (row === undefined && this.id !== undefined) throw this.#foreign()
    })
  }

  /**
   * Writes with the right of this writer. Makes the journal unusable if the right is lost.
   */
  async change<T>(
    doing: string,
    statement: (claim: Claim) => Statement,
    { isThere, mayBe, ...rules }: Omit<WriteRules<T>, 'decide' | 'decided'> & {
      /** The result if the row of the journal shows that the write had its effect. @default try again */
      readonly isThere?: (row: Row) => T | undefined
      /** Sequence number of the last record that the write may have written, although another writer took over. */
      readonly mayBe?: T & number
    },
  ): Promise<T> {
    this.#assertSound()
    const claim = this.#claim as Claim
    const decided = async (row: Row, wasLost: boolean): Promise<T | undefined> => {
      const found = this.#isOurs(row) ? isThere?.(row) : undefined
      if (found !== undefined) return found
      try {
        this.refuseOthers(row)
      } catch (error) {
        const isFenced = hasCode(error, 'ERR_MINISTORE_FENCED')
        if (isFenced && wasLost && mayBe !== undefined && (await this.#wrote(claim, mayBe, error))) return mayBe
        throw error
      }
      return undefined
    }
    return await this.server.write(doing, statement(claim), { ...rules, decide: this.statements.touch(this.name), decided })
  }

  async read(from: number | undefined, to: number): Promise<Page> {
    const [row] = await this.server.read(`read the journal ${this.name}`, this.statements.page(this.name, { from, to }))
    if (row === undefined) {
      if (this.id !== undefined) throw this.#foreign()
      return { firstSequence: 1, lastSequence: 0, from: from ?? 1, lines: [] }
    }
    this.#identify(row)
    const [firstSequence = 1, lastSequence = 0, count] = ['first', 'last', 'count'].map((name) => numberIn(row, name))
    const wanted = from ?? firstSequence
    if (wanted < firstSequence) {
      const message = `Record ${wanted} of the journal ${this.name} was removed; the first record is ${firstSequence}`
      throw new MiniStoreError('ERR_MINISTORE_SEQUENCE_GONE', message, { path: this.path, sequence: wanted })
    }
    if (wanted > Math.min(to, lastSequence)) return { firstSequence, lastSequence, from: wanted, lines: [] }
    const lines = textIn(row, 'lines')?.split('\n') ?? []
    const [lowest, highest] = [numberIn(row, 'lowest'), numberIn(row, 'highest')]
    if (lowest !== wanted || highest !== wanted + lines.length - 1 || count !== lines.length) {
      throw this.#corrupt(`its records from ${wanted} on are not all in the table`, wanted)
    }
    return { firstSequence, lastSequence, from: wanted, lines }
  }

  async more(last: number, changed: ChangeSignal, signal: AbortSignal): Promise<boolean> {
    this.#followers.add(changed)
    try {
      if (this.#claim === undefined) {
        if (!this.#isClosed) await changeOrTime(changed, this.#settings.pollIntervalMs, signal)
        return !this.#isClosed
      }
      while (last >= this.lastSequence && !this.#isClosed) {
        this.#assertSound()
        await changed.next(signal)
      }
      return last < this.lastSequence
    } finally {
      this.#followers.delete(changed)
    }
  }

  async listen(callback: () => void): Promise<() => void> {
    // Followers of a writer are woken by it.
    return this.#claim === undefined ? await this.server.listen(this.#channel, callback) : () => {}
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await this.#queue.onIdle()
    await this.#notifying
    this.#wake()
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    return addInContext(this.#queue, async () => {
      this.#assertSound()
      try {
        return await task()
      } catch (error) {
        if (hasCode(error, 'ERR_MINISTORE_OUTCOME_UNKNOWN')) this.#fail(error)
        throw error
      }
    })
  }

  /** @throws {MiniStoreError} if a row is that of another journal. */
  #identify(row: Row): void {
    const id = textIn(row, 'id')
    this.id ??= id
    if (this.id !== id) throw this.#foreign(id)
  }

  #see(row: Row): void {
    this.#identify(row)
    this.firstSequence = numberIn(row, 'first') ?? 1
    this.lastSequence = numberIn(row, 'last') ?? 0
  }

  #isOurs(row: Row): boolean {
    return row['writer'] === this.#claim?.writer && numberIn(row, 'epoch') === this.#claim?.epoch
  }

  /** @throws {MiniStoreError} if this is a writer and the row of the journal does not name it, or lacks its records. */
  refuseOthers(row: Row): void {
    if (this.#claim === undefined) return
    const [last, epoch] = [numberIn(row, 'last'), numberIn(row, 'epoch')]
    if (last === undefined || epoch === undefined) throw this.#fail(this.#corrupt('it is no longer in the table: the server has lost it'))
    if (row['id'] !== this.id) throw this.#fail(this.#foreign(textIn(row, 'id')))
    if (last < this.lastSequence) {
      const problem = `it ends with record ${last}, but record ${this.lastSequence} was acknowledged`
      throw this.#fail(this.#corrupt(`${problem}: the server has lost records, or was restored`, last + 1))
    }
    if (this.#isOurs(row)) return
    if (epoch < this.#claim.epoch) {
      throw this.#fail(this.#corrupt('it names an earlier writer: the server has lost the commit with which this one was opened'))
    }
    const message = `Another writer has taken over the journal ${this.name}. Nothing is written`
    throw this.#fail(new MiniStoreError('ERR_MINISTORE_FENCED', message, this))
  }

  /** Whether a record was written before another writer took over. */
  async #wrote(claim: Claim, sequence: number, fenced: MiniStoreError): Promise<boolean> {
    const doing = `look for record ${sequence} of the journal ${this.name}`
    const [row] = await this.server.read(doing, this.statements.wrote(claim, sequence)).catch(() => [])
    const isTold = row !== undefined && (row['found'] === true || (numberIn(row, 'first') ?? 1) <= sequence)
    if (isTold) return row['found'] === true
    const message = `Another writer took over the journal ${this.name}, and it is not known whether record ${sequence} was written before`
    throw new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { path: this.path, sequence, cause: fenced })
  }

  /** Makes the journal unusable. Returns the error. */
  #fail(error: MiniStoreError): MiniStoreError {
    this.#failure ??= error
    this.#wake()
    return error
  }

  #assertSound(): void {
    if (this.#failure !== undefined) throw poisonedBy(this.#failure)
  }

  #wake(): void {
    for (const follower of this.#followers) follower.wake()
  }

  /** Wakes readers elsewhere, in the background: a notification that is lost only lets them poll. */
  #notify(): void {
    if (!this.server.hasNotifications) return
    this.#mustNotify = true
    this.#notifying ??= this.#sendNotifications().finally(() => (this.#notifying = undefined))
    ignoreOutcome(this.#notifying)
  }

  async #sendNotifications(): Promise<void> {
    while (this.#mustNotify) {
      this.#mustNotify = false
      await this.server.attempt(this.statements.notify(this.#channel)).catch(() => {})
    }
  }

  #corrupt(reason: string, sequence?: number): MiniStoreError {
    const message = `The journal ${this.name} is damaged: ${reason}`
    return new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path: this.path, sequence, reason })
  }

  #foreign(found = 'none'): MiniStoreError {
    return foreignJournal(`Expected ${this.path} to have the identity ${this.id}, got ${found}: it was replaced`, this.path)
  }
}

/** A value of a row. Clients give whole numbers as numbers, as texts or as `bigint`. */
function textIn(row: Row, name: string): string | undefined {
  const value = row[name] as string | number | bigint | null | undefined
  return value === undefined || value === null ? undefined : String(value)
}

function numberIn(row: Row, name: string): number | undefined {
  const text = textIn(row, name)
  return text === undefined ? undefined : Number(text)
}

function claimed(row: Row): Row | undefined {
  return textIn(row, 'id') === undefined ? undefined : row
}

/** @throws {MiniStoreError} if the values of a statement are too large for the server. */
export function refuseTooLarge(bytes: number, path: string): void {
  if (bytes <= maxStatementBytes) return
  const message = `Expected at most ${maxStatementBytes} bytes in one call, got ${bytes}`
  throw new MiniStoreError('ERR_MINISTORE_RECORD_TOO_LARGE', message, { path })
}

