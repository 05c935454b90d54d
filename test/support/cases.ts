// For every differentiable operation, the shapes and attributes that its gradient is checked on.
// gradient.test.ts fails where a rule has none.

import type { OperationName } from '../../src/engine/graph/operations.js'
import * as op from '../../src/engine/graph/ops.js'
import { N, type Shape } from '../../src/engine/graph/shape.js'
import { type Case, type Draw, awayFromZero, distinct, normal, whole } from './point.js'

export interface OperationCases {
  /** In its variables, so that its derivative is itself: checked by the adjoint identity, without differences. */
  readonly linear?: boolean
  readonly cases: Readonly<Record<string, Case>>
}

const twoN = { factor: 2 }

const conv =
  (input: Shape, weight: readonly number[], options: op.ConvOptions = {}): Case =>
  ({ x, w }) =>
    op.conv(x(input), w(weight), w([weight[0]!]), options)

const groupNorm =
  (groups: number, shape: Shape = [N, 6, 3, 5]): Case =>
  ({ x, w }) => {
    const channels = shape[1] as number
    return op.groupNorm(x(shape), w([channels], awayFromZero), w([channels]), groups, 1e-5)
  }

const around =
  (center: number): Draw =>
  (length, random) =>
    random.normals(length).map((value) => center + 0.05 * value)

/** Inside the part where the soft clamp bends, of either sign. */
const bend: Draw = (length, random) => Float32Array.from(awayFromZero(length, random), (value) => value * 0.8)

const norm =
  (axis: number, epsilon: number, shape: Shape): Case =>
  ({ x }) =>
    op.unitNorm(x(shape), axis, epsilon)

