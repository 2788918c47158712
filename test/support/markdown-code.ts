import { execFile } from 'node:child_process'
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'

/**
 * Finds the code blocks of a Markdown text and runs them as a reader would.
 *
 * Finding is pure. Code runs in a {@link Workspace}: a fresh directory that looks like a project
 * with the packages installed, with a separate place for files that the code creates.
 */

/** A fenced code block. */
export interface CodeBlock {
  /** Text of the nearest heading above; empty if there is none. */
  readonly heading: string
  /** Line of the opening fence in the Markdown text, from 1. The code begins on the next line. */
  readonly line: number
  /** First word after the fence; empty if there is none. */
  readonly language: string
  /** The other words after the fence, such as `run`. */
  readonly flags: readonly string[]
  readonly code: string
}

/** The file that a block is, if its fence names one, as in `js module.mjs`; undefined for a program. */
export function fileNameOf({ language, flags }: CodeBlock): string | undefined {
  return language === 'js' ? flags.find((flag) => /^[\w.-]+\.\w+$/.test(flag)) : undefined
}

/** The output that a block claims to print. */
export interface ClaimedOutput {
  /** The texts of all `// → text` comments (in a shell: `# → text`), in order. */
  readonly lines: readonly string[]
  /**
   * Whether these lines are the whole output, with nothing in between: every `console.log` has a
   * comment.
   */
  readonly isComplete: boolean
}

/**
 * Returns every fenced code block of a Markdown text, in order. Fences may be of backticks or
 * tildes, of any length, and indented in a list item. As in CommonMark, a fence inside a longer one
 * is text.
 *
 * @throws {Error} if a fence is never closed, since everything below it would silently become code.
 */
