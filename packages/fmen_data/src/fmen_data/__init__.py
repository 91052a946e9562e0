"""Images in, training batches out: MATLAB-exact bicubic, datasets of LR/HR pairs, an HDF5 cache, random patches,
degradations."""

from .bicubic import imresize
from .cache import PatchCache
from .datasets import Pair, PairDataset, Source, open_dataset, parse_source
from .degradation import Degradation
from .errors import DataError
from .images import image_size, list_images, read_image, write_image
from .patches import PatchSampler
from .prepare import prepare_cache

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "Degradation",
    "Pair",
    "PairDataset",
    "PatchCache",
    "PatchSampler",
    "Source",
    "image_size",
    "imresize",
    "list_images",
    "open_dataset",
    "parse_source",
    "prepare_cache",
    "read_image",
    "write_image",
]
