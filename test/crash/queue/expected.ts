import { type FoundQueue, lookedAt } from './look.ts'
import { describePlain, opened, type PlainQueue } from './plain.ts'

/** What a crash may leave of a queue. */
export interface ExpectedQueue {
  /**
   * The states that may be found: the last acknowledged one, and the one after each step in
   * progress.
   */
  readonly possible: readonly PlainQueue[]
  /** Known ids, by message name. An id that becomes known later is added. */
  readonly ids: ReadonlyMap<number, number>
  readonly wallMs: number
  /**
   * Messages that may have one more attempt than is known, since they may have been delivered but
   * not yet handed out. Delivered or not, such a message may have lost a delay that had passed.
   */
  readonly unsure: ReadonlySet<number>
}

/** The index of the possible state that was found; the newest if several are alike. */
export function matchOf(
  found: FoundQueue,
  { possible, unsure, wallMs, ids }: ExpectedQueue,
): number | undefined {
  for (let index = possible.length - 1; index >= 0; index--) {
    // A look opens the queue too.
    const plain = opened(adjusted(possible[index] as PlainQueue, found, unsure), { diedAt: lookedAt })
    if (describePlain(plain) === found.text && areKeysRight(found, plain, { wallMs, ids })) return index
  }
  return undefined
}

export function mismatch(found: FoundQueue, { possible }: ExpectedQueue): string {
  const expected = possible.map((plain) => opened(plain, { diedAt: lookedAt })).map((plain) => `${describePlain(plain)} ${JSON.stringify([...plain.keys])}`)
  const ids = JSON.stringify([...found.ids])
  const keys = JSON.stringify([...found.keys])
  return `found is ${found.text} ${keys}, ids ${ids}; expected ${expected.join(' or ')}`
}

/**
 * Takes over the found attempts where one more is allowed, and drops a delay where it may be lost.
 */
export function adjusted(plain: PlainQueue, found: FoundQueue, unsure: ReadonlySet<number>): PlainQueue {
  if (unsure.size === 0) return plain
  const messages = [...plain.messages].map(([name, message]) => {
    const attempts = found.attempts.get(name)
    if (!unsure.has(name) || attempts === undefined) return [name, message] as const
    const isOneMore = attempts === message.attempts + 1
    const isDelayed = !isOneMore && !found.undelayed.has(name)
    return [name, { ...message, ...(isOneMore && { attempts }), dueAt: isDelayed ? message.dueAt : 0 }] as const
  })
  return { ...plain, messages: new Map(messages) }
}

/**
 * Whether every known id is the one that was found, and every valid key still stands for its
 * message.
 */
function areKeysRight(
  found: FoundQueue,
  plain: PlainQueue,
  { wallMs, ids }: Pick<ExpectedQueue, 'wallMs' | 'ids'>,
): boolean {
  for (const [name, id] of found.ids) if ((ids.get(name) ?? id) !== id) return false
  for (const [key, { name, until }] of plain.keys) {
    const expected = found.ids.get(name) ?? ids.get(name)
    if (until > wallMs && expected !== undefined && found.keys.get(key) !== expected) return false
  }
  for (const [key, id] of found.keys) {
    const known = plain.keys.get(key)
    if (known === undefined || (found.ids.get(known.name) ?? ids.get(known.name) ?? id) !== id) return false
  }
  return true
}
