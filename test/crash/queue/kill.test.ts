import { join } from 'node:path'

import { expect, onTestFinished, test } from 'vitest'

import { MiniQueue } from '../../../src/miniqueue/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { pickSeed, seededRandom } from '../../support/seeded-random.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { type CommonReport, KillableProcess, spin } from '../processes/kill-process.ts'

const rounds = scaled(10, 100)
const maxAttempts = 5

interface Job {
  readonly name: number
  /** `deadly` kills its process whenever it is processed. `failing` throws twice. */
  readonly kind: 'plain' | 'failing' | 'deadly'
  readonly turns: number
}

type WorkerReport =
  | { readonly type: 'opened' | 'closed' }
  | { readonly type: 'enqueue' | 'enqueued'; readonly names: readonly number[] }
  | { readonly type: 'begin'; readonly name: number; readonly id: number; readonly attempt: number }
  | { readonly type: 'end'; readonly name: number }
  | { readonly type: 'acked'; readonly ids: readonly number[] }

type Worker = KillableProcess<WorkerReport>

/** What is known of a message. */
interface Known {
  readonly job: Job
  isEnqueued: boolean
  isAcked: boolean
  /** The attempt of the newest delivery that was handled. */
  attempt: number
  begun: number
  /**
   * Whether its handler had returned when its process was killed. Its acknowledgement may have
   * become durable without a report.
   */
  mayBeAcked: boolean
}

test(`a worker killed with SIGKILL while it handles messages loses none, ${rounds} times`, async () => {
  const seed = pickSeed('queue kill')
  const random = seededRandom(seed)
  const directory = join(await temporaryDirectory(), 'jobs')
  const ledger = new Ledger()
  const workers = new Workers()
  const counts = { killed: 0, suicides: 0, finished: 0 }

  // Rounds that a deadly message ended do not count. A message that has killed five processes is
  // dead, so in the end a worker finds nothing left to do.
  let isDeadlyMade = false
  for (let round = 1; counts.killed < rounds || ledger.mayBeLeft || !isDeadlyMade; round++) {
    if (round > 6 * rounds + 40) throw new Error('The queue never becomes empty')
    const isLast = counts.killed >= rounds
    // The kills may have used up the attempts of every deadly message. The first round without
    // kills therefore adds one more.
    const isFirstOfLast = isLast && !isDeadlyMade
    isDeadlyMade ||= isLast
    const isDeadly = isFirstOfLast || 5 * ledger.deadly <= counts.killed
    const jobs = isLast && !isFirstOfLast ? [] : ledger.makeJobs(random, { isDeadly })
    const worker = await workers.next()
    await worker.start({
      directory,
      jobs,
      concurrency: 1 + random(4),
      options: {
        maxAttempts,
        compaction: { minBytes: 2000, ratio: 2 },
        journal: { maxBytesPerSegment: 2 ** (10 + random(6)) },
      },
    })
    const moment = { after: random(3) === 0 ? 'enqueue' : 'begin', nth: 1 + random(12), delayUs: random(400) }
    if (!isLast) killAt(worker, moment)
    await worker.ended()
    const { isClosed } = ledger.take(worker.reports)
    if (isClosed) counts.finished += 1
    else if (worker.reports.at(-1)?.type === 'begin' && ledger.isDeadly(worker.reports.at(-1)))
      counts.suicides += 1
    else counts.killed += 1
  }

  await using queue = await MiniQueue.open<Job>(directory, { maxAttempts })
  const letters = queue.deadLetters()
  ledger.checkEnd(new Map(letters.map(({ payload, attempts }) => [payload.name, attempts])))
  expect(queue.stats()).toMatchObject({ ready: 0, delayed: 0, inFlight: 0, dead: letters.length })
  console.log(
    `queue kill: ${counts.killed} killed, ${counts.suicides} killed by a message, ` +
      `${counts.finished} finished; ${ledger.summary}, ${letters.length} dead letters`,
  )
  // Without these floors, the kills might come at moments that prove nothing.
  expect(ledger.redelivered).toBeGreaterThan(rounds / 3)
  expect(counts.suicides).toBeGreaterThanOrEqual(maxAttempts)
  expect(letters.length).toBeGreaterThan(0)
})

test('a message that kills its process every time becomes a dead letter, and the next one is processed', async () => {
  const directory = join(await temporaryDirectory(), 'jobs')
  const ledger = new Ledger()
  const workers = new Workers()
  const jobs = [[ledger.make('deadly', 0), ledger.make('plain', 1)]]
  for (let attempt = 1; attempt <= maxAttempts + 1; attempt++) {
    const worker = await workers.next()
    await worker.start({
      directory,
      jobs: attempt === 1 ? jobs : [],
      concurrency: 1,
      isInOrder: true,
      options: { maxAttempts },
    })
    await worker.ended()
    const { isClosed } = ledger.take(worker.reports)
    expect(isClosed, `after attempt ${attempt}`).toBe(attempt > maxAttempts)
    const begun = worker.reports.filter(({ type }) => type === 'begin')
    const expected = attempt <= maxAttempts ? { name: 1, attempt } : { name: 2, attempt: 1 }
    expect(begun, `what was handled after ${attempt - 1} kills`).toMatchObject([expected])
  }
  await using queue = await MiniQueue.open<Job>(directory, { maxAttempts })
  expect(queue.deadLetters()).toMatchObject([{ payload: { name: 1 }, attempts: maxAttempts }])
  expect(queue.deadLetters()[0]?.reason).toContain('process')
  expect(queue.stats()).toMatchObject({ ready: 0, delayed: 0, inFlight: 0 })
})

