"""Remove channels from a trained network: the network becomes narrower and keeps the channels of the largest weights.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017: the score of a channel is the L1 norm of the filter that
computes it (section 3.1). Channels that are tied, such as those of both terms of a sum, are removed together; their
score is the sum over their filters, as in Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import sr_model
from fmen_core.channel_graph import ChannelGraph, Use, record_channels
from fmen_core.errors import ModelError
from fmen_core.models import architecture_named, recognise
from fmen_core.reparam import reparameterize


def prune(model: nn.Module, **sizes: Any) -> nn.Module:
    """Return a narrower network with the channels of ``model`` that have the largest weights, in its inference form.

    Args:
        model: A network of this package, in either form; it is unchanged. Its BatchNorms are folded first.
        sizes: The sizes of the narrower network that differ from the model's, such as ``n_feats=48``.

    Returns:
        The network in eval mode. Where the removed channels were zero, it is the same function.

    Raises:
        ModelError: The network is unknown, has no such sizes, would be wider, or its channels cannot be followed.
    """
    source = reparameterize(model)
    found = recognise(source.state_dict(), getattr(source, "name", None))
    if found is None:
        raise ModelError(f"{type(source).__name__} is no network of this package; use fmen_core.pruning.copy_channels")
    arguments = {**getattr(source, "sizes", {}), **found[1], "scale": sr_model(source).scale}
    arguments = {**arguments, **sizes, "form": "inference"}
    narrow = architecture_named(found[0].name).build(**arguments).to(next(source.parameters()))
    return copy_channels(source, narrow)


@torch.no_grad()
def copy_channels(model: nn.Module, narrow: nn.Module) -> nn.Module:
    """Copy the channels of ``model`` that have the largest weights into a narrower network of the same class.

    Args:
        model: A trained network without re-parameterizable blocks; it is unchanged.
        narrow: A network whose forward pass has the same operations. Its parameters are overwritten.

    Returns:
        ``narrow`` in eval mode.

    Raises:
        ModelError: Operations differ, ``narrow`` is wider in some place, or the channels cannot be followed.
    """
    name = getattr(model, "name", type(model).__name__)
    try:
        wide, thin = record_channels(model.eval()), record_channels(narrow.eval())
        kept = choose(wide, thin, scores(model, wide))
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


def scores(model: nn.Module, graph: ChannelGraph) -> dict[int, float]:
    """Return the L1 norm of the filters and biases of each group of tied channels."""
    parameters, found = dict(model.named_parameters()), defaultdict[int, float](float)
    for use in graph.uses:
        if use.writes:
            norms = parameters[use.name].double().abs().reshape(len(use.channels), -1).sum(1)
            for channel, norm in zip(use.channels, norms.tolist(), strict=True):
                found[graph.group_of[channel]] += norm
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
