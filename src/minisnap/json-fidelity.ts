import { shown } from '../options.ts'

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

type Properties = Readonly<Record<string, unknown>>

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
