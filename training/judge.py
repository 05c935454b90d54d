"""The judge of the evaluation: a classifier, and a perceptual distance over a trunk of its own. Never part of an edit.

Unlike the pack's networks: a pre-activation residual network with SiLU and 5 x 5 depth-first stem, another seed, EmojiOne
among its drawings, and augmentations of its own: cut-outs, blurs and noise; for the classifier, other colours, textures,
outlines and bent shapes too, without which it goes by colour. What it may not see are the validation drawings.
"""
import hashlib
import inspect
import json
import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F

import data as pictures
from training import Run, bf16, seed_everything

MEAN, STD = 0.5, 0.3
WIDTHS = (32, 48, 96, 192, 256)
TRUNK = ((24, 7, 2), (48, 5, 2), (96, 3, 1), (64, 3, 1), (64, 3, 1))  # channels, kernel, stride: AlexNet's shape


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.n1, self.c1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.n2, self.c2 = nn.BatchNorm2d(cout), nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x):
        return self.shortcut(x) + self.c2(F.silu(self.n2(self.c1(F.silu(self.n1(x))))))


class Judge(nn.Module):
    """Normalised images [N, 3, 64, 64] -> (logits, features)."""

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2, 2)
        strides = (1, 2, 2, 2)
        self.blocks = nn.Sequential(*(Block(a, b, s) for a, b, s in zip(WIDTHS, WIDTHS[1:], strides)))
        self.norm, self.head = nn.BatchNorm2d(WIDTHS[-1]), nn.Linear(WIDTHS[-1], classes)

    def forward(self, x):
        features = F.silu(self.norm(self.blocks(self.stem(x)))).mean((2, 3))
        return self.head(F.dropout(features, 0.2, self.training)), features


