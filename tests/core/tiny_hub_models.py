"""Tiny models with random weights, saved as the hub stores its models."""

from pathlib import Path

import transformers

WORDS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "a", "red", "apple", "green", "pear", "on", "the", "table"]
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def save_image_processor(folder: Path) -> None:
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)


def build_clip(folder: Path) -> None:
    text = {**TINY, "vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    save_image_processor(folder)


def build_vit(folder: Path) -> None:
    config = transformers.ViTConfig(**TINY, image_size=32, patch_size=8)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_image_processor(folder)


def build_bert(folder: Path) -> None:
    config = transformers.BertConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=16, pad_token_id=1)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder)


def build_wav2vec2(folder: Path) -> None:
    config = transformers.Wav2Vec2Config(
        **TINY, conv_dim=(8, 8), conv_stride=(10, 8), conv_kernel=(10, 8), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)


def build_clap(folder: Path) -> None:
    text = {**TINY, "vocab_size": len(WORDS), "max_position_embeddings": 16, "pad_token_id": 1}
    audio = {
        "hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
        "spec_size": 256, "window_size": 8, "num_mel_bins": 64, "enable_fusion": True, "enable_patch_layer_norm": True,
        "enable_patch_fusion": True,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(max_length_s=1, truncation="fusion").save_pretrained(folder)


def build_ast(folder: Path) -> None:
    config = transformers.ASTConfig(**TINY, max_length=128, num_mel_bins=32)
    transformers.ASTModel(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(sampling_rate=8_000, max_length=128, num_mel_bins=32).save_pretrained(folder)


def save_film_processor(folder: Path) -> None:
    transformers.VideoMAEImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)


def build_videomae(folder: Path) -> None:
    config = transformers.VideoMAEConfig(**TINY, image_size=32, patch_size=8, num_frames=2, tubelet_size=1)
    transformers.VideoMAEModel(config).save_pretrained(folder)
    save_film_processor(folder)


def build_vivit(folder: Path) -> None:
    config = transformers.VivitConfig(**TINY, image_size=32, tubelet_size=[2, 8, 8], num_frames=2)
    transformers.VivitModel(config, add_pooling_layer=False).save_pretrained(folder)
    transformers.VivitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )


def build_timesformer(folder: Path) -> None:
    config = transformers.TimesformerConfig(**TINY, image_size=32, patch_size=8, num_frames=2)
    transformers.TimesformerModel(config).save_pretrained(folder)
    save_film_processor(folder)


def build_xclip(folder: Path) -> None:
    text = {**TINY, "vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 2, "eos_token_id": 3}
    vision = {
        **TINY, "image_size": 32, "patch_size": 8, "num_frames": 2, "mit_hidden_size": 8, "mit_intermediate_size": 8,
        "mit_num_hidden_layers": 1, "mit_num_attention_heads": 2,
    }  # fmt: skip
    config = transformers.XCLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.XCLIPModel(config).save_pretrained(folder)
    save_film_processor(folder)


def build_roberta(folder: Path) -> None:
    config = transformers.RobertaConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=16, pad_token_id=1)
    transformers.RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder)


def build_xlnet(folder: Path) -> None:
    config = transformers.XLNetConfig(vocab_size=len(WORDS), d_model=16, n_layer=1, n_head=2, d_inner=16)
    transformers.XLNetModel(config).save_pretrained(folder)
    save_tokenizer(folder)


def build_t5(folder: Path) -> None:
    config = transformers.T5Config(vocab_size=len(WORDS), d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(folder)
    save_tokenizer(folder)


BUILDERS = {
    "clip": build_clip,
    "vit": build_vit,
    "bert": build_bert,
    "wav2vec2": build_wav2vec2,
    "clap": build_clap,
    "ast": build_ast,
    "videomae": build_videomae,
    "vivit": build_vivit,
    "timesformer": build_timesformer,
    "xclip": build_xclip,
    "roberta": build_roberta,
    "xlnet": build_xlnet,
    "t5": build_t5,
}
"""By the name of the model: what saves it to a folder."""
