"""What ``--model`` names: networks by name, and classes in files of the user's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fmen.sources.networks import UserModule, build_network, load_network, user_module
from fmen_core import FMENTraining, create_model, load, read_metadata, reparameterize, save
from fmen_core.blocks.reparameterizable import RRRB

MINE = """
import torch
from torch import nn
import torch.nn.functional as F

class Mine(nn.Module):
    def __init__(self, scale=4, width=4):
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3 * scale**2, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.tail(self.conv(x)), self.scale)
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write ``mine.py`` in the working folder, and return ``mine.py:Mine``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))

    def write(source: str) -> str:
        Path("mine.py").write_text(source)
        return "mine.py:Mine"

    return write


def saved(network: nn.Module, name: str = "w.safetensors") -> Path:
    """Save a network as a training run does."""
    record = user_module(network)
    save(network, name, metadata=record.metadata() if record else None)
    return Path(name)


def test_a_user_network_takes_scale_and_arguments_and_has_the_attributes_of_a_named_one(write: Write) -> None:
    network = build_network(write(MINE), 3, {"width": 6})
    assert (network.name, network.scale, network.data_range, network.sizes) == ("Mine", 3, 1.0, {"width": 6})
    assert network.conv.out_channels == 6 and network.training  # type: ignore[union-attr]
    record = user_module(network)
    assert record is not None and str(record) == "mine.py:Mine" and record.args == {"width": 6}


def test_the_scale_of_a_class_without_one_is_that_of_its_output(write: Write) -> None:
    source = MINE.replace("scale=4, ", "").replace("self.scale = scale", "scale = 2").replace("self.scale)", "2)")
    assert build_network(write(source)).scale == 2
    with pytest.raises(ValueError, match="it upscales by 2, not by 4; give the class a parameter called scale"):
        build_network("mine.py:Mine", 4)


def test_the_scale_may_be_a_property_and_the_constructor_may_change_its_arguments(write: Write) -> None:
    source = MINE.replace("self.scale = scale", "self.factor = scale").replace("width=4", "width={}")
    source = source.replace("self.conv =", "width = width.pop('n', 4)\n        self.conv =")
    source += "\n    @property\n    def scale(self):\n        return self.factor\n"
    network = build_network(write(source), 2, {"width": {"n": 6}})
    assert (network.scale, network.sizes) == (2, {"width": {"n": 6}})
    assert network.conv.out_channels == 6  # type: ignore[union-attr]


def test_a_scale_that_is_a_float_becomes_an_int(write: Write) -> None:
    network = build_network(
        write(
            MINE.replace("self.scale = scale", "self.scale = float(scale)").replace("self.scale)", "int(self.scale))")
        )
    )
    assert type(network.scale) is int


def test_a_scale_without_a_default_is_4(write: Write) -> None:
    assert build_network(write(MINE.replace("scale=4", "scale"))).scale == 4


def test_a_data_range_of_the_class_is_taken(write: Write) -> None:
    assert build_network(write(MINE + "\n    data_range = 255\n")).data_range == 255.0


