/** Options of {@link SimulatedFileSystem}. */
export interface SimulatedFileSystemOptions {
  /**
   * How many bytes all visible files together may have. A write that needs more writes what fits; when
   * nothing fits it fails with `ENOSPC`. Names take no room. Crash states keep it. @default Infinity
   */
  readonly capacityBytes?: number
  /** Whether every change but a sync fails with `EROFS`. Crash states keep it. @default false */
  readonly readOnly?: boolean
}

/** @throws {TypeError} for a name that is not known. */
export function checkedOptions(options: SimulatedFileSystemOptions): Required<SimulatedFileSystemOptions> {
  const { capacityBytes = Infinity, readOnly = false, ...rest } = options
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) throw new TypeError(`Unknown option \`${unknown}\` of SimulatedFileSystem`)
  return { capacityBytes, readOnly }
}
