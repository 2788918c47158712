import { shown } from '../options.ts'

/** Minimum length of a piece in characters, except for the last piece. */
const pieceLength = 1024 * 1024
/** Entries are converted together up to this total weight, in approximate characters of JSON. */
const batchWeight = 64 * 1024
/** Values nested deeper than this are not split. */
const maxDepth = 8

/**
 * Converts a value to JSON in consecutive pieces, each made on demand. The value must not change
 * until the last piece is made.
 *
 * A single JSON.stringify blocks the event loop until the whole text is done. V8 also builds a long
 * string from small parts and copies all of it into one on first use, so for a moment there are two
 * copies. A text of 300 MiB took 641 MiB besides the state, and 363 MiB in pieces. Large values are
 * therefore split, and each piece is small enough to make both costs negligible.
 *
 * @param name the name of the value in errors.
 * @throws {JsonLoss} if the value would not come back from JSON as it is.
 * @throws whatever JSON.stringify throws.
 */
export function* jsonPieces(value: unknown, name: string): Pieces {
  const text = new Text()
  yield* addValue(text, value, { path: name, ancestors: [] })
  if (text.length > 0) yield text.take()
}

type Pieces = Generator<string, void, undefined>

/** Text that has not been passed on yet. */
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
    // JSON drops undefined properties.
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

/** Small entries of one container that are converted together. */
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

  /** Adds a comma, unless the next entry is the first. */
  separate(): void {
    if (!this.#isFirst) this.#text.add(',')
    this.#isFirst = false
  }
}

/** The error for a value that would not come back from JSON as it is. Names the value's path. */
export class JsonLoss extends TypeError {
  constructor(path: string, got: string) {
    super(`expected JSON to keep \`${path}\`, got ${got}`)
  }
}

/** The position of a value. */
export interface Place {
  /** Path to the value, for example `state.users[2]`. */
  readonly path: string
  /** The objects that contain the value. All places on the way down share this array. */
  readonly ancestors: object[]
}

/**
 * Checks that a value, with everything in it, comes back from JSON as it is.
 *
 * Some changes are not detected, because detecting them would cost more than it is worth. JSON
 * drops undefined properties, properties that are not enumerable, and named properties of arrays.
 * It turns `-0` into 0, and a getter into its value.
 *
 * @throws {JsonLoss} for example: expected JSON to keep `state.users[2].born`, got a Date.
 * @throws {RangeError} if the value is nested deeper than the call stack allows.
 * @throws whatever a getter or a proxy in the value throws.
 */
export function assertKept(value: unknown, place: Place): void {
  refuse(lossIn(value, { ancestors: place.ancestors, weight: 0, most: Number.POSITIVE_INFINITY }), place)
}

/** Works like {@link assertKept}, but checks only the object or array itself, not its contents. */
export function assertShapeKept(value: object, place: Place): void {
  const got = lossOfShape(value, place.ancestors)
  if (got !== undefined) refuse(at(got), place)
}

/**
 * Works like {@link assertKept}, for an entry of an object or array. Returns the entry's weight, in
 * approximate characters of JSON. Once the weight exceeds `most`, the rest of the entry is not
 * checked.
 */
export function weigh(value: unknown, entry: { readonly key: string | number; readonly of: Place; readonly most: number }): number {
  const look = { ancestors: entry.of.ancestors, weight: 0, most: entry.most }
  const loss = lossIn(value, look)
  if (loss !== undefined) refuse(loss, placeOf(entry.key, entry.of))
  return look.weight
}

/** @throws {JsonLoss} if the array has no element at this index. */
export function assertNoHole(elements: readonly unknown[], index: number, place: Place): void {
  if (!(index in elements)) refuse(at('a hole'), placeOf(index, place))
}

/** The position of an entry in the value at the given position. */
export function placeOf(key: string | number, { path, ancestors }: Place): Place {
  return { path: path + stepTo(key), ancestors }
}

