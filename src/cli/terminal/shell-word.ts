/**
 * A path as one word of a command that a person copies into a shell: quoted where it must be, and never taken
 * for an option. Control characters stand as escapes, which bash, zsh and ksh read, so that they do nothing to
 * the terminal.
 */
export function shellWord(path: string): string {
  const word = path.startsWith('-') ? `./${path}` : path
  if (/^[\w./:-]+$/.test(word)) return word
  if (!controls.test(word)) return `'${word.replaceAll("'", String.raw`'\''`)}'`
  return `$'${word.replaceAll(/['\\]/g, String.raw`\$&`).replaceAll(new RegExp(controls, 'g'), escapesOf)}'`
}

// oxlint-disable-next-line no-control-regex -- these are what is looked for
const controls = /[\u0000-\u001F\u007F-\u009F]/

/** Byte by byte: a name is bytes, and some of these are two of them. */
function escapesOf(character: string): string {
  return Array.from(Buffer.from(character), (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')
}
