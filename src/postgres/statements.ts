import { fields, shown } from '../options.ts'
import { duplicateStates, type PostgresClient, type Statement, stateOf } from './client.ts'

/** The right to write a journal, as its row in the table states it until another writer opens it. */
export interface Claim {
  /** Name of the journal. */
  readonly name: string
  /** Raised by each open. */
  readonly epoch: number
  /**
   * Chosen at random by each open. A failover without a synchronous standby may lose the commit of an
   * open. Then two writers have the same epoch, but not the same token.
   */
  readonly writer: string
}

/**
 * Every statement of this module. Values are texts, because clients convert other types differently.
 *
 * **Invariant.** A write is one statement, so it is one transaction: all of it or nothing. It takes
 * effect only if the row of the journal names its writer, and if its session waits for the disk.
 * It gives one row, in which the result is null if it had no effect.
 */
export class Statements {
  readonly #journals: string
  readonly #records: string
  readonly #snapshots: string
  readonly #schema: string

  /** @param schema of the database in which the tables are. */
  constructor(schema: string) {
    this.#schema = identifier(schema)
    const table = (name: string): string => `${this.#schema}.${name}`
    this.#journals = table('journals')
    this.#records = table('records')
    this.#snapshots = table('snapshots')
  }

  /**
   * The tables. The collation "C" compares bytes: an index by any other one is damaged when a server
   * moves to a system that sorts differently.
   */
  get create(): string[] {
    return [
      `create schema if not exists ${this.#schema}`,
      `create table if not exists ${this.#journals} (
  name text collate "C" primary key,
  id text not null,
  format integer not null default ${format},
  epoch bigint not null,
  writer text not null,
  first bigint not null,
  last bigint not null
)`,
      `create table if not exists ${this.#records} (
  journal text collate "C" not null,
  sequence bigint not null,
  epoch bigint not null,
  line text not null,
  primary key (journal, sequence)
)`,
      `create table if not exists ${this.#snapshots} (
  journal text collate "C" not null,
  sequence bigint not null,
  crc32 text not null,
  origin text,
  state text not null,
  primary key (journal, sequence)
)`,
    ]
  }

  /** Whether all tables are there. */
  get areCreated(): Statement {
    const found = [this.#journals, this.#records, this.#snapshots].map((table) => `to_regclass('${table.replaceAll("'", "''")}')`)
    return { text: `select num_nulls(${found.join(', ')}) = 0 as found`, values: [] }
  }

  /** The settings of the server that must be right, and the format of the journal if it exists. */
  settings(name: string): Statement {
    const text = `select current_setting('fsync', true) as fsync, current_setting('server_encoding', true) as encoding,
  (select format from ${this.#journals} where name = $1::text) as format`
    return { text, values: [name] }
  }

  /** Makes this the only writer. Repeating it changes nothing. */
  open(name: string, id: string, writer: string): Statement {
    const text = `insert into ${this.#journals} as journal (name, id, epoch, writer, first, last)
  select $1::text, $2::text, 1, $3::text, 1, 0 where ${isSynchronous}
  on conflict (name) do update set
    epoch = case when journal.writer = excluded.writer then journal.epoch else journal.epoch + 1 end,
    writer = excluded.writer
  returning id, epoch, first, last`
    return { text: written(text), values: [name, id, writer] }
  }

  /** The row of a journal. */
  row(name: string): Statement {
    return { text: `select id, epoch, writer, first, last from ${this.#journals} where name = $1::text`, values: [name] }
  }

  /**
   * Changes nothing, and gives the row of the journal. It is a write all the same: its commit waits for
   * the commits before it, and for a synchronous standby to have them. A `select` would not.
   */
  touch(name: string): Statement {
    const text = `update ${this.#journals} set epoch = epoch where name = $1::text and ${isSynchronous}
  returning id, epoch, writer, first, last`
    return { text: written(text), values: [name] }
  }

  /** Appends lines, if the journal is at this sequence number. A line has no line feed. */
  append(claim: Claim, at: { readonly last: number; readonly count: number; readonly lines: string }): Statement {
    const text = this.#update(
      'last = last + $5::bigint', 'and last = $4::bigint', 'last',
      `insert into ${this.#records} (journal, sequence, epoch, line)
  select $1::text, $4::bigint + number, $2::bigint, line
  from taken, unnest(string_to_array($6::text, E'\\n')) with ordinality as lines (line, number)`,
    )
    return { text, values: [...valuesOf(claim), String(at.last), String(at.count), at.lines] }
  }

