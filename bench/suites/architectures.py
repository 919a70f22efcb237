"""A zoo of students with random weights, from configurations written here: nothing is downloaded.

Each name is a factory for ``python:architectures:NAME``: a ``torch.nn.Module`` in evaluation mode whose
``edgekd_inputs`` say what it takes. Most are transformers' own networks; ``TINY`` has a small one of every kind, whose
operators are the same, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Mapping[str, tuple[str, tuple[int | str, ...]]]


class Student(nn.Module):
    """A network behind named inputs, with one tensor as its answer.

    Args:
        net: called with keyword arguments.
        inputs: name -> (dtype, shape); strings are dynamic dimensions.
        answer: attribute of what ``net`` returns; empty where that is the tensor.
        names: keyword of ``net`` for each input, in order; empty takes the inputs' names.
    """

    def __init__(
        self, net: nn.Module, inputs: Inputs, answer: str = "logits", names: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.net = net
        self.edgekd_inputs = dict(inputs)
        self._answer = answer
        self._names = names or tuple(inputs)
        self.eval()

    def answer(self, *values: Tensor) -> Tensor:
        made = self.net(**dict(zip(self._names, values, strict=True)))
        found: Tensor = getattr(made, self._answer) if self._answer else made
        return found

    def forward(self, first: Tensor) -> Tensor:
        return self.answer(first)


class StudentOfTwo(Student):
    """A network of two inputs: tracing wants each of them named in the signature."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        return self.answer(first, second)


def _image(side: int) -> Inputs:
    return {"image": ("float32", ("batch", 3, side, side))}


def _vision(model: str, config: str, side: int, **settings: Any) -> Student:
    import transformers

    made = getattr(transformers, config)(num_labels=100, **settings)
    net = getattr(transformers, model)(made)
    if hasattr(net, "efficientnet"):
        # Its own window is larger than any picture, which torch allows and other runtimes refuse; the mean is the same.
        net.efficientnet.pooler = nn.AdaptiveAvgPool2d(1)
    _normalise(net, torch.randn(4, 3, side, side))
    return Student(net, _image(side), names=("pixel_values",))


def _normalise(net: nn.Module, seen: Tensor) -> None:
    """Let batch normalisation see some inputs, through convolutions of usual size: deep networks answer 0 otherwise."""
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.momentum = None  # the plain average of what is seen
        nn.init.ones_(layer.weight)
    if layers:
        for convolution in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight)
        net.train()
        with torch.no_grad():
            net(seen)
    net.eval()


def _text(model: str, config: str, **settings: Any) -> Student:
    import transformers

    # Eager attention: the same mathematics as the fused kernels, in operators that every target has.
    made = getattr(transformers, config)(num_labels=4, attn_implementation="eager", **settings)
    net = getattr(transformers, model)(made)
    inputs: Inputs = {
        "input_ids": ("int64", ("batch", "sequence")), "attention_mask": ("int64", ("batch", "sequence")),
    }  # fmt: skip
    return StudentOfTwo(net, inputs)


def _whisper(**settings: Any) -> Any:
    import transformers

    return transformers.WhisperModel(
        transformers.WhisperConfig(attn_implementation="eager", use_cache=False, **settings)
    )


