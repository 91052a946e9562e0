"""Images in, training batches out: MATLAB-exact bicubic, datasets of LR/HR pairs, an HDF5 cache, random patches."""

from .bicubic import imresize
from .cache import PatchCache, prepare_cache
from .datasets import Pair, PairDataset, open_dataset
from .errors import DataError
from .images import image_size, list_images, read_image, write_image
from .patches import PatchSampler

__all__ = [
    "DataError",
    "Pair",
    "PairDataset",
    "PatchCache",
    "PatchSampler",
    "image_size",
    "imresize",
    "list_images",
    "open_dataset",
    "prepare_cache",
    "read_image",
    "write_image",
]
