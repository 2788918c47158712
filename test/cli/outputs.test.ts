import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'

import { describe, expect, onTestFinished, test } from 'vitest'

import { writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { main, type Outcome, start } from './run-command.ts'

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
