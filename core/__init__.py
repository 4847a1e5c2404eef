"""edgeage: Age-cGAN face aging, from training to INT8 engines on the device."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(bundle: Any = None, **options: Any) -> Any:
    """Open a bundle for aging photos; see `edgeage.runtime.session.load`."""
    from edgeage.runtime.session import load as open_session

    return open_session(bundle, **options)
