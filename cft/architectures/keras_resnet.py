"""The ResNets of keras.applications, of which timm has no exact twin.

``keras_resnet50``, ``101`` and ``152`` (v1)
    K. He et al., CVPR 2016, as first published: the stride of a stage is in its first 1 x 1
    convolution. timm and torchvision have it in the 3 x 3 convolution.
``keras_resnetv2_50``, ``101`` and ``152`` (v2)
    K. He et al., ECCV 2016. The stride of a stage is in its *last* block, whose shortcut drops
    every second pixel; timm's ``resnetv2`` has it in the first block of the next stage, with a
    convolution as shortcut. Some convolutions have biases.

They are here so that weights which Keras trained can be used; see `cft.convert.keras`. For training
take timm's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

__all__ = ["DEPTHS", "KerasResNetV2"]

#: Number of the network -> blocks of each stage.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

_WIDTHS = (64, 128, 256, 512)  # inside a block of each stage; outside there is four times as much


class FirstStride(Bottleneck):
    """timm's block with the stride in its first convolution instead of its second."""

    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, (1, 1)


class PreactBlock(nn.Module):
    """A block of v2: normalised before each convolution.

    Parameters
    ----------
    channels
        Of the input.
    width
        Inside; the output has four times as many.
    stride
        Of the 3 x 3 convolution.
    project
        Whether a 1 x 1 convolution is the shortcut, as in the first block of a stage.
    """

    def __init__(self, channels: int, width: int, stride: int = 1, project: bool = False):
        super().__init__()
        self.stride = stride
        self.preact = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels, 4 * width, 1) if project else None
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) -> (B, 4 * width, h / stride, w / stride)."""
        y = self.preact(x).relu()
        every = slice(None, None, self.stride)
        x = x[:, :, every, every] if self.shortcut is None else self.shortcut(y)
        y = self.bn1(self.conv1(y)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return x + self.conv3(y)


class KerasResNetV2(nn.Module):
    """A ResNet of keras.applications, version 2.

    Parameters
    ----------
    layers
        Blocks of each of the four stages.
    num_classes, in_chans, drop_rate
        As timm has them; dropout is before the linear layer.
    global_pool
        "avg"; there is no other.

    Attributes
    ----------
    num_features
        Length of the pooled features.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        if global_pool != "avg":
            raise ValueError(f"global_pool is {global_pool!r}, but this network has only 'avg'")
        self.global_pool, self.drop_rate = "avg", drop_rate
        self.conv1 = nn.Conv2d(in_chans, 64, 7, 2, 3)
        # What is pooled may be negative here, so it matters that Keras pads with zeros.
        self.pool = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2))
        self.stages, channels = nn.Sequential(), 64
        for number, (count, width) in enumerate(zip(layers, _WIDTHS, strict=True)):
            stage = nn.Sequential()
            for place in range(count):
                stride = 2 if place == count - 1 and number < len(layers) - 1 else 1
                stage.append(PreactBlock(channels, width, stride, project=place == 0))
                channels = 4 * width
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(channels)
        self.num_features = self.head_hidden_size = channels
        self.feature_info = [
            {
                "num_chs": 4 * width,
                "reduction": min(8 * 2**number, 32),
                "module": f"stages.{number}",
            }
            for number, width in enumerate(_WIDTHS)
        ]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer, for other labels."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups of layers, from the input to the last."""
        place = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(place, None), (r"^norm", (99999,))]}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, H / 32, W / 32)."""
        return self.norm(self.stages(self.pool(self.conv1(x)))).relu()

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature map -> scores, (B, C); with `pre_logits` the pooled features."""
        x = F.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, C)."""
        return self.forward_head(self.forward_features(x))


_STATED = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "conv1",
    "classifier": "fc",
}

default_cfgs = generate_default_cfgs(
    {f"keras_resnet{version}{number}": _STATED for version in ("", "v2_") for number in DEPTHS}
)


def _v1(number: int, pretrained: bool, **kwargs: Any) -> ResNet:
    arguments = {"block": FirstStride, "layers": DEPTHS[number], **kwargs}
    return build_model_with_cfg(ResNet, f"keras_resnet{number}", pretrained, **arguments)


def _v2(number: int, pretrained: bool, **kwargs: Any) -> KerasResNetV2:
    arguments = {"layers": DEPTHS[number], **kwargs}
    return build_model_with_cfg(KerasResNetV2, f"keras_resnetv2_{number}", pretrained, **arguments)


@register_model
def keras_resnet50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 of keras.applications."""
    return _v1(50, pretrained, **kwargs)


@register_model
def keras_resnet101(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-101 of keras.applications."""
    return _v1(101, pretrained, **kwargs)


@register_model
def keras_resnet152(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-152 of keras.applications."""
    return _v1(152, pretrained, **kwargs)


@register_model
def keras_resnetv2_50(pretrained: bool = False, **kwargs: Any) -> KerasResNetV2:
    """ResNet-50 version 2 of keras.applications."""
    return _v2(50, pretrained, **kwargs)


@register_model
def keras_resnetv2_101(pretrained: bool = False, **kwargs: Any) -> KerasResNetV2:
    """ResNet-101 version 2 of keras.applications."""
    return _v2(101, pretrained, **kwargs)


@register_model
def keras_resnetv2_152(pretrained: bool = False, **kwargs: Any) -> KerasResNetV2:
    """ResNet-152 version 2 of keras.applications."""
    return _v2(152, pretrained, **kwargs)
