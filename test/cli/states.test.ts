import { cp, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { SnapStore } from '../../src/minisnap/index.ts'
import { StateManager } from '../../src/ministate/index.ts'
import { editFile } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ministore } from './run-command.ts'

/** Snapshots of 2 and 3 mutations, and one more mutation after them. */
async function fixture(): Promise<string> {
  const directory = await temporaryDirectory()
  await cp(join(import.meta.dirname, '../fixtures/state-v0.3.0'), directory, { recursive: true })
  return directory
}

const flipIn = (path: string): Promise<void> =>
  editFile(path, (bytes) => {
    bytes[45] = (bytes[45] as number) ^ 1
    return bytes
  })

describe('stats', () => {
  test('shows snapshots and journal, and changes nothing', async () => {
    const directory = await fixture()
    const names = await readdir(directory)
    const { code, stdout } = await ministore(['stats', directory])
    expect(code).toBe(0)
    expect(stdout).toMatch(/snapshot-3\.json +3 +80 B +1 +whole/)
    expect(stdout).toMatch(/snapshot-2\.json +2 +74 B +2 +whole/)
    expect(stdout).toContain('journal  4 mutations (1 to 4), 178 B')
    expect(await readdir(directory)).toEqual(names)
  })

  test('prints the same facts as JSON', async () => {
    const { stdout } = await ministore(['stats', '--json', await fixture()])
    expect(JSON.parse(stdout)).toMatchObject({
      snapshots: [
        { file: 'snapshot-3.json', sequence: 3, bytes: 80, isWhole: true, damage: null },
        { file: 'snapshot-2.json', sequence: 2, bytes: 74, isWhole: true, damage: null },
      ],
      journal: { firstSequence: 1, lastSequence: 4, bytes: 178, mutations: 4 },
      problem: null,
    })
  })

  test('names a damaged snapshot and exits with 1', async () => {
    const directory = await fixture()
    await flipIn(join(directory, 'snapshot-3.json'))
    const { code, stdout } = await ministore(['stats', directory])
    expect(code).toBe(1)
    expect(stdout).toMatch(/snapshot-3\.json .* damaged/)
    expect(stdout).toContain('its state has the checksum')
    expect(stdout).not.toContain('problem')
  })

  test('says when journal and snapshots do not fit together', async () => {
    const directory = await fixture()
    await new SnapStore(directory).create({}, 9)
    const { code, stdout } = await ministore(['stats', '--json', directory])
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({ problem: expect.stringContaining('ahead of the journal, which ends with 4') as string })
    expect((await ministore(['stats', directory])).stdout).toMatch(/^snapshot-9\.json +9 +\d+ B +0 +whole/m)
    const by1 = await fixture()
    await new SnapStore(by1).create({}, 5)
    expect((await ministore(['stats', by1])).stdout).toContain('problem: the snapshot of 5 is ahead of the journal')
    const other = await fixture()
    await rm(join(other, 'journal.jsonl.001'))
    await Promise.all([2, 3].map((sequence) => rm(join(other, `snapshot-${sequence}.json`))))
    expect((await ministore(['stats', other])).stdout).toContain('problem: mutations 1 to 3 are in no whole snapshot')
    await new SnapStore(other).create({}, 2)
    expect((await ministore(['stats', other])).stdout).toContain('problem: mutations 3 to 3 are in no whole snapshot')
    await new SnapStore(other).create({}, 3)
    expect(await ministore(['stats', other])).toMatchObject({ code: 0 })
    await writeFile(join(other, 'snapshot-3.json'), 'no snapshot')
    expect((await ministore(['stats', other])).stdout).toContain('problem: mutations 3 to 3 are in no whole snapshot')
  })

  test('of snapshots without a journal, of a state without snapshots, of nothing', async () => {
    const alone = await temporaryDirectory()
    await new SnapStore(alone).create({ total: 1 }, 7)
    expect((await ministore(['stats', alone])).stdout).toContain('journal  none')
    const fresh = await temporaryDirectory()
    const manager = await StateManager.open(fresh, { initialState: () => 0, mutator: (state: number, add: number) => state + add })
    await manager.apply(1)
    await manager.close()
    expect((await ministore(['stats', fresh])).stdout).toContain('no snapshot: opening the state replays every mutation')
    const nothing = await ministore(['stats', await temporaryDirectory()])
    expect(nothing).toMatchObject({ code: 1, stdout: '' })
    expect(nothing.stderr).toContain('neither a snapshot nor journal.jsonl')
  })
})

