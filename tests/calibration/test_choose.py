"""Choosing a calibration, equalisation, bias correction, sensitivity and mixed plans, on small networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeage.calibration.bias_correction import correct
from edgeage.calibration.choose import FIRST_RUNG, calibrate_network, collect, output_sqnr
from edgeage.calibration.equalisation import equalise
from edgeage.calibration.graph import GraphView
from edgeage.calibration.mixed_plan import plan_floats
from edgeage.calibration.observers import Feeds, Histogram, Observer, session
from edgeage.calibration.quantization import decide
from edgeage.calibration.sensitivity import layers, report
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import clean
from edgeage.export.qdq import to_qdq

FLOAT = onnx.TensorProto.FLOAT


def network(uneven: bool = True) -> onnx.ModelProto:
    """conv, LeakyReLU, conv, ReLU, flatten, dense; with channels of unlike reach if `uneven`."""
    random = np.random.default_rng(0)
    spread = np.geomspace(1, 100, 6) if uneven else np.ones(6)
    constants: dict[str, Any] = {
        "w1": random.normal(size=(6, 3, 3, 3)) * spread.reshape(6, 1, 1, 1),
        "b1": random.normal(size=6) * spread,
        "w2": random.normal(size=(6, 6, 3, 3)) / spread.reshape(1, 6, 1, 1),
        "b2": random.normal(size=6),
        "w3": random.normal(size=(4, 6 * 16)),
        "b3": random.normal(size=4),
    }
    square = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["first"], **square),
        helper.make_node("LeakyRelu", ["first"], ["active"], alpha=0.2),
        helper.make_node("Conv", ["active", "w2", "b2"], ["second"], **square),
        helper.make_node("Relu", ["second"], ["rectified"]),
        helper.make_node("Reshape", ["rectified", "flat"], ["view"]),
        helper.make_node("Gemm", ["view", "w3", "b3"], ["out"], transB=1),
    ]
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    tensors.append(numpy_helper.from_array(np.array([1, 96], dtype=np.int64), "flat"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("out", FLOAT, [1, 4])],
        tensors,
    )
    return clean(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def feeds(count: int, seed: int = 0) -> list[Feeds]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, 3, 4, 4)).astype(np.float32)} for _ in range(count)]


SELECTION = feeds(10, seed=1)


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    running = session(model)
    return [running.run(None, dict(feed))[0] for feed in SELECTION]


def test_auto_is_no_worse_than_any_calibrator_and_says_what_it_tried() -> None:
    model = network()
    auto = calibrate_network(model, feeds(120), SELECTION, to_qdq)
    for name in ("minmax", "percentile-99.9", "entropy"):
        fixed = calibrate_network(model, feeds(120), SELECTION, to_qdq, calibrator=name)
        assert {trial.calibrator for trial in fixed.trials} == {name}
        # the bias is corrected for the best calibrator only
        assert auto.chosen.sqnr_db >= max(trial.sqnr_db for trial in fixed.trials if not trial.corrected)
    assert auto.chosen.sqnr_db == max(trial.sqnr_db for trial in auto.trials)
    measured = output_sqnr(to_qdq(auto.decide()), SELECTION, outputs(model))
    assert measured == pytest.approx(auto.chosen.sqnr_db, abs=1e-3)


def test_the_same_inputs_give_the_same_table() -> None:
    first, second = (calibrate_network(network(), feeds(60), SELECTION, to_qdq) for _ in range(2))
    assert first.tensors == second.tensors
    assert first.corrections == second.corrections


def test_an_unknown_calibrator_and_empty_inputs_are_refused() -> None:
    with pytest.raises(EdgeageError, match="no calibrator 'magic'; choose one of auto, minmax"):
        calibrate_network(network(), feeds(2), SELECTION, to_qdq, calibrator="magic")
    with pytest.raises(EdgeageError, match="no calibration input"):
        calibrate_network(network(), [], SELECTION, to_qdq)


def test_the_stability_test_stops_when_halves_agree_and_goes_on_while_they_do_not() -> None:
    _, curve = collect(network(), feeds(5) * 60)
    assert [rung.samples for rung in curve] == [FIRST_RUNG]
    _, whole = collect(network(), feeds(1000), stop_when_stable=False)
    assert [rung.samples for rung in whole] == [FIRST_RUNG, 200, 400, 800, 1000]
    assert whole[-1].mean < whole[0].mean
    restless = [{"x": feed["x"] * 10.0 ** (i % 7)} for i, feed in enumerate(feeds(150))]
    _, unstable = collect(network(), restless)
    assert unstable[-1].samples == 150


def reaches_of(seen: dict[str, Histogram]) -> dict[str, np.ndarray]:
    return {name: histogram.reaches for name, histogram in seen.items()}


def test_equalisation_keeps_the_function_and_evens_the_channels() -> None:
    model = network()
    seen = Observer(model).observe(feeds(50))
    equal, regions = equalise(model, reaches_of(seen))
    assert regions == 2  # behind each convolution; the output's scale is nobody else's to undo
    # float32 sums in another order, on outputs of several hundred
    for a, b in zip(outputs(model), outputs(equal), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    again = Observer(equal).observe(feeds(50))
    unevenness = [h["active"].reaches.max() / h["active"].reaches.min() for h in (seen, again)]
    assert unevenness[0] > 20
    assert unevenness[1] < unevenness[0] / 10


def test_equalisation_goes_through_depth_to_space_and_conditions() -> None:
    """conv, depth-to-space, a gain that is fed, LeakyReLU, conv: one region, without the gain."""
    random = np.random.default_rng(0)
    spread = np.repeat(np.geomspace(1, 50, 2), 4).reshape(8, 1, 1, 1)
    constants = {"w1": random.normal(size=(8, 3, 3, 3)) * spread, "w2": random.normal(size=(2, 2, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["phases"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("DepthToSpace", ["phases"], ["large"], blocksize=2, mode="CRD"),
        helper.make_node("Mul", ["large", "gain"], ["scaled"]),
        helper.make_node("LeakyRelu", ["scaled"], ["active"], alpha=0.2),
        helper.make_node("Conv", ["active", "w2"], ["out"], kernel_shape=[1, 1]),
    ]
    ports = {"x": [1, 3, 4, 4], "gain": [1, 2, 1, 1]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in ports.items()],
        [helper.make_tensor_value_info("out", FLOAT, [1, 2, 8, 8])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = clean(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    inputs = [
        {name: random.normal(size=shape).astype(np.float32) for name, shape in ports.items()}
        for _ in range(20)
    ]
    equal, regions = equalise(model, reaches_of(Observer(model).observe(inputs)))
    assert regions == 1
    np.testing.assert_allclose(
        session(equal).run(None, inputs[0])[0], session(model).run(None, inputs[0])[0], rtol=1e-4, atol=1e-4
    )
    reaches = Observer(equal).observe(inputs)["large"].reaches
    assert reaches.max() / reaches.min() < 5


def test_equalisation_leaves_shared_weights_and_unknown_tensors_alone() -> None:
    model = network()
    assert equalise(model, {})[1] == 0
    model.graph.node[2].input[2] = "b1"  # a bias that two nodes share
    model = clean(model)
    equal, regions = equalise(model, reaches_of(Observer(model).observe(feeds(20))))
    assert regions == 0
    assert [numpy_helper.to_array(t).tobytes() for t in equal.graph.initializer] == [
        numpy_helper.to_array(t).tobytes() for t in model.graph.initializer
    ]


def test_bias_correction_takes_off_the_mean_error_of_each_channel() -> None:
    """Inputs with a mean make rounded weights shift the output; corrected, the shift is mostly gone."""
    model = network(uneven=False)
    shifted = [{"x": feed["x"] + 4} for feed in feeds(200)]
    seen = Observer(model).observe(shifted)
    ranges = {name: histogram.range() for name, histogram in seen.items()}
    plain = decide(model, ranges)
    corrections = correct(plain, seen)
    assert corrections.keys() == {"first", "second", "out"}
    fixed = decide(model, ranges, corrections=corrections)

    def shift(quantization: Any) -> float:
        twin, exact = session(to_qdq(quantization)), session(model)
        found = [twin.run(None, dict(f))[0] - exact.run(None, dict(f))[0] for f in shifted]
        return float(np.abs(np.mean(found, axis=0)).mean())

    assert shift(fixed) < 0.8 * shift(plain)  # the borders of a 4x4 image are beyond the formula


def test_layers_hold_every_node_once() -> None:
    view = GraphView(network())
    found = layers(view)
    assert [layer.name for layer in found] == ["first", "second", "out"]
    assert sorted(name for layer in found for name in layer.outputs) == sorted(
        n.output[0] for n in view.nodes
    )


def test_sensitivity_points_at_the_layer_that_hurts() -> None:
    model = network(uneven=True)
    made = calibrate_network(model, feeds(60), SELECTION, to_qdq, calibrator="minmax")
    rows = report(made, SELECTION, to_qdq, effect=lambda outputs, wanted: {"count": float(len(outputs))})
    assert [row.layer.operator for row in rows] == ["Conv", "Conv", "Gemm"]
    for row in rows:
        assert row.alone_db > made.chosen.sqnr_db - 1  # one layer alone cannot hurt more than all
        assert 0.9 < row.cosine <= 1
        assert row.effect == {"count": 10.0}


def test_a_mixed_plan_meets_its_target_and_needs_each_of_its_layers() -> None:
    model = network()
    made = calibrate_network(model, feeds(60), SELECTION, to_qdq, calibrator="percentile-99.9")
    wanted = outputs(model)

    def score(floats: Any) -> float:
        return output_sqnr(to_qdq(made.decide(floats)), SELECTION, wanted)

    best = score([node.output[0] for node in GraphView(made.graph).nodes])
    assert plan_floats(made, SELECTION, to_qdq, made.chosen.sqnr_db - 1, "net") == frozenset()
    assert plan_floats(made, SELECTION, to_qdq, None, "net") == frozenset()
    target = (best + made.chosen.sqnr_db) / 2
    plan = plan_floats(made, SELECTION, to_qdq, target, "net")
    assert plan
    assert score(plan) >= target
    for layer in layers(GraphView(made.graph)):
        if set(layer.outputs) <= plan:
            assert score(plan - set(layer.outputs)) < target
    with pytest.raises(EdgeageError, match="the net cannot reach 200 dB"):
        plan_floats(made, SELECTION, to_qdq, 200, "net")
