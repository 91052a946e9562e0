"""The other networks of the challenge tables, one file each."""

from __future__ import annotations

from fmen_core.architecture import Architecture

ARCHITECTURES: tuple[Architecture, ...] = ()
