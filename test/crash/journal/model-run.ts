import { isDeepStrictEqual } from 'node:util'

import { MiniStore, MiniStoreError, type OpenOptions } from '../../../src/index.ts'
import type { SimulatedFileSystem, TornVariant } from '../../../src/testing/index.ts'
import { named, turn } from '../../support/consume.ts'
import { countsText } from '../counts-text.ts'
import { assertThat } from './model-assert.ts'
import type { Action, Call, Command, Crash, Json, Limits, Loss, Refusal } from './model-commands.ts'
import { type Ending, Follower } from './model-follower.ts'
import { PlainJournal } from './model-journal.ts'

/**
 * How much happened. The tests check these counts, so a suite that tests less than before fails.
 */
export class ModelCounts {
  runs = 0
  commands = 0
  acknowledged = 0
  refused = 0
  rotations = 0
  reads = 0
  followers = 0
  /** Crashes in the middle of an action, and in the middle of a recovery. */
  crashes = 0
  recoveryCrashes = 0
  /** Records found after a crash although they were never acknowledged. */
  survivors = 0
  fullDiskErrors = 0
  poisonings = 0

  toString(): string {
    return countsText(this)
  }
}

/** What may go wrong while calls run, apart from refused records. */
type Trouble = 'none' | 'full-disk' | 'failed-sync' | 'kill'

/** A call that was made. */
interface Made {
  readonly call: Call
  /** The JSON of the records it appends. */
  readonly texts: readonly string[]
  /** The sequence number passed to `truncateBefore`; 0 for other calls. */
  readonly before: number
  readonly promise: Promise<unknown>
}

/** What is known after calls have ended and some of them failed. */
interface Doubt {
  /** Records that may or may not be there. Any that are there form a prefix of this list. */
  readonly inFlight: readonly string[]
  /** The lowest sequence number that the oldest record may have. */
  readonly lowest: number
  /** The highest sequence number that the oldest record may have. */
  readonly highest: number
  /** Whether the store refuses every call except `close`. */
  readonly isPoisoned: boolean
  /**
   * Whether a write of many lines may be half done. It can leave damage that recovery cannot heal
   * (src/ministore/README.md, limits).
   */
  readonly isManyLines: boolean
}

const maxRecordBytes = 200_000
const tooLarge = 'x'.repeat(maxRecordBytes)

/** Where a journal lives while commands run on it. */
export interface Place {
  readonly path: string
  /** Absent: the real disk. */
  readonly files?: SimulatedFileSystem
}

/** Runs every command on a journal and on the model, and throws at the first difference. */
export async function runModel(
  commands: readonly Command[],
  place: Place,
  counts: ModelCounts,
): Promise<void> {
  const run = new ModelRun(place, counts)
  counts.runs += 1
  try {
    await run.start()
    for (const [index, command] of commands.entries()) {
      // As in the crash harness: memory opened in one turn of the event loop is freed only after
      // the turn ends.
      await turn()
      // Shrinking often leaves a few commands besides the failing one, so the message names it.
      await named(`command ${index + 1}, ${command.do}`, run.execute(command))
      counts.commands += 1
    }
    await named('closing and opening at the end', run.finish())
  } finally {
    await run.abandon()
  }
}

class ModelRun {
  readonly #path: string
  readonly #counts: ModelCounts
  #files: SimulatedFileSystem | undefined
  #store: MiniStore | undefined
  #journal = new PlainJournal({})
  #followers: Follower[] = []

  constructor({ path, files }: Place, counts: ModelCounts) {
    this.#path = path
    this.#files = files
    this.#counts = counts
  }

  async start(): Promise<void> {
    this.#store = await this.#open({})
    await this.#check()
  }

  async execute(command: Command): Promise<void> {
    switch (command.do) {
      case 'calls':
      case 'reopen':
        await this.#act(command)
        break
      case 'read':
        await this.#read(command)
        return
      case 'follow':
        this.#follow(command)
        return
      case 'crash':
        await this.#crash(command)
        break
      case 'fill-disk':
        await this.#fillDisk(command)
        break
      case 'fail-sync':
        await this.#failSync(command)
        break
    }
    await this.#check()
  }

  /** Closes and opens the journal once more, so the last check sees what the next process sees. */
  async finish(): Promise<void> {
    await this.#act({ do: 'reopen', limits: {} })
    await this.#check()
  }