class Trunk(nn.Module):
    """AlexNet's shape for 64 x 64 pictures; a classifier while it learns, five taps for the distance."""

    def __init__(self, classes):
        super().__init__()
        cin, self.convolutions = 3, nn.ModuleList()
        self.norms = nn.ModuleList()
        for cout, kernel, stride in TRUNK:
            self.convolutions.append(nn.Conv2d(cin, cout, kernel, stride, kernel // 2))
            self.norms.append(nn.BatchNorm2d(cout))
            cin = cout
        self.head = nn.Linear(cin, classes)

    def taps(self, x):
        out = []
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            if i == 2:
                x = F.max_pool2d(x, 3, 2, 1)
            x = F.relu(norm(convolution(x)))
            out.append(x)
        return out

    def forward(self, x):
        x = self.taps(x)[-1].mean((2, 3))
        return self.head(F.dropout(x, 0.2, self.training)), x


class Distance(nn.Module):
    """Two batches of images in [0, 1] -> LPIPS-like distances [N], every channel weighing the same."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, a, b):
        unit = lambda x: x * (x.pow(2).sum(1, keepdim=True) + 1e-10).rsqrt()
        pairs = zip(self.trunk.taps((a - MEAN) / STD), self.trunk.taps((b - MEAN) / STD))
        return sum((unit(p) - unit(q)).pow(2).sum(1).mean((1, 2)) for p, q in pairs) / len(TRUNK)


YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
SOBEL = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])


def bent(x, strength):
    """At full strength half of the pictures, along a smooth random field."""
    n = len(x)
    field = F.interpolate(torch.randn(n, 2, 4, 4), size=pictures.SIZE, mode='bicubic', align_corners=False).permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), x.shape, align_corners=False) + 0.06 * torch.rand(n, 1, 1, 1) * field
    return torch.where(pictures.some(n, 0.5 * strength), F.grid_sample(x, grid, padding_mode='reflection', align_corners=False), x)


def textured(x, strength, parts=4):
    """Random convolutions, with the contrast that was there; one for a part of the batch (arXiv:2007.13003)."""
    out = []
    for part in x.chunk(parts):
        if torch.rand(()) < 0.3 * strength:
            k = (1, 3, 5)[torch.randint(3, ()).item()]
            y = F.conv2d(F.pad(part - 0.5, (k // 2,) * 4, mode='replicate'), torch.randn(3, 3, k, k) / math.sqrt(3 * k * k))
            y = y / (y.std((1, 2, 3), keepdim=True) + 1e-3) * part.std((1, 2, 3), keepdim=True) + 0.5
            kept = torch.rand(len(part), 1, 1, 1)
            part = (kept * part + (1 - kept) * y).clamp(0, 1)
        out.append(part)
    return torch.cat(out)


def outlined(x, strength):
    """Some pictures as dark outlines, or with them."""
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode='replicate')
    edges = F.conv2d(grey, torch.stack([SOBEL, SOBEL.T])[:, None]).pow(2).sum(1, keepdim=True).sqrt()
    lines = (1 - (edges * (0.5 + torch.rand(len(x), 1, 1, 1))).clamp(0, 1)).expand_as(x)
    y = torch.where(pictures.some(len(x), 0.5), lines, (x + lines - 1).clamp(0, 1))
    return torch.where(pictures.some(len(x), 0.12 * strength), y, x)


def recoloured(x, strength):
    """Other hues and saturations, some as negatives: at full strength two pictures of five."""
    n = len(x)
    angle, saturation = torch.rand(n) * 2 * math.pi, torch.rand(n) * 1.4
    turn = torch.zeros(n, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = saturation * angle.cos(), -saturation * angle.sin()
    turn[:, 2, 1], turn[:, 2, 2] = saturation * angle.sin(), saturation * angle.cos()
    y = torch.einsum('nij,njhw->nihw', torch.linalg.inv(YIQ) @ turn @ YIQ, x).clamp(0, 1)
    y = torch.where(pictures.some(n, 0.15), 1 - y, y)
    return torch.where(pictures.some(n, 0.4 * strength), y, x)


def worn(x):
    """Noise, blur, cut-outs and washed-out colours: neither texture nor one detail is to decide."""
    n = len(x)
    x = x + 0.1 * torch.randn_like(x) * torch.rand(n, 1, 1, 1) * pictures.some(n, 0.4)
    blurred = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode='bilinear', align_corners=False)
    blurred = torch.where(pictures.some(n, 0.3), F.avg_pool2d(blurred, 3, 1, 1), blurred)
    x = torch.where(pictures.some(n, 0.35), blurred, x)
    side = torch.arange(pictures.SIZE)
    inside = lambda centre: (side[None] - centre[:, None]).abs() < 10
    hole = inside(torch.randint(64, (n,)))[:, None, :, None] & inside(torch.randint(64, (n,)))[:, None, None, :]
    return torch.where(hole & pictures.some(n, 0.3), torch.rand(n, 3, 1, 1), x)


def accuracy(model, data, rows):
    """On plain drawings: (arg max among the evaluated classes, among all classes); rows of evaluated classes only."""
    model.eval()
    rows = rows[torch.isin(data.label[rows], data.evaluated)]
    with torch.no_grad():
        logits = torch.cat([model((pictures.plain(data.pixels[j]) - MEAN) / STD)[0] for j in rows.split(64)])
    among = data.evaluated[logits[:, data.evaluated].argmax(1)]
    return [(answer == data.label[rows]).float().mean().item() for answer in (among, logits.argmax(1))]


def train(data, weights, name, steps, start, peak, strength, seed, batch=64):
    """Leaves `weights/NAME.pt`, a judge's or a trunk's. `start`: weights to go on from, or None; `strength` of what disguises the
    pictures."""
    make = lambda: (Trunk if name.startswith('trunk') else Judge)(len(data.classes))
    evaluated = data.judge_train[torch.isin(data.label[data.judge_train], data.evaluated)]

    def report(state):
        model = make()
        model.load_state_dict(state)
        return 'validation accuracy {:.3f}, among all {:.3f}'.format(*accuracy(model, data, data.validation))

    seed_everything(seed)
    model = make().to(memory_format=torch.channels_last)
    if start:
        model.load_state_dict(start)
    run = Run(f'{weights}/{name}.pt', model, steps, peak, seed, decay=0.05, clip=2.0, save_every=400, report=report)
    for _ in run:
        pick = lambda rows, count: rows[torch.randint(len(rows), (count,))]
        j = torch.cat([pick(data.judge_train, batch // 4), pick(evaluated, batch - batch // 4)])
        x = pictures.compose(data.pixels[j], degrees=20, scale=(0.7, 1.2), white=0.6)
        if strength > 0:
            for disguise in (bent, textured, outlined, recoloured):
                x = disguise(x, strength)
        x = worn(x)
        with bf16():
            logits, _ = model(((x - MEAN) / STD).contiguous(memory_format=torch.channels_last))
        run.descend(F.cross_entropy(logits.float(), data.label[j], label_smoothing=0.1))


class Half(nn.Module):
    """A network that keeps its convolutions in float16 and computes in float32; BatchNorm and biases stay float32."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.names = [name for name, p in inner.named_parameters() if p.dim() > 1]
        for i, name in enumerate(self.names):
            owner, leaf = inner.get_submodule(name.rsplit('.', 1)[0]), name.rsplit('.', 1)[1]
            self.register_buffer(f'w{i}', getattr(owner, leaf).detach().half())
            delattr(owner, leaf)

    def forward(self, *inputs):
        for i, name in enumerate(self.names):
            owner, leaf = self.inner.get_submodule(name.rsplit('.', 1)[0]), name.rsplit('.', 1)[1]
            setattr(owner, leaf, getattr(self, f'w{i}').float())
        return self.inner(*inputs)


def export_network(model, example, path, inputs, outputs):
    # From 2.9 on PyTorch exports in another way unless told not to, which wants more packages.
    traced = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    torch.onnx.export(Half(model.eval()), example, path, input_names=inputs, output_names=outputs, opset_version=17,
                      do_constant_folding=False, dynamic_axes={name: {0: 'N'} for name in inputs + outputs}, **traced)
    content = open(path, 'rb').read()
    return {'file': os.path.basename(path), 'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)}


def export(data, weights, folder):
    """weights/judge.pt and trunk.pt, which must be there -> folder/judge.onnx, lpips.onnx, judge.json."""
    judge, trunk = Judge(len(data.classes)), Trunk(len(data.classes))
    for name, model in (('judge', judge), ('trunk', trunk)):
        model.load_state_dict(torch.load(f'{weights}/{name}.pt'))
    os.makedirs(folder, exist_ok=True)
    del trunk.head
    side = pictures.SIZE
    image = torch.rand(2, 3, side, side)
    classifier = export_network(judge, (image,), f'{folder}/judge.onnx', ['image'], ['logits', 'features'])
    distance = export_network(Distance(trunk), (image, 1 - image), f'{folder}/lpips.onnx', ['a', 'b'], ['distance'])
    manifest = {
        'format': 1,
        'classifier': classifier | {
            'input': 'image', 'size': side, 'mean': [MEAN] * 3, 'std': [STD] * 3, 'logits': 'logits', 'features': 'features',
            'feature_size': WIDTHS[-1], 'labels': [c['name'] for c in data.classes]},
        'lpips': distance | {'inputs': ['a', 'b'], 'size': side, 'range': [0, 1], 'output': 'distance'},
        'licence': "the project's own; the attributions below must travel with the weights",
        'attribution': json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'attribution.json'), encoding='utf-8')),
    }
    json.dump(manifest, open(f'{folder}/judge.json', 'w', encoding='utf-8'), indent=1, ensure_ascii=False)
