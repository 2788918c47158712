import type { DeadLetter, Message } from '../../../src/miniqueue/index.ts'
import type { MixLog } from './mix-log.ts'

/** An ack or a purge that may have removed messages, with an unknown result. */
export interface Doubt {
  /** Whether it may still remove a message that is handed out now, after its lease has ended. */
  isPending: boolean
}

interface Entry {
  /** The message must not be handed out before this time on the wall clock. */
  readonly dueAt: number
  id: number | undefined
  /** The last attempt that was handed out; 0 after a redrive. */
  attempts: number
  /** Acknowledged, or seen to be missing. It must not come back. */
  isGone: boolean
  readonly doubts: Set<Doubt>
  /** A redrive that was called and has not been seen to succeed. */
  redrive: object | undefined
  /** A nack after a stop, which takes back the attempt and has not been seen to succeed. */
  refund: object | undefined
}

/** The content of a disk: how many attempts are counted for each message, by name. */
export interface FoundMessages {
  readonly messages: ReadonlyMap<string, number>
  readonly dead: ReadonlyMap<string, number>
}

/**
 * What must be true of each message. The payload is the message's name, given before the enqueue. A
 * message handed out before its enqueue resolves is therefore known.
 */
export class MixLedger {
  readonly #log: MixLog
  readonly #maxAttempts: number
  readonly #entries = new Map<string, Entry>()
  #names = 0

  constructor(log: MixLog, { maxAttempts }: { readonly maxAttempts: number }) {
    this.#log = log
    this.#maxAttempts = maxAttempts
  }

  /** Makes a name for a message that is about to be enqueued. */
  name({ dueAt }: { readonly dueAt: number }): string {
    const name = `m${++this.#names}`
    const nothing = { id: undefined, attempts: 0, isGone: false, redrive: undefined, refund: undefined }
    this.#entries.set(name, { ...nothing, dueAt, doubts: new Set() })
    return name
  }

  enqueued(names: readonly string[], ids: readonly number[]): void {
    for (const [index, name] of names.entries()) this.#identify(name, ids[index] as number)
  }

  /** Forgets messages of which nothing was written. */
  refused(names: readonly string[]): void {
    for (const name of names) this.#entries.delete(name)
  }

  handedOut({ payload: name, id, attempt }: Message<string>, at: number): void {
    const entry = this.#identify(name, id)
    if (entry === undefined) return
    this.#log.claim(!entry.isGone, `${name} came back`)
    this.#log.claim(at >= entry.dueAt, `${name} came ${entry.dueAt - at} ms early`)
    // The message may be seen before the redrive resolves. This redrive then counts as done, and a
    // later one is separate.
    if (attempt === 1 && entry.redrive !== undefined) this.#reset(entry)
    // So may the nack after a stop.
    if (entry.refund !== undefined && attempt === entry.attempts) entry.attempts -= 1
    entry.refund = undefined
    this.#log.claim(attempt === entry.attempts + 1, `${name} has attempt ${attempt} after ${entry.attempts}`)
    this.#log.claim(attempt <= this.#maxAttempts, `${name} has attempt ${attempt} of ${this.#maxAttempts}`)
    entry.attempts = attempt
    // The message was still there, and only its new holder can ack it. Earlier doubts are settled
    // unless a purge is pending.
    for (const doubt of entry.doubts) if (!doubt.isPending) entry.doubts.delete(doubt)
  }

  /** Notes that an ack of the message has begun. */
  beginAck(name: string): Doubt {
    const doubt = { isPending: false }
    this.#entries.get(name)?.doubts.add(doubt)
    return doubt
  }

  acked(name: string): void {
    const entry = this.#entries.get(name)
    if (entry !== undefined) entry.isGone = true
  }

  /** Notes that an attempt is being taken back. Returns functions that end that. */
  beginRefund(name: string): { done(): void; failed(): void } {
    const entry = this.#entries.get(name)
    const refund = {}
    if (entry !== undefined) entry.refund = refund
    const end = (attempts: number): void => {
      if (entry?.refund !== refund) return
      entry.refund = undefined
      entry.attempts -= attempts
    }
    return { done: () => end(1), failed: () => end(0) }
  }

  /**
   * Notes that everything enqueued so far may be purged: what will be in flight when the purge runs
   * is unknown.
   */
  beginPurge(): Doubt {
    const doubt = { isPending: true }
    for (const { doubts } of this.#entries.values()) doubts.add(doubt)
    return doubt
  }

  /** Notes that the doubted removal has not happened. */
  dispel(doubt: Doubt): void {
    for (const { doubts } of this.#entries.values()) doubts.delete(doubt)
  }

  /**
   * Returns functions that end the redrive; undefined while another redrive of this message is in
   * progress.
   */
  beginRedrive({ payload: name }: DeadLetter<string>): { done(): void; failed(): void } | undefined {
    const entry = this.#entries.get(name)
    this.#log.claim(entry !== undefined && !entry.isGone, `${name} is dead, and should be gone`)
    if (entry === undefined || entry.redrive !== undefined) return undefined
    const redrive = {}
    entry.redrive = redrive
    return {
      done: () => {
        if (entry.redrive === redrive) this.#reset(entry)
      },
      failed: () => {
        this.#log.claim(entry.redrive === redrive, `${name} was redriven by a call that failed`)
        entry.redrive = undefined
      },
    }
  }

  /**
   * Compares the ledger with the disk after a close, and continues with what the disk has.
   *
   * @param options.isExact whether every attempt of a prefetched message that was never handed out
   * could be taken back.
   */
  compare({ messages, dead }: FoundMessages, { isExact }: { readonly isExact: boolean }): void {
    for (const name of [...messages.keys(), ...dead.keys()]) {
      this.#log.claim(this.#entries.has(name), `${name} is in the queue, but was never enqueued`)
      this.#log.claim(!messages.has(name) || !dead.has(name), `${name} is there and dead`)
    }
    for (const [name, entry] of this.#entries) {
      const attempts = messages.get(name) ?? dead.get(name)
      if (attempts === undefined) {
        this.#log.claim(entry.isGone || entry.doubts.size > 0, `${name} is lost`)
        entry.isGone = true
        continue
      }
      this.#log.claim(!entry.isGone, `${name} is there, and should be gone`)
      const least = entry.attempts - (entry.refund === undefined ? 0 : 1)
      const isRight = attempts >= least && (!isExact || attempts <= entry.attempts)
      this.#log.claim(isRight, `${name} has ${attempts} attempts, and was handed out with ${entry.attempts}`)
      entry.attempts = attempts
      entry.refund = undefined
      entry.doubts.clear()
    }
  }

  #identify(name: string, id: number): Entry | undefined {
    const entry = this.#entries.get(name)
    this.#log.claim(entry !== undefined, `${name} was delivered, but was never enqueued`)
    if (entry === undefined) return undefined
    this.#log.claim(entry.id === undefined || entry.id === id, `${name} has the id ${id}, and had ${entry.id}`)
    entry.id = id
    return entry
  }

  #reset(entry: Entry): void {
    entry.redrive = undefined
    entry.refund = undefined
    entry.attempts = 0
  }
}
