import type { StandardSchemaV1 } from '@standard-schema/spec'

import { messageOf, MiniStoreError, type MiniStoreErrorContext } from './errors.ts'
import { isObject, shown } from './options.ts'

/** @throws {TypeError} unless it is a Standard Schema or undefined. */
export function schemaOption(value: unknown): StandardSchemaV1 | undefined {
  if (value === undefined) return undefined
  // Some libraries' schemas are functions (arktype), others objects.
  const standard: unknown = isObject(value) || typeof value === 'function' ? Reflect.get(value, '~standard') : undefined
  if (!isObject(standard) || typeof Reflect.get(standard, 'validate') !== 'function') {
    throw new TypeError(`Expected \`schema\` to be a Standard Schema (zod, valibot, arktype …), got ${shown(value)}`)
  }
  return value as StandardSchemaV1
}

/** What was held against a schema, for the error; asked for only then, or before an asynchronous schema is awaited. */
export type Validated = () => { readonly subject: string; readonly context: MiniStoreErrorContext }

/**
 * The schema's output for a value. A promise only when the schema is asynchronous.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SCHEMA` when the value fails it or the schema throws.
 */
export function validated(schema: StandardSchemaV1, value: unknown, describe: Validated): unknown {
  let result: ReturnType<StandardSchemaV1['~standard']['validate']>
  try {
    result = schema['~standard'].validate(value)
  } catch (error) {
    throw schemaError([{ message: messageOf(error) }], describe, error)
  }
  // A promise by its `then`: a schema library may bring its own kind.
  if (!('then' in result)) return outputOf(result, describe)
  const described = describe()
  return Promise.resolve(result).then(
    (settled) => outputOf(settled, () => described),
    (error: unknown) => {
      throw schemaError([{ message: messageOf(error) }], () => described, error)
    },
  )
}

function outputOf(result: StandardSchemaV1.Result<unknown>, describe: Validated): unknown {
  if (result.issues === undefined) return result.value
  throw schemaError(result.issues, describe)
}

function schemaError(
  issues: ReadonlyArray<StandardSchemaV1.Issue>,
  describe: Validated,
  cause?: unknown,
): MiniStoreError {
  const { subject, context } = describe()
  const text = issues.map((issue) => `${issue.message}${pathOf(issue)}`).join('; ')
  return new MiniStoreError('ERR_MINISTORE_SCHEMA', `${subject} fails the schema: ${text}`, { ...context, issues, cause })
}

function pathOf(issue: StandardSchemaV1.Issue): string {
  const keys = (issue.path ?? []).map((part) => String(typeof part === 'object' ? part.key : part))
  return keys.length === 0 ? '' : ` at ${keys.join('.')}`
}
