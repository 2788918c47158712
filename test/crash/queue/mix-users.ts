import type { Message } from '../../../src/miniqueue/index.ts'
import { deferred } from '../../support/deferred.ts'
import { isLost, type MixCaller, visibilityTimeoutMs } from './mix-caller.ts'
import { anyOf, pick } from './mix-chance.ts'

/** How a handler ends. */
type Ending = 'return' | 'throw' | 'nack' | 'ack'
const endings: readonly Ending[] = ['throw', 'nack', 'ack', 'return', 'return', 'return']

/** What a handler does that ends at once. */
type Deed = 'throw' | 'stop' | 'enqueue' | 'nack' | 'purge' | 'receive' | 'nothing'
const nothings = Array<Deed>(6).fill('nothing')
const deeds: readonly Deed[] = ['throw', 'stop', 'enqueue', 'nack', 'purge', 'receive', ...nothings]

interface Running {
  readonly message: Message<string>
  readonly end: (ending: Ending) => void
}

/** A user of the queue, until it is over. */
export abstract class MixUser {
  readonly name: string
  isOver = false
  protected readonly caller: MixCaller
  readonly #controller = new AbortController()

  constructor(name: string, caller: MixCaller) {
    this.name = name
    this.caller = caller
  }

  /** Whether a ready message must go to this user. */
  abstract get isWaiting(): boolean

  get isStopped(): boolean {
    return this.signal.aborted
  }

  stop(why: string): void {
    if (this.isStopped || this.isOver) return
    this.caller.world.counts.aborted += 1
    this.caller.world.log.note(`  ${this.name} is stopped ${why}`)
    this.#controller.abort(new Error(why))
  }

  protected get signal(): AbortSignal {
    return this.#controller.signal
  }

  protected failed(error: unknown): void {
    // A stopped user gets its own abort reason.
    if (!this.isStopped || error !== this.signal.reason) this.caller.judge(this.name, error)
  }
}

/** A run of `process`. Its handlers wait to be ended, or do something and end at once. */
export class MixWorker extends MixUser {
  readonly #concurrency: number
  readonly #drainMs: number
  readonly #leaseMs: number
  readonly #endsAtOnce: boolean
  readonly #running = new Set<Running>()
  readonly #fullDisksBefore: number

