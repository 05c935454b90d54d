"""Pictures and captions: rendered drawings composed on random backgrounds, names and keywords as text."""
import math
import random

import numpy as np
import torch
import torch.nn.functional as F

from queries import UNSEEN, Drawings

SIZE = 64
TEMPLATES = ('{}', '{}', '{}', 'a {}', 'an emoji of a {}', 'a picture of a {}', 'a drawing of a {}', 'a photo of a {}', 'the {}')


class Data:
    """All drawings of a data folder, and who may learn from which."""

    def __init__(self, folder):
        drawings = Drawings(folder)
        self.folder, self.classes, self.vendors = folder, drawings.classes, drawings.vendors
        index = np.array(drawings.index['drawings'])
        side = drawings.index['size']
        pixels = np.memmap(f'{folder}/pixels.bin', np.uint8, 'r').reshape(len(index), side, side, 4)
        self.pixels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        self.vendor, self.label = torch.from_numpy(index[:, 0].copy()), torch.from_numpy(index[:, 1].copy())
        unseen_vendor = [v['id'] for v in self.vendors].index(UNSEEN)
        split = np.array([drawings.split(v, c) for v, c in index])
        rows = lambda chosen: torch.from_numpy(chosen.nonzero()[0])
        self.validation = rows(split == 'validation')
        self.judge_train = rows(split != 'validation')
        self.pack_train = rows((split == 'train') & (index[:, 0] != unseen_vendor))
        self.unseen = (self.vendor == unseen_vendor).nonzero()[:, 0]
        self.evaluated = torch.tensor(sorted(drawings.held_out))

    def of_class(self, rows):
        """Class -> its rows."""
        out = {}
        for i in rows.tolist():
            out.setdefault(self.label[i].item(), []).append(i)
        return out


def caption(entry):
    """Mostly the name, sometimes with keywords, sometimes keywords alone."""
    u, tags = random.random(), entry['keywords']
    if u < 0.65 or not tags:
        return random.choice(TEMPLATES).format(entry['name'])
    if u < 0.85:
        return entry['name'] + ', ' + random.choice(tags)
    text = ' '.join(random.sample(tags, min(len(tags), 3)))
    return text + ' ' + entry['name'].split()[-1] if random.random() < 0.5 else text

def hsv(h, s, v):
    k = (torch.tensor([5.0, 3.0, 1.0]) + h[:, None] * 6) % 6
    return v[:, None] - (v * s)[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def backgrounds(n, white=0.45):
    """White or nearly white, one colour, or a linear gradient of two."""
    colour = lambda h: hsv(h, torch.rand(n) * 0.6, 0.45 + 0.55 * torch.rand(n))
    u, h = torch.rand(n), torch.rand(n)
    a, b = colour(h), colour((h + 0.2 * torch.randn(n)) % 1)
    off_white = 1 - 0.06 * torch.rand(n, 1) * (torch.rand(n, 1) < 0.5)
    a = torch.where((u < white)[:, None], off_white.expand(n, 3), a)
    b = torch.where((u < (1 + white) / 2)[:, None], a, b)
    angle = (torch.rand(n) * 2 * math.pi)[:, None, None]
    line = torch.linspace(-0.5, 0.5, SIZE)
    t = (angle.cos() * line[None, None, :] + angle.sin() * line[None, :, None] + 0.5).clamp(0, 1)[:, None]
    return a[:, :, None, None] * (1 - t) + b[:, :, None, None] * t


def sample(x, scale, angle, shift, flip, aspect, padding='zeros'):
    """Affine resampling to SIZE x SIZE; one value of each parameter per picture."""
    n = len(x)
    m = torch.zeros(n, 2, 3)
    m[:, 0, 0], m[:, 0, 1] = scale * aspect * angle.cos() * flip, -scale * aspect * angle.sin()
    m[:, 1, 0], m[:, 1, 1] = scale / aspect * angle.sin() * flip, scale / aspect * angle.cos()
    m[:, :, 2] = shift
    grid = F.affine_grid(m, (n, x.shape[1], SIZE, SIZE), align_corners=False)
    return F.grid_sample(x, grid, padding_mode=padding, align_corners=False)


def uniform(n, low, high):
    return low + (high - low) * torch.rand(n)


def some(n, share):
    """Which of n pictures: [n, 1, 1, 1]."""
    return torch.rand(n, 1, 1, 1) < share


def signs(n):
    return torch.randint(0, 2, (n,)) * 2.0 - 1


def compose(rgba, degrees=12, scale=(0.8, 1.12), white=0.45):
    """uint8 [n, 4, 96, 96] -> random views [n, 3, 64, 64] in [0, 1]: placed, colour-jittered, on a background."""
    n = len(rgba)
    x = rgba.float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)  # premultiplied
    angle = uniform(n, -degrees, degrees) * math.pi / 180
    x = sample(x, 1 / uniform(n, *scale), angle, torch.rand(n, 2) * 0.24 - 0.12,
               signs(n), torch.exp(0.08 * torch.randn(n)))
    alpha = x[:, 3:]
    colour = x[:, :3] / alpha.clamp(min=1e-3)
    each = lambda amount, channels=1: 1 + amount * (torch.rand(n, channels, 1, 1) * 2 - 1)
    grey = colour.mean(1, keepdim=True)
    colour = grey + (colour - grey) * each(0.25)
    colour = ((colour - 0.5) * each(0.2) + 0.5) * each(0.15) * each(0.06, 3)
    return (colour.clamp(0, 1) * alpha + backgrounds(n, white) * (1 - alpha)).clamp(0, 1)


def plain(rgba):
    """The deterministic view: upright, 92 % of the side, on white."""
    n = len(rgba)
    x = rgba.float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)
    one = torch.ones(n)
    x = sample(x, one / 0.92, one * 0, torch.zeros(n, 2), one, one)
    return (x[:, :3] + 1 - x[:, 3:]).clamp(0, 1)
