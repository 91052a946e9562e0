"""HAESR of the NTIRE 2026 challenge on efficient super-resolution (team 06), the most accurate network of that year.

Each of three groups has large-kernel convolutions, self-attention in windows and over grids, and attention between
channels. The first group computes the maps of the self-attention; the other two reuse them. The challenge's report is
"The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report", arXiv:2604.03198.

The matrix products of the attention are function calls, which the challenge's FLOPs rule does not count.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA
from fmen_core.blocks.layers import conv1x1, conv3x3, pixel_shuffle_tail

WINDOW = 8  # pixels on each side of a window, and of a grid
MARGIN = 4  # pixels that the keys of a window reach beyond it
EXTENDED = WINDOW + 2 * MARGIN
LARGE_KERNEL = 31

GRIDS = ((True, True), (False, True), (True, False))
"""Per stage: whether the keys between the grid points are shifted vertically, and whether horizontally."""


def is_key(stage: int, row: int, column: int) -> bool:
    """Return whether a pixel around the window is among the keys, which form a star, a cross or the corners."""
    middle, last = EXTENDED // 2, EXTENDED - 1
    if stage == 0:
        return middle in (row, column) or row == column or row + column == last
    if stage == 1:
        return row in (middle - 1, middle) or column in (middle - 1, middle)
    return min(row, last - row) < 3 and min(column, last - column) < 3


class LayerNorm(nn.Module):
    """Normalization over the channels of each pixel."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_feats))
        self.bias = nn.Parameter(torch.zeros(n_feats))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        centred = x - x.mean(1, keepdim=True)
        normalized = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight.view(-1, 1, 1) * normalized + self.bias.view(-1, 1, 1)


