"""The model file of a package: the code of any network in one file."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from fmen.cli.submit import origin_of
from fmen.sources.networks import build_network
from fmen.submission.rules import SubmissionError
from fmen.submission.source import Origin, model_source
from fmen_core import create_model, model_names, reparameterize


def executed(code: bytes) -> ModuleType:
    """A module with this code alone."""
    module = ModuleType("packed")
    exec(compile(code, "packed.py", "exec"), module.__dict__)
    return module


def output(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        image = torch.linspace(0, 1, 3 * 16 * 17).view(1, 3, 16, 17)
        out: torch.Tensor = network.eval()(image)
        return out


@pytest.mark.parametrize("name", model_names())
def test_every_network_is_one_file_that_imports_torch_alone_and_computes_the_same(
    name: str, small: Callable[[str], dict[str, int]]
) -> None:
    network = reparameterize(create_model(name, **small(name)))
    origin = Origin.of(network)
    source = model_source(origin)
    assert set(source.imports) - sys.stdlib_module_names == {"torch"} and b"fmen_core" not in source.code
    packed = eval(origin.call(4), executed(source.code).__dict__)
    packed.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(output(packed), output(network))


def test_fmen_is_its_own_file_unchanged() -> None:
    for name in ("fmen-s", "fmen"):
        origin = Origin.of(reparameterize(create_model(name)))
        source = model_source(origin)
        assert source.unchanged and source.code == origin.file.read_bytes() and source.files == ("fmen_deploy.py",)


def test_names_in_annotations_are_imported_and_those_of_read_sizes_are_not() -> None:
    source = model_source(Origin.of(create_model("spanv2")))
    assert b"\nfrom torch import Tensor, nn\n" in source.code and source.files == ("spanv2.py", "layers.py")


def test_call_names_the_sizes_that_are_not_the_defaults() -> None:
    def call(name: str, scale: int = 4, **sizes: object) -> str:
        return Origin.of(reparameterize(create_model(name, scale, **sizes))).call(scale)

    assert call("fmen-s") == "FMEN()"
    assert call("fmen") == "FMEN(n_feats=64, mid_feats=32, up_blocks=(3, 2, 2, 2, 2))"
    assert call("spanf", 2, n_feats=16) == "SPANF(scale=2, n_feats=16)"


MINE = '''
"""My network."""

import torch
from torch import nn
{imports}


class Mine(nn.Module):
    def __init__(self, scale=4, width=8):
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = {body}
        self.tail = nn.Conv2d(width, 3 * scale**2, 3, padding=1)

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.tail(self.body(self.head(x))), self.scale)
'''

Write = Callable[..., Origin]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write ``mine.py`` in the working folder, and return where its network is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))

    def write(imports: str = "", body: str = "nn.ReLU()") -> Origin:
        Path("mine.py").write_text(MINE.format(imports=imports, body=body))
        origin = origin_of(build_network("mine.py:Mine", 4, {"width": 6}))
        assert origin is not None
        return origin

    return write


def test_a_file_of_the_users_that_imports_torch_alone_is_packed_unchanged(write: Write) -> None:
    guarded = 'import math\nif __name__ == "__main__":\n    from fvcore.nn import FlopCountAnalysis'
    source = model_source(write(guarded))
    assert source.unchanged and source.code == Path("mine.py").read_bytes()
    assert source.imports == ("math", "torch")


@pytest.mark.parametrize("imports", ["", "from part import block"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_file_in_another_encoding_is_packed_in_utf_8(imports: str, encoding: str, write: Write) -> None:
    origin = write()
    declared = "" if encoding == "utf-8-sig" else f"#!/usr/bin/python\n# -*- coding: {encoding} -*-\n"
    Path("part.py").write_text(f"{declared}# ä\ndef block():\n    return 'ä'\n", encoding=encoding)
    text = MINE.format(imports=imports, body=repr("ä") + (" + block()" if imports else ""))
    origin.file.write_text(declared + text, encoding=encoding)
    packed = model_source(origin).code
    assert packed.count("ä".encode()) == (3 if imports else 1) and b"coding:" not in packed
    assert not packed.startswith(codecs.BOM_UTF8)


@pytest.mark.parametrize("character", ["\f", "\v", "\x1c", "\u2028"])
def test_lines_end_where_python_ends_them(character: str, write: Write) -> None:
    Path("part.py").write_text(f"# {character}\ndef block():\n    return 1\n")
    origin = write()
    origin.file.write_text(f"# {character}\n" + MINE.format(imports="from part import block", body="block()"))
    assert "def block():\n    return 1\n" in model_source(origin).code.decode()


PART = '''
"""Parts of my network."""

from __future__ import annotations

from collections.abc import Callable
from torch import nn
from fmen_core.blocks.layers import Shortcut as Residual
import numpy as np

Factory = Callable[[int], "tuple[int]"]

# The slope of all activations.
SLOPE = float(np.float32(0.25))
"""Negative slope."""


def activation(make: Factory | None = None) -> nn.Module:
    return nn.LeakyReLU(SLOPE)


def block(width):
    unused = width
    width = unused
    return Residual(nn.Sequential(nn.Conv2d(width, width, 1), activation()))


def unused():
    return Factory
'''


def test_what_the_network_uses_of_files_beside_it_is_put_into_its_file(write: Write) -> None:
    Path("part.py").write_text(PART)
    origin = write("from part import block as make_block", "make_block(width)")
    source = model_source(origin)
    assert source.files == ("mine.py", "layers.py", "part.py") and source.imports == ("numpy", "torch")
    text = source.code.decode()
    assert text.startswith('"""My network."""\n\nfrom __future__ import annotations\n\nimport numpy as np\n')
    assert '# The slope of all activations.\nSLOPE = float(np.float32(0.25))\n"""Negative slope."""\n' in text
    assert "class Shortcut(nn.Module):" in text and "Residual = Shortcut" in text and "make_block = block" in text
    assert "def unused" not in text and "Factory =" not in text and "Callable" not in text
    network = build_network("mine.py:Mine", 4, {"width": 6})
    packed = eval(origin.call(4), executed(source.code).__dict__)
    packed.load_state_dict(network.state_dict())
    assert torch.equal(output(packed), output(network))


OWN_BLOCK = """
from fmen_core.blocks.layers import kernel_of
from fmen_core.blocks.reparameterizable import ReparamConv2d

