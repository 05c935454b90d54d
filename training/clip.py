"""One CLIP: an image tower (rn or vit) and a small text tower, trained together.

Each batch has every class at most once. In the first part, pictures compete with the captions of their batch. After that they
compete with the names of all classes too (embedded now and then, without gradient), and
- about half of the batches are perturbed, by one step up the loss inside a ball: of single pixels, or of a coarse grid, which
  is what a gradient through a decoder can do. Without that an edit finds pictures that mean the target to the network only;
- pictures are disguised by other colours: half, then a fifth, then none. A network that goes by colour has an edit change
  nothing else; one that knows shapes only has it smear colours, so the last part is short and gentle;
- some things are painted in a colour that the caption names, against captions that name another: the colour is then what counts.
With these from the beginning the network learns several times more slowly.
At last some pictures are moved as an edit would move them, by steps up the loss in the latent of the deep autoencoder: what such
steps can make is not yet what they are after, and a gradient that does not go astray there leads to better edits.
In the last parts things are painted in all the colours there are, flat ones too, and a red apple in others than red: neon magenta
is not what an edit takes for green any more.
"""
import os
import random

import torch
import torch.nn.functional as F

import data as pictures
import deep
from models import Autoencoder, Clip
from tokenizer import Tokenizer
from training import Run, bf16, save_whole, seed_everything

BATCH = 64
NAMES_EVERY = 50
RADIUS = {1: 3.0, 4: 6.0}  # side of a perturbation's cells -> largest L2 norm
DECODED = 2400
MOVED = 12  # pictures of a batch
COLOURS = {'red': (0.85, 0.12, 0.12), 'orange': (0.95, 0.55, 0.1), 'yellow': (0.97, 0.85, 0.2), 'green': (0.25, 0.65, 0.25),
           'blue': (0.2, 0.4, 0.85), 'purple': (0.55, 0.25, 0.75), 'pink': (0.97, 0.55, 0.7), 'brown': (0.5, 0.3, 0.15),
           'black': (0.12, 0.12, 0.12), 'white': (0.95, 0.95, 0.95), 'grey': (0.55, 0.55, 0.55)}
OTHER_COLOURS = 2  # false captions of a painted picture


def unit(x):
    return F.normalize(x.float(), dim=-1)


@torch.no_grad()
def decoded_pictures(data, autoencoder, file):
    """uint8 pictures as an edit shows them to the network, with a noisy latent, and their classes; kept in `file`."""
    if not os.path.exists(file):
        model = Autoencoder()
        model.load_state_dict(torch.load(autoencoder))
        out, rows = [], data.pack_train[torch.randint(len(data.pack_train), (DECODED,))]
        for j in rows.split(40):
            with bf16():
                z = model.encode(pictures.compose(data.pixels[j])).float()
                y = model.decode(z + 0.5 * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z))
            out.append((y.float().clamp(0, 1) * 255).byte())
        save_whole((torch.cat(out), data.label[rows]), file)
    return torch.load(file)


def jitter(x):
    n = len(x)
    return pictures.sample(x, pictures.uniform(n, 0.85, 1.1), pictures.uniform(n, -0.2, 0.2), torch.rand(n, 2) * 0.2 - 0.1,
                           pictures.signs(n), torch.ones(n), padding='reflection')


def any_such(names, candidates=2000):
    """For each name a colour of all that would be called so: nearer to it than to any other of COLOURS, beyond doubt."""
    drawn = torch.rand(candidates, 3)
    distances, order = torch.cdist(drawn, torch.tensor(list(COLOURS.values()))).sort(1)
    clear = distances[:, 0] < 0.75 * distances[:, 1]
    called = {name: drawn[clear & (order[:, 0] == i)] for i, name in enumerate(COLOURS)}
    return torch.stack([random.choice(called[name]) if len(called[name]) else torch.tensor(COLOURS[name]) for name in names])


