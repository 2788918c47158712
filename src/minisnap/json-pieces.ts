import { shown } from '../options.ts'

/**
 * Minimum length of a piece in characters, except for the last piece. While a piece is made the
 * event loop waits, some milliseconds. Smaller pieces need more trips through the thread pool.
 */
const pieceLength = 256 * 1024
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
 * The value, with everything in it, must come back from JSON as it is. Some changes are not
 * detected, because detecting them would cost more than it is worth. JSON drops undefined
 * properties, properties that are not enumerable, and named properties of arrays. It turns `-0`
 * into 0, and a getter into its value.
 *
 * @param name the name of the value in errors.
 * @throws {TypeError} if the value would not come back, for example: expected JSON to keep
 *   `state.users[2].born`, got a Date.
 * @throws {RangeError} if the value is nested deeper than the call stack allows.
 * @throws whatever JSON.stringify, or a getter or a proxy in the value, throws.
 */
export function* jsonPieces(value: unknown, name: string): Pieces {
  const json = new JsonWriter(name)
  yield* json.write(value)
  yield* json.rest()
}

type Pieces = Generator<string, void, undefined>
type Key = string | number
type Entries = Readonly<Record<Key, unknown>>

/**
 * Name of a method that gives the properties of an object one by one, in place of `Object.keys`. The
 * names of a large object cannot be listed in pieces: a million take half a second.
 */
export const jsonProperties: unique symbol = Symbol('jsonProperties')

/** An object that is written with the properties that its method gives, whatever its class is. */
export interface JsonProperties {
  readonly [jsonProperties]: () => Iterable<readonly [name: string, value: unknown]>
}

/** A part of a value that JSON would not keep. */
interface Loss {
  readonly got: string
  /** Path to the loss, innermost step first. */
  readonly path: string[]
}

class JsonWriter {
  /** Text that has not been passed on yet. */
  #parts: string[] = []
  #length = 0
  /** Path to the value that is being written, for example `state`, `.users`, `[2]`. */
  readonly #path: string[]
  /** The objects that contain the value that is being written or checked. */
  readonly #ancestors: object[] = []
  /** Weight of what was checked so far, in approximate characters of JSON. */
  #weight = 0
  /** Once the weight exceeds this, the rest is not checked. */
  #maxWeight = Number.POSITIVE_INFINITY

  constructor(name: string) {
    this.#path = [name]
  }

  *write(value: unknown): Pieces {
    if (typeof value !== 'object' || value === null || this.#ancestors.length === maxDepth) {
      this.#maxWeight = Number.POSITIVE_INFINITY
      this.#refuse(this.#lossIn(value))
      this.#add(JSON.stringify(value))
    } else {
      this.#refuse(this.#lossOfShape(value))
      this.#ancestors.push(value)
      yield* Array.isArray(value) ? this.#writeElements(value) : this.#writeProperties(value)
      this.#ancestors.pop()
    }
    if (this.#length >= pieceLength) yield this.#take()
  }

  *rest(): Pieces {
    if (this.#length > 0) yield this.#take()
  }

  /** Writes large elements by themselves, and small ones in batches. */
  *#writeElements(array: readonly unknown[]): Pieces {
    let batch: unknown[] = []
    let weight = 0
    let separator = ''
    const flush = (): void => {
      if (batch.length === 0) return
      this.#add(separator + JSON.stringify(batch).slice(1, -1))
      separator = ','
      batch = []
      weight = 0
    }
    this.#add('[')
    for (let index = 0; index < array.length; index++) {
      const element = array[index]
      const elementWeight = this.#weigh(array, index, element)
      if (elementWeight <= batchWeight) {
        batch.push(element)
        weight += elementWeight
        if (weight >= batchWeight) flush()
      } else {
        flush()
        this.#add(separator)
        separator = ','
        yield* this.#writeEntry(index, element)
      }
      if (this.#length >= pieceLength) yield this.#take()
    }
    flush()
    this.#add(']')
  }

  /**
   * Writes each property by itself. An object that holds a batch of them would be faster to convert,
   * but not to make: V8 keeps a hidden class for every new set of names, and for a million names
   * collecting those holds up the event loop for a second.
   */
  *#writeProperties(object: object): Pieces {
    let separator = ''
    this.#add('{')
    for (const [key, value] of propertiesOf(object)) {
      // JSON drops undefined properties.
      if (value === undefined) continue
      const start = `${separator}${JSON.stringify(key)}:`
      separator = ','
      if (this.#weigh(object, key, value) <= batchWeight) {
        this.#add(start + JSON.stringify(value))
      } else {
        this.#add(start)
        yield* this.#writeEntry(key, value)
      }
      if (this.#length >= pieceLength) yield this.#take()
    }
    this.#add('}')
  }

  *#writeEntry(key: Key, entry: unknown): Pieces {
    this.#path.push(stepTo(key))
    yield* this.write(entry)
    this.#path.pop()
  }

  #add(part: string): void {
    this.#parts.push(part)
    this.#length += part.length
  }

