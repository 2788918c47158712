// The command line: finds the command, runs it, and turns errors into messages and exit codes.

import { createRequire } from 'node:module'

import { isMiniStoreError, messageOf, type MiniStoreError, propertyOf } from '../errors.ts'
import { nearest } from '../options.ts'
import { Arguments, type Command, commandHelp, generalHelp } from './command.ts'
import { append } from './commands/append.ts'
import { cat } from './commands/cat.ts'
import { compact } from './commands/compact.ts'
import { completion } from './commands/completion.ts'
import { demo } from './commands/demo.ts'
import { grep } from './commands/grep.ts'
import { inspect } from './commands/inspect.ts'
import { queue } from './commands/queue.ts'
import { repair } from './commands/repair.ts'
import { replicate } from './commands/replicate.ts'
import { serve } from './commands/serve.ts'
import { stats } from './commands/stats.ts'
import { tail } from './commands/tail.ts'
import { verify } from './commands/verify.ts'
import { CommandFailure, damageReport, damageText, exitCodes, Interrupted, UsageError } from './errors.ts'
import type { Io } from './io.ts'
import { lockState } from './journal.ts'
import { isClosedPipe, type Output, OutputError } from './output.ts'
import { jsonLine, shellWord, styleFor, visible, visibleLines } from './terminal.ts'

/** Every command, in the order of `--help`. */
const commands: readonly Command[] = [
  append, cat, tail, grep, inspect, verify, repair, compact, replicate, serve, stats, queue, demo, completion(() => commands),
]

function commandNamed(name: string | undefined): Command | undefined {
  return commands.find((command) => command.name === name)
}

/**
 * Runs a command line and resolves with the exit code once all output is written or has failed.
 * Never rejects.
 */
export async function run(given: readonly string[], io: Io): Promise<number> {
  const code = await outcomeOf(given, io)
  const interruption = await tryToFlush(io.stderr)
  return interruption === undefined ? code : interruption.exitCode
}

async function outcomeOf(given: readonly string[], io: Io): Promise<number> {
  try {
    const { code, isChange } = await dispatch(given, io)
    await flushResult(io.stdout, isChange)
    return code
  } catch (error) {
    return report(error, given, io)
  }
}

/** Prints the rest of a result. If the reader has closed the pipe, the exit code still holds. */
async function flushResult(output: Output, isChange: boolean): Promise<void> {
  try {
    await output.flush()
  } catch (error) {
    if (isClosedPipe(error)) return
    if (!isChange || !(error instanceof OutputError)) throw error
    // Reported as a failure of the work, this would invite the user to repeat a change already
    // made.
    const message = `The work was done, but its result could not be printed: ${messageOf(error.cause)}`
    throw new CommandFailure(message, { cause: error, code: outputFailed, details: { isDone: true } })
  }
}

const outputFailed = 'ERR_OUTPUT'

/** The result of a command. */
interface Done {
  readonly code: number
  /** Whether the command was called to change something. The work is done by then. */
  readonly isChange: boolean
}

async function dispatch(given: readonly string[], io: Io): Promise<Done> {
  const [name, ...rest] = given
  const text = informationFor(name ?? '--help', rest, io.stdout.columns)
  if (text !== undefined) {
    await io.stdout.write(text)
    return { code: exitCodes.ok, isChange: false }
  }
  const command = commandNamed(name)
  if (command === undefined) throw unknownCommand(String(name))
  const args = Arguments.parse(command, rest)
  const isChange = command.changes?.(args) ?? args.flag('write')
  return { code: await command.run(args, io), isChange }
}

/** Returns the help or the version if that is what the words ask for. */
function informationFor(name: string, rest: readonly string[], columns: number): string | undefined {
  if (name === '--version') {
    const { version } = createRequire(import.meta.url)('../../package.json') as { version: string }
    return `${version}\n`
  }
  const isHelp = ['--help', '-h', 'help'].includes(name)
  const command = commandNamed(isHelp ? rest[0] : name)
  if (isHelp && command === undefined) return generalHelp(commands, columns)
  const end = rest.indexOf('--')
  const options = end === -1 ? rest : rest.slice(0, end)
  const isAsked = isHelp || options.includes('--help') || options.includes('-h')
  return command !== undefined && isAsked ? commandHelp(command, columns) : undefined
}

