"""Specs with the groups of every technique: importing the registry defines them."""

from __future__ import annotations

from extembed_cli.features import registry
from extembed_cli.spec.loading import load_spec, spec_from_flags

__all__ = ["load_spec", "registry", "spec_from_flags"]
