"""Remove the channels of a trained network that matter least, which makes it narrower.

As in ThiNet (Luo, Wu and Lin, ICCV 2017), a channel is judged by what the next layer loses without it: its score is the
share of the variance of that layer's output that it adds. Channels that are tied, such as those of both terms of a sum,
are removed together; their score is the sum over all layers that read them, as in DepGraph (Fang et al., CVPR 2023).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import sr_model
from fmen_core.channel_graph import ChannelGraph, Use, record_channels
from fmen_core.errors import ModelError
from fmen_core.models import architecture_named, recognise
from fmen_core.reparam import reparameterize, synthetic_images


def prune(model: nn.Module, images: Tensor | None = None, **sizes: Any) -> nn.Module:
    """Return a narrower network with the channels of ``model`` that matter most, in its inference form.

    Args:
        model: A network of this package, in either form; it is unchanged. Its BatchNorms are folded first.
        images: ``(N, 3, H, W)`` in ``[0, data_range]``, typical LR images; by default synthetic ones.
        sizes: The sizes of the narrower network that differ from the model's, such as ``n_feats=48``.

    Returns:
        The network in eval mode. Where the removed channels were zero, it is the same function.

    Raises:
        ModelError: The network is unknown, has no such sizes, would be wider, or its channels cannot be followed.
    """
    source = reparameterize(model)
    found = recognise(source.state_dict(), getattr(source, "name", None))
    if found is None:
        raise ModelError(
            f"{type(source).__name__} is not a network of this package; use fmen_core.pruning.copy_channels"
        )
    arguments = {**getattr(source, "sizes", {}), **found[1], "scale": sr_model(source).scale}
    arguments = {**arguments, **sizes, "form": "inference"}
    narrow = architecture_named(found[0].name).build(**arguments).to(next(source.parameters()))
    return copy_channels(source, narrow, images)


@torch.no_grad()
def copy_channels(model: nn.Module, narrow: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Copy the channels of ``model`` that matter most into a narrower network of the same class.

    Args:
        model: A trained network without re-parameterizable blocks; it is unchanged.
        narrow: A network whose forward pass has the same operations. Its parameters are overwritten.
        images: As of :func:`prune`.

    Returns:
        ``narrow`` in eval mode.

    Raises:
        ModelError: Operations differ, ``narrow`` is wider in some place, or the channels cannot be followed.
    """
    name = getattr(model, "name", type(model).__name__)
    if images is None:
        images = synthetic_images() * sr_model(model).data_range
    try:
        wide = record_channels(copy.deepcopy(model).eval(), images)
        thin = record_channels(narrow.eval(), images[:1])
        kept = choose(wide, thin, scores(wide))
    except ModelError as error:
        raise ModelError(f"{name} cannot be pruned to these sizes: {error}") from error
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    targets = {**dict(narrow.named_parameters()), **dict(narrow.named_buffers())}
    thin_uses = {(use.name, use.axis): use for use in thin.uses}
    for use in wide.uses:
        entries = entries_of(wide, use, thin, thin_uses[use.name, use.axis], kept)
        tensors[use.name] = tensors[use.name].index_select(use.axis, entries.to(tensors[use.name].device))
    for key, target in targets.items():
        if target.shape != tensors[key].shape:
            raise ModelError(f"{name} cannot be pruned to these sizes: {key} is unused and has another shape")
        target.copy_(tensors[key])
    return narrow


def scores(graph: ChannelGraph) -> dict[int, float]:
    """Return the score of each group of tied channels."""
    found = defaultdict[int, float](float)
    for use in graph.uses:
        for channel, share in zip(use.channels, use.shares or [0.0] * len(use.channels), strict=True):
            found[graph.group_of[channel]] += share
    return found


def choose(wide: ChannelGraph, thin: ChannelGraph, score: dict[int, float]) -> dict[int, int]:
    """Return the group of ``wide`` that each group of ``thin`` gets; the order of the channels stays as it is.

    Raises:
        ModelError: The operations differ, or ``thin`` has more channels somewhere.
    """
    if wide.groups.keys() != thin.groups.keys():
        raise ModelError("the narrower network has other operations")
    kept: dict[int, int] = {}
    for operations, groups in wide.groups.items():
        wanted = thin.groups[operations]
        if len(wanted) > len(groups):
            raise ModelError(f"{len(wanted)} channels where the network has {len(groups)}")
        best = sorted(groups, key=lambda group: -score.get(group, 0.0))[: len(wanted)]
        kept |= dict(zip(wanted, sorted(best), strict=True))
    return kept


def entries_of(wide: ChannelGraph, use: Use, thin: ChannelGraph, target: Use, kept: dict[int, int]) -> Tensor:
    """Return the entries of a parameter's dimension that the narrower network gets.

    A group may have several entries there, as the channels of a pixel have in front of a pixel shuffle. The first one
    in the narrower network is the first one in the wide network, and so on.
    """
    entries = defaultdict[int, list[int]](list)
    for entry, channel in enumerate(use.channels):
        entries[wide.group_of[channel]].append(entry)
    remaining = {group: iter(places) for group, places in entries.items()}
    return torch.tensor([next(remaining[kept[thin.group_of[channel]]]) for channel in target.channels])
