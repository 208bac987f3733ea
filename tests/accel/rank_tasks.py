"""What the tests let ranks do: functions that a process of its own can import."""

import copy
import logging
import os
from typing import Any

import numpy as np
import timm
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from dr.accel.base import Accelerator
from dr.accel.sync_batchnorm import synchronise


def place(accelerator: Accelerator, data: None) -> list[Any] | None:
    """For each rank: process, rank, ranks, torch's threads, LOCAL_WORLD_SIZE and log level."""
    mine = (
        os.getpid(),
        accelerator.rank,
        accelerator.world_size,
        torch.get_num_threads(),
        os.environ.get("LOCAL_WORLD_SIZE"),
        logging.getLogger().getEffectiveLevel(),
    )
    found = accelerator.collect((np.array([mine], dtype=object),))
    return None if found is None else found[0].tolist()


def talk(accelerator: Accelerator, data: None) -> dict[str, Any]:
    rank = accelerator.rank
    total = accelerator.agree(np.array([1.0, 10.0**rank, 2.0**-40]))
    word = accelerator.broadcast(f"of rank {rank}")
    share = accelerator.share(np.arange(11) + 100)
    joined = accelerator.collect((share, np.full((len(share), 2), rank)))
    accelerator.barrier()
    words = accelerator.collect((np.array([word]),))
    return {"total": total, "joined": joined, "words": words}


def normalise(accelerator: Accelerator, case: dict[str, Any]) -> tuple[float, ...]:
    """How far a synchronised BatchNorm on parts of a batch is from one on all of it.

    Returns the largest differences, over all ranks, of output, gradient of the pictures, gradients
    of gain and bias, running mean and variance, each as a share of the largest value.
    """
    torch.manual_seed(0)
    channels, kind = 8, getattr(torch, case["dtype"])
    shape = (7, channels, *case["size"])
    whole = case["make"](channels)
    nn.init.uniform_(whole.weight), nn.init.normal_(whole.bias)
    whole = whole.double() if kind == torch.float64 else whole
    parted = synchronise(copy.deepcopy(whole))
    pictures, gradient = (
        (torch.randn(shape) * 2 + case["mean"]).to(kind),
        torch.randn(shape).to(kind),
    )
    if case["channels_last"]:
        pictures = pictures.to(memory_format=torch.channels_last)
    edges = [0, *case["edges"], 7]
    own = slice(edges[accelerator.rank], edges[accelerator.rank + 1])
    a, b = pictures.clone().requires_grad_(), pictures[own].clone().requires_grad_()
    one, other = whole(a), parted(b)
    one.backward(gradient), other.backward(gradient[own])
    gains = torch.stack([parted.weight.grad, parted.bias.grad])
    dist.all_reduce(gains)
    assert one.dtype == other.dtype
    pairs = [
        (one[own], other),
        (a.grad[own], b.grad),
        (torch.stack([whole.weight.grad, whole.bias.grad]), gains),
    ]
    if whole.track_running_stats:
        pairs.append((whole.running_mean, parted.running_mean))
        pairs.append((whole.running_var, parted.running_var))
        assert whole.num_batches_tracked == parted.num_batches_tracked == 1
    far = [float((x - y).abs().max() / x.abs().max()) if x.numel() else 0.0 for x, y in pairs]
    found = accelerator.collect((np.array([far]),))
    return tuple(found[0].max(axis=0)) if found is not None else ()


def act2d(channels: int) -> nn.Module:
    return BatchNormAct2d(channels, act_layer=nn.SiLU)


def untracked(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def evaluate_on_the_first(accelerator: Accelerator, data: None) -> bool:
    """Whether layers that are not in training do without the other ranks."""
    model = synchronise(nn.Sequential(nn.BatchNorm2d(4), BatchNormAct2d(4))).eval()
    if accelerator.is_first:
        for _ in range(3):
            model(torch.randn(2, 4, 3, 3))
    return True


def normalise_one_value(accelerator: Accelerator, data: None) -> str:
    model = synchronise(nn.BatchNorm2d(4))
    try:
        model(torch.randn(1 - accelerator.rank, 4, 1, 1))
    except ValueError as error:
        return str(error)
    return ""


def toy(channels: int = 6) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(channels),
        nn.Linear(channels, 5),
    )


def plain() -> nn.Module:
    """Without BatchNorm, a batch in parts is that batch."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(6 * 64, 5)
    )


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    own = {"toy": toy, "plain": plain}
    if name in own:
        return own[name]()
    return timm.create_model(name, num_classes=5)


def train(accelerator: Accelerator, case: dict[str, Any]) -> dict[str, Any]:
    """AdamW steps on batches that all ranks share: losses, gradients' norms, weights in the end."""
    random = np.random.default_rng(0)
    model = accelerator.prepare_model(build(case["model"])).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses, norms = [], []
    for step in range(case["steps"]):
        if step == case.get("freeze"):
            next(model.parameters()).requires_grad_(False)
        if step in (0, case.get("freeze")):
            network = accelerator.network(model)
        pictures = random.normal(size=(case["batch"], 3, 32, 32)).astype(np.float32)
        labels = random.integers(0, 5, case["batch"])
        weights = random.uniform(0.5, 2, case["batch"]).astype(np.float32)
        own = accelerator.share(np.arange(case["batch"]))
        loss = 0.0
        parts = np.array_split(own, case.get("accumulate", 1))
        for number, part in enumerate(parts, start=1):
            with accelerator.accumulating(network, last=number == len(parts)):
                logits = network(accelerator.tensor(pictures[part]))
                each = nn.functional.cross_entropy(
                    logits, accelerator.tensor(labels[part]), reduction="none"
                )
                mine = (each * accelerator.tensor(weights[part])).sum() / float(weights.sum())
                accelerator.backward(mine)
            loss += float(mine.detach())
        norm = accelerator.gradient_norm(optimizer)
        accelerator.update(optimizer, norm=norm, clip_norm=case.get("clip_norm"))
        losses.append(float(accelerator.agree(np.array([loss]))[0]))
        norms.append(float(norm))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flat = torch.cat([value.double().flatten() for value in state.values()]).numpy()
    everyone = accelerator.collect((flat[None],))
    return {"losses": losses, "norms": norms, "state": state, "everyone": everyone}


def fail_while_others_wait(accelerator: Accelerator, rank: int) -> None:
    if accelerator.rank == rank:
        raise ValueError(f"batch_size: rank {rank} has had enough; set less")
    accelerator.barrier()
