"""Runs of two and three processes on this machine, connected over gloo."""

from __future__ import annotations

import copy
import math
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch._dynamo  # Otherwise every forked process imports it, which takes seconds.
import torch.distributed as dist
from torch import nn

from fmen.training import loop
from fmen.training.checkpoint import State
from fmen.training.distributed import Processes, distribute, join, no_sync
from fmen.training.feed import open_validation
from fmen.training.logger import Logger
from fmen.training.loop import take_step, train
from fmen.training.recipe import Recipe, dump_recipe
from fmen.training.run_folder import Run, resumed_recipe
from fmen.training.signals import StopRequest
from fmen.training.validation import measure, validate_step
from fmen_core import FMENTraining

RecipeMaker = Callable[..., Recipe]
CPU = torch.device("cpu")


@dataclass
class Ended:
    """How the processes of a run have ended.

    Attributes:
        statuses: Exit status of each; negative for a signal.
        seconds: Time until the last one had ended.
        text: What they wrote on standard output and standard error.
    """

    statuses: list[int]
    seconds: float
    text: str


def launch(count: int, function: Callable[[], object], folder: Path, port: int | None = None) -> Ended:
    """Call ``function`` in ``count`` forked processes with the environment of ``torchrun``, and wait for them."""
    folder.mkdir(exist_ok=True)
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    started, children = time.monotonic(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in environment.items()} | {"MASTER_ADDR": "127.0.0.1"})
            run_child(function, folder / "output.txt")
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return Ended(statuses, time.monotonic() - started, (folder / "output.txt").read_text())


