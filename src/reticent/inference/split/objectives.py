"""Auxiliary losses that shape features so that they carry the public label and little else.

Each is a module: `objective(features, y, x, private)` returns a scalar to add to the task loss.
Features arrive flattened, shape (batch, d); classes y (batch,) int64; inputs x (batch, ...);
private labels (batch,) per attribute, used by the adversarial baseline alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Distance = Literal["l2", "cosine", "mahalanobis", "l1"]
Centers = Literal["learned", "running", "simplex"]


def simplex(classes: int, *, separation: float) -> Tensor:
    """`classes` points with pairwise distance `separation` in classes - 1 dimensions, (C, C-1)."""
    corners = torch.eye(classes, dtype=torch.float64)
    centred = corners - corners.mean(dim=0)
    _, _, basis = torch.linalg.svd(centred)
    flat: Tensor = centred @ basis[: classes - 1].T * separation / 2**0.5
    return flat.float()


class CenterLoss(nn.Module):
    """Mean distance of features to their class center (Wen et al. 2016, eq. 2).

    Centers are learned by gradient, kept as running means of their class, or fixed at the corners
    of a simplex. Distances: squared Euclidean, cosine, L1, and Mahalanobis with a running
    diagonal of the within-class variance.
    """

    centers: Tensor
    variance: Tensor

    def __init__(
        self,
        classes: int,
        size: int,
        *,
        distance: Distance = "l2",
        centers: Centers = "learned",
        separation: float = 8.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__()
        self.distance, self.kind, self.momentum = distance, centers, momentum
        if centers == "simplex":
            start = torch.zeros(classes, size)
            corners = simplex(classes, separation=separation)
            width = min(size, classes - 1)
            start[:, :width] = corners[:, :width]
        else:
            start = torch.zeros(classes, size)
        if centers == "learned":
            self.centers = nn.Parameter(start)
        else:
            self.register_buffer("centers", start)
        self.register_buffer("variance", torch.ones(size))

    def forward(
        self, features: Tensor, y: Tensor, x: Tensor, private: Mapping[str, Tensor]
    ) -> Tensor:
        """Scalar loss; in training mode running centers and variances move first."""
        if self.training:
            self._track(features.detach(), y)
        away = features - self.centers[y]
        if self.distance == "cosine":
            return (1 - functional.cosine_similarity(features, self.centers[y], dim=1)).mean()
        if self.distance == "l1":
            return away.abs().sum(dim=1).mean()
        if self.distance == "mahalanobis":
            return (away**2 / self.variance).sum(dim=1).mean()
        return (away**2).sum(dim=1).mean()

    @torch.no_grad()
    def start(self, features: Tensor, y: Tensor) -> None:
        """Put centers at the class means and the variance at the within-class one.

        Centers that start at the origin drag all features there before they have parted. Fixed
        centers stay where they are.
        """
        if self.kind != "simplex":
            count = torch.bincount(y, minlength=len(self.centers))
            total = torch.zeros_like(self.centers).index_add_(0, y, features)
            self.centers[count > 0] = (total / count.clamp(min=1)[:, None])[count > 0]
        away = features - self.centers[y]
        self.variance.copy_(away.square().mean(dim=0).clamp(min=1e-4))

    @torch.no_grad()
    def _track(self, features: Tensor, y: Tensor) -> None:
        if self.kind == "running":
            counts = torch.bincount(y, minlength=len(self.centers)).clamp(min=1)
            sums = torch.zeros_like(self.centers).index_add_(0, y, features)
            present = torch.bincount(y, minlength=len(self.centers)) > 0
            means = sums / counts[:, None]
            moved = torch.lerp(means, self.centers, self.momentum)
            self.centers[present] = moved[present]
        if self.distance == "mahalanobis":
            spread = (features - self.centers[y]).square().mean(dim=0)
            self.variance.lerp_(spread, 1 - self.momentum).clamp_(min=1e-4)


class SupervisedContrastive(nn.Module):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2) on normalised features."""

    def __init__(self, *, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, features: Tensor, y: Tensor, x: Tensor, private: Mapping[str, Tensor]
    ) -> Tensor:
        """Scalar loss; anchors without a positive in the batch are left out."""
        unit = functional.normalize(features, dim=1)
        itself = torch.eye(len(y), dtype=torch.bool)
        similarity = (unit @ unit.T / self.temperature).masked_fill(itself, -1e9)
        positive = (y[:, None] == y[None, :]) & ~itself
        log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
        count = positive.sum(dim=1)
        per_anchor = -(log_share * positive).sum(dim=1) / count.clamp(min=1)
        return per_anchor[count > 0].mean() if bool((count > 0).any()) else features.sum() * 0


class Siamese(nn.Module):
    """Contrastive pair loss (Hadsell et al. 2006, eq. 4; for split inference Osia et al. 2017)."""

    def __init__(self, *, margin: float = 4.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, features: Tensor, y: Tensor, x: Tensor, private: Mapping[str, Tensor]
    ) -> Tensor:
        """Scalar loss over the pairs of a batch that neighbour each other in a random order."""
        other = torch.roll(features, 1, dims=0)
        same = (y == torch.roll(y, 1)).float()
        squared = (features - other).square().sum(dim=1)
        apart = (self.margin - (squared + 1e-9).sqrt()).clamp(min=0).square()
        return (same * squared + (1 - same) * apart).mean() / 2


class DistanceCorrelation(nn.Module):
    """NoPeek: distance correlation of inputs and features (Vepakomma et al. 2020, eq. 1)."""

    def forward(
        self, features: Tensor, y: Tensor, x: Tensor, private: Mapping[str, Tensor]
    ) -> Tensor:
        """Scalar in [0, 1]: the squared-distance-covariance ratio's square root."""
        a, b = _centred_distances(x.flatten(1)), _centred_distances(features)
        covariance = (a * b).mean()
        scale = ((a * a).mean() * (b * b).mean()).clamp(min=1e-12).sqrt()
        return (covariance.clamp(min=0) / scale + 1e-9).sqrt()


class Adversary(nn.Module):
    """Maximum-entropy adversary for known private tasks (Roy & Boddeti 2019).

    One classifier per attribute reads the features; `adversary_loss` trains the classifiers and
    the forward value trains the encoder to leave them at maximum entropy.
    """

    def __init__(self, size: int, attributes: Mapping[str, int], *, width: int = 64) -> None:
        super().__init__()
        self.readers = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, classes))
                for name, classes in attributes.items()
            }
        )

    def forward(
        self, features: Tensor, y: Tensor, x: Tensor, private: Mapping[str, Tensor]
    ) -> Tensor:
        """Mean negative entropy of the readers, in nats."""
        total = features.new_zeros(())
        for reader in self.readers.values():
            log_p = functional.log_softmax(reader(features), dim=1)
            total = total + (log_p.exp() * log_p).sum(dim=1).mean()
        return total / max(len(self.readers), 1)

    def adversary_loss(self, features: Tensor, private: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the readers on detached features."""
        total = features.new_zeros(())
        for name, reader in self.readers.items():
            total = total + functional.cross_entropy(reader(features.detach()), private[name])
        return total


def _centred_distances(points: Tensor) -> Tensor:
    gram = points @ points.T
    square = gram.diagonal()
    distances = (square[:, None] + square[None, :] - 2 * gram).clamp(min=1e-9).sqrt()
    return (
        distances
        - distances.mean(dim=0, keepdim=True)
        - distances.mean(dim=1, keepdim=True)
        + distances.mean()
    )
