import type { Message, MiniQueue, NackOptions } from '../../../src/miniqueue/index.ts'
import type { Fault, OperationMatch, SimulatedFileSystem } from '../../../src/testing/index.ts'
import type { Random } from '../../../src/testing/random.ts'
import type { SteppedClock } from './clock.ts'
import type { DurableAttempts } from './mix-durable.ts'
import type { MixLedger } from './mix-ledger.ts'
import type { MixCounts, MixLog } from './mix-log.ts'
import { codeOf } from './user.ts'

export const visibilityTimeoutMs = 1000

/** What differs from run to run. */
export interface MixMode {
  readonly maxAttempts: number
  readonly fillsDisk: boolean
  readonly compacts: boolean
}

/** What a run has from beginning to end, with one queue after another. */
export interface MixWorld {
  readonly mode: MixMode
  readonly random: Random
  readonly files: SimulatedFileSystem
  readonly clock: SteppedClock
  readonly log: MixLog
  readonly counts: MixCounts
  readonly ledger: MixLedger
  /** Absent if compactions remove the records that it reads. */
  readonly durable: DurableAttempts | undefined
}

/**
 * Makes calls of a queue, tells the ledger what each of them means, and knows with which errors
 * they may fail. None of its methods rejects.
 */
export class MixCaller {
  readonly queue: MiniQueue<string>
  readonly world: MixWorld
  /** Messages that were received or read, to be settled later. */
  readonly held: Array<Message<string>> = []
  isClosing = false
  /** Messages that were handed out and may be in flight. */
  #handed: Array<Message<string>> = []
  /** The earliest time at which each message's lease may end, on the monotonic clock. */
  readonly #leaseEnds = new WeakMap<Message<string>, number>()
  /** When each message's signal fired because of a stop, on the monotonic clock. */
  readonly #stoppedAt = new WeakMap<Message<string>, number>()
  /**
   * Messages whose handlers have ended, how often the disk had been full by then, and what to note
   * once the ack or nack is durable.
   */
  readonly #returned: Array<{ readonly message: Message<string>; readonly fullDisks: number; readonly note: () => void }> = []
  readonly #begun: Array<Promise<void>> = []
  readonly #faults: Fault[] = []
  #isFilled = false

  constructor(queue: MiniQueue<string>, world: MixWorld) {
    this.queue = queue
    this.world = world
  }

  /** How many disk calls found the disk full. */
  get fullDisks(): number {
    return this.#faults.reduce((sum, { hits }) => sum + hits, 0)
  }

  /** Keeps a call that is not awaited yet. */
  begin(call: Promise<void>): void {
    this.#begun.push(call)
  }

