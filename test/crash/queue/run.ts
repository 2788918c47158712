import { type Message, PermanentFailure } from '../../../src/miniqueue/index.ts'
import type { OperationMatch, SimulatedFileSystem, SystemErrorCode } from '../../../src/testing/index.ts'
import { deferred } from '../../support/deferred.ts'
import { named, turn } from '../../support/consume.ts'
import { countsText } from '../counts-text.ts'
import type { Action, Call, Command, Loss } from './commands.ts'
import { assert, type Payload } from './look.ts'
import { delivered } from './plain.ts'
import { codeOf, type Handed, QueueUser } from './user.ts'

/** How much trouble there was. */
export class TroubleCounts {
  runs = 0
  commands = 0
  crashes = 0
  fullDisks = 0
  failedSnapshots = 0
  failedSyncs = 0
  waits = 0
  streams = 0
  handlers = 0
  jumps = 0

  toString(): string {
    return countsText(this)
  }
}

/** Runs commands on a queue and on the model, and throws at the first difference. */
export class QueueRun {
  readonly #user: QueueUser
  readonly #counts: TroubleCounts
  #files: SimulatedFileSystem

  constructor(files: SimulatedFileSystem, user: QueueUser, counts: TroubleCounts) {
    this.#files = files
    this.#user = user
    this.#counts = counts
  }

  /** Opens the queue, runs all commands, closes it, and opens it once more. */
  async run(commands: readonly Command[]): Promise<void> {
    this.#counts.runs += 1
    await this.#user.open(this.#files)
    for (const [index, command] of commands.entries()) {
      // Memory opened in one turn of the event loop is freed only after the turn ends.
      await turn()
      await named(`command ${index + 1}, ${command.do}`, this.execute(command))
      this.#user.checkStats()
      this.#user.checkDeadLetters()
      this.#counts.commands += 1
    }
    await named('closing and opening at the end', this.act({ do: 'reopen', options: {} }))
    await this.#user.close()
  }

  async execute(command: Command): Promise<void> {
    const user = this.#user
    switch (command.do) {
      case 'extend':
        return user.extend(user.handed(command.pick), command.ms)
      case 'wait':
        return await this.#wait(command)
      case 'jump':
        return await this.#jump(command)
      case 'crash':
        return await this.#crash(command)
      case 'fault':
        return await this.#fault(command)
      default:
        return await this.act(command)
    }
  }

  async act(action: Action): Promise<void> {
    const user = this.#user
    switch (action.do) {
      case 'together':
        return await user.together(action.calls)
      case 'receive':
        await user.receive(action.max)
        return
      case 'redrive':
      case 'discard':
        return await user.endDead(action.do, action.pick)
      case 'advance':
        return await user.advance(action.ms)
      case 'reopen':
        await user.close()
        return await user.open(this.#files, action.options)
      case 'awaited':
        return await this.#awaited(action)
      case 'consume':
        return await this.#consume(action)
      case 'process':
        return await this.#process(action)
      default:
        return await user.call(action)
    }
  }

  /** A receive that finds nothing, and the event that ends its wait. */
  async #wait({ max, until }: Extract<Command, { do: 'wait' }>): Promise<void> {
    const user = this.#user
    if (user.deliverable.length > 0) return
    this.#counts.waits += 1
    const stop = new AbortController()
    const next = user.nextEventMs()
    const isTimed = until === 'timeout' && (next === undefined || next > 5000)
    const waiting = user.queue.receive({ max, waitMs: isTimed ? 5000 : Infinity, signal: stop.signal })
    const state = { isOver: false }
    const end = (): void => void (state.isOver = true)
    const settled = waiting.then(end, end)
    await turn()
    assert(!state.isOver, 'a receive has not waited')
    if (isTimed) {
      await user.advance(4999)
      assert(!state.isOver, 'a receive has not waited to the end')
      await user.advance(1)
      const messages = await waiting
      assert(messages.length === 0, `received ${messages.length} of nothing`)
      return
    }
    if (until === 'enqueue') await user.enqueue({})
    else if (until === 'time' && next !== undefined) await user.advance(Math.max(0, next))
    else if (until === 'jump' && user.nextDueAt !== undefined && user.inFlight === 0) {
      user.jump(user.nextDueAt - user.clock.wallMs())
      // The queue gets no event when the wall clock is set. It checks the clock twice a minute.
      for (let seconds = 0; !state.isOver && seconds < 30; seconds++) await user.advance(1000)
      assert(state.isOver, 'a receive has slept through a clock that was set')
    }
    const ready = user.deliverable
    if (ready.length > 0) {
      const messages = await waiting
      // After a jump, more messages may have become due since the queue checked the clock.
      const names = until === 'jump' ? messages.map(({ payload }) => payload.n) : ready.slice(0, max)
      assert(names.length > 0 && names.every((name) => ready.includes(name)), `received ${names.join()}`)
      user.note(delivered(names))
      user.take(messages, names)
      return
    }
    assert(!state.isOver, 'a receive has ended with nothing')
    const reason = new Error('stopped')
    stop.abort(reason)
    await settled
    const error = await waiting.then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    assert(error === reason, `an aborted receive gives ${String(error)}`)
  }

