/** A record such as an application might write. */
export interface SyntheticRecord {
  readonly id: number
  readonly type: string
  readonly at: string
  readonly text: string
}

const types = ['OrderPlaced', 'OrderPaid', 'OrderShipped', 'OrderReturned']
const ascii = 'The quick brown fox jumps over the lazy dog, packs five dozen jugs and goes home. '
const beyondAscii = 'Съешь же ещё этих мягких французских булок, да выпей чаю. Ça va très bien. 雪の朝、静かな道。 '

/**
 * A record whose JSON takes exactly `bytes` bytes of UTF-8. The same arguments give the same
 * record.
 *
 * @throws {RangeError} if `bytes` is too small for a record.
 */
export function syntheticRecord(
  id: number,
  bytes: number,
  alphabet: 'ascii' | 'beyond ascii' = 'ascii',
): SyntheticRecord {
  const at = new Date(Date.UTC(2026, 0, 1) + id * 1000).toISOString()
  const empty = { id, type: types[id % types.length] as string, at, text: '' }
  const room = bytes - JSON.stringify(empty).length
  if (room < 0) throw new RangeError(`Expected at least ${bytes - room} bytes for a record, got ${bytes}`)
  return { ...empty, text: textOf(room, alphabet === 'ascii' ? ascii : beyondAscii) }
}

/** Caches texts, so that creating records does not take longer than measuring them. */
const texts = new Map<string, string>()

function textOf(bytes: number, sample: string): string {
  const key = `${bytes} ${sample}`
  const text = texts.get(key) ?? makeText(bytes, sample)
  texts.set(key, text)
  return text
}

/**
 * A text of exactly `bytes` bytes: the sample repeated, cut between letters and padded with dots.
 */
function makeText(bytes: number, sample: string): string {
  const size = Buffer.byteLength(sample)
  let text = sample.repeat(Math.floor(bytes / size))
  let left = bytes % size
  for (const letter of sample) {
    const width = Buffer.byteLength(letter)
    if (width > left) break
    text += letter
    left -= width
  }
  return text + '.'.repeat(left)
}
