"""The networks: FMEN in both forms, and the networks it is compared with in their published inference forms.

Each file has one network, credits its authors, and ends with the ``Architecture`` that is listed below. Key names,
arithmetic, activation modules (the challenge's FLOPs rule counts them) and the lifetimes of intermediate results are
those of the published code, so that weights load strictly and measurements agree with the organisers'. The networks of
the FMEN paper's Table 3, from SRCNN to LatticeNet, follow their papers; EDSR-baseline has the published key names.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fmen_core.architecture import Architecture, Form, StateDict
from fmen_core.errors import ModelError, suggest
from fmen_core.models import (
    carn,
    dipnet_slim,
    disp,
    drcn,
    drrn,
    dscf,
    ecbsr,
    edsr_baseline,
    efdn,
    fimdn,
    fmen,
    fsrcnn,
    haesr,
    idn,
    imdn,
    imdn_as,
    imdn_baseline,
    imdn_plus,
    lapsrn,
    latticenet,
    memnet,
    msrresnet,
    neesr,
    pan,
    pds,
    pkdsr,
    repafdn,
    rfdn,
    rfdn_cca,
    rfdn_pruned,
    rlfn_cut,
    safmnv3,
    slimrlfn,
    span,
    spanf,
    spanv2,
    srcnn,
    tsr,
    vdsr,
)

ARCHITECTURES: tuple[Architecture, ...] = (
    *fmen.ARCHITECTURES,
    imdn_baseline.ARCHITECTURE,
    rfdn_pruned.ARCHITECTURE,
    rfdn.ARCHITECTURE,
    rlfn_cut.ARCHITECTURE,
    neesr.ARCHITECTURE,
    repafdn.ARCHITECTURE,
    imdn_plus.ARCHITECTURE,
    slimrlfn.ARCHITECTURE,
    efdn.ARCHITECTURE,
    dipnet_slim.ARCHITECTURE,
    spanf.ARCHITECTURE,
    safmnv3.ARCHITECTURE,
    tsr.ARCHITECTURE,
    dscf.ARCHITECTURE,
    span.ARCHITECTURE,
    spanv2.ARCHITECTURE,
    disp.ARCHITECTURE,
    pds.ARCHITECTURE,
    pkdsr.ARCHITECTURE,
    haesr.ARCHITECTURE,
    msrresnet.ARCHITECTURE,
    pan.ARCHITECTURE,
    fimdn.ARCHITECTURE,
    imdn.ARCHITECTURE,
    imdn_as.ARCHITECTURE,
    ecbsr.ARCHITECTURE,
    srcnn.ARCHITECTURE,
    fsrcnn.ARCHITECTURE,
    vdsr.ARCHITECTURE,
    drcn.ARCHITECTURE,
    lapsrn.ARCHITECTURE,
    drrn.ARCHITECTURE,
    memnet.ARCHITECTURE,
    edsr_baseline.ARCHITECTURE,
    idn.ARCHITECTURE,
    carn.ARCHITECTURE,
    rfdn_cca.ARCHITECTURE,
    latticenet.ARCHITECTURE,
)
"""All networks: FMEN, the networks of the challenges by year, then those of papers alone.

Without a name in its metadata, a weights file belongs to the first architecture that recognises it: DSCF, a SPAN with
26 channels, precedes SPAN, and the pruned RFDN, whose attention differs, precedes RFDN.
"""


def model_names() -> tuple[str, ...]:
    """Return the names that ``create_model`` takes."""
    return tuple(architecture.name for architecture in ARCHITECTURES)


def architecture_named(name: str) -> Architecture:
    """Return the architecture with this name.

    Raises:
        ModelError: There is none.
    """
    found = next((architecture for architecture in ARCHITECTURES if architecture.name == name), None)
    if found is None:
        raise ModelError(f"no network is called {name!r}; {suggest(name, model_names())}")
    return found


def create_model(name: str, scale: int = 4, *, form: Form = "training", **sizes: Any) -> nn.Module:
    """Return a freshly initialised network.

    ``create_model(model.name, model.scale, form=form, **model.sizes)`` has the shapes of ``model``, a network of that
    form which this function or ``load`` returned.

    Args:
        name: One of ``model_names()``.
        scale: Upscaling factor.
        form: The training form or the inference form. A network with a single form has that form in both cases.
        sizes: Sizes that differ from the published ones, by the names of the network's constructor.

    Raises:
        ModelError: There is no such network, or it is not defined for this scale or these sizes.
    """
    return architecture_named(name).build(scale, form=form, **sizes)


def recognise(state: StateDict, name: str | None = None) -> tuple[Architecture, dict[str, Any]] | None:
    """Return the architecture of a state dict and the arguments of ``build`` that reproduce it, or None.

    Args:
        state: The tensors of a network.
        name: The architecture to prefer where several have these tensors, as the metadata of a weights file names it.
    """
    for architecture in sorted(ARCHITECTURES, key=lambda architecture: architecture.name != name):
        arguments = architecture.detect(state)
        if arguments is not None:
            return architecture, arguments
    return None
