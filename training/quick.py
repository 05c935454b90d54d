"""A quick look at a pack while training: edits of some development queries in PyTorch, judged. Not the product's engine.

usage: quick.py PACK DATA WEIGHTS EVALUATION [COUNT] [name=value …]   (values as in pack.json's defaults; WEIGHTS: of the judge)
"""
import csv
import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import judge as judging
from data import Data
from models import Autoencoder, Clip, Vgg, lpips
from safetensors_io import load
from tokenizer import Tokenizer
from training import bf16, seed_everything

BATCH = 10
SHEET = 20


def unit(x):
    return F.normalize(x.float(), dim=-1)


def views(x, count):
    """Random rotation, resized crop and flip of each picture: [n * count, 3, H, W]."""
    n = len(x) * count
    uniform = lambda a, b: a + (b - a) * torch.rand(n)
    angle, area, ratio = uniform(-10, 10) * math.pi / 180, uniform(0.8, 1).sqrt(), torch.exp(uniform(-0.5, 0.5) * math.log(1.1))
    w, h, flip = (area * ratio).clamp(max=1), (area / ratio).clamp(max=1), torch.randint(0, 2, (n,)) * 2.0 - 1
    m = torch.zeros(n, 2, 3)
    m[:, 0, 0], m[:, 0, 1], m[:, 0, 2] = w * angle.cos() * flip, -h * angle.sin(), uniform(-1, 1) * (1 - w)
    m[:, 1, 0], m[:, 1, 1], m[:, 1, 2] = w * angle.sin() * flip, h * angle.cos(), uniform(-1, 1) * (1 - h)
    x = x.repeat_interleave(count, 0)
    return F.grid_sample(x, F.affine_grid(m, x.shape, align_corners=False), padding_mode='reflection', align_corners=False)


class Editor:
    def __init__(self, folder, changes):
        manifest = json.load(open(f'{folder}/pack.json', encoding='utf-8'))
        self.parameters = manifest['defaults'] | changes
        self.tokenizer = Tokenizer(f"{folder}/{manifest['tokenizer']['merges']}")
        self.autoencoder, self.vgg, self.clips = Autoencoder(), Vgg(), []
        self.autoencoder.load_state_dict(load(f"{folder}/{manifest['autoencoder']['weights']}"))
        self.vgg.load_state_dict(load(f"{folder}/{manifest['perceptual']['weights']}"))
        for entry in manifest['clip']:
            if entry['name'] in self.parameters.get('networks', [entry['name']]):
                clip = Clip(entry['name'], manifest['tokenizer']['vocabularySize'])
                clip.load_state_dict(load(f"{folder}/{entry['weights']}"))
                self.clips.append(clip.eval())
        for network in (self.autoencoder, self.vgg, *self.clips):
            network.requires_grad_(False)

    def __call__(self, x0, source, target, snapshots):
        p, n = self.parameters, len(x0)
        text = lambda clip, texts: unit(clip.encode_text(self.tokenizer(texts)))
        aims = [text(c, target) + p['lambdaI'] * unit(c.encode_image(x0)) - p['lambdaS'] * text(c, source) for c in self.clips]
        z0 = self.autoencoder.encode(x0)
        z, size = z0.clone(), z0.flatten(1).norm(dim=1)[:, None, None, None]
        latent_size = z0.pow(2).sum(1).sqrt().sum((1, 2))
        out = {}
        for step in range(p['steps'] + 1):
            z.requires_grad_()
            with bf16():
                x = self.autoencoder.decode(z)
            x = x.float()
            if step in snapshots or step == p['steps']:
                out[step] = x.detach()
            if step == p['steps']:
                return out
            with bf16():
                loss = p['lambdaP'] * lpips(self.vgg, x, x0)
                loss = loss + p['lambdaZ'] * ((z - z0).pow(2).sum(1) + 1e-12).sqrt().sum((1, 2)) / latent_size
                for clip, aim in zip(self.clips, aims):
                    seen = unit(clip.encode_image(views(x, p['views']))).unflatten(0, (n, -1)).mean(1)
                    loss = loss - (seen * aim).sum(1) / len(self.clips)
            g, = torch.autograd.grad(loss.sum(), z)
            z = z.detach() - p['learningRate'] * size * g / g.flatten(1).norm(dim=1)[:, None, None, None]


