"""Models that read images and sound, small enough to train in a test, and their examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
    default_data_collator,
)

from tests.integrations.models import VOCABULARY, Rows

CLASSES = 3
SIZE = 16  # of an image, pixels
PATCH = 4
SAMPLES = 400  # of a sound
BLOCKS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IMAGES: dict[str, Any] = {**BLOCKS, "image_size": SIZE, "patch_size": PATCH}
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def tiny_vit() -> nn.Module:
    """16 patches, with dropout."""
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(**IMAGES, num_labels=CLASSES, hidden_dropout_prob=0.1)
    )


def tiny_resnet() -> nn.Module:
    """No transformer: its last hidden state has 4 x 4 positions; with BatchNorm."""
    torch.manual_seed(0)
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES)
    )


def tiny_mae() -> nn.Module:
    """Draws which patches it leaves out, in evaluation mode too."""
    torch.manual_seed(0)
    decoder = {f"decoder_{name}": size // 2 for name, size in BLOCKS.items()}
    return ViTMAEForPreTraining(ViTMAEConfig(**IMAGES, **decoder))


def tiny_wav2vec2() -> nn.Module:
    """Makes 39 frames of 400 samples; masks some of them in training, by numpy's generator."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        **BLOCKS,
        **CONVOLUTIONS,
        num_labels=CLASSES,
        mask_time_length=2,
        classifier_proj_size=16,
        feat_extract_norm="layer",
    )
    return Wav2Vec2ForSequenceClassification(config)


def tiny_whisper() -> nn.Module:
    """An encoder-decoder that reads spectrograms."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        dropout=0.1,
    )
    return WhisperForConditionalGeneration(config)


def tiny_clip() -> nn.Module:
    """Two encoders and no last hidden state."""
    torch.manual_seed(0)
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    text = {**BLOCKS, **tokens, "max_position_embeddings": 16}
    return CLIPModel(CLIPConfig(projection_dim=16, text_config=text, vision_config=IMAGES))


def rows(n: int, seed: int, *labels: int, **inputs: tuple[int, ...]) -> Rows:
    """`n` examples with noise for each of `inputs`, named with its shape.

    Args:
        n: Examples.
        seed: Of the draw.
        labels: Shape of the labels of an example.
        inputs: Shape of each input of an example; token ids for `input_ids`.
    """
    generator = torch.Generator().manual_seed(seed)

    def tokens(shape: tuple[int, ...], below: int = VOCABULARY) -> Tensor:
        return torch.randint(3, below, shape, generator=generator)

    return [
        {
            name: tokens(shape) if name == "input_ids" else torch.randn(shape, generator=generator)
            for name, shape in inputs.items()
        }
        | {"labels": tokens(labels) if labels else tokens((), 3 + CLASSES) - 3}
        for _ in range(n)
    ]


def data(*labels: int, **inputs: tuple[int, ...]) -> dict[str, Any]:
    """Training and held-out examples, as `make_trainer` takes them."""
    return {"train": rows(96, 0, *labels, **inputs), "held_out": rows(32, 1, *labels, **inputs)}


def pairs(items: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Images and texts as CLIP wants them in training: it makes its loss itself."""
    batch = default_data_collator(
        [{k: v for k, v in item.items() if k != "labels"} for item in items]
    )
    return {**batch, "return_loss": True}


def image_embeddings(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """An `embed_fn` for CLIP; a plain tensor before transformers 5."""
    features = model.get_image_features(pixel_values=batch["pixel_values"])
    pooled: Tensor = getattr(features, "pooler_output", features)
    return pooled
