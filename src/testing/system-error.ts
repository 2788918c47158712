import { getSystemErrorMap } from 'node:util'

/** Names of the system errors that the simulated file system raises or can be told to raise. */
export type SystemErrorCode =
  | 'EACCES'
  | 'EAGAIN'
  | 'EBADF'
  | 'EBUSY'
  | 'EDQUOT'
  | 'EEXIST'
  | 'EFBIG'
  | 'EINTR'
  | 'EINVAL'
  | 'EIO'
  | 'EISDIR'
  | 'EMFILE'
  | 'ENFILE'
  | 'ENOENT'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'ENOTDIR'
  | 'ENOTEMPTY'
  | 'ENOTSUP'
  | 'EPERM'
  | 'EROFS'
  | 'EXDEV'

/** The paths of a system call. Absent for a call on an open file, as in Node. */
export interface SystemErrorSubject {
  readonly path?: string | undefined
  readonly to?: string | undefined
}

// The errno of EDQUOT on Linux. Node 20 has no name for it and puts the number into `code`. Code
// that looks only for `EDQUOT` is wrong there, so the simulated error has the unnamed shape on
// every version of Node.
const quotaErrno = -122

const known = new Map<string, { errno: number; text: string }>()
for (const [errno, [code, text]] of getSystemErrorMap()) known.set(code, { errno, text })

/**
 * Creates an error of the shape that `node:fs` gives: `code`, negative `errno`, `syscall`, and
 * where they apply `path` and `dest`.
 *
 * @throws {TypeError} if `name` is not the name of a system error.
 */
export function systemError(
  name: SystemErrorCode,
  syscall: string,
  subject: SystemErrorSubject = {},
): NodeJS.ErrnoException {
  const unnamed = `Unknown system error ${quotaErrno}`
  const facts = name === 'EDQUOT' ? { errno: quotaErrno, text: unnamed } : known.get(name)
  if (facts === undefined) throw new TypeError(`Expected a name of a system error, got ${name}`)
  const code = name === 'EDQUOT' ? unnamed : name
  const { path, to } = subject
  const place = path === undefined ? '' : ` '${path}'${to === undefined ? '' : ` -> '${to}'`}`
  return Object.assign(new Error(`${code}: ${facts.text}, ${syscall}${place}`), {
    errno: facts.errno,
    code,
    syscall,
    ...(path === undefined ? {} : { path }),
    ...(to === undefined ? {} : { dest: to }),
  })
}
