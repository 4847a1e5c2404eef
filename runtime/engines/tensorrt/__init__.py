"""TensorRT engines, built on the device from a bundle's ONNX files.

In working order: `libraries` and `device` say what is here, `recipe` what is to be built, `build` builds a
plan, `cache` keeps it, `prepare` is the way through these, `memory`, `lane` and `runner` run a plan,
`pipeline` keeps a face on the device, `choose` finds the faster precision that is good enough, and
`coverage` reads what became of the layers. Names of TensorRT and CUDA appear in these files alone;
`tests/runtime/tensorrt/test_tensorrt_contract.py` holds each against the bindings of four versions.
"""
