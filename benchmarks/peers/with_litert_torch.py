"""litert-torch: the torch network of NET/net.pt2 as a float32 and as a PT2E-quantised TFLite file.

Runs in an environment of its own (litert_torch.txt), one network a call: python with_litert_torch.py NET
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from litert_torch.quantize.quant_config import QuantConfig
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    program = torch.export.load(folder / "net.pt2")
    with np.load(folder / "calibration.npz") as arrays:
        # insertion order is the order of the network's arguments
        feeds = [torch.from_numpy(arrays[name]) for name in arrays.files]
    example = tuple(_nhwc(feed[:1]) for feed in feeds)
    network = program.module()
    (output,) = [network(*(feed[:1] for feed in feeds))]
    network = litert_torch.to_channel_last_io(
        network,
        args=[index for index, feed in enumerate(feeds) if feed.ndim == 4],
        outputs=[0] if output.ndim == 4 else [],
    )
    litert_torch.convert(network, example).export(str(folder / "litert-torch.float32.tflite"))

    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    graph = prepare_pt2e(torch.export.export(network, example).module(), quantizer)
    with torch.no_grad():
        for index in range(len(feeds[0])):
            graph(*(_nhwc(feed[index : index + 1]) for feed in feeds))
    graph = convert_pt2e(graph, fold_quantize=False)
    quantised = litert_torch.convert(graph, example, quant_config=QuantConfig(pt2e_quantizer=quantizer))
    quantised.export(str(folder / "litert-torch.int8.tflite"))


def _nhwc(feed: torch.Tensor) -> torch.Tensor:
    return feed.permute(0, 2, 3, 1).contiguous() if feed.ndim == 4 else feed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
