import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { type FileHandle, open, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'

import { describe, expect, onTestFinished, test } from 'vitest'

import { editFile, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { main, type Outcome, type Running, start } from './run-command.ts'

const noFullDevice = existsSync('/dev/full') ? undefined : 'there is no /dev/full here'

/** So many records with a damaged line behind every hundredth. */
async function damagedJournal(records: number): Promise<string> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  const lines = Array.from({ length: records }, (_, index) => {
    const line = `{"index":${index}}`
    return index % 100 === 99 ? `${line}\nbad` : line
  })
  await writeSegment(path, '// MINISTORE JOURNAL v0.2.0 seq=1', lines)
  return path
}

/** Where nothing can be written: the device of a full disk. */
async function fullDisk(): Promise<FileHandle> {
  const handle = await open('/dev/full', 'w')
  onTestFinished(() => handle.close())
  return handle
}

/** Runs a command with one of its outputs on a full disk; that one is empty in what resolves. */
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

/** What there is to see of a command whose standard output is closed. */
async function ending(child: Running): Promise<Pick<Outcome, 'code' | 'stderr'>> {
  const [stderr, [code]] = await Promise.all([
    text(child.stderr),
    once(child, 'exit') as Promise<[number | null]>,
  ])
  return { code, stderr }
}

describe('standard error that cannot be written changes nothing of the work and its exit code', () => {
  test('cat --salvage prints every record where nobody reads of the damage', async () => {
    const child = start(['cat', await damagedJournal(20_000), '--salvage'])
    child.stderr.destroy()
    const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, 'exit') as Promise<[number]>])
    expect([stdout.split('\n').length - 1, code]).toEqual([20_000, 1])
  })

  test.skipIf(noFullDevice)('nor does one on a full disk', async () => {
    const { code, stdout } = await runOnFullDisk('stderr', ['cat', await damagedJournal(20_000), '--salvage'])
    expect([stdout.split('\n').length - 1, code]).toEqual([20_000, 1])
    expect(await runOnFullDisk('stderr', ['cat'])).toMatchObject({ code: 2, stdout: '' })
  })
})

describe('standard output that nobody reads on', () => {
  test('ends no verify: its exit code tells of all damage', async () => {
    const child = start(['verify', await damagedJournal(30_000)])
    child.stdout.destroy()
    expect(await ending(child)).toEqual({ code: 1, stderr: '' })
    const sound = start(['verify', await damagedJournal(10)])
    sound.stdout.destroy()
    expect(await ending(sound)).toEqual({ code: 0, stderr: '' })
  })

  test.each(['inspect', 'repair', 'stats'])('nor does it take the damage out of the exit code of %s', async (name) => {
    const path = await damagedJournal(100)
    if (name === 'inspect') await editFile(path, (bytes) => Buffer.from(bytes.toString().replace('seq=1', 'seq=x')))
    await writeFile(join(dirname(path), 'snapshot-1.json'), 'no snapshot')
    const child = start([name, name === 'stats' ? dirname(path) : path])
    child.stdout.destroy()
    expect(await ending(child)).toEqual({ code: 1, stderr: '' })
  })

  test.each([['cat', '--salvage'], ['tail']])('ends %s %s quietly with 0: what it was to do is over', async (...args) => {
    const path = await damagedJournal(150)
    const child = start([...args, path])
    child.stdout.destroy()
    child.stderr.resume()
    expect(await ending(child)).toMatchObject({ code: 0 })
  })
})
