// Letters on pictures, the same on every machine: the 5 × 7 dots of character displays, ASCII and an arrow.
// Each letter is five columns from left to right, a byte each, its lowest bit on top.

import type { Picture } from '../engine/picture.js'

/** From the space to the tilde. */
const letters = [
  '0000000000 00005f0000 0007000700 147f147f14 242a7f2a12 2313086462 3649562050 0008070300 001c224100 0041221c00',
  '2a1c7f1c2a 08083e0808 0080703000 0808080808 0000606000 2010080402 3e5149453e 00427f4000 7249494946 2141494d33',
  '1814127f10 2745454539 3c4a494931 4121110907 3649494936 464949291e 0000140000 0040340000 0008142241 1414141414',
  '0041221408 0201590906 3e415d594e 7c1211127c 7f49494936 3e41414122 7f4141413e 7f49494941 7f09090901 3e41415173',
  '7f0808087f 00417f4100 2040413f01 7f08142241 7f40404040 7f021c027f 7f0408107f 3e4141413e 7f09090906 3e4151215e',
  '7f09192946 2649494932 03017f0103 3f4040403f 1f2040201f 3f4038403f 6314081463 0304780403 6159494d43 007f414141',
  '0204081020 004141417f 0402010204 4040404040 0003070800 2054547840 7f28444438 3844444428 384444287f 3854545418',
  '00087e0902 18a4a49c78 7f08040478 00447d4000 2040403d00 7f10284400 00417f4000 7c04780478 7c08040478 3844444438',
  'fc18242418 18242418fc 7c08040408 4854545424 04043f4424 3c4040207c 1c2040201c 3c4030403c 4428102844 4c9090907c',
  '4464544c44 0008364100 0000770000 0041360800 0201020402',
]
  .join(' ')
  .split(' ')
const arrow = '08082a1c08'

export const letterSize = { width: 6, height: 8 } as const

/** Write `text` in black on a picture, its upper left corner at (left, top). What does not fit is left out. */
export function write(picture: Picture, text: string, left: number, top: number, scale: number): void {
  for (const [i, character] of Array.from(text).entries()) {
    const columns = columnsOf(character)
    for (let x = 0; x < 5 * scale; x++) {
      const column = columns[Math.floor(x / scale)]!
      for (let y = 0; y < letterSize.height * scale; y++) {
        if (((column >> Math.floor(y / scale)) & 1) === 0) continue
        const [px, py] = [left + i * letterSize.width * scale + x, top + y]
        const at = 3 * (py * picture.width + px)
        if (px < picture.width && py < picture.height) picture.data.fill(0, at, at + 3)
      }
    }
  }
}

function columnsOf(character: string): Buffer {
  const letter = character === '→' ? arrow : letters[character.codePointAt(0)! - 32]
  return Buffer.from(letter ?? letters['?'.charCodeAt(0) - 32]!, 'hex')
}
