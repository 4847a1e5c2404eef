"""onnx2tf: NET/net.onnx as a float32 and as a fully quantised TFLite file, by one of its two back ends.

Runs in an environment of its own (onnx2tf.txt, Python 3.12 or newer):
python with_onnx2tf.py NET flatbuffer_direct|tf_converter
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx2tf


def main(folder: Path, backend: str) -> None:
    label = "onnx2tf" if backend == "flatbuffer_direct" else "onnx2tf-tf"
    with tempfile.TemporaryDirectory() as made_in, np.load(folder / "calibration.npz") as arrays:
        feeds = []
        for name in arrays.files:
            path = Path(made_in) / f"{name}.npy"
            values = arrays[name]
            np.save(path, values.transpose(0, 2, 3, 1) if values.ndim == 4 else values)
            ones = [1] * values.ndim
            # mean 0, deviation 1: the values are already what the network takes
            feeds.append([name, str(path), np.zeros(ones).tolist(), np.ones(ones).tolist()])
        onnx2tf.convert(
            input_onnx_file_path=str(folder / "net.onnx"),
            output_folder_path=made_in,
            tflite_backend=backend,
            output_integer_quantized_tflite=True,
            custom_input_op_name_np_data_path=feeds,
            input_quant_dtype="int8",
            output_quant_dtype="int8",
            verbosity="error",
        )
        for theirs, ours in (("float32", "float32"), ("full_integer_quant", "int8")):
            shutil.copyfile(Path(made_in) / f"net_{theirs}.tflite", folder / f"{label}.{ours}.tflite")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
