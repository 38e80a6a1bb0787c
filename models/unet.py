"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015)."""

from __future__ import annotations

from typing import Annotated

import onnx

from onnx_expand.errors import UsageError

from .initial import HE_IN
from .layers import Network, Value, check_range
from .registry import Batch, Opset, Seed, Size, network

__all__ = ["build"]

_LEVELS = 4
_PADDINGS = {"same": 1, "valid": 0}


@network("unet")
def build(
    *,
    size: Size = 512,
    classes: Annotated[int, "number of classes of a pixel"] = 2,
    channels: Annotated[int, "channels of the images"] = 3,
    width: Annotated[int, "channels of the first level; each level doubles them"] = 64,
    padding: Annotated[str, "same, or valid as in the paper"] = "same",
    norm: Annotated[bool, "batch normalization after the 3x3 convolutions"] = True,
    batch: Batch = 0,
    seed: Seed = 0,
    opset: Opset = 17,
) -> onnx.ModelProto:
    """U-Net: a contracting and an expanding path of 3x3 convolutions, with shortcuts across.

    As it is commonly used (the defaults: padded, normalized, 2 classes) it has 31,037,698
    parameters, and 31,037,633 with 1 class: the counts usually given for it in PyTorch. The
    paper's own network is `--channels 1 --padding valid --norm false --size 572`; it has the
    31,030,658 parameters usually given for that (the paper has no count), and gives 388x388
    pixels, as in the paper's figure 1.
    Weights start as in the paper: normal, with the variance 2 / fan-in.

    Returns:
        A model from `input` [batch, channels, size, size] to the logits `output`
        [batch, classes, size', size'], of the image's size where it is padded.

    Raises:
        UsageError: A value is out of range, or the image does not fit the levels.
    """
    check_range("classes", classes, 1)
    check_range("width", width, 1)
    if padding not in _PADDINGS:
        raise UsageError(f"padding is '{padding}'; give same or valid")
    net = Network(
        "unet", size, channels=channels, batch=batch, seed=seed, opset=opset, conv_initial=HE_IN
    )
    pad = _PADDINGS[padding]
    x, shortcuts = net.input, []
    for level in range(_LEVELS):
        x = _two_convs(net, f"down{level}", x, width << level, pad, norm)
        if x.shape[2] % 2:
            raise UsageError(
                f"size is {size}: level {level} has {x.shape[2]} pixels, an odd number that "
                "cannot be halved; give a multiple of 16, or as the paper 572 where it is valid"
            )
        shortcuts.append(x)
        x = net.max_pool(f"pool{level}", x, 2)
    x = _two_convs(net, f"down{_LEVELS}", x, width << _LEVELS, pad, norm)
    for level in reversed(range(_LEVELS)):
        x = net.conv_transpose(f"up{level}.up", x, width << level, 2, stride=2)
        shortcut = shortcuts[level]
        if shortcut.shape[2] != x.shape[2]:
            shortcut = net.crop(f"up{level}.crop", shortcut, x.shape[2])
        x = net.concat(f"up{level}.cat", [shortcut, x])
        x = _two_convs(net, f"up{level}", x, width << level, pad, norm)
    return net.finish(net.conv("out", x, classes, 1))


def _two_convs(net: Network, name: str, x: Value, channels: int, pad: int, norm: bool) -> Value:
    for index in (1, 2):
        x = net.conv(f"{name}.conv{index}", x, channels, 3, padding=pad, bias=not norm)
        if norm:
            x = net.batch_norm(f"{name}.bn{index}", x)
        x = net.relu(f"{name}.relu{index}", x)
    return x