class Wide(ReparamConv2d):
    def __init__(self, in_channels, out_channels, *, gain=2):
        super().__init__()
        self.conv, self.gain = nn.Conv2d(in_channels, out_channels, 5, padding=2), gain

    def kernel_and_bias(self, dtype=None):
        weight, bias = kernel_of(self.conv, dtype)
        return self.gain * weight, self.gain * bias
"""


@pytest.mark.parametrize(
    ("imports", "body", "merged"),
    [
        (
            "from fmen_core.blocks.reparameterizable import ECB, RRRB, RepVGG",
            "nn.Sequential(ECB(width, width), RRRB(width), RepVGG(width, width))",
            ["body.0.weight", "body.0.bias", "body.1.rep_conv.weight", "body.1.rep_conv.bias", "body.2.weight"],
        ),
        (OWN_BLOCK, "Wide(width, width, gain=3)", ["body.weight", "body.bias"]),
        (
            "from fmen_core.blocks.by_name import BLOCKS",
            "nn.Sequential(*(make(width, 2) for make in BLOCKS.values()))",
            ["body.0.rep_conv.weight", "body.1.weight", "body.5.bias"],
        ),
    ],
)
def test_reparameterizable_blocks_are_packed_as_the_convolutions_they_are_merged_to(
    imports: str, body: str, merged: list[str], write: Write
) -> None:
    source = model_source(write(imports, body))
    network = reparameterize(build_network("mine.py:Mine", 4, {"width": 6}))
    packed = executed(source.code).Mine(width=6)
    assert set(merged) <= packed.state_dict().keys()
    packed.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(output(packed), output(network))
    assert b"kernel_and_bias" not in source.code and set(source.imports) <= {"collections", "torch"}


def test_relative_imports_within_a_package_beside_the_file_are_followed(write: Write) -> None:
    for file, content in {
        "net/__init__.py": "from .blocks.plain import Block\n",
        "net/blocks/__init__.py": "",
        "net/blocks/plain.py": "from torch import nn\nfrom ..sizes import SIZE\n\n\ndef Block(width):\n"
        "    return nn.Conv2d(width, width, SIZE)\n",
        "net/sizes.py": "SIZE = 1\n",
    }.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(content)
    origin = write("from net import Block", "Block(width)")
    packed = eval(origin.call(4), executed(model_source(origin).code).__dict__)
    network = build_network("mine.py:Mine", 4, {"width": 6})
    packed.load_state_dict(network.state_dict())
    assert torch.equal(output(packed), output(network))


def test_modules_may_be_imported_in_any_way(write: Write) -> None:
    Path("part.py").write_text(
        "import concurrent.futures\nimport numpy as np\nimport torch.nn\nimport torch.nn.functional as F\n"
        "import torch.nn as nn\nfrom fmen_core.blocks.reparameterizable import ECB\n"
        "class Half(torch.nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
        "        self.block = ECB(width, width)\n        self.gain = float(np.sqrt(0.25))\n"
        "        self.pool = concurrent.futures.Future\n        self.act = nn.ReLU()\n"
        "    def forward(self, x):\n        return F.relu(self.act(self.block(x)) * self.gain)\n"
    )
    source = model_source(write("from part import Half", "Half(width)"))
    text = source.code.decode()
    imports = "import concurrent.futures\n\nimport numpy as np\nfrom torch import nn\nimport torch.nn\n"
    assert f"{imports}from torch.nn import functional as F\n" in text
    network = reparameterize(build_network("mine.py:Mine", 4, {"width": 6}))
    packed = executed(source.code).Mine(width=6)
    packed.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(output(packed), output(network))


def test_a_block_of_the_users_in_another_file_is_merged_too(write: Write) -> None:
    Path("part.py").write_text("WIDTH = 6\nfrom torch import nn" + OWN_BLOCK)
    source = model_source(write("from part import WIDTH, Wide", "Wide(WIDTH, WIDTH)"))
    network = reparameterize(build_network("mine.py:Mine", 4, {"width": 6}))
    packed = executed(source.code).Mine(width=6)
    packed.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(output(packed), output(network))


@pytest.mark.parametrize(
    ("imports", "body", "message"),
    [
        ("import yaml", "yaml.Mine()", r"mine\.py: imports yaml; a package may use torch, numpy and the standard"),
        ("import part", "part.block(width)", r"mine\.py: import the functions and classes of part by name"),
        ("from part import absent", "absent", r"mine\.py: import the functions and classes of part\.absent by name"),
        ("from part import *", "block(width)", r"mine\.py: import \* cannot be put into one file; import what"),
        ("from part import block\ntorch.manual_seed(0)", "block(width)", r"mine\.py, line 7: only imports, functions"),
        ("from part import block\nSLOPE = 2", "block(SLOPE)", r"SLOPE has another meaning in .*; rename one"),
        (
            "from part import block\ndef late():\n    from part import SLOPE",
            "block(late)",
            r"mine\.py, line 8: an import inside a function cannot be put into one file",
        ),
        (
            "from fmen_core.blocks.attention import HFAB",
            "HFAB(width, 4, nn.Identity)",
            r"attention\.py, line \d+: HFAB cannot be packed: only blocks that equal one convolution",
        ),
        (
            "from fmen_core.blocks.reparameterizable import ReparamConv2d\n"
            "class Odd(ReparamConv2d):\n    def __init__(self, channels, must):\n        super().__init__()",
            "Odd(width, 1)",
            r"mine\.py, line 7: Odd cannot be packed: TypeError: ",
        ),
    ],
)
def test_code_that_cannot_be_one_file_is_one_line(imports: str, body: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(PART)
    (tmp_path / "mine.py").write_text(MINE.format(imports=imports, body=body))
    with pytest.raises(SubmissionError, match=message) as caught:
        model_source(Origin(tmp_path / "mine.py", "Mine", {}, in_memory(imports)))
    assert "\n" not in str(caught.value)


def in_memory(imports: str) -> ModuleType:
    """A module with the classes that ``imports`` defines, without those of files that do not exist."""
    module = ModuleType("mine")
    if "fmen_core" in imports:
        exec("from torch import nn\n" + imports, module.__dict__)
    return module


def test_submodules_are_imported_as_they_are_named(write: Write) -> None:
    Path("part.py").write_text(
        "import os\nimport importlib.util\nimport importlib\nimport torch.utils.checkpoint\nimport torch.utils.data\n"
        "from fmen_core.blocks.reparameterizable import ECB\n"
        "LOW, (HIGH, *REST) = 0, (1, 2, 3)\n"
        "class Half(torch.nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
        "        self.block = ECB(width, width)\n"
        "        self.has = importlib.util.find_spec('torch') and os.sep and REST == [2, 3]\n"
        "    def forward(self, x):\n"
        "        return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False).clamp(LOW, HIGH)\n"
    )
    origin = write("import os.path\nfrom part import Half\nFOUND = os.path.exists('.')", "Half(width)")
    text = model_source(origin).code.decode()
    lines = text.splitlines()
    for module in ("importlib.util", "torch.utils.checkpoint"):
        assert f"import {module}" in lines
    assert not {"import torch", "import torch.utils.data"} & {*lines} and "LOW, (HIGH, *REST) = 0, (1, 2, 3)" in lines
    network = reparameterize(build_network("mine.py:Mine", 4, {"width": 6}))
    packed = executed(text.encode()).Mine(width=6)
    packed.load_state_dict(network.state_dict(), strict=True)
    assert packed.body.has and torch.equal(output(packed), output(network))


def test_os_and_os_path_are_the_same_module(write: Write) -> None:
    Path("part.py").write_text(
        "import os\nfrom torch import nn\n"
        "def half(width, sep):\n    return nn.Conv2d(width, width, 3, padding=1) if sep == os.sep else None\n"
    )
    origin = write("import os.path\nfrom part import half\nSEP = os.path.sep", "half(width, SEP)")
    packed = executed(model_source(origin).code).Mine(width=6)
    assert packed.body.out_channels == 6


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("GAIN, OFFSET = 1.0, 0.0\nGAIN = 0.5", 3),
        ("GAIN = 0.5\nGAIN, OFFSET = 1.0, 0.0", 3),
        ("GAIN = OFFSET = 1.0\nGAIN = 0.5", 3),
        ("SIZES = {}\nSIZES['gain'], GAIN = 5, 1", 3),
        ("GAIN, OFFSET = 1, 2\nGAIN, OFFSET = OFFSET, GAIN", 3),
    ],
)
def test_values_that_depend_on_the_order_of_assignments_are_refused(part: str, line: int, write: Write) -> None:
    Path("part.py").write_text(f"from torch import nn\n{part}\ndef half(width):\n    return nn.Hardtanh(0, GAIN)\n")
    with pytest.raises(SubmissionError, match=f"part.py, line {line}: only imports, functions, classes and constants"):
        model_source(write("from part import half", "half(width)"))


def test_all_names_of_an_assignment_are_bound(write: Write) -> None:
    Path("part.py").write_text("from torch import nn\nB = 5\ndef half(width):\n    return nn.Hardtanh(0, B)\n")
    origin = write("from part import half\nX, B = 1, 2", "nn.Sequential(half(width), nn.Identity(X))")
    with pytest.raises(SubmissionError, match=r"B has another meaning in .*; rename one, to pack both"):
        model_source(origin)


def test_a_submodule_that_nothing_uses_is_left_out_and_a_parents_name_may_mean_another_module(write: Write) -> None:
    Path("part.py").write_text(
        "import torch.utils.data\nimport os.path\nfrom os import path as os\nfrom torch import nn\n"
        "def half(width):\n    return nn.Conv2d(width, width, len(os.join('', '3')))\n"
    )
    source = model_source(write("from part import half", "half(width)"))
    assert b"torch.utils" not in source.code
    assert executed(source.code).Mine(width=6).body.kernel_size == (1, 1)
