import { readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { countsOf, deadLetters, nextMessages, peekLines } from '../../src/cli/commands/queue.ts'
import { MiniQueue } from '../../src/miniqueue/index.ts'
import { emptyQueue } from '../../src/miniqueue/state.ts'
import { SnapStore } from '../../src/minisnap/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ministore } from './run-command.ts'

/** Two ready messages, one of them urgent; one message delayed for an hour; one dead letter. */
async function someQueue(): Promise<string> {
  const directory = join(await temporaryDirectory(), 'jobs')
  await using queue = await MiniQueue.open<{ job: string }>(directory, { maxAttempts: 1 })
  await queue.enqueue({ job: 'poison' })
  const [poison] = await queue.receive()
  await poison?.nack({ reason: 'no such address' })
  await queue.enqueue({ job: 'plain' })
  await queue.enqueue({ job: 'urgent' }, { priority: 5 })
  await queue.enqueue({ job: 'later' }, { delayMs: 3_600_000 })
  return directory
}

/** Where a command prints that has no terminal. */
const page = { style: (_name: string, text: string) => text, columns: Number.POSITIVE_INFINITY }

const lines = (text: string): unknown[] =>
  text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as unknown)

describe('the displayed messages of a queue', () => {
  const message = { payload: 1, bytes: 1, priority: 0, enqueuedAt: 0, attempts: 0 }
  const state = {
    ...emptyQueue(),
    messages: {
      1: { ...message, order: 9, reason: 'busy' },
      2: { ...message, order: 3, dueAt: 61_000 },
      3: { ...message, order: 4, dueAt: 500, enqueuedAt: 2000 },
      4: { ...message, order: 2, dueAt: 3000, priority: -1 },
      5: { ...message, order: 5, priority: 1 },
    },
    dead: { 10: { ...message, reason: 'x', diedAt: 0 }, 9: { ...message, reason: 'y', diedAt: 0 } },
  }

  test('are in delivery order: ready ones by priority, then place; delayed ones by due time', () => {
    const next = nextMessages(state, 9, 1000)
    expect(next.map(({ id, state: kind }) => `${id} ${kind}`)).toEqual(['5 waiting', '3 waiting', '1 waiting', '4 delayed', '2 delayed'])
    expect(next.map(({ reason }) => reason)).toEqual([null, null, 'busy', null, null])
    expect(nextMessages(state, 2, 1000).map(({ id }) => id)).toEqual([5, 3])
    expect(peekLines(next, 1000, page).map((line) => /^ *\d+ {2}(now|in .*?) {2}/.exec(line)?.[1])).toEqual([
      undefined, 'now', 'now', 'now', 'in 2 s', 'in 1 min 0 s',
    ])
    expect(deadLetters(state, 9).map(({ id }) => id)).toEqual([9, 10])
    expect(deadLetters(state, 1).map(({ id }) => id)).toEqual([9])
  })

  test('are counted correctly when the clock has been set back', () => {
    const facts = { waiting: 3, delayed: 2, dead: 2, oldestAgeMs: 1000, bytesOnDisk: 7 }
    expect(countsOf(state, { now: 1000, bytes: 7, directory: 'jobs' })).toMatchObject(facts)
    expect(countsOf(state, { now: -1000, bytes: 7, directory: 'jobs' })).toMatchObject({ oldestAgeMs: 0 })
    expect(countsOf(emptyQueue(), { now: 0, bytes: 7, directory: 'jobs' })).toMatchObject({ oldestAgeMs: null })
  })
})

