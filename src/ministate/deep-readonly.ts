/**
 * A type whose every part is read-only: objects, arrays, tuples, maps and sets, all the way down. Functions
 * and dates are left as they are. Only the compiler holds it; nothing is frozen.
 */
export type DeepReadonly<T> = unknown extends T
  ? T
  : T extends LeftAlone
    ? T
    : T extends ReadonlyMap<infer Key, infer Value>
      ? ReadonlyMap<DeepReadonly<Key>, DeepReadonly<Value>>
      : T extends ReadonlySet<infer Value>
        ? ReadonlySet<DeepReadonly<Value>>
        : { readonly [Key in keyof T]: DeepReadonly<T[Key]> }

type LeftAlone = Primitive | Date | ((...given: never[]) => unknown)
type Primitive = string | number | bigint | boolean | symbol | null | undefined
