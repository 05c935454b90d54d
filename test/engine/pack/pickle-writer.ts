// Writes pickles opcode by opcode, also such as no Python would write.
// Follows CPython's Lib/pickletools.py, protocol 2.

type Part = string | Uint8Array

/** Parts joined; strings are Latin-1, so that opcodes above 0x7f can be written as '\x81'. */
export function join(...parts: readonly Part[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
}

export function uint(value: number | bigint, bytes: 4 | 8): Buffer {
  const buffer = Buffer.alloc(bytes)
  if (bytes === 4) buffer.writeUInt32LE(Number(value))
  else buffer.writeBigUInt64LE(BigInt(value))
  return buffer
}

export function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return join('X', uint(bytes.length, 4), bytes)
}

export function int(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(16)
  bytes.writeBigInt64LE(BigInt.asIntN(64, BigInt(value)))
  bytes.writeBigInt64LE(BigInt.asIntN(64, BigInt(value) >> 64n), 8)
  return join('\x8a\x10', bytes)
}

export function global(module: string, name: string): Buffer {
  return join(`c${module}\n${name}\n`)
}

export function tuple(...values: readonly Part[]): Buffer {
  return join('(', ...values, 't')
}

/** dict: keys and values in turn. */
export function dict(...items: readonly Part[]): Buffer {
  return join('}(', ...items, 'u')
}

export function call(callee: Part, ...args: readonly Part[]): Buffer {
  return join(callee, tuple(...args), 'R')
}

/** A whole pickle. */
export function pickle(...parts: readonly Part[]): Buffer {
  return join('\x80\x02', ...parts, '.')
}
