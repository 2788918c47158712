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