  #take(): string {
    const piece = this.#parts.join('')
    this.#parts = []
    this.#length = 0
    return piece
  }

  /** Checks an entry and returns its weight. The rest of a heavy entry is not checked. */
  #weigh(container: object, key: Key, entry: unknown): number {
    this.#weight = 0
    this.#maxWeight = batchWeight
    this.#refuse(this.#lossInEntry(container as Entries, key, entry))
    return this.#weight
  }

  /** @throws {TypeError} if there is a loss. */
  #refuse(loss: Loss | undefined): void {
    if (loss === undefined) return
    const path = [...this.#path, ...loss.path.toReversed()].join('')
    throw new TypeError(`expected JSON to keep \`${path}\`, got ${loss.got}`)
  }

  #lossIn(value: unknown): Loss | undefined {
    this.#weight += minWeight
    switch (typeof value) {
      case 'string':
        this.#weight += value.length
        return undefined
      case 'boolean':
        return undefined
      case 'number':
        return Number.isFinite(value) ? undefined : lossOf(String(value))
      case 'object':
        return value === null ? undefined : this.#lossInObject(value)
      default:
        return lossOf(value === undefined ? 'undefined' : `a ${typeof value}`)
    }
  }

  #lossInObject(value: object): Loss | undefined {
    let loss = this.#lossOfShape(value)
    if (loss !== undefined) return loss
    if (hasProperties(value)) {
      // Its properties are checked when they are written.
      this.#weight = Number.POSITIVE_INFINITY
      return undefined
    }
    this.#ancestors.push(value)
    const keys = Array.isArray(value) ? undefined : Object.keys(value)
    const count = keys?.length ?? (value as readonly unknown[]).length
    for (let index = 0; index < count && this.#weight <= this.#maxWeight; index++) {
      const key = keys?.[index] ?? index
      loss = this.#lossInEntry(value as Entries, key, (value as Entries)[key])
      if (loss !== undefined) return loss
    }
    this.#ancestors.pop()
    return undefined
  }

  #lossInEntry(container: Entries, key: Key, entry: unknown): Loss | undefined {
    if (typeof key === 'string') {
      if (entry === undefined) return undefined
      this.#weight += key.length
    }
    const isHole = entry === undefined && !(key in container)
    const loss = isHole ? lossOf('a hole') : this.#lossIn(entry)
    loss?.path.push(stepTo(key))
    return loss
  }

  /** Checks the object or array itself, not its contents. */
  #lossOfShape(value: object): Loss | undefined {
    // States are rarely deep, so searching a short list is faster than a set.
    if (this.#ancestors.includes(value)) return lossOf('a reference to an object that contains it')
    if (hasProperties(value)) return undefined
    const got = Array.isArray(value) ? unlikeArray(value) : unlikeObject(value)
    return got === undefined ? undefined : lossOf(got)
  }
}

function hasProperties(value: object): value is JsonProperties {
  return jsonProperties in value
}

function* propertiesOf(object: object): Generator<readonly [name: string, value: unknown], void, undefined> {
  if (hasProperties(object)) yield* object[jsonProperties]()
  else for (const name of Object.keys(object)) yield [name, (object as Entries)[name]]
}

/** Approximate minimum length of a number, a quoted name, or the braces of an object. */
const minWeight = 4

function stepTo(key: Key): string {
  if (typeof key === 'number') return `[${key}]`
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
}

function lossOf(got: string): Loss {
  return { got, path: [] }
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
  return name === '' ? `${shown(object)} with a custom prototype` : `an instance of ${name}`
}
