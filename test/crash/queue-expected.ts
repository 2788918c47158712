import type { FoundQueue } from './queue-look.ts'
import { describePlain, type PlainQueue } from './queue-plain.ts'

/** What a crash may leave of a queue. */
export interface ExpectedQueue {
  /** The states there may be: the last one that was acknowledged, and after each step under way. */
  readonly possible: readonly PlainQueue[]
  /** Ids by name, as far as they are known; a message that is made known later is added. */
  readonly ids: ReadonlyMap<number, number>
  readonly wallMs: number
  /**
   * Messages that may have one more attempt than is known: delivered, and not handed out yet. Whether they were
   * or not, they may have forgotten a delay that was over.
   */
  readonly unsure: ReadonlySet<number>
}

/** Which of the possible states was found, the newest if several are alike. */
export function matchOf(
  found: FoundQueue,
  { possible, unsure, wallMs, ids }: ExpectedQueue,
): number | undefined {
  for (let index = possible.length - 1; index >= 0; index--) {
    const plain = adjusted(possible[index] as PlainQueue, found, unsure)
    if (describePlain(plain) === found.text && areKeysRight(found, plain, { wallMs, ids })) return index
  }
  return undefined
}

export function mismatch(found: FoundQueue, { possible }: ExpectedQueue): string {
  const expected = possible.map((plain) => `${describePlain(plain)} ${JSON.stringify([...plain.keys])}`)
  const ids = JSON.stringify([...found.ids])
  const keys = JSON.stringify([...found.keys])
  return `found is ${found.text} ${keys}, ids ${ids}; expected ${expected.join(' or ')}`
}

/** With the attempts that were found where one more is allowed, and without a delay where that may be forgotten. */
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

/** Every id that is known is the one that was found; every key that counts still stands for its message. */
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
