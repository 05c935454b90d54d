// What benchmarks are made of: statistics, seeded random numbers, metrics read back, figures that hold or do not.
// The expected numbers are worked out by hand.

import test from 'ava'
import { Metrics } from '../../bench/kit/metrics.js'
import { Random } from '../../bench/kit/random.js'
import { type Figure, Report, formatFigure, formatNumber } from '../../bench/kit/report.js'
import { percentile, slope, summarise } from '../../bench/kit/statistics.js'

test('percentiles are those of the nearest rank', (t) => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i)
  t.deepEqual(summarise(hundred), { count: 100, p50: 50, p90: 90, p99: 99, max: 100 })
  t.deepEqual(summarise([7]), { count: 1, p50: 7, p90: 7, p99: 7, max: 7 })
  t.deepEqual(summarise([]), { count: 0, p50: NaN, p90: NaN, p99: NaN, max: NaN })
  t.is(percentile([1, 2, 3], 0), 1)
})

test('a slope comes with its error', (t) => {
  const line = [0, 1, 2, 3].map((x) => ({ x, y: 5 + 2 * x }))
  t.deepEqual(slope(line), { slope: 2, error: 0 })
  // Residuals ±1 about a level line: s² = 4 / 2, spread 5.
  const level = [1, -1, -1, 1].map((y, x) => ({ x, y }))
  const found = slope(level)
  t.is(found.slope, 0)
  t.true(Math.abs(found.error - Math.sqrt(2 / 5)) < 1e-12)
})

test('a seed repeats its numbers, and arrivals have their mean', (t) => {
  const numbers = (seed: number) => {
    const random = new Random(seed)
    return [random.next(), random.below(10), random.pick(['a', 'b']), random.bytes(4).toString('hex')]
  }
  t.deepEqual(numbers(1), numbers(1))
  t.notDeepEqual(numbers(1), numbers(2))
  const random = new Random(3)
  const times = Array.from({ length: 20_000 }, () => random.exponential(4))
  t.true(times.every((time) => time >= 0))
  t.true(Math.abs(times.reduce((sum, time) => sum + time, 0) / times.length - 4) < 0.1)
})

test('metrics are read from their text', (t) => {
  const metrics = new Metrics(
    [
      '# HELP steps Steps.',
      'steps 12',
      'edits{state="running",tenant="a b"} 2',
      'edits{state="pending"} 3',
      'wait_bucket{le="0.1",device="a"} 1',
      'wait_bucket{le="1",device="a"} 3',
      'wait_bucket{le="+Inf",device="a"} 4',
      'wait_count{device="a"} 4',
    ].join('\n'),
  )
  t.is(metrics.sum('steps'), 12)
  t.is(metrics.sum('edits'), 5)
  t.is(metrics.sum('edits', 'state="pending"'), 3)
  t.is(metrics.sum('nothing'), 0)
  t.deepEqual(
    [0.25, 0.5, 0.99].map((part) => metrics.bucket('wait', part)),
    [0.1, 1, Infinity],
  )
  t.is(metrics.bucket('nothing', 0.5), NaN)
})

test('a figure that is not what was asked is counted, also one that is no number', (t) => {
  const figures: Figure[] = []
  const report = new Report({ figure: (figure) => figures.push(figure), note: () => undefined })
  report.figure('free', NaN)
  report.figure('at least', 0.96, '', { atLeast: 0.95 })
  report.figure('at most', 50, 'ms', { atMost: 50 })
  report.figure('exactly', 64, '', { exactly: 64 })
  t.is(report.failures, 0)
  report.figure('too little', 0.94, '', { atLeast: 0.95 })
  report.figure('too much', 51, 'ms', { atMost: 50 })
  report.figure('another', 63, '', { exactly: 64 })
  report.figure('none', NaN, '', { atMost: 1 })
  t.is(report.failures, 4)
  t.regex(formatFigure(figures[2]!), /^at most +50 ms \(asked: at most 50\): holds$/)
  t.regex(formatFigure(figures[4]!), /^too little +0\.94 \(asked: at least 0\.95\): DOES NOT HOLD$/)
})

test('numbers have three digits, whole ones all', (t) => {
  t.deepEqual([1234.5, 123.4, 12.34, 0.012345, 12345, 0].map(formatNumber), [
    '1,235',
    '123',
    '12.3',
    '0.0123',
    '12,345',
    '0',
  ])
})
