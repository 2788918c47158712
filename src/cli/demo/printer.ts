import type { Check } from './checks.ts'

/** Codes that begin and end a style on a terminal. */
const styles = { bold: [1, 22], green: [32, 39], red: [31, 39] } as const

/** Says what happens, in numbered steps, and counts the checks. */
export class Printer {
  readonly #write: (text: string) => void
  readonly #isColored: boolean
  #steps = 0
  #checks = 0
  #failures = 0

  constructor(options: { readonly write: (text: string) => void; readonly isColored: boolean }) {
    this.#write = options.write
    this.#isColored = options.isColored
  }

  /** How the checks went, in words. */
  get result(): string {
    if (this.#failures > 0) return `${this.#failures} of ${this.#checks} checks FAILED`
    return this.#checks === 0 ? 'Nothing was checked' : `All ${this.#checks} checks are ok`
  }

  /** 0 when there were checks and none failed, else 1. */
  get exitCode(): number {
    return this.#checks > 0 && this.#failures === 0 ? 0 : 1
  }

  /** A heading with the next number. */
  step(title: string): void {
    this.#steps++
    this.#write(`\n${this.#styled('bold', `${this.#steps}. ${title}`)}\n`)
  }

  line(text: string): void {
    this.#write(text === '' ? '\n' : `   ${text}\n`)
  }

  check({ claim, problem }: Check): void {
    this.#checks++
    if (problem === undefined) {
      this.line(`${this.#styled('green', 'ok')}      ${claim}`)
    } else {
      this.#failures++
      this.line(`${this.#styled('red', 'FAILED')}  ${claim}: ${problem}`)
    }
  }

  #styled(style: keyof typeof styles, text: string): string {
    const [begin, end] = styles[style]
    return this.#isColored ? `\u001B[${begin}m${text}\u001B[${end}m` : text
  }
}

/** `999 bytes`, `9.4 KiB`, `3.1 MiB`. */
export function bytesText(bytes: number): string {
  if (bytes < 1024) return `${bytes} bytes`
  return bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`
}