/** Workers started in advance while another one works, since starting takes longer than a round. */
class Workers {
  #next: Worker | undefined

  constructor() {
    onTestFinished(() => this.#next?.kill())
  }

  async next(): Promise<Worker> {
    const worker = this.#next ?? new KillableProcess<WorkerReport>('queue-worker.js')
    onTestFinished(() => worker.kill())
    this.#next = new KillableProcess<WorkerReport>('queue-worker.js')
    return worker
  }
}

/** What all workers were told to do and what they reported, over all rounds. */
class Ledger {
  readonly #known = new Map<number, Known>()
  readonly #names = new Map<number, number>()
  /** Whether the last worker was killed, so that messages may be left to process. */
  mayBeLeft = false
  redelivered = 0
  deadly = 0

  make(kind: Job['kind'], turns: number): Job {
    if (kind === 'deadly') this.deadly += 1
    const job = { name: this.#known.size + 1, kind, turns }
    this.#known.set(job.name, {
      job,
      isEnqueued: false,
      isAcked: false,
      attempt: 0,
      begun: 0,
      mayBeAcked: false,
    })
    return job
  }

  makeJobs(random: (limit: number) => number, { isDeadly }: { readonly isDeadly: boolean }): Job[][] {
    const groups = Array.from({ length: 4 + random(4) }, () =>
      Array.from({ length: random(3) === 0 ? 2 + random(4) : 1 }, () =>
        this.make(random(5) === 0 ? 'failing' : 'plain', random(6)),
      ),
    )
    // The deadly message is enqueued first so that it is certainly there. It has the lowest
    // priority so that others are processed before it.
    return isDeadly ? [[this.make('deadly', 0)], ...groups] : groups
  }

  isDeadly(report: WorkerReport | CommonReport | undefined): boolean {
    return report?.type === 'begin' && this.#of(report.name).job.kind === 'deadly'
  }

  /** Takes all reports of a worker. */
  take(reports: ReadonlyArray<WorkerReport | CommonReport>): { readonly isClosed: boolean } {
    for (const known of this.#known.values()) known.mayBeAcked &&= !known.isAcked
    for (const report of reports) {
      if (report.type === 'failed') throw new Error(`A worker failed: ${report.message}`)
      else if (report.type === 'enqueued') for (const name of report.names) this.#of(name).isEnqueued = true
      else if (report.type === 'begin') this.#begin(report)
      else if (report.type === 'end') this.#of(report.name).mayBeAcked = true
      else if (report.type === 'acked') {
        for (const id of report.ids) this.#of(this.#names.get(id) ?? 0).isAcked = true
      }
    }
    const isClosed = reports.at(-1)?.type === 'closed'
    this.mayBeLeft = !isClosed
    return { isClosed }
  }

  #begin({ name, id, attempt }: Extract<WorkerReport, { type: 'begin' }>): void {
    const known = this.#of(name)
    expect(known.isAcked, `message ${name} comes again after its acknowledgement`).toBe(false)
    expect(attempt, `the attempt of message ${name}`).toBeGreaterThan(known.attempt)
    expect(attempt, `the attempt of message ${name}`).toBeLessThanOrEqual(maxAttempts)
    if (known.begun > 0) this.redelivered += 1
    Object.assign(known, { attempt, begun: known.begun + 1, mayBeAcked: false })
    expect(this.#names.get(id) ?? name, `the message with the id ${id}`).toBe(name)
    this.#names.set(id, name)
  }

  /** @param dead attempts of the dead letters, by name. */
  checkEnd(dead: ReadonlyMap<number, number>): void {
    for (const [name, { job, isEnqueued, isAcked, begun, mayBeAcked }] of this.#known) {
      const attempts = dead.get(name)
      if (attempts !== undefined) {
        expect(isAcked, `the acknowledged message ${name} is dead`).toBe(false)
        expect(attempts, `the attempts of the dead message ${name}`).toBe(maxAttempts)
      } else if (isEnqueued) {
        expect(begun, `how often message ${name} was processed`).toBeGreaterThan(0)
        expect(job.kind, `message ${name} survived`).not.toBe('deadly')
        expect(isAcked || mayBeAcked, `message ${name} is gone without an acknowledgement`).toBe(true)
      }
    }
  }

  get summary(): string {
    const all = [...this.#known.values()]
    const begun = all.reduce((sum, known) => sum + known.begun, 0)
    const [enqueued, acked] = [
      all.filter(({ isEnqueued }) => isEnqueued),
      all.filter(({ isAcked }) => isAcked),
    ]
    return (
      `${enqueued.length} messages, ${begun} deliveries, ${this.redelivered} of them again, ` +
      `${acked.length} acknowledged`
    )
  }

  #of(name: number): Known {
    const known = this.#known.get(name)
    if (known === undefined) throw new Error(`There is no message ${name}`)
    return known
  }
}

function killAt(
  worker: Worker,
  { after, nth, delayUs }: { readonly after: string; readonly nth: number; readonly delayUs: number },
): void {
  let seen = 0
  worker.onReport = (report) => {
    if (report.type !== after) return
    seen += 1
    if (seen !== nth) return
    spin(delayUs)
    worker.signal('SIGKILL')
  }
}