class GatedFeedForward(nn.Module):
    """A depthwise convolution between two 1x1 convolutions; one half of its channels gates the other."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.project_in = conv1x1(n_feats, 2 * n_feats, bias=False)
        self.dwconv = conv3x3(2 * n_feats, 2 * n_feats, bias=False, groups=2 * n_feats)
        self.project_out = conv1x1(n_feats, n_feats, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        gate, features = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        out: Tensor = self.project_out(F.gelu(gate) * features)
        return out


class LargeKernel(nn.Module):
    """Partial large-kernel convolution: a quarter of the shuffled channels is scaled by its mean and convolved."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.partial = partial = n_feats // 4
        side = LARGE_KERNEL // 2
        self.DWConv_Kx1 = nn.Conv2d(partial, partial, (LARGE_KERNEL, 1), padding=(side, 0), groups=partial)
        self.DWConv_1xK = nn.Conv2d(partial, partial, (1, LARGE_KERNEL), padding=(0, side), groups=partial)
        self.conv1 = conv1x1(n_feats, n_feats)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        batch = x.shape[0]  # unlike len(x), traced as a variable size
        shuffled = x.view(batch, self.partial, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        wide, rest = shuffled[:, : self.partial], shuffled[:, self.partial :]
        wide = torch.sigmoid(wide.mean((2, 3), keepdim=True)) * wide
        wide = self.DWConv_Kx1(self.DWConv_1xK(wide))
        out: Tensor = self.act(self.conv1(torch.cat([wide, rest], dim=1)))
        return out


class LocalBlock(nn.Module):
    """A depthwise 3x3 convolution beside a large-kernel convolution, fused."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.PLKB = LargeKernel(n_feats)
        self.DWConv3 = conv3x3(n_feats, n_feats, groups=n_feats)
        self.conv1 = conv1x1(2 * n_feats, n_feats)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        out: Tensor = self.act(self.conv1(torch.cat([self.DWConv3(x), self.PLKB(x)], dim=1)))
        return out


class SelfAttention(nn.Module):
    """Attention with one head, whose map is computed here or given.

    Args:
        n_feats: Channels.
        computes_map: Whether the map is computed here.
    """

    def __init__(self, n_feats: int, *, computes_map: bool) -> None:
        super().__init__()
        self.factor = n_feats**-0.5
        if computes_map:
            self.to_q = nn.Linear(n_feats, n_feats, bias=False)
            self.to_kv = nn.Linear(n_feats, 2 * n_feats, bias=False)
        else:
            self.to_v = nn.Linear(n_feats, n_feats, bias=False)
        self.to_out = nn.Sequential(nn.Linear(n_feats, n_feats, bias=False))

    def attend(self, queries: Tensor, keys: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend with ``queries`` ``(..., 64, n_feats)`` to ``keys`` ``(..., K, n_feats)``; return result and map."""
        if given is None:
            key, value = self.to_kv(keys).chunk(2, dim=-1)
            given = torch.softmax(self.to_q(queries) * self.factor @ key.transpose(-2, -1) + self.position_bias(), -1)
        else:
            value = self.to_v(keys)
        return self.to_out(given @ value), given

    def position_bias(self) -> Tensor:
        """Return what the positions of query and key add to the logits of the map, ``(1, 64, K)``."""
        raise NotImplementedError


class ExtendedWindows(nn.Module):
    """Cuts features into windows, and takes the pixels of each window and the keys in and around it."""

    sample_indices: Tensor
    center_indices: Tensor

    def __init__(self, stage: int) -> None:
        super().__init__()
        inside = range(MARGIN, MARGIN + WINDOW)
        pixels = [(row, column) for row in range(EXTENDED) for column in range(EXTENDED)]
        window = [index for index, (row, column) in enumerate(pixels) if row in inside and column in inside]
        around = [index for index, pixel in enumerate(pixels) if is_key(stage, *pixel)]
        self.register_buffer("sample_indices", torch.tensor(sorted({*window, *around})))
        self.register_buffer("center_indices", torch.tensor(window))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cut ``(N, C, H, W)`` into queries ``(N, windows, 64, C)`` and keys ``(N, windows, K, C)``."""
        patches = F.unfold(x, EXTENDED, padding=MARGIN, stride=WINDOW).view(*x.shape[:2], EXTENDED**2, -1)
        patches = patches.permute(0, 3, 2, 1)
        return patches[:, :, self.center_indices], patches[:, :, self.sample_indices]


class WindowAttention(SelfAttention):
    """Self-attention of a window's pixels to themselves and to some pixels around the window."""

    def __init__(self, n_feats: int, stage: int, *, computes_map: bool) -> None:
        super().__init__(n_feats, computes_map=computes_map)
        self.ext_unfold = ExtendedWindows(stage)
        if computes_map:
            bias = torch.empty(1, WINDOW**2, len(self.ext_unfold.sample_indices))
            self.rel_pos_bias = nn.Parameter(nn.init.trunc_normal_(bias, std=0.02))

    def position_bias(self) -> Tensor:
        """One value for each pair."""
        return self.rel_pos_bias

    def forward(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(N, n_feats, H, W)``, H and W multiples of 8, to the same shape and the map ``(N, windows, 64, K)``."""
        batch, n_feats, height, width = x.shape
        queries, keys = self.ext_unfold(x)
        out, used = self.attend(queries, keys, given)
        out = out.view(batch, height // WINDOW, width // WINDOW, WINDOW, WINDOW, n_feats).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(x.shape), used


class GridAttention(SelfAttention):
    """Self-attention of 64 pixels that are spread over the whole image, to themselves and to those between them."""

    rel_pos_indices: Tensor

    def __init__(self, n_feats: int, stage: int, *, computes_map: bool) -> None:
        super().__init__(n_feats, computes_map=computes_map)
        self.shifts = vertical, horizontal = GRIDS[stage]
        self.between = (WINDOW - vertical, WINDOW - horizontal)
        if computes_map:
            span = 2 * WINDOW - 1
            self.rel_pos_bias = nn.Embedding(span**2, 1)
            row, column = torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW
            difference = (row[:, None] - row + WINDOW - 1) * span + column[:, None] - column + WINDOW - 1
            self.register_buffer("rel_pos_indices", difference, persistent=False)
            extra = torch.empty(1, WINDOW**2, self.between[0] * self.between[1])
            self.extra_pos_bias = nn.Parameter(nn.init.trunc_normal_(extra, std=0.02))

    def position_bias(self) -> Tensor:
        """By the offset on the grid for its own pixels, one value for each pair for those between them."""
        own = self.rel_pos_bias(self.rel_pos_indices).permute(2, 0, 1)
        return torch.cat([own, self.extra_pos_bias], dim=-1)

    def forward(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(N, n_feats, H, W)``, H and W multiples of 8, to the same shape and the map ``(N * grids, 64, K)``."""
        batch, n_feats, height, width = x.shape
        rows, columns = height // WINDOW, width // WINDOW

        def tokens(pixels: Tensor, points: tuple[int, int]) -> Tensor:
            grid = pixels.reshape(batch, n_feats, points[0], rows, points[1], columns)
            return grid.permute(0, 3, 5, 2, 4, 1).reshape(batch * rows * columns, -1, n_feats)

        top, left = rows // 2 * self.shifts[0], columns // 2 * self.shifts[1]
        between = x[:, :, top : top + self.between[0] * rows, left : left + self.between[1] * columns]
        queries = tokens(x, (WINDOW, WINDOW))
        keys = torch.cat([queries, tokens(between, self.between)], dim=1)
        out, used = self.attend(queries, keys, given)
        out = out.view(batch, rows, columns, WINDOW, WINDOW, n_feats).permute(0, 5, 3, 1, 4, 2)
        return out.reshape(x.shape), used


class TokenBlock(nn.Module):
    """Self-attention and feed-forward layers, each behind a normalization and with a shortcut."""

    def __init__(self, n_feats: int, attention: nn.Module) -> None:
        super().__init__()
        self.cnorm = LayerNorm(n_feats)
        self.attn = attention
        self.cnorm2 = LayerNorm(n_feats)
        self.gfn = GatedFeedForward(n_feats)

    def forward(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(N, n_feats, H, W)`` to the same shape, and the attention map."""
        out, used = self.attn(self.cnorm(x), given)
        x = x + out
        return self.gfn(self.cnorm2(x)) + x, used


class ChannelAttention(nn.Module):
    """Attention between the channels: one map for each window, or ``strided`` for each position in all windows."""

    def __init__(self, n_feats: int, *, strided: bool) -> None:
        super().__init__()
        self.strided = strided
        self.temperature = nn.Parameter(torch.ones(1, 1, 1))
        self.qkv = conv1x1(n_feats, 3 * n_feats, bias=False)
        self.qkv_dwconv = conv3x3(3 * n_feats, 3 * n_feats, bias=False, groups=3 * n_feats)
        self.project_out = conv1x1(n_feats, n_feats, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, n_feats, H, W)``, H and W multiples of 8, to the same shape."""
        batch, n_feats, height, width = x.shape
        order = (0, 3, 5, 1, 2, 4) if self.strided else (0, 2, 4, 1, 3, 5)
        windows = self.qkv_dwconv(self.qkv(x)).view(batch, -1, height // WINDOW, WINDOW, width // WINDOW, WINDOW)
        grouped = windows.permute(order)  # (N, groups, groups, 3 * n_feats, pixels, pixels)
        query, key, value = grouped.flatten(4).flatten(1, 2).chunk(3, dim=2)
        logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1) * self.temperature
        mixed = (logits.softmax(-1) @ value).view(*grouped.shape[:3], n_feats, *grouped.shape[4:])
        back = [order.index(axis) for axis in range(6)]
        out: Tensor = self.project_out(mixed.permute(back).reshape(x.shape))
        return out


class ChannelBlock(nn.Module):
    """Channel attention in windows, then over grids, each followed by feed-forward layers."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.canorm1 = LayerNorm(n_feats)
        self.canorm2 = LayerNorm(n_feats)
        self.cttn1 = ChannelAttention(n_feats, strided=False)
        self.cttn2 = ChannelAttention(n_feats, strided=True)
        self.cnorm1 = LayerNorm(n_feats)
        self.cnorm2 = LayerNorm(n_feats)
        self.gfn1 = GatedFeedForward(n_feats)
        self.gfn2 = GatedFeedForward(n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        x = self.cttn1(self.canorm1(x)) + x
        x = self.gfn1(self.cnorm1(x)) + x
        x = self.cttn2(self.canorm2(x)) + x
        x = self.gfn2(self.cnorm2(x)) + x
        return x


class Stages(nn.Module):
    """Three stages of convolution and self-attention on ever fewer channels, then channel attention on all."""

    def __init__(self, n_feats: int, *, computes_maps: bool) -> None:
        super().__init__()
        self.quarter = quarter = n_feats // 4
        for stage in range(3):
            width = n_feats - stage * quarter
            attended = width - quarter
            window = WindowAttention(attended, stage, computes_map=computes_maps)
            grid = GridAttention(attended, stage, computes_map=computes_maps)
            self.add_module(f"LB{stage + 1}", LocalBlock(width))
            self.add_module(f"SLA{stage + 1}", TokenBlock(attended, window))
            self.add_module(f"SGA{stage + 1}", TokenBlock(attended, grid))
        self.BlockC = ChannelBlock(n_feats)
        self.pw1 = conv1x1(n_feats, n_feats)
        self.pw2 = conv1x1(3 * quarter, 3 * quarter)
        self.pw3 = conv1x1(n_feats, n_feats)

    def forward(self, x: Tensor, given: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """``(N, n_feats, H, W)`` to the same shape, and the six attention maps, computed unless ``given``."""
        quarter = self.quarter
        maps: list[Tensor] = []
        done = []
        for stage, fuse in enumerate((self.pw1, self.pw2, None)):
            x = self.get_submodule(f"LB{stage + 1}")(x)
            local, x = x[:, :quarter], x[:, quarter:]
            for kind in ("SLA", "SGA"):
                x, used = self.get_submodule(f"{kind}{stage + 1}")(x, given[len(maps)] if given else None)
                maps.append(used)
            x = torch.cat([x, local], dim=1)
            if fuse is not None:
                x = fuse(x)
                done.append(x[:, :quarter])
                x = x[:, quarter:]
        out: Tensor = self.BlockC(self.pw3(torch.cat([*done, x], dim=1)))
        return out, maps


class Group(nn.Module):
    """The stages with a shortcut, then enhanced spatial attention."""

    def __init__(self, n_feats: int, *, computes_maps: bool) -> None:
        super().__init__()
        stages = Stages(n_feats, computes_maps=computes_maps)
        self.residual_layer = nn.Sequential(stages) if computes_maps else stages  # for the published key names
        self.res_end = conv1x1(n_feats, n_feats)
        self.esa = ESA(n_feats, max(n_feats // 4, 16), deep=False)

    def forward(self, x: Tensor, given: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """``(N, n_feats, H, W)`` to the same shape, and the attention maps, computed unless ``given``."""
        out, maps = self.residual_layer(x) if given is None else self.residual_layer(x, given)
        return self.esa(self.res_end(out) + x), maps


class HAESR(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``; H and W at least 9.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features, a multiple of 16.
    """

    name = "haesr"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 48) -> None:
        super().__init__()
        self.scale = scale
        self.block0 = Group(n_feats, computes_maps=True)
        self.block1 = Group(n_feats, computes_maps=False)
        self.block2 = Group(n_feats, computes_maps=False)
        self.input = conv3x3(3, n_feats)
        self.output = conv3x3(n_feats, n_feats)
        self.up = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch. The features are padded by reflection to multiples of 8."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % WINDOW, 0, -height % WINDOW), mode="reflect")
        head = self.input(x)
        out, maps = self.block0(head)
        out, _ = self.block1(out, maps)
        out, _ = self.block2(out, maps)
        image: Tensor = self.up(self.output(out) + head)
        return image[..., : height * self.scale, : width * self.scale]


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "up.0.weight"),
        "n_feats": out_channels(state, "input.weight"),
    }


ARCHITECTURE = Architecture(
    name=HAESR.name,
    title="HAESR",
    paper="NTIRE 2026, team 06",
    data_range=HAESR.data_range,
    scales=(2, 3, 4),
    inference=HAESR,
    read_sizes=read_sizes,
    min_size=9,
    tileable=False,
)