  constructor(
    name: string,
    caller: MixCaller,
    { concurrency, endsAtOnce }: { readonly concurrency: number; readonly endsAtOnce: boolean },
  ) {
    super(name, caller)
    const { random } = caller.world
    this.#concurrency = concurrency
    this.#drainMs = pick(random, [0, 0, 300, 30_000])
    this.#leaseMs = pick(random, [visibilityTimeoutMs, Infinity])
    this.#endsAtOnce = endsAtOnce
    this.#fullDisksBefore = caller.fullDisks
    caller.begin(this.#run())
  }

  get running(): number {
    return this.#running.size
  }

  override get isWaiting(): boolean {
    return !this.isOver && !this.isStopped && this.running < this.#concurrency && !this.#mayHaveFailed
  }

  /** Ends one of the handlers. */
  endOne(): void {
    const { random } = this.caller.world
    anyOf(random, [...this.#running])?.end(pick(random, endings))
  }

  endAll(): void {
    for (const { end } of this.#running) end(pick(this.caller.world.random, endings))
  }

  /**
   * Whether the run may have failed. A run that can get no more messages waits for its handlers,
   * and the signals of those with a lease are aborted.
   */
  get #mayHaveFailed(): boolean {
    const signals = [...this.#running].map(({ message }) => message.signal)
    if (signals.some(({ aborted, reason }) => aborted && !isLost(reason))) return true
    const wasFull = this.caller.fullDisks > this.#fullDisksBefore
    return wasFull && signals.length > 0 && signals.every(({ aborted }) => aborted)
  }

  async #run(): Promise<void> {
    const times = { drainMs: this.#drainMs, handlerTimeoutMs: this.#leaseMs }
    const options = { concurrency: this.#concurrency, signal: this.signal, ...times }
    let hasFailed = false
    try {
      await this.caller.queue.process((_, message) => this.#handle(message), options)
    } catch (error) {
      hasFailed = true
      this.failed(error)
    }
    const { log } = this.caller.world
    log.claim(hasFailed || this.isStopped || this.caller.isClosing, `${this.name} has ended by itself`)
    const isLeft = ({ message }: Running): boolean => message.signal.aborted && message.leaseEndsInMs === 0
    log.claim([...this.#running].every(isLeft), `${this.name} has ended before its handlers`)
    this.isOver = true
  }

  #handle(message: Message<string>): Promise<void> | undefined {
    const { log, counts, random } = this.caller.world
    counts.handlers += 1
    log.claim(!this.isStopped && !this.caller.isClosing, `a handler of ${this.name} began after a stop`)
    this.caller.checkLease(message, { handedAt: this.caller.world.clock.monotonicMs(), leaseMs: this.#leaseMs })
    this.caller.take(message, this.name)
    if (!this.#endsAtOnce) return this.#wait(message)
    const deed = pick(random, deeds)
    this.#do(deed, message)
    // Its nack is in progress. If the nack fails before the run checks, the run acks the message.
    if (deed === 'nack') this.caller.world.ledger.beginAck(message.payload)
    else this.caller.returned(message)
    return undefined
  }

  async #wait(message: Message<string>): Promise<void> {
    const ended = deferred<Ending>()
    const running = { message, end: ended.resolve }
    this.#running.add(running)
    const { log } = this.caller.world
    log.claim(this.running <= this.#concurrency, `${this.name} runs ${this.running} of ${this.#concurrency}`)
    try {
      const ending = await ended.promise
      if (ending === 'throw') {
        this.caller.thrown(message)
        throw new Error('thrown by a handler')
      }
      if (ending === 'nack') await this.caller.nack(message, { delayMs: 0 })
      if (ending === 'ack') await this.caller.ack(message)
      this.caller.returned(message)
    } finally {
      this.#running.delete(running)
    }
  }

  #do(deed: Deed, message: Message<string>): void {
    const { caller } = this
    switch (deed) {
      case 'nothing':
        return
      case 'throw':
        throw new Error('thrown by a handler at once')
      case 'stop':
        return this.stop('by its handler')
      case 'enqueue':
        return caller.begin(caller.enqueue(1))
      case 'nack':
        return caller.begin(caller.nack(message, { delayMs: 0 }))
      case 'purge':
        return caller.begin(caller.purge())
      case 'receive':
        return caller.begin(caller.receive(`in a handler of ${this.name}`))
    }
  }
}

/** A `receive` that waits. */
export class MixReceiver extends MixUser {
  /** When its wait ends, on the monotonic clock. */
  readonly #endsAt: number

  constructor(name: string, caller: MixCaller, { max, waitMs }: { readonly max: number; readonly waitMs: number }) {
    super(name, caller)
    this.#endsAt = caller.world.clock.monotonicMs() + waitMs
    caller.begin(this.#receive(max, waitMs))
  }

  override get isWaiting(): boolean {
    return !this.isOver
  }

  /** Whether its time is over. */
  get isDue(): boolean {
    return this.caller.world.clock.monotonicMs() >= this.#endsAt
  }

  async #receive(max: number, waitMs: number): Promise<void> {
    const { log, counts, clock } = this.caller.world
    const handedAt = clock.monotonicMs()
    try {
      const messages = await this.caller.queue.receive({ max, waitMs, signal: this.signal })
      log.claim(messages.length <= max, `${this.name} got ${messages.length} of ${max}`)
      log.claim(messages.length > 0 || this.isDue || this.caller.isClosing, `${this.name} ended too early`)
      counts.received += messages.length
      for (const message of messages) {
        this.caller.checkLease(message, { handedAt })
        this.caller.hold(message, this.name)
      }
    } catch (error) {
      this.failed(error)
    }
    this.isOver = true
  }
}

/** A stream that is read from time to time. */
export class MixStream extends MixUser {
  readonly #prefetch: number
  readonly #reader: ReadableStreamDefaultReader<Message<string>>
  #isReading = false

  constructor(name: string, caller: MixCaller, { prefetch }: { readonly prefetch: number }) {
    super(name, caller)
    this.#prefetch = prefetch
    this.#reader = caller.queue.consume({ prefetch, signal: this.signal }).getReader()
    // The error reaches the caller of `read`.
    this.#reader.closed.catch(() => {})
  }

  override get isWaiting(): boolean {
    return this.#isReading && !this.isOver
  }

  get isReading(): boolean {
    return this.#isReading
  }

  /** How many messages may lie in the stream once nothing runs by itself. */
  get fetched(): number {
    return this.isOver || this.isStopped || this.#isReading ? 0 : this.#prefetch - 1
  }

  /** Reads one message, unless a read is in progress. */
  read(): void {
    if (this.#isReading || this.isOver) return
    this.#isReading = true
    this.caller.begin(this.#read())
  }

  /** Cancels the stream without an abort. */
  cancel(): void {
    if (this.isOver) return
    this.isOver = true
    this.caller.world.counts.aborted += 1
    this.caller.begin(this.#reader.cancel(new Error('left')).catch((error: unknown) => this.failed(error)))
  }

  async #read(): Promise<void> {
    const { counts, log, clock } = this.caller.world
    const handedAt = clock.monotonicMs()
    const isClosed = this.caller.isClosing
    try {
      const { done, value } = await this.#reader.read()
      if (done) this.isOver = true
      else {
        log.claim(!isClosed, `${this.name} was read after the close, and gave ${value.payload}`)
        counts.streamed += 1
        this.caller.checkLease(value, { handedAt })
        this.caller.hold(value, this.name)
      }
    } catch (error) {
      this.isOver = true
      this.failed(error)
    }
    this.#isReading = false
  }
}
