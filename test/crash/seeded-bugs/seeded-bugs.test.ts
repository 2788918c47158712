import { readFile } from 'node:fs/promises'

import { afterAll, describe, expect, test } from 'vitest'

import { isFullCrashSuite } from '../../support/crash-scale.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { findDefects, type Finding } from './checks.ts'
import { type Defect, defects } from './defects.ts'
import { loadPatched, replaceOnce } from './patched-copy.ts'

if (!isFullCrashSuite) {
  const reason = 'they take minutes; npm run test:crash tries them'
  console.log(`seeded bugs: ${defects.length} defects are not tried: ${reason}`)
}

/** The sabotage of a sound file system. */
const none = (): void => {}
const table: string[] = []

const textOf = ({ check, why }: Finding): string => `${check}: ${why}`

/** The findings of the suite, up to the one that matches this defect. */
async function findingsOf({ name, patches, sabotage = none, finding }: Defect): Promise<readonly string[]> {
  const isPatched = patches !== undefined
  const checks = isPatched ? await loadPatched(await temporaryDirectory(), patches) : { findDefects }
  // A defect of a brick above the journal is searched only by the checks of the same name, since
  // the others take long.
  const [brick = ''] = /^\w+: /.exec(name) ?? []
  const { findings } = await checks.findDefects(
    sabotage,
    (found) => finding.test(textOf(found)),
    (check) => check.startsWith(brick),
  )
  return findings.map((found) => textOf(found))
}

describe.skipIf(!isFullCrashSuite)('the test of the tests', () => {
  afterAll(() => {
    console.log(`seeded bugs: defect → the finding that caught it\n${table.join('\n')}`)
  })

  test('the suite passes without a defect', async () => {
    const { findings, distinctStates } = await findDefects(none)
    expect(findings).toEqual([])
    console.log(`seeded bugs: the suite opens ${distinctStates} distinct states`)
    // A suite that tests little is green as well, so this floor is checked.
    expect(distinctStates).toBeGreaterThan(2000)
  })

  test('the suite passes on an unpatched copy', async () => {
    const copy = await loadPatched(await temporaryDirectory(), [])
    expect(copy.findDefects).not.toBe(findDefects)
    const { findings } = await copy.findDefects(none)
    expect(findings).toEqual([])
  })

  test.each(defects)('fails with: $name', async (defect) => {
    const began = performance.now()
    const found = await findingsOf(defect)
    const fitting = found.find((text) => defect.finding.test(text))
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    table.push(`${defect.name} (${seconds} s)\n    → ${fitting?.slice(0, 200) ?? 'NOT CAUGHT'}`)
    expect(fitting, `found was:\n${found.join('\n')}`).toBeDefined()
  })
})

describe('a patch', () => {
  test('of every defect fits the current library', async () => {
    for (const { name, patches = [] } of defects) {
      for (const { file, ...patch } of patches) {
        const text = await readFile(new URL(`../../../src/${file}`, import.meta.url), 'utf8')
        expect(() => replaceOnce(text, patch), name).not.toThrow()
      }
    }
  })

  test('applies only if its text occurs exactly once', () => {
    expect(replaceOnce('a b c', { find: 'b', by: '$&' })).toBe('a $& c')
    expect(() => replaceOnce('a b b', { find: 'b', by: 'x' })).toThrow('exactly one occurrence, got 2')
    expect(() => replaceOnce('a', { find: 'b', by: 'x' })).toThrow('exactly one occurrence, got 0')
  })
})
