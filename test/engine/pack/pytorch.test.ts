// PyTorch checkpoints: real ones of every format, hostile ones, seeded damage, and what is no checkpoint at all.
// Fixtures: test/fixtures/checkpoints/make.py, whose formulae the expected values repeat.

import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { Weights } from '../../../src/engine/networks/weights.js'
import { openCheckpoint } from '../../../src/engine/pack/checkpoint.js'
import type { TensorSource } from '../../../src/engine/pack/tensor-source.js'
import { damage, ourError, refuses, seededRandom } from './hostile.js'
import { call, dict, global, int, join, pickle, text, tuple, uint } from './pickle-writer.js'

const root = new URL('../../../../', import.meta.url)
const fixtures = fileURLToPath(new URL('test/fixtures/checkpoints/', root))
const lpips = fileURLToPath(new URL('../shared/data/lpips_v0.1/vgg.pth', root))

const folder = mkdtempSync(joinPath(tmpdir(), 'flexit-'))
test.after.always(() => rmSync(folder, { recursive: true }))
let files = 0

function fixture(name: string): string {
  return joinPath(fixtures, name)
}

/** A file with these bytes. */
function file(bytes: Uint8Array | string): string {
  const path = joinPath(folder, `${++files}.bin`)
  writeFileSync(path, bytes)
  return path
}

/** All tensors of a file: type, shape and values. */
async function contents(path: string): Promise<Record<string, unknown>> {
  const source = await openCheckpoint(path)
  const entries = [...source.tensors].map(([name, { dtype, shape }]) => [name, [dtype, shape, [...source.read(name)]]])
  source.close()
  return Object.fromEntries(entries) as Record<string, unknown>
}

const stateDict = {
  weight: ['F32', [2, 3], [0, 1, 2, 3, 4, 5]],
  transposed: ['F32', [4, 3], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]],
  row: ['F32', [4], [4, 5, 6, 7]],
  column: ['F32', [3], [2, 6, 10]],
  steps: ['F32', [2, 2], [1, 3, 9, 11]],
  expanded: ['F32', [2, 3], [7, 7, 7, 7, 7, 7]],
  permuted: ['F32', [4, 2, 3], [0, 1, 2, 3].flatMap((c) => [0, 4, 8, 12, 16, 20].map((ab) => ab + c))],
  scalar: ['F32', [], [5]],
  empty: ['F32', [0, 3], []],
  parameter: ['F32', [2], [0, 1]],
  float64: ['F64', [3], [0, 0.25, 0.5]],
  float16: ['F16', [3], [0, 0.25, 0.5]],
  bfloat16: ['BF16', [3], [0, 0.25, 0.5]],
  int64: ['I64', [3], [-1, 0, 1]],
  int32: ['I32', [3], [-1, 0, 1]],
  int16: ['I16', [3], [-1, 0, 1]],
  int8: ['I8', [3], [-1, 0, 1]],
  uint8: ['U8', [3], [0, 1, 2]],
  bool: ['BOOL', [2], [1, 0]],
}

for (const name of ['zip.pt', 'legacy.pt']) {
  test(`${name}: every type and view has its values`, async (t) => {
    t.deepEqual(await contents(fixture(name)), stateDict)
  })

  test(`${name}: a type that is not read is refused by name, and only when it is asked for`, async (t) => {
    const source = await openCheckpoint(fixture(name))
    t.false(source.tensors.has('complex'))
    await refuses(t, () => source.read('complex'), name, /"complex" is of type ComplexFloat/)
    await refuses(t, () => source.read('wieght'), name, /no tensor "wieght"/, 'NOT_FOUND')
    source.close()
  })
}

