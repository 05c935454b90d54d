"""The deep autoencoder: one level more than the pack's, so that a latent has room for little but drawings. No part of the pack:
the CLIPs learn through it what an edit can make of a picture.

It goes on from the pack's, with a critic that tells drawings from what the decoder makes: of latents with noise, and of
mixtures of two, so that what is decoded where no drawing has its latent looks drawn all the same.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from autoencoder import BATCH, amounts, batch_of, hinges, pixel_loss, reporter
from models import VGG_WIDTHS, Autoencoder, Vgg, lpips_of_taps, soft_clamp
from training import Run, bf16, only, seed_everything

LEVELS = 5
MIXED = 8  # mixtures, beside the pictures of a batch
WARM_UP = 800  # steps until all of the noise is there
CRITIC_WEIGHT = 0.02


class Critic(nn.Module):
    """Maps of how drawn a picture looks, in patches of several sizes: over the trunk's taps, and over pixels."""

    def __init__(self, width=64, slope=0.2):
        super().__init__()
        relu = lambda: nn.LeakyReLU(slope)
        head = lambda c: nn.Sequential(nn.Conv2d(c, width, 1), relu(), nn.Conv2d(width, width, 3, padding=1), relu(),
                                       nn.Conv2d(width, 1, 1))
        taps = [VGG_WIDTHS[i - 1] for i, w in enumerate(VGG_WIDTHS) if w == 'M']
        self.heads = nn.ModuleList(head(c) for c in taps[1:])
        widths = (3, 32, 64, 96)
        down = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Conv2d(a, b, 4, 2, 1), relu())]
        self.patch = nn.Sequential(*down, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x, taps):
        return [self.patch(x * 2 - 1).float(), *(head(tap).float() for head, tap in zip(self.heads, taps[1:]))]


def train(data, weights, name, steps, start, peak, noise, seed, critic_from, share):
    """Leaves `weights/NAME.pt`. `start` is None; `noise`: largest standard deviation, in those of the latents; `critic_from`: the
    share of the steps that is without the critic; `share`: of its gradient in a picture's, in norms of the others'."""
    seed_everything(seed)
    model, critic, vgg = Autoencoder(LEVELS), Critic(), Vgg().requires_grad_(False)
    model.load_state_dict(grown(torch.load(f'{weights}/autoencoder.pt'), model.state_dict()))
    vgg.load_state_dict(torch.load(f'{weights}/vgg16.pt'))
    vgg.to(memory_format=torch.channels_last)
    both = nn.ModuleDict({'autoencoder': model, 'critic': critic}).to(memory_format=torch.channels_last)
    measure = reporter(data, LEVELS)
    kept = lambda state: only('autoencoder.', state)
    run = Run(f'{weights}/{name}.pt', both, steps, peak, seed, decay=1e-4, betas=(0.5, 0.98), kept=kept,
              report=lambda state: measure(kept(state)))
    norm = lambda g: g[:BATCH].flatten(1).norm(dim=1).mean()
    for step in run:
        x = batch_of(data).contiguous(memory_format=torch.channels_last)
        criticised = step >= critic_from * steps
        with bf16():
            z = model.encode(x).float()
            sigma = noise * min(1, (step + 1) / WARM_UP) * z.detach().pow(2).mean().sqrt()
            shaken = lambda latents: latents + sigma * torch.randn_like(latents) * amounts(len(latents)).sqrt()
            latents = shaken(z)
            if criticised:
                latents = torch.cat([latents, shaken(mixtures(z.detach()))])
            u = model.raw(latents).float()
        y = soft_clamp(u)
        leaf = y.detach().requires_grad_()  # the losses' gradients meet here, where the critic's can be weighed against the others'
        with bf16():
            taps = vgg.taps(leaf)
            with torch.no_grad():
                real_taps = vgg.taps(x)
        loss = pixel_loss(leaf[:BATCH], x) + 0.5 * lpips_of_taps([t[:BATCH] for t in taps], real_taps).mean()
        gradient, = torch.autograd.grad(loss, leaf, retain_graph=criticised)
        critic_loss = 0
        if criticised:
            critic.requires_grad_(False)
            with bf16():
                drawn = sum(out.mean((1, 2, 3)).sum() for out in critic(leaf, taps))
            against, = torch.autograd.grad(-drawn, leaf)
            gradient = gradient + share * norm(gradient) / norm(against) * against
            critic.requires_grad_(True)
            with bf16():
                real, made = critic(x, real_taps), critic(leaf.detach(), [t.detach() for t in taps])
            critic_loss = sum(F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(real, made))
        run.descend((y * gradient).sum() + CRITIC_WEIGHT * critic_loss + hinges(z, u))


def mixtures(z):
    """Of pairs of a batch's latents, as long as one."""
    other, t = z[torch.randperm(len(z))], amounts(len(z))
    return ((z * t + other * (1 - t)) / (t * t + (1 - t) ** 2).sqrt())[:MIXED]


def grown(shallow, deep):
    """The state of an autoencoder with one level more: what there is of it comes from the one with fewer levels."""
    out = dict(deep)
    for name, value in shallow.items():
        if deep[name].shape == value.shape:
            out[name] = value.float()
        elif value.dim() == 4 and name.startswith(('encoder.down.', 'decoder.up.')) and 'conv1' in name:
            common = min(deep[name].shape[1], value.shape[1])
            out[name] = torch.cat([value[:, :common].float(), deep[name][:, common:]], 1)
    return out