  /** Leaves nothing open, whatever happened. */
  async abandon(): Promise<void> {
    // Errors here are dropped: only the failure that came before counts.
    const followers = this.#followers.map((follower) => follower.finish(this.#journal, 'killed'))
    await Promise.allSettled([this.#store?.close(), ...followers])
  }

  get #sim(): SimulatedFileSystem {
    if (this.#files === undefined) throw new TypeError('Expected a simulated disk for this command')
    return this.#files
  }

  get #current(): MiniStore {
    return this.#store as MiniStore
  }

  #open(limits: Limits): Promise<MiniStore> {
    const options: OpenOptions = { ...limits, maxRecordBytes, fileSystem: this.#files }
    return MiniStore.open(this.#path, options)
  }

  // Commands

  async #act(action: Action, trouble: Trouble = 'none'): Promise<void> {
    if (action.do === 'reopen') {
      await this.#close('closed')
      await this.#openAgain(action.limits)
      return
    }
    const doubt = await this.#call(action.calls, trouble)
    if (doubt === undefined) return
    assertThat(!doubt.isPoisoned && doubt.inFlight.length === 0, 'poisoned, but no sync has failed')
    this.#adopt(doubt)
  }

  async #read(command: Extract<Command, { do: 'read' }>): Promise<void> {
    const { how } = command
    const { first, last } = this.#journal
    const from = command.from === undefined ? undefined : 1 + (command.from % (last + 3))
    const to = command.to === undefined ? undefined : Math.max(from ?? 1, 1 + (command.to % (last + 3)))
    const damages: string[] = []
    const options = {
      ...(from === undefined ? {} : { from }),
      ...(to === undefined ? {} : { to }),
      ...(command.salvage ? { salvage: (damage: MiniStoreError) => void damages.push(damage.message) } : {}),
    }
    const store = this.#current
    const records: unknown[] = []
    let failure: unknown
    try {
      if (how === 'replay') records.push(...(await store.replay(options)))
      else if (how === 'stream') for await (const record of store.stream(options)) records.push(record)
      else {
        const isStatic = how === 'static'
        const entries = isStatic
          ? MiniStore.entries(this.#path, { ...options, fileSystem: this.#files })
          : store.entries(options)
        for await (const { sequence, record } of entries) {
          const expected = (from ?? first) + records.length
          assertThat(sequence === expected, `an entry has the sequence ${sequence}, expected ${expected}`)
          records.push(record)
        }
      }
    } catch (error) {
      failure = error
    }
    this.#counts.reads += 1
    const range = `${how} from ${from} to ${to}`
    assertThat(damages.length === 0, `${range} reports damage: ${damages.join('; ')}`)
    if (from !== undefined && from < first) {
      const isGone = codeOf(failure) === 'ERR_MINISTORE_SEQUENCE_GONE'
      assertThat(isGone, `${range}, ${first} being first: ${String(failure)}`)
      return
    }
    assertThat(failure === undefined, `${range} ends with ${String(failure)}`)
    assertRecords(records, this.#journal.slice(from ?? first, to ?? last), range)
  }

  #follow({ from, isLazy }: Extract<Command, { do: 'follow' }>): void {
    const { first, last } = this.#journal
    const start = from === undefined ? first : first + (from % (last - first + 3))
    this.#followers.push(new Follower(this.#current, { from: start, isLazy }))
    this.#counts.followers += 1
  }

  async #crash({ action, crash, inRecovery, limits }: Extract<Command, { do: 'crash' }>): Promise<void> {
    const store = this.#current
    this.#sim.stopAt(this.#sim.operations + crash.after)
    let doubt: Doubt | undefined
    if (action.do === 'calls') doubt = await this.#call(action.calls, 'kill')
    else {
      try {
        await store.close()
        this.#store = await this.#open(action.limits)
        this.#journal.limits = action.limits
      } catch (error) {
        if (!this.#sim.isStopped) throw error
      }
    }
    if (this.#sim.isStopped) this.#counts.crashes += 1
    await this.#reboot(crash.loss, doubt ?? this.#certain())
    let known = doubt ?? this.#certain()
    for (const again of inRecovery) known = await this.#crashInRecovery(again, known, limits)
    await this.#openAgain(limits, known)
  }

  /**
   * Opens the journal and crashes during the opening or right after it. What a completed opening
   * gave is certain from then on.
   */
  async #crashInRecovery({ after, loss }: Crash, known: Doubt, limits: Limits): Promise<Doubt> {
    const files = this.#sim
    files.stopAt(files.operations + after)
    let certain: Doubt | undefined
    try {
      await this.#openAgain(limits, known)
      certain = this.#certain()
    } catch (error) {
      if (!files.isStopped) throw error
      this.#counts.recoveryCrashes += 1
    }
    await this.#reboot(loss, certain ?? known)
    return certain ?? known
  }

  async #fillDisk({ roomBytes, actions }: Extract<Command, { do: 'fill-disk' }>): Promise<void> {
    const files = this.#sim
    const used = [...files.snapshot().values()].reduce((sum, { length }) => sum + length, 0)
    files.capacityBytes = used + roomBytes
    for (const action of actions) {
      await this.#act(action, 'full-disk')
      await this.#check()
    }
    files.capacityBytes = Infinity
  }