def _whisper_encoder(frames: int, **settings: Any) -> Student:
    net = _whisper(max_source_positions=frames // 2, **settings).encoder
    inputs: Inputs = {"features": ("float32", ("batch", 80, frames))}
    return Student(net, inputs, answer="last_hidden_state", names=("input_features",))


def _whisper_decoder(frames: int, **settings: Any) -> Student:
    whole = _whisper(max_source_positions=frames // 2, **settings)
    inputs: Inputs = {
        "tokens": ("int64", ("batch", "length")),
        "encoded": ("float32", ("batch", frames // 2, int(settings["d_model"]))),
    }
    return StudentOfTwo(
        whole.decoder, inputs, answer="last_hidden_state", names=("input_ids", "encoder_hidden_states")
    )


class _Squeeze(nn.Module):
    """Squeeze and excitation with the hard sigmoid of MobileNetV3 (Howard et al. 2019, section 5.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, channels // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x * self.gate(x)
        return made


class _Inverted(nn.Module):
    """An inverted residual with depthwise convolution (Sandler et al. 2018), squeeze and hard swish."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inside * expand
        self.body = nn.Sequential(
            nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.Hardswish(), _Squeeze(wide), nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.body(x) if self.residual else self.body(x)
        return made


def _mobilenet_v3(side: int, widths: tuple[int, ...]) -> Student:
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 3, 2, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.Hardswish(),
    ]
    for inside, outside in pairwise(widths):
        layers += [_Inverted(inside, outside, 5, 2, 4), _Inverted(outside, outside, 3, 1, 4)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 100)]
    net = nn.Sequential(*layers)
    _normalise(net, torch.randn(4, 3, side, side))
    return Student(_Renamed(net, "image"), _image(side), answer="")


class _Renamed(nn.Module):
    """A network of one positional input, called by that input's name."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net = net
        self._name = name

    def forward(self, **values: Tensor) -> Tensor:
        made: Tensor = self.net(values[self._name])
        return made


class _CnnRnn(nn.Module):
    """Convolutions over a log-mel spectrogram, a GRU over time, one answer per recording."""

    def __init__(self, mels: int, wide: int, hidden: int) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(mels, wide, 5, 2, 2),
            nn.BatchNorm1d(wide),
            nn.ReLU(),
            nn.Conv1d(wide, wide, 5, 2, 2),
            nn.ReLU(),
        )
        self.time = nn.GRU(wide, hidden, batch_first=True, bidirectional=True)
        self.answer = nn.Linear(2 * hidden, 12)

    def forward(self, features: Tensor) -> Tensor:
        seen, _ = self.time(self.front(features).transpose(1, 2))
        made: Tensor = self.answer(seen.mean(1))
        return made


def _cnn_rnn(frames: int, wide: int, hidden: int) -> Student:
    return Student(_CnnRnn(40, wide, hidden), {"features": ("float32", ("batch", 40, frames))}, answer="")


_RESNET = partial(_vision, "ResNetForImageClassification", "ResNetConfig")
_EFFICIENT = partial(_vision, "EfficientNetForImageClassification", "EfficientNetConfig")
_SWIN = partial(_vision, "SwinForImageClassification", "SwinConfig")
_VIT = partial(_vision, "ViTForImageClassification", "ViTConfig", attn_implementation="eager")
_BERT = partial(_text, "BertForSequenceClassification", "BertConfig")
_DISTILBERT = partial(_text, "DistilBertForSequenceClassification", "DistilBertConfig")
_WHISPER_TINY = {"d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
                 "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536}  # fmt: skip
_WHISPER_LESS = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
                 "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 128,
                 "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                 "decoder_start_token_id": 1}  # fmt: skip

resnet18 = partial(_RESNET, 224, layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
#: 23.7 million parameters: what "25M" means in bench/ and the documents.
resnet50 = partial(_RESNET, 224)
mobilenet_v2 = partial(_vision, "MobileNetV2ForImageClassification", "MobileNetV2Config", 224)
mobilenet_v3_like = partial(_mobilenet_v3, 224, (16, 24, 40, 80, 112))
efficientnet_b0 = partial(_EFFICIENT, 224, image_size=224, width_coefficient=1.0, depth_coefficient=1.0,
                          hidden_dim=1280)  # fmt: skip
convnext_tiny = partial(_vision, "ConvNextForImageClassification", "ConvNextConfig", 224)
vit_tiny = partial(
    _VIT, 224, hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768
)
swin_tiny = partial(_SWIN, 224)
bert_small = partial(
    _BERT, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536
)
distilbert_small = partial(_DISTILBERT, dim=384, n_layers=6, n_heads=6, hidden_dim=1536)
whisper_tiny_encoder = partial(_whisper_encoder, 3000, **_WHISPER_TINY)
whisper_tiny_decoder = partial(_whisper_decoder, 3000, **_WHISPER_TINY)
cnn_rnn = partial(_cnn_rnn, 100, 128, 128)

resnet_less = partial(_RESNET, 32, layer_type="basic", depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8)
mobilenet_v2_less = partial(_vision, "MobileNetV2ForImageClassification", "MobileNetV2Config", 32,
                            depth_multiplier=0.1, image_size=32)  # fmt: skip
mobilenet_v3_less = partial(_mobilenet_v3, 32, (8, 16))
efficientnet_less = partial(_EFFICIENT, 32, image_size=32, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
                            kernel_sizes=[3, 5], in_channels=[32, 16], out_channels=[16, 24], strides=[1, 2],
                            num_block_repeats=[1, 1], expand_ratios=[1, 4])  # fmt: skip
convnext_less = partial(_vision, "ConvNextForImageClassification", "ConvNextConfig", 32, depths=[1, 1],
                        hidden_sizes=[8, 16], num_stages=2)  # fmt: skip
vit_less = partial(_VIT, 32, image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=64)  # fmt: skip
swin_less = partial(_SWIN, 32, image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 2],
                    window_size=4)  # fmt: skip
bert_less = partial(_BERT, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                    vocab_size=100, max_position_embeddings=64)  # fmt: skip
distilbert_less = partial(_DISTILBERT, dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=100,
                          max_position_embeddings=64)  # fmt: skip
whisper_encoder_less = partial(_whisper_encoder, 64, **_WHISPER_LESS)
whisper_decoder_less = partial(_whisper_decoder, 64, **_WHISPER_LESS)
cnn_rnn_less = partial(_cnn_rnn, 20, 16, 16)

#: Least, usual and greatest size of what is dynamic beside the batch.
_SEQUENCE = "1x8:1x128:2x128"
_SEQUENCE_LESS = "1x4:1x16:2x32"

#: Name -> sizes of its dynamic inputs, as ``--shape`` writes them.
FULL: dict[str, tuple[str, ...]] = {
    "resnet18": (), "resnet50": (), "mobilenet_v2": (), "mobilenet_v3_like": (), "efficientnet_b0": (),
    "convnext_tiny": (), "vit_tiny": (), "swin_tiny": (),
    "bert_small": (f"input_ids={_SEQUENCE}", f"attention_mask={_SEQUENCE}"),
    "distilbert_small": (f"input_ids={_SEQUENCE}", f"attention_mask={_SEQUENCE}"),
    # ExecuTorch plans memory for the greatest size: 64 recordings of 30 s would be tens of GB.
    "whisper_tiny_encoder": ("features=1x80x3000:1x80x3000:2x80x3000",),
    "whisper_tiny_decoder": ("tokens=1x2:1x16:2x32", "encoded=1x1500x384:1x1500x384:2x1500x384"),
    "cnn_rnn": (),
}  # fmt: skip
TINY: dict[str, tuple[str, ...]] = {
    "resnet_less": (), "mobilenet_v2_less": (), "mobilenet_v3_less": (), "efficientnet_less": (),
    "convnext_less": (), "vit_less": (), "swin_less": (),
    "bert_less": (f"input_ids={_SEQUENCE_LESS}", f"attention_mask={_SEQUENCE_LESS}"),
    "distilbert_less": (f"input_ids={_SEQUENCE_LESS}", f"attention_mask={_SEQUENCE_LESS}"),
    "whisper_encoder_less": (),
    "whisper_decoder_less": ("tokens=1x2:1x4:2x16", "encoded=1x32x32:1x32x32:2x32x32"),
    "cnn_rnn_less": (),
}  # fmt: skip

Factory = Callable[[], Student]


def factory(name: str) -> Factory:
    """The factory of a name in :data:`FULL` or :data:`TINY`."""
    made: Factory = globals()[name]
    return made


if __name__ == "__main__":
    for listed in (*FULL, *TINY):
        built = factory(listed)()
        print(f"{listed:24} {sum(p.numel() for p in built.parameters()) / 1e6:8.2f} M parameters")
    print(torch.__version__)
