// The unpickler on pickles made by hand: every opcode, and everything that a hostile one may try.
// Follows CPython's Lib/pickletools.py.

import test from 'ava'
import { bytesOf } from '../../../src/engine/pack/byte-source.js'
import { PickleGlobal, PickleObject, unpickle } from '../../../src/engine/pack/pickle.js'
import type { PickleRules } from '../../../src/engine/pack/pickle.js'
import { call, dict, global, int, join, pickle, text, tuple, uint } from './pickle-writer.js'
import { refuses } from './hostile.js'

const globals = new Map([
  ['demo.pair', new PickleGlobal('demo.pair', (a, b) => [a, b])],
  ['demo.object', new PickleGlobal('demo.object', () => new PickleObject('demo.object'))],
  ['demo.type', new PickleGlobal('demo.type')],
])
const rules: PickleRules = { globals: (name) => globals.get(name), persistent: (id) => ({ id }) }

function read(bytes: Uint8Array, position = 0): unknown {
  return unpickle(bytesOf(bytes, 'hand.pkl'), position, rules).value
}

const values: [title: string, body: Buffer, value: unknown][] = [
  ['None and truth values', join('(N\x88\x89I01\nI00\nl'), [null, true, false, true, false]],
  ['small integers', join('(K\xffM\xff\xffJ\xff\xff\xff\xff', 'I-12\nL34L\nl'), [255, 65535, -1, -12, 34]],
  ['long integers', join('(\x8a\x00\x8a\x01\x80\x8a\x06\x00\x00\x00\x00\x00\x01l'), [0, -128, 2 ** 40]],
  ['integers beyond 2^53', join('(', int(2n ** 80n), int(-(2n ** 80n)), 'l'), [2n ** 80n, -(2n ** 80n)]],
  ['long integers of four-byte length', join('\x8b\x01\x00\x00\x00\x07'), 7],
  ['floats', join('(G\x3f\xf8\x00\x00\x00\x00\x00\x00', 'F-0.25\nl'), [1.5, -0.25]],
  ['text', join('(', text('zoë'), '\x8c\x04zo\xc3\xab\x8d', uint(1, 8), 'aVb\nl'), ['zoë', 'zoë', 'a', 'b']],
  ['strings of Python 2', join('(U\x02\xe9bT', uint(1, 4), 'cS\'d\'\nS"e"\nl'), ['éb', 'c', 'd', 'e']],
  [
    'bytes',
    join('(C\x01\xffB', uint(1, 4), 'a\x8e', uint(1, 8), 'b\x96', uint(1, 8), 'cl'),
    [255, 97, 98, 99].map((byte) => Uint8Array.of(byte)),
  ],
  ['tuples', join('()K\x01\x85K\x01K\x02\x86K\x01K\x02K\x03\x87(K\x04tl'), [[], [1], [1, 2], [1, 2, 3], [4]]],
  ['lists', join(']K\x01a(K\x02K\x03e'), [1, 2, 3]],
  ['sets', join('(\x8f(K\x01K\x02\x90(K\x03\x91l'), [[1, 2], [3]]],
  ['dicts', join('}K\x01K\x02s(K\x03K\x04u'), new Map([[1, 2], [3, 4]])], // prettier-ignore
  ['a dict from a group', join('(K\x01K\x02d'), new Map([[1, 2]])],
  ['memo entries', join('(K\x01q\x00K\x02r', uint(7, 4), 'K\x03p9\nK\x04\x94h\x00j', uint(7, 4), 'g9\nh\x03l'), [1, 2, 3, 4, 1, 2, 3, 4]], // prettier-ignore
  ['values thrown away', join('(K\x01K\x020(K\x09K\x0912l'), [1, 1]],
  ['frames', join('\x95', uint(2, 8), 'K\x05'), 5],
  ['calls', join('(', call(global('demo', 'pair'), 'K\x01', 'K\x02'), 'l'), [[1, 2]]],
  ['calls of a class', join('\x8c\x04demo\x8c\x04pair\x93K\x01K\x02\x86\x81'), [1, 2]],
  ['calls with keywords', join(global('demo', 'pair'), 'K\x01K\x02\x86}\x92'), [1, 2]],
  ['calls in the old ways', join('((K\x01K\x02idemo\npair\n(', global('demo', 'pair'), 'K\x03K\x04ol'), [[1, 2], [3, 4]]], // prettier-ignore
  ['persistent ids', join('(K\x01QPkey\nl'), [{ id: 1 }, { id: 'key' }]],
]

for (const [title, body, value] of values) {
  test(`reads ${title}`, (t) => t.deepEqual(read(pickle(body)), value))
}

test('attributes are kept on objects that stand for a class, and dropped from dicts', (t) => {
  const object = read(pickle(call(global('demo', 'object')), dict(text('x'), 'K\x01'), 'b')) as PickleObject
  t.is(object.type, 'demo.object')
  t.deepEqual(object.state, new Map([['x', 1]]))
  t.deepEqual(read(pickle('}', dict(text('_metadata'), 'K\x01'), 'b')), new Map())
})

