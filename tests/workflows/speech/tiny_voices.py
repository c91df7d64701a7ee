"""Speech models of transformers, small enough to be made on the spot, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    CsmConfig,
    CsmForConditionalGeneration,
    CsmProcessor,
    DacConfig,
    DacModel,
    DiaConfig,
    DiaFeatureExtractor,
    DiaForConditionalGeneration,
    DiaTokenizer,
    EncodecFeatureExtractor,
    FastSpeech2ConformerConfig,
    FastSpeech2ConformerHifiGanConfig,
    FastSpeech2ConformerWithHifiGan,
    FastSpeech2ConformerWithHifiGanConfig,
    PreTrainedTokenizerFast,
    SpeechT5Config,
    SpeechT5ForTextToSpeech,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    VitsConfig,
    VitsModel,
)

__all__ = ["tiny_csm", "tiny_dia", "tiny_fastspeech", "tiny_speecht5", "tiny_vits"]

_LETTERS = "_ abcdefghijklmnopqrstuvwxyz'"
_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def tiny_vits(path: Path, speakers: int = 1) -> Path:
    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=len(_LETTERS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        flow_size=16,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3, 5]],
        prior_encoder_num_flows=1,
        posterior_encoder_num_wavenet_layers=1,
        prior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16,
        depth_separable_num_layers=1,
        num_speakers=speakers,
        speaker_embedding_size=8 if speakers > 1 else 0,
        sampling_rate=16_000,
    )
    VitsModel(config).save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(_LETTERS)}))
    settings = {
        "tokenizer_class": "VitsTokenizer",
        "add_blank": True,
        "normalize": True,
        "phonemize": False,
        "is_uroman": False,
        "pad_token": "_",
        "unk_token": "<unk>",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def tiny_speecht5(path: Path) -> tuple[Path, Path, Path]:
    """The model, its vocoder, and two speakers called `ada` and `bob`."""
    torch.manual_seed(0)
    config = SpeechT5Config(
        vocab_size=len(_LETTERS) + 2,
        hidden_size=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        num_mel_bins=8,
        speech_decoder_prenet_units=16,
        speech_decoder_postnet_units=16,
        speaker_embedding_dim=4,
        speech_decoder_prenet_dropout=0.0,
    )
    model = SpeechT5ForTextToSpeech(config)
    with torch.no_grad():
        model.speech_decoder_postnet.prob_out.bias.fill_(-9.0)  # it never thinks that it is done
    model.save_pretrained(path / "model")
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        sampling_rate=16_000,
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3, 5]],
    )
    wave_maker = SpeechT5HifiGan(vocoder)
    with torch.no_grad():
        for weight in wave_maker.parameters():
            weight.normal_(0.0, 0.1)
    wave_maker.save_pretrained(path / "vocoder")
    _letters_of(path / "model")
    random = np.random.default_rng(0)
    save_file(
        {name: random.normal(size=4).astype(np.float32) for name in ("ada", "bob")}, path / "speakers.safetensors"
    )
    return path / "model", path / "vocoder", path / "speakers.safetensors"


def tiny_fastspeech(path: Path) -> Path:
    """A model that has its vocoder within, and is asked through transformers' pipeline."""
    torch.manual_seed(0)
    model = FastSpeech2ConformerConfig(
        hidden_size=16,
        vocab_size=len(_LETTERS) + 2,
        num_mel_bins=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        encoder_linear_units=16,
        decoder_linear_units=16,
        duration_predictor_channels=16,
        energy_predictor_channels=16,
        pitch_predictor_channels=16,
        speech_decoder_postnet_units=16,
        speech_decoder_postnet_layers=1,
        pitch_predictor_layers=1,
    )
    vocoder = FastSpeech2ConformerHifiGanConfig(
        model_in_dim=8,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3, 5]],
    )
    vocoder.sampling_rate = 22_050  # as published models have it
    config = FastSpeech2ConformerWithHifiGanConfig(model_config=model.to_dict(), vocoder_config=vocoder.to_dict())
    whole = FastSpeech2ConformerWithHifiGan(config)
    with torch.no_grad():
        for weight in whole.vocoder.parameters():
            weight.normal_(0.0, 0.1)
        for name, weight in whole.model.named_parameters():
            if "duration_predictor.linear" in name:
                weight.fill_(1.2 if name.endswith("bias") else 0.0)  # of each letter, two or three frames
    whole.save_pretrained(path)
    _letters_of(path)
    return path


