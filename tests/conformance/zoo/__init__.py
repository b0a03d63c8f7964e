"""Architectures to check, with random weights: small variants that keep the operators of the originals.

Adding one: a function that returns `(module, inputs)` under `@architecture`, where `inputs(seed)` makes one call's tensors.
"""

import dataclasses
from typing import Callable

import torch

ZOO = {}


@dataclasses.dataclass(frozen=True)
class Architecture:
    name: str
    build: Callable
    core: bool  # also after run_decompositions()
    dynamic: object  # dynamic_shapes of torch.export.export, or None


def architecture(function=None, *, name=None, core=False, dynamic=None):
    def add(function):
        key = name or function.__name__
        assert key not in ZOO, key
        ZOO[key] = Architecture(key, function, core, dynamic)
        return function

    return add(function) if function else add


def noise(*shape):
    """Inputs of one float tensor; smooth along the last axis, as pictures and sounds are."""

    def make(seed):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(*shape, generator=g)
        return (0.7 * x + 0.7 * x.roll(1, -1),)

    return make


def tokens(vocabulary, *shape, mask=False):
    """Inputs of token numbers, and of an attention mask with the last tokens off."""

    def make(seed):
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, vocabulary, shape, generator=g)
        if not mask:
            return (ids,)
        on = torch.ones(shape, dtype=torch.long)
        on[..., -int(torch.randint(1, 4, (1,), generator=g)) :] = 0
        return ids, on

    return make


from . import own, text, timms, vision  # noqa: E402,F401  (they fill ZOO)
