import { describe, expect, test } from 'vitest'

import {
  type Check, checkAcknowledgements, checkAtLeast, checkBytes, checkEqual, checkEvidence, checkOnce, checkOthers,
  checkPresent, checkReopened,
} from '../../src/cli/demo/checks.ts'
import { bytesText, Printer } from '../../src/cli/demo/printer.ts'

const lines = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text))

/** What was sent in all of these cases: records 1 to 3. */
const sent = (sequence: number): Buffer | undefined => lines('one', 'two', 'three')[sequence - 1]

/** Each check once as it should be and once for everything that could be wrong. */
const cases: ReadonlyArray<readonly [name: string, check: Check, problem: string | undefined]> = [
  ['equal values', checkEqual('x', { expected: 3, actual: 3 }), undefined],
  ['different values', checkEqual('x', { expected: 3, actual: 2 }), 'expected 3, got 2'],
  ['enough', checkAtLeast('x', { least: 3, actual: 3 }), undefined],
  ['too few', checkAtLeast('x', { least: 3, actual: 2 }), 'expected at least 3, got 2'],

  ['reopened at the last acknowledged', checkReopened([{ lastAcknowledged: 4, inFlight: 5, lastSequence: 4 }]), undefined],
  ['reopened with the one in flight', checkReopened([{ lastAcknowledged: 4, inFlight: 5, lastSequence: 5 }]), undefined],
  [
    'reopened without an acknowledged record',
    checkReopened([
      { lastAcknowledged: 4, inFlight: 5, lastSequence: 4 },
      { lastAcknowledged: 8, inFlight: 9, lastSequence: 7 },
    ]),
    'after kill 2 it ended with record 7, expected 8 or 9',
  ],
  [
    'reopened with a record that nothing was in flight for',
    checkReopened([{ lastAcknowledged: 4, inFlight: undefined, lastSequence: 5 }]),
    'after kill 1 it ended with record 5, expected 4',
  ],

  ['rising acknowledgements, one left out', checkAcknowledgements([1, 2, 4]), undefined],
  ['an acknowledgement twice', checkAcknowledgements([1, 2, 2]), '2 came after 2'],
  ['an acknowledgement that goes back', checkAcknowledgements([1, 3, 2]), '2 came after 3'],

  ['all present', checkPresent({ acknowledged: [1, 2], found: lines('one', 'two') }), undefined],
  ['one lost', checkPresent({ acknowledged: [1, 2, 3], found: lines('one', 'two') }), 'record 3 is gone'],

  ['each once', checkOnce(lines('one', 'two', 'three')), undefined],
  ['one twice', checkOnce(lines('one', 'two', 'one')), 'record 3 is record 1 again'],

  ['the same bytes', checkBytes({ found: lines('one', 'two'), sent }), undefined],
  ['a byte changed', checkBytes({ found: lines('one', 'twO'), sent }), 'record 2 is not what was sent'],
  ['another order', checkBytes({ found: lines('two', 'one'), sent }), 'record 1 is not what was sent'],
  ['one that was never sent', checkBytes({ found: lines('one', 'two', 'three', '?'), sent }), 'record 4 is not what was sent'],

  ['no others', checkOthers({ acknowledged: [1, 2], inFlight: [3], found: 2 }), undefined],
  ['another that was in flight', checkOthers({ acknowledged: [1, 3], inFlight: [2], found: 3 }), undefined],
  [
    'another that was not in flight',
    checkOthers({ acknowledged: [1, 2], inFlight: [3], found: 4 }),
    'record 4 was neither acknowledged nor in flight',
  ],

  [
    'evidence of a beginning',
    checkEvidence({ sequence: 3, evidence: Buffer.from('thr'), sent: Buffer.from('three') }),
    undefined,
  ],
  [
    'evidence of something else',
    checkEvidence({ sequence: 3, evidence: Buffer.from('two'), sent: Buffer.from('three') }),
    'its 3 bytes are not what record 3 began with',
  ],
  [
    'evidence without bytes',
    checkEvidence({ sequence: 3, evidence: Buffer.alloc(0), sent: Buffer.from('three') }),
    'its 0 bytes are not what record 3 began with',
  ],
  [
    'evidence that goes on behind the record',
    checkEvidence({ sequence: 3, evidence: Buffer.from('three\n4'), sent: Buffer.from('three') }),
    'its 7 bytes are not what record 3 began with',
  ],
]

test.each(cases)('a check of the demo sees %s', (_name, check, problem) => {
  expect(check.problem).toBe(problem)
})

describe('the printer of the demo', () => {
  test('prints a line for each check, counts the failed ones, and they decide the exit code', () => {
    const { printer, printed } = printerFor({ isColored: false })
    printer.check({ claim: 'water is wet', problem: undefined })
    expect(printer.exitCode).toBe(0)
    expect(printer.result).toBe('All 1 checks are ok')
    printer.check({ claim: 'fire is cold', problem: 'it is hot' })
    printer.check({ claim: 'air is there', problem: undefined })
    expect(printer.exitCode).toBe(1)
    expect(printer.result).toBe('1 of 3 checks FAILED')
    expect(printed()).toBe(
      '   ok      water is wet\n   FAILED  fire is cold: it is hot\n   ok      air is there\n',
    )
  })

  test('takes no checks at all for a failure', () => {
    const { printer } = printerFor({ isColored: false })
    expect(printer.exitCode).toBe(1)
    expect(printer.result).toBe('Nothing was checked')
  })

  test('numbers the steps', () => {
    const { printer, printed } = printerFor({ isColored: false })
    printer.step('Begin')
    printer.line('a')
    printer.line('')
    printer.step('End')
    expect(printed()).toBe('\n1. Begin\n   a\n\n\n2. End\n')
  })

  test('uses colors only when it is told to', () => {
    const { printer, printed } = printerFor({ isColored: true })
    printer.step('Begin')
    printer.check({ claim: 'water is wet', problem: undefined })
    printer.check({ claim: 'fire is cold', problem: 'it is hot' })
    expect(printed()).toBe(
      '\n\u001B[1m1. Begin\u001B[22m\n' +
        '   \u001B[32mok\u001B[39m      water is wet\n' +
        '   \u001B[31mFAILED\u001B[39m  fire is cold: it is hot\n',
    )
  })

  test('writes bytes in the unit that suits them', () => {
    expect([0, 1023, 1024, 1024 * 1024 - 1024, 1024 * 1024, 3.25 * 1024 * 1024].map(bytesText)).toEqual([
      '0 bytes', '1023 bytes', '1.0 KiB', '1023.0 KiB', '1.0 MiB', '3.3 MiB',
    ])
  })

  function printerFor(options: { readonly isColored: boolean }): { printer: Printer; printed: () => string } {
    let written = ''
    const write = (text: string): void => {
      written += text
    }
    return { printer: new Printer({ ...options, write }), printed: () => written }
  }
})