export const gradientCases: Readonly<Partial<Record<OperationName, OperationCases>>> = {
  Add: {
    linear: true,
    cases: {
      'equal shapes': ({ x }) => op.add(x([N, 2, 3]), x([N, 2, 3])),
      'the second repeated in the middle': ({ x }) => op.add(x([N, 2, 3]), x([N, 1, 3])),
      'the first repeated at the end': ({ x }) => op.add(x([N, 2, 1]), x([N, 2, 3])),
      'both repeated': ({ x }) => op.add(x([N, 2, 1, 4]), x([N, 1, 3, 1])),
      'axes missing in front': ({ x }) => op.add(x([2, 3]), x([3])),
      'a constant of the whole shape': ({ x, w }) => op.add(x([N, 1, 3]), w([2, 3])),
      'several times the batch': ({ x }) => op.add(x([twoN, 3]), x([twoN, 1])),
    },
  },
  Sub: {
    linear: true,
    cases: {
      'equal shapes': ({ x }) => op.sub(x([N, 2, 3]), x([N, 2, 3])),
      'the first repeated': ({ x }) => op.sub(x([N, 1, 3]), x([N, 2, 3])),
      'the second repeated': ({ x }) => op.sub(x([N, 2, 3]), x([N, 1, 1])),
      'both repeated': ({ x }) => op.sub(x([N, 2, 1, 4]), x([N, 1, 3, 1])),
      'from a number': ({ x }) => op.sub(1, x([N, 3])),
    },
  },
  Mul: {
    cases: {
      'equal shapes': ({ x }) => op.mul(x([N, 2, 3]), x([N, 2, 3])),
      'the first repeated': ({ x }) => op.mul(x([N, 1, 3]), x([N, 2, 3])),
      'the second repeated over the end': ({ x }) => op.mul(x([N, 2, 3]), x([N, 1, 1])),
      'both repeated': ({ x }) => op.mul(x([N, 2, 1, 4]), x([N, 1, 3, 1])),
      'axes missing in front': ({ x }) => op.mul(x([2, 3]), x([3])),
      'a constant that repeats the variable': ({ x, w }) => op.mul(x([N, 1, 3]), w([2, 3])),
      'a value with itself': ({ x }) => {
        const value = x([N, 3])
        return op.mul(value, value)
      },
    },
  },
  Div: {
    cases: {
      'equal shapes': ({ x }) => op.div(x([N, 2, 3]), x([N, 2, 3], awayFromZero)),
      'the dividend repeated': ({ x }) => op.div(x([N, 1, 3]), x([N, 2, 3], awayFromZero)),
      'the divisor repeated': ({ x }) => op.div(x([N, 2, 3]), x([N, 1, 1], awayFromZero)),
      'both repeated': ({ x }) => op.div(x([N, 2, 1, 4]), x([N, 1, 3, 1], awayFromZero)),
      'a number by a value': ({ x }) => op.div(2, x([N, 3], awayFromZero)),
    },
  },
  Neg: { linear: true, cases: { 'a map': ({ x }) => op.neg(x([N, 2, 3])) } },
  Relu: { cases: { 'away from its kink': ({ x }) => op.relu(x([N, 4, 5], awayFromZero)) } },
  MatMul: {
    cases: {
      'a weight on the right': ({ x, w }) => op.matmul(x([N, 4, 3]), w([3, 5])),
      'a weight on the left': ({ x, w }) => op.matmul(w([5, 4]), x([N, 4, 3])),
      'one row a sample': ({ x, w }) => op.matmul(x([N, 3]), w([3, 5])),
      'a weight that is repeated with the batch': ({ x, w }) => op.matmul(x([N, 1, 4, 3]), w([2, 3, 5])),
      'both batched': ({ x }) => op.matmul(x([N, 2, 4, 3]), x([N, 2, 3, 5])),
      'the first repeated': ({ x }) => op.matmul(x([N, 1, 4, 3]), x([N, 2, 3, 5])),
      'the second repeated': ({ x }) => op.matmul(x([N, 2, 4, 3]), x([N, 1, 3, 5])),
      'without a batch': ({ x }) => op.matmul(x([4, 3]), x([3, 5])),
      'a value with itself': ({ x }) => {
        const value = x([N, 3, 3])
        return op.matmul(value, op.transposeLast(value))
      },
    },
  },
  Conv: {
    linear: true,
    cases: {
      '1×1': conv([N, 3, 4, 5], [2, 3, 1, 1]),
      '3×3, padded': conv([N, 3, 5, 4], [2, 3, 3, 3], { padding: 1 }),
      '3×3, not padded': conv([N, 2, 5, 6], [3, 2, 3, 3]),
      '3×3, stride 2, odd size': conv([N, 2, 7, 5], [3, 2, 3, 3], { stride: 2, padding: 1 }),
      '3×3, stride 2, even size': conv([N, 2, 6, 8], [3, 2, 3, 3], { stride: 2, padding: 1 }),
      '3×3, stride 2, odd size, not padded': conv([N, 2, 7, 6], [3, 2, 3, 3], { stride: 2 }),
      '3×3, stride 2, padded at the bottom and right': conv([N, 2, 6, 7], [3, 2, 3, 3], {
        stride: 2,
        padding: [0, 0, 1, 1],
      }),
      '3×3, padded unevenly': conv([N, 2, 5, 5], [3, 2, 3, 3], { padding: [2, 0, 1, 2] }),
      '4×4, stride 2': conv([N, 2, 8, 6], [3, 2, 4, 4], { stride: 2, padding: 1 }),
      '4×4, stride 4': conv([N, 3, 8, 8], [5, 3, 4, 4], { stride: 4 }),
      '11×11, stride 4, padded by 2': conv([N, 3, 19, 16], [2, 3, 11, 11], { stride: 4, padding: 2 }),
      '1×1, stride 2, even size': conv([N, 2, 6, 4], [3, 2, 1, 1], { stride: 2 }),
      '1×1, stride 2, odd size': conv([N, 2, 5, 7], [3, 2, 1, 1], { stride: 2 }),
      '1×1, padded': conv([N, 2, 3, 4], [3, 2, 1, 1], { padding: 1 }),
      'a kernel that is not square': conv([N, 2, 5, 6], [3, 2, 1, 3]),
      'stride 2 with a remainder': conv([N, 2, 8, 7], [3, 2, 3, 3], { stride: 2 }),
    },
  },
  MaxPool: {
    cases: {
      '2×2': ({ x }) => op.maxPool(x([N, 2, 4, 6], distinct), 2),
      '2×2 with remainders': ({ x }) => op.maxPool(x([N, 2, 5, 7], distinct), 2),
      '3×3': ({ x }) => op.maxPool(x([N, 1, 6, 8], distinct), 3),
    },
  },
  AveragePool: {
    linear: true,
    cases: {
      '2×2': ({ x }) => op.averagePool(x([N, 2, 4, 6]), 2),
      '2×2 with remainders': ({ x }) => op.averagePool(x([N, 2, 5, 7]), 2),
      '3×3 with a remainder': ({ x }) => op.averagePool(x([N, 1, 8, 6]), 3),
    },
  },
  Upsample: {
    linear: true,
    cases: {
      'by 2': ({ x }) => op.upsample(x([N, 2, 3, 5]), 2),
      'by 3': ({ x }) => op.upsample(x([N, 1, 2, 3]), 3),
    },
  },
  Reshape: {
    linear: true,
    cases: {
      'axes joined': ({ x }) => op.reshape(x([N, 2, 3, 4]), [N, 6, 4]),
      'an axis joined with the batch': ({ x }) => op.reshape(x([N, 2, 3]), [twoN, 3]),
      'an axis taken from the batch': ({ x }) => op.reshape(x([twoN, 3]), [N, 2, 3]),
      'all in one': ({ x }) => op.reshape(x([N, 2, 3]), [{ factor: 6 }]),
    },
  },
  Transpose: {
    linear: true,
    cases: {
      'two axes': ({ x }) => op.transpose(x([N, 2, 3]), [0, 2, 1]),
      'a cycle of axes': ({ x }) => op.transpose(x([N, 2, 3, 4]), [0, 3, 1, 2]),
      'the batch moved': ({ x }) => op.transpose(x([N, 2, 3]), [2, 0, 1]),
    },
  },
  Concat: {
    linear: true,
    cases: {
      'axis 1': ({ x }) => op.concat([x([N, 2, 3]), x([N, 1, 3])], 1),
      'the last axis, three values': ({ x }) => op.concat([x([N, 2, 1]), x([N, 2, 3]), x([N, 2, 2])], 2),
      'without a batch, axis 0': ({ x }) => op.concat([x([2, 3]), x([1, 3])], 0),
      'a value twice': ({ x }) => {
        const value = x([N, 2, 3])
        return op.concat([value, value], 1)
      },
      'with a constant': ({ x, w }) => op.concat([w([2, 3]), x([1, 3])], 0),
    },
  },
  Slice: {
    linear: true,
    cases: {
      'the start of axis 1': ({ x }) => op.slice(x([N, 4, 3]), 1, 0, 2),
      'the middle of axis 2': ({ x }) => op.slice(x([N, 2, 5]), 2, 1, 3),
      'the end of axis 3': ({ x }) => op.slice(x([N, 2, 3, 4]), 3, 3, 4),
    },
  },
  Pad: {
    linear: true,
    cases: {
      'before, axis 1': ({ x }) => op.pad(x([N, 2, 3]), 1, 2, 0),
      'after, axis 2': ({ x }) => op.pad(x([N, 2, 3]), 2, 0, 1),
      'both, axis 3': ({ x }) => op.pad(x([N, 2, 3, 4]), 3, 1, 3),
    },
  },
  Expand: {
    linear: true,
    cases: {
      'a middle axis': ({ x }) => op.expand(x([N, 1, 3]), [1, 4, 1]),
      'two axes': ({ x }) => op.expand(x([N, 1, 3, 1]), [1, 2, 1, 5]),
      'a length given that it has': ({ x }) => op.expand(x([N, 3, 1]), [1, 3, 2]),
    },
  },
  ReduceSum: {
    linear: true,
    cases: {
      'the last axis': ({ x }) => op.reduceSum(x([N, 2, 3]), [-1]),
      'a middle axis': ({ x }) => op.reduceSum(x([N, 2, 3, 4]), [1]),
      'two middle axes': ({ x }) => op.reduceSum(x([N, 2, 3, 4]), [1, 2]),
      'all but the batch': ({ x }) => op.reduceSum(x([N, 2, 3, 4]), [1, 2, 3]),
    },
  },
  ReduceMean: {
    linear: true,
    cases: {
      'the last axis': ({ x }) => op.reduceMean(x([N, 2, 3]), [2]),
      'a middle axis': ({ x }) => op.reduceMean(x([N, 2, 3, 4]), [2]),
      'two trailing axes': ({ x }) => op.reduceMean(x([N, 2, 3, 4]), [2, 3]),
    },
  },
  Softmax: {
    cases: {
      'a row': ({ x }) => op.softmax(x([N, 5])),
      'attention scores': ({ x }) => op.softmax(x([N, 2, 3, 4])),
    },
  },
  LayerNormalization: {
    cases: {
      'a sequence': ({ x, w }) => op.layerNormalization(x([N, 3, 8]), w([8], awayFromZero), w([8]), 1e-5)[0],
      'a large ε': ({ x, w }) => op.layerNormalization(x([N, 6]), w([6], awayFromZero), w([6]), 0.5)[0],
    },
  },
  GroupNorm: {
    cases: {
      'one group': groupNorm(1),
      'two groups': groupNorm(2),
      'a group for each channel': groupNorm(6),
    },
  },
  Silu: {
    cases: {
      'α = 1': ({ x }) => op.silu(x([N, 4, 5])),
      'α = 1.702': ({ x }) => op.silu(x([N, 4, 5]), 1.702),
    },
  },
  SoftClamp: {
    cases: {
      'where it bends': ({ x }) => op.softClamp(x([N, 20], bend)),
      'at 0': ({ x }) => op.softClamp(x([N, 5], (length) => new Float32Array(length))),
      'around 0': ({ x }) => op.softClamp(x([N, 5], around(0))),
      'beyond its limit': ({ x }) => op.softClamp(x([N, 5], around(5))),
      'far below': ({ x }) => op.softClamp(x([N, 5], around(-1e4))),
    },
  },
  UnitNorm: {
    cases: {
      'channels, ε 1e-10': norm(1, 1e-10, [N, 4, 2, 3]),
      'the last axis, ε 0': norm(1, 0, [N, 6]),
      'an ε that counts': norm(2, 0.7, [N, 2, 5]),
    },
  },
  L2Norm: {
    cases: {
      channels: ({ x }) => op.l2Norm(x([N, 4, 2, 3]), 1),
      'the last axis': ({ x }) => op.l2Norm(x([N, 6]), -1),
    },
  },
  SumSquares: {
    cases: {
      'a map': ({ x }) => op.sumSquares(x([N, 2, 3, 4])),
      'a vector': ({ x }) => op.sumSquares(x([N, 5])),
      'a number': ({ x }) => op.sumSquares(x([N])),
    },
  },
  Shift: {
    linear: true,
    cases: {
      'rows along the width': ({ x, data }) => op.shift(x([N, 2, 4, 5]), data([N, 1, 4, 1], whole(2)), 3),
      'columns along the height': ({ x, data }) => op.shift(x([N, 2, 4, 5]), data([N, 1, 1, 5], whole(2)), 2),
      'beyond the border': ({ x, data }) => op.shift(x([N, 2, 4, 5]), data([N, 1, 4, 1], whole(12)), 3),
      'the same for all rows': ({ x, data }) => op.shift(x([N, 2, 4, 5], normal), data([N, 1, 1, 1], whole(3)), 3),
    },
  },
}
