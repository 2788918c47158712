import { assertKept, assertNoHole, assertShapeKept, type Place, placeOf, weigh } from './json-fidelity.ts'

/** A piece is as long as this or longer, but for the last. */
const pieceLength = 1024 * 1024
/** Entries are turned into text together while they weigh no more than this. */
const batchWeight = 64 * 1024
/** What lies deeper is not taken apart. */
const maxDepth = 8

/**
 * The JSON of a value as texts to be put one behind the other, each made when it is asked for: until the last one the value
 * must not change.
 *
 * One call of JSON.stringify would do, but it holds up the event loop until all of it is done, and V8 makes a long text of
 * small ones that it keeps until somebody looks at it, and then copies all of it into one: for a moment there are two. So
 * what is large is taken apart, and each text stays small enough for that to be nothing.
 *
 * @param name what the value is called in errors.
 * @throws {JsonLoss} when it would not read back as it is; and whatever JSON.stringify throws.
 */
export function* jsonPieces(value: unknown, name: string): Pieces {
  const text = new Text()
  yield* addValue(text, value, { path: name, ancestors: [] })
  if (text.length > 0) yield text.take()
}

type Pieces = Generator<string, void, undefined>

/** What is not handed on yet. */
class Text {
  length = 0
  #parts: string[] = []

  add(part: string): void {
    this.#parts.push(part)
    this.length += part.length
  }

  take(): string {
    const piece = this.#parts.join('')
    this.#parts = []
    this.length = 0
    return piece
  }
}

function* addValue(text: Text, value: unknown, place: Place): Pieces {
  const { ancestors } = place
  if (typeof value !== 'object' || value === null || ancestors.length === maxDepth) {
    assertKept(value, place)
    text.add(JSON.stringify(value))
  } else {
    assertShapeKept(value, place)
    ancestors.push(value)
    yield* Array.isArray(value) ? addArray(text, value, place) : addObject(text, value as Properties, place)
    ancestors.pop()
  }
  if (text.length >= pieceLength) yield text.take()
}

type Properties = Readonly<Record<string, unknown>>

function* addArray(text: Text, elements: readonly unknown[], place: Place): Pieces {
  const batch = new Batch<unknown>(text, (values) => JSON.stringify(values).slice(1, -1))
  text.add('[')
  for (let index = 0; index < elements.length; index++) {
    const element = elements[index]
    if (element === undefined) assertNoHole(elements, index, place)
    const weight = weigh(element, { key: index, of: place, most: batchWeight })
    if (weight <= batchWeight) {
      batch.add(element, weight)
    } else {
      batch.flush()
      batch.separate()
      yield* addValue(text, element, placeOf(index, place))
    }
    if (text.length >= pieceLength) yield text.take()
  }
  batch.flush()
  text.add(']')
}

function* addObject(text: Text, object: Properties, place: Place): Pieces {
  const batch = new Batch<[string, unknown]>(text, (entries) => JSON.stringify(Object.fromEntries(entries)).slice(1, -1))
  text.add('{')
  for (const key of Object.keys(object)) {
    const property = object[key]
    // JSON drops it.
    if (property === undefined) continue
    const weight = weigh(property, { key, of: place, most: batchWeight })
    if (weight <= batchWeight) {
      batch.add([key, property], weight + key.length)
    } else {
      batch.flush()
      batch.separate()
      text.add(`${JSON.stringify(key)}:`)
      yield* addValue(text, property, placeOf(key, place))
    }
    if (text.length >= pieceLength) yield text.take()
  }
  batch.flush()
  text.add('}')
}

/** Small entries of one container, which become text together. */
class Batch<Entry> {
  readonly #text: Text
  readonly #join: (entries: Entry[]) => string
  #entries: Entry[] = []
  #weight = 0
  #isFirst = true

  constructor(text: Text, join: (entries: Entry[]) => string) {
    this.#text = text
    this.#join = join
  }

  add(entry: Entry, weight: number): void {
    this.#entries.push(entry)
    this.#weight += weight
    if (this.#weight >= batchWeight) this.flush()
  }

  flush(): void {
    if (this.#entries.length === 0) return
    this.separate()
    this.#text.add(this.#join(this.#entries))
    this.#entries = []
    this.#weight = 0
  }

  /** A comma, unless nothing comes before it. */
  separate(): void {
    if (!this.#isFirst) this.#text.add(',')
    this.#isFirst = false
  }
}
