"""Plans are kept, taken again only if all is as it was, and nothing foreign or damaged is ever loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import World

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines.tensorrt.cache import Identity, PlanCache
from edgeage.runtime.engines.tensorrt.device import Device, l4t_release
from edgeage.runtime.engines.tensorrt.prepare import Workshop
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions, Recipe

DEVICE = Device("Orin", "8.7", "10.3.0.26", "12.6", "R36.4.3")
IDENTITY = Identity("a" * 64, DEVICE, Recipe("encoder", "int8", "int8", True, (), BuildOptions()))
PLAN = b"a plan"

CHANGES = {
    "onnx": dataclasses.replace(IDENTITY, onnx="b" * 64),
    **{
        {"name": "device"}.get(field.name, field.name): dataclasses.replace(
            IDENTITY, device=dataclasses.replace(DEVICE, **{field.name: "other"})
        )
        for field in dataclasses.fields(Device)
    },
    "source": dataclasses.replace(
        IDENTITY, recipe=dataclasses.replace(IDENTITY.recipe, source="int8-float16")
    ),
    "strongly_typed": dataclasses.replace(
        IDENTITY, recipe=dataclasses.replace(IDENTITY.recipe, strongly_typed=False)
    ),
    "flags": dataclasses.replace(IDENTITY, recipe=dataclasses.replace(IDENTITY.recipe, flags=("INT8",))),
    **{
        f"options.{name}": dataclasses.replace(
            IDENTITY, recipe=dataclasses.replace(IDENTITY.recipe, options=BuildOptions(**{name: value}))
        )
        for name, value in (("level", 5), ("workspace_mb", 64), ("dla", 0))
    },
}


@pytest.fixture
def cache(folder: Path) -> PlanCache:
    return PlanCache(folder)


def test_a_kept_plan_is_taken_again(cache: PlanCache) -> None:
    cache.store(IDENTITY, PLAN, {"seconds": 1.5})
    found = PlanCache(cache.folder).find(IDENTITY)
    assert not isinstance(found, str)
    assert found.plan == PLAN
    assert found.sidecar["seconds"] == 1.5


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_alone_is_refused_and_named(cache: PlanCache, name: str) -> None:
    cache.store(IDENTITY, PLAN, {})
    changed = CHANGES[name]
    assert changed.key != IDENTITY.key
    reason = cache.find(changed)
    assert isinstance(reason, str)
    assert f"{name} was " in reason
    assert reason.count(" was ") == 1


def test_every_field_of_the_identity_is_changed_above() -> None:
    """The schema is ours; engine and precision are in the file's name."""
    assert set(IDENTITY.to_dict()) - set(CHANGES) == {"schema", "engine", "precision"}


