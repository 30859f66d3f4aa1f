"""Peer: FairScale's AdaScale in PyTorch, against PyTorch's own SGD.

Needs `pip install --group peer`, which nothing else in this project does. The model
is `convnet.ConvNet`, layer by layer.
"""

from collections.abc import Callable
from typing import Any

HOW_TO_INSTALL = (
    "The peer is left out: it needs PyTorch and FairScale, which `pip install --group "
    "peer` installs."
)


def is_installed() -> bool:
    """Whether the peer can be measured here."""
    try:
        import fairscale.optim  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def steps(
    shape: tuple[int, int, int],
    num_classes: int,
    channels: tuple[int, int],
    width: int,
    batch_size: int,
    num_microbatches: int,
) -> tuple[dict[str, Callable[[], None]], int, int]:
    """Makes one training step for each optimizer, on a model and data of its own.

    Args:
      shape: `(height, width, channels)` of an image.
      num_classes: number of logits.
      channels: of the two convolutions.
      width: of the hidden dense layer.
      batch_size: of the whole batch.
      num_microbatches: n; every step accumulates the gradients of n microbatches.

    Returns:
      The steps by name, and the model's numbers and tensors.
    """
    import torch
    from fairscale.optim import AdaScale
    from torch import nn

    height, image_width, depth = shape

    def make_model() -> Any:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(depth, channels[0], 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(-(-height // 8) * -(-image_width // 8) * channels[1], width),
            nn.ReLU(),
            nn.Linear(width, num_classes),
        )

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, depth, height, image_width, generator=generator)
    y = torch.randint(num_classes, (batch_size,), generator=generator)
    n = num_microbatches

    def make_step(wrap: Callable[[Any], Any]) -> Callable[[], None]:
        model = make_model()
        optimizer = wrap(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))

        def step() -> None:
            for part, labels in zip(x.chunk(n), y.chunk(n), strict=True):
                loss = nn.functional.cross_entropy(model(part), labels)
                (loss / n).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def ada_scale(optimizer: Any) -> Any:
        return AdaScale(optimizer, world_size=1, num_gradients_to_accumulate=n)

    calls = {
        "torch SGD": make_step(lambda optimizer: optimizer),
        "FairScale AdaScale": make_step(ada_scale),
    }
    parameters = list(make_model().parameters())
    return calls, sum(p.numel() for p in parameters), len(parameters)


def versions() -> dict[str, str]:
    """Versions of what the peer is made of."""
    import fairscale
    import torch

    return {"torch": torch.__version__, "fairscale": fairscale.__version__}
