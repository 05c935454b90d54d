// Reads Python pickles without running them: only names that the caller lists can be called, and they are our functions.
// Follows CPython's Lib/pickletools.py, protocols 0 to 5 as far as PyTorch's savers write them.

import { quoted } from '../errors.js'
import { damaged } from './byte-source.js'
import type { ByteSource } from './byte-source.js'
import { PickleInput } from './pickle-input.js'

/** A class or function that a pickle names. */
export class PickleGlobal {
  readonly name: string
  /** What calling it gives; absent where it may be named (a type of storage) but not called. */
  readonly call: ((...args: unknown[]) => unknown) | undefined

  constructor(name: string, call?: (...args: unknown[]) => unknown) {
    this.name = name
    this.call = call
  }
}

/** Stands for an object of a class that is known and of no interest: its name and its attributes, no behaviour. */
export class PickleObject {
  readonly type: string
  state: unknown = undefined

  constructor(type: string) {
    this.type = type
  }
}

export interface PickleRules {
  /** The allow-list: `module.name` → what stands for it; undefined refuses the file. */
  readonly globals: (name: string) => PickleGlobal | undefined
  /** What a persistent id stands for. */
  readonly persistent?: (id: unknown) => unknown
}

export interface Unpickled {
  /**
   * dict → Map, list, tuple and set → array, bytes → Uint8Array, int → number (bigint where it is not exact),
   * None → null.
   */
  readonly value: unknown
  /** The position after the pickle. */
  readonly end: number
}

const MAX_OPCODES = 2_000_000
const MAX_DEPTH = 1000
const MAX_ARGUMENTS = 32
const MAX_NAME = 1000

/** Read the pickle that starts at `position`. Errors: DATA_LOSS; what is not allowed is named. */
export function unpickle(source: ByteSource, position: number, rules: PickleRules): Unpickled {
  return new Unpickler(source, position, rules).run()
}

class Unpickler {
  readonly #rules: PickleRules
  readonly #input: PickleInput
  readonly #memo = new Map<number, unknown>()
  readonly #outer: unknown[][] = []
  #stack: unknown[] = []

  constructor(source: ByteSource, position: number, rules: PickleRules) {
    this.#input = new PickleInput(source, position)
    this.#rules = rules
  }

  run(): Unpickled {
    for (let count = 0; count < MAX_OPCODES; count++) {
      const opcode = String.fromCharCode(this.#input.uint(1))
      if (opcode === '.') return { value: this.#pop(), end: this.#input.position }
      const value = this.#value(opcode)
      if (value === undefined) this.#change(opcode)
      else this.#stack.push(value)
    }
    throw this.#input.error(`the pickle has more than ${MAX_OPCODES} opcodes`)
  }

  /** The value that an opcode (by its letter in pickletools) adds to the stack, or undefined where it adds none. */
  #value(opcode: string): unknown {
    const input = this.#input
    switch (opcode) {
      case 'N':
        return null
      case '\x88': // NEWTRUE
        return true
      case '\x89': // NEWFALSE
        return false
      case 'K':
        return input.uint(1)
      case 'M':
        return input.uint(2)
      case 'J':
        return input.uint(4) | 0
      case '\x8a': // LONG1
        return input.integer(input.uint(1))
      case '\x8b': // LONG4
        return input.integer(input.uint(4))
      case 'I':
      case 'L':
        return input.decimal()
      case 'F':
        return Number(input.line())
      case 'G':
        return input.take(8).readDoubleBE()

      case 'S':
        return input.literal()
      case 'V':
        return input.line()
      // Python 2's str is text or bytes: Latin-1 keeps both.
      case 'U':
        return input.take(input.uint(1)).toString('latin1')
      case 'T':
        return input.take(input.uint(4)).toString('latin1')
      case '\x8c': // SHORT_BINUNICODE
        return input.take(input.uint(1)).toString()
      case 'X':
        return input.take(input.uint(4)).toString()
      case '\x8d': // BINUNICODE8
        return input.take(input.uint(8)).toString()
      case 'C':
        return new Uint8Array(input.take(input.uint(1)))
      case 'B':
        return new Uint8Array(input.take(input.uint(4)))
      case '\x8e': // BINBYTES8
      case '\x96': // BYTEARRAY8
        return new Uint8Array(input.take(input.uint(8)))

      case ')':
      case ']':
      case '\x8f': // EMPTY_SET
        return []
      case '}':
        return new Map()
      case '\x85': // TUPLE1
        return this.#popMany(1)
      case '\x86': // TUPLE2
        return this.#popMany(2)
      case '\x87': // TUPLE3
        return this.#popMany(3)
      case 't':
      case 'l':
      case '\x91': // FROZENSET
        return this.#popToMark()
      case 'd':
        return this.#setItems(new Map(), this.#popToMark())

      case '2':
        return this.#top()
      case 'g':
        return this.#get(Number(input.line()))
      case 'h':
        return this.#get(input.uint(1))
      case 'j':
        return this.#get(input.uint(4))
      case 'P':
        return this.#persistent(input.line())
      case 'Q':
        return this.#persistent(this.#pop())

      case 'c':
        return this.#global(input.line(), input.line())
      case '\x93': // STACK_GLOBAL
        return this.#global(...this.#popMany(2))
      case 'R':
      case '\x81': // NEWOBJ
        return this.#call(...this.#popMany(2))
      case '\x92': // NEWOBJ_EX: nothing on a list has use for the keyword arguments
        return this.#call(...this.#popMany(3))
      case 'i':
        return this.#call(this.#global(input.line(), input.line()), this.#popToMark())
      case 'o': {
        const [callee, ...args] = this.#popToMark()
        return this.#call(callee, args)
      }
      default:
        return undefined
    }
  }

  /** An opcode that adds no value but changes what is there. */
  #change(opcode: string): void {
    const input = this.#input
    switch (opcode) {
      case '\x80': // PROTO
        if (input.uint(1) > 5) throw input.error('the pickle is of a protocol that is not known')
        return
      case '\x95': // FRAME
        input.uint(8)
        return
      case '(':
        if (this.#outer.length === MAX_DEPTH) throw input.error(`the pickle is nested more than ${MAX_DEPTH} deep`)
        this.#outer.push(this.#stack)
        this.#stack = []
        return
      case '0':
        this.#pop()
        return
      case '1':
        this.#popToMark()
        return
      case 'a':
        this.#append(this.#popMany(1))
        return
      case 'e':
      case '\x90': // ADDITEMS
        this.#append(this.#popToMark())
        return
      case 's':
        this.#setItemsOfTop(this.#popMany(2))
        return
      case 'u':
        this.#setItemsOfTop(this.#popToMark())
        return
      case 'b':
        this.#build(this.#pop())
        return
      case 'p':
        this.#memo.set(Number(input.line()), this.#top())
        return
      case 'q':
        this.#memo.set(input.uint(1), this.#top())
        return
      case 'r':
        this.#memo.set(input.uint(4), this.#top())
        return
      case '\x94': // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top())
        return
      default:
        throw input.error(`the pickle has the unknown opcode 0x${opcode.charCodeAt(0).toString(16)}`)
    }
  }

  #top(): unknown {
    if (this.#stack.length === 0) throw this.#input.error('the pickle uses a value that it does not have')
    return this.#stack.at(-1)
  }

  #pop(): unknown {
    const value = this.#top()
    this.#stack.pop()
    return value
  }