def painted(rgba, names, freely=False):
    """uint8 [n, 4, h, w]: each thing in shades of one of COLOURS; `freely`: of any colour that is called so, and some flat."""
    x = rgba.float() / 255
    grey, alpha = x[:, :3].mean(1, keepdim=True), x[:, 3:]
    middle = (grey * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp(min=1)
    colour = any_such(names) if freely else torch.tensor([COLOURS[name] for name in names])
    shading = pictures.uniform(len(x), 0.0, 0.9)[:, None, None, None] if freely else 0.8
    return (torch.cat([(colour[:, :, None, None] + shading * (grey - middle)).clamp(0, 1), alpha], 1) * 255).byte()


def disguised(x, share, kept):
    """Some pictures, but none of `kept` ([n]), in other colours: channels mixed and bent, grey, or under a smooth field of colours."""
    n = len(x)
    order = torch.rand(n, 3).argsort(1)
    mixed = x.gather(1, order[:, :, None, None].expand_as(x)).clamp(1e-3, 1) ** torch.exp(0.7 * torch.randn(n, 3, 1, 1))
    field = F.interpolate(torch.rand(n, 3, 4, 4), size=pictures.SIZE, mode='bilinear', align_corners=False)
    grey = x.mean(1, keepdim=True)
    amount = pictures.uniform(n, 0.3, 1)[:, None, None, None]
    stained = (1 - amount) * x + amount * (grey + field - 0.5).clamp(0, 1)
    y = torch.where(pictures.some(n, 0.45), mixed, torch.where(pictures.some(n, 0.2), grey.expand_as(x), stained))
    return torch.where(pictures.some(n, share) & ~kept[:, None, None, None], y, x)


def lengths(x):
    """L2 norms of [n, …], to divide by."""
    return x.flatten(1).norm(dim=1)[:, None, None, None] + 1e-12


def perturbed(model, x, loss_of):
    """Pictures after one normalised step up `loss_of(embeddings)`, from a random start, radii drawn per picture."""
    cell = random.choice(list(RADIUS))
    grow = lambda d: F.interpolate(d, scale_factor=float(cell), mode='bilinear', align_corners=False) if cell > 1 else d
    radius = RADIUS[cell] * torch.rand(len(x), 1, 1, 1)
    start = grow(torch.randn(len(x), 3, x.shape[2] // cell, x.shape[3] // cell))
    d = (start / lengths(start) * radius * 0.5).requires_grad_()
    model.eval()
    with bf16():
        image = model.encode_image(x + d)
    g, = torch.autograd.grad(loss_of(unit(image)), d)
    model.train()
    if cell > 1:
        g = grow(F.avg_pool2d(g, cell))
    d = d.detach() + g / lengths(g) * radius
    return (x + d * (radius / lengths(d)).clamp(max=1)).clamp(0, 1)


def moved(model, autoencoder, x, loss_of, steps, distance):
    """Pictures as an edit would make them: their latents after normalised steps up `loss_of(embeddings)`, from a random start,
    inside a ball whose radius is drawn per picture, up to `distance` norms of its latent."""
    with torch.no_grad(), bf16():
        z = autoencoder.encode(x).float()
    radius = distance * torch.rand(len(x), 1, 1, 1) * lengths(z)
    start = torch.randn_like(z)
    d = start / lengths(start) * radius * 0.3
    model.eval()
    for _ in range(steps):
        d.requires_grad_()
        with bf16():
            image = model.encode_image(autoencoder.decode(z + d))
        g, = torch.autograd.grad(loss_of(unit(image)), d)
        d = d.detach() + g / lengths(g) * radius * 2 / steps
        d = d * (radius / lengths(d)).clamp(max=1)
    model.train()
    with torch.no_grad(), bf16():
        return autoencoder.decode(z + d).float().clamp(0, 1)


def retrieval(model, data, prompts, rows):
    """Top-1 and top-5 of the name among all classes, on plain drawings."""
    model.eval()
    with torch.no_grad():
        text = unit(model.encode_text(prompts))
        hits = torch.cat([(unit(model.encode_image(pictures.plain(data.pixels[j]))) @ text.T).topk(5)[1] == data.label[j, None]
                          for j in rows.split(64)]).float()
    return f'unseen vendor: {hits[:, 0].mean():.3f} top-1, {hits.sum(1).mean():.3f} top-5'


def has_colour(name):
    return any(word in COLOURS for word in name.split())


def in_colour(name, colour):
    """The name, with this colour in place of its own or before it."""
    return ' '.join(colour if word in COLOURS else word for word in name.split()) if has_colour(name) else f'{colour} {name}'


def train(data, weights, name, steps, start, peak, robust, disguise, paint, seed, move=None, repaint=0.0):
    """Leaves `weights/NAME.pt`, NAME being clip-KIND and maybe more. `start`: weights to go on from, or None; `robust`: share of
    batches that are perturbed, 0: the first part; `disguise`, `paint`: shares of pictures that are disguised and painted;
    `move`: number of steps and largest distance of pictures that are moved in the latent, in place of decoded ones, or None;
    `repaint`: share of things with a colour in their name that are painted too; above 0, all are painted freely."""
    kind = name.split('-')[1]
    tokenizer = Tokenizer(f'{weights}/merges.txt')
    names = tokenizer([c['name'] for c in data.classes])
    seed_everything(seed)
    model = Clip(kind, len(tokenizer.vocabulary))
    if start:
        model.load_state_dict(start)
    model.visual.to(memory_format=torch.channels_last)
    decoded_of, editor = {}, None
    if move:
        editor = Autoencoder(deep.LEVELS).requires_grad_(False)
        editor.load_state_dict(torch.load(f'{weights}/deep.pt'))
        editor.to(memory_format=torch.channels_last)
    else:
        decoded, decoded_label = decoded_pictures(data, f'{weights}/autoencoder-part-1.pt', f'{weights}/decoded.pt')
        for i, c in enumerate(decoded_label.tolist()):
            decoded_of.setdefault(c, []).append(i)
    rows_of = data.of_class(data.pack_train)
    classes = sorted(rows_of)
    coloured = [has_colour(c['name']) for c in data.classes]

    def report(state):
        check = Clip(kind, len(tokenizer.vocabulary))
        check.load_state_dict(state)
        return retrieval(check, data, names, data.unseen[::3])

    own, bank = torch.arange(BATCH), None
    run = Run(f'{weights}/{name}.pt', model, steps, peak, seed, decay=0.1, betas=(0.9, 0.98), report=report)
    for step in run:
        if robust > 0 and (bank is None or step % NAMES_EVERY == 0):
            with torch.no_grad():
                bank = unit(model.encode_text(names))
        chosen = random.sample(classes, BATCH)
        pixels = data.pixels[[random.choice(rows_of[c]) for c in chosen]]
        share = lambda c: repaint if coloured[c] else paint
        colours = {b: random.sample(list(COLOURS), 1 + OTHER_COLOURS) for b, c in enumerate(chosen)
                   if share(c) > 0 and random.random() < share(c)}
        if colours:
            pixels[list(colours)] = painted(pixels[list(colours)], [first for first, *_ in colours.values()], freely=repaint > 0)
        x = pictures.compose(pixels, degrees=15, scale=(0.75, 1.15))
        use = [(b, random.choice(decoded_of[c])) for b, c in enumerate(chosen)
               if b not in colours and c in decoded_of and random.random() < 0.3]
        if use:
            rows, which = zip(*use)
            x[list(rows)] = jitter(decoded[list(which)].float() / 255)
        coloured_name = lambda b, colour: in_colour(data.classes[chosen[b]]['name'], colour)
        captions = [random.choice(pictures.TEMPLATES).format(coloured_name(b, colours[b][0])) if b in colours
                    else pictures.caption(data.classes[c]) for b, c in enumerate(chosen)]
        false_captions = [coloured_name(b, colour) for b in colours for colour in colours[b][1:]]
        with bf16():
            candidates = unit(model.encode_text(tokenizer(captions + false_captions)))
        text = candidates[:BATCH]
        if robust > 0:
            others = bank.clone()
            others[chosen] = 0  # the batch has their captions
            if repaint > 0:  # and a red apple that is painted green has that of a green apple
                made = {coloured_name(b, first) for b, (first, *_) in colours.items()}
                others[[c for c, described in enumerate(data.classes) if described['name'] in made]] = 0
            candidates = torch.cat([candidates, others])
        scale = model.logit_scale.clamp(max=4.6).exp()
        smooth = lambda logits: F.cross_entropy(logits, own, label_smoothing=0.05)
        if disguise > 0:
            kept = torch.tensor([b in colours or (paint > 0 and coloured[c]) for b, c in enumerate(chosen)])
            x = disguised(x, disguise, kept)
        x = x.contiguous(memory_format=torch.channels_last)
        up = lambda count: lambda image: F.cross_entropy(scale.detach() * image @ candidates.detach().T, own[:count])
        if random.random() < robust:
            x = perturbed(model, x, up(BATCH))
        if editor:
            x[:MOVED] = moved(model, editor, x[:MOVED], up(MOVED), *move)
        with bf16():
            image = unit(model.encode_image(x))
        run.descend((smooth(scale * image @ candidates.T) + smooth(scale * text @ image.T)) / 2)
