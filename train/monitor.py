"""What TensorBoard shows: figures and pictures of the same faces and the same latents at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from edgeage.train.stages.base import Context, Stage

FACES_SHOWN = 8
LATENTS_SHOWN = 8


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, for images in [-1, 1] (peak 2)."""
    error = ((images - others) / 2).pow(2).mean((1, 2, 3)).clamp_min(1e-10)
    return -10 * torch.log10(error)


@torch.no_grad()
def validation_figures(context: Context) -> dict[str, float]:
    """Reconstruction of the validation faces by the averaged E and G."""
    encoder, generator = context.best("encoder"), context.best("generator")
    with evaluating(encoder, generator):
        images, groups = context.validation
        latent = encoder(images)
        rebuilt = generator(latent, context.one_hot(groups))
    return {
        "psnr": float(psnr(images, rebuilt).mean()),
        "latent_deviation": float(latent.std(0).mean()),
    }


def log_pictures(writer: SummaryWriter, stage: Stage, step: int) -> None:
    """Pictures and figures of what the stage trains: G at fixed latents, E and G on fixed faces."""
    context = stage.context
    if "generator" in stage.trained:
        writer.add_image("latents", latent_grid(context), step)
    if "encoder" in stage.trained:
        writer.add_image("faces", face_grid(context), step)
        for key, value in validation_figures(context).items():
            writer.add_scalar(f"validation/{key}", value, step)


@torch.no_grad()
def face_grid(context: Context) -> Tensor:
    """uint8 [3, rows * S, columns * S]: each validation face, its reconstruction, and all age groups."""
    encoder, generator = context.best("encoder"), context.best("generator")
    with evaluating(encoder, generator):
        images, groups = (part[:FACES_SHOWN] for part in context.validation)
        latent = encoder(images)
        rebuilt = generator(latent, context.one_hot(groups))
        return tiled(
            torch.cat([images[:, None], rebuilt[:, None], at_all_ages(context, generator, latent)], 1)
        )


@torch.no_grad()
def latent_grid(context: Context) -> Tensor:
    """uint8 [3, rows * S, groups * S]: latents of the prior, always the same, at all age groups."""
    generator = context.best("generator")
    fixed = torch.Generator().manual_seed(0)
    latent = torch.randn(LATENTS_SHOWN, context.spec.latent_size, generator=fixed).to(context.device)
    with evaluating(generator):
        return tiled(at_all_ages(context, generator, latent))


def at_all_ages(context: Context, generator: nn.Module, latent: Tensor) -> Tensor:
    """Latents [n, latent_size] -> images [n, groups, 3, S, S]."""
    groups = torch.arange(len(context.spec.groups), device=context.device)
    columns = [generator(latent, context.one_hot(group.expand(len(latent)))) for group in groups]
    return torch.stack(columns, 1)


def tiled(grid: Tensor) -> Tensor:
    """Images [rows, columns, 3, S, S] in [-1, 1] -> one uint8 [3, rows * S, columns * S] on the CPU."""
    rows, columns, _, size, _ = grid.shape
    picture = grid.permute(2, 0, 3, 1, 4).reshape(3, rows * size, columns * size)
    return ((picture + 1) * 127.5).round().clamp(0, 255).byte().cpu()


class evaluating:
    """Switches modules to eval mode and back to what they were."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = [(module, module.training) for module in modules]

    def __enter__(self) -> None:
        for module, _ in self.modules:
            module.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modules:
            module.train(training)