  #popMany(count: number): unknown[] {
    if (this.#stack.length < count) throw this.#input.error('the pickle uses values that it does not have')
    return this.#stack.splice(this.#stack.length - count)
  }

  #popToMark(): unknown[] {
    const outer = this.#outer.pop()
    if (outer === undefined) throw this.#input.error('the pickle ends a group that it did not begin')
    const values = this.#stack
    this.#stack = outer
    return values
  }

  #append(values: readonly unknown[]): void {
    const list = this.#top()
    if (!Array.isArray(list)) throw this.#input.error('the pickle appends to what is no list')
    for (const value of values) list.push(value)
  }

  #setItemsOfTop(items: readonly unknown[]): void {
    const dict = this.#top()
    if (!(dict instanceof Map)) throw this.#input.error('the pickle sets items of what is no dict')
    this.#setItems(dict, items)
  }

  #setItems(dict: Map<unknown, unknown>, items: readonly unknown[]): Map<unknown, unknown> {
    if (items.length % 2 !== 0) throw this.#input.error('the pickle has a key without a value')
    for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1])
    return dict
  }

  #get(key: number): unknown {
    if (!this.#memo.has(key)) throw this.#input.error(`the pickle uses memo ${key}, which it has not set`)
    return this.#memo.get(key)
  }

  #persistent(id: unknown): unknown {
    if (this.#rules.persistent === undefined) throw this.#input.error('the pickle refers to something outside of it')
    return this.#rules.persistent(id)
  }

  #global(module?: unknown, name?: unknown): PickleGlobal {
    if (typeof module !== 'string' || typeof name !== 'string')
      throw this.#input.error('the pickle names a global by what is no string')
    // A name is a new string each time: long ones, named often, would fill the memory.
    if (module.length + name.length > MAX_NAME) throw this.#input.error('the pickle names a global at great length')
    const known = this.#rules.globals(`${module}.${name}`)
    if (known === undefined) throw this.#refusal(`${module}.${name}`)
    return known
  }

  #call(callee?: unknown, args?: unknown): unknown {
    if (!(callee instanceof PickleGlobal) || !Array.isArray(args) || args.length > MAX_ARGUMENTS)
      throw this.#input.error('the pickle calls what is no function')
    if (callee.call === undefined) throw this.#refusal(callee.name)
    return callee.call(...(args as unknown[]))
  }

  #build(state: unknown): void {
    const object = this.#top()
    if (object instanceof PickleObject) object.state = state
    // Attributes of an OrderedDict, such as the _metadata of a state dict, carry no weights.
    else if (!(object instanceof Map)) throw this.#input.error('the pickle sets attributes of what has none')
  }

  #refusal(name: string) {
    return damaged(
      this.#input.path,
      `refused: it pickles ${quoted(name)}, whose code would run when the file is loaded; only tensors and plain containers are read`,
      'Get the weights from a source that you trust, as safetensors or as a plain PyTorch state dict.',
    )
  }
}
