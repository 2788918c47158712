import type { Arguments, Command } from '../command.ts'
import { exitCodes, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'

/** Prints a script that completes command lines, made from the commands themselves. */
export function completion(commands: () => readonly Command[]): Command {
  return {
    name: 'completion',
    summary: 'prints the completion for a shell',
    positionals: ['SHELL'],
    options: {},
    details: ['SHELL is bash, zsh or fish. Words that are neither commands nor options complete to files.'],
    examples: ['source <(ministore completion bash)', 'ministore completion fish > ~/.config/fish/completions/ministore.fish'],
    async run(args: Arguments, io: Io) {
      const shell = args.positional(0)
      if (!Object.hasOwn(scripts, shell)) {
        throw new UsageError(`Expected SHELL to be ${Object.keys(scripts).join(', ')}, got ${JSON.stringify(shell)}`)
      }
      await io.stdout.write(scripts[shell as keyof typeof scripts](commands()))
      return exitCodes.ok
    },
  }
}

const scripts = { bash, zsh, fish } as const

function wordsOf({ options }: Command): string[] {
  const short = Object.values(options).flatMap((option) => (option.short === undefined ? [] : [`-${option.short}`]))
  return [...Object.keys(options).map((name) => `--${name}`), '--help', ...short, '-h']
}

function bash(commands: readonly Command[]): string {
  const names = commands.map(({ name }) => name).join(' ')
  const cases = commands.map((command) => `    ${command.name}) words='${wordsOf(command).join(' ')}' ;;`)
  return `# Completion of ministore for bash.
_ministore() {
  local words=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    words='${names} --help --version'
  elif [[ "\${COMP_WORDS[COMP_CWORD]}" == -* ]]; then
    case "\${COMP_WORDS[1]}" in
${cases.map((line) => `  ${line}`).join('\n')}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _ministore ministore
`
}

/** Quotes text for zsh and fish. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}

function zsh(commands: readonly Command[]): string {
  const described = commands.map(({ name, summary }) => `    ${quoted(`${name}:${summary}`)}`)
  const cases = commands.map((command) => `    ${command.name}) compadd -- ${wordsOf(command).join(' ')} ;;`)
  return `#compdef ministore
# Completion of ministore for zsh.
_ministore() {
  local -a commands=(
${described.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
  elif [[ $words[CURRENT] == -* ]]; then
    case $words[2] in
${cases.map((line) => `  ${line}`).join('\n')}
    esac
  else
    _files
  fi
}
if [ "$funcstack[1]" = _ministore ]; then _ministore "$@"; else compdef _ministore ministore; fi
`
}

function fish(commands: readonly Command[]): string {
  const lines = commands.flatMap((command) => {
    const { name, summary, options } = command
    const condition = quoted(`__fish_seen_subcommand_from ${name}`)
    return [
      `complete -c ministore -f -n __fish_use_subcommand -a ${name} -d ${quoted(summary)}`,
      ...Object.entries(options).map(([option, { short, value, help }]) => {
        const letter = short === undefined ? '' : ` -s ${short}`
        return `complete -c ministore -n ${condition} -l ${option}${letter}${value === undefined ? '' : ' -r'} -d ${quoted(help)}`
      }),
    ]
  })
  return `# Completion of ministore for fish.\n${lines.join('\n')}\n`
}
