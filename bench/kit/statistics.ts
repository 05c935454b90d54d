// What benchmarks make of many numbers: percentiles, and the slope of a line through samples.
// Percentiles are the nearest rank's; the line is that of least squares, https://en.wikipedia.org/wiki/Simple_linear_regression

export interface Summary {
  readonly count: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

/** The value below or at which `part` (0 to 1) of `sorted` lies; NaN where there is none. */
export function percentile(sorted: ArrayLike<number>, part: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)] ?? NaN
}

export function summarise(values: readonly number[]): Summary {
  const sorted = Float64Array.from(values).sort()
  const at = (part: number) => percentile(sorted, part)
  return { count: values.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
}

export function median(values: readonly number[]): number {
  return summarise(values).p50
}

export interface Point {
  readonly x: number
  readonly y: number
}

/** The slope of y over x, and its standard error. At least three points with different x. */
export function slope(points: readonly Point[]): { readonly slope: number; readonly error: number } {
  const mean = (of: (point: Point) => number) => points.reduce((sum, point) => sum + of(point), 0) / points.length
  const [meanX, meanY] = [mean(({ x }) => x), mean(({ y }) => y)]
  const spread = points.reduce((sum, { x }) => sum + (x - meanX) ** 2, 0)
  const along = points.reduce((sum, { x, y }) => sum + (x - meanX) * (y - meanY), 0) / spread
  const residual = points.reduce((sum, { x, y }) => sum + (y - meanY - along * (x - meanX)) ** 2, 0)
  return { slope: along, error: Math.sqrt(residual / (points.length - 2) / spread) }
}