  async allEnded(): Promise<void> {
    await Promise.all(this.#begun)
  }

  /** Notes that a user was given a message. */
  take(message: Message<string>, by: string): void {
    const { ledger, clock, durable, files, log } = this.world
    const { payload: name, attempt, id } = message
    log.note(`  ${by} got ${name}, attempt ${attempt}`)
    ledger.handedOut(message, clock.wallMs())
    this.#handed.push(message)
    const onAbort = (): void => {
      if (!isLost(message.signal.reason)) this.#stoppedAt.set(message, clock.monotonicMs())
    }
    message.signal.addEventListener('abort', onAbort)
    this.#leaseEnds.set(message, clock.monotonicMs() + message.leaseEndsInMs)
    const counted = durable?.of(id, files) ?? attempt
    log.claim(counted >= attempt, `${by} got ${name} with attempt ${attempt}, and ${counted} are durable`)
  }

  /**
   * Checks that a lease has its full length. It began when the message was handed out, at
   * `handedAt` on the monotonic clock or later.
   */
  checkLease(
    { payload, leaseEndsInMs }: Message<string>,
    { handedAt, leaseMs = visibilityTimeoutMs }: { readonly handedAt: number; readonly leaseMs?: number },
  ): void {
    const { clock, log } = this.world
    const least = leaseMs - (clock.monotonicMs() - handedAt)
    const isWhole = leaseEndsInMs >= least && leaseEndsInMs <= leaseMs
    log.claim(isWhole, `the lease of ${payload} begins with ${leaseEndsInMs} ms`)
  }

  /**
   * Checks the count of messages in flight once nothing runs by itself: those that users hold, and
   * those that may lie in streams.
   */
  checkInFlight(inFlight: number, { fetched }: { readonly fetched: number }): void {
    const { mode, log } = this.world
    // While the disk is full, a message that cannot become a dead letter stays in flight.
    const mayBeDying = this.fullDisks > 0 ? mode.maxAttempts : Infinity
    const isLeased = (message: Message<string>): boolean => message.leaseEndsInMs > 0
    this.#handed = this.#handed.filter((message) => isLeased(message) || message.attempt >= mayBeDying)
    const least = this.#handed.filter(isLeased).length
    const most = this.#handed.length + fetched
    const range = least === most ? `${least}` : `${least} to ${most}`
    log.claim(inFlight >= least && inFlight <= most, `${inFlight} are in flight, expected ${range}`)
  }

  async enqueue(count: number): Promise<void> {
    const { ledger, clock, counts, random, log } = this.world
    const messages = Array.from({ length: count }, () => {
      const delayMs = random.below(4) === 0 ? 1 + random.below(600) : 0
      const payload = ledger.name({ dueAt: clock.wallMs() + delayMs })
      return { payload, priority: random.below(3), delayMs }
    })
    const names = messages.map(({ payload }) => payload)
    try {
      ledger.enqueued(names, await this.queue.enqueueAll(messages))
      log.note(`  enqueued ${names.join()}`)
      counts.enqueued += count
    } catch (error) {
      ledger.refused(names)
      this.judge(`enqueue of ${names.join()}`, error)
    }
  }

  async ack(message: Message<string>): Promise<void> {
    const { ledger, counts } = this.world
    const doubt = ledger.beginAck(message.payload)
    try {
      await message.ack()
      ledger.acked(message.payload)
      counts.acked += 1
    } catch (error) {
      ledger.dispel(doubt)
      this.#judgeOf(message, 'ack', error)
    }
  }

  /** Notes that a handler has returned. Its run acks the message unless the lease has ended. */
  returned(message: Message<string>): void {
    if (message.leaseEndsInMs === 0) return
    const { ledger, counts } = this.world
    ledger.beginAck(message.payload)
    const note = (): void => {
      ledger.acked(message.payload)
      counts.returned += 1
    }
    this.#returned.push({ message, fullDisks: this.fullDisks, note })
  }

  /** Notes that a handler is about to throw. After a stop, its run takes back the attempt. */
  thrown(message: Message<string>): void {
    const refund = this.#refundOf(message)
    if (refund !== undefined) this.#returned.push({ message, fullDisks: this.fullDisks, note: () => refund.done() })
    else this.begin(this.#doubtThrown(message))
  }

  /** A stop between the throw and the moment at which the run sees it may or may not count. */
  async #doubtThrown(message: Message<string>): Promise<void> {
    for (let left = 4; left > 0; left--) await Promise.resolve()
    this.#refundOf(message)
  }

  /**
   * Notes what became of messages whose handlers have ended, once nothing runs by itself any more,
   * if there was time and room to write it.
   */
  noteReturned(): void {
    const { clock } = this.world
    for (const { message, fullDisks, note } of this.#returned.splice(0)) {
      const hadTime = clock.monotonicMs() < (this.#leaseEnds.get(message) ?? 0)
      if (hadTime && fullDisks === this.fullDisks && !this.#isAbandoned(message)) note()
    }
  }

  async nack(message: Message<string>, options: NackOptions): Promise<void> {
    const refund = options.dead === true ? undefined : this.#refundOf(message)
    try {
      await message.nack(options)
      this.world.counts.nacked += 1
      refund?.done()
    } catch (error) {
      refund?.failed()
      this.#judgeOf(message, 'nack', error)
    }
  }

  /** The refund that a nack of this message makes now; undefined if it makes none. */
  #refundOf(message: Message<string>): { done(): void; failed(): void } | undefined {
    if (message.leaseEndsInMs === 0 || !this.#stoppedAt.has(message)) return undefined
    this.world.counts.refunded += 1
    return this.world.ledger.beginRefund(message.payload)
  }

  /** Whether a stopped run no longer waits for the handler of a message. */
  #isAbandoned(message: Message<string>): boolean {
    return this.world.clock.monotonicMs() >= (this.#stoppedAt.get(message) ?? Infinity) + 5000
  }

  /** Receives without waiting, and holds what it gets. */
  async receive(by: string): Promise<void> {
    try {
      for (const message of await this.queue.receive()) this.hold(message, by)
    } catch (error) {
      this.judge(`receive ${by}`, error)
    }
  }

  /** Keeps a message to be settled later. */
  hold(message: Message<string>, by: string): void {
    this.take(message, by)
    this.held.push(message)
  }

  async purge(): Promise<void> {
    const { ledger, counts } = this.world
    const doubt = ledger.beginPurge()
    try {
      const purged = await this.queue.purge()
      doubt.isPending = false
      if (purged === 0) ledger.dispel(doubt)
      counts.purged += purged
    } catch (error) {
      ledger.dispel(doubt)
      this.judge('purge', error)
    }
  }

  redriveAll(): void {
    for (const letter of this.queue.deadLetters()) {
      const redrive = this.world.ledger.beginRedrive(letter)
      if (redrive !== undefined) this.begin(this.#redrive(letter.id, redrive))
    }
  }

  async compact(): Promise<void> {
    try {
      await this.queue.compact()
      this.world.counts.compacted += 1
    } catch (error) {
      this.judge('compact', error)
    }
  }

  /** Makes some of the next writes find no room, or ends that. */
  fillOrEmptyDisk(): void {
    const { random } = this.world
    if (this.#isFilled) this.emptyDisk()
    else this.fillDisk({ nth: 1 + random.below(3), times: 1 + random.below(4) })
  }

  /** Makes the given writes find no room. */
  fillDisk(writes: Pick<OperationMatch, 'nth' | 'times'>): void {
    this.#faults.push(this.world.files.failOn({ operation: 'write', path: /journal/, ...writes }, 'ENOSPC'))
    this.#isFilled = true
  }

  emptyDisk(): void {
    for (const fault of this.#faults) fault.remove()
    this.#isFilled = false
  }

  /** Runs an action inside one of the next operations of the disk. */
  inOperation(act: () => void): void {
    const { random, files } = this.world
    let before = random.below(6)
    const stop = files.onOperation(() => {
      if (before-- > 0) return
      stop()
      act()
    })
  }

  /** Notes a failure, and checks that it is allowed. */
  judge(what: string, error: unknown, ...others: readonly string[]): void {
    const { log, counts } = this.world
    const code = codeOf(error) ?? ''
    log.note(`  ${what} failed: ${String(error)}`)
    if (code === 'ERR_MINISTORE_LEASE_LOST') counts.leasesLost += 1
    const may = [
      ...others,
      ...(this.fullDisks > 0 ? ['ERR_MINISTORE_IO'] : []),
      ...(this.isClosing ? ['ERR_MINISTORE_CLOSED'] : []),
    ]
    log.claim(may.includes(code), `${what} failed: ${String(error)}`)
  }

  /** A lease may be lost, but not before its time is over. */
  #judgeOf(message: Message<string>, what: string, error: unknown): void {
    const endsAt = this.#leaseEnds.get(message) ?? 0
    const isOver = this.world.clock.monotonicMs() >= endsAt || this.#isAbandoned(message)
    this.judge(`${what} of ${message.payload}`, error, ...(isOver ? ['ERR_MINISTORE_LEASE_LOST'] : []))
  }

  async #redrive(id: number, redrive: { done(): void; failed(): void }): Promise<void> {
    const { log, counts } = this.world
    try {
      await this.queue.redrive(id)
      log.note(`  redriven ${id}`)
      redrive.done()
      counts.redriven += 1
    } catch (error) {
      redrive.failed()
      this.judge(`redrive of ${id}`, error)
    }
  }
}

export function isLost(reason: unknown): boolean {
  return codeOf(reason) === 'ERR_MINISTORE_LEASE_LOST'
}
