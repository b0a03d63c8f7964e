"""transformers: tiny configurations."""

import torch
import transformers as hf
from torch import nn

from . import architecture, noise, tokens

WORDS = 100
SMALL = dict(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


class Pick(nn.Module):
    """The named fields of a network's result; inputs are passed by name. No caches."""

    def __init__(self, net, inputs, fields, **fixed):
        super().__init__()
        self.net, self.inputs, self.fields, self.fixed = net, inputs, fields, fixed

    def forward(self, *inputs):
        found = self.net(**dict(zip(self.inputs, inputs)), **self.fixed)
        return tuple(getattr(found, field) for field in self.fields)


def encoder(net):
    return Pick(net, ["input_ids", "attention_mask"], ["last_hidden_state"]), tokens(WORDS, 1, 16, mask=True)


def decoder(net):
    return Pick(net, ["input_ids"], ["logits"], use_cache=False), tokens(WORDS, 1, 16)


def pictures(net, size, fields=("last_hidden_state",)):
    return Pick(net, ["pixel_values"], fields), noise(1, 3, size, size)


@architecture(core=True)
def bert():
    return encoder(hf.BertModel(hf.BertConfig(**SMALL)))


@architecture
def bert_eager_attention():
    return encoder(hf.BertModel(hf.BertConfig(**SMALL, attn_implementation="eager")))


@architecture
def roberta():
    return encoder(hf.RobertaModel(hf.RobertaConfig(**SMALL)))


@architecture
def distilbert():
    return encoder(hf.DistilBertModel(hf.DistilBertConfig(vocab_size=WORDS, dim=32, hidden_dim=64, n_layers=2, n_heads=4)))


@architecture
def electra():
    return encoder(hf.ElectraModel(hf.ElectraConfig(**SMALL, embedding_size=16)))


@architecture
def albert():
    return encoder(hf.AlbertModel(hf.AlbertConfig(**SMALL, embedding_size=16)))


@architecture
def deberta_v2():
    config = hf.DebertaV2Config(**SMALL, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"])
    return encoder(hf.DebertaV2Model(config))


@architecture(core=True)
def gpt2():
    return decoder(hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=32)))


@architecture
def gpt_neox():
    return decoder(hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL)))


@architecture
def opt():
    config = hf.OPTConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32
    )
    return decoder(hf.OPTForCausalLM(config))


@architecture(core=True)
def llama():
    return decoder(hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=2)))


@architecture
def qwen3():
    return decoder(hf.Qwen3ForCausalLM(hf.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)))


@architecture
def gemma2():
    return decoder(hf.Gemma2ForCausalLM(hf.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8)))


@architecture
def mamba():
    return decoder(hf.MambaForCausalLM(hf.MambaConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=4)))


T5 = dict(vocab_size=WORDS, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)


@architecture
def t5_encoder():
    return encoder(hf.T5EncoderModel(hf.T5Config(**T5)))


@architecture
def t5():
    net = hf.T5ForConditionalGeneration(hf.T5Config(**T5))

    def inputs(seed):
        return tokens(WORDS, 1, 12)(seed) + tokens(WORDS, 1, 8)(seed + 1000)

    return Pick(net, ["input_ids", "decoder_input_ids"], ["logits"], use_cache=False), inputs


@architecture
def whisper_encoder():
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, num_mel_bins=16, max_source_positions=40
    )
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return Pick(WhisperEncoder(config), ["input_features"], ["last_hidden_state"]), noise(1, 16, 80)


@architecture
def hf_vit():
    return pictures(
        hf.ViTModel(hf.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8)),
        32, ("last_hidden_state", "pooler_output"),
    )


@architecture
def dinov2():
    return pictures(
        hf.Dinov2Model(hf.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)), 32
    )


@architecture
def clip_vision():
    config = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    return pictures(hf.CLIPVisionModel(config), 32)


@architecture
def segformer():
    config = hf.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=32
    )
    return pictures(hf.SegformerForSemanticSegmentation(config), 64, ("logits",))


@architecture
def hf_mobilevit():
    config = hf.MobileViTConfig(
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 16, 16, 24, 32, 32, 64], num_attention_heads=4, image_size=64
    )
    return pictures(hf.MobileViTModel(config), 64)


@architecture
def wav2vec2():
    config = hf.Wav2Vec2Config(
        **{**SMALL, "vocab_size": 32}, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_feat_extract_layers=3,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )
    return Pick(hf.Wav2Vec2Model(config), ["input_values"], ["last_hidden_state"]), noise(1, 1000)
