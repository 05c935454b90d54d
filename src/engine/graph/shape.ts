// Static shapes with one symbolic axis length: N, the number of edits in a batch, possibly times a whole number.

/** `factor`·N: the length of an axis that grows with the batch (N edits, or factor·N views of them). */
export interface BatchDim {
  readonly factor: number
}

export type Dim = number | BatchDim
export type Shape = readonly Dim[]

/** The batch axis itself. */
export const N: BatchDim = { factor: 1 }

export function isBatch(dim: Dim): dim is BatchDim {
  return typeof dim !== 'number'
}

export function equalDims(a: Dim, b: Dim): boolean {
  return isBatch(a) ? isBatch(b) && a.factor === b.factor : a === b
}

export function equalShapes(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => equalDims(dim, b[i]!))
}

/** Product of axis lengths. At most one of them may be symbolic. */
export function product(dims: Shape): Dim {
  let size = 1
  let symbolic = false
  for (const dim of dims) {
    if (isBatch(dim)) {
      if (symbolic) throw new Error(`two batch axes in ${formatShape(dims)}`)
      symbolic = true
      size *= dim.factor
    } else {
      size *= dim
    }
  }
  return symbolic ? { factor: size } : size
}

/** The static length of an axis. Errors: it is symbolic. */
export function fixed(dim: Dim): number {
  if (isBatch(dim)) throw new Error(`the axis length ${formatDim(dim)} is not static`)
  return dim
}

/** The shape of an element-wise operation on both (https://onnx.ai/onnx/repo-docs/Broadcasting.html). */
export function broadcast(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length)
  const shape: Dim[] = []
  for (let i = 0; i < rank; i++) {
    const p = a[i - rank + a.length] ?? 1
    const q = b[i - rank + b.length] ?? 1
    if (p !== 1 && q !== 1 && !equalDims(p, q)) {
      throw new Error(`${formatShape(a)} and ${formatShape(b)} cannot be broadcast together`)
    }
    shape.push(p === 1 ? q : p)
  }
  return shape
}

/** `axis` counted from the front; negative ones count from the end. */
export function normaliseAxis(axis: number, rank: number): number {
  const positive = axis < 0 ? axis + rank : axis
  if (positive < 0 || positive >= rank) throw new Error(`axis ${axis} of a value of rank ${rank}`)
  return positive
}

/** `N`, `8N`, `64`. */
export function formatDim(dim: Dim): string {
  return isBatch(dim) ? `${dim.factor === 1 ? '' : dim.factor}N` : String(dim)
}

/** `[N, 3, 64, 64]`. */
export function formatShape(shape: Shape): string {
  return `[${shape.map(formatDim).join(', ')}]`
}