for (const [name, dtype] of [
  ['script.pt', 'F16'],
  ['trace.pt', 'F32'],
] as const) {
  test(`${name}: modules are flattened to the keys of a state dict`, async (t) => {
    t.deepEqual(await contents(fixture(name)), {
      logit_scale: [dtype, [], [0]],
      'visual.0.conv.weight': [dtype, [3, 2, 1, 1], [1, 2, 3, 4, 5, 6]],
      'visual.0.norm.weight': [dtype, [3], [2, 3, 4]],
      'visual.0.norm.bias': [dtype, [3], [3, 4, 5]],
      'visual.0.norm.running_mean': [dtype, [3], [4, 5, 6]],
      'visual.0.norm.running_var': [dtype, [3], [5, 6, 7]],
      'visual.0.norm.num_batches_tracked': ['I64', [], [6]],
    })
  })
}

test('of a Lightning checkpoint only the state dict is seen, and what is beside it does no harm', async (t) => {
  t.deepEqual(await contents(fixture('lightning.ckpt')), {
    'decoder.conv_in.weight': ['F32', [2, 2], [0, 1, 2, 3]],
    'loss.logvar': ['F32', [], [0.5]],
  })
})

for (const name of ['nested.pt', 'little-endian.pt']) {
  test(`${name}: nested dicts are flattened, whatever their keys`, async (t) => {
    const source = await openCheckpoint(fixture(name))
    t.deepEqual([...source.tensors.keys()], ['model.__proto__', 'model.a.b'])
    t.deepEqual([...source.read('model.__proto__')], [0, 1])
    source.close()
  })
}

for (const protocol of [3, 4, 5]) {
  test(`pickle protocol ${protocol} is read`, async (t) => {
    t.deepEqual(await contents(fixture(`protocol-${protocol}.pt`)), { weight: ['F32', [2], [0, 1]] })
  })
}

test('a tensor of another shape than wanted is refused', async (t) => {
  const source = await openCheckpoint(fixture('zip.pt'))
  t.is(new Weights(source).read('transposed', [4, undefined]).length, 12)
  await refuses(t, () => new Weights(source).read('transposed', [3, 4]), 'zip.pt', /is \[4, 3\], expected \[3, 4\]/)
  source.close()
})

for (const [name, message] of [
  ['hostile-zip.pt', /"posix\.system", whose code would run/],
  ['hostile-legacy.pt', /"posix\.system", whose code would run/],
  ['hostile.pkl', /"posix\.system", whose code would run/],
  ['module.pt', /"torch\.nn\.modules\.linear\.Linear", whose code would run/],
  ['compressed.pt', /"nested\/data\.pkl" is compressed in the archive/],
  ['big-endian.pt', /of a big-endian machine/],
  ['other.zip', /a zip archive with 0 data\.pkl/],
] as const) {
  test(`refuses ${name}`, async (t) => {
    await refuses(t, () => openCheckpoint(fixture(name)), name, message)
    t.false(existsSync('owned.txt'))
  })
}

const strangers: [title: string, bytes: Uint8Array | string, message: RegExp][] = [
  ['an empty file', '', /the file is empty/],
  ['a few bytes', 'PK\x03', /truncated: it has 3 bytes/],
  ['a web page', '<!DOCTYPE html><html><body>Sign in</body></html>', /this is a web page, so the download went wrong/],
  ['a web page after blanks', '\n  <html lang="en">', /this is a web page/],
  ['the error of a server', '{"error": "Entry not found"}', /JSON text/],
  ['a Git LFS pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', /Git LFS pointer/],
  ['a tar archive', Buffer.concat([Buffer.alloc(257, 'a'), Buffer.from('ustar'), Buffer.alloc(300)]), /tar archive/],
  ['a gzip file', Buffer.from('1f8b08000000000000000000', 'hex'), /compressed with gzip/],
  ['an image', Buffer.from('89504e470d0a1a0a0000000d', 'hex'), /neither safetensors nor a PyTorch checkpoint/],
  ['an empty archive', Buffer.concat([Buffer.from('PK\x05\x06'), Buffer.alloc(18)]), /neither safetensors nor/],
  ['a pickle of something else', pickle(dict(text('a'), 'K\x01')), /not one that torch\.save wrote/],
]