test('keys that mean something to JavaScript mean nothing here', (t) => {
  const map = read(pickle(dict(text('__proto__'), dict(text('polluted'), 'K\x01'), text('constructor'), 'K\x02')))
  t.deepEqual([...(map as Map<string, unknown>).keys()], ['__proto__', 'constructor'])
  t.is(({} as { polluted?: unknown }).polluted, undefined)
})

test('a list may hold itself', (t) => {
  const list = read(pickle(']q\x00h\x00a')) as unknown[]
  t.is(list[0], list)
})

test('pickles follow each other, and lines and strings may be of any size up to the end', (t) => {
  const long = 'x'.repeat(65530)
  const first = pickle('(', text(long), 'I123456\n', text(`${long}${long}`), global('demo', 'type'), 'l')
  const source = bytesOf(join(first, pickle('K\x07')), 'hand.pkl')
  const one = unpickle(source, 0, rules)
  t.deepEqual(one.value, [long, 123456, long + long, globals.get('demo.type')])
  t.is(one.end, first.length)
  t.deepEqual(unpickle(source, one.end, rules), { value: 7, end: source.size })
})

const refused: [title: string, body: Buffer, message: RegExp][] = [
  ['a global that is not listed', global('os', 'system'), /"os\.system", whose code would run/],
  ['… even when it is not called', join(global('posix', 'system'), '0N'), /"posix\.system"/],
  ['… named on the stack', join('\x8c\x02nt\x8c\x06system\x93'), /"nt\.system"/],
  ['… in an instance of protocol 0', join('(S"rm -rf"\nios\nsystem\n'), /"os\.system"/],
  ['… with control characters in its name', global('os', 'sys\x1b[2Jtem'), /"os\.sys\\u001b\[2Jtem"/],
  ['… with a long name', join('\x8c\x02os', text('x'.repeat(900)), '\x93'), /x{100}…"/],
  ['… with a name that goes on and on', join('\x8c\x02os', text('x'.repeat(5000)), '\x93'), /global at great length/],
  ['a global that is no string', join('K\x01K\x02\x93'), /names a global by what is no string/],
  ['a listed type that is called', call(global('demo', 'type')), /"demo\.type", whose code would run/],
  ['a call of a string', call(text('os.system'), text('rm')), /calls what is no function/],
  ['a call without a tuple', join(global('demo', 'pair'), 'K\x01R'), /calls what is no function/],
  ['a call of nothing', join('(o'), /calls what is no function/],
  [
    'a call with arguments for a whole stack',
    join(global('demo', 'pair'), '(', 'N'.repeat(200_000), 'tR'),
    /calls what/,
  ],
  ['attributes of a list', join(']}b'), /sets attributes of what has none/],
  ['items of a list', join(']K\x01K\x02s'), /sets items of what is no dict/],
  ['a key without a value', join('}(K\x01u'), /a key without a value/],
  ['appending to a dict', join('}K\x01a'), /appends to what is no list/],
  ['the extension registry', join('\x82\x01'), /unknown opcode 0x82/],
  ['buffers outside of the file', join('\x97'), /unknown opcode 0x97/],
  ['an unknown opcode', join('!'), /unknown opcode 0x21/],
  ['a protocol to come', join('\x80\x06'), /protocol that is not known/],
  ['an empty stack', join('0'), /a value that it does not have/],
  ['values beyond the mark', join('K\x01(K\x02\x86'), /values that it does not have/],
  ['a group that never began', join('t'), /a group that it did not begin/],
  ['a memo that is not set', join('h\x05'), /memo 5, which it has not set/],
  ['a string beyond the end', join('X', uint(0xffffffff, 4)), /larger than \d+ bytes/],
  ['a string just beyond the end', join('X', uint(1000, 4)), /truncated/],
  ['a string of 2^64 bytes', join('\x8d', uint(2n ** 64n - 1n, 8)), /larger than \d+ bytes/],
  ['an integer of 2^31 bytes', join('\x8b', uint(2 ** 31, 4)), /integer of 2147483648 bytes/],
  ['an integer that is none', join('I1e9\n'), /bad integer/],
  ['a line without an end', join('I', '1'.repeat(5000)), /line that does not end/],
  ['a string with escapes', join("S'\\x41'\n"), /string that is not plain/],
  ['groups in groups in groups', join('('.repeat(2000)), /nested more than 1000 deep/],
  ['opcodes without end', join('N0'.repeat(1_500_000)), /more than 2000000 opcodes/],
]

for (const [title, body, message] of refused) {
  test(`refuses ${title}`, (t) => refuses(t, () => read(pickle(body)), 'hand.pkl', message))
}

test('refuses persistent ids where there are none', async (t) => {
  const source = bytesOf(pickle('K\x01Q'), 'hand.pkl')
  const work = () => unpickle(source, 0, { globals: rules.globals })
  await refuses(t, work, 'hand.pkl', /refers to something outside/)
})

test('refuses a pickle that is cut short, wherever that is', async (t) => {
  const whole = pickle(dict(text('a'), tuple('K\x01', int(5)), text('b'), call(global('demo', 'object'))))
  for (let length = 0; length < whole.length; length++)
    await refuses(t, () => read(whole.subarray(0, length)), 'hand.pkl', /truncated/)
})