  async #failSync({ nth, action, afterwards, limits }: Extract<Command, { do: 'fail-sync' }>): Promise<void> {
    const files = this.#sim
    const fault = files.failOn({ operation: ['sync', 'dataSync', 'syncDirectory'], nth }, 'EIO')
    let doubt: Doubt | undefined
    if (action.do === 'calls') doubt = await this.#call(action.calls, 'failed-sync')
    else {
      try {
        await this.#close('closed')
        await this.#openAgain(action.limits)
      } catch (error) {
        assertThat(fault.hits > 0 && codeOf(error) === 'ERR_MINISTORE_IO', `reopening: ${String(error)}`)
      }
    }
    fault.remove()
    const isPoisoned = doubt?.isPoisoned === true
    assertThat(!isPoisoned || fault.hits > 0, 'the store is poisoned, but no sync has failed')
    if (isPoisoned) {
      this.#counts.poisonings += 1
      await this.#expectPoisoned()
    } else if (action.do === 'calls') {
      assertThat(fault.hits === 0, 'a sync has failed and the store goes on')
    }
    if (afterwards === 'close') await this.#close(isPoisoned ? 'poisoned' : 'closed', doubt?.highest)
    else await this.#reboot(afterwards, doubt ?? this.#certain())
    await this.#openAgain(limits, doubt)
  }

  // Steps of the commands

  /**
   * Makes calls without awaiting one before the next, and judges every answer. Returns undefined if
   * nothing is in doubt.
   */
  async #call(calls: readonly Call[], trouble: Trouble): Promise<Doubt | undefined> {
    const before = this.#journal
    const ideal = before.fork()
    const made = calls.map((call) => this.#make(call))
    const outcomes = await Promise.allSettled(made.map(({ promise }) => promise))
    const isKilled = trouble === 'kill' && this.#sim.isStopped
    const acknowledged: string[] = []
    const inFlight: string[] = []
    let isPoisoned = false
    let isClear = true
    for (const [index, { call, texts, before: mark }] of made.entries()) {
      const outcome = outcomes[index] as PromiseSettledResult<unknown>
      const error: unknown = outcome.status === 'rejected' ? outcome.reason : undefined
      const code = codeOf(error)
      const last = before.last + acknowledged.length
      const what = `${call.do}, call ${index + 1},`
      if (call.do === 'refuse') {
        const expected = call.why === 'too-large' ? 'RECORD_TOO_LARGE' : 'NOT_SERIALIZABLE'
        const isRefused = code === `ERR_MINISTORE_${expected}`
        assertThat(isRefused, `${what} of a bad record (${call.why}): ${String(error)}`)
        this.#counts.refused += 1
        continue
      }
      apply(ideal, call, { texts, before: mark })
      if (call.do === 'replay') {
        const isGone = code === 'ERR_MINISTORE_SEQUENCE_GONE' && this.#mayDelete(calls)
        const isStopped = isKilled || (code === 'ERR_MINISTORE_POISONED' && trouble === 'failed-sync')
        if (outcome.status === 'rejected') assertThat(isGone || isStopped, `${what} ${String(error)}`)
        else assertRecords(outcome.value as unknown[], before.slice(before.first, before.last), what)
        continue
      }
      if (outcome.status === 'fulfilled') {
        const isFirst = texts.length === 0 || inFlight.length === 0
        assertThat(isFirst, `${what} was acknowledged behind one that was not`)
        assertAnswer(call, outcome.value, { last, count: texts.length })
        const isInRange = call.do !== 'truncate' || mark <= last + 1
        assertThat(isInRange, `${what} before ${mark} was not refused, ${last} is last`)
        acknowledged.push(...texts)
        continue
      }
      if (error instanceof RangeError && call.do === 'truncate') {
        assertThat(mark > last + 1, `${what} before ${mark} was refused, though ${last} is the last record`)
        continue
      }
      isClear = false
      if (isKilled) {
        inFlight.push(...texts)
        continue
      }
      if (code === 'ERR_MINISTORE_OUTCOME_UNKNOWN' && texts.length > 0 && !isPoisoned) inFlight.push(...texts)
      isPoisoned ||= code === 'ERR_MINISTORE_OUTCOME_UNKNOWN' || code === 'ERR_MINISTORE_POISONED'
      const isFull = trouble === 'full-disk' && code === 'ERR_MINISTORE_IO'
      if (isFull) this.#counts.fullDiskErrors += 1
      assertThat(isFull || (trouble === 'failed-sync' && isPoisoned), `${what} ${String(error)}`)
    }
    this.#counts.acknowledged += acknowledged.length
    if (isClear) {
      this.#counts.rotations += ideal.starts.filter((start) => !before.starts.includes(start)).length
      this.#journal = ideal
      return undefined
    }
    before.texts.push(...acknowledged)
    const isManyLines = made.some(({ call, texts }) => call.do === 'append-all' && texts.length > 1)
    // A failed call may have deleted all or part of what it was about to delete.
    const highest = Math.max(ideal.first, ...made.map(({ before: mark }) => mark))
    return { inFlight, lowest: before.first, highest, isPoisoned, isManyLines }
  }

  #make(call: Call): Made {
    const store = this.#current
    const made = (promise: Promise<unknown>, records: readonly Json[] = [], before = 0): Made => {
      return { call, texts: records.map((record) => JSON.stringify(record)), before, promise }
    }
    switch (call.do) {
      case 'append':
        return made(store.append(call.record), [call.record])
      case 'append-long': {
        const record = 'x'.repeat(call.bytes)
        return made(store.append(record), [record])
      }
      case 'append-all':
        return made(store.appendAll(call.records), call.records)
      case 'refuse':
        return made(refusals[call.why](store))
      case 'rotate':
        return made(store.rotate())
      case 'truncate': {
        const before = 1 + (call.pick % (this.#journal.last + 3))
        return made(store.truncateBefore(before), [], before)
      }
      case 'replay':
        break
    }
    return made(store.replay())
  }

  #mayDelete(calls: readonly Call[]): boolean {
    return this.#journal.limits.maxSegments !== undefined || calls.some((call) => call.do === 'truncate')
  }

  #certain(): Doubt {
    const { first } = this.#journal
    return { inFlight: [], lowest: first, highest: first, isPoisoned: false, isManyLines: false }
  }

  async #close(ending: Ending, highest?: number): Promise<void> {
    const [closed] = await Promise.allSettled([this.#store?.close()])
    // The store is closed even when `close` rejects.
    this.#store = undefined
    await this.#finishFollowers(ending, highest)
    if (closed?.status === 'rejected') throw closed.reason
  }

  async #finishFollowers(ending: Ending, highest?: number): Promise<void> {
    const followers = this.#followers
    this.#followers = []
    for (const follower of followers) await follower.finish(this.#journal, ending, highest)
  }

  async #openAgain(limits: Limits, doubt: Doubt = this.#certain()): Promise<void> {
    this.#store = await this.#open(limits)
    this.#journal.limits = limits
    this.#adopt(doubt)
  }

  /** Takes over from the store what the model cannot know, within the allowed bounds. */
  #adopt({ inFlight, lowest, highest }: Doubt): void {
    const { firstSequence, lastSequence, segments } = this.#current
    const journal = this.#journal
    const most = journal.last + inFlight.length
    assertThat(lastSequence >= journal.last, `${lastSequence} is last, but ${journal.last} were acknowledged`)
    assertThat(lastSequence <= most, `${lastSequence} is last, but only ${most} were issued`)
    const survivors = inFlight.slice(0, lastSequence - journal.last)
    this.#counts.survivors += survivors.length
    journal.texts.push(...survivors)
    const isAllowed = firstSequence >= lowest && firstSequence <= highest
    assertThat(isAllowed, `${firstSequence} is first, expected one from ${lowest} to ${highest}`)
    journal.starts = segments.map((segment) => segment.firstSequence)
  }

  /** Ends the process, perhaps with the power, and continues on a disk that this may leave. */
  async #reboot(loss: Loss, { isManyLines }: Doubt): Promise<void> {
    const files = this.#sim
    // A process that has ended writes nothing more, and its followers end with it.
    files.stopAt(0)
    this.#files = afterLoss(files, loss, isManyLines)
    await this.#finishFollowers('killed')
    // The stopped process cannot write a seal, but closing lets its queue come to rest.
    await this.#store?.close().catch(() => {})
    this.#store = undefined
  }

  async #expectPoisoned(): Promise<void> {
    const store = this.#current
    const refused = await Promise.allSettled([
      store.append(1), store.appendAll([1]), store.rotate(), store.truncateBefore(1), store.replay(),
    ])
    for (const outcome of refused) {
      const error: unknown = outcome.status === 'rejected' ? outcome.reason : undefined
      assertThat(codeOf(error) === 'ERR_MINISTORE_POISONED', `a call of a poisoned store: ${String(error)}`)
    }
  }

  /**
   * Checks what must hold after every command: the store, its readers and the durable bytes agree
   * with the model.
   */
  async #check(): Promise<void> {
    const store = this.#current
    const { first, last, segments } = this.#journal
    const bounds = `${store.firstSequence} to ${store.lastSequence}`
    assertThat(bounds === `${first} to ${last}`, `the store has ${bounds}, expected ${first} to ${last}`)
    const seen = store.segments.map(({ firstSequence, lastSequence, isSealed, bytes }) => {
      return { firstSequence, lastSequence, isSealed, bytes }
    })
    assertThat(
      isDeepStrictEqual(seen, segments),
      `the segments are ${JSON.stringify(seen)}, expected ${JSON.stringify(segments)}`,
    )
    const texts = this.#journal.slice(first, last)
    assertRecords(await store.replay(), texts, 'replay')
    if (this.#files === undefined) {
      assertRecords(await MiniStore.replay(this.#path), texts, 'the static replay')
      return
    }
    // A power failure at this moment must take nothing.
    const fileSystem = this.#files.afterCrash({ keep: 'none' })
    assertRecords(await MiniStore.replay(this.#path, { fileSystem }), texts, 'the durable bytes')
  }
}

/** Does to the model what a successful call does to the journal. */
function apply(journal: PlainJournal, call: Call, facts: Pick<Made, 'texts' | 'before'>): void {
  if (call.do === 'rotate') journal.rotate()
  else if (call.do !== 'truncate') journal.append(facts.texts)
  else if (facts.before <= journal.last + 1) journal.truncateBefore(facts.before)
}

/** Checks that the sequence numbers a call returned are the next ones. */
function assertAnswer(
  call: Call,
  value: unknown,
  at: { readonly last: number; readonly count: number },
): void {
  const range = { first: at.last + 1, last: at.last + at.count }
  const isSingle = call.do === 'append' || call.do === 'append-long'
  const expected = isSingle ? range.last : call.do === 'append-all' ? range : undefined
  const isRight = isDeepStrictEqual(value, expected)
  assertThat(isRight, `${call.do} gave ${JSON.stringify(value)}, expected ${JSON.stringify(expected)}`)
}

/**
 * Compares as text, which shows the order of keys and `__proto__`, and as values, which shows -0.
 */
function assertRecords(records: readonly unknown[], texts: readonly string[], what: string): void {
  const seen = records.map((record) => JSON.stringify(record))
  const isSame = isDeepStrictEqual(seen, texts)
  assertThat(isSame, `${what} gives ${shorten(seen)}, expected ${shorten(texts)}`)
  const values = texts.map((text): unknown => JSON.parse(text))
  assertThat(isDeepStrictEqual(records, values), `${what} gives other values than ${shorten(texts)}`)
}

function shorten(texts: readonly string[]): string {
  return `[${texts.map((text) => (text.length > 100 ? `${text.slice(0, 97)}…` : text)).join(', ')}]`
}

const refusals: Readonly<Record<Refusal, (store: MiniStore) => Promise<unknown>>> = {
  undefined: (store) => store.append(undefined),
  bigint: (store) => store.append({ n: 1n }),
  cycle: (store) => {
    const cycle: Record<string, unknown> = {}
    cycle['self'] = cycle
    return store.append(cycle)
  },
  'too-large': (store) => store.append(tooLarge),
  mixed: (store) => store.appendAll(['good', undefined]),
}

const mildVariants: readonly TornVariant[] = ['cut', 'zeros']
const allVariants: readonly TornVariant[] = [...mildVariants, 'head-lost', 'garbage', 'blocks']

function afterLoss(files: SimulatedFileSystem, loss: Loss, isManyLines: boolean): SimulatedFileSystem {
  if (loss.of === 'process') return files.afterKill()
  if (loss.keep !== 'some') return files.afterCrash({ keep: loss.keep })
  const tornVariants = isManyLines ? mildVariants : allVariants
  const states = [...files.crashStates({ seed: loss.pick, limit: 24, tornVariants })]
  return states[loss.pick % states.length] as SimulatedFileSystem
}

function codeOf(error: unknown): string | undefined {
  return error instanceof MiniStoreError ? error.code : undefined
}
