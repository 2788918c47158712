import { MiniStoreError } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { turn } from '../../support/consume.ts'
import { beginning, SteppedClock } from './clock.ts'
import type { Call, Job, Options } from './commands.ts'
import { QueueCounts } from './counts.ts'
import { adjusted, type ExpectedQueue, matchOf, mismatch } from './expected.ts'
import {
  assert,
  type FoundQueue,
  look,
  openQueue,
  type Payload,
  shorten,
  type TestedMessage,
  type TestedQueue,
} from './look.ts'
import {
  acked,
  buried,
  delivered,
  discarded,
  emptyQueue,
  enqueued,
  inOrder,
  nacked,
  type NewMessage,
  type PlainQueue,
  purged,
  redriven,
  type Step,
  stopped,
  tired,
} from './plain.ts'

/** A message that was handed out. */
export interface Handed {
  readonly name: number
  readonly message: TestedMessage
  leaseEnd: number
  state: 'leased' | 'settled' | 'lost'
}

interface Doubt {
  readonly step: Step
  readonly after: PlainQueue
}

interface OpenQueue {
  readonly queue: TestedQueue
  readonly clock: SteppedClock
  readonly options: Options
  readonly files: SimulatedFileSystem
}

export const visibilityTimeoutMs = 30_000
/** The default of an opening. It is small so that compactions happen, in any call. */
const smallCompaction = { minBytes: 200, ratio: 1 }
export const backoffMs = (attempt: number): number => 1000 * attempt

/**
 * A queue and its user: makes calls, knows what each must return, and knows what a crash may leave
 * at any moment. Its picture of the disk is a {@link PlainQueue}. Leases and ready messages are
 * kept separately, since they do not survive the process.
 */
export class QueueUser {
  readonly counts = new QueueCounts()
  #certain: PlainQueue = emptyQueue
  /** Steps that were begun and not acknowledged, in order. */
  #doubtful: Doubt[] = []
  #names = 0
  readonly #ids = new Map<number, number>()
  #wall = beginning
  readonly #unsure = new Set<number>()
  /** Results of handlers that are still being written. */
  readonly #settling: Array<{ readonly handed: Handed; readonly step: Step }> = []
  /** Whether a receive waits for what is enqueued, so that it may be delivered at once. */
  isAwaited = false

  #open: OpenQueue | undefined
  #handed: Handed[] = []
  readonly #leases = new Map<number, Handed>()
  /** Names of messages that have become due, even if the wall clock has gone back since. */
  readonly #due = new Set<number>()
  /** Errors that the queue reported for failures no call waited for. */
  readonly errors: unknown[] = []
  /**
   * Whether a disk call has failed since the queue was opened. The queue then need not know how
   * many bytes lie on the disk.
   */
  hasDiskFailed = false

