import type { Defect } from './defects.ts'

/** Defects of the snapshots. */
export const snapDefects: readonly Defect[] = [
  {
    name: "snapshots: no directory fsync after a snapshot's rename",
    patches: [
      {
        file: 'minisnap/snapshot-directory.ts',
        find: '      await directory.sync()\n    } catch (cause) {',
        by: '    } catch (cause) {',
      },
    ],
    finding: /^snapshots: .*the snapshot \d+ is gone/,
  },
  {
    name: 'snapshots: no fsync of the file before the rename',
    patches: [{ file: 'fs/durable.ts', find: '      await file.sync()\n    } finally', by: '    } finally' }],
    finding: /^snapshots: .*(?:the damaged ones|No snapshot is whole)/,
  },
  {
    name: 'snapshots: older ones are removed before the rename is durable',
    patches: [
      { file: 'minisnap/snap-store.ts', find: '    await this.#files.settle(directory, snapshot)\n', by: '' },
      {
        file: 'minisnap/snap-store.ts',
        find: '    return { sequence, path, bytes }\n',
        by: '    await this.#files.settle(directory, snapshot)\n    return { sequence, path, bytes }\n',
      },
    ],
    finding: /^snapshots: .*(?:the snapshot \d+ is gone)/,
  },
  {
    name: 'snapshots: the rename comes before the write',
    patches: [
      {
        file: 'fs/durable.ts',
        find: '      await write(file)\n',
        by: '      await fs.rename(temporary, path)\n      await write(file)\n',
      },
      { file: 'fs/durable.ts', find: '    await fs.rename(temporary, path)\n  } catch', by: '  } catch' },
    ],
    finding: /^snapshots: .*(?:the damaged ones|No snapshot is whole)/,
  },
  {
    name: 'snapshots: the sequence number inside is not checked',
    patches: [{ file: 'minisnap/format.ts', find: 'if (seq !== String(sequence))', by: "if (seq === '')" }],
    finding: /^snapshots: one under the name of another is damaged: .*the state of 1 is given as that of 3/,
  },
  {
    name: 'snapshots: the checksum is not checked',
    patches: [{ file: 'minisnap/file.ts', find: 'if (checksum === state.crc32) return', by: 'if (checksum > 0) return' }],
    finding: /^snapshots: every flipped bit is found: .*is not found/,
  },
  {
    name: 'snapshots: one fewer is kept',
    patches: [{ file: 'minisnap/format.ts', find: '[options.keep - 1]', by: '[Math.max(0, options.keep - 2)]' }],
    finding: /^snapshots: .*2 kept.*the next create: got \[\{"sequence":2[^[]*\}\], expected \[\{"sequence":2.*"sequence":1/,
  },
  {
    name: 'snapshots: temporary files stay',
    patches: [{ file: 'minisnap/snapshot-directory.ts', find: '      await this.#sweep()\n', by: '' }],
    finding: /^snapshots: .*the names after it/,
  },
  {
    name: 'snapshots: a name that a killed writer left is given without a sync',
    patches: [{ file: 'minisnap/snap-store.ts', find: '        await this.#files.settleForReader()\n', by: '' }],
    finding: /^snapshots: .*a crash right after restore\(\)/,
  },
  {
    name: 'snapshots: a failed sync of the name passes for a good one',
    patches: [
      {
        file: 'minisnap/snapshot-directory.ts',
        find: "      throw new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { path, sequence, cause })\n",
        by: "      new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { path, sequence, cause })\n",
      },
    ],
    finding: /^snapshots: one sync fails: .*the snapshot \d+ is gone/,
  },
  {
    name: 'snapshots: damage of all passes for nothing there',
    patches: [
      {
        file: 'minisnap/snap-store.ts',
        find: '    if (newest === undefined) return undefined\n',
        by: '    if (newest === undefined || damaged.length > 0) return undefined\n',
      },
    ],
    finding: /^snapshots: where all are damaged there is an error: .*damage passes for undefined/,
  },
]