def test_named_networks_take_their_sizes(write: Write) -> None:
    network = build_network("fmen-s", 2, {"n_feats": 8})
    assert type(network) is FMENTraining and network.sizes["n_feats"] == 8  # type: ignore[index]
    assert user_module(network) is None


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("fmen-s", {"width": 3}, "fmen-s has no size called 'width'; its sizes are n_feats"),
        ("fmen-s", {"n_feats": "wide"}, "fmen-s: n_feats is 'wide'; give an integer of at least 1"),
        ("fmen-s", {"up_blocks": [-1, 1, 1, 1]}, r"fmen-s: up_blocks is \(-1, 1, 1, 1\); give integers of at least 0"),
        ("fmen-s", {"up_blocks": 3}, r"fmen-s cannot be built with \{'up_blocks': 3\}: .*; check the sizes"),
        ("span", {"scale": 2}, "span: model_args has no scale; use --scale"),
        ("fmen-t", {}, r"no network is called 'fmen-t'; did you mean fmen-s\?"),
        ("FMEN-S", {}, r"no network is called 'FMEN-S'; did you mean fmen-s\?"),
        ("u-net", {}, "no network is called 'u-net'; choose one of fmen-s, fmen-s48, fmen, "),
        ("mine.py", {}, "mine.py: expected FILE.py:CLASS, such as mine.py:Mine"),
        ("mine.py:2", {}, "expected FILE.py:CLASS"),
        ("nowhere.py:Mine", {}, "no such file nowhere.py"),
        ("mine.py:Absent", {}, "no class Absent in mine.py; its networks are Mine"),
        ("mine.py:F", {}, "no class F in mine.py"),
        ("mine.py:Mine", {"depth": 3}, "it has no argument 'depth'; its arguments are width"),
        ("mine.py:Mine", {"scale": 3}, "model_args has no scale; use --scale"),
        ("mine.py:Mine", {"width": -1}, r"Mine\(...\) failed: RuntimeError"),
        ("mine.txt:Mine", {}, "the file cannot be imported: ImportError: expected a Python file"),
    ],
)
def test_a_model_that_cannot_be_built_is_named_in_one_line(
    write: Write, model: str, args: dict[str, object], message: str
) -> None:
    write(MINE)
    Path("mine.txt").write_text(MINE)
    with pytest.raises(ValueError, match=message) as caught:
        build_network(model, 4, args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import torch\n", "import absent\n", "the file cannot be imported: ModuleNotFoundError"),
        ("import torch\n", "raise SystemExit('bye')\n", "the file cannot be imported: SystemExit: bye"),
        ("width=4", "*, width", r"it needs the arguments width; .* --set model_args.width=VALUE"),
        ("super().__init__()", "raise OSError('no luck\\nand more')", r"Mine\(...\) failed: OSError: no luck$"),
        ("class Mine(nn.Module):", "Mine = dict\nclass Other(nn.Module):", "no signature|not a torch.nn.Module"),
        ("return F", "return [F", "the file cannot be imported: SyntaxError"),
        ("return F.pixel_shuffle(self.tail(self.conv(x)), self.scale)", "return [x]", "its output is a list"),
        ("self.conv(x)", "self.conv(x)[:, :, 1:]", r"its output is \(1, 3, 188, 256\) for \(1, 3, 48, 64\)"),
        ("(self.tail(", "(torch.nan * self.tail(", "its output contains NaN or infinity"),
        ("(self.tail(", "(1e6 * self.tail(", r"its output reaches .* for an image in \[0, 1\]; set .* data_range"),
        ("self.conv(x)", "F.unfold(x, 8)", "it fails on an image of 64x48 pixels: RuntimeError"),
        ("self.conv(x)", "self.conv(x).view(1, 4, -1, 64)", "it fails on an image of 45x37 pixels: RuntimeError"),
        ("self.scale = scale", "self.scale = scale; self.data_range = 2", "its data_range is 2; set it to 1.0 or 255"),
        (
            "self.tail =",
            "self.lock = __import__('threading').Lock(); self.tail =",
            "copy.deepcopy of the network failed: TypeError",
        ),
        ("self.conv =", "self.scale = nn.Parameter(torch.ones(1)); self.conv =", "its attribute scale must be"),
        ("self.conv =", "self.sizes = (1, 3); self.conv =", "its attribute sizes must be a dict; rename it"),
        ("self.conv =", "self.name = 1; self.conv =", "its attribute name must be a str; rename it"),
        ("self.conv =", "self.name = nn.Identity(); self.conv =", "its attribute name must be a str"),
        (
            "return F",
            "self.register_buffer('grid', x[0, 0]); return F",
            "the shape of grid depends on the image; register it with persistent=False",
        ),
        (
            "self.tail =",
            "self.conv.double().register_forward_pre_hook(lambda _, x: x[0].double())\n"
            "        self.conv.register_forward_hook(lambda _, x, out: out.float())\n        self.tail =",
            "64x48 pixels: RuntimeError: Input type",
        ),
        (
            "    def forward",
            "    def get_extra_state(self):\n        return 1\n\n    def forward",
            "_extra_state of its state_dict is no tensor and cannot be saved",
        ),
    ],
)
def test_a_class_at_fault_is_named_in_one_line(write: Write, old: str, new: str, message: str) -> None:
    assert old in MINE
    model = write(MINE.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        build_network(model, 4)
    assert str(caught.value).startswith("mine.py:Mine: ") and "\n" not in str(caught.value)


def test_a_file_is_executed_as_it_is_now(write: Write) -> None:
    build_network(write(MINE))
    assert build_network(write(MINE.replace("width=4", "width=5"))).conv.out_channels == 5  # type: ignore[union-attr]


def test_weights_of_a_user_network_load_with_its_scale_and_arguments_when_the_file_is_named(write: Write) -> None:
    network = build_network(write(MINE), 2, {"width": 6})
    path, notes = saved(network), list[str]()
    loaded = load_network(path, "mine.py:Mine", note=notes.append)
    assert (loaded.scale, loaded.sizes, loaded.training) == (2, {"width": 6}, False)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert notes == []
    metadata = read_metadata(path)
    assert [metadata[key] for key in ("module_file", "module_class", "sizes")] == ["mine.py", "Mine", '{"width": 6}']


def test_weights_of_a_user_network_do_not_load_without_its_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(build_network(write(MINE)))
    monkeypatch.setattr("fmen.sources.networks.execute_file", pytest.fail)
    for load_it in (load, load_network):
        with pytest.raises(ValueError, match=r"these are weights of Mine in mine.py; name that file with --model"):
            load_it(path)


def test_a_user_network_with_the_tensors_of_a_named_one_is_not_taken_for_it(write: Write) -> None:
    source = "from fmen_core import create_model\ndef Mine(scale=4):\n    return create_model('span', scale, n_feats=8)"
    path = saved(build_network(write(source)))
    with pytest.raises(ValueError, match="these are weights of Mine"):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [("pixel_shuffle(", "pixel_shuffle(0 + ", "all tensors fit"), ("self.conv", "self.first", "conv.* is missing")],
)
def test_another_version_of_the_code_is_a_note_if_the_tensors_fit_and_an_error_otherwise(
    write: Write, old: str, new: str, note: str
) -> None:
    path, notes = saved(build_network(write(MINE))), list[str]()
    model = write(MINE.replace(old, new))
    if "missing" not in note:
        load_network(path, model, note=notes.append)
        assert notes == [f"note: {path}: they were trained with another version of mine.py:Mine; {note} {model}"]
    else:
        with pytest.raises(ValueError, match=r"first\.weight is missing.*trained with another version of mine.py:Mine"):
            load_network(path, model, note=notes.append)


