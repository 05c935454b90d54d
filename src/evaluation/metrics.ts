// The numbers of the evaluation: accuracy, LPIPS, and the Fréchet distance with diagonal covariance.
// FlexIT (CVPR 2022), section 4.1; the simplified Fréchet distance: Kim et al., Sensors 20(6):1548, 2020.

/** What the judge says of one picture of one query. */
export interface Verdict {
  /** LPIPS distance to the input. */
  readonly lpips: number
  /** The most probable class among those of the evaluation. */
  readonly predicted: number
  /** Of the feature network. */
  readonly features: Float32Array
}

/** Mean and standard deviation of each feature over some pictures. */
export interface Moments {
  readonly mean: Float64Array
  /** Of the sample (n − 1); zero where there is one picture. */
  readonly deviation: Float64Array
}

/** Statistics of real pictures: of all, and of each class. */
export interface ReferenceStatistics {
  readonly all: Moments
  readonly classes: ReadonlyMap<number, Moments>
}

/** Squared Fréchet distance of two Gaussians with diagonal covariance, and the part of it that is the means'. */
export interface FrechetDistance {
  readonly total: number
  /** ‖μ − μ'‖², what the public release prints. */
  readonly mean: number
}

/** The columns of Table 1. */
export interface Measures {
  /** Mean, times 100. */
  readonly lpips: number
  /** Per cent. */
  readonly accuracy: number
  readonly csfid: number
  readonly sfid: number
  /** The same two of the means alone. */
  readonly csfidMean: number
  readonly sfidMean: number
}

export const measureNames = [
  'lpips',
  'accuracy',
  'csfid',
  'sfid',
  'csfidMean',
  'sfidMean',
] as const satisfies (keyof Measures)[]

/** Sums over pictures, from which moments follow. */
export class FeatureSums {
  count: number
  readonly sum: Float64Array
  readonly squares: Float64Array

  constructor(count: number, sum: Float64Array, squares: Float64Array) {
    this.count = count
    this.sum = sum
    this.squares = squares
  }

  static empty(size: number): FeatureSums {
    return new FeatureSums(0, new Float64Array(size), new Float64Array(size))
  }

  add(features: ArrayLike<number>): void {
    const { sum, squares } = this
    this.count++
    for (let i = 0; i < sum.length; i++) {
      const value = features[i]!
      sum[i] = sum[i]! + value
      squares[i] = squares[i]! + value * value
    }
  }

  addAll(other: FeatureSums): void {
    const { sum, squares } = this
    this.count += other.count
    for (let i = 0; i < sum.length; i++) {
      sum[i] = sum[i]! + other.sum[i]!
      squares[i] = squares[i]! + other.squares[i]!
    }
  }

  moments(): Moments {
    const { count, sum, squares } = this
    const mean = new Float64Array(sum.length)
    const deviation = new Float64Array(sum.length)
    for (let i = 0; i < sum.length; i++) {
      mean[i] = sum[i]! / count
      if (count > 1) deviation[i] = Math.sqrt(Math.max(0, squares[i]! - sum[i]! * mean[i]!) / (count - 1))
    }
    return { mean, deviation }
  }
}

/** Σ(μ − μ')² + Σ(σ − σ')². */
export function frechetDistance(a: Moments, b: Moments): FrechetDistance {
  const mean = squaredDistance(a.mean, b.mean)
  return { mean, total: mean + squaredDistance(a.deviation, b.deviation) }
}

function squaredDistance(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2
  return sum
}

/** Statistics of real pictures from the sums of each class. */
export function statisticsOf(classes: ReadonlyMap<number, FeatureSums>): ReferenceStatistics {
  const moments = [...classes].map(([id, sums]) => [id, sums.moments()] as const)
  return { all: total([...classes.values()]).moments(), classes: new Map(moments) }
}

/**
 * Table 1's columns for the queries `indices` (which may repeat) of one row: `verdicts[i]` is of query i, whose target
 * class is `targets[i]`. CSFID is the mean over the target classes that occur. Every target has reference statistics.
 */
export function measure(
  verdicts: readonly Verdict[],
  targets: readonly number[],
  reference: ReferenceStatistics,
  indices: Iterable<number>,
): Measures {
  const classes = new Map<number, FeatureSums>()
  let [count, lpips, correct] = [0, 0, 0]
  for (const i of indices) {
    const { features, predicted, lpips: distance } = verdicts[i]!
    const target = targets[i]!
    let sums = classes.get(target)
    if (sums === undefined) classes.set(target, (sums = FeatureSums.empty(features.length)))
    sums.add(features)
    count++
    lpips += distance
    if (predicted === target) correct++
  }
  // In the order of the classes, not of their first query: resampled sums keep their last bits.
  const inOrder = [...classes].sort(([a], [b]) => a - b)
  const distances = inOrder.map(([id, sums]) => frechetDistance(sums.moments(), reference.classes.get(id)!))
  const all = frechetDistance(total(inOrder.map(([, sums]) => sums)).moments(), reference.all)
  return {
    lpips: (100 * lpips) / count,
    accuracy: (100 * correct) / count,
    csfid: average(distances.map((distance) => distance.total)),
    sfid: all.total,
    csfidMean: average(distances.map((distance) => distance.mean)),
    sfidMean: all.mean,
  }
}

function total(parts: readonly FeatureSums[]): FeatureSums {
  const sums = FeatureSums.empty(parts[0]!.sum.length)
  for (const part of parts) sums.addAll(part)
  return sums
}

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
