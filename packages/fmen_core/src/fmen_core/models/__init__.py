"""The networks that FMEN is compared with, in their published inference forms.

Each file has one network, credits its authors, and ends with the ``Architecture`` that the table below takes up. Key
names, arithmetic, activation modules (the challenge's FLOPs rule counts them) and the lifetimes of intermediate results
are those of the published code, so that weights load strictly and every measured figure is the organisers' figure.
"""

from fmen_core.architecture import Architecture
from fmen_core.models import imdn, imdn_baseline, imdn_plus, neesr, repafdn, rfdn, rfdn_pruned, rlfn_cut, span

ARCHITECTURES: tuple[Architecture, ...] = (
    imdn_baseline.ARCHITECTURE,
    rfdn.ARCHITECTURE,
    rlfn_cut.ARCHITECTURE,
    neesr.ARCHITECTURE,
    repafdn.ARCHITECTURE,
    rfdn_pruned.ARCHITECTURE,
    imdn_plus.ARCHITECTURE,
    span.ARCHITECTURE,
    imdn.ARCHITECTURE,
)
"""Every network of the zoo: the challenge table's rows in the table's order, then the paper's IMDN."""
