"""What TensorBoard shows: figures and pictures of the same faces and the same latents at every step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from edgeage.train.stages.base import Context

FACES_SHOWN = 8


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


@torch.no_grad()
def log_images(writer: SummaryWriter, context: Context, step: int) -> None:
    writer.add_image("faces", face_grid(context), step)


@torch.no_grad()
def face_grid(context: Context) -> Tensor:
    """uint8 [3, rows * S, columns * S]: each validation face, its reconstruction, and all age groups."""
    encoder, generator = context.best("encoder"), context.best("generator")
    with evaluating(encoder, generator):
        images, groups = (part[:FACES_SHOWN] for part in context.validation)
        latent = encoder(images)
        columns = [images, generator(latent, context.one_hot(groups))]
        for group in range(len(context.spec.groups)):
            columns.append(generator(latent, context.one_hot(torch.full_like(groups, group))))
        torch_rng = torch.Generator().manual_seed(0)
        noise = torch.randn(2, context.spec.latent_size, generator=torch_rng).to(context.device)
        for row in noise:  # two latents of the prior under the faces
            tiled = row.expand(len(images), -1)
            wanted = torch.arange(len(images), device=context.device) % len(context.spec.groups)
            columns.append(generator(tiled, context.one_hot(wanted)))
    grid = torch.stack(columns, 1)  # [faces, columns, 3, S, S]
    picture = grid.permute(2, 0, 3, 1, 4).reshape(3, len(images) * grid.shape[3], -1)
    return ((picture + 1) * 127.5).round().clamp(0, 255).byte().cpu()


class evaluating:
    """Switches modules to eval mode and back to what they were."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.modules = [(module, module.training) for module in modules]

    def __enter__(self) -> None:
        for module, _ in self.modules:
            module.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modules:
            module.train(training)
