import { MiniStore } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { journalPath } from '../journal/model.ts'
import type { Check } from './checks.ts'

/** What `bytes()` gave, as text, and the code of the error that it ended with. */
async function given(fileSystem: SimulatedFileSystem, range: object = {}): Promise<string> {
  const chunks: Uint8Array[] = []
  let end = ''
  try {
    for await (const chunk of MiniStore.bytes(journalPath, { fileSystem, ...range })) chunks.push(chunk)
  } catch (error) {
    end = (error as { code?: string }).code ?? String(error)
  }
  return Buffer.concat(chunks).toString('latin1') + end
}

function expectGiven(found: string, expected: string): void {
  const shown = (text: string): string => JSON.stringify(text.slice(0, 100))
  if (found !== expected) throw new Error(`bytes() gave ${shown(found)}, expected ${shown(expected)}`)
}

async function twoSegments(files: SimulatedFileSystem): Promise<void> {
  const store = await MiniStore.open(journalPath, { fileSystem: files })
  await store.appendAll(['one', 'two', 'three'])
  await store.rotate()
  await store.append('four')
  await store.close()
}

/** Replaces a byte in a segment. */
function change(files: SimulatedFileSystem, name: string, [from, by]: readonly [string, number]): void {
  const bytes = Buffer.from(files.snapshot().get(name) ?? [])
  bytes[bytes.indexOf(from)] = by
  files.writeFile(name, bytes)
}

const sealed = `${journalPath}.001`
const corrupt = 'ERR_MINISTORE_CORRUPT'

export const bytesChecks: readonly Check[] = [
  [
    'bytes: whole lines without headers, and no torn tail',
    async ({ newFiles }) => {
      const files = newFiles()
      await twoSegments(files)
      expectGiven(await given(files), '"one"\n"two"\n"three"\n"four"\n')
      for (const tail of ['"fi', '"fi\0\n']) {
        const bytes = files.snapshot().get(journalPath) ?? Buffer.alloc(0)
        files.writeFile(journalPath, Buffer.concat([bytes, Buffer.from(tail)]))
        expectGiven(await given(files, { from: 2 }), '"two"\n"three"\n"four"\n')
        files.writeFile(journalPath, bytes)
      }
    },
  ],
  [
    'bytes: nothing from the first unclean line on',
    async ({ newFiles }) => {
      for (const by of [0x00, 0x0a, 0xff]) {
        const files = newFiles()
        await twoSegments(files)
        change(files, sealed, ['"two"', by])
        expectGiven(await given(files), `"one"\n${corrupt}`)
      }
    },
  ],
  [
    'bytes: a changed letter is reported at the end of its segment, and never later',
    async ({ newFiles }) => {
      const files = newFiles()
      await twoSegments(files)
      change(files, sealed, ['two', 0x57])
      expectGiven(await given(files), `"one"\n"Wwo"\n"three"\n${corrupt}`)
      change(files, sealed, ['Wwo', 0x0a])
      // This range ends before the checksum is compared.
      expectGiven(await given(files, { to: 3 }), `"one"\n${corrupt}`)
      expectGiven(await given(files, { to: 4 }), `"one"\n"\nwo"\n"three"\n${corrupt}`)
    },
  ],
  [
    'bytes: chunks stay as they were given',
    async ({ newFiles }) => {
      const files = newFiles()
      const store = await MiniStore.open(journalPath, { fileSystem: files })
      await store.appendAll(Array.from({ length: 90_000 }, (_, n) => `record ${n}`))
      await store.close()
      const lines = Array.from({ length: 90_000 }, (_, n) => `"record ${n}"\n`)
      expectGiven(await given(files), lines.join(''))
    },
  ],
]