export function codeBlocks(markdown: string): CodeBlock[] {
  const blocks: CodeBlock[] = []
  let heading = ''
  let open: { readonly fence: string; readonly indent: number; readonly block: CodeBlock } | undefined
  let code: string[] = []
  for (const [index, line] of markdown.split(/\r?\n/).entries()) {
    if (open !== undefined) {
      const closing = /^\s*(`{3,}|~{3,})\s*$/.exec(line)?.[1]
      if (closing?.startsWith(open.fence) === true) {
        blocks.push({ ...open.block, code: code.map((text) => `${text}\n`).join('') })
        open = undefined
      } else {
        code.push(withoutIndent(line, open.indent))
      }
      continue
    }
    const [, indent = '', fence, info = ''] = /^(\s*)(`{3,}|~{3,})([^`]*)$/.exec(line) ?? []
    if (fence === undefined) {
      heading = /^#{1,6}\s+(.*?)\s*#*$/.exec(line)?.[1] ?? heading
    } else {
      const [language = '', ...flags] = info.trim().split(/\s+/)
      open = { fence, indent: indent.length, block: { heading, line: index + 1, language, flags, code: '' } }
      code = []
    }
  }
  if (open !== undefined) throw new Error(`The code fence of line ${open.block.line} is never closed`)
  return blocks
}

/** Removes at most `count` leading spaces. Code in a list item is indented like its fence. */
function withoutIndent(line: string, count: number): string {
  let at = 0
  while (at < count && line[at] === ' ') at++
  return line.slice(at)
}

/**
 * Returns what a block claims to print: one line for every `→` comment, at the end of a line or on
 * its own line. A `console.log` in a loop can therefore have one comment for each turn.
 */
export function claimedOutput(code: string): ClaimedOutput {
  const lines = [...code.matchAll(/(?:\/\/|#) → (.*)$/gm)].map(([, text = '']) => text.trim())
  const printers = [...code.matchAll(/\bconsole\.log\(/g)].length
  return { lines, isComplete: lines.length > 0 && printers > 0 && printers <= lines.length }
}

/**
 * Compares the output with the claim. Returns what is wrong, or undefined if the claim holds.
 *
 * A complete claim must be the whole output. Any other claim must occur in the output in order,
 * with anything in between. Spaces at both ends of a line do not count, and `…` stands for any text
 * that differs from run to run.
 */
export function outputMismatch(claim: ClaimedOutput, stdout: string): string | undefined {
  const printed = stdout.trimEnd().split('\n').map((line) => line.trim())
  let next = 0
  for (const line of printed) {
    if (isClaimed(line, claim.lines[next])) next++
    else if (claim.isComplete) break
  }
  if (next === claim.lines.length && (!claim.isComplete || printed.length === next)) return undefined
  const wanted = claim.lines[next]
  const what =
    wanted === undefined ? 'more was printed than claimed' : `never printed in its place: → ${wanted}`
  return `${what}\nclaimed:\n${indented(claim.lines)}\nprinted:\n${indented(printed)}`
}

function isClaimed(line: string, claim: string | undefined): boolean {
  const [first = '', ...rest] = claim?.split('…') ?? []
  if (claim === undefined || rest.length === 0) return line === claim
  let at = first.length
  for (const part of rest) {
    const found = part === '' ? line.length : line.indexOf(part, at)
    if (found < at) return false
    at = found + part.length
  }
  return line.startsWith(first) && at === line.length
}

function indented(lines: readonly string[]): string {
  return lines.map((line) => `  ${line}`).join('\n')
}

/** The command lines of a shell block, without comments, empty lines and `$ ` prompts. */
export function shellCommands(code: string): string[] {
  return code
    .split('\n')
    .map((line) => line.trim().replace(/^\$ /, ''))
    .filter((line) => line !== '' && !line.startsWith('#'))
}

/**
 * The package.json script at the end of an install-and-run command such as `npm ci && npm run
 * demo`. Undefined if the command does not begin with an install or ends in anything else.
 */
export function scriptOfCommand(command: string): string | undefined {
  const [install = '', ...others] = command.split('&&').map((part) => part.trim())
  if (!/^npm (?:ci|install)(?: --\S+)*$/.test(install)) return undefined
  return /^npm (?:--\S+ )*(?:run (?:--\S+ )*(?<named>[\w:-]+)|(?<builtin>test|start))$/
    .exec(others.at(-1) ?? '')
    ?.slice(1)
    .find((script) => script !== undefined)
}

/** The packages and commands that code in a {@link Workspace} may use. */
export interface Installed {
  /** Directories of packages by name, as in `node_modules`. */
  readonly packages: Readonly<Record<string, string>>
  /** JavaScript files of commands by name, as in `node_modules/.bin`. */
  readonly commands: Readonly<Record<string, string>>
  /**
   * The compiler, as a JavaScript file. It checks the types of a TypeScript block and removes them.
   */
  readonly compiler: string
  /**
   * The longest run of one program, in milliseconds. After it the program is killed and the run
   * fails.
   */
  readonly timeoutMs: number
}

/**
 * A fresh directory below the system's temporary directory, for running code blocks.
 *
 * The code runs in `directory`, which is empty at first. The program itself and `node_modules` lie
 * beside it, so code that lists its directory finds only its own files. Call `remove` when done.
 */
export class Workspace {
  readonly #root: string
  readonly #installed: Installed

  private constructor(root: string, installed: Installed) {
    this.#root = root
    this.#installed = installed
  }

  static async create(installed: Installed): Promise<Workspace> {
    const root = await mkdtemp(join(tmpdir(), 'ministore-markdown-'))
    const modules = join(root, 'node_modules')
    await mkdir(join(root, 'work'))
    await mkdir(join(modules, '.bin'), { recursive: true })
    for (const [name, target] of Object.entries(installed.packages)) {
      await mkdir(dirname(join(modules, name)), { recursive: true })
      await symlink(target, join(modules, name), 'junction')
    }
    for (const [name, target] of Object.entries(installed.commands)) {
      // A script instead of a link: npm makes commands executable at installation, the build does
      // not.
      const script = `#!/bin/sh\nexec ${quoted(process.execPath)} ${quoted(target)} "$@"\n`
      await writeFile(join(modules, '.bin', name), script)
      await chmod(join(modules, '.bin', name), 0o755)
    }
    return new Workspace(root, installed)
  }

  /** The directory in which the code runs and leaves its files. */
  get directory(): string {
    return join(this.#root, 'work')
  }

  /**
   * Runs a `ts`, `js`, `cjs` or `sh` block and resolves with its standard output. A block that is a
   * file is written to `directory` instead, and has no output.
   *
   * A `ts` block is first compiled with strict options: an example with a type error is as wrong as
   * one that throws.
   *
   * @throws {Error} with the whole output, if a type is wrong, the exit code is not 0 or the time
   * is up.
   */
  async run(block: CodeBlock): Promise<string> {
    const fileName = fileNameOf(block)
    if (fileName !== undefined) {
      await writeFile(join(this.directory, fileName), block.code)
      return ''
    }
    if (block.language === 'sh') return this.#execute('bash', ['-euo', 'pipefail', '-c', block.code])
    // Puts as many lines above the code as in the Markdown text, so that messages name the right
    // line.
    const source = '\n'.repeat(block.line) + block.code
    const extension = { ts: 'mts', cjs: 'cjs' }[block.language] ?? 'mjs'
    await writeFile(join(this.#root, `README.${extension}`), source)
    if (block.language === 'ts') await this.#compile()
    return this.#execute(process.execPath, [join(this.#root, extension === 'cjs' ? 'README.cjs' : 'README.mjs')])
  }

  async remove(): Promise<void> {
    await rm(this.#root, { recursive: true, force: true })
  }

  async #compile(): Promise<void> {
    const compilerOptions = {
      // Node 20 has no `using`; this target compiles it away.
      target: 'es2023',
      lib: ['es2023', 'esnext.disposable'],
      module: 'nodenext',
      types: ['node'],
      strict: true,
      skipLibCheck: true,
    }
    const config = join(this.#root, 'tsconfig.json')
    await writeFile(config, JSON.stringify({ compilerOptions, files: ['README.mts'] }))
    const flags = ['--project', config, '--pretty', 'false']
    await this.#execute(process.execPath, [this.#installed.compiler, ...flags])
  }

  #execute(program: string, args: readonly string[]): Promise<string> {
    const bin = join(this.#root, 'node_modules', '.bin')
    const env = {
      ...process.env,
      // Variables that the test runner sets for itself would change the output.
      NODE_OPTIONS: undefined,
      NODE_ENV: undefined,
      FORCE_COLOR: undefined,
      NO_COLOR: '1',
      PATH: [bin, dirname(process.execPath), process.env.PATH].join(delimiter),
    }
    const timeout = this.#installed.timeoutMs
    const options = { cwd: this.directory, env, timeout, killSignal: 'SIGKILL' } as const
    return new Promise((resolve, reject) => {
      execFile(program, args, options, (error, stdout, stderr) => {
        if (error === null) {
          resolve(stdout)
        } else {
          const reason = error.killed === true ? `stopped after ${timeout} ms` : error.message
          reject(new Error(`${reason}\n${stdout}${stderr}`, { cause: error }))
        }
      })
    })
  }
}

/** A word quoted so that a shell takes it literally. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}