def tiny_dia(path: Path) -> tuple[Path, Path]:
    """A model that generates, and its codec. Its files name another one, which is not there."""
    torch.manual_seed(0)
    codec = DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4],
        decoder_hidden_size=16,
        n_codebooks=9,
        sampling_rate=44_100,
    )
    DacModel(codec).save_pretrained(path / "codec")
    crossing = {f"cross_{name}": value for name, value in (_SMALL | {"head_dim": 8}).items() if "head" in name}
    config = DiaConfig(
        encoder_config=_SMALL | {"head_dim": 8},
        decoder_config=_SMALL | {"head_dim": 8, "cross_hidden_size": 16} | crossing,
    )
    model = DiaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.6)
    # As published, but for its length: both voices of guidance, and drawn.
    model.generation_config.update(do_sample=True, guidance_scale=3.0, temperature=1.8, top_k=45, max_new_tokens=40)
    model.save_pretrained(path / "model")
    DiaTokenizer().save_pretrained(path / "model")
    DiaFeatureExtractor(sampling_rate=44_100, hop_length=8).save_pretrained(path / "model")
    named = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "nobody/codec"}
    (path / "model" / "audio_tokenizer_config.json").write_text(json.dumps(named))
    (path / "model" / "processor_config.json").write_text(json.dumps({"processor_class": "DiaProcessor"}))
    return path / "model", path / "codec"


def tiny_csm(path: Path) -> Path:
    """A model that generates, and has a processor."""
    torch.manual_seed(0)
    codec = {
        **_SMALL,
        "model_type": "mimi",
        "num_filters": 4,
        "upsampling_ratios": [8, 4],
        "codebook_size": 64,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "upsample_groups": 16,
        "num_quantizers": 4,
        "head_dim": 8,
        "sampling_rate": 24_000,
    }
    depth = {**_SMALL, "num_codebooks": 4, "backbone_hidden_size": 16, "vocab_size": 35, "max_position_embeddings": 8}
    config = CsmConfig(
        **_SMALL,
        num_codebooks=4,
        vocab_size=35,
        text_vocab_size=64,
        max_position_embeddings=256,
        codec_config=codec,
        depth_decoder_config=depth,
        pad_token_id=0,
        codebook_pad_token_id=33,
        codebook_eos_token_id=34,
        bos_token_id=1,
        eos_token_id=None,
        audio_token_id=62,
        audio_eos_token_id=63,
    )
    model = CsmForConditionalGeneration(config)
    with torch.no_grad():
        for name, buffer in model.codec_model.named_buffers():
            if name.endswith("embed_sum"):
                buffer.normal_(0.0, 1.0)
        for name, weight in model.named_parameters():
            if "codec_model" not in name and weight.dim() > 1:
                weight.normal_(0.0, 0.6)
    model.generation_config.max_new_tokens = 20
    model.depth_decoder.generation_config.max_new_tokens = 3
    model.save_pretrained(path)
    _letters_of(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for name in ("audio_token", "audio_eos_token"):
        setattr(tokenizer, name, "'")
        setattr(tokenizer, f"{name}_id", 3)
    CsmProcessor(EncodecFeatureExtractor(sampling_rate=24_000), tokenizer).save_pretrained(path)
    return path


def _letters_of(path: Path) -> None:
    words = ["<unk>", "</s>", *_LETTERS]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<unk>", eos_token="</s>", model_input_names=names
    )
    tokenizer.save_pretrained(path)