for (const [title, bytes, message] of strangers) {
  test(`tells ${title} from weights`, async (t) => {
    const path = file(bytes)
    await refuses(t, () => openCheckpoint(path), path, message)
  })
}

test('a missing file and a folder are told apart', async (t) => {
  const missing = joinPath(folder, 'missing.pt')
  await refuses(t, () => openCheckpoint(missing), missing, /no such file/, 'NOT_FOUND')
  await refuses(t, () => openCheckpoint(folder), folder, /it is a folder/, 'INVALID_ARGUMENT')
})

for (const name of ['zip.pt', 'legacy.pt', 'script.pt']) {
  test(`refuses ${name} cut short, wherever that is`, async (t) => {
    const bytes = readFileSync(fixture(name))
    for (let length = 0; length < bytes.length; length += 37) {
      const path = file(bytes.subarray(0, length))
      await refuses(t, () => openCheckpoint(path), path, /truncated|empty/)
    }
  })
}

test('an archive whose directory is said to be beyond all files is damaged', async (t) => {
  const bytes = readFileSync(fixture('zip.pt'))
  const locator = join('PK\x06\x07', uint(0, 4), uint(2n ** 63n, 8), uint(1, 4))
  const path = file(join(bytes.subarray(0, -22), locator, bytes.subarray(-22)))
  await refuses(t, () => openCheckpoint(path), path, /truncated: 56 bytes are wanted/)
})

/** The start of a plain-pickle checkpoint, up to its list of storages. */
function legacyHead(value: Uint8Array): Buffer {
  const [magic, protocol] = [int(0x1950a86a20f9469cfc6cn), int(1001)]
  return join(pickle(magic), pickle(protocol), pickle(dict(text('little_endian'), '\x88')), pickle(value))
}

/** A plain-pickle checkpoint with one storage of six floats, which count from 0. */
function legacy(value: Uint8Array, key = '0'): Buffer {
  const floats = Float32Array.of(0, 1, 2, 3, 4, 5)
  return join(legacyHead(value), pickle('(', text(key), 'l'), uint(6, 8), new Uint8Array(floats.buffer))
}

function storage(type = 'FloatStorage', elements = 6, ...view: Buffer[]): Buffer {
  return join(tuple(text('storage'), global('torch', type), text('0'), text('cpu'), int(elements), ...view), 'Q')
}

const ints = (...values: (number | bigint)[]) => tuple(...values.map(int))

function tensor(shape: Buffer, strides: Buffer, offset = int(0), of = storage(), ...marks: Buffer[]): Buffer {
  return call(global('torch._utils', '_rebuild_tensor_v2'), of, offset, shape, strides, '\x89', '}', ...marks)
}

const state = (...items: Buffer[]) => legacy(dict(...items))

test('a checkpoint made by hand opens', async (t) => {
  const value = tensor(ints(2, 2), ints(1, 3), int(1))
  t.deepEqual(await contents(file(state(text('w'), value))), { w: ['F32', [2, 2], [1, 4, 2, 5]] })
})

test('names are those of the network, also where all of them have the prefix of DataParallel', async (t) => {
  const wrapped = await openCheckpoint(file(state(text('module.w'), tensor(ints(2), ints(3)))))
  t.deepEqual([...wrapped.tensors.keys()], ['w'])
  t.deepEqual([...wrapped.read('w')], [0, 3])
  wrapped.close()
  const partly = await openCheckpoint(file(state(text('module.w'), w, text('v'), w)))
  t.deepEqual([...partly.tensors.keys()], ['module.w', 'v'])
  partly.close()
})