  /** Whether this writer has written a record, after another one has taken over. */
  wrote({ name, epoch }: Claim, sequence: number): Statement {
    const text = `select first, exists (
  select from ${this.#records} where journal = $1::text and sequence = $2::bigint and epoch = $3::bigint
) as found from ${this.#journals} where name = $1::text`
    return { text, values: [name, String(sequence), String(epoch)] }
  }

  /** Removes the records below `to`. There are none below `from`. */
  truncate(claim: Claim, { from, to }: { readonly from: number; readonly to: number }): Statement {
    const text = this.#update(
      'first = least(greatest(first, $4::bigint), last + 1)', '', 'first',
      `delete from ${this.#records} using taken
  where journal = $1::text and sequence >= $5::bigint and sequence < taken.first`,
    )
    return { text, values: [...valuesOf(claim), String(to), String(from)] }
  }

  /** Gives a journal without records another identity and first sequence number. */
  adopt(claim: Claim, { id, firstSequence }: { readonly id: string; readonly firstSequence: number }): Statement {
    const text = this.#update('id = $4::text, first = $5::bigint, last = $5::bigint - 1', 'and last = 0', 'last')
    return { text, values: [...valuesOf(claim), id, String(firstSequence)] }
  }

  /**
   * The records of a range, as one text of lines, up to the limits of a page; at least one. `before` is
   * the number of bytes in front of a record: it is read from the head of a large record, not from all of it.
   */
  page(name: string, { from, to }: { readonly from: number | undefined; readonly to: number | undefined }): Statement {
    const text = `select id, first, last, page.* from ${this.#journals} journal cross join lateral (
  select count(*) as count, min(sequence) as lowest, max(sequence) as highest,
    string_agg(line, E'\\n' order by sequence) as lines
  from (
    select sequence, line, sum(octet_length(line)) over (order by sequence) - octet_length(line) as before
    from (
      select sequence, line from ${this.#records}
      where journal = $1::text and sequence >= coalesce($2::bigint, journal.first)
        and sequence <= least(coalesce($3::bigint, journal.last), journal.last)
      order by sequence limit ${pageRecords}
    ) as found
  ) as measured where before < ${pageBytes}
) as page where name = $1::text`
    return { text, values: [name, textOf(from), textOf(to)] }
  }

  /** The row of a journal beside each of its snapshots, newest first; alone if there is none. */
  snapshots(name: string): Statement {
    const text = `select journal.id, journal.epoch, journal.writer, journal.last, sequence, octet_length(state) as bytes
  from ${this.#journals} as journal left join ${this.#snapshots} as snapshot on snapshot.journal = journal.name
  where journal.name = $1::text order by sequence desc`
    return { text, values: [name] }
  }

  snapshot(name: string, sequence: number): Statement {
    const text = `select crc32, origin, state from ${this.#snapshots} where journal = $1::text and sequence = $2::bigint`
    return { text, values: [name, String(sequence)] }
  }

  /** Stores a snapshot, and removes those below `oldest`, in one step. */
  putSnapshot(
    claim: Claim,
    snapshot: { readonly sequence: number; readonly crc32: string; readonly origin: string | undefined; readonly state: string },
    oldest: number,
  ): Statement {
    const text = this.#update(
      'epoch = epoch', '', 'name',
      `insert into ${this.#snapshots} (journal, sequence, crc32, origin, state)
  select $1::text, $4::bigint, $5::text, $6::text, $7::text from taken
  on conflict (journal, sequence) do update set crc32 = excluded.crc32, origin = excluded.origin, state = excluded.state`,
      `delete from ${this.#snapshots} using taken where journal = $1::text and sequence < $8::bigint`,
    )
    const { sequence, crc32, origin = null, state } = snapshot
    return { text, values: [...valuesOf(claim), String(sequence), crc32, origin, state, String(oldest)] }
  }

  /**
   * Wakes followers in other processes. Its own commit need not reach the disk, so the lock on all
   * notifications of the database, which a notification holds until its commit, is held briefly.
   */
  notify(channel: string): Statement {
    return { text: "select set_config('synchronous_commit', 'off', true), pg_notify($1::text, '')", values: [channel] }
  }

  /** Changes the row of a journal if it names this writer, and does more if it did. */
  #update(change: string, condition: string, result: string, ...more: readonly string[]): string {
    const update = `update ${this.#journals} set ${change}
  where name = $1::text and epoch = $2::bigint and writer = $3::text ${condition} and ${isSynchronous}
  returning ${result}`
    return written(update, ...more)
  }
}

