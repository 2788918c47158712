import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import { type Deferred, deferred } from '../support/deferred.ts'

/** What every child may report besides what is its own. */
export type CommonReport =
  | { readonly type: 'ready' }
  | { readonly type: 'failed'; readonly code?: string; readonly cause?: string; readonly message: string }

/**
 * A child process that runs a script of `processes/`, reports lines of JSON and is killed in the end.
 *
 * It loads the library at once and then waits to be told what to do, so that the time it needs to start is no
 * part of a round. What it has reported is complete: a pipe keeps what a killed process wrote into it.
 */
export class KillableProcess<Report extends { readonly type: string }> {
  /** All that it has reported, besides `ready`, oldest first. */
  readonly reports: Array<Report | CommonReport> = []
  readonly id: number
  /** Called for each report as it comes in. */
  onReport: (report: Report | CommonReport) => void = () => {}
  readonly #child: ChildProcess
  readonly #closed: Promise<unknown>
  readonly #ready: Deferred<void> = deferred()
  #rest = ''

  /**
   * @param options.before words to put before the command, such as a shell that sets limits and then executes
   * it.
   */
  constructor(script: string, options: { readonly before?: readonly string[] } = {}) {
    const path = fileURLToPath(new URL(`processes/${script}`, import.meta.url))
    const command = [...(options.before ?? []), process.execPath, path]
    this.#child = spawn(command[0] as string, command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#closed = once(this.#child, 'close')
    this.id = this.#child.pid ?? -1
    // It may be killed before it has read what it was told.
    this.#child.stdin?.on('error', () => {})
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#take(text))
    void this.#closed.then(() => this.#ready.reject(new Error(`${script} ended before it was ready`)))
    // Whoever starts it waits for it; one that is never started is only killed.
    this.#ready.promise.catch(() => {})
  }

  /** Tells it what to do, once it is ready. */
  async start(instructions: object): Promise<void> {
    await this.#ready.promise
    this.#child.stdin?.write(`${JSON.stringify(instructions)}\n`)
  }

  /** Sends a signal, without waiting. */
  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Resolves when it has ended, by itself or by a signal, and all its reports are in. */
  async ended(): Promise<void> {
    await this.#closed
  }

  /** SIGKILL; resolves when it is gone and all its reports are in. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#closed
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n')
    // What is not whole was not reported.
    this.#rest = lines.pop() ?? ''
    for (const line of lines) {
      const report = JSON.parse(line) as Report | CommonReport
      if (report.type === 'ready') {
        this.#ready.resolve()
        continue
      }
      this.reports.push(report)
      this.onReport(report)
    }
  }
}
