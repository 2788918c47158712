import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'

import { hasCode } from '../../errors.ts'
import { listIfPresent } from '../../fs/durable.ts'
import { nodeFileSystem } from '../../fs/node.ts'
import { MiniQueue, type QueueOptions } from '../../miniqueue/index.ts'
import { emptyQueue, type QueueMutation, type QueueState } from '../../miniqueue/state.ts'
import { assertQueue } from '../../miniqueue/shape.ts'
import { transition } from '../../miniqueue/transitions.ts'
import { readState } from '../read-state.ts'
import { journalName } from '../../ministate/settings.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes, UsageError } from '../exit-codes.ts'
import type { Io } from '../io.ts'
import { deadLetters, deadText, jsonLines, nextMessages, peekText, statsOf, statsText } from '../queue-view.ts'
import { jsonLine } from '../terminal/style.ts'
import { plural } from '../terminal/units.ts'
import { unlessAborted } from '../journal.ts'

const actions = ['stats', 'peek', 'dead', 'redrive', 'discard'] as const

type Action = (typeof actions)[number]

export const queue: Command = {
  name: 'queue',
  summary: 'shows a queue and its dead letters, redrives or discards them',
  positionals: ['DIR'],
  optionalPositionals: ['ACTION', 'ID'],
  options: {
    limit: { value: 'N', help: 'peek, dead: at most so many; 10 unless given' },
    json: commonOptions.json,
  },
  details: [
    'ACTION is one of:',
    '  stats          how many messages there are of each kind; what is done when none is given',
    '  peek           the messages that are delivered next; whether one is in flight only its process knows',
    '  dead           the dead letters, with what was wrong',
    '  redrive ID     makes a dead letter a message again, with no attempts counted; ID may be all',
    '  discard ID     removes a dead letter for good; ID may be all',
    'The first three take no lock. The others need that no process has the queue open.',
  ],
  examples: [
    'ministore queue jobs',
    'ministore queue jobs dead --json | jq .payload',
    'ministore queue jobs redrive all',
  ],
  changes: (args) => changesDead(actionOf(args.optionalPositional(1))),
  run: runQueue,
}

async function runQueue(args: Arguments, io: Io): Promise<number> {
  const directory = args.positional(0)
  const action = actionOf(args.optionalPositional(1))
  const id = idOf(action, args.optionalPositional(2))
  const limit = args.integer('limit') ?? 10
  const isJson = args.flag('json')
  const bytes = await bytesIn(directory)
  const text =
    id === undefined
      ? await unlessAborted(io.signal, () => look(action, { directory, bytes, limit, isJson }))
      : await changeDead(action === 'redrive' ? 'redrive' : 'discard', { directory, id, isJson })
  await io.stdout.write(text)
  return exitCodes.ok
}

/**
 * With these options an open queue does no work of its own: no message dies because of its
 * attempts, nothing is compacted, and no snapshot is removed. The limits of the program that owns
 * the queue and the snapshots it keeps are unknown here.
 */
const asItIs: QueueOptions = {
  maxAttempts: Number.POSITIVE_INFINITY,
  compaction: { minBytes: Number.MAX_SAFE_INTEGER },
  keepSnapshots: Number.MAX_SAFE_INTEGER,
}

async function changeDead(
  action: 'redrive' | 'discard',
  { directory, id, isJson }: { readonly directory: string; readonly id: number | 'all'; readonly isJson: boolean },
): Promise<string> {
  await using opened = await MiniQueue.open(directory, asItIs)
  const count = action === 'redrive' ? await opened.redrive(id) : await opened.discard(id)
  if (isJson) return jsonLine({ action, count })
  return `${action === 'redrive' ? 'Redriven' : 'Discarded'}: ${plural(count, 'dead letter')}.\n`
}

interface Look {
  readonly directory: string
  readonly bytes: number
  readonly limit: number
  readonly isJson: boolean
}

async function look(action: Action, { directory, bytes, limit, isJson }: Look): Promise<string> {
  const path = resolve(directory)
  const { state } = await readState<QueueState, QueueMutation>(directory, {
    initialState: emptyQueue,
    mutator: (current, mutation) => {
      assertQueue(current, path)
      transition(current, mutation)
    },
  })
  assertQueue(state, path)
  const now = Date.now()
  if (action === 'dead') {
    const letters = deadLetters(state, limit)
    return isJson ? jsonLines(letters) : deadText(letters)
  }
  if (action === 'peek') {
    const messages = nextMessages(state, limit, now)
    return isJson ? jsonLines(messages) : peekText(messages, now)
  }
  const facts = statsOf(state, { now, bytes, directory })
  return isJson ? jsonLine(facts) : statsText(facts)
}

function actionOf(given: string | undefined): Action {
  if (given === undefined) return 'stats'
  const action = actions.find((name) => name === given)
  if (action !== undefined) return action
  throw new UsageError(`Expected an action, one of ${actions.join(', ')}, got ${JSON.stringify(given)}`)
}

function changesDead(action: Action): action is 'redrive' | 'discard' {
  return action === 'redrive' || action === 'discard'
}

/** Returns undefined for an action without an id. */
function idOf(action: Action, given: string | undefined): number | 'all' | undefined {
  if (!changesDead(action)) {
    if (given !== undefined) throw new UsageError(`Expected nothing behind ${action}, got ${JSON.stringify(given)}`)
    return undefined
  }
  if (given === 'all') return given
  if (given !== undefined && /^[1-9]\d*$/.test(given) && Number.isSafeInteger(Number(given))) return Number(given)
  const got = given === undefined ? 'nothing' : JSON.stringify(given)
  throw new UsageError(`Expected the id of a dead letter or all, got ${got}`)
}

const ourName = /^(?:journal\.jsonl|snapshot-\d+\.json$)/

/**
 * Returns the total size of the queue's files in bytes.
 *
 * @throws {CommandFailure} if there is no queue.
 */
async function bytesIn(directory: string): Promise<number> {
  let bytes = 0
  const place = resolve(directory)
  const names = (await listIfPresent(nodeFileSystem, place)).filter((entry) => ourName.test(entry))
  for (const name of names) {
    try {
      bytes += (await stat(join(place, name))).size
    } catch (error) {
      // The process that has the queue open may have removed the file. Or the file is a dangling
      // link, which opening the queue reports.
      if (!hasCode(error, 'ENOENT')) throw error
    }
  }
  if (names.length > 0) return bytes
  throw new CommandFailure(`There is no queue in ${place}: neither ${journalName} nor a snapshot`)
}
