// Texts that were not made here, on their way to a terminal.

/** Names and texts from files must not steer the terminal: no control characters but the end of a line. */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- it matches bytes
  return text.replace(/[\0-\x09\x0b-\x1f\x7f-\x9f]/g, '\uFFFD')
}
