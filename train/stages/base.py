"""What a stage is: modules and optimizers that one step changes, from one batch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from edgeage.train.batches import Sampler
from edgeage.train.profiles.schema import NetworkProfile
from edgeage.train.recipes.schema import Stage as Options
from edgeage.train.teacher import Teacher


@dataclass
class Context:
    """What the stages of a run hand on to each other.

    Attributes:
        networks: by name; a stage may add one (the perceptual net).
        averages: exponential moving averages of networks, which stand for them outside of training.
        sampler: the training faces; validation: fixed images [n, 3, S, S] and their groups.
        learned: names of the networks that a stage of this run has trained to its end.
        progress: whether a stage's long preparations show a bar.
    """

    spec: NetworkProfile
    networks: dict[str, nn.Module]
    sampler: Sampler
    validation: tuple[Tensor, Tensor]
    device: torch.device
    teacher: Teacher | None = None
    averages: dict[str, nn.Module] = field(default_factory=dict)
    learned: set[str] = field(default_factory=set)
    progress: bool = False

    def best(self, name: str) -> nn.Module:
        """The averaged network if there is one, else the network itself."""
        return self.averages.get(name, self.networks[name])

    def average(self, name: str) -> None:
        """Start to keep an average of a network, at its present weights."""
        if name not in self.averages:
            self.averages[name] = copy.deepcopy(self.networks[name]).eval().requires_grad_(False)

    def tensors(self) -> list[Tensor]:
        """Weights and buffers of all networks and averages, in one order."""
        modules = [*self.networks.items(), *self.averages.items()]
        return [tensor for _, module in modules for tensor in module.state_dict().values()]

    def one_hot(self, groups: Tensor) -> Tensor:
        return torch.eye(len(self.spec.groups), device=self.device)[groups]


# what `Stage.step` yields: the name of an optimizer and the loss that it steps down
Phases = Generator[tuple[str, Tensor], None, dict[str, Tensor]]


class Stage(ABC):
    """One way of training. Everything it needs to resume is in `trained`, `averages` and `optimizers`.

    Attributes:
        decays: network -> decay per step of its average.
        compiled: whether `trained` runs through torch.compile.
    """

    def __init__(self, context: Context, trained: Iterable[str]) -> None:
        self.context = context
        self.decays: dict[str, float] = {}
        self.compiled = False
        self.trained = {name: context.networks[name] for name in trained}
        for module in self.trained.values():
            module.to(memory_format=torch.channels_last).train().requires_grad_(True)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.learning_rates: dict[str, float] = {}

    def add_optimizer(
        self,
        name: str,
        modules: Iterable[nn.Module],
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float = 0.0,
    ) -> None:
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.optimizers[name] = torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=weight_decay)
        self.learning_rates[name] = learning_rate

    def schedule(self, step: int, options: Options) -> None:
        """Warm up, hold, then fall linearly to 5 %."""
        progress = step / options.steps
        factor = min(1.0, (step + 1) / max(options.warmup, 1))
        if progress > options.decay_from:
            factor *= max(0.05, (1 - progress) / (1 - options.decay_from))
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rates[name] * factor

    def compile(self) -> None:
        """Run the trained networks through torch.compile; the names of their weights stay."""
        for module in self.trained.values():
            module.compile()
        self.compiled = True

    def twice_differentiable(self, needed: bool = True) -> AbstractContextManager[object]:
        """Calls whose gradient is itself differentiated go here: torch.compile cannot do that."""
        return torch.compiler.set_stance("force_eager") if self.compiled and needed else nullcontext()

    def keep_average(self, name: str, decay: float) -> None:
        """Keep an exponential moving average of a trained network, from its present weights on."""
        self.context.average(name)
        self.decays[name] = decay

    def move_averages(self, step: int) -> None:
        """Move the averages towards their networks, faster in the beginning."""
        with torch.no_grad():
            for name, decay in self.decays.items():
                keep = min(decay, (step + 1) / (step + 10))
                average = self.context.averages[name].state_dict()
                for key, value in self.trained[name].state_dict().items():
                    if value.dtype.is_floating_point:
                        average[key].lerp_(value, 1 - keep)
                    else:
                        average[key].copy_(value)

    def begin(self) -> None:  # noqa: B027 (most stages have nothing to do)
        """What happens once, before the first step; a resumed stage has it behind it."""

    @abstractmethod
    def step(self, step: int, rng: np.random.Generator) -> Phases:
        """One step on one shard of a batch.

        Yields (optimizer, loss) wherever that optimizer has to step before the computation goes on; the
        loop lets all shards come so far, sums their gradients, and steps. Returns the losses to log
        (detached scalars, the same names on all shards).
        """

    def finish(self) -> None:
        """Leave the trained networks ready for the stages that follow."""
        for module in self.trained.values():
            module.eval().requires_grad_(False)
        self.context.learned |= self.trained.keys()


def detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}