def run_child(function: Callable[[], object], output: Path) -> NoReturn:
    status = 1
    try:
        signal.alarm(100)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w")
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def small_network(seed: int) -> FMENTraining:
    """An FMEN in training mode whose BatchNorms use their running statistics, and whose collapsed blocks run."""
    torch.manual_seed(seed)
    model = FMENTraining(n_feats=8, mid_feats=6, down_blocks=1, up_blocks=(1, 1)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def plain_network() -> nn.Module:
    """A network that is traced in a second."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def backward(network: nn.Module, lr: torch.Tensor, hr: torch.Tensor) -> None:
    (network(lr) - hr).abs().mean().backward()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(255 * torch.rand(4, 3, side, side, generator=generator) for side in (8, 32))  # type: ignore[return-value]


def two_processes(photos: Path, recipe: Recipe, folder: Path) -> None:
    """What the tests of ``pair`` compare with one process."""
    with join() as processes:
        rank = processes.rank
        decision = processes.decide(lambda: f"decided by {rank}")
        processes.connect(CPU)
        found: dict[str, Any] = {"decision": decision, "shared": processes.share(lambda: rank)}
        lr, hr = (part[rank::2] for part in batch())

        model = small_network(seed=rank)
        for buffer in model.buffers():
            buffer.add_(rank)
        found["initial"] = copy.deepcopy(model.state_dict())
        network = distribute(model, processes, CPU, static_graph=False)
        found["distributed"] = copy.deepcopy(model.state_dict())
        backward(network, lr, hr)
        found["gradients"] = gradients(model)

        model.zero_grad()
        with no_sync(network):
            backward(network, lr[:1], hr[:1])
        found["own"] = gradients(model)
        backward(network, lr[1:], hr[1:])
        found["accumulated"] = [gradient / 2 for gradient in gradients(model)]

        model = plain_network()
        static = torch.compile(distribute(model, processes, CPU, static_graph=True), backend="eager")
        for _ in range(2):
            model.zero_grad()
            backward(static, lr, hr)
        found["compiled"] = gradients(model)

        order = folder / "order"
        processes.first_on_node(lambda: time.sleep(0.3 if rank else 0.5) or order.open("a").write(f"{rank}"))
        found["order"] = order.read_text()
        images = open_validation(recipe)
        model = small_network(0)
        for buffer in model.buffers():
            buffer.add_(rank)
        state = State(model, None, torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu"), torch.zeros(()))
        state.best = math.inf
        found |= validate_step(recipe, Run(folder / "run"), state, images, CPU, processes, StopRequest())
        stop = StopRequest()
        stop.signal = signal.SIGTERM if rank == 1 else None
        found["stopped"] = measure(recipe, small_network(0), images[0], CPU, processes, stop)
        found["number"] = processes.largest(stop.number())
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def pair(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    recipe = Recipe(steps=1, learning_rate=1e-3, device="cpu", val_data=f"{photos}", data=(str(photos),))
    ended = launch(2, lambda: two_processes(photos, recipe, folder), folder)
    assert ended.statuses == [0, 0], ended.text
    # torch.compile may warn, depending on what the process has compiled before, about the profiler in DDP's forward.
    assert [line for line in ended.text.splitlines() if "record_function" not in line] == []
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("way", ["gradients", "accumulated", "compiled"])
def test_the_gradient_of_two_processes_is_that_of_one_with_the_same_batch(pair: list[dict[str, Any]], way: str) -> None:
    model = plain_network() if way == "compiled" else small_network(0)
    backward(model, *batch())
    expected = gradients(model)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for mine, theirs, reference in zip(pair[0][way], pair[1][way], expected, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-6 * largest)


def test_gradients_accumulate_without_communication(pair: list[dict[str, Any]]) -> None:
    assert not any(map(torch.equal, pair[0]["own"], pair[1]["own"]))


def test_all_processes_start_with_the_weights_and_buffers_of_the_first(pair: list[dict[str, Any]]) -> None:
    for name, value in pair[0]["initial"].items():
        assert torch.equal(pair[0]["distributed"][name], value) and torch.equal(pair[1]["distributed"][name], value)
    assert not torch.equal(pair[1]["initial"]["tail.0.weight"], pair[0]["initial"]["tail.0.weight"])


def test_the_first_process_decides_for_all(pair: list[dict[str, Any]]) -> None:
    assert [each["decision"] for each in pair] == ["decided by 0"] * 2
    assert [each["shared"] for each in pair] == [0, 0]


def test_one_process_per_node_prepares_before_the_others_and_none_goes_on_before_all(
    pair: list[dict[str, Any]],
) -> None:
    assert [each["order"] for each in pair] == ["01", "01"]


def test_validation_shared_by_two_processes_gives_the_number_of_one(
    pair: list[dict[str, Any]], photos: Path, recipe_of: RecipeMaker
) -> None:
    recipe = recipe_of(val_data=str(photos))
    (images,) = open_validation(recipe)
    alone = measure(recipe, small_network(0), images, CPU, Processes(), StopRequest())
    assert [(each["psnr"],) for each in pair] == [alone, alone]


def test_a_signal_to_one_process_stops_the_validation_of_all(pair: list[dict[str, Any]]) -> None:
    assert [each["stopped"] for each in pair] == [None, None]
    assert [each["number"] for each in pair] == [signal.SIGTERM, signal.SIGTERM]


def interrupted(monkeypatch: pytest.MonkeyPatch, rank: int, step: int, act: Callable[[], object]) -> None:
    """Call ``act`` in one process after its step ``step``."""
    tick, calls = Logger.tick, iter(range(1, 1_000))

    def acting_tick(self: Logger) -> None:
        tick(self)
        if next(calls) == step and os.environ.get("RANK") == str(rank):
            act()

    monkeypatch.setattr(Logger, "tick", acting_tick)


def terminate_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_continues_with_another_number_of_processes_and_counts_every_loss_once(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, losses = Run(tmp_path / "run"), tmp_path / "losses"
    recipe = tiny(batch=6, steps=8, log_every=8, ema=0.9)
    losses.mkdir()

    def recording_step(recipe: Recipe, state: State, *rest: Any) -> torch.Tensor:
        loss = take_step(recipe, state, *rest)
        with (losses / f"{state.step}").open("a") as file:
            file.write(f"{loss.item()}\n")
        return loss

    def part(first: bool) -> None:
        outcome = train(recipe if first else resumed_recipe(run, {}), run, resume=not first)
        print(outcome.step, outcome.signal)

    monkeypatch.setattr(loop, "take_step", recording_step)
    with monkeypatch.context() as patch:
        interrupted(patch, rank=1, step=3, act=terminate_self)
        ended = launch(2, lambda: part(first=True), tmp_path / "first")
    assert ended.statuses == [0, 0] and ended.text in ("3 15\n" * 2, "4 15\n" * 2), ended.text
    step = int(ended.text[0])
    checkpoint = torch.load(run.resume, weights_only=True)
    assert (checkpoint["step"], checkpoint["counted"]) == (step, step)

    with monkeypatch.context() as patch:
        interrupted(patch, rank=2, step=2, act=terminate_self)
        ended = launch(3, lambda: part(first=False), tmp_path / "second")
    assert ended.statuses == [0, 0, 0], ended.text
    assert train(resumed_recipe(run, {}), run, resume=True).step == 8
    each = [[float(line) for line in (losses / f"{step}").read_text().split()] for step in range(8)]
    counts = [len(values) for values in each]
    assert counts == sorted(counts[:step]) + sorted(counts[step:], reverse=True)
    assert (counts[0], counts[step], counts[7]) == (2, 3, 1)
    means = [sum(values) / len(values) for values in each]
    assert [record["step"] for record in run.records()] == [8]
    assert run.records()[0]["loss"] == pytest.approx(sum(means) / 8, rel=1e-5)


def test_a_process_that_fails_ends_the_others_and_reports_alone(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        raise ZeroDivisionError("in one process")

    interrupted(monkeypatch, rank=1, step=3, act=act)
    recipe = tiny(batch=6, steps=1_000, val_every=0)
    ended = launch(3, lambda: train(recipe, Run(tmp_path / "run")), tmp_path / "log")
    assert ended.statuses == [1, 1, 1]
    assert ended.text.count("Traceback") == 1 and "ZeroDivisionError: in one process" in ended.text
    assert "error:" not in ended.text
    assert ended.seconds < 30


def assert_others_ended_with_one_line(text: str) -> None:
    # PyTorch's C++ code may add warnings of its own, about the connection to the process that has ended.
    assert text.count("error: another process of the run has ended; its messages say why\n") == 1
    assert "Traceback" not in text


def test_a_killed_process_ends_the_others_without_a_traceback(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, rank=2, step=3, act=lambda: os.kill(os.getpid(), signal.SIGKILL))
    ended = launch(3, lambda: train(tiny(batch=6, steps=1_000), Run(tmp_path / "run")), tmp_path / "log")
    assert ended.statuses == [1, 1, -signal.SIGKILL]
    assert_others_ended_with_one_line(ended.text)
    assert ended.seconds < 30


def test_a_killed_process_ends_others_that_do_not_communicate_with_it(tmp_path: Path) -> None:
    def prepare() -> None:
        if os.environ["RANK"] == "1":
            time.sleep(1)  # The others have connected.
            os.kill(os.getpid(), signal.SIGKILL)

    def function() -> None:
        with join() as processes:
            processes.connect(CPU)
            processes.first_on_node(prepare)

    ended = launch(3, function, tmp_path / "log")
    assert ended.statuses == [1, -signal.SIGKILL, 1]
    assert_others_ended_with_one_line(ended.text)


def test_the_same_fault_in_all_processes_is_reported_once(tiny: RecipeMaker, tmp_path: Path) -> None:
    recipe = tiny(batch=5)
    ended = launch(2, lambda: train(recipe, Run(tmp_path / "run")), tmp_path / "log")
    assert ended.statuses == [1, 1]
    assert ended.text.count("batch = 5 is not a multiple of the 2 processes") == 1


def test_processes_that_are_restarted_do_not_read_the_messages_of_the_former_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")

    def decide(what: str) -> None:
        with join() as processes:
            print(processes.decide(lambda: time.sleep(0.5) or what))

    for what in ("first", "second"):
        ended = launch(2, partial(decide, what), tmp_path / what, store.port)
        assert (ended.statuses, ended.text) == ([0, 0], f"{what}\n" * 2)


RESTARTED = """
import os, signal, sys
from fmen.cli.main import main
from fmen.training.logger import Logger
tick, calls = Logger.tick, iter(range(1, 100))

def killed_tick(self):
    tick(self)
    if next(calls) == 2 and (os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]) == ("0", "1"):
        os.kill(os.getpid(), signal.SIGKILL)

