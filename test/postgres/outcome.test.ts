import { EventEmitter } from 'node:events'

import { describe, expect, test } from 'vitest'

import { StateManager } from '../../src/ministate/index.ts'
import { type PostgresClient, PostgresJournal, PostgresSnapshots } from '../../src/postgres/index.ts'
import { newName, openPGlite, ScriptedClient, serverError, type Step } from './pglite.ts'

const database = await openPGlite()

interface Scene {
  readonly name: string
  readonly client: ScriptedClient
  readonly journal: PostgresJournal<string>
  /** Opens the journal as another writer would. */
  readonly takeOver: () => Promise<PostgresJournal<string>>
  readonly records: () => Promise<string[]>
  /** Changes the tables behind the back of the journal. */
  readonly change: (text: string) => Promise<void>
}

/** A journal with one record, whose client does what the script says from here on. */
async function scene(steps: readonly Step[] = [], timeoutMs = 400): Promise<Scene> {
  const name = newName()
  const client = new ScriptedClient(database)
  const journal = await PostgresJournal.open<string>(client, name, { timeoutMs })
  await journal.append('one')
  client.seen.length = 0
  client.script.push(...steps)
  return {
    name,
    client,
    journal,
    takeOver: () => PostgresJournal.open<string>(database, name),
    records: async () => await (await PostgresJournal.read<string>(database, name)).replay(),
    change: async (text) => void (await database.query(text, [name])),
  }
}

const lostSocket = new Error('Connection terminated unexpectedly')
const again = (error: Error): Step[] => Array.from({ length: 50 }, () => ({ on: 'append', instead: error }))

