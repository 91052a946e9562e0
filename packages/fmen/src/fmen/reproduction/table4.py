"""Table 4 and Figure 1: FMEN-S beside the other networks of the NTIRE 2022 challenge.

Counts follow from the architecture. Runtime and memory depend on the machine: those of each network are compared as
multiples of IMDN's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fmen.charts.networks import Network, draw_networks
from fmen.charts.style import save_figure
from fmen.errors import UserError
from fmen.reproduction.bench import benchmarks, command
from fmen.reproduction.result import Experiment, Options, Result, Row
from fmen_core.models import architecture_named
from fmen_eval import complexity

SOURCE = "FMEN, Table 4: DIV2K validation set, x4, on an NVIDIA 1080Ti"
BASELINE = "imdn-baseline"


class Published(NamedTuple):
    """A row of the table: parameters in K, FLOPs in G, runtime in ms, memory in M, activations in M, convolutions."""

    title: str
    params: float
    flops: float
    runtime: float
    memory: float
    activations: float
    convs: int


TABLE4 = {
    "imdn-baseline": Published("IMDN", 894, 58.53, 50.86, 471.76, 154.14, 43),
    "rfdn": Published("E-RFDN", 433, 27.1, 41.97, 788.13, 112.03, 64),
    "rlfn-cut": Published("ByteESR", 317, 19.7, 27.11, 377.91, 80.05, 39),
    "neesr": Published("NEESR", 272, 16.86, 29.97, 575.99, 79.59, 59),
    "repafdn": Published("Super", 326, 20.06, 32.09, 663.07, 93.82, 59),
    "rfdn-pruned": Published("MegSR", 290, 17.7, 32.59, 640.63, 91.72, 64),
    "imdn-plus": Published("rainbow", 276, 17.98, 34.1, 309.23, 92.8, 59),
    "fmen-s": Published("FMEN-S", 341, 22.28, 28.07, 204.6, 72.09, 34),
}
"""The published table, by the names of ``fmen models``."""


def count_rows(name: str, published: Published) -> list[Row]:
    """Return what follows from the architecture of a network, by the challenge's rules."""
    started = time.perf_counter()
    found = complexity(architecture_named(name).build(4, form="inference").to("meta"))
    seconds = time.perf_counter() - started
    figures = (
        ("parameters", found.params / 1e3, "K", 0, published.params),
        ("FLOPs", found.flops / 1e9, "G", 2, published.flops),
        ("activations", found.activations / 1e6, "M", 2, published.activations),
        ("convolutions", found.convs, "", 0, published.convs),
    )
    return [
        Row(published.title, quantity, ours, unit, digits, theirs, SOURCE, seconds=seconds)
        for quantity, ours, unit, digits, theirs in figures
    ]


def measured_rows(table: Mapping[str, Mapping[str, Any]], file: str) -> list[Row]:
    """Return runtime and memory of the networks of a benchmark, as multiples of IMDN's if it has IMDN.

    Args:
        table: The rows of the benchmark, by network.
        file: The file of the benchmark, or "".
    """
    place = f" ({Path(file).stem})" if file else ""
    base, theirs = table.get(BASELINE), TABLE4[BASELINE]
    rows = []
    for name, published in TABLE4.items():
        if name not in table or base is None or name == BASELINE:
            continue
        for what, key, own, other in (
            ("runtime", "runtime_ms", published.runtime, theirs.runtime),
            ("memory", "peak_memory_bytes", published.memory, theirs.memory),
        ):
            ratio = float(table[name][key] / base[key])
            quantity = f"{what} / IMDN's{place}"
            rows.append(
                Row(
                    *(published.title, quantity, ratio, "", 2, round(own / other, 2), SOURCE),
                    command=command("table4", file),
                )
            )
    return rows


def ranking(table: Mapping[str, Mapping[str, Any]], file: str) -> str:
    """Compare the order of the networks in runtime and memory with the published one."""
    names = [name for name in TABLE4 if name in table]
    place = Path(file).stem if file else "this machine"
    parts = []
    for what, key in (("runtime", "runtime_ms"), ("memory", "peak_memory_bytes")):
        ours = sorted(names, key=lambda name: float(table[name][key]))
        theirs = sorted(names, key=lambda name: float(getattr(TABLE4[name], what)))
        order, published = (", ".join(TABLE4[name].title for name in side) for side in (ours, theirs))
        agrees = "as in the paper" if ours == theirs else f"in the paper: {published}"
        parts.append(f"the order by {what} is {order} ({agrees})")
    return f"On {place}, {'; '.join(parts)}."


def run(options: Options) -> Result:
    """Count every network; with ``options.bench`` or ``options.runs`` also compare and draw runtime and memory."""
    rows = [row for name, published in TABLE4.items() for row in count_rows(name, published)]
    exact = sum(row.difference == 0 for row in rows)
    remarks = [f"{exact} of {len(rows)} counts come out to the digit."]
    conditions, images, findings = [], {}, {}
    for file, content in benchmarks(options, list(TABLE4)).items():
        table = {row["model"]: row for row in content}
        if not set(TABLE4) & set(table):
            raise UserError(f"{file}: has none of the networks of the table, which are {', '.join(TABLE4)}")
        rows += measured_rows(table, file)
        findings[Path(file).stem] = ranking(table, file)
        conditions.append(str(content[0].get("conditions", "unknown")))
        if options.out is not None:
            picture = f"figure1_{Path(file).stem}.svg" if file else "figure1.svg"
            shown = [as_network(row) for row in content if row["model"] in TABLE4]
            save_figure(draw_networks(shown, accuracy=False), options.out / picture)
            place = ", ".join(filter(None, (Path(file).stem, conditions[-1].split(";")[0])))
            images[f"Figure 1: runtime, memory and parameters ({place})"] = picture
    return Result(rows, remarks, "; ".join(dict.fromkeys(conditions)), images, findings)


def as_network(row: Mapping[str, Any]) -> Network:
    """Return a row of a benchmark as a disc of the chart."""
    title = TABLE4[row["model"]].title
    return Network(row["model"], title, int(row["params"]), row["runtime_ms"], int(row["peak_memory_bytes"]))


EXPERIMENT = Experiment("table4", "Table 4 and Figure 1: FMEN-S in the NTIRE 2022 challenge", run)
