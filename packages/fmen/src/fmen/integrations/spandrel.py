"""FMEN for spandrel, the library through which ComfyUI and other programs load upscaling models.

    from fmen.integrations.spandrel import register
    register()
    model = spandrel.ModelLoader().load_from_file("fmen.safetensors")

Needs spandrel: ``pip install 'fmen[spandrel]'``. No other module of this package imports this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spandrel import MAIN_REGISTRY, Architecture, ArchRegistry, ArchSupport, ImageModelDescriptor
from torch import Tensor, nn

from fmen_core import reparameterize
from fmen_core.architecture import sr_model
from fmen_core.checkpoint import normalise_keys
from fmen_core.models.fmen import ARCHITECTURES
from fmen_core.precision import rescale_for_fp16

REQUIRED = {"head.weight", "lr_conv.weight", "tail.0.weight"}
"""Keys that all published layouts of FMEN share."""


class FMENArchitecture(Architecture[nn.Module]):  # type: ignore[misc]  # spandrel ships no types
    """FMEN of any size and scale, in either form and under either of its published key names."""

    def __init__(self) -> None:
        super().__init__(id="FMEN", detect=lambda state_dict: recognise(state_dict) is not None)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[nn.Module]:
        """Build the network of a state dict in its inference form, with its weights.

        The network is rescaled so that its features fit into fp16, which does not change its function.

        Returns:
            A descriptor that maps ``(1, 3, H, W)`` in ``[0, 1]`` to the SR image, as every model of spandrel does. Its
            ``model`` is the network itself, which takes ``[0, 255]``.
        """
        found = recognise(state_dict)
        assert found is not None, "load is called with what detect has recognised"
        model, state = found
        model.load_state_dict(state)
        network = reparameterize(model.float())
        supports_half = rescale_for_fp16(network)
        return ImageModelDescriptor(
            network,
            network.state_dict(),
            architecture=self,
            purpose="SR",
            tags=[str(network.name)],
            supports_half=supports_half,
            supports_bfloat16=True,
            scale=sr_model(network).scale,
            input_channels=3,
            output_channels=3,
            call_fn=call,
        )


def recognise(state_dict: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """Return the network of a state dict and its weights under the network's keys; None if it is not FMEN.

    spandrel calls this for every file that it opens, so the content may be anything.
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
    """Add FMEN to a registry, by default spandrel's main one. Repeated calls have no effect."""
    registry.add(ArchSupport.from_architecture(FMENArchitecture()), ignore_duplicates=True)
