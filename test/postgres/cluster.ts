import { execFile, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { chown, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

import { Client, type QueryResultRow } from 'pg'

const isRoot = process.getuid?.() === 0

/** Where the programs of PostgreSQL are, and the user that runs them; or why there are none. */
export const postgres: { readonly bin: string; readonly user: { uid: number; gid: number } | undefined } | { readonly missing: string } = findPostgres()

function findPostgres(): typeof postgres {
  if (process.platform === 'win32') return { missing: 'the tests stop and kill processes as on Linux and macOS' }
  const bin = findPrograms() ?? installPrograms()
  if (bin === undefined) return { missing: 'PostgreSQL is not installed, and apt-get could not install it' }
  if (!isRoot) return { bin, user: undefined }
  // The server refuses to run as root.
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = ['-u', '-g'].map((flag) => Number(spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout))
    if (uid !== undefined && gid !== undefined && uid > 0) return { bin, user: { uid, gid } }
  }
  return { missing: 'there is no unprivileged user to run the server' }
}

function findPrograms(): string | undefined {
  const debian = '/usr/lib/postgresql'
  const versions = existsSync(debian) ? readdirSync(debian).toSorted((left, right) => Number(right) - Number(left)) : []
  const folders = [...versions.map((version) => join(debian, version, 'bin')), ...(process.env['PATH'] ?? '').split(':')]
  return folders.find((folder) => ['initdb', 'postgres', 'pg_basebackup'].every((program) => existsSync(join(folder, program))))
}

function installPrograms(): string | undefined {
  if (!isRoot || spawnSync('apt-get', ['--version']).status !== 0) return undefined
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  console.log('installing postgresql with apt-get')
  for (const args of [['update', '-qq'], ['install', '-y', '-qq', '--no-install-recommends', 'postgresql']]) {
    spawnSync('apt-get', args, { env, stdio: ['ignore', 'ignore', 'inherit'], timeout: 180_000 })
  }
  return findPrograms()
}

/** A PostgreSQL server of its own, in a temporary directory, on 127.0.0.1. */
export class Cluster {
  readonly directory: string
  readonly port: number
  readonly #settings: readonly string[]
  #process: ChildProcess | undefined

  private constructor(directory: string, port: number, settings: readonly string[]) {
    this.directory = directory
    this.port = port
    this.#settings = settings
  }

  /** Makes and starts a server. With `from`, it is a standby of another one, by the name `standby`. */
  static async start({ settings = [], from }: { readonly settings?: readonly string[]; readonly from?: Cluster } = {}): Promise<Cluster> {
    const directory = await mkdtemp(join(tmpdir(), 'ministore-postgres-'))
    const { user } = found()
    if (user !== undefined) await chown(directory, user.uid, user.gid)
    const cluster = new Cluster(directory, await freePort(), settings)
    if (from === undefined) {
      await cluster.#run('initdb', ['--username=ministore', '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-sync', '--pgdata', cluster.#data])
    } else {
      const address = `host=127.0.0.1 port=${from.port} user=ministore application_name=standby`
      await cluster.#run('pg_basebackup', ['--pgdata', cluster.#data, '--write-recovery-conf', '--checkpoint=fast', '--no-sync', '--dbname', address])
    }
    await cluster.restart()
    return cluster
  }

  /** Starts the server again, after it was stopped or killed. Resolves when it takes connections. */
  async restart(): Promise<void> {
    const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', `port=${this.port}`, 'max_connections=50', 'shared_buffers=16MB', ...this.#settings]
    const args = ['-D', this.#data, ...settings.flatMap((setting) => ['-c', setting])]
    for (const deadline = Date.now() + 60_000; ; await sleep(50)) {
      // After a kill, the shared memory is in use until the last process has noticed.
      if (!this.#isRunning) {
        this.#process = spawn(join(found().bin, 'postgres'), args, { ...found().user, stdio: 'ignore', cwd: this.directory })
      }
      if (await this.#answers()) return
      if (Date.now() > deadline) throw new Error(`The server in ${this.directory} does not start`)
    }
  }

  /** Kills all processes of the server with SIGKILL, as a crash of the machine would. */
  async kill(): Promise<void> {
    if (this.#process?.pid === undefined || !this.#isRunning) return
    const exited = once(this.#process, 'exit')
    const children = childrenOf(this.#process.pid)
    this.#process.kill('SIGKILL')
    for (const child of children) {
      try {
        process.kill(child, 'SIGKILL')
      } catch {
        // It has ended by itself.
      }
    }
    await exited
  }

  async remove(): Promise<void> {
    await this.kill()
    await rm(this.directory, { recursive: true, force: true, maxRetries: 5 })
  }

  /** Runs a statement on a connection of its own. */
  async query<Row extends QueryResultRow>(text: string, values: unknown[] = []): Promise<Row[]> {
    const client = new Client(this.address)
    client.on('error', () => {})
    await client.connect()
    try {
      return (await client.query<Row>(text, values)).rows
    } finally {
      await client.end()
    }
  }

  get address(): { host: string; port: number; user: string; database: string } {
    return { host: '127.0.0.1', port: this.port, user: 'ministore', database: 'postgres' }
  }

  get url(): string {
    return `postgres://ministore@127.0.0.1:${this.port}/postgres`
  }

  get #isRunning(): boolean {
    return this.#process?.exitCode === null && this.#process.signalCode === null
  }

  get #data(): string {
    return join(this.directory, 'data')
  }

  async #answers(): Promise<boolean> {
    return await this.query('select 1').then(() => true, () => false)
  }

  async #run(program: string, args: readonly string[]): Promise<void> {
    await promisify(execFile)(join(found().bin, program), args, { ...found().user, cwd: this.directory })
  }
}

function found(): Exclude<typeof postgres, { readonly missing: string }> {
  if ('missing' in postgres) throw new Error(postgres.missing)
  return postgres
}

function childrenOf(parent: number): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      return Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]) === parent
    } catch {
      return false
    }
  })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