  async #awaited({ max, jobs }: Extract<Action, { do: 'awaited' }>): Promise<void> {
    const user = this.#user
    if (user.deliverable.length > 0) return
    const stop = new AbortController()
    const waiting = user.queue.receive({ max, waitMs: Infinity, signal: stop.signal })
    // The receive is aborted if nothing arrives, and then rejects.
    waiting.catch(() => {})
    await turn()
    user.isAwaited = true
    try {
      await user.enqueueAll(jobs)
      const names = user.deliverable.slice(0, max)
      if (names.length === 0) return
      const messages = await waiting
      user.note(delivered(names))
      user.take(messages, names)
    } finally {
      user.isAwaited = false
      stop.abort()
    }
  }

  async #consume(action: Extract<Action, { do: 'consume' }>): Promise<void> {
    const user = this.#user
    if (user.deliverable.length === 0) return
    this.#counts.streams += 1
    // A reader that keeps its lock: letting go of it would give prefetched messages back.
    const reader = user.queue.consume({ prefetch: action.prefetch }).getReader()
    let isLeft = true
    try {
      await this.#take(reader, action)
      isLeft = action.isLeft
    } finally {
      if (isLeft) await reader.cancel()
    }
    if (!isLeft) return await this.act({ do: 'reopen', options: user.options })
    await turn()
    await user.settleAttempts()
  }

  /** Takes messages out of a stream and leaves the stream open. */
  async #take(
    reader: ReadableStreamDefaultReader<Message<Payload>>,
    { take, isAcked, pauseMs }: Extract<Action, { do: 'consume' }>,
  ): Promise<void> {
    const user = this.#user
    let wanted = Math.min(take, user.deliverable.length)
    user.doubtAttempts(user.deliverable)
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      const message = next.value
      const [name] = user.deliverable.slice(0, 1) as [number]
      user.note(delivered([name]))
      const [handed] = user.take([message], [name])
      // Taking a message out makes room to prefetch the next ones.
      user.doubtAttempts(user.deliverable)
      if (isAcked) await user.ack(handed)
      // A prefetched message may lose its lease, and so may one that was taken out. Such a message
      // comes again.
      await user.advance(pauseMs)
      user.doubtAttempts(user.deliverable)
      wanted -= 1
      if (wanted === 0 || user.deliverable.length === 0) return
    }
  }

  async #process({ concurrency, throwsAt, ending }: Extract<Action, { do: 'process' }>): Promise<void> {
    const user = this.#user
    const stop = new AbortController()
    const idle = deferred()
    let calls = 0
    let running = 0
    let late: number | undefined
    const finish = (): void => {
      if (running === 0 && user.deliverable.length === 0) idle.resolve()
    }
    // A delivery is durable before its handler is called, together with the outcome of the previous
    // message.
    user.doubtAttempts(user.deliverable)
    const working = user.queue.process(
      async (payload, message) => {
        // Thrown here, this would be a failure of the handler.
        if (stop.signal.aborted) late ??= payload.n
        if (concurrency === 1) user.endSettling()
        const [name] = user.deliverable
        assert(name === payload.n, `a handler got ${payload.n}, expected ${name}`)
        user.note(delivered([name]))
        const [handed] = user.take([message], [name]) as [Handed]
        calls += 1
        running += 1
        assert(running <= concurrency, `${running} handlers run at once`)
        const isPermanent = ending === 'permanent'
        const isOne = calls % throwsAt === 0
        const badness = isOne && ending !== 'finished' ? new (isPermanent ? PermanentFailure : Error)(`bad ${calls}`) : undefined
        await turn()
        if (isOne && (ending === 'stopped' || ending === 'finished')) stop.abort()
        running -= 1
        if (badness === undefined) user.beginAck(handed)
        else user.beginNack(handed, { reason: badness.message, isPermanent })
        this.#counts.handlers += 1
        queueMicrotask(finish)
        if (badness !== undefined) throw badness
      },
      { concurrency, signal: stop.signal, drainMs: 0 },
    )
    finish()
    const failed = working.then(() => assert(stop.signal.aborted, 'process has ended by itself'))
    failed.catch(() => {})
    try {
      await Promise.race([idle.promise, failed])
      stop.abort()
      await working
    } catch (error) {
      // The queue keeps working; only the reported failure has happened.
      if (codeOf(error) === 'ERR_MINISTORE_IO') user.endSettling()
      throw error
    }
    assert(late === undefined, `the handler of message ${late} began after the stop`)
    user.endSettling()
    await user.settleAttempts()
  }

  async #jump({ ms, behind }: Extract<Command, { do: 'jump' }>): Promise<void> {
    const user = this.#user
    user.jump(ms)
    this.#counts.jumps += 1
    if (behind === 'receive') await user.receive(1)
    else await user.advance(30_000)
  }

  async #crash({ action: wanted, after, loss, options }: Extract<Command, { do: 'crash' }>): Promise<void> {
    const user = this.#user
    const action = separable(wanted)
    const { queue } = user
    this.#files.stopAt(this.#files.operations + after)
    try {
      await this.act(action)
    } catch (error) {
      if (!this.#files.isStopped) throw error
    }
    await turn()
    if (this.#files.isStopped) this.#counts.crashes += 1
    else this.#files.stopAt(this.#files.operations)
    // The stop may have hit a reopening inside the action. Then the queue is a different one, or
    // none is open.
    await queue.close().catch(() => {})
    user.errors.length = 0
    this.#files = left(this.#files, loss)
    user.leave()
    await user.open(this.#files, options)
  }

  async #fault({ kind, action: wanted, options }: Extract<Command, { do: 'fault' }>): Promise<void> {
    const user = this.#user
    const separate = separable(wanted)
    const action = separate.do === 'consume' ? { ...separate, pauseMs: 0 } : separate
    // Failures in the background, such as at the end of a lease, do not reach the caller. Other
    // tests cover them.
    if (action.do === 'advance' || action.do === 'reopen') return await this.act(action)
    if (action.do === 'consume' && !action.isLeft) return await this.act(action)
    // Whether a call finds room would depend on which earlier calls have failed, which only the
    // queue knows.
    if (kind === 'full-disk' && action.do === 'together' && user.isLimited) return await this.act(action)
    const { queue } = user
    const fault = this.#files.failOn(...faults[kind])
    let failure: unknown
    try {
      await this.act(action)
    } catch (error) {
      failure = error
    } finally {
      this.#files.clearFaults()
    }
    await turn()
    const code = codeOf(failure)
    if (kind === 'full-disk') {
      if (fault.hits > 0) this.#counts.fullDisks += 1
      assert(failure === undefined || code === 'ERR_MINISTORE_IO', `on a full disk: ${String(failure)}`)
    } else if (kind === 'no-snapshots') {
      if (fault.hits > 0) this.#counts.failedSnapshots += 1
      const isAsked =
        action.do === 'compact' ||
        (action.do === 'together' && action.calls.some((call) => call.do === 'compact'))
      assert(
        failure === undefined || (isAsked && code === 'ERR_MINISTORE_IO'),
        `no snapshot: ${String(failure)}`,
      )
      // A failure is reported exactly if it happened.
      const told = user.errors.length + (failure === undefined ? 0 : 1)
      assert(told > 0 === fault.hits > 0, `${fault.hits} snapshots failed, and ${told} were told`)
    }
    user.errors.length = 0
    if (kind !== 'failed-sync') return
    if (fault.hits === 0) {
      assert(failure === undefined, `without a fault: ${String(failure)}`)
      return
    }
    this.#counts.failedSyncs += 1
    const isKnown = failure === undefined || /_(?:OUTCOME_UNKNOWN|POISONED|IO)$/.test(code ?? '')
    assert(isKnown, `after a failed sync: ${String(failure)}`)
    await queue
      .close()
      .catch((error: unknown) => assert(codeOf(error) !== undefined, `close: ${String(error)}`))
    user.errors.length = 0
    user.leave()
    await user.open(this.#files, options)
  }
}

const faults: Record<Extract<Command, { do: 'fault' }>['kind'], readonly [OperationMatch, SystemErrorCode]> =
  {
    'full-disk': [{ operation: 'write', times: 'always' }, 'ENOSPC'],
    'no-snapshots': [{ operation: 'open', path: /snapshot-\d+\.json\.tmp/, times: 'always' }, 'ENOSPC'],
    'failed-sync': [{ operation: ['sync', 'dataSync'], nth: 1 }, 'EIO'],
  }

/** Leaves out simultaneous calls whose effect depends on whether an earlier one has failed. */
function separable(action: Action): Action {
  if (action.do !== 'together') return action
  const calls = action.calls.flatMap((call): Call[] => {
    if (call.do === 'purge' || call.do === 'cancel') return []
    if (call.do === 'enqueue') return [{ ...call, job: { ...call.job, key: undefined } }]
    if (call.do === 'enqueue-all')
      return [{ ...call, jobs: call.jobs.map((job) => ({ ...job, key: undefined })) }]
    return [call]
  })
  return { do: 'together', calls }
}

function left(files: SimulatedFileSystem, loss: Loss): SimulatedFileSystem {
  if (loss === 'process') return files.afterKill()
  if (loss === 'power-none') return files.afterCrash({ keep: 'none' })
  if (loss === 'power-all') return files.afterCrash({ keep: 'all' })
  const states = [
    ...files.crashStates({ seed: loss.pick, limit: 20, tornVariants: ['cut', 'zeros', 'garbage'] }),
  ]
  return states[loss.pick % states.length] as SimulatedFileSystem
}

/** Runs commands on a fresh disk. */
export async function runQueueModel(
  commands: readonly Command[],
  files: SimulatedFileSystem,
  counts: { readonly trouble: TroubleCounts; readonly calls: QueueUser['counts'] },
): Promise<void> {
  const user = new QueueUser()
  try {
    await new QueueRun(files, user, counts.trouble).run(commands)
  } finally {
    counts.calls.add(user.counts)
  }
}
