"""Tables 1 and 2: the networks, their times in turns, and their training at one budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fmen.reproduction import blocks, table1, table2, variants
from fmen.reproduction.result import Options
from fmen.reproduction.table1 import Block, WithBlocks
from fmen.reproduction.table2 import Chain
from fmen.reproduction.variants import (
    Variant,
    order,
    parameter_rows,
    time_rows,
    training_rows,
)
from fmen.sources.networks import build_network
from fmen_core import reparameterize
from fmen_core.blocks.attention import ESA, ContrastAttention
from fmen_core.blocks.reparameterizable import RRRB, PlainConv
from fmen_eval import Runtime, measure

SMALL = {"edsr-baseline": {"n_feats": 4, "n_blocks": 2}, "memnet": {"n_feats": 4, "n_blocks": 2, "n_recursions": 2}}
SMALL["fmen"] = {"n_feats": 4, "mid_feats": 6, "down_blocks": 1, "up_blocks": (1, 1)}  # type: ignore[dict-item]

CHAINS = [Variant("one", Chain, {"n_feats": 4, "n_blocks": 1}), Variant("two", Chain, {"n_feats": 4, "n_blocks": 2})]


def test_the_parameters_of_table_2_are_the_published_ones() -> None:
    rows = parameter_rows(table2.VARIANTS)
    assert [round(1000 * row.ours) for row in rows] == [779_996, 782_198, 784_286, 769_428]
    assert [row.published for row in rows] == [779, 782, 784, 769] and not any(row.difference for row in rows)


@pytest.mark.parametrize(("attention", "kind"), [("cca", ContrastAttention), ("esa", ESA)])
def test_attention_modules_are_evenly_spaced(attention: str, kind: type[nn.Module]) -> None:
    body = Chain(n_feats=16, n_blocks=15, attention=attention).body
    places = [index for index, module in enumerate(body) if isinstance(module, kind)]
    assert len(places) == 6 and places[-1] == len(body) - 1
    assert {later - earlier for earlier, later in itertools.pairwise(places)} <= {3, 4}


@pytest.mark.parametrize("network", table1.HOSTS)
@pytest.mark.parametrize("block", table1.BLOCK_NAMES)
def test_every_block_of_a_network_is_replaced_and_merges_exactly(network: str, block: str) -> None:
    torch.manual_seed(0)
    model = WithBlocks(2, network, block, SMALL[network]).double().eval()
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == {"edsr-baseline": 2, "memnet": 2, "fmen": 3}[network]
    assert {type(module.conv1) for module in blocks} == {RRRB if block == "erb" else PlainConv}
    image = torch.rand(1, 3, 16, 17, dtype=torch.float64)
    merged = reparameterize(model)
    assert not any(isinstance(module, RRRB) for module in merged.modules())
    assert torch.allclose(merged(image), model(image), rtol=0, atol=1e-8)


def test_a_residual_block_adds_its_input() -> None:
    torch.manual_seed(0)
    plain, residual = Block(3, "pb"), Block(3, "rb")
    residual.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 5, 5)
    assert torch.allclose(residual(x.clone()), plain(x.clone()) + x)


def test_the_merged_forms_of_the_three_blocks_have_the_same_parameters() -> None:
    rows = parameter_rows([replace(v, args={**v.args, "sizes": SMALL[v.args["network"]]}) for v in table1.VARIANTS])
    assert len(rows) == 9 and all(len({row.ours for row in rows[at : at + 3]}) == 1 for at in (0, 3, 6))


def test_times_are_measured_in_turns_and_compared_with_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    times: dict[str, Runtime] = {}

    def recorded(*args: Any, **kwargs: Any) -> dict[str, Runtime]:
        times.update(measure(*args, **kwargs))
        return times

    monkeypatch.setattr(variants, "measure", recorded)
    assert time_rows(CHAINS, Options(), (16, 16), {}) == ([], "")
    rows, conditions = time_rows(CHAINS, Options(runs=2, device="cpu"), (16, 16), {"one": "one", "two": "one"})
    assert [row.key for row in rows] == [
        ("one", "inference time"),
        ("two", "inference time"),
        ("two", "time, relative to one"),
    ]
    one, two = times["one"].times_ms, times["two"].times_ms
    assert rows[2].ours == pytest.approx(100 * ((two[0] / one[0] + two[1] / one[1]) / 2 - 1))
    assert "LR image 16x16" in conditions and "2 interleaved runs" in conditions


def test_all_networks_are_trained_in_turns_with_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str, int]] = []

    def fake(name: str, model: str, args: Mapping[str, Any], options: Options, seed: int) -> SimpleNamespace:
        done.append((name, model.rsplit(":", 1)[1], seed))
        psnr = 30.0 + seed + args["n_blocks"]
        first, last = {"step": 0, "psnr": 20.0, "seconds": 1.0}, {"step": 9, "psnr": psnr, "seconds": 4.0 + seed}
        return SimpleNamespace(records=lambda: [first, {"step": 5, "seconds": 2.0}, last])

    monkeypatch.setattr(variants, "trained_run", fake)
    rows, curves = training_rows(CHAINS, Options(steps=3, seeds=2, device="cpu"))
    assert done == [("one", "Chain", 0), ("two", "Chain", 0), ("one", "Chain", 1), ("two", "Chain", 1)]
    assert [(row.subject, row.ours, row.note, row.seconds) for row in rows] == [
        ("one", 31.5, "Seeds: 31.00, 32.00 dB.", 9.0),
        ("two", 32.5, "Seeds: 32.00, 33.00 dB.", 9.0),
    ]
    assert curves["one"][1] == [(0, 20.0), (9, 32.0)]
    assert order(curves) == "By PSNR, the order is two, one with every seed."
    assert training_rows(CHAINS, Options()) == ([], {})


def test_the_order_says_when_seeds_disagree() -> None:
    curves = {"one": [[(1, 30.0)], [(1, 31.0)]], "two": [[(1, 30.5)], [(1, 30.5)]]}
    assert order(curves) == "By PSNR, the order depends on the seed: two, one; one, two."
    assert order(curves, "one").endswith(" one, which the paper proposes, is first with 1 of 2 seeds.")


def test_the_network_of_a_recipe_is_the_class_in_its_file() -> None:
    built = build_network(CHAINS[1].model, 4, CHAINS[1].args)
    assert type(built).__name__ == "Chain" and len(
        built.get_submodule("body").get_parameter("0.conv1.expand_conv.bias")
    )
    assert table2.VARIANTS[3].model == "fmen"


def test_blocks_are_trained_in_one_network_and_their_curves_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {variant.title: [[(0, 1.0), (2, 30.0), (4, 31.0)]] for variant in blocks.VARIANTS}
    monkeypatch.setattr(blocks, "training_rows", lambda variants, options: ([], curves if options.steps else {}))
    result = blocks.run(Options(out=tmp_path, steps=4))
    params = {row.subject: round(1000 * row.ours) for row in result.rows}
    assert (params["RRRB"], params["3x3 convolution"]) == (1_045_866, 342_218)  # with the BatchNorms of the branches
    assert result.images == {"PSNR by step, the first seed": "blocks.svg"}
    assert "FMEN-S with each block: 4 steps each" in (tmp_path / "blocks.svg").read_text()
    assert blocks.run(Options()).images == {}
