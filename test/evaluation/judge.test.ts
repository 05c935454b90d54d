// The judge: its manifest, what it feeds its networks, and LPIPS over AlexNet as a network of ours.
// The stand-in's networks are written in support.ts.

import { existsSync, readdirSync, readlinkSync } from 'node:fs'
import { appendFile, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import test from 'ava'
import { serialiseSafetensors } from '../../src/engine/pack/safetensors.js'
import { codecVersion } from '../../src/engine/encode.js'
import { codeDigest } from '../../src/engine/graph-cache.js'
import { Graph } from '../../src/engine/graph/graph.js'
import { tensorFolder, writeOnnx } from '../../src/engine/graph/onnx.js'
import * as op from '../../src/engine/graph/ops.js'
import { N } from '../../src/engine/graph/shape.js'
import { Session, runtimeVersion } from '../../src/engine/runtime.js'
import type { Judge } from '../../src/evaluation/judge.js'
import { judgePictures } from '../../src/evaluation/opinions.js'
import { Store } from '../../src/evaluation/store.js'
import { withFolder } from '../support/graphs.js'
import { Random } from '../support/random.js'
import { judgeManifest, openJudge, plain, sha256Of, size, writeJudge } from './support.js'

/** A judge with a changed manifest, in a folder that `prepare` may change too. */
async function withJudge(
  use: (judge: Judge) => Promise<void>,
  changes: Readonly<Record<string, unknown>> = {},
  prepare: (folder: string) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await withFolder(async (folder) => {
    await writeJudge(folder, judgeManifest(changes))
    await prepare(folder)
    const judge = await openJudge(folder)
    try {
      await use(judge)
    } finally {
      await judge.close()
    }
  })
}

const open = (changes: Readonly<Record<string, unknown>>, prepare?: (folder: string) => Promise<void>) =>
  withJudge(() => Promise.resolve(), changes, prepare)

const rounded = (values: ArrayLike<number>) => Array.from(values, (value) => Number(value.toFixed(5)))

test('logits, features and the distance to the original', async (t) => {
  await withJudge(async (judge) => {
    t.deepEqual(judge.labels, ['red', 'green', 'blue', 'grey'])
    const { logits, features, lpips } = await judge.judge(plain('red'), [plain('red'), plain('blue', 204)])
    t.deepEqual(logits.map(rounded), [[1, 0, 0, 0.1], [0, 0, 0.8, 0.1]]) // prettier-ignore
    t.deepEqual(features.map(rounded), [[1, 0, 0], [0, 0, 0.8]]) // prettier-ignore
    t.deepEqual(rounded(lpips), [0, rounded([(1 + 0.64) / 3])[0]])
    t.deepEqual((await judge.features([plain('blue', 204)])).map(rounded), [[0, 0, 0.8]])
  })
})

test('opinions are kept for this code, ONNX Runtime and kind of device alone', async (t) => {
  await withFolder(async (folder) => {
    await withJudge(async (judge) => {
      t.deepEqual(judge.identity, [judge.digest, '1', codeDigest, codecVersion, runtimeVersion, 'cpu'])
      const ask = async () => {
        await judgePictures({ judge, store: new Store(folder) }, plain('red'), [plain('blue')], [0, 2])
        return (await readdir(join(folder, 'opinions'))).length
      }
      t.deepEqual([await ask(), await ask()], [1, 1])
      Object.assign(judge, { identity: [...judge.identity.slice(0, -1), 'cuda'] })
      t.is(await ask(), 2)
    })
  })
})

test('pictures are normalised, and brought to the size and range that the manifest says', async (t) => {
  const { classifier, lpips } = judgeManifest() as Record<string, object>
  const changes = {
    classifier: { ...classifier, mean: [0.5, 0.25, 0], std: [0.5, 0.25, 2] },
    lpips: { ...lpips, range: [-1, 1] },
  }
  const large = { height: 2 * size, width: 2 * size, data: new Uint8Array(12 * size * size).fill(255) }
  await withJudge(async (judge) => {
    const { features, lpips: distances } = await judge.judge(plain('green'), [plain('green'), large])
    t.deepEqual(features.map(rounded), [[-1, 3, 0], [1, 3, 0.5]]) // prettier-ignore
    t.deepEqual(rounded(distances), [0, rounded([(4 * 2) / 3])[0]])
  }, changes)
})

test('features may come from a network of their own', async (t) => {
  const sees = { input: 'image', size, mean: [1, 1, 1], std: [1, 1, 1] }
  const changes = { feature_classifier: { ...sees, file: 'classifier.onnx', features: 'logits' } }
  await withJudge(async (judge) => {
    t.deepEqual((await judge.judge(plain('red'), [plain('red')])).features.map(rounded), [[0, -1, -1, 0.1]])
  }, changes)
})

test('LPIPS over AlexNet from checkpoints', async (t) => {
  const random = new Random(1)
  const convolutions: [number, number[]][] = [
    [0, [4, 3, 11, 11]],
    [3, [5, 4, 5, 5]],
    [6, [6, 5, 3, 3]],
    [8, [6, 6, 3, 3]],
    [10, [6, 6, 3, 3]],
  ]
  const tensor = (name: string, shape: number[], of: (x: number) => number = (x) => x) => {
    const data = random.normals(shape.reduce((a, b) => a * b)).map(of)
    return { name, dtype: 'F32' as const, shape, data }
  }
  const write = async (path: string, tensors: ReturnType<typeof tensor>[]) =>
    writeFile(path, Buffer.concat(serialiseSafetensors(tensors)))
  let cache = ''
  const prepare = async (folder: string) => {
    cache = join(folder, 'cache')
    const trunk = convolutions.flatMap(([index, shape]) => [
      tensor(`features.${index}.weight`, shape, (x) => 0.2 * x),
      tensor(`features.${index}.bias`, [shape[0]!]),
    ])
    await write(join(folder, 'alexnet.safetensors'), trunk)
    const linear = convolutions.map(([, shape], i) => tensor(`lin${i}.model.1.weight`, [1, shape[0]!, 1, 1], Math.abs))
    await write(join(folder, 'linear.safetensors'), linear)
  }
  const lpips = { trunk: 'alexnet', weights: 'alexnet.safetensors', linear: 'linear.safetensors', size: 63 }
  await withJudge(
    async (judge) => {
      const [red, blue] = [plain('red'), plain('blue')]
      const there = (await judge.judge(red, [red, blue])).lpips
      const back = (await judge.judge(blue, [red])).lpips
      t.is(there[0], 0)
      t.true(there[1]! > 0.01)
      t.true(Math.abs(there[1]! / back[0]! - 1) < 1e-5)
      // A damaged graph is built again.
      const [graph] = (await readdir(cache)).filter((name) => name.endsWith('.onnx'))
      await writeFile(join(cache, graph!), '')
      const again = await openJudge(dirname(cache))
      t.deepEqual((await again.judge(red, [red, blue])).lpips, there)
      await again.close()
    },
    { lpips },
    prepare,
  )
})

test('the digest follows the files and the manifest', async (t) => {
  const digests: string[] = []
  const collect = (judge: Judge) => Promise.resolve(void digests.push(judge.digest))
  await withJudge(collect)
  await withJudge(collect)
  await withJudge(collect, { licence: 'MIT' })
  // A comment of the model's: its producer's name.
  await withJudge(collect, {}, (folder) => appendFile(join(folder, 'lpips.onnx'), Buffer.from('1a0178', 'hex')))
  t.is(digests[0], digests[1])
  t.is(new Set(digests).size, 3)
})

test('the digest follows weights that models keep in files of their own', async (t) => {
  const { classifier } = judgeManifest() as Record<string, object>
  const changes = { classifier: { ...classifier, labels: undefined } }
  const prepare = (change: (tensors: string, name: string) => Promise<void>) => async (folder: string) => {
    const graph = new Graph()
    const seen = op.reshape(graph.input('image', 'float32', [N, 3, size, size]), [N, 3 * size * size])
    const weights = new Random(1).normals(3 * size * size * 100)
    const logits = op.matmul(seen, graph.constant('weights', [3 * size * size, 100], weights))
    graph.output('logits', logits)
    graph.output('features', op.mul(logits, 2))
    await writeOnnx(graph, folder, 'classifier')
    const tensors = join(folder, tensorFolder)
    await change(tensors, (await readdir(tensors))[0]!)
  }
  const digestAfter = async (change: (tensors: string, name: string) => Promise<void>) => {
    let digest = ''
    await withJudge((judge) => Promise.resolve(void (digest = judge.digest)), changes, prepare(change))
    return digest
  }
  const whole = await digestAfter(() => Promise.resolve())
  const other = await digestAfter(async (tensors, name) => {
    const bytes = await readFile(join(tensors, name))
    await writeFile(join(tensors, name), bytes.fill(0, 0, 4))
  })
  t.not(other, whole)
  t.is(await digestAfter(() => Promise.resolve()), whole)
  const gone = digestAfter((tensors, name) => rm(join(tensors, name)))
  await t.throwsAsync(gone, { code: 'NOT_FOUND', message: /tensors/ })
})

test('a judge that is not whole is refused, and says why', async (t) => {
  const { classifier, lpips } = judgeManifest() as Record<string, object>
  const wrong: readonly (readonly [changes: Record<string, unknown>, message: RegExp])[] = [
    [{ format: 2 }, /not a valid manifest of a judge: format/],
    [{ classifier: { ...classifier, features: undefined } }, /neither classifier nor feature_classifier has features/],
    [{ classifier: { ...classifier, file: '../x.onnx' } }, /a plain file name/],
    [{ classifier: { ...classifier, file: 'none.onnx' } }, /none\.onnx: no such file/],
    [{ lpips: { ...lpips, sha256: 'ab'.repeat(32) } }, /lpips\.onnx is not the file that judge\.json names/],
    [{ lpips: { trunk: 'resnet' } }, /lpips/],
  ]
  for (const [changes, message] of wrong) await t.throwsAsync(open(changes), { message }, JSON.stringify(changes))
  await t.throwsAsync(
    open({}, (folder) => writeFile(join(folder, 'judge.json'), '{')),
    { message: /not a valid manifest/ },
  )
  await t.throwsAsync(
    open({}, (folder) => rm(join(folder, 'judge.json'))),
    { code: 'NOT_FOUND' },
  )
  const broken = open({}, (folder) => writeFile(join(folder, 'lpips.onnx'), 'not a model'))
  await t.throwsAsync(broken, { code: 'DATA_LOSS', message: /cannot load .*lpips\.onnx/ })
})

test.serial('a judge that does not open keeps nothing open', async (t) => {
  const release = Object.getOwnPropertyDescriptor(Session.prototype, 'release')!
  let released = 0
  Session.prototype.release = function (this: Session) {
    released++
    return (release.value as Session['release']).call(this)
  }
  t.teardown(() => Object.defineProperty(Session.prototype, 'release', release))
  const lpips = { trunk: 'alexnet', weights: 'trunk.safetensors', linear: 'linear.safetensors', size: 63 }
  const opening = withFolder(async (folder) => {
    await writeJudge(folder, judgeManifest({ lpips }))
    const one = { name: 'x', dtype: 'F32', shape: [1], data: Float32Array.of(1) } as const
    await writeFile(join(folder, 'trunk.safetensors'), Buffer.concat(serialiseSafetensors([one])))
    await writeFile(join(folder, 'linear.safetensors'), 'these are no weights')
    await t.throwsAsync(openJudge(folder), { code: 'DATA_LOSS', message: /linear\.safetensors/ })
    return openFiles().filter((path) => path.startsWith(folder))
  })
  t.deepEqual(await opening, [])
  t.is(released, 1)
})

/** Of this process, where the system tells. */
function openFiles(): string[] {
  const table = '/proc/self/fd'
  if (!existsSync(table)) return []
  return readdirSync(table).flatMap((file) => {
    try {
      return [readlinkSync(join(table, file))]
    } catch {
      return [] // that of the reading itself
    }
  })
}

test('a manifest that does not fit its models is told of where they run', async (t) => {
  const { classifier } = judgeManifest() as Record<string, object>
  const misfits: readonly (readonly [changes: object, message: RegExp])[] = [
    [{ input: 'pixels' }, /the judge's classifier does not run/],
    [{ size: 8 }, /the judge's classifier does not run/],
    [{ logits: 'scores' }, /no float32 output "scores"; it has (features, logits|logits, features)/],
    [{ labels: ['red'] }, /output "logits" has 4 values for a picture, expected 1/],
    [{ feature_size: 2 }, /output "features" has 3 values for a picture, expected 2/],
    [{ std: [1e-45, 1, 1] }, /values that are not finite/],
  ]
  for (const [change, message] of misfits) {
    const looking = withJudge((judge) => judge.features([plain('red')]).then(() => undefined), {
      classifier: { ...classifier, ...change },
    })
    await t.throwsAsync(looking, { code: 'FAILED_PRECONDITION', message }, JSON.stringify(change))
  }
})

test('LPIPS by place is not taken for LPIPS', async (t) => {
  const spatial = async (folder: string) => {
    const graph = new Graph()
    const [a, b] = ['a', 'b'].map((name) => graph.input(name, 'float32', [N, 3, size, size]))
    graph.output('distance', op.sub(a!, b!))
    await writeOnnx(graph, folder, 'lpips')
  }
  const judging = withJudge((judge) => judge.judge(plain('red'), [plain('blue')]).then(() => undefined), {}, spatial)
  await t.throwsAsync(judging, { message: /output "distance" has 48 values for a picture, expected 1/ })
})

test('the files are those that the manifest names', async (t) => {
  await withFolder(async (folder) => {
    await writeJudge(folder)
    const { classifier, lpips } = judgeManifest() as Record<string, object>
    const named = async (network: object, file: string) => ({ ...network, sha256: await sha256Of(join(folder, file)) })
    const whole = judgeManifest({
      classifier: await named(classifier!, 'classifier.onnx'),
      lpips: await named(lpips!, 'lpips.onnx'),
    })
    await writeFile(join(folder, 'judge.json'), JSON.stringify(whole))
    const judge = await openJudge(folder)
    t.regex(judge.digest, /^[0-9a-f]{64}$/)
    await judge.close()
  })
})
