// Which classes there are, and each vendor's drawing of them as SVG or WebP.
// Names, keywords, groups: emojibase (Unicode's data). Drawings: @iconify-json/* and @lobehub/fluent-emoji-3d.
import { Buffer } from 'node:buffer'
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'

const require = createRequire(import.meta.url)
const groups = require('emojibase-data/meta/groups.json')

/** The order is the vendor's number in index.json. A family draws alike: it is held out together or not at all. */
export const VENDORS = [
  { id: 'noto', set: 'noto', family: 'noto' },
  { id: 'noto-v1', set: 'noto-v1', family: 'noto' },
  { id: 'twemoji', set: 'twemoji', family: 'twemoji' },
  { id: 'fluent-emoji', set: 'fluent-emoji', family: 'fluent' },
  { id: 'fluent-emoji-flat', set: 'fluent-emoji-flat', family: 'fluent' },
  { id: 'fluent-emoji-3d', family: 'fluent' },
  { id: 'fxemoji', set: 'fxemoji', family: 'fxemoji' },
  { id: 'streamline', set: 'streamline-emojis', family: 'streamline' },
  { id: 'emojione', set: 'emojione', family: 'emojione' },
]

const GROUPS = new Set(['smileys-emotion', 'animals-nature', 'food-drink', 'travel-places', 'activities', 'objects'])
const LEFT_OUT = new Set(['heart', 'emotion', 'time', 'other-object'])

// Firefox OS and Streamline name some drawings differently from Unicode.
const OTHER_NAMES = {
  fxemoji: {
    eggplant: 'aubergine',
    'hot-pepper': 'chilipepper',
    'ear-of-corn': 'earofmaize',
    panda: 'pandaface',
    wolf: 'wolfface',
    ewe: 'sheep',
    tiger: 'tigerside',
    leopard: 'leopardside',
    mouse: 'mouseside',
    cat: 'catside',
    dog: 'dogside',
    pig: 'pigside',
    rabbit: 'bunnyside',
    'rabbit-face': 'bunny',
    'pig-nose': 'pigsnout',
    hamster: 'hampster',
    'two-hump-camel': 'bactriancamel',
    camel: 'dromedarycamel',
    'spouting-whale': 'spurtingwhale',
    dragon: 'dragon',
    'dragon-face': 'dragonhead',
    'front-facing-baby-chick': 'frontfacingchick',
    dove: 'doveofpeace',
    bouquet: 'bouquetofflowers',
    'evergreen-tree': 'evergreen',
    'fallen-leaf': 'fallingleaf',
    'sheaf-of-rice': 'earofrice',
    'leaf-fluttering-in-wind': 'leaffluttering',
    'curry-rice': 'curryandrice',
    sake: 'sakebottleandcup',
    pizza: 'sliceofpizza',
    'fork-and-knife': 'forkknife',
    'fish-cake-with-swirl': 'fishcakeswirl',
    locomotive: 'steamlocomotive',
    'high-speed-train': 'highspeedtrain',
    'bullet-train': 'highspeedtrainbulletnose',
    'racing-car': 'racecar',
    'sport-utility-vehicle': 'recreationalvehicle',
    canoe: 'rowboat',
    house: 'housebuilding',
    houses: 'housebuildings',
    castle: 'europeancastle',
    'office-building': 'officebuilding',
    tennis: 'tennisball',
    'pool-8-ball': 'billiards',
    bullseye: 'directhit',
    't-shirt': 'mansshirt',
    'womans-clothes': 'womansshirt',
    necktie: 'tie',
    sunglasses: 'darksunglasses',
    'high-heeled-shoe': 'heels',
    'womans-boot': 'boot',
    'mans-shoe': 'mensshoe',
    'running-shoe': 'mensrunner',
    'womans-sandal': 'sandals',
    'gem-stone': 'gem',
    'pile-of-poo': 'poo',
    'face-with-medical-mask': 'medicalmask',
    'smiling-face-with-heart-eyes': 'hearteyes',
    'loudly-crying-face': 'sob',
    'face-screaming-in-fear': 'screamfear',
    'smiling-face-with-halo': 'halo',
    'smiling-face-with-horns': 'devilhorns',
    'enraged-face': 'pout',
    'grinning-face': 'grin',
    'alien-monster': 'alienmonster',
    'mobile-phone': 'cellphone',
    laptop: 'personalcomputer',
    headphone: 'headphone',
    locked: 'lock',
    unlocked: 'openlock',
  },
  streamline: {
    'hot-beverage': 'hot-beverage',
    'wine-glass': 'red-wine-glass',
    'enraged-face': 'pouting-face',
    'water-pistol': 'pistol',
  },
}

/** The file name of a class: `red-apple`. */
export const slug = (name) =>
  name
    .toLowerCase()
    .normalize('NFD')
    .replace(/[\u0300-\u036f]/g, '')
    .replace(/[’'“”!.,:()]/g, '')
    .replace(/&/g, 'and')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')

const bare = (hex) => hex.toLowerCase().replace(/-fe0f/g, '')

/** All classes: `{name, slug, hex, group, subgroup, keywords}`, in Unicode's order. */
export function classes() {
  return require('emojibase-data/en/data.json')
    .map((entry) => ({
      name: entry.label.toLowerCase().replaceAll('’', "'"),
      slug: slug(entry.label),
      hex: entry.hexcode,
      group: groups.groups[entry.group],
      subgroup: groups.subgroups[entry.subgroup],
      keywords: entry.tags ?? [],
    }))
    .filter(({ group, subgroup }) => GROUPS.has(group) && !LEFT_OUT.has(subgroup))
}

/** A function from a class to the vendor's drawing, as something that sharp reads, or null. */
export function drawer(vendor, size) {
  if (!vendor.set) {
    const folder = path.join(path.dirname(require.resolve('@lobehub/fluent-emoji-3d/package.json')), 'assets')
    return ({ hex }) => {
      const file = [hex.toLowerCase(), bare(hex), `${bare(hex)}-fe0f`]
        .map((n) => path.join(folder, `${n}.webp`))
        .find((f) => existsSync(f))
      return file ? readFileSync(file) : null
    }
  }
  const set = require(`@iconify-json/${vendor.set}/icons.json`)
  const characters = new Map(
    Object.entries(require(`@iconify-json/${vendor.set}/chars.json`)).map(([hex, name]) => [bare(hex), name]),
  )
  const find = (name) => set.icons[name] ?? set.icons[set.aliases?.[name]?.parent]
  return (entry) => {
    const other = OTHER_NAMES[vendor.id]?.[entry.slug]
    const joined = entry.slug.replaceAll('-', '')
    const candidates = [characters.get(bare(entry.hex)), other, entry.slug, `${entry.slug}-1`]
    if (vendor.id === 'fxemoji') candidates.push(joined, joined.replace(/face$/, ''))
    if (vendor.id === 'streamline') candidates.push(`${entry.slug}-face`, `${entry.slug}-face-1`)
    const icon = candidates.map((name) => name && find(name)).find(Boolean)
    if (!icon) return null
    const box = [icon.left ?? 0, icon.top ?? 0, icon.width ?? set.width ?? 16, icon.height ?? set.height ?? 16].join(
      ' ',
    )
    return Buffer.from(
      `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="${size}" height="${size}" viewBox="${box}">${icon.body}</svg>`,
    )
  }
}
