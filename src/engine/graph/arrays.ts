// Weights rearranged on the host, before they become constants.

/** [rows, columns] → [columns, rows]. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(data.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = data[i * columns + j]!
  return result
}

/** A convolution's kernel [M, C, kh, kw] → [C, M, kh, kw], turned by 180° in space: the kernel of its input gradient. */
export function flipped(data: Float32Array, [m, c, kh, kw]: readonly [number, number, number, number]): Float32Array {
  const result = new Float32Array(data.length)
  const taps = kh * kw
  for (let i = 0; i < m; i++)
    for (let j = 0; j < c; j++)
      for (let k = 0; k < taps; k++) result[(j * m + i) * taps + taps - 1 - k] = data[(i * c + j) * taps + k]!
  return result
}
