"""MATLAB's ``imresize(image, scale, 'bicubic')`` on uint8 and uint16 images, bit-exact.

The LR images of DIV2K, Set5 and the other benchmarks were made by MATLAB. Its ``imresize`` resizes the rows, then the
columns, and rounds and clamps to the image's integer type after *each* of the two passes. Floating point between the
passes, as in the common Python ports, changes about one value in ten.

The arithmetic follows the documented algorithm of MATLAB's ``imresize``: the cubic kernel with a = -0.5 (Keys, "Cubic
convolution interpolation for digital image processing", 1981), widened by ``1 / scale`` for downscaling (antialiasing),
normalized weights, and symmetric padding.

Each block of output rows is one single-precision matrix product, whose rounding error has a known bound. The few values
closer than this bound to a rounding boundary are summed again in double precision and in MATLAB's order.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from .errors import DataError

Image = npt.NDArray[np.uint8]
AnyImage = TypeVar("AnyImage", npt.NDArray[np.uint8], npt.NDArray[np.uint16])

_KERNEL_WIDTH = 4.0
_FLOAT32_UNIT = 2.0**-24
# Multiplications per matrix product. OpenBLAS runs products of this size in one thread; its threads busy-wait, which
# slows down all other work on the machine, such as dataset workers.
_PRODUCT = 1 << 18
_WINDOW = 64  # approximate input rows per matrix product: large enough for BLAS, small enough for the L2 cache


def imresize(image: AnyImage, scale: float) -> AnyImage:
    """Resize an image exactly as MATLAB's ``imresize(image, scale, 'bicubic')`` does.

    Args:
        image: uint8 or uint16, ``(H, W)`` or ``(H, W, 3)``.
        scale: Factor for both sides, above 0: ``0.25`` or ``1 / 3`` downscales, ``2`` upscales.

    Returns:
        ``(ceil(H * scale), ceil(W * scale))`` in the input's type, with as many channels as the input.

    Raises:
        DataError: The image is of another type or shape or empty, or the scale is not positive and finite.
    """
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
        found = getattr(image, "dtype", type(image).__name__)
        raise DataError(f"imresize takes uint8 or uint16 images, got {found}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise DataError(f"imresize takes images of shape (H, W) or (H, W, 3), got {image.shape}")
    if not (math.isfinite(scale) and scale > 0):
        raise DataError(f"imresize takes a positive scale such as 0.25 or 2, got {scale}")
    transposed = np.asarray(cv2.transpose(_resize_rows(image, float(scale))), image.dtype)
    return np.asarray(cv2.transpose(_resize_rows(transposed, float(scale))), image.dtype)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic kernel with a = -0.5, in MATLAB's order of operations."""
    ax = np.abs(x)
    ax2, ax3 = ax**2, ax**3
    inner: npt.NDArray[np.float64] = (1.5 * ax3 - 2.5 * ax2 + 1) * (ax <= 1)
    outer: npt.NDArray[np.float64] = (-0.5 * ax3 + 2.5 * ax2 - 4 * ax + 2) * ((ax > 1) & (ax <= 2))
    return inner + outer


def _contributions(in_length: int, scale: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the weights and input positions of every output position of one dimension, both ``(out_length, taps)``."""
    shrink = min(scale, 1.0)
    width = _KERNEL_WIDTH / shrink
    x = np.arange(1, math.ceil(in_length * scale) + 1, dtype=np.float64)
    centre = x / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(centre - width / 2)
    positions = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = shrink * _cubic(shrink * (centre[:, None] - positions))
    total = np.zeros(len(x))
    for column in weights.T:  # NumPy's sum() adds in pairs, which can change the last bit
        total += column
    # Position 1 is the first pixel. Symmetric padding has a period of twice the length.
    folded = np.mod(positions - 1, 2 * in_length).astype(np.intp)
    return weights / total[:, None], np.minimum(folded, 2 * in_length - 1 - folded)


def _resize_rows(image: npt.NDArray[Any], scale: float) -> npt.NDArray[Any]:
    """Resize along the first dimension, ``(H, W)`` or ``(H, W, 3)`` -> ``(ceil(H * scale), ...)``, and round."""
    rows = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    weights, sources = _contributions(rows.shape[0], scale)
    out = np.empty((len(weights), rows.shape[1]), image.dtype)
    step = min(256, max(8, round(_WINDOW * scale)))
    blocks = [slice(start, start + step) for start in range(0, len(weights), step)]
    spans = [(int(sources[block].min()), int(sources[block].max()) + 1) for block in blocks]
    # Allocated once for all blocks: new memory for each would cost more time than the arithmetic.
    height = max(high - low for low, high in spans)
    chunk = max(16, _PRODUCT // (step * height) // 16 * 16)
    window = np.zeros((height, -(-rows.shape[1] // chunk), chunk), np.float32)
    scratch = np.empty((2, min(step, len(weights)), *window.shape[1:]), np.float32)
    for block, (low, high) in zip(blocks, spans, strict=True):
        part = window[: high - low]
        np.copyto(part.reshape(len(part), -1)[:, : rows.shape[1]], rows[low:high])
        _resize_block(part, weights[block], sources[block] - low, scratch, out[block])
    return out.reshape(len(weights), *image.shape[1:])


def _resize_block(
    window: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    sources: npt.NDArray[np.intp],
    scratch: npt.NDArray[np.float32],
    out: npt.NDArray[Any],
) -> None:
    """Compute ``out`` ``(n, L)`` from ``n`` sets of weights and the input rows ``window`` ``(m, chunks, chunk)``."""
    (count, taps), length = weights.shape, out.shape[1]
    dense = np.zeros((count, len(window)))
    np.add.at(dense, (np.arange(count)[:, None], sources), weights)
    product = scratch[0, :count]
    np.matmul(dense.astype(np.float32), window.transpose(1, 0, 2), out=product.transpose(1, 0, 2))
    values = product.reshape(count, -1)[:, :length]
    values += 0.5
    rounded = np.floor(values, out=scratch[1, :count].reshape(count, -1)[:, :length])
    white = float(np.iinfo(out.dtype).max)
    values -= rounded  # close to 0 or 1: at a rounding boundary
    values -= 0.5
    np.copyto(out, np.clip(rounded, 0, white, out=rounded), casting="unsafe")
    # Twice the standard bound for the error of a dot product, (taps + 2) * u * sum|w||x|.
    tolerance = 2 * (taps + 2) * _FLOAT32_UNIT * white * float(np.abs(weights).sum(1).max())
    row, column = np.divmod(np.flatnonzero(np.abs(values, out=values) >= 0.5 - tolerance), length)
    terms = weights[row].T * window.reshape(len(window), -1)[sources[row].T, column]  # (taps, values near a boundary)
    exact = np.add.accumulate(terms, axis=0)[-1]  # one tap after the other; sum() adds in pairs
    out[row, column] = np.clip(np.floor(exact + 0.5), 0, white)