def read(path):
    return torch.from_numpy(np.asarray(Image.open(path).convert('RGB')).copy()).permute(2, 0, 1) / 255


def main(pack, data, weights, evaluation, count=60, *changes):
    changes = dict(c.split('=') for c in changes)
    sheet, seed = changes.pop('sheet', None), int(changes.pop('seed', 0))
    changes = {k: v.split('+') if k == 'networks' else json.loads(v) for k, v in changes.items()}
    data = Data(data)
    judge, trunk = judging.Judge(len(data.classes)), judging.Trunk(len(data.classes))
    judge.load_state_dict(torch.load(f'{weights}/judge.pt'))
    names = [c['name'] for c in data.classes]
    editor = Editor(pack, changes)
    rows = list(csv.DictReader(open(f'{evaluation}/queries-dev.csv', encoding='utf-8')))
    rows = sorted(rows, key=lambda r: hash_of(r))[:int(count)]
    x0 = torch.stack([read(f"{evaluation}/images/{r['image']}") for r in rows])
    references = list(csv.DictReader(open(f'{evaluation}/references.csv', encoding='utf-8')))
    seed_everything(seed)
    snapshots = [k for k in (16, 32, 64) if k < editor.parameters['steps']]
    parts = []
    for i in range(0, len(rows), BATCH):
        r = rows[i:i + BATCH]
        parts.append(editor(x0[i:i + BATCH], [q['source'] for q in r], [q['target'] for q in r], snapshots))
    with torch.no_grad():
        columns = {'copy': x0, 'encode': editor.autoencoder.decode(editor.autoencoder.encode(x0))}
        columns |= {f'step {k}': torch.cat([p[k] for p in parts]) for k in parts[0]}
        pool = {}
        for q in references:
            if q['split'] == 'validation':
                pool.setdefault(q['label'], []).append(q['image'])
        columns['retrieve'] = torch.stack([read(f"{evaluation}/images/{pool[q['target']][k % len(pool[q['target']])]}") for k, q in enumerate(rows)])
        wanted = torch.tensor([names.index(q['target']) for q in rows])
        judge.eval()
        right = {}
        for name, x in columns.items():
            logits = judge((x - judging.MEAN) / judging.STD)[0][:, data.evaluated]
            answer = data.evaluated[logits.argmax(1)]
            top5 = (data.evaluated[logits.topk(5)[1]] == wanted[:, None]).any(1)
            right[name] = answer == wanted
            chosen = data.evaluated == wanted[:, None]
            sure = logits.log_softmax(1)[chosen]
            print(f'{name}: accuracy {right[name].float().mean():.3f} top-5 {top5.float().mean():.3f} log p {sure.mean():.2f} '
                  f'LPIPS {lpips(editor.vgg, x, x0).mean():.3f} (of the loss)', flush=True)
    if sheet:
        side = 96
        picture = Image.new('RGB', (side * len(columns), side * min(SHEET, len(rows))), 'white')
        for c, x in enumerate(columns.values()):
            for r in range(min(SHEET, len(rows))):
                tile = Image.fromarray((x[r].clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype('uint8')).resize((side, side), Image.BICUBIC)
                picture.paste(tile, (c * side, r * side))
        picture.save(sheet)
        for r, q in enumerate(rows[:SHEET]):
            print(r, q['source'], '->', q['target'], *(int(right[c][r]) for c in columns))


def hash_of(row):
    from queries import order
    return order('quick', row['image'], row['target'])


if __name__ == '__main__':
    torch.set_num_threads(1)
    main(*sys.argv[1:])
