// Half-precision numbers to and from float32, as bit patterns in Uint16Arrays.
// Follows IEEE 754-2019 binary16, and bfloat16 (the upper half of a binary32); binary16 is rounded to nearest, ties to even.

let halves: Float32Array | undefined

/** binary16 → float32, exact; infinities and NaNs stay what they are. Writes into `target` where given. */
export function decodeF16(source: Uint16Array, target: Float32Array = new Float32Array(source.length)): Float32Array {
  halves ??= Float32Array.from({ length: 0x10000 }, (_, bits) => halfValue(bits))
  for (let i = 0; i < source.length; i++) target[i] = halves[source[i]!]!
  return target
}

/** float32 → binary16: what is beyond 65504 by half a step or more becomes infinite, subnormals are kept. */
export function encodeF16(source: Float32Array, target: Uint16Array = new Uint16Array(source.length)): Uint16Array {
  const bits = new Uint32Array(1)
  const value = new Float32Array(bits.buffer)
  for (let i = 0; i < source.length; i++) {
    value[0] = source[i]!
    const sign = (bits[0]! >>> 16) & 0x8000
    const magnitude = bits[0]! & 0x7fffffff
    if (magnitude > 0x7f800000) {
      target[i] = sign | 0x7e00
    } else if (magnitude >= 0x47800000) {
      target[i] = sign | 0x7c00
    } else if (magnitude >= 0x38800000) {
      // The exponent's bias goes from 127 to 15; a carry out of the mantissa rightly raises the exponent.
      target[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
    } else {
      // Floats from ½ on are 2^-24 apart, as binary16's subnormals are: the addition does the rounding.
      value[0] = Math.abs(value[0]) + 0.5
      target[i] = sign | (bits[0]! - 0x3f000000)
    }
  }
  return target
}

/** bfloat16 → float32, exact. Writes into `target` where given. */
export function decodeBF16(source: Uint16Array, target: Float32Array = new Float32Array(source.length)): Float32Array {
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) bits[i] = source[i]! << 16
  return target
}

function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
