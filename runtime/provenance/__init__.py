"""Marks that say a picture was made with AI, and reading them back."""

from edgeage.runtime.provenance.claim import Claim

__all__ = ["Claim"]
