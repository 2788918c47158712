import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import { type Deferred, deferred } from '../../support/deferred.ts'

/** Reports that every child may make in addition to its own. */
export type CommonReport =
  | { readonly type: 'ready' }
  | { readonly type: 'failed'; readonly code?: string; readonly cause?: string; readonly message: string }

/**
 * A child process that runs a script of `processes/`, reports lines of JSON, and is killed in the
 * end.
 *
 * It loads the library at once and then waits for instructions, so its starting time is not part of
 * a round. Its reports are complete: a pipe keeps what a killed process wrote into it.
 */
export class KillableProcess<Report extends { readonly type: string }> {
  /** All reports except `ready`, oldest first. */
  readonly reports: Array<Report | CommonReport> = []
  readonly id: number
  /** Called for each report as it arrives. */
  onReport: (report: Report | CommonReport) => void = () => {}
  readonly #child: ChildProcess
  readonly #closed: Promise<unknown>
  readonly #ready: Deferred<void> = deferred()
  #rest = ''

  /**
   * @param options.before words to put before the command, such as a shell that sets limits and
   * then executes the command.
   */
  constructor(script: string, options: { readonly before?: readonly string[] } = {}) {
    const path = fileURLToPath(new URL(script, import.meta.url))
    const command = [...(options.before ?? []), process.execPath, path]
    this.#child = spawn(command[0] as string, command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#closed = once(this.#child, 'close')
    this.id = this.#child.pid ?? -1
    // The child may be killed before it has read its instructions.
    this.#child.stdin?.on('error', () => {})
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#take(text))
    void this.#closed.then(() => this.#ready.reject(new Error(`${script} ended before it was ready`)))
    // `start` waits for this promise. A child that is never started is only killed, so its
    // rejection is ignored.
    this.#ready.promise.catch(() => {})
  }

  /** Sends the child its instructions once it is ready. */
  async start(instructions: object): Promise<void> {
    await this.#ready.promise
    this.#child.stdin?.write(`${JSON.stringify(instructions)}\n`)
  }

  /** Sends a signal, without waiting. */
  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /**
   * Resolves when the child has ended, by itself or by a signal, and all its reports have arrived.
   */
  async ended(): Promise<void> {
    await this.#closed
  }

  /** Sends SIGKILL. Resolves when the child is gone and all its reports have arrived. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#closed
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n')
    // An incomplete line does not count as a report.
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

/**
 * Waits without yielding to the event loop. Timers count whole milliseconds, and a write or the
 * handling of a message takes less than one.
 */
export function spin(microseconds: number): void {
  const end = performance.now() + microseconds / 1000
  while (performance.now() < end);
}