const impossible: [title: string, bytes: Buffer, message: RegExp][] = [
  [
    'beyond its storage',
    state(text('w'), tensor(ints(7), ints(1))),
    /"w" of shape \[7\] needs elements 0 to 7 of .* 6/,
  ],
  [
    'at an offset beyond',
    state(text('w'), tensor(ints(6), ints(1), int(1))),
    /needs elements 1 to 7 of a storage of 6/,
  ],
  ['with strides beyond', state(text('w'), tensor(ints(2, 2), ints(5, 1))), /needs elements 0 to 7/],
  ['at a negative offset', state(text('w'), tensor(ints(1), ints(1), int(-1))), /not built of a storage/],
  ['with a negative stride', state(text('w'), tensor(ints(2), ints(-1))), /not built of a storage/],
  ['with a negative size', state(text('w'), tensor(ints(-2), ints(1))), /not built of a storage/],
  ['of a size beyond 2^53', state(text('w'), tensor(ints(2n ** 60n), ints(0))), /not built of a storage/],
  ['of a product beyond 2^53', state(text('w'), tensor(ints(2 ** 30, 2 ** 30), ints(0, 0))), /no valid shape/],
  [
    'of a floating-point size',
    state(text('w'), tensor(join('G\x3f\xe0', Buffer.alloc(6), '\x85'), ints(1))),
    /not built of/,
  ],
  ['with too few strides', state(text('w'), tensor(ints(2, 2), ints(1))), /no valid shape and strides/],
  [
    'that repeats its storage for ever',
    state(text('w'), tensor(ints(2 ** 40), ints(0))),
    /repeats its storage too often/,
  ],
  [
    'that is negated when it is read',
    state(text('w'), tensor(ints(1), ints(1), int(0), storage(), dict(text('neg'), '\x88'))),
    /a tensor is marked neg/,
  ],
  ['of 65 dimensions', state(text('w'), tensor(ints(...Array<number>(65).fill(1)), ints(1))), /not built of/],
  ['without a storage', state(text('w'), tensor(ints(1), ints(1), int(0), join('N'))), /not built of a storage/],
  [
    'of an unknown type of storage',
    state(text('w'), tensor(ints(1), ints(1), int(0), storage('QInt8Storage'))),
    /QInt8/,
  ],
  [
    'of a storage that is a class',
    state(text('w'), tensor(ints(1), ints(1), int(0), storage('Tensor'))),
    /torch\.Tensor/,
  ],
  [
    'of another storage than saved',
    state(text('w'), tensor(ints(1), ints(1), int(0), storage('FloatStorage', 5))),
    /6 of 5/,
  ],
  ['of a storage that is a view', state(text('w'), tensor(ints(1), ints(1), int(0), storage('FloatStorage', 6, ints(1)))), /is a view/], // prettier-ignore
  ['of a storage with two types', state(text('w'), tensor(ints(1), ints(1)), text('v'), tensor(ints(1), ints(1), int(0), storage('LongStorage', 6))), /described in two ways/], // prettier-ignore
]

for (const [title, bytes, message] of impossible) {
  test(`refuses a tensor ${title}`, async (t) => {
    const path = file(bytes)
    await refuses(t, () => openCheckpoint(path), path, message)
  })
}

const w = tensor(ints(1), ints(1))
/** A dict that holds the one before twice, forty times over. */
const doubled = join(w, 'q\x000', ...Array.from({ length: 40 }, () => join('}(', text('a'), 'h\x00', text('b'), 'h\x00uq\x000')), 'h\x00') // prettier-ignore
const orderedDict = global('collections', 'OrderedDict')
/** A dict whose keys are no names, under as many names as it has keys. */
const nameless = legacy(join(w, 'q\x000}(', ...Array.from({ length: 1500 }, (_, i) => join(tuple(int(i)), 'N')), 'uq\x010}(', ...Array.from({ length: 1500 }, (_, i) => join(int(i), 'h\x01')), text('w'), 'h\x00u')) // prettier-ignore
const pairs = join('(', ...Array.from({ length: 2000 }, (_, i) => tuple(int(i), 'N')), 'lq\x000')

