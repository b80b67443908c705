"""A convolution's per-example gradients, by unfolded patches or image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reticent.models.patches import patches
from reticent.training.dp_sgd.terms import (
    KEPT_FLOATS,
    SCRATCH_FLOATS,
    Direct,
    Memo,
    Term,
    candidates,
    gram_squares,
    row_squares,
    twin,
    zeroed,
)
from reticent.training.dp_sgd.tuning import Tuner

# Patches unfolded at a time: more would leave the cache between unfolding and multiplying.
_PATCH_FLOATS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How the kernel moves: one entry per spatial axis; zero padding only."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Convolution:
    """Inputs (B, C, *space), outputs (B, O, *space'), parameter (O, C / groups, *kernel).

    Strategies: "total" unfolds patches and keeps the per-example matrices; "chunked" forms them
    a few at a time; "gram" multiplies Gram matrices of the patches; "image" asks PyTorch's own
    weight gradient for one image after the other; "shift" multiplies shifted images, one product
    for each place in the kernel.
    """

    def __init__(
        self, inputs: Tensor, outputs: Tensor, weight: Tensor, geometry: Geometry, tuner: Tuner
    ) -> None:
        self.inputs, self.outputs, self.weight = inputs, outputs, weight
        self.geometry, self.tuner = geometry, tuner
        self._total: Tensor | None = None
        self._shifted: Tensor | None = None

    def squared_norms(self, memo: Memo) -> Tensor:
        """By whichever strategy is fastest for these shapes."""
        if self._total is not None or self._shifted is not None:
            return self._kept_norms()
        return self._norms_by(self.tuner.choose(self._key(), self._candidates(), self._trial))

    def add_weighted(self, weights: Tensor, out: Tensor, beta: int) -> None:
        """From the kept matrices, or PyTorch's weight gradient of the scaled outputs."""
        if self._total is not None:
            out.view(-1).addmv_(self._total.flatten(1).t(), weights, beta=beta)
            return
        if self._shifted is not None:
            made = torch.matmul(weights, self._shifted.flatten(2)).view(-1, *self.weight.shape[:2])
            made = made.permute(1, 2, 0).reshape(self.weight.shape)
        else:
            scaled = self.outputs * weights.view(-1, *(1,) * (self.outputs.dim() - 1))
            made = self._weight_gradient(self.inputs, scaled)
        if beta:
            out.add_(made)
        else:
            out.copy_(made)

    def per_example(self) -> Tensor:
        """(B, O, C / groups, *kernel)."""
        if self._total is not None:
            return self._total
        if self._shifted is not None:
            height, width = self.weight.shape[2:]
            places: Tensor = self._shifted.unflatten(0, (height, width))
            return places.permute(2, 3, 4, 0, 1)
        if len(self.geometry.stride) > 2:
            return self.by_images()
        total = self.inputs.new_empty(len(self.inputs), *self.weight.shape)
        groups = self.geometry.groups
        flat = total.view(len(total) * groups, -1, self.weight[0].numel())
        step = max(1, _PATCH_FLOATS // self._patch_floats())
        for start in range(0, len(total), step):
            here = slice(start, start + step)
            patches, grouped = self._patches(self.inputs[here]), self._grouped(self.outputs[here])
            target = flat[start * groups : start * groups + len(patches)]
            torch.bmm(grouped, patches.transpose(1, 2), out=target)
        return total

    def release(self) -> None:
        """Let the factors go, where the kept matrices stand for them."""
        if self._total is not None or self._shifted is not None:
            self.inputs = self.outputs = self.weight.new_empty(0)

    def without(self, rows: Tensor) -> Term:
        """Zero both factors."""
        if self._total is not None or self._shifted is not None:
            return Direct(zeroed(self.per_example(), rows))
        inputs, outputs = zeroed(self.inputs, rows), zeroed(self.outputs, rows)
        return Convolution(inputs, outputs, self.weight, self.geometry, self.tuner)

    def _norms_by(self, strategy: str) -> Tensor:
        if strategy in ("total", "image"):
            self._total = self.by_images() if strategy == "image" else self.per_example()
            return self._kept_norms()
        if strategy == "shift":
            self._shifted = self._by_shift()
            return self._kept_norms()
        batch, positions = len(self.inputs), self.outputs[0, 0].numel()
        largest = max(
            self._patch_floats(), positions**2 if strategy == "gram" else self.weight.numel()
        )
        step = max(1, SCRATCH_FLOATS // largest)
        norms = self._gram_norms if strategy == "gram" else self._product_norms
        if step >= batch:
            return norms(self.inputs, self.outputs)
        pairs = zip(self.inputs.split(step), self.outputs.split(step), strict=True)
        return torch.cat([norms(x, g) for x, g in pairs])

    def _kept_norms(self) -> Tensor:
        if self._shifted is not None:
            return row_squares(self._shifted.transpose(0, 1))
        return row_squares(self.per_example().flatten(2))

    def _patch_floats(self) -> int:
        """How many floats one example's patches take."""
        positions = self.outputs[0, 0].numel()
        return positions * self.weight[0].numel() * self.geometry.groups

    def _by_shift(self) -> Tensor:
        """(kernel, B, O, C): one product per place in the kernel, no patches copied.

        With the outputs padded to the inputs' padded row length, moving the kernel by one place is
        moving a window over the flattened rows: a view.
        """
        rows, columns = self.outputs.shape[2:]
        below, beside = self.geometry.padding
        down, right = self.geometry.dilation
        height, width = self.weight.shape[2:]
        # One more row, because the last window ends beyond the last row.
        x = functional.pad(self.inputs, (beside, beside, below, below + 1))
        line = x.shape[3]
        g = functional.pad(self.outputs, (0, line - columns)).flatten(2)
        x = x.flatten(2)
        size, channels = self.inputs.shape[:2]
        made = x.new_empty(height * width, size, g.shape[1], channels)
        for place, out in enumerate(made):
            start = (place // width) * down * line + (place % width) * right
            window = x[:, :, start : start + rows * line]
            torch.bmm(g, window.transpose(1, 2), out=out)
        return made

    def _patches(self, inputs: Tensor) -> Tensor:
        """(B * groups, C / groups * kernel, T)."""
        shape, geometry = self.weight.shape[2:], self.geometry
        if all(size == 1 for size in shape) and not any(geometry.padding):
            steps = geometry.stride
            if any(step > 1 for step in steps):
                ends: list[Any] = [slice(None, None, step) for step in steps]
                inputs = inputs[(..., *ends)]
            columns = inputs.flatten(2)
        elif inputs.dim() == 3:
            columns, _ = patches(
                inputs.unsqueeze(2),
                (1, shape[0]),
                (1, geometry.stride[0]),
                (0, geometry.padding[0]),
                (1, geometry.dilation[0]),
            )
        else:
            columns, _ = patches(
                inputs, tuple(shape), geometry.stride, geometry.padding, geometry.dilation
            )
        return columns.reshape(-1, self.weight[0].numel(), columns.shape[2])

    def _grouped(self, outputs: Tensor) -> Tensor:
        """(B * groups, O / groups, T)."""
        channels = outputs.shape[1] // self.geometry.groups
        return outputs.reshape(-1, channels, outputs[0, 0].numel())

    def _products(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return torch.bmm(self._grouped(outputs), self._patches(inputs).transpose(1, 2))

    def _product_norms(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return self._per_record(row_squares(self._products(inputs, outputs)))

    def _gram_norms(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        patches, grouped = self._patches(inputs), self._grouped(outputs)
        return self._per_record(gram_squares(patches.transpose(1, 2), grouped.transpose(1, 2)))

    def _per_record(self, squares: Tensor) -> Tensor:
        return squares.view(-1, self.geometry.groups).sum(1)

    def by_images(self, count: int = 1) -> Tensor:
        """The sum over every `count` adjacent images, (B / count, O, C / groups, *kernel)."""
        total = self.inputs.new_empty(len(self.inputs) // count, *self.weight.shape)
        pairs = zip(self.inputs.split(count), self.outputs.split(count), strict=True)
        for row, (inputs, outputs) in zip(total, pairs, strict=True):
            row.copy_(self._weight_gradient(inputs, outputs))
        return total

    def _weight_gradient(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        mask = (False, True, False)
        found = convolution_backward(outputs, inputs, self.weight, self.geometry, mask)
        gradient: Tensor = found[1]
        return gradient

    def _key(self) -> str:
        shapes = (tuple(self.inputs.shape), tuple(self.weight.shape))
        return f"convolution {shapes} {self.geometry}"

    def _candidates(self) -> tuple[str, ...]:
        if len(self.geometry.stride) > 2:
            return ("image",)
        positions = self.outputs[0, 0].numel()
        names = candidates(
            self.inputs, self.outputs, positions, self.weight.numel(), kept=KEPT_FLOATS
        )
        # Beyond this many positions Gram matrices never won a timing.
        names = tuple(name for name in names if name != "gram" or positions <= 400)
        if "total" not in names:
            return names
        plain = self.geometry.groups == 1 and self.geometry.stride == (1, 1)
        return (*names, "image", "shift") if plain else (*names, "image")

    def _trial(self, strategy: str) -> None:
        inputs, outputs = twin(self.inputs), twin(self.outputs)
        made = Convolution(inputs, outputs, self.weight.detach(), self.geometry, self.tuner)
        norms = made._norms_by(strategy)
        made.add_weighted(norms, torch.empty_like(self.weight, requires_grad=False), 0)


def convolution_backward(
    outputs: Tensor,
    inputs: Tensor,
    weight: Tensor,
    geometry: Geometry,
    mask: tuple[bool, bool, bool],
) -> Any:
    """PyTorch's gradients with respect to (input, weight, bias), those that `mask` asks for."""
    return torch.ops.aten.convolution_backward(
        outputs,
        inputs,
        weight,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        False,
        (0,) * len(geometry.stride),
        geometry.groups,
        mask,
    )