/**
 * Version of the tables. A journal of a later one is refused.
 */
export const format = 1

/** Limits of a page. A larger record makes a page by itself. */
const pageRecords = 2000
const pageBytes = 1024 * 1024

/** Whether the commit of this session waits for the disk. Engines that do not know the setting always do. */
const isSynchronous = "current_setting('synchronous_commit', true) is distinct from 'off'"

/** One statement that gives one row, with nulls if the write had no effect. */
function written(write: string, ...more: readonly string[]): string {
  const others = more.map((statement, index) => `, also${index} as (\n  ${statement}\n)`).join('')
  return `with taken as (\n  ${write}\n)${others}
select taken.*, current_setting('synchronous_commit', true) as commit from (values (1)) as one left join taken on true`
}

function valuesOf({ name, epoch, writer }: Claim): string[] {
  return [name, String(epoch), writer]
}

function textOf(sequence: number | undefined): string | null {
  return sequence === undefined ? null : String(sequence)
}

function identifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** @throws {TypeError} if the value cannot be the name of a schema of the database. */
export function databaseSchema(name: string, value: unknown): string {
  if (value === undefined) return 'ministore'
  // PostgreSQL cuts off longer names without an error.
  const isName = typeof value === 'string' && value !== '' && !value.includes('\0') && Buffer.byteLength(value) <= 63
  if (isName) return value
  throw new TypeError(`Expected \`${name}\` to be the name of a schema of the database, 1 to 63 bytes, got ${shown(value)}`)
}

/** Options of {@link createTables} and {@link tablesSql}. */
export interface TableOptions {
  /** Name of the schema of the database in which the tables are. @default 'ministore' */
  readonly schema?: string | undefined
}

/**
 * Creates the tables of journals and snapshots, and their schema, where they are missing. Existing
 * ones stay as they are. Calls may overlap, in any number of processes.
 *
 * If all tables exist, no right to create any is needed. To create them by a migration tool instead,
 * use {@link tablesSql}.
 *
 * @throws the error of the client, if the tables cannot be created.
 * @throws {TypeError} if an option is invalid.
 */
export async function createTables(client: PostgresClient, options?: TableOptions): Promise<void> {
  const { create, areCreated } = statementsOf(options)
  const { rows } = await client.query(areCreated.text, areCreated.values)
  if ((rows[0] as { readonly found?: unknown } | undefined)?.found === true) return
  for (const statement of create) {
    try {
      await client.query(statement, [])
    } catch (error) {
      // Another session has created the same at this moment, after this one saw that it was missing.
      if (!duplicateStates.has(stateOf(error))) throw error
    }
  }
}

/**
 * Returns the statements of {@link createTables} as SQL, to be run once by a migration tool.
 *
 * @throws {TypeError} if an option is invalid.
 */
export function tablesSql(options?: TableOptions): string {
  return `${statementsOf(options).create.join(';\n\n')};\n`
}

function statementsOf(options: unknown): Statements {
  return new Statements(databaseSchema('schema', fields(options, ['schema'])['schema']))
}
