import { spawn } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'

/** Whether to run every case, with every tool and version; otherwise only those that take seconds. */
export const isFull = process.env['MINISTORE_CONSUMERS'] === 'full'

const checkout = join(import.meta.dirname, '../..')

/** A directory that is removed when the test file has finished. */
const home = await mkdtemp(join(tmpdir(), 'ministore-consumers-'))

export function removeProjects(): Promise<void> {
  return rm(home, { recursive: true, force: true })
}

export interface Outcome {
  readonly status: number | null
  /** Standard output and standard error, in the order in which they were written. */
  readonly output: string
}

/** Runs a program to its end. */
export function run(command: readonly string[], options: { cwd: string; env?: NodeJS.ProcessEnv }): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const [program = '', ...args] = command
    // On Windows npm is a script that needs a shell.
    const child = spawn(program, args, { ...options, shell: program === 'npm' && process.platform === 'win32' })
    let output = ''
    const collect = (text: string): void => void (output += text)
    child.stdout.setEncoding('utf8').on('data', collect)
    child.stderr.setEncoding('utf8').on('data', collect)
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, output }))
  })
}

/** Runs a program that has to succeed. Resolves with what it printed. */
export async function succeed(command: readonly string[], options: Parameters<typeof run>[1]): Promise<string> {
  const { status, output } = await run(command, options)
  if (status !== 0) throw new Error(`\`${command.join(' ')}\` ended with ${status}:\n${output}`)
  return output
}

/**
 * Packs a copy of the sources that has never been built, as a clean clone would be packed. Resolves
 * with the path of the tarball and the paths of the files in it.
 */
export async function pack(): Promise<{ tarball: string; files: readonly string[] }> {
  const clone = join(home, 'clone')
  await mkdir(clone)
  for (const name of await readdir(checkout)) {
    if (['.git', 'node_modules', 'dist', 'bench', 'test'].includes(name)) continue
    await cp(join(checkout, name), join(clone, name), { recursive: true })
  }
  await symlink(join(checkout, 'node_modules'), join(clone, 'node_modules'), 'junction')
  const printed = await succeed(['npm', 'pack', '--json', '--silent', '--pack-destination', home], { cwd: clone })
  const [packed] = JSON.parse(printed.slice(printed.indexOf('['))) as [Packed]
  return { tarball: join(home, packed.filename), files: packed.files.map(({ path }) => path) }
}

interface Packed {
  readonly filename: string
  readonly files: ReadonlyArray<{ readonly path: string }>
}

/** A fresh project with the given files, in which the given packages are installed. */
export class Project {
  readonly directory: string

  private constructor(directory: string) {
    this.directory = directory
  }

  static async make(options: {
    readonly packages: readonly string[]
    readonly files: Readonly<Record<string, string>>
    readonly type?: 'module' | 'commonjs'
  }): Promise<Project> {
    const project = new Project(await mkdtemp(join(home, 'project-')))
    const { type = 'module', files, packages } = options
    await project.write({ 'package.json': JSON.stringify({ name: 'consumer', private: true, type }), ...files })
    const flags = ['--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error']
    if (packages.length > 0) await succeed(['npm', 'install', ...flags, ...packages], { cwd: project.directory })
    return project
  }

  async write(files: Readonly<Record<string, string>>): Promise<void> {
    for (const [name, text] of Object.entries(files)) {
      const path = join(this.directory, name)
      await mkdir(dirname(path), { recursive: true })
      await writeFile(path, text)
    }
  }

  /** The packages in `node_modules`, as npm's own record of them has them. */
  async installed(): Promise<ReadonlyArray<{ readonly name: string; readonly hasInstallScript: boolean }>> {
    const text = await readFile(join(this.directory, 'node_modules/.package-lock.json'), 'utf8')
    const { packages } = JSON.parse(text) as { packages: Record<string, { hasInstallScript?: boolean }> }
    return Object.entries(packages).map(([path, { hasInstallScript = false }]) => ({
      name: path.slice('node_modules/'.length),
      hasInstallScript,
    }))
  }

  /** Runs a program of this project. The first word may be a command in its `node_modules/.bin`. */
  run(command: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
    const path = [join(this.directory, 'node_modules/.bin'), process.env['PATH']].join(delimiter)
    return run(command, { cwd: this.directory, env: { ...process.env, NODE_OPTIONS: '', PATH: path, ...env } })
  }
}
