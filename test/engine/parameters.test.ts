// Parameters: whose default counts, what is refused and how that is said, which of them shape the graph.

import { readFile, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { FlexitError } from '../../src/engine/errors.js'
import { limits } from '../../src/engine/limits.js'
import { parseManifest } from '../../src/engine/pack/manifest.js'
import { Pack } from '../../src/engine/pack/pack.js'
import {
  type EditParameters,
  checkText,
  resolveParameters,
  specificationKey,
  specificationOf,
} from '../../src/engine/parameters.js'
import { tinyPack } from '../support/edits.js'
import { withFolder } from '../support/graphs.js'

/** The embedded pack with other defaults; its files are linked to. */
async function withDefaults<T>(
  defaults: Record<string, unknown>,
  use: (pack: Pack) => T,
  without: readonly string[] = [],
): Promise<T> {
  return withFolder(async (folder) => {
    for (const file of await readdir(tinyPack)) {
      if (!['pack.json', ...without].includes(file)) await symlink(join(tinyPack, file), join(folder, file))
    }
    const manifest = JSON.parse(await readFile(join(tinyPack, 'pack.json'), 'utf8')) as Record<string, unknown>
    await writeFile(join(folder, 'pack.json'), JSON.stringify({ ...manifest, defaults }))
    const pack = await Pack.open(folder)
    try {
      return use(pack)
    } finally {
      pack.close()
    }
  })
}

const tiny = await Pack.open(tinyPack)
test.after.always(() => {
  tiny.close()
})

test('what is given counts before the pack, the pack before the preset', (t) =>
  withDefaults({ steps: 9, views: 0, lambdaZ: 0.5 }, (pack) => {
    const resolved = resolveParameters({ steps: 7, lambdaP: 0 }, pack)
    t.deepEqual(resolved, {
      preset: 'reference',
      space: 'latent',
      steps: 7,
      views: 0,
      lambdaZ: 0.5,
      lambdaP: 0,
      learningRate: 0.05,
      lambdaS: 0.4,
      lambdaI: 0.2,
      networks: ['rn', 'vit'],
      seed: 0,
    })
  }))

test('a pack without defaults leaves those of the method', (t) =>
  withDefaults({}, (pack) => {
    const { steps, views, lambdaP, lambdaZ } = resolveParameters({}, pack)
    t.deepEqual({ steps, views, lambdaP, lambdaZ }, { steps: 160, views: 8, lambdaP: 0.15, lambdaZ: 0.05 })
  }))

test('undefined is as if it were not given', (t) => {
  const given = { steps: undefined, networks: undefined } as unknown as Partial<EditParameters>
  t.deepEqual(resolveParameters(given, tiny), resolveParameters({}, tiny))
})

test('the limits themselves are allowed', (t) => {
  const lowest = { steps: 1, views: 0, lambdaP: 0, lambdaZ: 0, lambdaS: 0, lambdaI: 0, seed: 0, learningRate: 1e-9 }
  const { steps, views, lambda, learningRate } = limits
  const highest = {
    ...{ steps, views, learningRate, seed: Number.MAX_SAFE_INTEGER },
    ...{ lambdaP: lambda, lambdaZ: lambda, lambdaS: lambda, lambdaI: lambda },
  }
  for (const given of [lowest, highest]) t.like(resolveParameters(given, tiny), given)
})

const notNumbers = [NaN, Infinity, -Infinity, '1', null]
const wrong: Readonly<Record<string, readonly unknown[]>> = {
  preset: ['original', '', null],
  space: ['pixel', 3],
  steps: [0, -1, 1.5, limits.steps + 1, ...notNumbers],
  learningRate: [0, -0.1, limits.learningRate * 1.01, ...notNumbers],
  lambdaP: [-0.01, limits.lambda + 1, ...notNumbers],
  lambdaZ: [-0.01, limits.lambda + 1, ...notNumbers],
  lambdaS: [-0.01, limits.lambda + 1, ...notNumbers],
  lambdaI: [-0.01, limits.lambda + 1, ...notNumbers],
  networks: [[], 'vit', [3]],
  views: [-1, 0.5, limits.views + 1, ...notNumbers],
  seed: [-1, 0.5, 2 ** 53, ...notNumbers],
}

for (const [field, values] of Object.entries(wrong)) {
  test(`${field}: wrong values are refused by name, with a cure`, (t) => {
    for (const value of values) {
      const given = { [field]: value } as Partial<EditParameters>
      const error = t.throws(() => resolveParameters(given, tiny), { instanceOf: FlexitError }, String(value))
      t.is(error.code, 'INVALID_ARGUMENT')
      t.is(error.field, field)
      t.true(error.message.startsWith(`${field} cannot be `), error.message)
      t.regex(error.cure!, /^(Use|Name) /)
    }
  })
}

test('a default that no edit may have is refused with its pack', async (t) => {
  const manifest = JSON.parse(await readFile(join(tinyPack, 'pack.json'), 'utf8')) as object
  const fields = Object.keys(tiny.manifest.defaults)
  t.is(fields.length, 7)
  for (const field of fields) {
    for (const value of wrong[field]!) {
      const text = JSON.stringify({ ...manifest, defaults: { [field]: value } })
      const message = new RegExp(`^x is not a valid pack manifest: defaults\\.${field}: `)
      t.throws(() => parseManifest(text, 'x'), { code: 'DATA_LOSS', message }, String(value))
    }
  }
})

test('a number that is not finite is told as it is', (t) => {
  for (const learningRate of [Infinity, -Infinity, NaN]) {
    t.throws(() => resolveParameters({ learningRate }, tiny), { message: new RegExp(`cannot be ${learningRate}: `) })
  }
})

test('every parameter is among those that are tried with wrong values', (t) => {
  t.deepEqual(Object.keys(wrong).sort(), Object.keys(resolveParameters({}, tiny)).sort())
})

test('a parameter that does not exist is refused', (t) => {
  const given = { stepz: 3 } as Partial<EditParameters>
  const error = t.throws(() => resolveParameters(given, tiny), { instanceOf: FlexitError })
  t.like(error, { code: 'INVALID_ARGUMENT', field: 'stepz' })
  t.true(error.message.startsWith('stepz cannot be 3'), error.message)
})

test('networks are put into the order of the pack, each once', (t) => {
  t.deepEqual(resolveParameters({ networks: ['vit', 'rn', 'vit'] }, tiny).networks, ['rn', 'vit'])
  t.deepEqual(resolveParameters({ networks: ['vit'] }, tiny).networks, ['vit'])
})

test('a network that the pack does not have is refused, with those that it has', (t) => {
  const error = t.throws(() => resolveParameters({ networks: ['vit', 'RN50'] }, tiny), { instanceOf: FlexitError })
  t.is(error.code, 'INVALID_ARGUMENT')
  t.is(error.field, 'networks')
  t.true(error.message.includes('RN50'))
  t.is(error.cure, 'Choose among rn, vit.')
})

test('what shapes the graph, and nothing else, is in the key', (t) => {
  const base = resolveParameters({}, tiny)
  const key = (change: Partial<EditParameters>) => specificationKey(specificationOf({ ...base, ...change }))
  const same: Partial<EditParameters>[] = [
    { steps: 3 },
    { seed: 9 },
    { learningRate: 1 },
    { lambdaP: 3 },
    { lambdaZ: 1e-9 },
    { lambdaS: 0 },
    { lambdaI: 0 },
  ]
  const different: Partial<EditParameters>[] = [
    { preset: 'paper' },
    { space: 'pixels' },
    { networks: ['vit'] },
    { views: 0 },
    { lambdaP: 0 },
    { lambdaZ: 0 },
  ]
  for (const change of same) t.is(key(change), key({}), JSON.stringify(change))
  t.is(new Set([key({}), ...different.map(key)]).size, different.length + 1)
})

test('texts are used as they are; empty and endless ones are refused', (t) => {
  t.is(checkText(' a cat ', 'source'), ' a cat ')
  t.is(checkText('x'.repeat(limits.textLength), 'target').length, limits.textLength)
  for (const field of ['source', 'target'] as const) {
    for (const text of ['', ' ', '\n\t ', 'x'.repeat(limits.textLength + 1)]) {
      const error = t.throws(() => checkText(text, field), { instanceOf: FlexitError })
      t.like(error, { code: 'INVALID_ARGUMENT', field })
      t.true(error.message.includes(`the ${field} text`))
      t.truthy(error.cure)
    }
  }
})

test('a pack opens with one of its networks, and says how to get the other', async (t) => {
  const one = (pack: Pack) => {
    t.deepEqual(pack.networkNames, ['vit'])
    t.is(pack.clip('vit').index, 1)
    const error = t.throws(() => pack.clip('rn'), { instanceOf: FlexitError })
    t.is(error.code, 'FAILED_PRECONDITION')
    t.regex(error.cure!, /models pull tiny --networks rn/)
  }
  await withDefaults({}, one, ['clip-rn.safetensors'])
  const none = withDefaults({}, () => t.fail(), ['clip-rn.safetensors', 'clip-vit.safetensors'])
  t.like(await t.throwsAsync(none, { instanceOf: FlexitError }), { code: 'FAILED_PRECONDITION' })
})
