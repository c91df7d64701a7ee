"""Makes a Bark that fits everywhere: real structure, vocabulary and code paths, random weights. It speaks no language.

For trying what is around a voice: what it says are noises, others for each text and voice, and the same each time. Where a
real one lies is an option of the workflow. Imports torch and transformers when it is imported.

    python -m workflows.demo.tiny_bark DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkModel,
    BarkSemanticConfig,
    EncodecConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

__all__ = ["VOICES", "build"]

VOICES: Final = ("v2/en_speaker_6", "v2/en_speaker_9", "v2/de_speaker_3")

_SAMPLE_RATE: Final = 24_000
_CODEBOOK: Final = 1024
_SEMANTIC_WORDS: Final = 10_000
_SPECIAL: Final = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
_GAIN: Final = 2.5
_LOUDNESS: Final = 0.12  # root mean square
_LAYERS: Final[dict[str, Any]] = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "block_size": 1024, "bias": True}


def build(path: str | Path, *, semantic_tokens: int = 24, seed: int = 0) -> Path:
    """Write the model's directory, within a second, and return it.

    Args:
        semantic_tokens: The longest sentence; 50 of them are a second.
        seed: Of weights and voices.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads have other last bits
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _model()
    finally:
        torch.set_num_threads(threads)
    model.generation_config = _generation(semantic_tokens)
    logging.disable_progress_bar()
    model.save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    _save_voices(directory, np.random.default_rng(seed))
    return directory


def _model() -> Any:
    codec = EncodecConfig(
        num_filters=2,
        hidden_size=16,
        codebook_dim=16,
        num_lstm_layers=1,
        sampling_rate=_SAMPLE_RATE,
        codebook_size=_CODEBOOK,
    )
    config = BarkConfig(
        semantic_config=BarkSemanticConfig(input_vocab_size=129_600, output_vocab_size=10_048, **_LAYERS).to_dict(),
        coarse_acoustics_config=BarkCoarseConfig(
            input_vocab_size=12_096, output_vocab_size=12_096, **_LAYERS
        ).to_dict(),
        fine_acoustics_config=BarkFineConfig(
            input_vocab_size=1056, output_vocab_size=1056, n_codes_total=8, n_codes_given=1, **_LAYERS
        ).to_dict(),
        codec_config=codec.to_dict(),
    )
    model = BarkModel(config).eval()
    with torch.no_grad():
        _make_it_listen(model)
    model.tie_weights()
    return model


def _make_it_listen(model: Any) -> None:
    """As weights begin, a model hardly looks at its input, the codebooks are all zero, and what the codec gives is mostly
    its biases: every text would sound alike."""
    for name, weight in model.named_parameters():
        if "codec_model" not in name and weight.dim() > 1:
            weight.normal_(0.0, 1.0 if "embed" in name else 0.6)
    codec = model.codec_model
    for name, buffer in codec.named_buffers():
        if name.endswith("embed"):
            buffer.normal_(0.0, 1.0)
    gains = []
    for name, weight in codec.decoder.named_parameters():
        if "bias" in name:
            weight.zero_()
        elif name.endswith("original0"):  # of a convolution: how long its weights are
            weight.mul_(_GAIN)
            gains.append(weight)
    codes = torch.randint(0, _CODEBOOK, (8, 1, 150))
    loudness = codec.decoder(codec.quantizer.decode(codes)).square().mean().sqrt()
    gains[-1].mul_(_LOUDNESS / loudness)


def _generation(semantic_tokens: int) -> GenerationConfig:
    """As the files of a real Bark have it: a dict for each stage. The most likely token is taken, none is drawn."""
    return GenerationConfig(
        sample_rate=_SAMPLE_RATE,
        codebook_size=_CODEBOOK,
        semantic_config={
            "max_new_tokens": semantic_tokens,
            "min_new_tokens": semantic_tokens // 2,
            "do_sample": False,
        },
        coarse_acoustics_config={"do_sample": False},
        fine_acoustics_config={"temperature": None},
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character, within a word or at its beginning."""
    signs = [chr(code) for code in range(ord(" "), ord("~") + 1)]
    words = [*_SPECIAL.values(), *signs, *("##" + sign for sign in signs)]
    tokenizer = Tokenizer(
        models.WordPiece(
            {word: number for number, word in enumerate(words)},
            unk_token=_SPECIAL["unk_token"],
            max_input_chars_per_word=64,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def _save_voices(directory: Path, random: np.random.Generator) -> None:
    index: dict[str, Any] = {"repo_or_path": "tiny-bark"}
    for voice in VOICES:
        prompts = {
            "semantic_prompt": random.integers(0, _SEMANTIC_WORDS, 40),
            "coarse_prompt": random.integers(0, _CODEBOOK, (2, 60)),
            "fine_prompt": random.integers(0, _CODEBOOK, (8, 60)),
        }
        index[voice] = {}
        for name, prompt in prompts.items():
            file = f"speaker_embeddings/{voice}_{name}.npy"
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            np.save(directory / file, prompt.astype(np.int64), allow_pickle=False)
            index[voice][name] = file
    (directory / "speaker_embeddings_path.json").write_text(json.dumps(index), encoding="utf-8")


if __name__ == "__main__":
    build(sys.argv[1])
