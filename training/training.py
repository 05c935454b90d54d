"""What the training stages share: a schedule in steps, checkpoints to resume from, an average of the weights."""
import math
import os
import random
import time

import numpy as np
import torch


class Average:
    """Exponential moving average of a state dict."""

    def __init__(self, model, decay=0.998):
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.decay, self.count = decay, 0

    def update(self, model):
        self.count += 1
        keep = min(self.decay, (1 + self.count) / (10 + self.count))
        for k, v in model.state_dict().items():
            if v.is_floating_point():
                self.state[k].lerp_(v.detach(), 1 - keep)
            else:
                self.state[k].copy_(v)


class Run:
    """One training run of a fixed number of steps: warm-up, then a cosine; resumes from its last checkpoint.

    `for step in run:` yields step numbers; `run.descend(loss)` makes the step. Every step draws its random numbers from
    (seed, step), so a run that was stopped goes on as if it had not been. `kept`: what of the state dict goes to `path`.
    """

    def __init__(self, path, model, steps, peak, seed, decay=1e-2, betas=(0.9, 0.999), clip=1.0, save_every=250, report=None,
                 kept=lambda state: state):
        self.path, self.model, self.steps, self.peak, self.seed = path, model, steps, peak, seed
        self.clip, self.save_every, self.report, self.kept = clip, save_every, report, kept
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=betas, weight_decay=decay)
        self.average, self.start = Average(model), 0
        if os.path.exists(path + '.run'):
            saved = torch.load(path + '.run')
            self.model.load_state_dict(saved['model'])
            self.optimizer.load_state_dict(saved['optimizer'])
            self.average.state, self.average.count, self.start = saved['average'], saved['count'], saved['step']

    def __iter__(self):
        began = time.time()
        for step in range(self.start, self.steps):
            seed_everything(self.seed * 1_000_003 + step)
            rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))
            for group in self.optimizer.param_groups:
                group['lr'] = self.peak * rate
            self.model.train()
            yield step
            if (step + 1) % self.save_every == 0 or step + 1 == self.steps:
                self.save(step + 1)
                seconds = (time.time() - began) / (step + 1 - self.start)
                note = self.report(self.averaged()) if self.report else ''
                print(f'{os.path.basename(self.path)} step {step + 1}/{self.steps} loss {self.loss:.4f} {seconds:.3f} s/step {note}', flush=True)
        save_whole(self.kept(self.average.state), self.path)

    def descend(self, loss):
        self.loss = loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.average.update(self.model)

    def averaged(self):
        """A state dict to build a network from."""
        return self.average.state

    def save(self, step):
        save_whole({'model': self.model.state_dict(), 'optimizer': self.optimizer.state_dict(), 'average': self.average.state,
                    'count': self.average.count, 'step': step}, self.path + '.run')


def save_whole(content, path):
    """A file that is there is whole: what is there is not made again."""
    torch.save(content, path + '.part')
    os.replace(path + '.part', path)


def only(prefix, state):
    """The part of a state dict with that prefix, without it."""
    return {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}


def seed_everything(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)


def bf16():
    return torch.autocast('cpu', dtype=torch.bfloat16)
