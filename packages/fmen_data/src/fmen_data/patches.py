"""Aligned random LR/HR patches from caches, augmented and batched.

A patch belongs to a global step and a slot in its batch. Image, position and orientation of slot ``i`` of step ``t``
come from a counter-based generator keyed by ``(seed, t)`` and do not depend on worker, rank, or earlier samples.
Training therefore resumes exactly, and any number of ranks sees the same samples.

Images are sampled uniformly, as in EDSR's loader, not in proportion to their area; with weights, first a cache by its
weight, then an image of that cache uniformly. Positions are sampled uniformly within the
image; orientations uniformly from the eight flips and rotations of the square. A degradation is applied to the LR
patch in its orientation, with a generator of its own for every slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .cache import PatchCache
from .degradation import Degradation, step_generator
from .errors import DataError, raise_all

Batch = tuple[Tensor, Tensor]


class PatchSampler:
    """Samples batches of aligned patches. Can be called from several threads and pickled into worker processes."""

    def __init__(
        self,
        caches: Sequence[PatchCache],
        *,
        patch: int = 64,
        batch: int = 16,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        degradation: Degradation | None = None,
        on_skip: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare sampling.

        Args:
            caches: The caches to sample from, all of one scale.
            patch: Side of an LR patch in pixels.
            batch: Patches per global step, over all ranks.
            seed: An integer from 0 to 2**64 - 1.
            weights: Expected share of each cache in the patches, up to a common factor; not negative, not all 0. By
                default every image is equally likely.
            degradation: Of the LR patches; None for the LR images as they are.
            on_skip: If given, images smaller than a patch are left out, and this is called with one line about each.

        Raises:
            DataError: An argument is out of range, the caches' scales differ, or images are smaller than a patch (all
                are named); with ``on_skip``, if these are all images of a cache.
        """
        if patch < 1 or batch < 1 or not 0 <= seed < 2**64:
            raise DataError(f"patch {patch} and batch {batch} must be at least 1, and seed {seed} from 0 to 2**64 - 1")
        scales = {cache.scale for cache in caches}
        if len(scales) != 1:
            found = f"caches of the scales {sorted(scales)}" if scales else "no cache"
            raise DataError(f"cannot sample from {found}; give one or more caches of one scale")
        if weights is not None and (len(weights) != len(caches) or min(weights) < 0 or not 0 < sum(weights) < np.inf):
            raise DataError(f"weights {list(weights)} must be {len(caches)} numbers of at least 0, not all 0")
        self.scale = scales.pop()
        self.patch, self.batch_size, self.seed = patch, batch, seed
        self._lr: list[Any] = [image for cache in caches for image in cache.lr]
        self._hr: list[Any] = [image for cache in caches for image in cache.hr]
        self.caches = tuple(caches)
        self.degradation = degradation
        self.weights = None if weights is None else tuple(weights)
        self._places = [(cache, index) for cache in caches for index in range(len(cache))]
        self._sound = np.zeros(len(self._places), bool)
        sizes = np.array([image.shape[:2] for image in self._lr], np.int64).reshape(-1, 2)
        names = [f"{name} of {cache.dataset}" for cache in caches for name in cache.names]
        small = sizes.min(1) < patch
        self._large: npt.NDArray[np.int64] = np.flatnonzero(~small)
        owner = np.repeat(np.arange(len(caches)), [len(cache) for cache in caches])
        self._counts = np.bincount(owner[self._large], minlength=len(caches))
        problems = [
            f"image {names[image]} is {sizes[image, 1]}x{sizes[image, 0]} in LR, smaller than a {patch}x{patch} patch; "
            "remove it or choose a smaller patch"
            for image in np.flatnonzero(small)
        ]
        if on_skip is None or not self._counts.all():
            raise_all(problems)
        else:
            for problem in problems:
                on_skip(problem)
        self._positions = sizes - patch + 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.caches, self.patch, self.batch_size, self.seed, self.weights, self.degradation)

    def draw(self, step: int) -> npt.NDArray[np.int64]:
        """Sample a step: int64 ``(batch, 4)``, rows of image, top, left (LR pixels) and orientation (0..7)."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], np.uint64)))
        uniform = generator.random((self.batch_size, 4))
        image = self._images(uniform[:, 0])
        position = (uniform[:, 1:3] * self._positions[image]).astype(np.int64)
        return np.column_stack((image, position, (uniform[:, 3] * 8).astype(np.int64)))

    def _images(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Convert numbers in [0, 1) to indices of images."""
        if self.weights is None:
            return self._large[(uniform * len(self._large)).astype(np.int64)]
        edges = np.cumsum([0.0, *self.weights])
        edges /= edges[-1]
        cache = np.searchsorted(edges, uniform, side="right") - 1
        counts = self._counts
        within = (uniform - edges[cache]) / (edges[cache + 1] - edges[cache])
        index = np.minimum((within * counts[cache]).astype(np.int64), counts[cache] - 1)  # within may round to 1
        images: npt.NDArray[np.int64] = self._large[(np.cumsum(counts) - counts)[cache] + index]
        return images

    def check(self, image: int) -> None:
        """Compare an image's pixels with their checksums, once.

        Raises:
            DataError: They differ: the cache is damaged.
        """
        if not self._sound[image]:
            cache, index = self._places[image]
            cache.check(index)
            self._sound[image] = True

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """Make the slots ``rank::world_size`` of a global step.

        Returns:
            LR uint8 ``(n, 3, patch, patch)`` and HR uint8 ``(n, 3, patch * scale, patch * scale)``, RGB, in
            channels-last memory.

        Raises:
            DataError: An image of the cache is damaged, or the step or the rank is out of range.
        """
        if step < 0 or not 0 <= rank < world_size:
            raise DataError(f"step {step}, rank {rank} of {world_size}: give a step from 0 and a rank below world_size")
        slots = range(rank, self.batch_size, world_size)
        samples = self.draw(step)[rank::world_size].tolist()
        lr_side, hr_side = self.patch, self.patch * self.scale
        lr = torch.empty((len(samples), lr_side, lr_side, 3), dtype=torch.uint8)
        hr = torch.empty((len(samples), hr_side, hr_side, 3), dtype=torch.uint8)
        lr_out, hr_out = lr.numpy(), hr.numpy()
        for index, (image, top, left, orientation) in enumerate(samples):
            self.check(image)
            place_patch(self._lr[image][top : top + lr_side, left : left + lr_side], lr_out[index], orientation)
            top, left = top * self.scale, left * self.scale
            place_patch(self._hr[image][top : top + hr_side, left : left + hr_side], hr_out[index], orientation)
            if self.degradation is not None:
                generator = step_generator(self.seed, step, slots[index])
                lr_out[index] = self.degradation(lr_out[index], hr_out[index], generator)
        return lr.permute(0, 3, 1, 2), hr.permute(0, 3, 1, 2)

    def batches(
        self,
        start_step: int,
        stop_step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
        threads: int = 1,
    ) -> Iterator[Batch]:
        """Yield the batches of the steps ``start_step`` to ``stop_step - 1`` in order, made in background threads.

        The threads end when the iterator is exhausted, closed or garbage-collected.

        Args:
            start_step: First global step.
            stop_step: The step to stop before.
            rank: Rank of this process, which gets the slots ``rank::world_size``.
            world_size: Number of processes.
            prefetch: Number of batches made ahead.
            threads: Number of threads.
        """
        pending: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="patches")
        try:
            for step in range(start_step, stop_step):
                pending.append(pool.submit(self.batch, step, rank=rank, world_size=world_size))
                if len(pending) > prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _restore(
    caches: tuple[PatchCache, ...],
    patch: int,
    batch: int,
    seed: int,
    weights: tuple[float, ...] | None,
    degradation: Degradation | None,
) -> PatchSampler:
    return PatchSampler(
        caches,
        patch=patch,
        batch=batch,
        seed=seed,
        weights=weights,
        degradation=degradation,
        on_skip=lambda _: None,  # what is left out was reported when the sampler was made
    )


def place_patch(source: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8], orientation: int) -> None:
    """Copy a square patch in one of eight orientations.

    Args:
        source: uint8 ``(p, p, 3)``, with any strides between the rows.
        out: uint8 ``(p, p, 3)``, contiguous; overwritten.
        orientation: 0..7. Bit 0 flips left-right, bit 1 top-bottom, and bit 2 then transposes.
    """
    flips = orientation & 3
    # Copy first: the patch is spread over many memory pages, and reading it backwards or by columns is slower.
    rows = np.empty_like(out) if orientation & 4 else out
    np.copyto(rows, source)
    # OpenCV moves whole pixels with vector instructions; NumPy copies byte by byte.
    if flips:
        cv2.flip(rows, _FLIP_CODES[flips], rows)
    if orientation & 4:
        cv2.transpose(rows, out)


_FLIP_CODES = {1: 1, 2: 0, 3: -1}  # OpenCV's codes for left-right, top-bottom, both