def test_another_schema_is_refused(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(IDENTITY, PLAN, {})
    monkeypatch.setattr("edgeage.runtime.engines.tensorrt.cache.SCHEMA", 2)
    assert cache.find(IDENTITY) == "schema was 1, is 2"


def test_any_options_take_the_newest_plan(cache: PlanCache) -> None:
    cache.store(CHANGES["options.level"], b"hard", {"built_at": 2})
    cache.store(IDENTITY, b"usual", {"built_at": 1})
    found = cache.find(IDENTITY, any_options=True)
    assert not isinstance(found, str)
    assert found.plan == b"hard"
    exact = cache.find(IDENTITY)
    assert not isinstance(exact, str)
    assert exact.plan == b"usual"
    # but never one of another file
    assert isinstance(cache.find(CHANGES["onnx"], any_options=True), str)


def test_nothing_yet_is_said(cache: PlanCache) -> None:
    assert cache.find(IDENTITY) == "no plan of the encoder was built here yet"


@pytest.mark.parametrize("keep", [0, 1, 20, -3])
def test_a_truncated_sidecar_is_damage(cache: PlanCache, keep: int) -> None:
    cache.store(IDENTITY, PLAN, {})
    sidecar = cache.folder / f"{IDENTITY.name}.json"
    sidecar.write_bytes(sidecar.read_bytes()[:keep])
    assert cache.find(IDENTITY) == f"the sidecar {IDENTITY.name}.json is damaged"


@pytest.mark.parametrize("text", ["[]", "{}", '{"built_for": 3}', "null"])
def test_a_sidecar_of_another_form_is_damage(cache: PlanCache, text: str) -> None:
    cache.store(IDENTITY, PLAN, {})
    (cache.folder / f"{IDENTITY.name}.json").write_text(text)
    assert "is damaged" in str(cache.find(IDENTITY))


def test_a_changed_or_missing_plan_is_damage(cache: PlanCache) -> None:
    cache.store(IDENTITY, PLAN, {})
    plan = cache.folder / f"{IDENTITY.name}.plan"
    plan.write_bytes(b"a plaN")
    assert "sha256 is not its sidecar's" in str(cache.find(IDENTITY))
    plan.unlink()
    assert "missing" in str(cache.find(IDENTITY))


def test_a_link_and_a_plan_that_others_can_write_are_not_read(cache: PlanCache, tmp_path: Path) -> None:
    cache.store(IDENTITY, PLAN, {})
    plan = cache.folder / f"{IDENTITY.name}.plan"
    plan.chmod(0o666)
    assert "no file of this user" in str(cache.find(IDENTITY))
    elsewhere = tmp_path / "elsewhere"
    plan.chmod(0o600)
    plan.rename(elsewhere)
    plan.symlink_to(elsewhere)
    assert "no file of this user" in str(cache.find(IDENTITY))


def test_the_folder_is_private_and_one_that_others_can_write_is_refused(tmp_path: Path) -> None:
    made = PlanCache(tmp_path / "new" / "plans").folder
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o770)
    with pytest.raises(EdgeageError, match="chmod go-w"):
        PlanCache(made)
    made.chmod(0o700)
    made.parent.chmod(0o777)
    with pytest.raises(EdgeageError, match="everybody can replace"):
        PlanCache(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(EdgeageError, match="another user"):
        PlanCache(tmp_path)


def test_files_are_private(cache: PlanCache) -> None:
    cache.store(IDENTITY, PLAN, {})
    cache.keep_timings(DEVICE, b"timings")
    modes = {path.stat().st_mode & 0o077 for path in cache.folder.iterdir()}
    assert modes == {0}


@pytest.mark.parametrize("full_at", ["plan", "json"])
def test_a_full_disk_leaves_nothing_half_written(
    cache: PlanCache, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    cache.store(IDENTITY, PLAN, {})
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if f".{full_at}.tmp" in path.name:
            write(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EdgeageError, match=r"No space left on device.*MB needed.*--cache DIR"):
        cache.store(IDENTITY, b"a newer plan", {})
    monkeypatch.undo()
    assert isinstance(
        cache.find(IDENTITY), str
    )  # the old plan may be gone, but no half of a new one is taken
    assert not list(cache.folder.glob(".*.tmp-*"))
    cache.store(IDENTITY, PLAN, {})
    assert not isinstance(cache.find(IDENTITY), str)


KILLED = """
import os, sys
from pathlib import Path
from typing import Any
from edgeage.runtime.engines.tensorrt import cache
sys.path.insert(0, sys.argv[2])
write_json = cache.write_json
def killed(*_): os.kill(os.getpid(), 9)
cache.write_json = killed
from edgeage.runtime.engines.tensorrt.cache import Identity, PlanCache
from edgeage.runtime.engines.tensorrt.device import Device
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions, Recipe
device = Device("Orin", "8.7", "10.3.0.26", "12.6", "R36.4.3")
identity = Identity("a" * 64, device, Recipe("encoder", "int8", "int8", True, (), BuildOptions()))
kept = PlanCache(Path(sys.argv[1]))
with kept.locked():
    (kept.folder / ".x.plan.tmp-1").write_bytes(b"half")
    kept.store(identity, b"a plan", {})
"""


def test_a_killed_build_leaves_no_plan_that_is_taken(cache: PlanCache) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(cache.folder), ""], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert (cache.folder / f"{IDENTITY.name}.plan").exists()
    assert isinstance(cache.find(IDENTITY), str)
    with cache.locked():  # the lock went with the process
        assert not list(cache.folder.glob("*.plan"))
        assert not list(cache.folder.glob(".*.tmp-*"))


def test_timings_are_of_one_device_and_checked(cache: PlanCache) -> None:
    assert cache.timings(DEVICE) == b""
    cache.keep_timings(DEVICE, b"timings")
    assert cache.timings(DEVICE) == b"timings"
    assert cache.timings(dataclasses.replace(DEVICE, tensorrt="11")) == b""
    next(cache.folder.glob("timings.*.bin")).write_bytes(b"Timings")
    assert cache.timings(DEVICE) == b""


def test_the_release_of_jetson_linux(tmp_path: Path) -> None:
    file = tmp_path / "nv_tegra_release"
    assert l4t_release(file) == ""
    file.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    assert l4t_release(file) == "R36.4.3"


# Through the main path, with a TensorRT that answers -------------------------------------------------


def test_build_then_reuse_then_say_what_changed(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workshop().prepare(shipped, "encoder", "int8")
    assert (first.reused, first.reason) == (False, "no plan of the encoder was built here yet")
    assert "--int8 --fp16" in first.sidecar["trtexec"]
    second = workshop().prepare(shipped, "encoder", "int8")
    assert second.reused
    assert world.builds == 1
    assert workshop().prepare(shipped, "encoder", "int8", force=True).reason == "asked to build anew"
    other = World("10.7.0", "12.6.0").install(monkeypatch)
    third = workshop().prepare(shipped, "encoder", "int8")
    assert (third.reused, third.reason) == (False, "tensorrt was 10.3.0, is 10.7.0")
    assert other.builds == 1


def test_a_plan_that_another_process_built_meanwhile_is_taken(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, locked = workshop(), workshop(), PlanCache.locked

    def after_theirs(cache: PlanCache) -> Any:
        if cache is ours.cache:  # we wait for the lock while they build
            theirs.prepare(shipped, "encoder", "int8")
        return locked(cache)

    monkeypatch.setattr(PlanCache, "locked", after_theirs)
    assert ours.prepare(shipped, "encoder", "int8").reused
    assert world.builds == 1


def test_options_that_are_asked_for_must_be_those_of_the_plan(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    workshop().prepare(shipped, "encoder", "int8", BuildOptions(level=5))
    assert workshop().prepare(shipped, "encoder", "int8").reused  # whoever does not ask takes what is there
    again = workshop().prepare(shipped, "encoder", "int8", BuildOptions(level=2))
    assert (again.reused, again.reason) == (False, "options.level was 5, is 2")


def test_a_plan_that_tensorrt_refuses_is_built_again_once(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    made = workshop().prepare(shipped, "encoder", "int8")
    cache = workshop().cache
    cache.store(made.identity, b"garbage with a right hash", {"file": "x"})
    again = workshop().prepare(shipped, "encoder", "int8")
    assert (again.reused, again.reason) == (False, "TensorRT refused the kept plan: magicTag mismatch")
    assert workshop().prepare(shipped, "encoder", "int8").reused


def test_garbage_never_reaches_tensorrt(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    made = workshop().prepare(shipped, "encoder", "int8")
    plan = workshop().cache.folder / f"{made.identity.name}.plan"
    plan.write_bytes(b"\x7fELF garbage")
    world.calls.clear()
    again = workshop().prepare(shipped, "encoder", "int8")
    assert "sha256" in again.reason
    assert [call for call in world.calls if call[0] == "deserialize"] == [
        ("deserialize", again.sidecar["bytes"])
    ]


def test_a_failed_build_keeps_nothing(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    world.refuse.add("build")
    with pytest.raises(EdgeageError, match="no implementation"):
        workshop().prepare(shipped, "encoder", "int8")
    assert {path.name for path in workshop().cache.folder.iterdir()} == {".lock"}


def test_the_sidecar_says_what_it_is_of(
    world: World, shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    made = workshop().prepare(shipped, "encoder", "int8")
    sidecar = json.loads((workshop().cache.folder / f"{made.identity.name}.json").read_text())
    assert sidecar["built_for"]["onnx"] == shipped.manifest.files["engines/encoder.qdq.onnx"]
    assert sidecar["built_for"]["device"] == "Orin"
    assert sidecar["file"] == "engines/encoder.qdq.onnx"
    assert sidecar["warnings"] == ["a warning"]