describe('a write whose answer is lost', () => {
  test('is acknowledged if the deciding write finds it, and is not written twice', async () => {
    const { journal, client, records } = await scene([{ on: 'append', lost: lostSocket }])
    expect(await journal.append('two')).toBe(2)
    expect(client.seen).toEqual(['append', 'append', 'touch'])
    expect(await journal.append('three')).toBe(3)
    expect(await records()).toEqual(['one', 'two', 'three'])
  })

  test('is written by the next attempt if it was not, without a deciding write', async () => {
    const { journal, client, records } = await scene([{ on: 'append', instead: lostSocket }])
    expect(await journal.append('two')).toBe(2)
    expect(client.seen).toEqual(['append', 'append'])
    expect(await records()).toEqual(['one', 'two'])
  })

  test('is all there or not at all if it holds many records', async () => {
    const { journal, records } = await scene([{ on: 'append', lost: lostSocket }, { on: 'touch', lost: lostSocket }])
    expect(await journal.appendAll(['two', 'three'])).toEqual({ first: 2, last: 3 })
    expect(await records()).toEqual(['one', 'two', 'three'])
  })

  test('is tried again if the deciding write shows that a failover has lost it', async () => {
    // The new leader has the state from before the append.
    const failover = async (): Promise<void> => {
      await database.query('update ministore.journals set last = 1 where name = $1', [name])
      await database.query('delete from ministore.records where journal = $1 and sequence > 1', [name])
    }
    const { journal, client, name, records } = await scene([{ on: 'append', lost: lostSocket }, { on: 'touch', before: failover }])
    expect(await journal.append('two')).toBe(2)
    expect(client.seen).toEqual(['append', 'append', 'touch', 'append'])
    expect(await records()).toEqual(['one', 'two'])
  })

  test('is decided by a write, which has to wait for a synchronous standby: a select would not', async () => {
    const { name } = await scene()
    const version = async (): Promise<unknown> =>
      (await database.query<{ xmin: unknown }>('select xmin::text from ministore.journals where name = $1', [name])).rows[0]?.xmin
    let before: unknown
    const client = new ScriptedClient(database)
    client.script.push({ on: 'append', lost: lostSocket }, { on: 'touch', before: async () => void (before = await version()) })
    const other = await PostgresJournal.open<string>(client, name)
    await other.append('two')
    expect(before).toBeDefined()
    expect(await version()).not.toBe(before)
  })

  test('counts as written, or as not written, also if another writer took over meanwhile', async () => {
    const written = await scene()
    written.client.script.push({ on: 'append', lost: lostSocket, after: async () => void (await written.takeOver()) })
    expect(await written.journal.append('two')).toBe(2)
    await expect(written.journal.append('three')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect(await written.records()).toEqual(['one', 'two'])

    const unwritten = await scene()
    unwritten.client.script.push({ on: 'append', before: async () => void (await unwritten.takeOver()), instead: lostSocket })
    await expect(unwritten.journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect(await unwritten.records()).toEqual(['one'])
  })

  test('is not known if another writer took over, and the server is gone', async () => {
    const { journal, client, takeOver } = await scene()
    client.script.push({ on: 'append', lost: lostSocket, after: async () => void (await takeOver()) })
    client.script.push(...Array.from({ length: 30 }, (): Step => ({ on: 'wrote', instead: lostSocket })))
    await expect(journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  })

  test('is not known if another writer took over and truncated', async () => {
    const { journal, client, takeOver } = await scene()
    const after = async (): Promise<void> => {
      const other = await takeOver()
      await other.truncateBefore(3)
    }
    client.script.push({ on: 'append', lost: lostSocket, after })
    await expect(journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    await expect(journal.append('three')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  })
})

test('a writer that another one has fenced writes nothing, whatever it calls', async () => {
  const { journal, takeOver, records, client } = await scene()
  const snapshots = new PostgresSnapshots<string>(journal)
  const other = await takeOver()
  await other.append('two')
  // It believes that the journal ends with 1, and 2 is what it would write.
  await expect(journal.append('mine')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  expect(client.seen).toEqual(['append', 'touch'])
  await expect(journal.appendAll(['mine'])).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  await expect(journal.truncateBefore(2)).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  await expect(snapshots.create('mine', 1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  await expect(journal.refresh()).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  expect(() => journal.prepare('mine')).toThrow(expect.objectContaining({ code: 'ERR_MINISTORE_FENCED' }))
  expect(await records()).toEqual(['one', 'two'])
  expect(await new PostgresSnapshots(other).list()).toEqual([])
})

test('a state whose journal was taken over and compacted learns that it is fenced, not that its snapshot is old', async () => {
  const { journal, takeOver } = await scene()
  const options = { initialState: () => [] as string[], mutator: (all: string[], text: string): void => void all.push(text) }
  const state = await StateManager.over(journal, new PostgresSnapshots<string[]>(journal), options)
  const other = await takeOver()
  const otherState = await StateManager.over(other, new PostgresSnapshots<string[]>(other), options)
  await otherState.apply('two')
  await otherState.compact()
  await expect(state.compact()).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  await expect(state.apply('mine')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  expect(state.state).toEqual(['one'])
  expect(otherState.state).toEqual(['one', 'two'])
})

test.each<[string, (journal: PostgresJournal<string>) => Promise<unknown>]>([
  ['the list of snapshots', (journal) => new PostgresSnapshots<string>(journal).list()],
  ['truncateBefore', (journal) => journal.truncateBefore(2)],
  ['a snapshot', (journal) => new PostgresSnapshots<string>(journal).create('mine', 1)],
  ['refresh', (journal) => journal.refresh()],
])('%s of a fenced writer rejects with FENCED also as its first call', async (_, call) => {
  const { journal, takeOver, records } = await scene()
  const other = await takeOver()
  await expect(call(journal)).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  await expect(journal.append('mine')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
  expect(await records()).toEqual(['one'])
  expect(await new PostgresSnapshots(other).list()).toEqual([])
})

describe('a server that has lost what it acknowledged is CORRUPT, never hidden:', () => {
  test.each<[string, string, string]>([
    ['it has fewer records', 'update ministore.journals set last = 0 where name = $1', 'ERR_MINISTORE_CORRUPT'],
    ['it has fewer records and another writer', `update ministore.journals set last = 0, epoch = 9, writer = 'x' where name = $1`, 'ERR_MINISTORE_CORRUPT'],
    ['it names an earlier writer', `update ministore.journals set epoch = 0, writer = 'x' where name = $1`, 'ERR_MINISTORE_CORRUPT'],
    ['it has no row', 'delete from ministore.journals where name = $1', 'ERR_MINISTORE_CORRUPT'],
    ['it has another journal', `update ministore.journals set id = '0123456789abcdef', writer = 'x' where name = $1`, 'ERR_MINISTORE_FOREIGN_JOURNAL'],
  ])('%s', async (_, text, code) => {
    const { journal, change } = await scene()
    await change(text)
    await expect(journal.append('two')).rejects.toMatchObject({ code })
    await expect(journal.append('three')).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await journal.close()
  })

  test('two writers that got the same epoch after a failover are told apart', async () => {
    const { journal, change, takeOver, records } = await scene()
    // The commit that opened `journal` is lost, and another writer gets its epoch.
    await change('update ministore.journals set epoch = epoch - 1 where name = $1')
    const other = await takeOver()
    expect(await other.append('two')).toBe(2)
    await expect(journal.append('mine')).rejects.toMatchObject({ code: 'ERR_MINISTORE_FENCED' })
    expect(await records()).toEqual(['one', 'two'])
  })
})

describe('a warning that the wait for a standby was cancelled makes the outcome unknown', () => {
  const notice = { code: '01000', message: 'annulation de l’attente', routine: 'SyncRepWaitForLSN' }

  test('if the client gives its notices', async () => {
    const { journal } = await scene([{ on: 'append', notice }])
    await expect(journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    await expect(journal.append('three')).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
  })

  test('also of the deciding write', async () => {
    const { journal } = await scene([{ on: 'append', lost: lostSocket }, { on: 'touch', notice }])
    await expect(journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  })

  test('if the client emits them, as `Client` of pg does; other notices change nothing', async () => {
    class Client extends EventEmitter implements PostgresClient {
      next: object | undefined
      async query(text: string, values: Array<string | null>): Promise<{ rows: unknown[] }> {
        const answer = await database.query(text, values)
        if (this.next !== undefined) this.emit('notice', this.next)
        return answer
      }
    }
    const client = new Client()
    const journal = await PostgresJournal.open<string>(client, newName())
    client.next = { code: '01000', message: 'a trigger says hello', routine: 'exec_stmt_raise' }
    expect(await journal.append('one')).toBe(1)
    client.next = notice
    await expect(journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    expect(client.listenerCount('notice')).toBe(0)
  })
})

describe('an error of the server', () => {
  test.each(['22021', '23514', '42501', '42P01', '53100', '53300', '54000', '55P03', '57014', 'P0001', '28P01'])(
    '%s at the first attempt is IO: nothing is written, and the journal stays usable',
    async (state) => {
      const { journal, client, records } = await scene([{ on: 'append', instead: serverError(state) }])
      await expect(journal.append('no')).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: state } })
      expect(client.seen).toEqual(['append'])
      expect(await journal.append('two')).toBe(2)
      expect(await records()).toEqual(['one', 'two'])
    },
  )

  test.each(['40001', '40P01'])('%s is tried again, and proves that nothing was written', async (state) => {
    const { journal, records } = await scene([{ on: 'append', instead: serverError(state) }])
    expect(await journal.append('two')).toBe(2)
    const without = await scene(again(serverError(state)), 100)
    await expect(without.journal.append('no')).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    without.client.script.length = 0
    expect(await without.journal.append('two')).toBe(2)
    expect(await records()).toEqual(['one', 'two'])
  })

  test.each([
    ['08006', serverError('08006')], ['57P01', serverError('57P01')], ['57P03', serverError('57P03')], ['40003', serverError('40003')],
    ['25006', serverError('25006')], ['XX000', serverError('XX000')], ['58030', serverError('58030')],
    ['ECONNRESET', serverError('ECONNRESET')], ['EPIPE', serverError('EPIPE')], ['CONNECTION_CLOSED', serverError('CONNECTION_CLOSED')],
    ['no code', lostSocket],
  ])('%s is tried again until the time is over; then the outcome is unknown', async (_, error) => {
    const { journal } = await scene([{ on: 'append', instead: error }, { on: 'append', instead: error }])
    expect(await journal.append('two')).toBe(2)

    const late = await scene(again(error), 100)
    await expect(late.journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN', cause: error })
    await expect(late.journal.append('three')).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await expect(late.journal.truncateBefore(1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_POISONED' })
    await late.journal.close()
    expect(await (await late.takeOver()).append('two')).toBe(2)
  })

  test('53300 is tried again once an answer was lost: the first attempt may have been written', async () => {
    const { journal, records } = await scene([{ on: 'append', lost: lostSocket }, { on: 'append', instead: serverError('53300') }])
    expect(await journal.append('two')).toBe(2)
    expect(await records()).toEqual(['one', 'two'])
  })

  test('no answer at all is tried again, then unknown', async () => {
    const never = new Promise<void>(() => {})
    const { journal } = await scene([{ on: 'append', before: () => never }])
    expect(await journal.append('two')).toBe(2)
    const late = await scene(Array.from({ length: 9 }, () => ({ on: 'append' as const, before: () => never })), 200)
    await expect(late.journal.append('two')).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
  })
})

describe('a session that does not wait for the disk', () => {
  test('is refused in every statement that writes, and writes nothing', async () => {
    const { journal, records, takeOver } = await scene()
    await database.query('set synchronous_commit = off')
    try {
      const refused = { code: 'ERR_MINISTORE_IO', message: expect.stringContaining('synchronous_commit') as string }
      await expect(journal.append('no')).rejects.toMatchObject(refused)
      await expect(journal.truncateBefore(2)).rejects.toMatchObject(refused)
      await expect(new PostgresSnapshots<string>(journal).create('no', 1)).rejects.toMatchObject(refused)
      await expect(takeOver()).rejects.toMatchObject(refused)
    } finally {
      await database.query('reset synchronous_commit')
    }
    expect(await journal.append('two')).toBe(2)
    expect(await records()).toEqual(['one', 'two'])
  })

  test('decides nothing', async () => {
    const off = async (): Promise<void> => void (await database.query('set synchronous_commit = off'))
    const on = async (): Promise<void> => void (await database.query('reset synchronous_commit'))
    const { journal, client, records } = await scene([{ on: 'append', lost: lostSocket }, { on: 'touch', before: off, after: on }])
    expect(await journal.append('two')).toBe(2)
    expect(client.seen).toEqual(['append', 'append', 'touch', 'append', 'touch'])
    expect(await records()).toEqual(['one', 'two'])
  })
})

describe('open refuses', () => {
  test.each<[string, object, string]>([
    ['a server that does not sync its files', { fsync: 'off' }, 'ERR_MINISTORE_IO'],
    ['a database with another encoding', { fsync: 'on', encoding: 'LATIN1' }, 'ERR_MINISTORE_IO'],
    ['tables of a later version', { fsync: 'on', format: 2 }, 'ERR_MINISTORE_UNSUPPORTED_VERSION'],
  ])('%s, and changes nothing', async (_, row, code) => {
    const { journal, name, change } = await scene()
    const seen: string[] = []
    const query: PostgresClient['query'] = async (text) => {
      seen.push(text)
      return { rows: text.includes("'fsync'") ? [row] : [] }
    }
    await expect(PostgresJournal.open({ query }, name)).rejects.toMatchObject({ code })
    expect(seen).toHaveLength(1)
    await change('select $1::text')
    expect(await journal.append('two')).toBe(2)
  })

  test('a later format in the table itself', async () => {
    const { name, change } = await scene()
    await change('update ministore.journals set format = 2 where name = $1')
    await expect(PostgresJournal.open(database, name)).rejects.toMatchObject({ code: 'ERR_MINISTORE_UNSUPPORTED_VERSION' })
    await expect(PostgresJournal.read(database, name)).rejects.toMatchObject({ code: 'ERR_MINISTORE_UNSUPPORTED_VERSION' })
  })

  test('a schema without tables, and names createTables', async () => {
    const opening = PostgresJournal.open(database, newName(), { databaseSchema: 'elsewhere' })
    await expect(opening).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO', message: expect.stringContaining('createTables') as string })
  })
})

test('an open whose answer is lost takes over once', async () => {
  const { name, takeOver } = await scene()
  const client = new ScriptedClient(database)
  client.script.push({ on: 'open', lost: lostSocket })
  const epochOf = async (): Promise<unknown> =>
    (await database.query<{ epoch: unknown }>('select epoch from ministore.journals where name = $1', [name])).rows[0]?.epoch
  const before = Number(await epochOf())
  const journal = await PostgresJournal.open<string>(client, name)
  expect(client.seen).toEqual(['settings', 'open', 'open'])
  expect(Number(await epochOf())).toBe(before + 1)
  expect(await journal.append('two')).toBe(2)
  await takeOver()
})

describe('what may be repeated is repeated, and is IO when the time is over:', () => {
  test('truncateBefore', async () => {
    const { journal, client, records } = await scene([{ on: 'truncate', lost: lostSocket }])
    await journal.append('two')
    await journal.truncateBefore(2)
    expect(journal.firstSequence).toBe(2)
    client.script.push(...Array.from({ length: 30 }, (): Step => ({ on: 'truncate', instead: lostSocket })))
    await expect(journal.truncateBefore(3)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    client.script.length = 0
    await journal.truncateBefore(3)
    expect(await journal.append('three')).toBe(3)
    expect(await records()).toEqual(['three'])
  })

  test('adopt', async () => {
    const client = new ScriptedClient(database)
    const name = newName()
    const journal = await PostgresJournal.open<string>(client, name)
    client.script.push({ on: 'adopt', lost: lostSocket })
    await journal.adopt({ id: '0123456789abcdef', firstSequence: 7 })
    expect([journal.id, journal.firstSequence, journal.lastSequence]).toEqual(['0123456789abcdef', 7, 6])
    expect(await journal.append('seven')).toBe(7)
  })

  test('a snapshot, whose outcome is unknown without an end of the journal', async () => {
    const { journal, client } = await scene([{ on: 'snapshot', lost: lostSocket }])
    const snapshots = new PostgresSnapshots<string>(journal)
    await snapshots.create('state', 1)
    client.script.push(...Array.from({ length: 30 }, (): Step => ({ on: 'snapshot', instead: lostSocket })))
    await expect(snapshots.create('again', 1)).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    client.script.length = 0
    await snapshots.create('again', 1)
    expect(await snapshots.restore()).toMatchObject({ state: 'again', sequence: 1 })
    expect(await journal.append('two')).toBe(2)
  })

  test('a page', async () => {
    const { journal } = await scene([{ on: 'page', instead: lostSocket }, { on: 'page', instead: serverError('57P01') }])
    expect(await journal.replay()).toEqual(['one'])
  })
})

describe('a record that is missing', () => {
  test('below the first is SEQUENCE_GONE, within the range CORRUPT, after the records before it', async () => {
    const { journal, change } = await scene()
    await journal.appendAll(['two', 'three', 'four', 'five'])
    await journal.truncateBefore(2)
    await expect(journal.replay({ from: 1 })).rejects.toMatchObject({ code: 'ERR_MINISTORE_SEQUENCE_GONE', sequence: 1 })
    await change('delete from ministore.records where journal = $1 and sequence = 5')
    const seen: string[] = []
    const reading = (async () => {
      for await (const record of journal.stream()) seen.push(record)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', sequence: 5 })
    expect(seen).toEqual(['two', 'three', 'four'])
    await change('delete from ministore.records where journal = $1 and sequence = 3')
    await expect(journal.replay()).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
  })
})

describe('a pool, whose sessions are lent out for one statement each', () => {
  class Session extends EventEmitter {
    readonly pool: Pool
    constructor(pool: Pool) {
      super()
      this.pool = pool
    }
    query(text: string, values: Array<string | null>): Promise<{ rows: unknown[] }> {
      return this.pool.client.query(text, values)
    }
    release(isBroken?: boolean): void {
      this.pool.released.push(isBroken === true)
      expect(this.listenerCount('error') + this.listenerCount('notice')).toBe(0)
    }
  }
  class Pool extends EventEmitter implements PostgresClient {
    readonly client = new ScriptedClient(database)
    readonly released: boolean[] = []
    readonly totalCount = 1
    connecting: Promise<void> = Promise.resolve()
    async connect(): Promise<Session> {
      await this.connecting
      return new Session(this)
    }
    query(): Promise<never> {
      throw new Error('a query of the pool does not show notices')
    }
  }

  test('gives a session back if the server has answered, and drops it if not', async () => {
    const pool = new Pool()
    const journal = await PostgresJournal.open<string>(pool, newName(), { timeoutMs: 500 })
    await journal.append('one')
    expect(pool.released).not.toContain(true)
    pool.released.length = 0
    pool.client.script.push(
      { on: 'append', instead: serverError('40001') }, { on: 'append', instead: lostSocket }, { on: 'append', before: () => new Promise(() => {}) },
    )
    expect(await journal.append('two')).toBe(2)
    expect(pool.released).toEqual([false, true, true, false])
  })

  test('gets a session back that comes too late', async () => {
    const pool = new Pool()
    const journal = await PostgresJournal.open<string>(pool, newName(), { timeoutMs: 200 })
    pool.released.length = 0
    let connect = (): void => {}
    pool.connecting = new Promise((resolve) => (connect = resolve))
    const late = journal.append('one')
    await expect(late).rejects.toMatchObject({ code: 'ERR_MINISTORE_OUTCOME_UNKNOWN' })
    expect(pool.released).toEqual([])
    connect()
    await expect.poll(() => pool.released.length).toBeGreaterThan(0)
    expect(pool.released).not.toContain(true)
  })
})