const odd: [title: string, bytes: Buffer, message: RegExp][] = [
  ['no tensors', state(text('epoch'), int(1)), /list of storages does not fit/],
  ['one tensor without a name', legacy(w), /no named tensors/],
  ['a list of tensors', legacy(join('(', w, 'l')), /no named tensors/],
  ['two tensors of one name', state(text('a.b'), w, text('a'), dict(text('b'), w)), /two tensors have the name "a\.b"/],
  ['a dict that holds itself', legacy(join('}q\x00', text('a'), 'h\x00s', text('w'), w, 's')), /nested too deeply/],
  ['a dict of a million paths', legacy(doubled), /nested too deeply/],
  ['a dict of a million keys that are no names', nameless, /nested too deeply/],
  ['names that are longer than the file by far', legacy(join(w, 'q\x000}(', ...Array.from({ length: 200 }, (_, i) => join(int(i), 'h\x00')), 'uq\x000}(', ...Array.from({ length: 200 }, (_, i) => join(int(i), 'h\x00')), 'uq\x000}', text('x'.repeat(900)), 'h\x00s')), /nested too deeply, at/], // prettier-ignore
  ['a name that goes on and on', state(text('x'.repeat(2000)), w), /nested too deeply, at "x{120}…"/],
  ['a dict made of a number', legacy(call(orderedDict, int(1))), /no list of pairs/],
  ['a dict made of triples', legacy(call(orderedDict, join('(', ints(1, 2, 3), 'l'))), /no list of pairs/],
  ['a list that is made into many dicts', legacy(join(pairs, ...Array.from({ length: 600 }, () => join(call(orderedDict, join('h\x00')), '0')), 'N')), /dicts have more than 1000000 entries/], // prettier-ignore
  ['modules that are no TorchScript', legacy(call(global('__torch__', 'Net'))), /"__torch__\.Net", whose code/],
  [
    'storages that are not in a list',
    join(legacyHead(dict(text('w'), w)), pickle('K\x01')),
    /list of storages is not a list/,
  ],
  ['storages that are numbered', join(legacyHead(dict(text('w'), w)), pickle('(K\x00l')), /does not fit/],
  ['a storage that is not listed', join(legacyHead(dict(text('w'), w)), pickle(']')), /has no storage "0"/],
]

for (const [title, bytes, message] of odd) {
  test(`refuses a checkpoint of ${title}`, async (t) => {
    const path = file(bytes)
    await refuses(t, () => openCheckpoint(path), path, message)
  })
}

test('a storage that the file does not have is missed', async (t) => {
  const path = file(legacy(dict(text('w'), w), '1'))
  await refuses(t, () => openCheckpoint(path), path, /list of storages does not fit its tensors/)
})

test('damaged checkpoints give values or our error, nothing else', async (t) => {
  const random = seededRandom(2)
  const names = readdirSync(fixtures).filter((name) => name !== 'make.py')
  const readAll = async (path: string) => {
    let source: TensorSource | undefined
    try {
      source = await openCheckpoint(path)
      for (const name of source.tensors.keys()) source.read(name)
    } finally {
      source?.close()
    }
  }
  const path = file('')
  let refusals = 0
  for (const name of names) {
    const bytes = readFileSync(fixture(name))
    for (let i = 0; i < 200; i++) {
      writeFileSync(path, damage(bytes, random))
      if ((await ourError(t, () => readAll(path))) !== undefined) refusals++
    }
  }
  t.true(refusals > 100 * names.length && refusals < 200 * names.length, `${refusals} of ${200 * names.length}`)
})

test('the linear layers of LPIPS open', async (t) => {
  if (!existsSync(lpips)) {
    t.log('skipped: no shared/ beside the repository')
    t.pass()
    return
  }
  const source = await openCheckpoint(lpips)
  t.deepEqual(
    [...source.tensors].map(([name, { dtype, shape }]) => [name, dtype, ...shape]),
    [64, 128, 256, 512, 512].map((width, i) => [`lin${i}.model.1.weight`, 'F32', 1, width, 1, 1]),
  )
  t.true(new Weights(source).read('lin0.model.1.weight', [1, 64, 1, 1]).every((weight) => weight >= 0))
  source.close()
})
