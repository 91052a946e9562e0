"""FMEN for spandrel, and so for the programs that load upscaling models through it, such as ComfyUI.

    from fmen.integrations.spandrel import register
    register()
    model = spandrel.ModelLoader().load_from_file("fmen.safetensors")

Needs spandrel, which ``pip install 'fmen[spandrel]'`` brings along; no other module of this package imports this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spandrel import MAIN_REGISTRY, Architecture, ArchRegistry, ArchSupport, ImageModelDescriptor
from torch import Tensor, nn

from fmen_core import reparameterize
from fmen_core.checkpoint import normalise_keys
from fmen_core.models.fmen import ARCHITECTURES

REQUIRED = {"head.weight", "lr_conv.weight", "tail.0.weight"}
"""What all published layouts of FMEN call by the same name."""


class FMENArchitecture(Architecture[nn.Module]):  # type: ignore[misc]  # spandrel ships no types
    """FMEN of any size and scale, in either form and under either of its published key names."""

    def __init__(self) -> None:
        super().__init__(id="FMEN", detect=lambda state_dict: recognise(state_dict) is not None)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[nn.Module]:
        """The network that a state dict belongs to, in its inference form, with the weights in it.

        Called, the result takes and returns ``(1, 3, H, W)`` in ``[0, 1]`` as every model of spandrel does; its
        ``model`` is the network itself and takes ``[0, 255]``.
        """
        found = recognise(state_dict)
        assert found is not None, "load is called with what detect has recognised"
        model, state = found
        model.load_state_dict(state)
        network = reparameterize(model)
        return ImageModelDescriptor(
            network,
            network.state_dict(),
            architecture=self,
            purpose="SR",
            tags=[str(network.name)],
            supports_half=True,
            supports_bfloat16=True,
            scale=int(network.scale),  # type: ignore[arg-type]
            input_channels=3,
            output_channels=3,
            call_fn=call,
        )


def recognise(state_dict: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """The network that a state dict belongs to, and the weights under its names; None if it is not FMEN's.

    Every file that spandrel opens comes by here, so that nothing is assumed about it, and nothing done in vain.
    """
    if not state_dict.keys() >= REQUIRED:
        return None
    state = normalise_keys({key: value for key, value in state_dict.items() if isinstance(value, Tensor)})
    for architecture in ARCHITECTURES:
        arguments = architecture.detect(state)
        if arguments is not None:
            return architecture.build(**arguments), state
    return None


def call(network: nn.Module, image: Tensor) -> Tensor:
    """Upscale ``image`` in ``[0, 1]``."""
    out: Tensor = network(image * 255) / 255
    return out


def register(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Add FMEN to a registry, spandrel's main one unless told otherwise; doing so twice is no mistake."""
    registry.add(ArchSupport.from_architecture(FMENArchitecture()), ignore_duplicates=True)
