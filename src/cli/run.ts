import { isMiniStoreError, messageOf, type MiniStoreError, propertyOf } from '../errors.ts'
import { nearest } from '../options.ts'
import { Arguments } from './arguments.ts'
import type { Command, CommandOption } from './command.ts'
import { damageReport, damageText } from './damage.ts'
import { CommandFailure, exitCodes, Interrupted, UsageError } from './exit-codes.ts'
import type { Io } from './io.ts'
import { lockState } from './lock-state.ts'
import { isClosedPipe, type Output, OutputError } from './output.ts'
import { shellWord } from './terminal/shell-word.ts'
import { jsonLine, styleFor, visible, visibleLines } from './terminal/style.ts'
import { formatTable } from './terminal/table.ts'

/**
 * Runs a command line and resolves with the exit code once all output is written or has failed.
 * Never rejects.
 */
export async function run(
  given: readonly string[],
  io: Io,
  program: { readonly commands: readonly Command[]; readonly version: string },
): Promise<number> {
  const code = await outcomeOf(given, io, program)
  const interruption = await tryToFlush(io.stderr)
  return interruption === undefined ? code : interruption.exitCode
}

async function outcomeOf(
  given: readonly string[],
  io: Io,
  program: { readonly commands: readonly Command[]; readonly version: string },
): Promise<number> {
  try {
    const { code, isChange } = await dispatch(given, io, program)
    await flushResult(io.stdout, isChange)
    return code
  } catch (error) {
    return report(error, given, io, program)
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
    const message = `Could not print the result: ${messageOf(error.cause)}; the work itself was done`
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

const shown: Done = { code: exitCodes.ok, isChange: false }

async function dispatch(
  given: readonly string[],
  io: Io,
  { commands, version }: { readonly commands: readonly Command[]; readonly version: string },
): Promise<Done> {
  const [name, ...rest] = given
  if (name === undefined) throw new UsageError('Expected a command, got nothing')
  if (['--help', '-h', 'help'].includes(name)) {
    const topic = commands.find((command) => command.name === rest[0])
    await io.stdout.write(topic === undefined ? generalHelp(commands) : commandHelp(topic))
    return shown
  }
  if (name === '--version') {
    await io.stdout.write(`${version}\n`)
    return shown
  }
  const command = commands.find((candidate) => candidate.name === name)
  if (command === undefined) throw unknownCommand(name, commands)
  const end = rest.indexOf('--')
  const options = end === -1 ? rest : rest.slice(0, end)
  if (options.includes('--help') || options.includes('-h')) {
    await io.stdout.write(commandHelp(command))
    return shown
  }
  const args = Arguments.parse(command, rest)
  const isChange = command.changes?.(args) ?? args.flag('write')
  return { code: await command.run(args, io), isChange }
}

function unknownCommand(name: string, commands: readonly Command[]): UsageError {
  const near = nearest(
    name,
    commands.map((command) => command.name),
  )
  const hint = near === undefined ? '' : `: did you mean ${near}?`
  return new UsageError(`There is no command ${JSON.stringify(name)}${hint}`)
}

/** Reports an error as text or, with `--json`, as one object. Resolves with the exit code. */
async function report(
  error: unknown,
  given: readonly string[],
  io: Io,
  program: { readonly commands: readonly Command[] },
): Promise<number> {
  // A command that fails here had only printing left to do.
  if (isClosedPipe(error)) return exitCodes.ok
  // Text printed earlier must appear before the error.
  const interruption = await tryToFlush(io.stdout)
  if (error instanceof Interrupted) return error.exitCode
  const isMisuse = error instanceof UsageError
  const [name] = given
  const topic = program.commands.some((command) => command.name === name) ? name : undefined
  const { message, code, advice } = await describe(error, topic)
  if (given.includes('--json')) {
    io.stderr.tell(jsonLine({ error: { code, message, advice, ...detailsOf(error) } }))
  } else {
    const style = styleFor(io.stderr, io)
    // Only messages of this program may span several lines. In other messages a line feed may come
    // from quoted data.
    const text = isMisuse || code === undefined ? visibleLines(message) : visible(message)
    const lines = [
      `${style('red', 'ministore:')} ${text}`,
      ...(advice === undefined ? [] : [visible(advice)]),
    ]
    io.stderr.tell(`${lines.join('\n')}\n`)
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
  readonly advice: string | undefined
}

async function describe(error: unknown, topic: string | undefined): Promise<Description> {
  const message = messageOf(error)
  if (error instanceof UsageError) {
    return {
      message,
      code: 'ERR_USAGE',
      advice: `Try: ministore ${topic === undefined ? '' : `${topic} `}--help`,
    }
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
        : `To see all damage: ministore verify ${shellWord(path)}. To mend it: ministore repair ${shellWord(path)}`
    const text = `The journal ${path} is damaged at ${damageText(damageReport(error))}`
    return { message: text, code: 'ERR_MINISTORE_CORRUPT', advice }
  }
  if (error instanceof CommandFailure) return { message, code: error.code, advice: undefined }
  if (error instanceof OutputError) return { message, code: outputFailed, advice: undefined }
  const given = propertyOf(error, 'code')
  const code = typeof given === 'string' ? given : undefined
  // Neither a system error nor an error class of this library or program: a bug in this program.
  // Its stack helps to find it.
  const stack = code === undefined ? propertyOf(error, 'stack') : undefined
  return { message: typeof stack === 'string' ? stack : message, code, advice: undefined }
}

/** Returns advice on the process to stop, or undefined if the error is not about a lock. */
async function adviceForLocked({ code, path }: MiniStoreError): Promise<string | undefined> {
  if (code !== 'ERR_MINISTORE_LOCKED' || path === undefined) return undefined
  const lockPath = `${path}.lock`
  const lock = await lockState({ lock: lockPath, path })
  if (lock.state === 'held' && lock.holder !== undefined) {
    const { pid, command } = lock.holder
    return `It is held by process ${pid}${command === '' ? '' : ` (${command})`}. Stop that one first.`
  }
  return `Stop the program that writes to it first. Which one, as root: fuser -v ${shellWord(lockPath)} (or lsof)`
}

/** Returns what `ministore --help` prints. */
export function generalHelp(commands: readonly Command[]): string {
  const rows = commands.map((command) => [`  ${usageOf(command)}`, command.summary])
  return [
    'Looks at, follows, checks and mends a journal of ministore, and writes to it.',
    '',
    'Usage: ministore COMMAND [options]',
    '',
    ...formatTable(rows),
    '',
    '  ministore COMMAND --help   what it does, its options, an example',
    '  ministore --version',
    '',
    'Commands that read take no lock and work while another process writes.',
    'Exit codes: 0 all is well; 1 damage, nothing found or refused by the system; 2 misuse.',
    '',
  ].join('\n')
}

/** Returns what `ministore COMMAND --help` prints. */
export function commandHelp(command: Command): string {
  const { summary, options, details, examples } = command
  const rows = Object.entries(options).map(([option, spec]) => [`  ${optionUsage(option, spec)}`, spec.help])
  return [
    `${summary[0]?.toUpperCase()}${summary.slice(1)}.`,
    '',
    `Usage: ministore ${usageOf(command)} [options]`,
    '',
    ...details,
    ...(details.length === 0 ? [] : ['']),
    ...formatTable([...rows, ['  -h, --help', 'prints this']]),
    '',
    examples.length === 1 ? 'Example:' : 'Examples:',
    ...examples.map((example) => `  ${example}`),
    '',
  ].join('\n')
}

function usageOf({ name, positionals, optionalPositionals = [] }: Command): string {
  return [name, ...positionals, ...optionalPositionals.map((optional) => `[${optional}]`)].join(' ')
}

function optionUsage(name: string, { value, short }: CommandOption): string {
  const both = short === undefined ? `--${name}` : `-${short}, --${name}`
  return value === undefined ? both : `${both} ${value}`
}
