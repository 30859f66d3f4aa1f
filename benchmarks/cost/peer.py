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
    from fairscale.optim import AdaScale

    def ada_scale(optimizer: Any) -> Any:
        n = num_microbatches
        return AdaScale(optimizer, world_size=1, num_gradients_to_accumulate=n)

    def make() -> Any:
        return _model(shape, num_classes, channels, width)

    parts = _microbatches(shape, num_classes, batch_size, num_microbatches)
    calls = {
        "torch SGD": _step(make(), parts, lambda optimizer: optimizer),
        "FairScale AdaScale": _step(make(), parts, ada_scale),
    }
    parameters = list(make().parameters())
    return calls, sum(p.numel() for p in parameters), len(parameters)


def _model(
    shape: tuple[int, int, int], num_classes: int, channels: tuple[int, int], width: int
) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    height, image_width, depth = shape
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


def _microbatches(
    shape: tuple[int, int, int], num_classes: int, batch_size: int, n: int
) -> list[tuple[Any, Any]]:
    import torch

    height, width, depth = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, depth, height, width, generator=generator)
    y = torch.randint(num_classes, (batch_size,), generator=generator)
    return list(zip(x.chunk(n), y.chunk(n), strict=True))


def _step(
    model: Any, parts: list[tuple[Any, Any]], wrap: Callable[[Any], Any]
) -> Callable[[], None]:
    import torch

    optimizer = wrap(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))

    def step() -> None:
        for x, y in parts:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            (loss / len(parts)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def versions() -> dict[str, str]:
    """Versions of what the peer is made of."""
    import fairscale
    import torch

    return {"torch": torch.__version__, "fairscale": fairscale.__version__}
