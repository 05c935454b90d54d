// The printed form of a small composition, of its gradient and of its lowering: what a change to a rule does to graphs.
// After a change that is meant: `npx ava --update-snapshots dist/test/engine/graph/print.test.js`.

import test from 'ava'
import { gradient } from '../../../src/engine/graph/gradient.js'
import { Graph } from '../../../src/engine/graph/graph.js'
import { lower } from '../../../src/engine/graph/lowering.js'
import * as op from '../../../src/engine/graph/ops.js'
import { print } from '../../../src/engine/graph/print.js'
import { N } from '../../../src/engine/graph/shape.js'

/** conv → SiLU → group norm → sum of squares. */
function composition({ differentiated }: { readonly differentiated: boolean }): Graph {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [N, 2, 4, 4])
  const loss = graph.scope('block', () => {
    const weight = graph.constant('conv.weight', [8, 2, 3, 3], new Float32Array(144))
    const bias = graph.constant('conv.bias', [8], new Float32Array(8))
    const scale = graph.constant('norm.weight', [8], new Float32Array(8))
    const h = op.silu(op.conv(x, weight, bias, { padding: 1, name: 'conv' }))
    return op.sumSquares(op.groupNorm(h, scale, bias, 2, 1e-6), 'loss')
  })
  graph.output('loss', loss)
  if (differentiated) {
    const ones = graph.input('ones', 'float32', [N])
    graph.output('x_grad', gradient(loss, ones, [x])[0]!)
  }
  return graph
}

test('the composition', (t) => {
  t.snapshot(print(composition({ differentiated: false })))
})

test('the composition with its gradient', (t) => {
  t.snapshot(print(composition({ differentiated: true })))
})

test('the composition in ONNX operations', (t) => {
  t.snapshot(print(lower(composition({ differentiated: false }))))
})

test('the composition with its gradient in ONNX operations', (t) => {
  t.snapshot(print(lower(composition({ differentiated: true }))))
})

test('types other than float32, several outputs, outputs that are inputs or numbers', (t) => {
  const graph = new Graph()
  const x = graph.input('x', 'float32', [{ factor: 8 }, 3])
  const ids = graph.input('ids', 'int64', [N])
  const vector = graph.constant('v', [3], Float32Array.of(1, 2, 3))
  const [y, mean] = op.layerNormalization(x, vector, vector, 0.5)
  graph.output('y', y)
  graph.output('positive', op.greater(mean, 0))
  graph.output('tokens', ids)
  graph.output('half', graph.scalar(0.5))
  const text = [
    'input x: [8N, 3]',
    'input ids: int64[N]',
    'constant v: [3]',
    'LayerNormalization: [8N, 3], LayerNormalization.1: [8N, 1], LayerNormalization.2: [8N, 1] = ' +
      'LayerNormalization(x, v, v) {"epsilon":0.5}',
    'Greater: bool[8N, 1] = Greater(LayerNormalization.1, 0)',
    'output y: [8N, 3] = LayerNormalization',
    'output positive: bool[8N, 1] = Greater',
    'output tokens: int64[N] = ids',
    'output half: [] = 0.5',
    '',
  ]
  t.is(print(graph), text.join('\n'))
})
