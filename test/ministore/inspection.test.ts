import { describe, expect, test } from 'vitest'

import { inspectJournal, outlineJournal } from '../../src/maintenance/inspect.ts'
import { verifyJournal } from '../../src/maintenance/verify.ts'
import { findTornEnd } from '../../src/ministore/scan.ts'
import { JournalViews } from '../../src/ministore/view.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { numbers, writeJournal } from '../support/journals.ts'

const path = '/data/journal.jsonl'

async function journal(): Promise<SimulatedFileSystem> {
  const files = new SimulatedFileSystem()
  await writeJournal(path, [numbers(1, 3), numbers(4, 6), numbers(7, 8)], { fileSystem: files })
  return files
}

function outline(files: SimulatedFileSystem) {
  return outlineJournal(files, new JournalViews(files, path))
}

describe('an outline', () => {
  test('knows the first and the last record with a full seal, with a partial seal, and without one', async () => {
    const files = await journal()
    expect(await outline(files)).toMatchObject({ firstSequence: 1, lastSequence: 8, torn: undefined })
    files.writeFile(path, Buffer.concat([files.readFile(path), Buffer.from('9\n10\n')]))
    expect(await outline(files)).toMatchObject({ lastSequence: 10 })
    await files.unlink(`${path}.seal`)
    expect(await outline(files)).toMatchObject({ lastSequence: 10 })
  })

  test('reads no record of a sealed segment', async () => {
    const files = await journal()
    const sealed = files.readFile(`${path}.002`)
    const opened: string[] = []
    files.onOperation(({ operation, path: at }) => {
      if (operation === 'read') opened.push(at)
    })
    await outline(files)
    // One read of each header; only the active segment is read further.
    expect(sealed.length).toBeLessThan(512)
    expect(opened.filter((at) => at !== path && !at.endsWith('.seal')).length).toBeLessThanOrEqual(2)
  })

  test('is undefined without a journal', async () => {
    expect(await outline(new SimulatedFileSystem())).toBeUndefined()
  })
})

describe('a torn end', () => {
  test.each([
    ['whole\n', undefined],
    ['whole\nhalf', { offset: 6, bytes: 4, isEnded: false, reason: 'the line has no line feed' }],
    ['whole\n\n', { offset: 6, bytes: 1, isEnded: true, reason: 'the line is blank' }],
    ['whole\n\0\n', { offset: 6, bytes: 2, isEnded: true, reason: 'the line holds a NUL byte' }],
    ['x', { offset: 0, bytes: 1, isEnded: false, reason: 'the line has no line feed' }],
    ['\n', { offset: 0, bytes: 1, isEnded: true, reason: 'the line is blank' }],
    [
      `a\n${'x'.repeat(10_000)}`,
      { offset: 2, bytes: 10_000, isEnded: false, reason: 'the line has no line feed' },
    ],
    [`a\n${'x'.repeat(10_000)}\n`, undefined],
    ['', undefined],
    // Longer than the pieces in which a line is checked, with characters across the piece borders.
    [`a\n${'x€'.repeat(50_000)}\n`, undefined],
    [`a\nx${'😀'.repeat(50_000)}\n`, undefined],
    [`a\n${'ä'.repeat(100_000)}`, { offset: 2, bytes: 200_000, isEnded: false, reason: 'the line has no line feed' }],
    [`a\n${'x'.repeat(200_000)}\0\n`, { offset: 2, bytes: 200_002, isEnded: true, reason: 'the line holds a NUL byte' }],
    [Buffer.concat([Buffer.from(`a\n${'x'.repeat(65_535)}`), Buffer.from([0xe2, 0x82, 0x0a])]), { offset: 2, bytes: 65_538, isEnded: true, reason: 'the line is not UTF-8' }],
    [Buffer.concat([Buffer.from(`a\n${'x'.repeat(65_535)}`), Buffer.from([0xff]), Buffer.from(`${'x'.repeat(65_535)}\n`)]), { offset: 2, bytes: 131_072, isEnded: true, reason: 'the line is not UTF-8' }],
  ])('of %# is found from the end', async (content, expected) => {
    const files = new SimulatedFileSystem()
    files.writeFile('/segment', content)
    const file = await files.open('/segment', 'read')
    expect(await findTornEnd(file, { from: 0, end: Buffer.byteLength(content) })).toEqual(expected)
  })
})

describe('verification and inspection', () => {
  test('report nothing for a missing journal', async () => {
    const files = new SimulatedFileSystem()
    expect(await verifyJournal(files, path, { onDamage: () => {} })).toBeUndefined()
    expect(await inspectJournal(files, path, { isQuick: false })).toBeUndefined()
  })

  test('end with the reason of their signal', async () => {
    const files = await journal()
    const signal = AbortSignal.abort(new Error('enough'))
    await expect(verifyJournal(files, path, { onDamage: () => {}, signal })).rejects.toThrow('enough')
    await expect(inspectJournal(files, path, { isQuick: false, signal })).rejects.toThrow('enough')
  })

  test('find every flipped bit of sealed segments and of the part that the seal covers', async () => {
    const sound = await journal()
    for (const name of ['journal.jsonl.001', 'journal.jsonl.002', 'journal.jsonl']) {
      const bytes = sound.readFile(`/data/${name}`)
      for (let at = 0; at < bytes.length; at++) {
        const files = sound.afterCrash({ keep: 'all' })
        const flipped = Buffer.from(bytes)
        flipped[at] = (flipped[at] as number) ^ 1
        files.writeFile(`/data/${name}`, flipped)
        let damages = 0
        try {
          await verifyJournal(files, path, { onDamage: () => damages++ })
        } catch (error) {
          // A flipped digit of the version can make it a newer version.
          expect(error).toMatchObject({ code: 'ERR_MINISTORE_UNSUPPORTED_VERSION' })
          damages++
        }
        expect(damages, `byte ${at} of ${name}`).toBeGreaterThan(0)
      }
    }
  })
})
