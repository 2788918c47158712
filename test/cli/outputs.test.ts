import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { type FileHandle, open, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'

import { describe, expect, onTestFinished, test } from 'vitest'

import { Interrupted } from '../../src/cli/errors.ts'
import { outlineOf, unlessAborted } from '../../src/cli/journal.ts'
import { addBytes, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { main, ministore, type Outcome, outcomeOf, replaceIn, type Running, start, textUntil } from './run-command.ts'

const noFullDevice = existsSync('/dev/full') ? undefined : 'there is no /dev/full here'

/** A journal of this many records, with a damaged line after every hundredth record. */
async function damagedJournal(records: number): Promise<string> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  const lines = Array.from({ length: records }, (_, index) => {
    const line = `{"index":${index}}`
    return index % 100 === 99 ? `${line}\nbad` : line
  })
  await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', lines)
  return path
}

/** The error message of a stream on a full disk. */
const stdoutFailure = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })

/** The device that reports a full disk on every write. */
async function fullDisk(): Promise<FileHandle> {
  const handle = await open('/dev/full', 'w')
  onTestFinished(() => handle.close())
  return handle
}

/** Runs a command with one of its outputs on a full disk; that output is empty in the result. */
async function runOnFullDisk(full: 'stdout' | 'stderr', args: readonly string[], input = ''): Promise<Outcome> {
  const { fd } = await fullDisk()
  const outputs = full === 'stdout' ? ([fd, 'pipe'] as const) : (['pipe', fd] as const)
  const child = spawn(process.execPath, [main, ...args], { stdio: ['pipe', ...outputs] })
  onTestFinished(() => void child.kill('SIGKILL'))
  child.stdin?.on('error', () => {})
  child.stdin?.end(input)
  const [stdout, stderr, [code]] = await Promise.all([
    child.stdout === null ? '' : text(child.stdout),
    child.stderr === null ? '' : text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { code, stdout, stderr }
}

/** The observable outcome of a command whose standard output is closed. */
async function ending(child: Running): Promise<Pick<Outcome, 'code' | 'stderr'>> {
  const [stderr, [code]] = await Promise.all([
    text(child.stderr),
    once(child, 'exit') as Promise<[number | null]>,
  ])
  return { code, stderr }
}

describe('an unwritable standard error changes neither the work nor the exit code', () => {
  test('cat --salvage prints every record when standard error is closed', async () => {
    const child = start(['cat', await damagedJournal(20_000), '--salvage'])
    child.stderr.destroy()
    const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, 'exit') as Promise<[number]>])
    expect([stdout.split('\n').length - 1, code]).toEqual([20_000, 1])
  })

  test.skipIf(noFullDevice)('cat --salvage prints every record when standard error is on a full disk', async () => {
    const { code, stdout } = await runOnFullDisk('stderr', ['cat', await damagedJournal(20_000), '--salvage'])
    expect([stdout.split('\n').length - 1, code]).toEqual([20_000, 1])
    expect(await runOnFullDisk('stderr', ['cat'])).toMatchObject({ code: 2, stdout: '' })
  })
})

describe('a standard output closed by its reader', () => {
  test('does not end verify: its exit code still covers all damage', async () => {
    const child = start(['verify', await damagedJournal(30_000)])
    child.stdout.destroy()
    expect(await ending(child)).toEqual({ code: 1, stderr: '' })
    const sound = start(['verify', await damagedJournal(10)])
    sound.stdout.destroy()
    expect(await ending(sound)).toEqual({ code: 0, stderr: '' })
  })

  test.each(['inspect', 'repair', 'stats'])('does not remove the damage from the exit code of %s', async (name) => {
    const path = await damagedJournal(100)
    if (name === 'inspect') await replaceIn(path, 'seq=1', 'seq=x')
    await writeFile(join(dirname(path), 'snapshot-1.json'), 'no snapshot')
    const child = start([name, name === 'stats' ? dirname(path) : path])
    child.stdout.destroy()
    expect(await ending(child)).toEqual({ code: 1, stderr: '' })
  })

  test.each([['cat --salvage'], ['tail']])('ends %s quietly with exit code 0: no more output is needed', async (words) => {
    const child = start([...words.split(' '), await damagedJournal(150)])
    child.stdout.destroy()
    child.stderr.resume()
    expect(await ending(child)).toMatchObject({ code: 0 })
  })
})

test('messages of more than one line are shown unchanged, except for terminal control characters', async () => {
  const { code, stderr } = await ministore(['cat', '--from', '-1', 'a\u001B[2Jb'])
  expect(code).toBe(2)
  expect(stderr).toMatch(/^ministore: .* argument is ambiguous\.\nDid you forget .*\n.*\nTry: ministore cat --help\n$/)
  const unknown = await ministore(['cat', 'a\u001B[2Jb', 'journal'])
  expect(unknown.stderr).not.toContain('\u001B')
  const absent = await ministore(['cat', join(await temporaryDirectory(), 'a\u001B[2Jb')])
  expect(absent.stderr).toContain(String.raw`a\x1b[2Jb`)
})

