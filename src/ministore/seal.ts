import { crc32 } from 'node:zlib'

import { isOutOfSpace, replaceFile } from '../fs/durable.ts'
import { type FileAccess, type FileSystem, isNotFound } from '../fs/file-system.ts'
import { formatCrc32, parseCrc32, type SegmentPrefix } from './segment-prefix.ts'

/** The seal's line, `\n` included: what is known of a prefix of the active segment, and a checksum of the line itself. */
export function formatSeal(prefix: SegmentPrefix): string {
  const facts = `bytes=${prefix.bytes} records=${prefix.records} crc32=${formatCrc32(prefix.crc32)}`
  return `${facts} check=${formatCrc32(crc32(facts))}\n`
}

/** Reads a seal's line; undefined when it is not whole. */
export function parseSeal(text: string): SegmentPrefix | undefined {
  const match = /^(bytes=(\d+) records=(\d+) crc32=([0-9a-f]{8})) check=([0-9a-f]{8})\n$/.exec(text)
  if (match === null) return undefined
  const [, facts = '', bytes = '', records = '', checksum, check] = match
  const crc = parseCrc32(checksum)
  if (crc === undefined || parseCrc32(check) !== crc32(facts)) return undefined
  const prefix = { bytes: Number(bytes), records: Number(records), crc32: crc }
  return Number.isSafeInteger(prefix.bytes) && Number.isSafeInteger(prefix.records) ? prefix : undefined
}

/**
 * The seal on disk, or undefined when there is none that is whole. A seal is an extra: without it a journal is
 * as readable as with it, only damage at rest in the active segment stays unseen.
 */
export async function readSeal(fs: FileSystem, sealPath: string): Promise<SegmentPrefix | undefined> {
  try {
    const file = await fs.open(sealPath, 'read')
    try {
      const buffer = Buffer.alloc(maxSealBytes)
      const length = await file.read(buffer, 0)
      return parseSeal(buffer.toString('latin1', 0, length))
    } finally {
      await file.close()
    }
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

/**
 * Puts a seal in place, atomically and durably; false when there is no space for it. A full disk is no reason to fail:
 * a seal is an extra, and the older one, if there is any, stays true.
 */
export async function writeSealIfRoom(
  fs: FileSystem,
  sealPath: string,
  { prefix, access }: { readonly prefix: SegmentPrefix; readonly access: FileAccess },
): Promise<boolean> {
  try {
    await replaceFile(fs, sealPath, { bytes: Buffer.from(formatSeal(prefix)), access })
    return true
  } catch (error) {
    if (isOutOfSpace(error)) return false
    throw error
  }
}

const maxSealBytes = 256