def test_bare_tensors_load_into_a_user_network(write: Write) -> None:
    network = build_network(write(MINE))
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, "w.pth")
    loaded = load_network("w.pth", "mine.py:Mine")
    assert torch.equal(loaded.conv.weight, network.conv.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("key", ["sizes", "scale"])
def test_damaged_metadata_is_one_line(write: Write, key: str) -> None:
    network = build_network(write(MINE))
    record = user_module(network)
    assert record is not None
    save(network, "w.safetensors", metadata=record.metadata() | {key: "[1"})
    with pytest.raises(ValueError, match=r"w\.safetensors: its metadata is damaged"):
        load_network("w.safetensors", "mine.py:Mine")


def test_running_statistics_must_be_finite(write: Write) -> None:
    norm = MINE.replace("self.tail =", "self.norm = nn.BatchNorm2d(width)\n        self.tail =")
    network = build_network(write(norm.replace("self.conv(x)", "self.norm(self.conv(x))")), 4)
    network.norm.running_var[0] = torch.inf  # type: ignore[index,operator,union-attr]
    with pytest.raises(ValueError, match=r"norm\.running_var contains NaN or infinity"):
        load_network(saved(network), "mine.py:Mine")


def test_weights_that_make_a_user_network_overflow_are_refused(write: Write) -> None:
    network = build_network(write(MINE))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e30)
    with pytest.raises(ValueError, match="its output contains NaN or infinity"):
        load_network(saved(network), "mine.py:Mine")
    with torch.no_grad():
        network.conv.weight.fill_(torch.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(ValueError, match=r"conv\.weight contains NaN or infinity"):
        load_network(saved(network), "mine.py:Mine")


BLOCKS = MINE.replace("import torch\n", "from fmen_core.blocks.reparameterizable import RRRB\n", 1).replace(
    "self.conv = nn.Conv2d(3, width, 3, padding=1)", "self.conv = nn.Sequential(nn.Conv2d(3, width, 1), RRRB(width))"
)


def test_both_forms_of_a_user_network_with_reparameterizable_blocks_load(write: Write) -> None:
    training = build_network(write(BLOCKS)).eval()
    inference = reparameterize(training)
    assert isinstance(training.conv[1], RRRB) and user_module(inference) == user_module(training)  # type: ignore[index]
    x = torch.rand(1, 3, 9, 7)
    for network in (training, inference):
        loaded = load_network(saved(network), "mine.py:Mine")
        torch.testing.assert_close(loaded(x), network(x))


def test_a_network_with_fmens_tensors_and_other_arithmetic_stays_what_it_is(write: Write) -> None:
    source = (
        "from fmen_core import FMENTraining\n"
        "class Mine(FMENTraining):\n"
        "    def __init__(self, scale=4):\n"
        "        super().__init__(scale, 8, 8, 1, (1, 1))\n"
        "    def forward(self, x):\n"
        "        return 0.5 * super().forward(x)\n"
    )
    network = build_network(write(source)).eval()
    x = 255 * torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(reparameterize(network)(x), network(x), rtol=1e-4, atol=1e-2)


def test_a_name_with_weights_must_be_their_network(write: Write) -> None:
    save(create_model("fmen-s", n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1)), "fmen.safetensors")
    save(create_model("span", n_feats=8), "span.safetensors")
    assert load_network("fmen.safetensors", "fmen-s").sizes["n_feats"] == 8  # type: ignore[index]
    assert load_network("span.safetensors", "span").name == "span"
    with pytest.raises(ValueError, match=r"span\.safetensors: these are weights of span, not of fmen-s"):
        load_network("span.safetensors", "fmen-s")


def test_the_record_of_a_class_has_no_folder_in_its_metadata() -> None:
    metadata = UserModule(Path("/home/me/mine.py"), "Mine", {"widths": [1, 2]}, "00").metadata()
    assert metadata["module_file"] == "mine.py" and json.loads(metadata["sizes"]) == {"widths": [1, 2]}