describe('a demo whose output', () => {
  test('is closed by its reader ends quietly, with its child processes', async () => {
    const child = start(['demo'])
    await textUntil(child.stdout, '2. A writer')
    child.stdout.destroy()
    expect(await ending(child), 'the writers have closed its standard error').toEqual({ code: 0, stderr: '' })
  })

  test.skipIf(noFullDevice)('cannot be written says so in one line', async () => {
    expect(await runOnFullDisk('stdout', ['demo'])).toEqual({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^ministore: Could not print: ENOSPC: .*\n$/) as unknown,
    })
  })
})

describe.skipIf(noFullDevice)('standard output that cannot be written', () => {
  test('is reported apart from the work, which was done', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const done = /^ministore: The work was done, but its result could not be printed: ENOSPC: [^\n]*\n$/
    expect(await runOnFullDisk('stdout', ['append', path], '5\n')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(done) as unknown,
    })
    expect((await ministore(['cat', path])).stdout).toBe('5\n')
    await addBytes(path, '6\nbad\n')
    const repaired = await runOnFullDisk('stdout', ['repair', path, '--truncate-at', '3', '--write'])
    expect(repaired).toMatchObject({ code: 1, stderr: expect.stringMatching(done) as unknown })
    const { stderr } = await runOnFullDisk('stdout', ['append', '--json', path], '7\n')
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'ERR_OUTPUT', isDone: true } })
    expect((await ministore(['cat', path])).stdout).toBe('5\n6\n7\n')
    const cat = await runOnFullDisk('stdout', ['cat', path])
    expect(cat).toEqual(await ministore(['cat', path], { stdoutFailure }))
  })

  test.each(['cat --to 100', 'cat --salvage', 'tail', 'inspect', 'verify', 'repair', 'compact --before 1'])(
    'is all that %s, which changes nothing, reports',
    async (words) => {
      const path = await damagedJournal(150)
      const failed = await ministore([...words.split(' '), path], { stdoutFailure })
      expect(failed.code).toBe(1)
      expect(failed.stderr).toMatch(/^(?:damage: .*\n)*ministore: Could not print: ENOSPC: .*\n$/)
      const { stderr } = await ministore([...words.split(' '), path, '--json'], { stdoutFailure })
      const { error } = JSON.parse(stderr.split('\n').at(-2) ?? '') as { error: object }
      expect(error).toMatchObject({ code: 'ERR_OUTPUT' })
      expect(error).not.toHaveProperty('isDone')
    },
  )
})

describe.skipIf(process.platform === 'win32')('a signal ends at once what waits for its reader', () => {
  test.each([
    ['cat', 'SIGTERM', 143, ['cat']],
    ['cat', 'SIGINT', 130, ['cat']],
    ['cat --salvage', 'SIGTERM', 143, ['cat', '--salvage']],
    ['tail', 'SIGTERM', 143, ['tail', '-n', '50000']],
    ['tail -f', 'SIGTERM', 0, ['tail', '-f', '-n', '50000']],
    ['tail -f', 'SIGINT', 0, ['tail', '-f', '-n', '50000']],
  ] as const)('%s, on %s, with %i', async (_name, signal, code, args) => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const lines = Array.from({ length: 50_000 }, (_, index) => `"${index}${'x'.repeat(100)}"`)
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', lines)
    const child = start([...args, path])
    await once(child.stdout, 'readable')
    child.kill(signal)
    expect((await once(child, 'exit'))[0]).toBe(code)
  })

  test('verify, which has read everything', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', Array<string>(6000).fill('bad'))
    const child = start(['verify', path])
    await once(child.stdout, 'readable')
    child.kill('SIGTERM')
    expect((await once(child, 'exit'))[0]).toBe(143)
  })

  test('cat --salvage, which waits for the reader of its standard error', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const lines = [...Array<string>(6000).fill('bad'), '"the last"']
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', lines)
    const child = start(['cat', '--salvage', path])
    await textUntil(child.stdout, 'the last')
    child.kill('SIGTERM')
    expect((await once(child, 'exit'))[0]).toBe(143)
  })

  test('and the demo with its child processes', async () => {
    const child = start(['demo'])
    await textUntil(child.stdout, '2. A writer')
    child.kill('SIGTERM')
    expect(await outcomeOf(child), 'the writers have closed its outputs').toMatchObject({ code: 143, stderr: '' })
  })

  test('and nothing starts afterwards', async () => {
    const reason = new Interrupted('SIGINT')
    let starts = 0
    const begin = async (): Promise<void> => void starts++
    await expect(unlessAborted(AbortSignal.abort(reason), begin)).rejects.toBe(reason)
    expect(starts).toBe(0)
    await unlessAborted(new AbortController().signal, begin)
    expect(starts).toBe(1)
  })

  test('reading the outline of a journal before anything is printed', async () => {
    const stop = new AbortController()
    const reading = outlineOf(await damagedJournal(100), { signal: stop.signal })
    const reason = new Interrupted('SIGTERM')
    stop.abort(reason)
    await expect(reading).rejects.toBe(reason)
  })

  test.each(['cat', 'tail', 'verify', 'inspect', 'stats'])('%s, which reads before it prints', async (name) => {
    const path = await damagedJournal(100)
    const stop = new AbortController()
    const running = ministore([name, name === 'stats' ? dirname(path) : path], { signal: stop.signal })
    stop.abort(new Interrupted('SIGTERM'))
    expect(await running).toMatchObject({ code: 143 })
  })
})
