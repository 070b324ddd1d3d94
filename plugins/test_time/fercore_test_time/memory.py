"""What a method keeps of a stream: so many images at most, by their predicted classes."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from fercore.models import NormKind
from fercore.plugin import Settings, SizedByData


class MemorySettings(Settings):
    """Settings of methods that learn from a memory."""

    affine_of: NormKind = Field("any_norm", description="batch_norm, or any_norm: layer and group norms as well")
    memory: int = Field(64, ge=2, description="images that are kept, and images between two steps")


class Memory(SizedByData):
    """Images with their predicted class, entropy and age, as buffers, so that a stream that was cut goes on alike.

    Args:
        capacity: images at most. num_classes: K.

    Attributes:
        images: f[n,3,S,S]. labels, ages: int64[n]. entropy: f[n] in nats. arrivals: int64[n], rising numbers. counts:
        int64[K], images so far that were predicted as each class. seen: images so far.
    """

    images: Tensor
    labels: Tensor
    ages: Tensor
    arrivals: Tensor
    entropy: Tensor
    counts: Tensor
    seen: Tensor

    def __init__(self, capacity: int, num_classes: int) -> None:
        numbers = torch.zeros(0, dtype=torch.int64)
        super().__init__(
            {
                "images": torch.zeros(0, 3, 1, 1),
                "labels": numbers,
                "ages": numbers.clone(),
                "arrivals": numbers.clone(),
                "entropy": torch.zeros(0, dtype=torch.float64),
                "counts": torch.zeros(num_classes, dtype=torch.int64),
                "seen": torch.zeros((), dtype=torch.int64),
            }
        )
        self.capacity, self.num_classes = capacity, num_classes

    def due(self, n: int) -> bool:
        """Count n images that came; return whether as many as fit have come since a step was due the last time."""
        before = int(self.seen) // self.capacity
        self.seen.add_(n)
        return int(self.seen) // self.capacity > before

    def shares(self) -> list[int]:
        """Return how many images it has of each class."""
        return torch.bincount(self.labels, minlength=self.num_classes).tolist()

    def add(self, image: Tensor, label: int, entropy: float = 0.0, *, instead_of: int | None = None) -> None:
        """Take in an image f[3,S,S], in place of another one where that is given."""
        number = int(self.arrivals.max()) + 1 if len(self.arrivals) else 0
        row = {"labels": label, "ages": 0, "entropy": entropy, "arrivals": number}
        if instead_of is None:
            images = self.images if len(self.labels) else image.new_zeros(0, *image.shape)
            self.register_buffer("images", torch.cat([images, image.detach()[None]]))
            for name, value in row.items():
                self.put(name, torch.cat([old := self.get_buffer(name), old.new_tensor([value])]))
            return
        self.images[instead_of] = image.detach()
        for name, value in row.items():
            self.get_buffer(name)[instead_of] = value

    def by_class(self) -> Tensor:
        """Return int64[n], its places in the order of classes, inside one of arrival."""
        arrived = self.arrivals.argsort()
        return arrived[self.labels[arrived].sort(stable=True).indices]

    # Category-balanced sampling with timeliness and uncertainty (RoTTA, Yuan et al., CVPR 2023, Algorithm 1).

    def add_timely(self, image: Tensor, label: int, entropy: float, by_age: float, by_entropy: float) -> None:
        """Take an image in if there is room, or it is better than the worst of its class or the largest classes."""

        def badness(age: int, entropy: float) -> float:
            return by_age / (1 + math.exp(-age / self.capacity)) + by_entropy * entropy / math.log(self.num_classes)

        shares = self.shares()
        largest = [k for k in range(self.num_classes) if shares[k] == max(shares)]
        roomy = shares[label] < self.capacity / self.num_classes
        if roomy and len(self.labels) < self.capacity:
            self.add(image, label, entropy)
        else:
            rivals = largest if roomy else [label]
            ages, entropies, labels = self.ages.tolist(), self.entropy.tolist(), self.labels.tolist()
            places = [place for place in self.by_class().tolist() if labels[place] in rivals]
            scores = [badness(ages[place], entropies[place]) for place in places]
            # Of equals the last one goes.
            worst = max(range(len(places)), key=lambda i: (scores[i], i), default=None)
            if worst is None or scores[worst] > badness(0, entropy):
                self.add(image, label, entropy, instead_of=None if worst is None else places[worst])
        self.ages.add_(1)

    # Prediction-balanced reservoir sampling (NOTE, Gong et al., NeurIPS 2022, Algorithm 1).

    def add_balanced(self, image: Tensor, label: int) -> None:
        """Take an image in: while there is room; for one of a largest class; or by chance for one of its own class."""
        self.counts[label] += 1
        if len(self.labels) < self.capacity:
            self.add(image, label)
            return
        shares = self.shares()
        largest = [k for k in range(self.num_classes) if shares[k] == max(shares)]
        if label not in largest:
            gives = largest[_draw(len(largest))]
        elif float(torch.rand(())) <= shares[label] / int(self.counts[label]):
            gives = label
        else:
            return
        places = [place for place in self.by_class().tolist() if int(self.labels[place]) == gives]
        self.add(image, label, instead_of=places[_draw(len(places))])


def _draw(n: int) -> int:
    """Return a random number of 0..n-1, from torch's global generator, which a checkpoint has."""
    return int(torch.randint(n, ()))
