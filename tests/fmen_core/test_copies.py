"""Copies between the host and a device, which a GPU makes while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest
import torch

from fmen_core.copies import Copies, behind

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_on_the_cpu_nothing_is_copied() -> None:
    copies, tensor = Copies(CPU), torch.ones(3)
    assert copies.upload(tensor) is tensor and copies.ahead == 0
    assert copies.download(tensor)().data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_items_are_yielded_after_a_number_of_further_ones_is_made(count: int) -> None:
    made: list[int] = []
    found = [(item, len(made)) for item in behind((made.append(i) or i for i in range(5)), count)]  # type: ignore[func-returns-value]
    assert found == [(i, min(i + count + 1, 5)) for i in range(5)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Record the calls of streams and tensors: ``copies`` is the stream of the copies, ``work`` the current one."""
    recorded = MagicMock()

    @contextmanager
    def running(stream: MagicMock) -> Iterator[None]:
        stream.begins()
        yield
        stream.ends()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: recorded.copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: recorded.work)
    monkeypatch.setattr(torch.cuda, "stream", running)
    return recorded


def test_an_upload_has_a_stream_of_its_own_for_which_later_work_waits(calls: MagicMock) -> None:
    copy = Copies(CUDA).upload(calls.host)
    pinned = calls.host.pin_memory.return_value
    assert copy is pinned.to.return_value
    pinned.to.assert_called_once_with(CUDA, non_blocking=True)
    copy.record_stream.assert_called_once_with(calls.work)
    calls.work.wait_stream.assert_called_once_with(calls.copies)
    names = [name for name, *_ in calls.mock_calls]
    order = ["copies.begins", "host.pin_memory", "host.pin_memory().to", "copies.ends", "work.wait_stream"]
    assert names == [*order, "host.pin_memory().to().record_stream"]


def test_a_download_waits_for_earlier_work_and_is_waited_for(calls: MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, pin_memory, dtype: calls.pinned if pin_memory else None)
    copied = Copies(CUDA).download(calls.result)
    calls.copies.wait_stream.assert_called_once_with(calls.work)
    calls.pinned.copy_.assert_called_once_with(calls.result, non_blocking=True)
    calls.result.record_stream.assert_called_once_with(calls.copies)
    done = calls.copies.record_event.return_value
    done.synchronize.assert_not_called()
    assert copied() is calls.pinned.copy_.return_value
    done.synchronize.assert_called_once_with()
    names = [name for name, *_ in calls.mock_calls if name.startswith(("copies.", "pinned."))]
    order = ["copies.wait_stream", "copies.begins", "pinned.copy_", "copies.ends", "copies.record_event"]
    assert names == [*order, "copies.record_event().synchronize"]


@pytest.mark.cuda
def test_copies_are_exact_while_a_gpu_computes() -> None:
    uploads, downloads = Copies(CUDA), Copies(CUDA)
    hosts = [torch.randint(255, (2**20,), dtype=torch.uint8) for _ in range(8)]
    assert uploads.stream is not None
    with torch.cuda.stream(uploads.stream):
        torch.cuda._sleep(10**8)  # the first copy is late
    copies = []
    for host in hosts:
        torch.cuda._sleep(10**7)
        copies.append(downloads.download(uploads.upload(host) + 1))
    for host, copied in zip(hosts, copies, strict=True):
        assert torch.equal(copied(), host + 1)
