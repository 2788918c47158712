import { openQueue, type TestQueue } from '../../miniqueue/support.ts'
import { turn } from '../../support/consume.ts'
import { MixCrowd, weightedActions } from './mix-actions.ts'
import { MixCaller, type MixWorld, visibilityTimeoutMs } from './mix-caller.ts'
import { pick } from './mix-chance.ts'

/** One opening of a queue. All users use it at once, and it is closed in the middle of that. */
export class MixLife {
  readonly #name: string
  readonly #world: MixWorld
  readonly #caller: MixCaller
  readonly #crowd: MixCrowd
  readonly #told: unknown[]

  private constructor(name: string, world: MixWorld, { queue, told }: TestQueue) {
    this.#name = name
    this.#world = world
    this.#caller = new MixCaller(queue, world)
    this.#crowd = new MixCrowd(this.#caller)
    this.#told = told
  }

  static async open(name: string, world: MixWorld): Promise<MixLife> {
    const { mode, files, clock } = world
    const opened = await openQueue({
      files,
      clock,
      visibilityTimeoutMs,
      maxAttempts: mode.maxAttempts,
      backoff: { initialMs: 200 },
      compaction: { minBytes: mode.compacts ? 300 : 2 ** 40, ratio: 1 },
    })
    world.counts.lives += 1
    return new MixLife(name, world, opened)
  }

  /** Returns whether the disk had room for everything to be written at the end. */
  async run(): Promise<{ readonly hadRoom: boolean }> {
    const { random, log, counts } = this.#world
    const steps = 20 + random.below(40)
    for (let step = 0; step < steps; step++) {
      await this.#step(`${this.#name}.${step}`)
      if (random.below(3) > 0) await this.#look()
      this.#checkTold()
      log.throwIfWrong()
    }
    const hadRoom = await this.#close()
    await this.#caller.allEnded()
    this.#checkTold()
    counts.fullDisks += this.#caller.fullDisks
    if (!hadRoom) counts.fullCloses += 1
    log.throwIfWrong()
    return { hadRoom }
  }

  /** Does some actions directly one after the other, or with a few microtasks between them. */
  async #step(name: string): Promise<void> {
    const { random, log } = this.#world
    for (let calls = 1 + random.below(3); calls > 0; calls--) {
      const action = pick(random, weightedActions)
      log.note(`${name}: ${action.name}`)
      action.act(this.#crowd)
      if (random.below(3) === 0) await microtasks(random.below(40))
    }
  }

  /**
   * Waits until nothing runs by itself. Then no user may still wait for a ready message, or past
   * its own time limit.
   */
  async #look(): Promise<void> {
    const { log, clock, counts } = this.#world
    await quiet()
    for (let rings = 0; rings < 4; rings++) {
      clock.advance(0)
      await quiet()
    }
    counts.looks += 1
    this.#caller.noteReturned()
    const { ready, delayed, inFlight } = this.#caller.queue.stats()
    log.note(`  ready ${ready}, delayed ${delayed}, in flight ${inFlight}`)
    log.claim(ready >= 0 && delayed >= 0, `${ready} are ready and ${delayed} delayed`)
    const fetched = this.#crowd.streams.reduce((sum, stream) => sum + stream.fetched, 0)
    this.#caller.checkInFlight(inFlight, { fetched })
    const waiting = this.#crowd.all.filter(({ isWaiting }) => isWaiting).map(({ name }) => name)
    log.claim(ready === 0 || waiting.length === 0, `${ready} are ready, and ${waiting.join()} waits`)
    for (const { name, isOver, isStopped, running } of this.#crowd.workers) {
      log.claim(!isStopped || running > 0 || isOver, `${name} was stopped and does not end`)
    }
    for (const { name, isOver, isDue } of this.#crowd.receivers) {
      log.claim(isOver || !isDue, `${name} waits longer than it should`)
    }
  }

  /** Checks failures that no call waited for. */
  #checkTold(): void {
    for (const error of this.#told.splice(0)) this.#caller.judge('a failure that no call waited for', error)
  }

  async #close(): Promise<boolean> {
    const { random, log, clock } = this.#world
    const caller = this.#caller
    log.note(`${this.#name}: close`)
    caller.emptyDisk()
    if (this.#world.mode.fillsDisk && random.below(4) === 0) caller.fillDisk({ times: 'always' })
    const fullDisks = caller.fullDisks
    caller.isClosing = true
    const close = { isOver: false }
    caller.begin(this.#awaitClose(close))
    await microtasks(random.below(60))
    if (random.below(2) === 0) for (const stream of this.#crowd.streams) stream.read()
    if (random.below(2) === 0) await quiet()
    if (random.below(3) === 0) clock.advance(visibilityTimeoutMs)
    // Longer than a drain, and then as long as a handler is waited for whose signal has fired.
    if (random.below(4) === 0) {
      clock.advance(30_000)
      await quiet()
      clock.advance(5000)
    }
    for (let rounds = 0; rounds < 30 && !close.isOver; rounds++) {
      for (const worker of this.#crowd.workers) worker.endAll()
      await quiet()
    }
    log.claim(close.isOver, 'the close does not end')
    log.throwIfWrong()
    await quiet()
    caller.noteReturned()
    this.#checkAllOver()
    caller.emptyDisk()
    return caller.fullDisks === fullDisks
  }

  async #awaitClose(close: { isOver: boolean }): Promise<void> {
    try {
      await this.#caller.queue.close()
    } catch (error) {
      this.#caller.judge('close', error)
    }
    close.isOver = true
  }

  #checkAllOver(): void {
    const { log, clock } = this.#world
    for (const { name, isOver } of [...this.#crowd.workers, ...this.#crowd.receivers]) {
      log.claim(isOver, `${name} is not over after the close`)
    }
    for (const { name, isReading } of this.#crowd.streams) {
      log.claim(!isReading, `${name} is read after the close, without an end`)
    }
    log.claim(clock.timers === 0, `${clock.timers} timers are set after the close`)
    log.throwIfWrong()
  }
}

async function microtasks(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await Promise.resolve()
}

/** Waits more turns of the event loop than any background work takes. */
async function quiet(): Promise<void> {
  for (let turns = 0; turns < 12; turns++) await turn()
}
