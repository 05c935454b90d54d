"""The autoencoder: reconstruct through the soft clamp, with noise on the latent.

A little noise at first. Then as much as an edit moves the latent: the decoder learns to make a clean drawing of what is
near one, and so smears less under an edit; it costs next to no sharpness.

Losses in [0, 1] image space: L1, gradients, 8 x 8 means, chroma, squared error, LPIPS; a hinge on latent power above 1 and
on outputs beyond 1.15, where the soft clamp has hardly any slope left.
"""
import torch
import torch.nn.functional as F

import data as pictures
from models import Autoencoder, Vgg, lpips_of_taps, soft_clamp
from training import Run, bf16, seed_everything

BATCH = 16


def differences(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def pixel_loss(y, x):
    e = y - x
    return (e.abs().mean() + e.pow(2).mean()
            + 0.5 * sum((a - b).abs().mean() for a, b in zip(differences(y), differences(x)))
            + 0.5 * F.avg_pool2d(e, 8).abs().mean()
            + 0.5 * (e - e.mean(1, keepdim=True)).abs().mean())


def hinges(z, u):
    return 0.05 * F.relu(z.pow(2).mean((0, 2, 3)) - 1).mean() + 0.05 * F.relu(u.abs() - 1.15).pow(2).mean()


def batch_of(data):
    return pictures.compose(data.pixels[data.pack_train[torch.randint(len(data.pack_train), (BATCH,))]])


def amounts(n):
    return torch.rand(n, 1, 1, 1)


def reporter(data, levels=4):
    held_out = pictures.plain(data.pixels[data.unseen[::8]])

    def report(state):
        check = Autoencoder(levels)
        check.load_state_dict(state)
        with torch.no_grad():
            error = torch.cat([(check.decode(check.encode(x)) - x).pow(2).mean((1, 2, 3)) for x in held_out.split(32)])
        return f'unseen vendor: {(-10 * error.log10()).mean():.2f} dB'

    return report


def train(data, weights, name, steps, start, peak, noise, seed):
    """Leaves `weights/NAME.pt`. `start`: weights to go on from, or None; `noise`: largest standard deviation on a latent of about 1."""
    seed_everything(seed)
    model, vgg = Autoencoder(), Vgg().requires_grad_(False)
    if start:
        model.load_state_dict(start)
    vgg.load_state_dict(torch.load(f'{weights}/vgg16.pt'))
    run = Run(f'{weights}/{name}.pt', model, steps, peak, seed, decay=1e-4, betas=(0.9, 0.98), report=reporter(data))
    for _ in run:
        x = batch_of(data)
        with bf16():
            z = model.encode(x).float()
            u = model.raw(z + noise * torch.randn_like(z) * amounts(BATCH).sqrt()).float()
        y = soft_clamp(u)
        run.descend(pixel_loss(y, x) + 0.2 * lpips_of_taps(vgg.taps(y), vgg.taps(x)).mean() + hinges(z, u))