  readonly expected = (): ExpectedQueue => ({
    possible: [this.#certain, ...this.#doubtful.map(({ after }) => after)],
    ids: this.#ids,
    wallMs: this.#open?.clock.wallMs() ?? this.#wall,
    unsure: new Set(this.#unsure),
  })

  /** Returns an independent user with the same knowledge, for use after a crash at this moment. */
  fork(): QueueUser {
    const copy = new QueueUser()
    copy.#certain = this.#certain
    copy.#doubtful = [...this.#doubtful]
    copy.#names = this.#names
    for (const [name, id] of this.#ids) copy.#ids.set(name, id)
    for (const name of this.#unsure) copy.#unsure.add(name)
    copy.#wall = this.expected().wallMs
    return copy
  }

  get options(): Options {
    return this.#open?.options ?? {}
  }

  /** Whether the queue has a limit on its depth and may be full. */
  get isLimited(): boolean {
    return this.#open?.options.maxDepth !== undefined
  }

  get isOpen(): boolean {
    return this.#open !== undefined
  }

  get queue(): TestedQueue {
    assert(this.#open !== undefined, 'the queue is not open')
    return this.#open.queue
  }

  get #files(): SimulatedFileSystem {
    assert(this.#open !== undefined, 'the queue is not open')
    return this.#open.files
  }

  get clock(): SteppedClock {
    assert(this.#open !== undefined, 'the queue is not open')
    return this.#open.clock
  }

  /** The content if every step begun so far succeeds. */
  get #latest(): PlainQueue {
    return this.#doubtful.at(-1)?.after ?? this.#certain
  }

  get #maxAttempts(): number {
    return this.#open?.options.maxAttempts ?? 5
  }

  /** Whether a message that was handed out becomes a dead letter if this attempt fails. */
  #isLast({ name, message }: Handed): boolean {
    return message.attempt >= (this.#latest.messages.get(name)?.maxAttempts ?? this.#maxAttempts)
  }

  /** Names of messages that can be received now, in order. */
  get deliverable(): number[] {
    this.#noteDue()
    const ready = [...this.#latest.messages.values()].filter(
      ({ name }) => this.#due.has(name) && !this.#leases.has(name),
    )
    return inOrder(ready).map(({ name }) => name)
  }

  // The life of a process

  async open(files: SimulatedFileSystem, options: Options = {}): Promise<void> {
    if (this.#doubtful.length > 0 || this.#unsure.size > 0) this.#resolve(await look(files.afterKill()))
    const clock = new SteppedClock(this.#wall)
    const names = tired(this.#latest, options.maxAttempts ?? 5)
    const steps = names.length === 0 ? [] : [buried(names, { diedAt: this.#wall, reason: undefined })]
    const onError = (error: unknown): void => void this.errors.push(error)
    const opening = {
      compaction: smallCompaction,
      ...options,
      visibilityTimeoutMs,
      backoff: backoffMs,
      onError,
    }
    this.hasDiskFailed = false
    const queue = await this.#durable(steps, async () => {
      const opened = await openQueue(files, clock, opening)
      if (opened.stats().dead === this.#latest.dead.size) return opened
      await opened.close()
      throw new Error('what was delivered too often is not dead')
    })
    this.counts.opened += 1
    this.counts.buried += names.length
    this.#open = { queue, clock, options, files }
    this.checkStats()
  }

  /** Forgets the process, after it was closed or has crashed. */
  leave(): void {
    if (this.#open !== undefined) this.#wall = this.#open.clock.wallMs()
    this.#open = undefined
    this.#handed = []
    this.#leases.clear()
    this.#due.clear()
    this.#settling.length = 0
  }

  async close(): Promise<void> {
    const leased = [...this.#leases.values()]
    const { queue, clock } = this
    const files = this.#files
    try {
      await queue.close()
    } finally {
      // The queue is closed even when `close` rejects.
      this.leave()
    }
    await this.settleAttempts(files)
    assert(clock.timers === 0, `${clock.timers} timers are left after close`)
    for (const { message } of leased) {
      assert(message.signal.aborted, `message ${message.id} is not told that its queue is closed`)
      await this.#refused(message.ack(), ['ERR_MINISTORE_CLOSED', 'ERR_MINISTORE_LEASE_LOST'])
    }
  }

  /**
   * Checks that only messages that were handed out have used up an attempt. Must be called when no
   * message can be handed out any more.
   */
  async settleAttempts(files: SimulatedFileSystem = this.#files): Promise<void> {
    const isKnown = !this.hasDiskFailed && !files.isStopped && this.errors.length === 0
    if (this.#unsure.size === 0 || !isKnown) return
    const found = await look(files.afterKill())
    for (const name of this.#unsure) {
      const [attempts, expected] = [found.attempts.get(name), this.#certain.messages.get(name)?.attempts]
      assert(attempts === expected, `given to nobody, message ${name} has ${attempts} attempts, expected ${expected}`)
    }
    this.#resolve(found)
  }

  // Calls that change what is on the disk

  async enqueue(wanted: Job): Promise<void> {
    const job = this.#tellable(wanted)
    const message = this.#newMessage(job)
    const { delayMs, priority, key, maxAttempts } = job
    const known = key === undefined ? undefined : this.#keyed(key)
    if (known !== undefined) {
      const id = await this.queue.enqueue(payloadOf(message.name, job), { delayMs, priority, dedupeKey: key, maxAttempts })
      const expected = this.#ids.get(known)
      assert(expected === undefined || id === expected, `the key ${key} gives ${id}, expected ${expected}`)
      this.counts.deduplicated += 1
      return
    }
    const headers = headersOf(message.name, job)
    const call = (): Promise<number> =>
      this.queue.enqueue(payloadOf(message.name, job), { delayMs, priority, dedupeKey: key, maxAttempts, headers })
    if (!this.#hasRoomFor(1)) return this.#refused(call(), ['ERR_MINISTORE_QUEUE_FULL'])
    const id = await this.#durable([enqueued([message])], call)
    this.#learn(message.name, id)
    this.counts.enqueued += 1
  }

  async enqueueAll(wanted: readonly Job[]): Promise<void> {
    const jobs = wanted.map((job) => this.#tellable(job))
    const messages = jobs.map((job) => this.#newMessage(job))
    // If several messages in one call share a key, the first one counts.
    const firsts = new Map<string, number>()
    const added: NewMessage[] = []
    const results = messages.map((message, index) => {
      const { key } = message
      const known = key === undefined ? undefined : (this.#keyed(key) ?? firsts.get(key))
      if (known !== undefined) return known
      if (key !== undefined) firsts.set(key, message.name)
      added.push(messages[index] as NewMessage)
      return message.name
    })
    const items = jobs.map((job, index) => ({
      payload: payloadOf((messages[index] as NewMessage).name, job),
      delayMs: job.delayMs,
      priority: job.priority,
      dedupeKey: job.key,
      maxAttempts: job.maxAttempts,
      headers: headersOf((messages[index] as NewMessage).name, job),
    }))
    const call = (): Promise<number[]> => this.queue.enqueueAll(items)
    if (this.isAwaited) this.doubtAttempts(added.map(({ name }) => name))
    if (!this.#hasRoomFor(added.length)) return this.#refused(call(), ['ERR_MINISTORE_QUEUE_FULL'])
    const ids = await this.#durable(added.length === 0 ? [] : [enqueued(added)], call)
    assert(ids.length === results.length, `${ids.length} ids for ${results.length} messages`)
    results.forEach((name, index) => this.#learn(name, ids[index] as number))
    this.counts.enqueued += added.length
  }

  async receive(max: number): Promise<Handed[]> {
    const names = this.deliverable.slice(0, max)
    const unfit = names.filter((name) => this.options.refusesLong && this.#latest.messages.get(name)?.text.startsWith('…'))
    const diedAt = this.clock.wallMs()
    const step = names.length === 0 ? [] : [delivered(names)]
    // Each message that does not fit is buried by a write of its own.
    const burials = unfit.map((name) => buried([name], { diedAt, reason: 'The stored payload fails the schema: too long' }))
    const messages = await this.#durable([...step, ...burials], () => this.queue.receive({ max }))
    for (const { leaseEndsInMs } of messages)
      assert(leaseEndsInMs === visibilityTimeoutMs, `a lease of ${leaseEndsInMs} ms`)
    this.counts.buried += unfit.length
    return this.take(messages, names.filter((name) => !unfit.includes(name)))
  }

  /** Takes over messages that were handed out. Checks their order and the content of each. */
  take(messages: readonly TestedMessage[], names: readonly number[]): Handed[] {
    const got = messages.map(({ payload }) => payload.n)
    assert(got.join() === names.join(), `received ${got.join()}, expected ${names.join()}`)
    return messages.map((message) => {
      const { id, payload, attempt, enqueuedAt, headers } = message
      const plain = this.#latest.messages.get(payload.n)
      assert(plain !== undefined, `received ${payload.n}, which is gone`)
      this.#learn(payload.n, id)
      const what = `message ${payload.n}`
      assert(attempt === plain.attempts, `${what} has attempt ${attempt}, expected ${plain.attempts}`)
      assert(enqueuedAt.getTime() === plain.enqueuedAt, `${what} is of ${enqueuedAt.toISOString()}`)
      const text = shorten(payload.text, headers)
      assert(text === plain.text, `${what} has another payload or other headers: ${text}`)
      assert(!message.signal.aborted, `${what} has lost its lease before it was handed out`)
      const leaseMs = message.leaseEndsInMs
      const isRight = leaseMs > 0 && (leaseMs <= visibilityTimeoutMs || leaseMs === Infinity)
      assert(isRight, `${what} has a lease of ${leaseMs} ms`)
      const leaseEnd = this.clock.monotonicMs() + leaseMs
      const handed: Handed = { name: payload.n, message, leaseEnd, state: 'leased' }
      this.#handed.push(handed)
      this.#leases.set(handed.name, handed)
      this.#due.delete(handed.name)
      this.#unsure.delete(handed.name)
      this.counts.delivered += 1
      return handed
    })
  }

  /** A message that this process was given, whatever its state is now. */
  handed(pick: number): Handed | undefined {
    return this.#handed[pick % Math.max(1, this.#handed.length)]
  }

  async ack(handed: Handed | undefined): Promise<void> {
    if (handed === undefined) return
    const refusal = refusalOf(handed)
    if (refusal !== undefined) return this.#refused(handed.message.ack(), [refusal])
    await this.#settle(handed, acked([handed.name], this.#keysUntil()), () => handed.message.ack())
    this.counts.acked += 1
  }

  async nack(
    handed: Handed | undefined,
    options: { delayMs?: number | undefined; reason?: string | undefined; dead?: boolean | undefined },
  ): Promise<void> {
    if (handed === undefined) return
    const refusal = refusalOf(handed)
    if (refusal !== undefined) return this.#refused(handed.message.nack(options), [refusal])
    const { name, message } = handed
    const isLast = options.dead === true || this.#isLast(handed)
    const wall = this.clock.wallMs()
    const delayMs = options.delayMs ?? backoffMs(message.attempt)
    const step = isLast
      ? buried([name], { diedAt: wall, reason: options.reason })
      : nacked(name, dueAtOf(wall, delayMs))
    await this.#settle(handed, step, () => message.nack(options))
    if (isLast) this.counts.buried += 1
    else this.counts.nacked += 1
  }

  async #settle(handed: Handed, step: Step, call: () => Promise<void>): Promise<void> {
    handed.state = 'settled'
    try {
      await this.#durable([step], call)
    } catch (error) {
      // The lease continues, and the call may be made again.
      handed.state = 'leased'
      throw error
    }
    this.#leases.delete(handed.name)
  }

  extend(handed: Handed | undefined, ms: number): void {
    if (handed === undefined) return
    const refusal = refusalOf(handed)
    try {
      handed.message.extend(ms)
    } catch (error) {
      assert(codeOf(error) === refusal && refusal !== undefined, `extend throws ${String(error)}`)
      return
    }
    assert(refusal === undefined, `extend is not refused with ${refusal}`)
    // An extension never makes a lease shorter.
    handed.leaseEnd = Math.max(handed.leaseEnd, this.clock.monotonicMs() + ms)
  }

  /** Redrives or discards one dead letter, all of them, or an id that does not exist. */
  async endDead(how: 'redrive' | 'discard', pick: number | 'all' | 'none'): Promise<void> {
    const names = [...this.#latest.dead.keys()].toSorted((left, right) => left - right)
    const chosen =
      pick === 'all'
        ? names
        : pick === 'none' || names.length === 0
          ? []
          : [names[pick % names.length] as number]
    const which = pick === 'all' ? 'all' : (this.#ids.get(chosen[0] ?? 0) ?? 1_000_000_000)
    const call = (): Promise<number> =>
      how === 'redrive' ? this.queue.redrive(which) : this.queue.discard(which)
    if (which !== 'all' && chosen.length === 0)
      return this.#refused(call(), ['ERR_MINISTORE_NO_SUCH_MESSAGE'])
    if (how === 'redrive' && !this.#hasRoomFor(chosen.length))
      return this.#refused(call(), ['ERR_MINISTORE_QUEUE_FULL'])
    const step = how === 'redrive' ? redriven(chosen, this.clock.wallMs()) : discarded(chosen)
    const count = await this.#durable(chosen.length === 0 ? [] : [step], call)
    assert(count === chosen.length, `${how} of ${chosen.length} gives ${count}`)
    this.counts[how === 'redrive' ? 'redriven' : 'discarded'] += count
  }

  async purge(): Promise<void> {
    const names = [...this.#latest.messages.keys()].filter(
      (name) => this.#leases.get(name)?.state !== 'leased',
    )
    const count = await this.#durable(names.length === 0 ? [] : [purged(names)], () => this.queue.purge())
    assert(count === names.length, `purge of ${names.length} gives ${count}`)
    this.counts.purged += count
  }

  /** Cancels a message: one that waits, or one for which it is too late. */
  async cancel(pick: number): Promise<void> {
    const known = [...this.#ids]
    if (known.length === 0) return
    const [name, id] = known[pick % known.length] as [number, number]
    const waits = this.#latest.messages.has(name) && this.#leases.get(name)?.state !== 'leased'
    const isCancelled = await this.#durable(waits ? [purged([name])] : [], () => this.queue.cancel(id))
    assert(isCancelled === waits, `cancel of message ${name} gives ${isCancelled}, expected ${waits}`)
    if (waits) this.counts.cancelled += 1
  }

  async compact(): Promise<void> {
    await this.queue.compact()
    this.counts.compacted += 1
  }

  /** Makes calls at once, without awaiting one before the next. */
  async together(calls: readonly Call[]): Promise<void> {
    const results = await Promise.allSettled(calls.map((call) => this.call(call)))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  async call(call: Call): Promise<void> {
    switch (call.do) {
      case 'enqueue':
        return await this.enqueue(call.job)
      case 'enqueue-all':
        return await this.enqueueAll(call.jobs)
      case 'ack':
        return await this.ack(this.handed(call.pick))
      case 'nack':
        return await this.nack(this.handed(call.pick), definedOnly(call))
      case 'cancel':
        return await this.cancel(call.pick)
      case 'compact':
        return await this.compact()
      case 'purge':
        return await this.purge()
    }
  }

  // Time

  /**
   * The duration until the next lease ends or message becomes due, in milliseconds; undefined if
   * nothing will.
   */
  nextEventMs(): number | undefined {
    const now = this.clock.monotonicMs()
    const wall = this.clock.wallMs()
    this.#noteDue()
    const leases = [...this.#leases.values()].map(({ leaseEnd }) => leaseEnd - now)
    const dues = [...this.#latest.messages.values()].flatMap(({ name, dueAt }) =>
      this.#due.has(name) || this.#leases.has(name) ? [] : [dueAt - wall],
    )
    const next = Math.min(...leases, ...dues)
    return next === Infinity ? undefined : next
  }

  /** When the next delayed message becomes due, on the wall clock; undefined if none is delayed. */
  get nextDueAt(): number | undefined {
    this.#noteDue()
    const delayed = [...this.#latest.messages.values()].filter(
      ({ name }) => !this.#due.has(name) && !this.#leases.has(name),
    )
    return delayed.length === 0 ? undefined : Math.min(...delayed.map(({ dueAt }) => dueAt))
  }

  get inFlight(): number {
    return this.#leases.size
  }

  /** Lets time pass. Leases end one moment after the other. */
  async advance(ms: number): Promise<void> {
    const end = this.clock.monotonicMs() + ms
    for (;;) {
      const now = this.clock.monotonicMs()
      const next = Math.min(...[...this.#leases.values()].map(({ leaseEnd }) => leaseEnd))
      if (next > end) break
      await this.#endLeases(next, this.clock.wallMs() + next - now)
    }
    this.clock.advance(end - this.clock.monotonicMs())
    await turn()
  }

  async #endLeases(at: number, wall: number): Promise<void> {
    const ending = [...this.#leases.values()].filter(({ leaseEnd }) => leaseEnd === at)
    const dying = ending.filter((handed) => this.#isLast(handed)).map(({ name }) => name)
    const steps = dying.length === 0 ? [] : [buried(dying, { diedAt: wall, reason: undefined })]
    await this.#durable(steps, async () => {
      this.clock.advance(at - this.clock.monotonicMs())
      // No call waits for the work at the end of a lease. Nothing on a simulated disk takes longer
      // than a turn.
      await turn()
      assert(this.errors.length === 0, `an error behind the scenes: ${String(this.errors[0])}`)
      const { dead } = this.queue.stats()
      assert(
        dead === this.#latest.dead.size,
        `${dead} are dead when a lease has ended, expected ${this.#latest.dead.size}`,
      )
    })
    for (const handed of ending) {
      handed.state = 'lost'
      this.#leases.delete(handed.name)
      if (!dying.includes(handed.name)) this.#due.add(handed.name)
      assert(handed.message.signal.aborted, `message ${handed.name} is not told that its lease is over`)
      this.counts.leasesLost += 1
    }
    this.counts.buried += dying.length
    for (const { message } of this.#leases.values())
      assert(!message.signal.aborted, `message ${message.id} lost its lease too early`)
  }

  // What the user knows

  /**
   * Checks the queue's counts of ready, delayed, in-flight and dead messages, its oldest age and
   * its bytes.
   */
  checkStats(): void {
    const { ready, delayed, inFlight, dead, oldestAgeMs, bytesOnDisk } = this.queue.stats()
    const { messages } = this.#latest
    const deliverable = this.deliverable.length
    const waiting = messages.size - this.#leases.size
    const expected = {
      ready: deliverable,
      delayed: waiting - deliverable,
      inFlight: this.#leases.size,
      dead: this.#latest.dead.size,
    }
    const [left, right] = [JSON.stringify({ ready, delayed, inFlight, dead }), JSON.stringify(expected)]
    assert(left === right, `the queue has ${left}, expected ${right}`)
    const onDisk = bytesIn(this.#files)
    const isRight = bytesOnDisk === onDisk || this.hasDiskFailed
    assert(isRight, `${onDisk} bytes are on the disk, the queue says ${bytesOnDisk}`)
    const [oldest] = [...messages.values()].toSorted((one, other) => one.name - other.name)
    const ageMs = oldest && Math.max(0, this.clock.wallMs() - oldest.enqueuedAt)
    assert(oldestAgeMs === ageMs, `the oldest is ${oldestAgeMs} ms old, expected ${ageMs}`)
    // Without a lease or a waiting receive, no timer may run in the background.
    assert(this.#leases.size > 0 || this.clock.timers === 0, `${this.clock.timers} timers wait for nothing`)
  }

  checkDeadLetters(): void {
    for (const { id, payload, reason, attempts } of this.queue.deadLetters()) {
      const dead = this.#latest.dead.get(payload.n)
      assert(dead !== undefined, `message ${payload.n} is dead, and should not be`)
      assert(this.#ids.get(payload.n) === id, `the dead letter ${payload.n} has the id ${id}`)
      assert(
        attempts === dead.attempts,
        `the dead letter ${payload.n} has ${attempts} attempts, expected ${dead.attempts}`,
      )
      assert(
        dead.reason === undefined || dead.reason === reason,
        `the dead letter ${payload.n} died of ${reason}`,
      )
    }
  }

  /**
   * Notes that these messages may have been delivered without being handed out. Whether an attempt
   * was counted is unknown.
   */
  doubtAttempts(names: readonly number[]): void {
    for (const name of names) this.#unsure.add(name)
  }

  /**
   * Sets the wall clock. After a step back, it is unknown whether a kept key was forgotten when it
   * became free or is valid again at the earlier time.
   */
  jump(ms: number): void {
    this.#noteDue()
    this.clock.jump(ms)
    if (ms > 0) return
    const keys = [...this.#latest.keys].map(
      ([key, held]) => [key, held.until === Infinity ? held : { ...held, until: NaN }] as const,
    )
    this.note((queue) => ({ ...queue, keys: new Map(keys) }))
  }

  /** Notes a step that is already durable. */
  note(step: Step): void {
    this.#begin([step])
    this.#acknowledge([step])
  }

  /** Notes that a handler has succeeded. When its ack becomes durable is not reported. */
  beginAck(handed: Handed): void {
    this.#beginSettling(handed, acked([handed.name], this.#keysUntil()))
  }

  /** Notes that a handler has failed. After a stop, that uses up no attempt, unless it is for good. */
  beginNack(handed: Handed, { reason, isPermanent }: { readonly reason: string; readonly isPermanent: boolean }): void {
    const { name, message } = handed
    const wall = this.clock.wallMs()
    const isStopped = message.signal.aborted
    const isDead = isPermanent || (!isStopped && this.#isLast(handed))
    const retried = isStopped ? stopped(name) : nacked(name, dueAtOf(wall, backoffMs(message.attempt)))
    this.#beginSettling(handed, isDead ? buried([name], { diedAt: wall, reason }) : retried)
    if (isStopped && !isDead) this.counts.stopped += 1
    if (isPermanent) this.counts.permanent += 1
  }

  /** Settles what handlers left: it is written by now, or it failed and the leases continue. */
  endSettling(): void {
    for (const { handed, step } of this.#settling.splice(0)) {
      if (handed.message.leaseEndsInMs === 0) this.#acknowledge([step])
      else {
        this.#withdraw([step])
        handed.state = 'leased'
        // The lease of a handler has no end, but only as long as the handler runs.
        handed.leaseEnd = this.clock.monotonicMs() + handed.message.leaseEndsInMs
        assert(handed.leaseEnd < Infinity, `message ${handed.name} is kept by a handler that has ended`)
        this.#leases.set(handed.name, handed)
      }
    }
  }

  #beginSettling(handed: Handed, step: Step): void {
    this.#begin([step])
    this.#settling.push({ handed, step })
    handed.state = 'settled'
    this.#leases.delete(handed.name)
  }

  /** Finds out which of the possible states a crash has left. */
  #resolve(found: FoundQueue): void {
    const expected = this.expected()
    const index = matchOf(found, expected)
    if (index === undefined) throw new Error(mismatch(found, expected))
    if (index > 0) this.counts.survivors += 1
    this.#certain = adjusted(expected.possible[index] as PlainQueue, found, expected.unsure)
    this.#doubtful = []
    this.#unsure.clear()
    for (const [name, id] of found.ids) this.#ids.set(name, id)
  }

  /** Makes a call that takes either all of these steps or none. */
  async #durable<T>(steps: readonly Step[], call: () => Promise<T>): Promise<T> {
    this.#begin(steps)
    try {
      const result = await call()
      this.#acknowledge(steps)
      return result
    } catch (error) {
      // This error promises that nothing was written.
      if (codeOf(error) === 'ERR_MINISTORE_IO') this.#withdraw(steps)
      throw error
    }
  }

  #begin(steps: readonly Step[]): void {
    for (const step of steps) this.#doubtful.push({ step, after: step(this.#latest) })
  }

  /** Notes that these steps are durable, and with them every step begun before. */
  #acknowledge(steps: readonly Step[]): void {
    const last = this.#doubtful.findIndex(({ step }) => step === steps.at(-1))
    const { after = this.#certain } = this.#doubtful[last] ?? {}
    this.#certain = after
    this.#doubtful.splice(0, last + 1)
  }

  #withdraw(steps: readonly Step[]): void {
    const others = this.#doubtful.filter(({ step }) => !steps.includes(step)).map(({ step }) => step)
    this.#doubtful = []
    this.#begin(others)
  }

  async #refused(call: Promise<unknown>, codes: readonly string[]): Promise<void> {
    const error = await call.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    assert(codes.includes(codeOf(error) ?? ''), `expected ${codes.join(' or ')}, got ${String(error)}`)
    this.counts.refused += 1
  }

  #newMessage(job: Job): NewMessage {
    const { delayMs = 0, priority = 0, key, isLong, maxAttempts } = job
    const now = this.clock.wallMs()
    const name = ++this.#names
    return {
      name,
      text: shorten(textOf(isLong), headersOf(name, job)),
      priority,
      key,
      maxAttempts,
      enqueuedAt: now,
      dueAt: dueAtOf(now, delayMs),
    }
  }

  /** The job, without its key if it is unknown whether that key is free. */
  #tellable(job: Job): Job {
    const isUnknown = job.key !== undefined && Number.isNaN(this.#latest.keys.get(job.key)?.until)
    return isUnknown ? { ...job, key: undefined } : job
  }

  #hasRoomFor(count: number): boolean {
    return count === 0 || this.#latest.messages.size + count <= (this.#open?.options.maxDepth ?? Infinity)
  }

  /** The message that a key stands for now. */
  #keyed(key: string): number | undefined {
    const known = this.#latest.keys.get(key)
    return known !== undefined && known.until > this.clock.wallMs() ? known.name : undefined
  }

  /** Until when the keys of messages acknowledged now stay valid; 0 frees them at once. */
  #keysUntil(): number {
    const windowMs = this.#open?.options.dedupeWindowMs ?? 0
    return windowMs === 0 ? 0 : this.clock.wallMs() + windowMs
  }

  #learn(name: number, id: number): void {
    const known = this.#ids.get(name)
    assert(known === undefined || known === id, `message ${name} has the id ${id}, and had ${known}`)
    this.#ids.set(name, id)
  }

  #noteDue(): void {
    const now = this.#open?.clock.wallMs() ?? this.#wall
    for (const { name, dueAt } of this.#latest.messages.values()) {
      if (dueAt <= now && !this.#leases.has(name)) this.#due.add(name)
    }
  }
}

/** Bytes of all segments and snapshots. */
function bytesIn(files: SimulatedFileSystem): number {
  const counted = [...files.snapshot()].filter(([path]) =>
    /\/(?:journal\.jsonl(?:\.\d+)?|snapshot-\d+\.json)$/.test(path),
  )
  return counted.reduce((sum, [, bytes]) => sum + bytes.length, 0)
}

function refusalOf({ state }: Handed): string | undefined {
  if (state === 'leased') return undefined
  return state === 'settled' ? 'ERR_MINISTORE_MESSAGE_SETTLED' : 'ERR_MINISTORE_LEASE_LOST'
}

export function codeOf(error: unknown): string | undefined {
  return error instanceof MiniStoreError ? error.code : undefined
}

/**
 * When a message is due. Without a delay the result is 0, so it is due even after the clock goes
 * back.
 */
function dueAtOf(wallMs: number, delayMs: number): number {
  return delayMs === 0 ? 0 : wallMs + delayMs
}

function textOf(isLong: boolean | undefined): string {
  return isLong === true ? 'ä€😀'.repeat(150) : ''
}

function payloadOf(name: number, { isLong }: Job): Payload {
  return { n: name, text: textOf(isLong) }
}

function headersOf(name: number, { isTagged = false }: Job): Record<string, string> {
  return isTagged ? { tag: String(name) } : {}
}

function definedOnly(options: Extract<Call, { do: 'nack' }>): { delayMs?: number; reason?: string; dead?: boolean } {
  const { delayMs, reason, dead } = options
  return {
    ...(delayMs === undefined ? {} : { delayMs }),
    ...(reason === undefined ? {} : { reason }),
    ...(dead === undefined ? {} : { dead }),
  }
}
