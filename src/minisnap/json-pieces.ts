/** A piece is as long as this or longer, but for the last. */
const pieceLength = 1024 * 1024
/** Entries are turned into text together up to about this length, and up to this many. */
const batchLength = 64 * 1024
const batchEntries = 1024
/** Entries of what lies deeper are not told apart. */
const maxDepth = 8

/**
 * The JSON of a value, which must have one that reads back as it is, as texts to be put one behind the other.
 *
 * One call of JSON.stringify would do, but V8 makes a long text of small ones that it keeps until somebody looks at
 * it, and then copies all of it into one: for a moment there are two. So containers are taken apart as far as their
 * entries are large, and each text stays small enough for that to be nothing.
 *
 * @throws {RangeError} when all of it is longer than `maxLength`, as JSON.stringify does; and whatever that throws.
 */
export function jsonPieces(value: unknown, maxLength: number): string[] {
  const texts = new Texts(maxLength)
  addValue(texts, value, 0)
  return texts.end()
}

class Texts {
  /** Characters so far. */
  length = 0
  readonly #maxLength: number
  readonly #pieces: string[] = []
  #parts: string[] = []
  #piece = 0

  constructor(maxLength: number) {
    this.#maxLength = maxLength
  }

  add(text: string): void {
    this.#parts.push(text)
    this.#piece += text.length
    this.length += text.length
    if (this.length > this.#maxLength) throw new RangeError('Invalid string length')
    if (this.#piece >= pieceLength) this.#flush()
  }

  end(): string[] {
    if (this.#piece > 0) this.#flush()
    return this.#pieces
  }

  #flush(): void {
    this.#pieces.push(this.#parts.join(''))
    this.#parts = []
    this.#piece = 0
  }
}

function addValue(texts: Texts, value: unknown, depth: number): void {
  if (typeof value !== 'object' || value === null || depth === maxDepth) {
    texts.add(JSON.stringify(value))
  } else if (Array.isArray(value)) {
    const elements: readonly unknown[] = value
    texts.add('[')
    inBatches(texts, elements.length, (from, to) => {
      if (to - from === 1) addValue(texts, elements[from], depth + 1)
      else texts.add(JSON.stringify(elements.slice(from, to)).slice(1, -1))
    })
    texts.add(']')
  } else {
    addObject(texts, value as Readonly<Record<string, unknown>>, depth)
  }
}

function addObject(texts: Texts, object: Readonly<Record<string, unknown>>, depth: number): void {
  // JSON drops them, and a batch of nothing else would leave a comma with nothing before it.
  const keys = Object.keys(object).filter((key) => object[key] !== undefined)
  texts.add('{')
  inBatches(texts, keys.length, (from, to) => {
    const [first = ''] = keys.slice(from, to)
    if (to - from === 1) {
      texts.add(`${JSON.stringify(first)}:`)
      addValue(texts, object[first], depth + 1)
      return
    }
    const text = JSON.stringify(Object.fromEntries(keys.slice(from, to).map((key) => [key, object[key]])))
    if (text === '{}') throw new TypeError('a getter gives another value each time')
    texts.add(text.slice(1, -1))
  })
  texts.add('}')
}

/** Adds so many entries with commas between them: alone while they are large, together when they turn out to be small. */
function inBatches(texts: Texts, entries: number, add: (from: number, to: number) => void): void {
  let size = 1
  for (let from = 0; from < entries; ) {
    if (from > 0) texts.add(',')
    const before = texts.length
    const to = Math.min(entries, from + size)
    add(from, to)
    const perEntry = (texts.length - before) / (to - from)
    // Grows by steps, for the next ones may be larger.
    size = Math.max(1, Math.min(4 * size, batchEntries, Math.floor(batchLength / perEntry)))
    from = to
  }
}