describe('compact', () => {
  test('refuses to delete records that a snapshot of the state still needs', async () => {
    const directory = await fixture()
    const path = join(directory, 'journal.jsonl')
    const refused = await ministore(['compact', path, '--before', '4', '--write'])
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toContain('The highest possible value is --before 3')
    expect(await ministore(['compact', path, '--before', '3', '--write'])).toMatchObject({ code: 0, stderr: '' })
    await rm(join(directory, 'snapshot-2.json'))
    expect(await ministore(['compact', path, '--before', '4', '--write'])).toMatchObject({ code: 0, stderr: '' })
    expect((await ministore(['stats', '--json', directory])).stdout).toContain('"problem":null')
  })

  test('looks for snapshots beside the target of a link', async () => {
    const directory = await fixture()
    const elsewhere = await temporaryDirectory()
    const links = [join(elsewhere, 'journal.jsonl'), join(directory, 'other.jsonl')]
    for (const link of links) {
      await symlink(join(directory, 'journal.jsonl'), link)
      const refused = await ministore(['compact', link, '--before', '4', '--write'])
      expect(refused).toMatchObject({ code: 1, stdout: '' })
      expect(refused.stderr).toContain('The highest possible value is --before 3')
    }
  })

  test('refuses everything when no snapshot beside the journal is whole', async () => {
    const directory = await fixture()
    for (const sequence of [2, 3]) await flipIn(join(directory, `snapshot-${sequence}.json`))
    const refused = await ministore(['compact', join(directory, 'journal.jsonl'), '--before', '2', '--write'])
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toContain('No snapshot in')
  })
})

describe('repair', () => {
  const snapshotsIn = async (path: string, truncateAt: string): Promise<unknown> => {
    const { stdout } = await ministore(['repair', path, '--json', '--truncate-at', truncateAt])
    return (JSON.parse(stdout) as { snapshotsAhead: unknown }).snapshotsAhead
  }

  test('names the snapshots that a cut leaves ahead of the journal; without them the state opens', async () => {
    const directory = await fixture()
    const path = join(directory, 'journal.jsonl')
    const told = '  state  move snapshot-3.json away: ahead of the journal, so the state does not open\n'
    expect((await ministore(['repair', path, '--truncate-at', '3'])).stdout).toContain(told)
    expect(await snapshotsIn(path, '3')).toEqual(['snapshot-3.json'])
    expect(await snapshotsIn(path, '4')).toEqual([])
    const { code, stdout } = await ministore(['repair', path, '--truncate-at', '3', '--write'])
    expect(code).toBe(0)
    expect(stdout).toContain(told)
    expect((await ministore(['stats', '--json', directory])).stdout).toContain('ahead of the journal')
    await rm(join(directory, 'snapshot-3.json'))
    expect((await ministore(['stats', '--json', directory])).stdout).toContain('"problem":null')
  })

  test('looks for snapshots beside the real journal file, and only if it is the journal of a state', async () => {
    const directory = await fixture()
    const path = join(directory, 'journal.jsonl')
    const link = join(await temporaryDirectory(), 'link.jsonl')
    await symlink(path, link)
    expect(await snapshotsIn(link, '3')).toHaveLength(1)
    const events = join(directory, 'events.jsonl')
    for (const name of ['', '.001', '.seal', '.lock']) await rename(path + name, events + name).catch(() => {})
    expect(await snapshotsIn(events, '3')).toEqual([])
  })
})