function stepTo(key: string | number): string {
  if (typeof key === 'number') return `[${key}]`
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

interface Loss {
  readonly got: string
  /** Path to the loss, innermost step first. */
  readonly path: string[]
}

function refuse(loss: Loss | undefined, { path }: Place): void {
  if (loss !== undefined) throw new JsonLoss(path + loss.path.toReversed().join(''), loss.got)
}

/** The progress of a check through a value. */
interface Look {
  readonly ancestors: object[]
  /** Weight of everything checked so far. */
  weight: number
  readonly most: number
}

/** Approximate minimum length of a number, a quoted name, or the braces of an object. */
const least = 4

function lossIn(value: unknown, look: Look): Loss | undefined {
  look.weight += least
  switch (typeof value) {
    case 'string':
      look.weight += value.length
      return undefined
    case 'boolean':
      return undefined
    case 'number':
      return Number.isFinite(value) ? undefined : at(String(value))
    case 'object':
      break
    default:
      return at(value === undefined ? 'undefined' : `a ${typeof value}`)
  }
  if (value === null) return undefined
  const unlike = lossOfShape(value, look.ancestors)
  if (unlike !== undefined) return at(unlike)
  look.ancestors.push(value)
  const loss = Array.isArray(value) ? lossInArray(value, look) : lossInObject(value as Properties, look)
  look.ancestors.pop()
  return loss
}

function lossOfShape(value: object, ancestors: readonly object[]): string | undefined {
  // States are rarely deep, so searching a short list is faster than a set.
  if (ancestors.includes(value)) return 'an object that it lies in'
  return Array.isArray(value) ? unlikeArray(value) : unlikeObject(value)
}

function lossInArray(array: readonly unknown[], look: Look): Loss | undefined {
  for (let index = 0; index < array.length && look.weight <= look.most; index++) {
    const element = array[index]
    const loss = element === undefined && !(index in array) ? at('a hole') : lossIn(element, look)
    if (loss !== undefined) return within(stepTo(index), loss)
  }
  return undefined
}

function lossInObject(object: Properties, look: Look): Loss | undefined {
  for (const key of Object.keys(object)) {
    if (look.weight > look.most) break
    const property = object[key]
    if (property === undefined) continue
    look.weight += key.length
    const loss = lossIn(property, look)
    if (loss !== undefined) return within(stepTo(key), loss)
  }
  return undefined
}

function unlikeObject(object: object): string | undefined {
  const prototype: unknown = Object.getPrototypeOf(object)
  // A restored object would have a prototype, and so inherit names such as `constructor`.
  if (prototype === null) return 'an object without a prototype'
  if (prototype !== Object.prototype && !isForeignRoot(prototype)) return nameOf(object)
  if (hasToJson(object)) return 'an object with a toJSON'
  return Object.getOwnPropertySymbols(object).length > 0 ? 'an object with a symbol for a key' : undefined
}

function unlikeArray(array: object): string | undefined {
  const prototype: unknown = Object.getPrototypeOf(array)
  // The `Array.prototype` of another realm is itself an array. The prototype of a subclass is not.
  if (prototype !== Array.prototype && !Array.isArray(prototype)) return nameOf(array)
  return hasToJson(array) ? 'an array with a toJSON' : undefined
}

/** Whether this is the `Object.prototype` of another realm, such as a `node:vm` context. */
function isForeignRoot(prototype: unknown): boolean {
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype as object, 'isPrototypeOf')
}

function hasToJson(object: object): boolean {
  return typeof (object as { readonly toJSON?: unknown }).toJSON === 'function'
}

function nameOf(object: object): string {
  const { constructor } = object as { readonly constructor?: unknown }
  const name = typeof constructor === 'function' ? constructor.name : ''
  return name === '' ? `${shown(object)} with a prototype of its own` : `an instance of ${name}`
}

function at(got: string): Loss {
  return { got, path: [] }
}

function within(step: string, loss: Loss): Loss {
  loss.path.push(step)
  return loss
}
