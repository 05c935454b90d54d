// Numbers and lists as they are typed.
// The ranges are the engine's to check.

import test from 'ava'
import { Command, InvalidArgumentError } from 'commander'
import {
  addParameters,
  countUpTo,
  givenParameters,
  parseCount,
  parseList,
  parseNumber,
} from '../../src/cli/parameters.js'
import { slug, stemOf } from '../../src/cli/outputs.js'
import { tinyDefaults } from './support.js'

test('numbers are decimal and whole words', (t) => {
  t.deepEqual(['64', '0.05', '.5', '1e-3', '-2', '+3.'].map(parseNumber), [64, 0.05, 0.5, 0.001, -2, 3])
  for (const text of ['', ' ', 'many', '0x10', '1,5', '1 2', 'NaN', 'Infinity', '--3', '1e']) {
    t.throws(() => parseNumber(text), { instanceOf: InvalidArgumentError }, text)
  }
})

test('counts are whole and above 0', (t) => {
  t.deepEqual(['1', '016', '999999999'].map(parseCount), [1, 16, 999_999_999])
  for (const text of ['', '0', '-1', '1.5', '1e3', '9999999999']) {
    t.throws(() => parseCount(text), { instanceOf: InvalidArgumentError }, text)
  }
})

test('parameters that are whole numbers are digits alone, and their range is told', (t) => {
  const parse = (flag: string, text: string) => {
    const command = addParameters(new Command())
      .exitOverride()
      .configureOutput({ writeErr: () => undefined })
    return command.parse([flag, text], { from: 'user' }).opts<Record<string, unknown>>()
  }
  t.deepEqual([parse('--steps', '64'), parse('--seed', '016')], [{ steps: 64 }, { seed: 16 }])
  const ranges = { '--steps': '1 to 10000', '--seed': '0 to 9007199254740991', '--views': '0 to 64' }
  for (const [flag, range] of Object.entries(ranges)) {
    for (const text of ['5.0', '1e3', '+3', '0x10', ' 5', '1.5', '']) {
      t.throws(() => parse(flag, text), { message: new RegExp(`It is not a whole number from ${range}\\.`) }, text)
    }
  }
})

test('some counts have an end', (t) => {
  t.deepEqual(['1', '8'].map(countUpTo(8)), [1, 8])
  for (const text of ['0', '9', '999999999']) t.throws(() => countUpTo(8)(text), { instanceOf: InvalidArgumentError })
})

test('lists have no empty names and none twice', (t) => {
  t.deepEqual(parseList('rn, vit'), ['rn', 'vit'])
  for (const text of ['', ',', 'rn,', 'rn,,vit', 'rn,vit, rn'])
    t.throws(() => parseList(text), { instanceOf: InvalidArgumentError }, text)
})

test('only parameters that were given are passed on', (t) => {
  t.deepEqual(givenParameters({ steps: 3, lambdaP: 0, views: undefined, out: 'a.png' }), { steps: 3, lambdaP: 0 })
})

test('the help tells the defaults of the embedded pack', (t) => {
  const { options } = addParameters(new Command())
  for (const [name, value] of Object.entries(tinyDefaults)) {
    const { description } = options.find((option) => option.attributeName() === name)!
    t.regex(description, new RegExp(`(tiny: |; )${value}[,)]`), name)
  }
})

test('texts become names of files; those without a letter different ones', (t) => {
  t.is(slug('Red Apple, ripe!'), 'red-apple-ripe')
  t.regex(slug('🍊'), /^edit-[0-9a-f]{8}$/)
  t.not(slug('🍊'), slug('🍌'))
})

test('the name of a result leaves room for its extension, in bytes, and keeps the target', (t) => {
  t.is(stemOf('pictures/cat.of.mine.jpg', '-dog'), 'cat.of.mine-dog')
  t.is(stemOf('out/dog.png'), 'dog')
  const target = `-${slug('一串放在木桌上的紫色葡萄'.repeat(10))}`
  const long = stemOf(`${'草莓'.repeat(40)}.png`, target)
  t.true(/^[草莓]+-/.test(long) && long.endsWith(target), long)
  t.true(Buffer.byteLength(long) > 230 && Buffer.byteLength(long) <= 234)
})
