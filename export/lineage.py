"""The chain of hashes in a bundle: checkpoint -> float ONNX -> range table -> engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.manifest import Manifest


def check_lineage(bundle: Bundle, networks: Mapping[str, str]) -> dict[str, str | None]:
    """Every link of the chain with what is wrong with it, None if nothing is.

    Args:
        networks: engine -> the one whose float graph and range table it shares (generator_all -> generator).

    Raises EdgeageError if ranges.json is absent or is no range table.
    """
    manifest, lineage = bundle.manifest, bundle.manifest.lineage
    stated: dict[str, Any] = lineage.get("onnx", {})
    tables = _tables(bundle)
    found = {
        "manifest -> ranges.json": _differs(lineage.get("ranges"), manifest.files.get("ranges.json")),
    }
    for engine in manifest.engines:
        network = networks.get(engine, engine)
        if network == "refine":  # its float graph is no file: it is made from those of G and FR
            stands = tables.get(network, {}).get("network")
            found[f"manifest -> range table of {engine}"] = _differs(stated.get(engine), stands)
            continue
        own = _float_digest(manifest, engine) or _float_digest(manifest, network)
        found[f"manifest -> float ONNX of {engine}"] = _differs(stated.get(engine), own)
        table = tables.get(network)
        if table is None:
            found[f"float ONNX of {engine} -> range table"] = f"ranges.json has no table of {network}"
            continue
        of_another = _differs(own, table.get("network"))
        found[f"float ONNX of {engine} -> range table"] = of_another and f"of another network: {of_another}"
    return found


def check_checkpoint(manifest: Manifest, digest: str) -> None:
    """EdgeageError unless the bundle was made from the checkpoint whose weights have this SHA-256."""
    if differs := _differs(manifest.lineage.get("checkpoint"), digest):
        raise EdgeageError(f"this checkpoint is not the one that the bundle was made from: {differs}")


def _float_digest(manifest: Manifest, engine: str) -> str | None:
    entry = manifest.engines.get(engine)
    files = entry.files if entry else ()
    return next((manifest.files[file.file] for file in files if file.precision == "float32"), None)


def _tables(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """The parts of the range tables that tell what they belong to; every schema has them."""
    if "ranges.json" not in bundle.manifest.files:
        raise EdgeageError(f"{bundle.path} has no ranges.json, so no engine can be traced; export it again")
    try:
        tables = json.loads(bundle.read("ranges.json"))["tables"]
        return {str(name): {"network": table["network"]} for name, table in tables.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EdgeageError(
            f"{bundle.path}: ranges.json is no range table ({error!r}); export again"
        ) from None


def _differs(wanted: Any, found: Any) -> str | None:
    if wanted is not None and wanted == found:
        return None
    return f"sha256 {_short(wanted)} is stated, {_short(found)} is there"


def _short(digest: Any) -> str:
    return f"{digest[:12]}..." if isinstance(digest, str) else "none"
