"""Specs with the groups of every technique: importing the registry defines them."""

from __future__ import annotations

from extembed_cli.features import registry
from extembed_cli.spec.loading import load_spec, spec_from_flags
from extembed_cli.spec.salvage import salvage

__all__ = ["load_spec", "registry", "salvage", "spec_from_flags"]
