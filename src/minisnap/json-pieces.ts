import { shown } from '../options.ts'

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

/** A value that would not come back from JSON as it is, and where it lies. */
export class JsonLoss extends TypeError {
  constructor(path: string, got: string) {
    super(`expected JSON to keep \`${path}\`, got ${got}`)
  }
}

/** Where a value lies. */
export interface Place {
  /** The way to it, for example `state.users[2]`. */
  readonly path: string
  /** The objects that it lies in; the same array all the way down. */
  readonly ancestors: object[]
}

/**
 * Sees to it that a value comes back from JSON as it is, all of it.
 *
 * Left out of account, because they cost more to see than they are worth: an undefined property is dropped, `-0` comes back
 * as 0, a getter as the value that it gave, and properties that are not enumerable are dropped, as are names that an array has
 * besides its indexes.
 *
 * @throws {JsonLoss} for example: expected JSON to keep `state.users[2].born`, got a Date
 * @throws whatever a getter or a proxy in it throws; {RangeError} when it is nested deeper than the stack is.
 */
export function assertKept(value: unknown, place: Place): void {
  refuse(lossIn(value, { ancestors: place.ancestors, weight: 0, most: Number.POSITIVE_INFINITY }), place)
}

/** As {@link assertKept}, of an object or an array alone, without what is in it. */
export function assertShapeKept(value: object, place: Place): void {
  const got = lossOfShape(value, place.ancestors)
  if (got !== undefined) refuse(at(got), place)
}

/**
 * As {@link assertKept}, of an entry of an object or an array, telling how much it is: about so many characters of JSON. One
 * that weighs more than `most` is not looked at to its end.
 */
export function weigh(value: unknown, entry: { readonly key: string | number; readonly of: Place; readonly most: number }): number {
  const look = { ancestors: entry.of.ancestors, weight: 0, most: entry.most }
  const loss = lossIn(value, look)
  if (loss !== undefined) refuse(loss, placeOf(entry.key, entry.of))
  return look.weight
}

/** @throws {JsonLoss} when an array has nothing at an index. */
export function assertNoHole(elements: readonly unknown[], index: number, place: Place): void {
  if (!(index in elements)) refuse(at('a hole'), placeOf(index, place))
}

/** Where an entry of what lies there does. */
export function placeOf(key: string | number, { path, ancestors }: Place): Place {
  return { path: path + stepTo(key), ancestors }
}

function stepTo(key: string | number): string {
  if (typeof key === 'number') return `[${key}]`
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

interface Loss {
  readonly got: string
  /** The way to it, innermost first. */
  readonly path: string[]
}

function refuse(loss: Loss | undefined, { path }: Place): void {
  if (loss !== undefined) throw new JsonLoss(path + loss.path.toReversed().join(''), loss.got)
}

/** A look at a value and what is in it. */
interface Look {
  readonly ancestors: object[]
  /** Of what was looked at so far. */
  weight: number
  readonly most: number
}

/** What a number, a name with its quotes, or the braces of an object take at least, about. */
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
  // A state is rarely deep, so a look through a short list is quicker than a set.
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
  // One that comes back has a prototype, and with it names such as `constructor`.
  if (prototype === null) return 'an object without a prototype'
  if (prototype !== Object.prototype && !isForeignRoot(prototype)) return nameOf(object)
  if (hasToJson(object)) return 'an object with a toJSON'
  return Object.getOwnPropertySymbols(object).length > 0 ? 'an object with a symbol for a key' : undefined
}

function unlikeArray(array: object): string | undefined {
  const prototype: unknown = Object.getPrototypeOf(array)
  // The one of another realm is an array itself, which that of a subclass is not.
  if (prototype !== Array.prototype && !Array.isArray(prototype)) return nameOf(array)
  return hasToJson(array) ? 'an array with a toJSON' : undefined
}

/** Whether it is the `Object.prototype` of another realm, such as that of a `node:vm` context. */
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
