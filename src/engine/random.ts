// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A number depends on its key and counter only, so any step of an edit can be repeated anywhere.

const multipliers = [0xd2511f53, 0xcd9e8d57] as const
const weyl = [0x9e3779b9, 0xbb67ae85] as const
const rounds = 10

/** Four 32-bit words from a counter of four words and a key of two; all are unsigned. */
export function philox(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [a, b, c, d] = counter
  let [k0, k1] = key
  for (let round = 0; round < rounds; round++) {
    const [high0, low0] = multiply(multipliers[0], a)
    const [high1, low1] = multiply(multipliers[1], c)
    ;[a, b, c, d] = [(high1 ^ b ^ k0) >>> 0, low1, (high0 ^ d ^ k1) >>> 0, low0]
    k0 = (k0 + weyl[0]) >>> 0
    k1 = (k1 + weyl[1]) >>> 0
  }
  return [a, b, c, d]
}

/** The 64-bit product of two 32-bit words, as high and low word. */
function multiply(a: number, b: number): [number, number] {
  const product = BigInt(a) * BigInt(b)
  return [Number(product >> 32n), Number(product & 0xffffffffn)]
}

/** Uniform numbers in [0, 1) for one view of one network at one step, in a fixed order without end. */
export function* uniforms(seed: number, step: number, network: number, view: number): Generator<number, never> {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0] as const
  for (let block = 0; ; block++) {
    for (const word of philox([step, network, view, block], key)) yield word / 2 ** 32
  }
}
