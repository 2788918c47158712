import type { Command, CommandOption } from './command.ts'
import { formatTable } from './terminal/table.ts'

/** What `ministore --help` prints. */
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

/** What `ministore COMMAND --help` prints. */
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