describe('queue', () => {
  test('shows message counts by state, and changes nothing', async () => {
    const directory = await someQueue()
    const names = await readdir(directory)
    const { code, stdout } = await ministore(['queue', directory])
    expect(code).toBe(0)
    expect(stdout).toMatch(/waiting +2 \(ready or in flight\)\ndelayed +1\ndead +1\noldest +\d+ s old\non disk/)
    expect(JSON.parse((await ministore(['queue', directory, 'stats', '--json'])).stdout)).toMatchObject({
      directory,
      waiting: 2,
      delayed: 1,
      dead: 1,
      oldestAgeMs: expect.any(Number) as number,
      bytesOnDisk: expect.any(Number) as number,
    })
    expect(await readdir(directory)).toEqual(names)
  })

  test('peeks at the next messages, urgent ones first, delayed ones last', async () => {
    const directory = await someQueue()
    const { stdout } = await ministore(['queue', directory, 'peek', '--json'])
    expect(lines(stdout)).toMatchObject([
      { payload: { job: 'urgent' }, state: 'waiting', priority: 5, attempts: 0, dueAt: null, reason: null },
      { payload: { job: 'plain' }, state: 'waiting', priority: 0 },
      { payload: { job: 'later' }, state: 'delayed' },
    ])
    expect((await ministore(['queue', directory, 'peek', '--limit', '1'])).stdout).toMatch(
      /id +due +priority +attempts +enqueued \(UTC\) +payload\n +3 +now +5 +0 +[-\d]+ [:\d]+ +\{"job":"urgent"\}\n$/,
    )
  })

  test('lists, redrives and discards dead letters', async () => {
    const directory = await someQueue()
    const dead = lines((await ministore(['queue', directory, 'dead', '--json'])).stdout)
    expect(dead).toMatchObject([{ id: 1, reason: 'no such address', attempts: 1, payload: { job: 'poison' } }])
    expect((await ministore(['queue', directory, 'dead'])).stdout).toContain('no such address')
    expect((await ministore(['queue', directory, 'redrive', '1'])).stdout).toBe('Redriven: 1 dead letter.\n')
    expect((await ministore(['queue', directory, 'dead'])).stdout).toBe('There are no dead letters.\n')
    expect((await ministore(['queue', directory, 'discard', 'all', '--json'])).stdout).toBe(
      '{"action":"discard","count":0}\n',
    )
    expect(await ministore(['queue', directory, 'redrive', '99'])).toMatchObject({ code: 1, stdout: '' })
  })

  test('reads a queue that is open, and names the lock holder when asked to change it', async () => {
    const directory = await someQueue()
    await using queue = await MiniQueue.open(directory)
    await queue.enqueue({ job: 'new' })
    expect(JSON.parse((await ministore(['queue', directory, '--json'])).stdout)).toMatchObject({ waiting: 3 })
    const refused = await ministore(['queue', directory, 'redrive', 'all'])
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    if (process.platform === 'linux') expect(refused.stderr).toContain(`Process ${process.pid} (`)
  })

  test('counts all files, shows ten messages by default, and leaves the snapshots unchanged', async () => {
    const directory = join(await temporaryDirectory(), 'jobs')
    const queue = await MiniQueue.open(directory, { maxAttempts: 1 })
    await queue.enqueueAll(Array.from({ length: 12 }, (_, index) => ({ payload: index })))
    for (const message of await queue.receive({ max: 12 })) await message.nack({ reason: 'no' })
    await queue.enqueueAll(Array.from({ length: 12 }, (_, index) => ({ payload: index })))
    await queue.close()
    for (const action of ['peek', 'dead']) {
      expect(lines((await ministore(['queue', directory, action, '--json'])).stdout)).toHaveLength(10)
      expect((await ministore(['queue', directory, action])).stdout.split('\n')).toHaveLength(12)
      const all = lines((await ministore(['queue', directory, action, '--json', '--limit', '20'])).stdout) as Array<{ id: number }>
      const first = action === 'dead' ? 1 : 13
      expect(all.map(({ id }) => id)).toEqual(Array.from({ length: 12 }, (_, index) => first + index))
    }
    for (const sequence of [1, 2, 3]) {
      const reopened = await MiniQueue.open(directory, { keepSnapshots: 9 })
      await reopened.enqueue(sequence)
      await reopened.compact()
      await reopened.close()
    }
    const names = await readdir(directory)
    const snapshots = names.filter((name) => name.startsWith('snapshot-'))
    expect(snapshots.length).toBeGreaterThanOrEqual(3)
    const counted = names.filter((name) => /^(?:journal\.jsonl|snapshot-\d+\.json$)/.test(name))
    const sizes = await Promise.all(counted.map(async (name) => (await stat(join(directory, name))).size))
    const { bytesOnDisk } = JSON.parse((await ministore(['queue', directory, '--json'])).stdout) as { bytesOnDisk: number }
    expect(bytesOnDisk).toBe(sizes.reduce((sum, size) => sum + size, 0))
    expect((await ministore(['queue', directory, 'redrive', 'all', '--json'])).stdout).toBe('{"action":"redrive","count":12}\n')
    expect(await readdir(directory)).toEqual(expect.arrayContaining(snapshots))
  })

  test.each([
    [['frobnicate'], 'Expected ACTION to be one of stats, peek, dead, redrive, discard, got "frobnicate"'],
    [['redrive'], 'Expected ID to be the id of a dead letter or "all", got nothing'],
    [['discard', '0'], 'Expected ID to be the id of a dead letter or "all", got "0"'],
    [['peek', '3'], 'Expected no argument after peek, got "3"'],
  ])('misuse %j is refused with 2', async (words, message) => {
    const directory = await someQueue()
    const { code, stdout, stderr } = await ministore(['queue', directory, ...words])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
  })

  test('buries no message of a queue that allows more attempts than the default', async () => {
    const directory = join(await temporaryDirectory(), 'jobs')
    const options = { maxAttempts: 20 }
    const queue = await MiniQueue.open(directory, options)
    await queue.enqueue('precious')
    for (let attempt = 1; attempt <= 7; attempt++) await (await queue.receive())[0]?.nack({ delayMs: 0 })
    await queue.close()
    expect((await ministore(['queue', directory, 'discard', 'all'])).stdout).toBe('Discarded: 0 dead letters.\n')
    await using reopened = await MiniQueue.open(directory, options)
    expect(reopened.stats()).toMatchObject({ ready: 1, dead: 0 })
  })

  test('reports a state that is not a queue, and an id that is not a number', async () => {
    const directory = await temporaryDirectory()
    await new SnapStore(directory).create(null, 0)
    const { code, stderr } = await ministore(['queue', directory])
    expect(code).toBe(1)
    expect(stderr).toContain('is not that of a queue')
    await expect(MiniQueue.open(directory)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    expect((await ministore(['queue', await someQueue(), 'redrive', '9999999999999999'])).code).toBe(2)
  })

  test.each([
    ['an invalid date', { op: 'enqueue', at: 1e300, messages: [{ payload: 1, bytes: 1 }] }],
    ['an id that is the name of a prototype', { op: 'deliver', ids: ['__proto__'] }],
  ])('reports a journal with %s in one line, for every subcommand', async (_, mutation) => {
    const directory = await temporaryDirectory()
    const record = JSON.stringify(mutation)
    await writeFile(join(directory, 'journal.jsonl'), `// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n${record}\n`)
    for (const action of ['stats', 'peek', 'dead']) {
      const { code, stderr } = await ministore(['queue', directory, action])
      expect([code, stderr]).toEqual([1, expect.stringMatching(/^[^\n]*Expected a mutation of a queue[^\n]*\n$/)])
    }
    expect((await ministore(['queue', directory, 'redrive', 'all'])).code).toBe(1)
  })

  test('reports a directory without a queue, and creates none', async () => {
    const directory = join(await temporaryDirectory(), 'missing')
    const { code, stderr } = await ministore(['queue', directory])
    expect(code).toBe(1)
    expect(stderr).toContain('There is no queue in')
    await expect(readdir(directory)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})