function unknownCommand(name: string): UsageError {
  const near = nearest(
    name,
    commands.map((command) => command.name),
  )
  const hint = near === undefined ? '' : `: did you mean ${near}?`
  return new UsageError(`There is no command ${JSON.stringify(name)}${hint}`)
}

/** Reports an error as text or, with `--json`, as one object. Resolves with the exit code. */
async function report(error: unknown, given: readonly string[], io: Io): Promise<number> {
  // A command that fails here had only printing left to do.
  if (isClosedPipe(error)) return exitCodes.ok
  // Text printed earlier must appear before the error.
  const interruption = await tryToFlush(io.stdout)
  if (error instanceof Interrupted) return error.exitCode
  const isMisuse = error instanceof UsageError
  const { message, code, advice } = await describe(error, commandNamed(given[0])?.name)
  if (given.includes('--json')) {
    io.stderr.tell(jsonLine({ error: { code, message, advice, ...detailsOf(error) } }))
  } else {
    const style = styleFor(io.stderr, io)
    // Only messages of this program may span several lines. In other messages a line feed may come
    // from quoted data.
    const text = isMisuse || code === undefined ? visibleLines(message) : visible(message)
    io.stderr.tell(`${style('red', 'ministore:')} ${text}\n${advice === undefined ? '' : `${visible(advice)}\n`}`)
  }
  if (interruption !== undefined) return interruption.exitCode
  return isMisuse ? exitCodes.misuse : exitCodes.failed
}

/**
 * Flushes an output and drops a failure to print, because nothing is left to report it to. Resolves
 * with the interruption that ended the wait for a reader, or undefined.
 */
async function tryToFlush(output: Output): Promise<Interrupted | undefined> {
  try {
    await output.flush()
    return undefined
  } catch (error) {
    return error instanceof Interrupted ? error : undefined
  }
}

function detailsOf(error: unknown): object {
  if (error instanceof CommandFailure) return error.details
  if (!isMiniStoreError(error)) return {}
  const { path, segment, line, offset, sequence } = error
  return { path, segment, line, offset, sequence }
}

interface Description {
  readonly message: string
  /** Stable, for programs. */
  readonly code: string | undefined
  readonly advice?: string | undefined
}

async function describe(error: unknown, topic: string | undefined): Promise<Description> {
  const message = messageOf(error)
  if (error instanceof UsageError) {
    const words = topic === undefined ? '--help' : `${topic} --help`
    return { message, code: 'ERR_USAGE', advice: `Try: ministore ${words}` }
  }
  if (isMiniStoreError(error)) {
    // If the codec of a command refuses a line, the line is not JSON. If the error names no
    // segment, the journal is not damaged: a snapshot holds data that is not the state of a queue.
    const isDamage =
      error.segment !== undefined && ['ERR_MINISTORE_CORRUPT', 'ERR_MINISTORE_CODEC'].includes(error.code)
    if (!isDamage) return { message, code: error.code, advice: await adviceForLocked(error) }
    const { path } = error
    const advice =
      topic === 'repair' || path === undefined
        ? undefined
        : `To see all damage: ministore verify ${shellWord(path)}. To repair it: ministore repair ${shellWord(path)}`
    const text = `The journal ${path} is damaged at ${damageText(damageReport(error))}`
    return { message: text, code: 'ERR_MINISTORE_CORRUPT', advice }
  }
  if (error instanceof CommandFailure) return { message, code: error.code }
  if (error instanceof OutputError) return { message, code: outputFailed }
  const given = propertyOf(error, 'code')
  const code = typeof given === 'string' ? given : undefined
  // Neither a system error nor an error class of this library or program: a bug in this program.
  // Its stack helps to find it.
  const stack = code === undefined ? propertyOf(error, 'stack') : undefined
  return { message: typeof stack === 'string' ? stack : message, code }
}

/** Returns advice on the process to stop, or undefined if the error is not about a lock. */
async function adviceForLocked({ code, path }: MiniStoreError): Promise<string | undefined> {
  if (code !== 'ERR_MINISTORE_LOCKED' || path === undefined) return undefined
  const lockPath = `${path}.lock`
  const lock = await lockState({ lock: lockPath, path })
  if (lock.state === 'held' && lock.holder !== undefined) {
    const { pid, command } = lock.holder
    return `Process ${pid}${command === '' ? '' : ` (${command})`} holds the lock. Stop it first.`
  }
  return `Stop the program that writes to it first. To find it, run as root: fuser -v ${shellWord(lockPath)} (or lsof)`
}
