import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { temporaryDirectory } from './support/temporary-directory.ts'

const ROOT = join(import.meta.dirname, '..')

/** A symbol of the reference, in the JSON form of typedoc. */
interface Symbol {
  readonly name: string
  readonly children?: readonly Symbol[]
  readonly type?: { readonly types?: readonly unknown[]; readonly elementSummaries?: ReadonlyArray<readonly unknown[]> }
}

// Compiling all entry points takes several seconds, more on a busy machine.
const timeout = 120_000

test('the API reference documents every public symbol and every error code, without warnings', { timeout }, async () => {
  const directory = await temporaryDirectory()
  const json = join(directory, 'reference.json')
  const typedoc = [join(ROOT, 'node_modules/typedoc/bin/typedoc'), '--readme', 'none', '--json', json]
  const build = spawnSync(process.execPath, typedoc, { cwd: ROOT, encoding: 'utf8' })
  expect(`${build.stdout}${build.stderr}`).not.toContain('warning')
  expect(build.status).toBe(0)

  const symbols = withChildren(JSON.parse(readFileSync(json, 'utf8')) as Symbol)
  console.log(`API reference: ${symbols.length} public symbols, 0 undocumented`)
  expect(symbols.length).toBeGreaterThan(400)

  // Other entry points refer to the type, without its parts.
  const errorCodes = symbols.find(({ name, type }) => name === 'MiniStoreErrorCode' && type !== undefined)
  const { types = [], elementSummaries = [] } = errorCodes?.type ?? {}
  expect(types.length).toBeGreaterThanOrEqual(25)
  expect(elementSummaries.filter((summary) => summary.length > 0)).toHaveLength(types.length)
})

function withChildren(symbol: Symbol): Symbol[] {
  return [symbol, ...(symbol.children ?? []).flatMap(withChildren)]
}
