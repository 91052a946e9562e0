"""Run a network on images of any size, in any precision: whole, in strips of rows, or in tiles that join seamlessly."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import copy_of, sr_model, unwrap
from fmen_core.backends import PRECISIONS, Backend, check_backend
from fmen_core.copies import Copies, behind
from fmen_core.cuda_graph import may_capture
from fmen_core.device import pick_device
from fmen_core.ensemble import ensemble
from fmen_core.errors import ModelError
from fmen_core.pixels import AnyImage, interleave, is_finite, to_image, to_input, to_levels
from fmen_core.precision import DTYPES, PROBE_SIDE, Precision, automatic_precisions, float32_mode
from fmen_core.prepared import Prepared, prepare
from fmen_core.reparam import reparameterize
from fmen_core.row_graph import Node
from fmen_core.streaming import Stream, streamable
from fmen_core.tiling import (
    CPU_BUDGET,
    CUDA_BUDGET,
    SMALLEST_TILE,
    TILE_SHARE,
    free_memory,
    is_out_of_memory,
    largest_tile,
    needed_bytes,
    receptive_radius,
    smallest_side,
    windows,
)

Value = TypeVar("Value")

SMALL = 2**15
"""Number of LR pixels that fit into the memory of any machine."""

STRIP_BYTES = {"cpu": 38 * 2**20, "cuda": 2**30}
"""Memory of the features of a strip. On the CPU it is that of a 256x256 image in bf16: lower strips copy more of the
rows that convolutions hold, higher ones leave the cache."""

WHOLE_BYTES = {"cpu": 190 * 2**20, "cuda": 2**31}
"""Memory of the features up to which an image is not cut. On the CPU, a whole image of 512x512 pixels takes 0.9 times
as long as its strips in bf16, and one of 640x640 pixels 1.07 times."""

FEWEST_ROWS = 4
"""Least number of rows of a strip."""


class Upscaler:
    """A network as a function from image to image: ``(H, W, 3)`` RGB to ``(scale*H, scale*W, 3)`` RGB.

    Images are uint8, or uint16 with white at 65535; the output has the input's type. One upscaler may be used by
    several threads at the same time. It cannot be pickled: make one in each process.

    Args:
        model: Any network of this package, in any floating-point type; a training form is re-parameterized first. The
            model itself is not changed.
        device: ``"auto"`` takes CUDA where there is a GPU.
        precision: The number format of the convolutions: ``"fp32"``, ``"tf32"`` (on a GPU), ``"bf16"`` or ``"fp16"``.
            The first and the last convolution are computed in fp32, unless TF32 is asked for. ``"auto"`` takes the
            fastest that the device has instructions for and that the network's values fit into: fp16 or bf16 on CUDA,
            bf16 on the CPU, otherwise fp32. If an image leaves its range, the next one is taken from then on.
        tile: ``"auto"``, the side of the LR tiles that the image is cut into, or None for the whole image at once.
            ``"auto"`` streams large images through a network that is a chain of convolutions, in strips of rows (see
            ``fmen_core.streaming``). For other networks and with ``self_ensemble``, it takes the whole image if that
            needs less than 1.25 GiB (8 GiB on a GPU) and half of the free memory, otherwise the largest tiles that
            need three fifths of that. A network with global or coarse-grid attention is never cut. Each tile is read
            with a margin as wide as the receptive field. Results of strips and tiles differ from those of the whole
            image by at most one gray level, in about one of a million values, because sums may be formed in another
            order. When memory runs out, the strips' rows or the tiles' side are halved.
        channels_last: Store the channels of a pixel together, which is faster. The sums are formed in another order
            than in the published implementations, which changes a PSNR in its sixth digit.
        self_ensemble: Return the mean of the outputs for the image's eight flips and rotations: some hundredths of a
            dB more for eight times the time.
        backend: The library that runs the network: ``"torch"``, or, on the CPU and if it is installed, ``"openvino"``
            in fp32 or bf16 or ``"onnxruntime"`` in fp32. They take tiles instead of strips. ``"auto"`` is PyTorch.

    Raises:
        ModelError: The precision, the tile or the backend is none of the above; the network cannot be tiled, not be
            computed in this precision, or not be run by this backend; the backend is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        tile: int | Literal["auto"] | None = "auto",
        channels_last: bool = True,
        self_ensemble: bool = False,
        backend: Backend = "auto",
    ) -> None:
        if precision not in ("auto", *DTYPES):
            raise ModelError(f"precision {precision!r} is unknown; choose one of {', '.join(DTYPES)} or auto")
        if tile is not None and tile != "auto":
            try:
                tile = operator.index(tile)
            except TypeError as error:
                raise ModelError(f"tile {tile!r} is unknown; choose an int, 'auto' or None") from error
            if tile < SMALLEST_TILE:
                raise ModelError(f"a tile of {tile} pixels is too small; choose {SMALLEST_TILE} or more")
        self.device = torch.device(pick_device(device))
        if precision == "tf32" and self.device.type != "cuda":
            raise ModelError("tf32 needs a CUDA GPU; choose fp32 on the CPU")
        check_backend(backend, self.device, precision)
        self.backend = "torch" if backend == "auto" else backend
        network = sr_model(model)
        self.scale, self.data_range = network.scale, network.data_range
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.self_ensemble = self_ensemble
        self.tile = tile
        self._uploads, self._downloads = Copies(self.device), Copies(self.device)
        self._lock = threading.RLock()
        self._measured: dict[str, Any] = {}
        self._largest_tile: int | None = None
        self._most_rows: int | None = None
        self._float32 = reparameterize(copy_of(unwrap(model)).float()).to(self.device)
        choices = automatic_precisions(self.device) if precision == "auto" else (precision,)
        choices = tuple(each for each in choices if each in PRECISIONS.get(self.backend, DTYPES))
        self._prepared = self._prepare(choices)
        if isinstance(tile, int) and self.radius is None:
            raise ModelError("this network looks at the image as a whole and cannot be tiled; choose tile=None")

    @property
    def model(self) -> nn.Module:
        """The network in PyTorch, in the current precision; in fp32 if another backend runs it."""
        return self._prepared.model

    @property
    def precision(self) -> str:
        """The current precision."""
        return self._prepared.precision

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features."""
        return DTYPES[self.precision]

    @property
    def radius(self) -> int | None:
        """The radius of the receptive field in LR pixels; None if the network cannot be tiled."""
        return self._measure("radius", lambda: receptive_radius(self._float32))

    @property
    def bytes_per_pixel(self) -> float:
        """The memory that a forward pass needs, per LR pixel."""
        prepared = self._prepared
        return self._measure(f"bytes in {prepared.precision}", lambda: needed_bytes(prepared.model))

    def _measure(self, name: str, measurement: Callable[[], Value]) -> Value:
        """Return the result of a measurement of the network, which is made once."""
        with self._lock:
            if name not in self._measured:
                self._measured[name] = measurement()
            value: Value = self._measured[name]
            return value

    def _prepare(self, precisions: tuple[str, ...]) -> Prepared:
        return prepare(self._float32, self.device, precisions, self.backend, self.memory_format)

    def _fall_back(self, failed: Prepared) -> Prepared:
        """Take the next precision after an output of ``failed`` that is not finite.

        Raises:
            ModelError: There is none.
        """
        with self._lock:
            if self._prepared is failed:
                if not failed.fallbacks:
                    remedy = "choose bf16 or fp32" if failed.precision == "fp16" else "check the weights"
                    raise ModelError(
                        f"this network's output in {failed.precision} is NaN or infinite on this image; {remedy}"
                    )
                self._prepared = self._prepare(failed.fallbacks)
            return self._prepared

    def __call__(self, lr: AnyImage, *, on_tile: Callable[[int, int], object] | None = None) -> AnyImage:
        """Upscale one image.

        Args:
            lr: ``(H, W, 3)`` RGB, uint8 or uint16.
            on_tile: Called after every strip or tile with the number of finished ones and the number of all. It starts
                again when memory runs out and they become smaller.

        Raises:
            ModelError: ``lr`` has another type or shape; the output is not finite; the network cannot run on an image
                of this size; or the memory runs out.
        """
        pieces = self._pieces(lr, on_tile, whole=True)
        first: AnyImage = next(pieces)
        height, top = self.scale * len(lr), len(first)
        if top == height:
            return first
        try:
            sr = np.empty((height, *first.shape[1:]), lr.dtype)
        except MemoryError as error:
            remedy = "write it as PNG or TIFF, or use Upscaler.stream"
            raise ModelError(f"the result does not fit into memory ({error}); {remedy}") from error
        sr[:top] = first
        for piece in pieces:
            sr[top : top + len(piece)] = piece
            top += len(piece)
        return sr

    def stream(
        self, lr: AnyImage, *, on_tile: Callable[[int, int], object] | None = None
    ) -> Generator[AnyImage, None, None]:
        """Upscale one image and yield the result in pieces of whole rows, from top to bottom.

        The pieces are strips of rows, rows of tiles, or the whole result, as ``tile`` says. Two rows of automatic tiles
        need at most a quarter of the free memory. Arguments and errors are those of a call.
        """
        return self._pieces(lr, on_tile, whole=False)

    def _pieces(
        self, lr: AnyImage, on_tile: Callable[[int, int], object] | None, *, whole: bool
    ) -> Generator[AnyImage, None, None]:
        """Upscale one image and yield the result in pieces, which the caller joins if it is ``whole``."""
        if not isinstance(lr, np.ndarray):
            raise ModelError(f"expected a uint8 or uint16 (H, W, 3) image, got a {type(lr).__name__}")
        if lr.dtype not in (np.uint8, np.uint16) or lr.ndim != 3 or lr.shape[2] != 3 or not lr.size:
            raise ModelError(f"expected a uint8 or uint16 (H, W, 3) image, got {lr.dtype} {lr.shape}")
        height, width = lr.shape[:2]
        done = 0
        while done < height * self.scale:
            rows = self.rows_for(height, width)
            tile = self.tile_for(height, width, lr.itemsize, whole=whole) if rows is None else None
            # After a change of the precision or of the size, the rows that the next ones depend on are repeated.
            first = max(0, done // self.scale - self.reach) if done else 0
            rest, top = lr[first:], first * self.scale
            try:
                if rows is not None:
                    pieces = self._strips(rest, rows, on_tile)
                else:
                    pieces = iter([self.run(rest)]) if tile is None else self._rows_of_tiles(rest, tile, on_tile)
                for piece in pieces:
                    ready, top = piece[max(0, done - top) :], top + len(piece)
                    if len(ready):
                        done = top
                        yield ready
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                continue
            # Outside the except clause, where the traceback no longer holds the features.
            self._use_less_memory(height, width, rows, tile)

    def _use_less_memory(self, height: int, width: int, rows: int | None, tile: int | None) -> None:
        """Halve the strips or the tiles, for this image and the next ones, after memory has run out.

        Raises:
            ModelError: The network cannot be tiled, or they are the smallest ones.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if rows is not None or (tile is None and self._may_stream):
            if rows == 1:
                raise ModelError(f"out of memory on {width}x{height} pixels, even in strips of one row")
            self._most_rows = max(1, min(rows or height, height) // 2)
            return
        if self.radius is None:
            raise ModelError(
                f"out of memory on {width}x{height} pixels, and this network cannot be tiled; choose another network, "
                "or cut the image"
            )
        side = max(height, width) if tile is None else min(tile, max(height, width))
        if side <= SMALLEST_TILE:
            raise ModelError(f"out of memory on {width}x{height} pixels, even in tiles of {side} pixels")
        self._largest_tile = max(SMALLEST_TILE, side // 2)

    def _strips(
        self, lr: AnyImage, rows: int, on_tile: Callable[[int, int], object] | None = None
    ) -> Iterator[AnyImage]:
        """Upscale in strips of ``rows`` LR rows; end when an output is not finite, after changing the precision."""
        prepared = self._prepared
        nodes = self._nodes(prepared)
        assert nodes is not None
        height, width = lr.shape[:2]
        finite: list[Tensor] = []

        def finish(out: Tensor) -> Tensor:
            finite.append(is_finite(out))
            return to_levels(out, self.data_range, lr.dtype)

        stream = Stream(nodes, height, width, self.memory_format, self.device, finish)

        def compute(step: int) -> list[Callable[[], Tensor]]:
            finite.clear()
            with torch.inference_mode(), float32_mode(tf32=prepared.precision == "tf32"):
                x = to_input(lr[step * rows : (step + 1) * rows], self.data_range, self._uploads.upload)
                out = stream.step(x, rows)
                found = [] if out is None else [torch.stack(finite).all(), interleave(out)]
                return [self._downloads.download(tensor) for tensor in found]

        total = stream.steps(rows)
        for step, copies in enumerate(behind(map(compute, range(total)), self._downloads.ahead), 1):
            found = [copied() for copied in copies]
            if found and not found[0]:
                self._fall_back(prepared)
                return
            if on_tile is not None:
                on_tile(step, total)
            if found:
                yield np.ascontiguousarray(found[1].numpy(), lr.dtype)

    def _rows_of_tiles(
        self, lr: AnyImage, tile: int, on_tile: Callable[[int, int], object] | None = None
    ) -> Iterator[AnyImage]:
        """Upscale in tiles of at most ``tile`` LR pixels a side; yield each row of tiles."""
        height, width = lr.shape[:2]
        margin = self.radius or 0
        rows, columns = list(windows(height, tile, margin)), list(windows(width, tile, margin))
        scale, total = self.scale, len(rows) * len(columns)
        for i, (top, bottom, first_row, last_row) in enumerate(rows):
            sr = np.empty(((bottom - top) * scale, width * scale, 3), lr.dtype)
            for j, (left, right, first_column, last_column) in enumerate(columns):
                out = self.run(lr[first_row:last_row, first_column:last_column])
                row, column = (top - first_row) * scale, (left - first_column) * scale
                target = sr[:, left * scale : right * scale]
                target[:] = out[row : row + target.shape[0], column : column + target.shape[1]]
                if on_tile is not None:
                    on_tile(i * len(columns) + j + 1, total)
            yield sr

    @property
    def _may_stream(self) -> bool:
        possible = self.tile == "auto" and not self.self_ensemble and self.backend == "torch"
        return possible and self._nodes(self._prepared) is not None

    def _nodes(self, prepared: Prepared) -> list[Node] | None:
        return self._measure(f"nodes in {prepared.precision}", lambda: streamable(prepared.model))

    @property
    def reach(self) -> int:
        """Rows of an LR image above a row of the result that the result depends on."""
        nodes = self._nodes(self._prepared) if self._may_stream else None
        return self.radius or 0 if nodes is None else -(-nodes[-1].lag // self.scale)

    def rows_for(self, height: int, width: int) -> int | None:
        """Return the rows of the strips in which an LR image of this size is streamed, or None if it is not."""
        if (height * width <= SMALL and self._most_rows is None) or not self._may_stream:
            return None
        row = self.bytes_per_pixel * width
        if height * row <= WHOLE_BYTES[self.device.type] and self._most_rows is None:
            return None
        # An even number: two threads compute the same number of rows.
        rows = max(FEWEST_ROWS, 2 * int(STRIP_BYTES[self.device.type] / row / 2))
        if self._most_rows is not None:
            rows = min(rows, self._most_rows)
        return rows if rows < height else None

    def tile_for(self, height: int, width: int, itemsize: int = 1, *, whole: bool = True) -> int | None:
        """Return the side of the tiles that an LR image of this size is cut into, or None if it is not cut.

        Args:
            height: Rows of the image.
            width: Columns of the image.
            itemsize: Bytes of a value of the image.
            whole: Whether the result is in memory as a whole, or one row of tiles after another.

        Raises:
            ModelError: The image does not fit into memory and the network cannot be tiled.
        """
        tile = self._automatic_tile(height, width, itemsize, whole) if self.tile == "auto" else self.tile
        if self._largest_tile is None:
            return tile
        side = min(tile or max(height, width), self._largest_tile)
        return None if tile is None and side == max(height, width) else side

    def _automatic_tile(self, height: int, width: int, itemsize: int, whole: bool) -> int | None:
        if height * width <= SMALL:
            return None
        needed = self.bytes_per_pixel * height * width
        row = width * self.scale**2 * 3 * itemsize  # of the result, which is in the host's memory, also on a GPU
        free = max(0, free_memory(self.device) - (row * height if whole and self.device.type == "cpu" else 0))
        budget = min(free // 2, CUDA_BUDGET if self.device.type == "cuda" else CPU_BUDGET)
        if needed <= budget:
            return None
        if self.radius is not None:
            tile = largest_tile(self.bytes_per_pixel, self.radius, TILE_SHARE * budget)
            if whole or self.device.type == "cuda":
                return tile
            return max(2 * SMALLEST_TILE, min(tile, free // 8 // row))
        if needed > free:
            raise ModelError(
                f"{width}x{height} pixels need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free, and this network "
                "cannot be tiled; choose another network, or cut the image"
            )
        return None

    @torch.inference_mode()
    def run(self, lr: AnyImage) -> AnyImage:
        """Upscale one image or tile at once."""
        height, width = lr.shape[:2]
        x = to_input(lr, self.data_range, self._uploads.upload)
        if min(height, width) < PROBE_SIDE:
            least = self._measure("smallest side", lambda: smallest_side(self._float32))
            x = F.pad(x, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")
        x = x.contiguous(memory_format=self.memory_format)
        out = self._finite_output(x)[..., : height * self.scale, : width * self.scale]
        sr: AnyImage = to_image(out, self.data_range, lr.dtype)
        return sr

    def _finite_output(self, x: Tensor) -> Tensor:
        """Run the network on ``x`` ``(1, 3, H, W)``, in a further precision if the output is not finite."""
        prepared = self._prepared
        expected = (1, 3, x.shape[2] * self.scale, x.shape[3] * self.scale)
        while True:
            with float32_mode(tf32=prepared.precision == "tf32"):
                captured = may_capture(prepared.model, x) and self._nodes(prepared) is not None
                run = prepared.graphs if captured else prepared.run
                out = ensemble(run, x, self.memory_format) if self.self_ensemble else run(x)
            if out.shape != expected:
                found, given = tuple(out.shape), tuple(x.shape)
                raise ModelError(f"the output of this x{self.scale} network is {found} for an input of {given}")
            if is_finite(out):
                return torch.as_tensor(out)
            prepared = self._fall_back(prepared)
