import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'

import { messageOf } from '../errors.ts'
import { systemErrorCode } from '../fs/file-system.ts'
import type { MiniStore } from '../index.ts'
import { crashAndGoOn, type CrashHistory } from './demo/crash-rounds.ts'
import { openJournal, recordsToSend } from './demo/demo-journal.ts'
import { Printer } from './demo/printer.ts'
import { followLive, replayAll, replayToReport } from './demo/replays.ts'
import { verify } from './demo/verification.ts'
import { isBundle, type WebhookRecord } from './demo/webhook-records.ts'
import { writeOn, writerArgument } from './demo/writer-process.ts'
import { exitCodes } from './exit-codes.ts'
import { isClosedPipe, OutputError } from './output.ts'
import { shellWord } from './terminal/shell-word.ts'
import { visible } from './terminal/style.ts'

// The project's main job, `npm run demo`: real records, a writer that is killed, recovery, and three ways to replay.
// It starts itself, with an argument, as the writer.

const [, , argument, writerPath] = process.argv
if (argument === writerArgument && writerPath !== undefined) {
  await writeOn(writerPath)
} else {
  process.exitCode = await main()
}

/** Resolves with the exit code. */
async function main(): Promise<number> {
  const printer = new Printer({ write, isColored: process.stdout.isTTY && !process.env['NO_COLOR'] })
  process.stdout.on('error', endUnheard)
  // Heard or not, it changes nothing.
  process.stderr.on('error', () => {})
  const start = performance.now()
  try {
    await demonstrate(printer)
  } catch (error) {
    const code = systemErrorCode(error)
    process.stderr.write(`\nThe demo broke off: ${visible(messageOf(error))}${code !== undefined ? ` (${code})` : ''}\n`)
    return 1
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  printer.line('')
  printer.line(`${printer.result}, after ${seconds} s.`)
  return printer.exitCode
}

/** Nobody reads on, or nothing can be written: there is no point in going on. The writer ends when this process does. */
function endUnheard(cause: Error): never {
  const error = new OutputError(cause)
  if (isClosedPipe(error)) process.exit(exitCodes.ok)
  process.stderr.write(`ministore: ${visible(error.message)}\n`)
  process.exit(exitCodes.failed)
}

function write(text: string): void {
  process.stdout.write(text)
}

async function demonstrate(printer: Printer): Promise<void> {
  const records = recordsToSend()
  const path = join(await mkdtemp(join(tmpdir(), 'ministore-demo-')), 'journal.jsonl')

  printer.step('Real records')
  const bundles = records.filter(isBundle).length
  const types = new Set(records.map(({ event }) => event)).size - 1
  printer.line(`${records.length - bundles} webhook payloads of GitHub, ${types} types of event (@octokit/webhooks-examples),`)
  printer.line(`and ${bundles} bundles of all of them, several times over: large enough for a kill to tear them.`)
  printer.line(`Journal: ${visible(path)}`)

  printer.step('A child process appends them, one fsync each, and is killed (SIGKILL) in the middle')
  const history = await crashAndGoOn(printer, { program: import.meta.filename, path, records })
  printer.line(`Each writer went on behind what was there; the last one, not killed, came to record ${records.length}.`)

  await using store = await openJournal(path)
  printer.step('What recovery did, and whether all that was acknowledged is there')
  await verify(printer, { store, records, history })

  printer.step('Three ways to replay')
  await replayAll(printer, store, records)
  printer.line('')
  await replayToReport(printer, store)
  printer.line('')
  await followLive(printer, store, records)

  printer.step('Look at it yourself: these are plain text files, and they stay')
  for (const command of commandsToTry(store, history)) printer.line(command)
}

function commandsToTry(store: MiniStore<WebhookRecord>, history: CrashHistory): string[] {
  const name = basename(store.path)
  const oldest = basename(store.segments.at(0)?.path ?? name)
  const evidence = history.kills.findLast((round) => round.torn?.savedAs !== undefined)?.torn?.savedAs
  return [
    `cd ${shellWord(store.path.slice(0, -name.length - 1))}`,
    ...withNotes([
      ['ls -l', 'segments, seal, lock and evidence'],
      [`head -n 3 ${oldest} | cut -c 1-80`, 'the header and the first two records'],
      [`tail -n 1 ${name} | jq .event`, 'the last record'],
      ...(evidence === undefined ? [] : [[`tail -c 80 ${basename(evidence)}`, 'where the write broke off'] as const]),
    ]),
  ]
}

/** Commands with comments, aligned. */
function withNotes(commands: ReadonlyArray<readonly [command: string, note: string]>): string[] {
  const width = Math.max(...commands.map(([command]) => command.length))
  return commands.map(([command, note]) => `${command.padEnd(width)}  # ${note}`)
}
