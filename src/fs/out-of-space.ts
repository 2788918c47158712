import { propertyOf } from '../errors.ts'
import { systemErrorCode } from './file-system.ts'

/** Whether an error says that the disk, the quota or the largest file is full. */
export function isOutOfSpace(thrown: unknown): boolean {
  // Node 20 has no name for EDQUOT and reports its number only (122 on Linux, 69 on macOS).
  const errno = propertyOf(thrown, 'errno')
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(systemErrorCode(thrown) ?? '') || errno === -122 || errno === -69
}