Logger.tick = killed_tick
main()
"""


def test_torchrun_restarts_a_run_that_was_killed_before_its_first_checkpoint(tiny: RecipeMaker, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(RESTARTED)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny(steps=3, save_every=100, log_every=1)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*launcher, "script.py", "train", "--recipe", "recipe.yaml", "--out", "run", "--resume", "auto"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("done: 3 steps: run/last.safetensors\n")
    assert ended.stdout.count("run run:") == 2 and "Traceback" not in ended.stderr
    assert [record["step"] for record in Run(tmp_path / "run").records()] == [1, 2, 3]


SYNCHRONISED = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from fmen.training.distributed import Processes, distribute
from fmen_core import FMENTraining

rank, size, device = int(os.environ["RANK"]), 2, torch.device("cuda", 0)
dist.init_process_group("gloo")  # NCCL does not let two processes share a GPU.
torch.backends.cudnn.allow_tf32 = False
generator = torch.Generator().manual_seed(0)
lr, hr = (255 * torch.rand(4, 3, side, side, generator=generator).to(device) for side in (16, 64))

def run(sync):
    torch.manual_seed(0)
    model = FMENTraining(n_feats=8, mid_feats=6, down_blocks=1, up_blocks=(1, 1)).train().to(device)
    part = slice(None)
    network = model
    if sync:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        network, part = distribute(model, Processes(rank, size), device, static_graph=False), slice(rank, None, size)
    (network(lr[part]) - hr[part]).abs().mean().backward()
    return [p.grad for p in model.parameters()], [b.float() for b in model.buffers()]

for found, expected in zip(run(sync=True), run(sync=False)):
    error = torch.cat([(a - b).flatten() for a, b in zip(found, expected)]).norm()
    size = torch.cat([b.flatten() for b in expected]).norm()
    print("relative error", (error / size).item())
    assert error < 1e-4 * size, (error, size)
dist.destroy_process_group()
"""


@pytest.mark.cuda
def test_two_processes_with_synchronised_batchnorm_train_as_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SYNCHRONISED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run([*launcher, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


CONNECTED = """
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from fmen.training.distributed import Processes

device = torch.device("cuda", 0)
torch.cuda.set_device(device)
processes = Processes(store=dist.HashStore())
processes.connect(device)
assert processes.heartbeat is not None and processes.heartbeat.is_alive()
assert processes.share(lambda: "shared") == "shared"
network = DistributedDataParallel(nn.Conv2d(3, 3, 1).to(device), device_ids=[device], static_graph=True)
network(torch.ones(1, 3, 4, 4, device=device)).sum().backward()
for value in (torch.ones(2), torch.ones(2, device=device)):
    dist.all_reduce(value)
    assert value.tolist() == [1, 1]
processes.size = 2  # Its functions communicate, with itself.
assert processes.vote(lambda: 3)() == 3
processes.copy_first([value])
processes.average(value)
assert value.tolist() == [0.5, 0.5]
processes.end()
"""


@pytest.mark.cuda
def test_tensors_on_a_gpu_go_over_nccl_and_those_on_the_cpu_over_gloo(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CONNECTED)
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
