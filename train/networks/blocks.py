"""Layers that the networks share."""

from __future__ import annotations

from torch import nn


def same_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Module:
    """Convolution with 'same' padding as TensorFlow defines it, for inputs that the stride divides.

    An odd surplus goes to the bottom and the right (torch's symmetric padding would shift the image
    by half a pixel against the article's Keras layers, and would cost an extra PAD in TFLite).
    """
    total = max(kernel - stride, 0)
    before, after = total // 2, total - total // 2
    if before == after:
        return nn.Conv2d(inputs, outputs, kernel, stride, before, bias=bias)
    return nn.Sequential(
        nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(inputs, outputs, kernel, stride, bias=bias)
    )


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
