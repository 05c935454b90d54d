// The numbers of the evaluation against values computed by hand.
// FlexIT (CVPR 2022), section 4.1.

import test from 'ava'
import {
  centredInterval,
  choose,
  differences,
  estimates,
  measureAll,
  resample,
} from '../../src/evaluation/bootstrap.js'
import { FeatureSums, type Verdict, frechetDistance, measure, statisticsOf } from '../../src/evaluation/metrics.js'

function sums(...pictures: readonly (readonly number[])[]): FeatureSums {
  const all = FeatureSums.empty(pictures[0]!.length)
  for (const features of pictures) all.add(features)
  return all
}

const verdict = (lpips: number, predicted: number, ...features: readonly number[]): Verdict => ({
  lpips,
  predicted,
  features: Float32Array.from(features),
})

test('moments are the mean and the deviation of the sample', (t) => {
  const { mean, deviation } = sums([1, 10], [2, 10], [6, 10]).moments()
  t.deepEqual([...mean], [3, 10])
  // (4 + 1 + 9) / 2 = 7
  t.deepEqual([...deviation], [Math.sqrt(7), 0])
  t.deepEqual([...sums([5, -5]).moments().deviation], [0, 0])
})

test('the Fréchet distance adds squared differences of means and of deviations', (t) => {
  const a = { mean: Float64Array.of(1, 2), deviation: Float64Array.of(3, 0) }
  const b = { mean: Float64Array.of(4, 2), deviation: Float64Array.of(1, 1) }
  t.deepEqual(frechetDistance(a, b), { mean: 9, total: 9 + 4 + 1 })
  t.deepEqual(frechetDistance(b, a), frechetDistance(a, b))
  t.deepEqual(frechetDistance(a, a), { mean: 0, total: 0 })
})

// Two classes with one feature: class 4 has 0 and 2 (mean 1, deviation √2), class 9 has 10, 10 and 10.
const reference = statisticsOf(
  new Map([
    [4, sums([0], [2])],
    [9, sums([10], [10], [10])],
  ]),
)
const targets = [4, 9, 4, 9]
const verdicts = [verdict(0.1, 4, 1), verdict(0.2, 4, 7), verdict(0.3, 9, 3), verdict(0.6, 9, 9)]

test('Table 1 of four queries', (t) => {
  const { lpips, accuracy, csfid, sfid, csfidMean, sfidMean } = measure(verdicts, targets, reference, [0, 1, 2, 3])
  const near = (actual: number, expected: number) =>
    t.true(Math.abs(actual - expected) < 1e-5, `${actual}, ${expected}`)
  near(lpips, 30)
  near(accuracy, 50)
  // Class 4: 1 and 3, mean 2, deviation √2. Class 9: 7 and 9, mean 8, deviation √2.
  near(csfidMean, (1 + 4) / 2)
  near(csfid, (1 + (4 + 2)) / 2)
  // All: mean 5 and deviation √(40 / 3), against mean 6.4 and deviation √(99.2 / 4).
  near(sfidMean, 1.4 ** 2)
  near(sfid, 1.4 ** 2 + (Math.sqrt(40 / 3) - Math.sqrt(99.2 / 4)) ** 2)
})

test('classes count equally in CSFID, and only those that occur', (t) => {
  const all = measure(verdicts, targets, reference, [0, 0, 0, 1])
  t.is(all.csfidMean, (0 + 9) / 2)
  t.is(measure(verdicts, targets, reference, [1]).csfid, 9)
})

test('perfect answers have no distance to the real pictures', (t) => {
  const features = [0, 2, 10, 10, 10]
  const perfect = features.map((value, i) => verdict(0, i < 2 ? 4 : 9, value))
  const { accuracy, csfid, sfid } = measure(perfect, [4, 4, 9, 9, 9], reference, perfect.keys())
  t.deepEqual({ accuracy, csfid, sfid }, { accuracy: 100, csfid: 0, sfid: 0 })
})

test('resampled sets are of the queries’ size, follow the seed, and use every query', (t) => {
  const sets = resample(50, { samples: 40, seed: 3 })
  t.is(sets.length, 40)
  t.true(sets.every((set) => set.length === 50 && set.every((i) => i < 50)))
  t.is(new Set(sets.flatMap((set) => [...set])).size, 50)
  t.deepEqual(resample(50, { samples: 40, seed: 3 }), sets)
  t.notDeepEqual(resample(50, { samples: 40, seed: 4 }), sets)
})

test('an interval is the middle 95 % of the samples, around the estimate', (t) => {
  const samples = Array.from({ length: 1001 }, (_, i) => i)
  t.deepEqual(centredInterval(500, samples), { low: 25, high: 975 })
  // Samples that lie too high, as those of a distance do, are moved.
  t.deepEqual(centredInterval(100, samples), { low: -375, high: 575 })
  t.deepEqual(centredInterval(7, [3, 3, 3]), { low: 7, high: 7 })
  t.deepEqual(centredInterval(7, [3]), { low: 7, high: 7 })
  t.deepEqual(centredInterval(7, []), { low: NaN, high: NaN })
  // Its ends lie between two samples: 0.05 of the way from the first to the second.
  const { low, high } = centredInterval(20, [30, 10, 20])
  t.true(Math.abs(low - 10.5) < 1e-9 && Math.abs(high - 29.5) < 1e-9, `${low}, ${high}`)
})

test('intervals of an accuracy agree with the binomial distribution', (t) => {
  const answers = Array.from({ length: 200 }, (_, i) => verdict(0, i < 100 ? 4 : 9, i % 3))
  const measured = measureAll(
    answers,
    answers.map(() => 4),
    reference,
    resample(200, { samples: 2000, seed: 1 }),
  )
  const { value, interval } = estimates(measured).accuracy
  t.is(value, 50)
  // 1.96 · √(0.25 / 200) = 6.9 %
  t.true(Math.abs(interval.low - 43.1) < 1 && Math.abs(interval.high - 56.9) < 1, JSON.stringify(interval))
})

test('no accuracy is more than 100 %', (t) => {
  const answers = Array.from({ length: 60 }, (_, i) => verdict(0, i < 57 ? 4 : 9, i % 3))
  const sets = resample(60, { samples: 2000, seed: 1 })
  const few = answers.map(() => 4)
  t.is(estimates(measureAll(answers, few, reference, sets)).accuracy.interval.high, 100)
})

test('no interval of a measure reaches below 0, that of a difference does', (t) => {
  const sets = resample(4, { samples: 200, seed: 0 })
  const measured = measureAll(verdicts, targets, reference, sets)
  t.true(Object.values(estimates(measured)).every(({ interval }) => interval.low >= 0))
  const other = measureAll([verdicts[0]!, verdicts[1]!, verdicts[2]!, verdict(0.2, 9, 9)], targets, reference, sets)
  const { lpips, accuracy } = differences(other, measured)
  t.true(Math.abs(lpips.value + 10) < 1e-9 && lpips.interval.low < lpips.value)
  t.deepEqual(accuracy, { value: 0, interval: { low: 0, high: 0 } })
})

test('a choice by chance repeats nothing and follows its seed', (t) => {
  const items = Array.from({ length: 30 }, (_, i) => i)
  const chosen = choose(items, 10, 5)
  t.is(new Set(chosen).size, 10)
  t.deepEqual(choose(items, 10, 5), chosen)
  t.notDeepEqual(choose(items, 10, 6), chosen)
  t.is(choose(items, 9, 5).length, 9)
  t.deepEqual(
    choose(items, 99, 5).sort((a, b) => a - b),
    items,
  )
})
