"""The trunk's size and names, its outputs and gradients, and loading of timm's public weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgeage.errors import EdgeageError
from edgeage.train.networks.inception_resnet_v2 import (
    InceptionRecogniser,
    InceptionResNetV2,
    load_timm_weights,
)

SMALL = (1, 1, 1)

# Names as in timm's models/inception_resnet_v2.py, with the shapes of its public weights.
TIMM_SHAPES = {
    "conv2d_1a.conv.weight": (32, 3, 3, 3),
    "conv2d_1a.bn.running_mean": (32,),
    "conv2d_2b.conv.weight": (64, 32, 3, 3),
    "conv2d_3b.conv.weight": (80, 64, 1, 1),
    "conv2d_4a.conv.weight": (192, 80, 3, 3),
    "mixed_5b.branch0.conv.weight": (96, 192, 1, 1),
    "mixed_5b.branch1.1.conv.weight": (64, 48, 5, 5),
    "mixed_5b.branch2.2.bn.weight": (96,),
    "mixed_5b.branch3.1.conv.weight": (64, 192, 1, 1),
    "repeat.9.branch2.1.conv.weight": (48, 32, 3, 3),
    "repeat.9.conv2d.bias": (320,),
    "mixed_6a.branch0.conv.weight": (384, 320, 3, 3),
    "mixed_6a.branch1.2.conv.weight": (384, 256, 3, 3),
    "repeat_1.19.branch1.1.conv.weight": (160, 128, 1, 7),
    "repeat_1.19.branch1.2.conv.weight": (192, 160, 7, 1),
    "repeat_1.19.conv2d.weight": (1088, 384, 1, 1),
    "mixed_7a.branch0.1.conv.weight": (384, 256, 3, 3),
    "mixed_7a.branch2.1.conv.weight": (288, 256, 3, 3),
    "repeat_2.8.branch1.1.conv.weight": (224, 192, 1, 3),
    "block8.branch1.2.conv.weight": (256, 224, 3, 1),
    "block8.conv2d.weight": (2080, 448, 1, 1),
    "conv2d_7b.conv.weight": (1536, 2080, 1, 1),
}


def test_the_trunk_has_the_public_net_s_parameters_and_names():
    with torch.device("meta"):
        model = InceptionResNetV2()
    # timm lists inception_resnet_v2 with 55.84 M: 55,843,464, of which the classifier for 1000
    # classes holds 1536 * 1000 + 1000.
    assert sum(parameter.numel() for parameter in model.parameters()) == 55_843_464 - 1_537_000
    state = model.state_dict()
    assert {name: tuple(state[name].shape) for name in TIMM_SHAPES} == TIMM_SHAPES
    assert model.conv2d_1a.bn.eps == 1e-3


def test_recogniser_gives_a_raw_embedding_and_a_gradient_to_the_image():
    torch.manual_seed(0)
    model = InceptionRecogniser(repeats=SMALL).eval()
    image = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    embedding = model(image)
    assert embedding.shape == (2, 128)
    embedding.square().sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_every_parameter_is_reached_in_training():
    torch.manual_seed(0)
    model = InceptionRecogniser(repeats=SMALL)
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert idle == []


def test_the_smallest_input_is_75_px():
    model = InceptionResNetV2(SMALL).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 75, 75)).shape == (1, 1536)
        with pytest.raises(ValueError, match="75 px"):
            model(torch.zeros(1, 3, 74, 80))


def test_the_sizes_that_name_the_blocks():
    """At 299 px the three stages work on 35, 17 and 8 px."""
    model = InceptionResNetV2(SMALL).eval()
    seen = {}
    for name in ("repeat", "repeat_1", "repeat_2"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: tuple(output.shape[1:])})
        )
    with torch.inference_mode():
        model(torch.zeros(1, 3, 299, 299))
    assert seen == {"repeat": (320, 35, 35), "repeat_1": (1088, 17, 17), "repeat_2": (2080, 8, 8)}


def test_average_pooling_does_not_count_the_padding():
    branch = InceptionResNetV2(SMALL).mixed_5b.get_submodule("branch3.0")
    assert torch.equal(branch(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


@pytest.fixture(scope="module")
def public_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InceptionResNetV2]:
    """A file as timm would publish it for the small net, classifier included."""
    torch.manual_seed(1)
    model = InceptionResNetV2(SMALL).eval()
    state = {
        **model.state_dict(),
        "classif.weight": torch.zeros(1000, 1536),
        "classif.bias": torch.zeros(1000),
    }
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(state, path)
    return path, model


def test_timm_weights_load_into_the_trunk_and_leave_the_head(public_weights):
    path, original = public_weights
    recogniser = InceptionRecogniser(repeats=SMALL).eval()
    head = recogniser.embedding.weight.clone()
    load_timm_weights(recogniser, path)
    image = torch.rand(1, 3, 80, 80)
    with torch.inference_mode():
        assert torch.equal(recogniser.trunk(image), original(image))
    assert torch.equal(recogniser.embedding.weight, head)


def test_weights_of_another_net_are_refused_and_change_nothing(public_weights, tmp_path):
    path, _ = public_weights
    larger = InceptionResNetV2((2, 1, 1))
    before = larger.conv2d_1a.conv.weight.clone()
    with pytest.raises(EdgeageError, match=r"missing \(repeat\.1\.branch0"):
        load_timm_weights(larger, path)
    assert torch.equal(larger.conv2d_1a.conv.weight, before)

    small = InceptionResNetV2(SMALL)
    state = dict(small.state_dict())
    save_file({**state, "stranger": torch.zeros(1)}, tmp_path / "stranger.safetensors")
    with pytest.raises(EdgeageError, match=r"unknown \(stranger\)"):
        load_timm_weights(small, tmp_path / "stranger.safetensors")
    save_file({**state, "conv2d_7b.bn.bias": torch.zeros(7)}, tmp_path / "shape.safetensors")
    with pytest.raises(EdgeageError, match=r"conv2d_7b\.bn\.bias is \(7,\), not \(1536,\)"):
        load_timm_weights(small, tmp_path / "shape.safetensors")


@pytest.mark.parametrize("name", ["weights.pth", "absent.safetensors", "broken.safetensors"])
def test_other_files_are_one_line_of_error(name, tmp_path):
    path = tmp_path / name
    if not name.startswith("absent"):
        path.write_bytes(b"not a header at all")
    with pytest.raises(EdgeageError) as caught:
        load_timm_weights(InceptionResNetV2(SMALL), path)
    assert "\n" not in str(caught.value)
