import { shown } from '../options.ts'

/**
 * Where and why a value would not come back from JSON as it is, for example
 * ``expected JSON to keep `state.users[2].born`, got a Date``; undefined when it would.
 *
 * Left out of account, because they cost more to see than they are worth: an undefined property is dropped, `-0` comes back
 * as 0, and so are properties that are not enumerable and names that an array has besides its indexes.
 *
 * @throws whatever a getter or a proxy in it throws; {RangeError} when it is nested deeper than the stack is.
 */
export function jsonLoss(value: unknown, name: string): string | undefined {
  const loss = lossIn(value, [])
  if (loss === undefined) return undefined
  return `expected JSON to keep \`${name}${loss.path.toReversed().join('')}\`, got ${loss.got}`
}

interface Loss {
  readonly got: string
  /** The way to it, innermost first. */
  readonly path: string[]
}

/** `ancestors` is what the value lies in; it is the same array all the way down. */
function lossIn(value: unknown, ancestors: object[]): Loss | undefined {
  switch (typeof value) {
    case 'string':
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
  // A state is rarely deep, so a look through a short list is quicker than a set.
  if (ancestors.includes(value)) return at('an object that it lies in')
  const isArray = Array.isArray(value)
  const unlike = isArray ? unlikeArray(value) : unlikeObject(value)
  if (unlike !== undefined) return at(unlike)
  ancestors.push(value)
  const loss = isArray ? lossInArray(value, ancestors) : lossInObject(value as Properties, ancestors)
  ancestors.pop()
  return loss
}

type Properties = Readonly<Record<string, unknown>>

function lossInArray(array: readonly unknown[], ancestors: object[]): Loss | undefined {
  for (let index = 0; index < array.length; index++) {
    const element = array[index]
    const loss = element === undefined && !(index in array) ? at('a hole') : lossIn(element, ancestors)
    if (loss !== undefined) return within(`[${index}]`, loss)
  }
  return undefined
}

function lossInObject(object: Properties, ancestors: object[]): Loss | undefined {
  for (const key of Object.keys(object)) {
    const property = object[key]
    const loss = property === undefined ? undefined : lossIn(property, ancestors)
    if (loss !== undefined) return within(/^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`, loss)
  }
  return undefined
}

function unlikeObject(object: object): string | undefined {
  const prototype: unknown = Object.getPrototypeOf(object)
  if (prototype !== Object.prototype && prototype !== null && !isForeignRoot(prototype)) return nameOf(object)
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
