"""Models of torchvision and of Hugging Face's transformers, in small configurations where they allow it."""

import torch
from torch import nn
from registry import MODELS, ids, model


def vision(name, size=64, batch=2, **kw):
    def f():
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=10, **kw), (torch.randn(batch, 3, size, size),)

    f.__name__ = name
    MODELS[name] = f


for n in ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
          "shufflenet_v2_x1_0", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "densenet121"]:
    vision(n)
vision("mnasnet1_0", 128)
vision("alexnet", 96)
vision("vgg11_bn", 64)
vision("vit_b_16", 64, image_size=64)
vision("swin_t", 64)


def main_output(name, size):
    def f():
        import torchvision

        class Main(nn.Module):
            """torch.export cannot save torchvision's named tuples."""

            def __init__(self):
                super().__init__()
                self.net = getattr(torchvision.models, name)(weights=None, num_classes=10, init_weights=False)

            def forward(self, x):
                return self.net(x)[0]

        return Main(), (torch.randn(2, 3, size, size),)

    f.__name__ = name
    MODELS[name] = f


main_output("googlenet", 64)
vision("inception_v3", 128, init_weights=False, aux_logits=False)  # its auxiliary head wants 299


def hf(name, cls, config, vocab=99, length=16, **kw):
    def f():
        import transformers

        c = getattr(transformers, config)(**kw)
        m = getattr(transformers, cls)(c)
        if hasattr(c, "use_cache"):
            c.use_cache = False
        return m, (ids(vocab, 2, length),)

    f.__name__ = name
    MODELS[name] = f


small = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
hf("bert", "BertForSequenceClassification", "BertConfig", **small, **off)
hf("bert_mlm", "BertForMaskedLM", "BertConfig", **small, **off)
hf("distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
hf("roberta", "RobertaForSequenceClassification", "RobertaConfig", **small, **off)
hf("albert", "AlbertForSequenceClassification", "AlbertConfig", embedding_size=16, **small, **off)
hf("electra", "ElectraForSequenceClassification", "ElectraConfig", embedding_size=16, **small, **off)
hf("gpt2", "GPT2LMHeadModel", "GPT2Config", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
hf("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", max_position_embeddings=64, **small)
hf("opt", "OPTForCausalLM", "OPTConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.0, attention_dropout=0.0)
hf("llama", "LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, max_position_embeddings=64, **small)
hf("qwen2", "Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=2, max_position_embeddings=64, **small)
hf("mistral", "MistralForCausalLM", "MistralConfig", num_key_value_heads=2, max_position_embeddings=64, **small)
hf("phi", "PhiForCausalLM", "PhiConfig", max_position_embeddings=64, resid_pdrop=0.0, embd_pdrop=0.0, **small)


hf("mobilebert", "MobileBertForSequenceClassification", "MobileBertConfig", vocab_size=99, hidden_size=32, embedding_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, intra_bottleneck_size=16, **off)
hf("deberta_v2", "DebertaV2ForSequenceClassification", "DebertaV2Config", **small, **off)
hf("xlm_roberta", "XLMRobertaForMaskedLM", "XLMRobertaConfig", **small, **off)
hf("gemma", "GemmaForCausalLM", "GemmaConfig", num_key_value_heads=1, head_dim=8, max_position_embeddings=64, **small)
hf("gpt_bigcode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
hf("bloom", "BloomForCausalLM", "BloomConfig", vocab_size=99, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0)
hf("falcon", "FalconForCausalLM", "FalconConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_dropout=0.0, attention_dropout=0.0)
hf("mpnet", "MPNetForSequenceClassification", "MPNetConfig", **small, **off)
hf("clip_text", "CLIPTextModelWithProjection", "CLIPTextConfig", max_position_embeddings=32, projection_dim=16, eos_token_id=98, **small)


hf("gptj", "GPTJForCausalLM", "GPTJConfig", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
hf("gpt2_classes", "GPT2ForSequenceClassification", "GPT2Config", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0)
hf("xlnet", "XLNetForSequenceClassification", "XLNetConfig", vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=48, dropout=0.0, summary_last_dropout=0.0)


def encoder_decoder(name, cls, config, **kw):
    def f():
        import transformers

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = getattr(transformers, cls)(getattr(transformers, config)(use_cache=False, **kw))

            def forward(self, a, b):
                return self.net(input_ids=a, decoder_input_ids=b).logits

        return Both(), (ids(99, 2, 12), ids(99, 2, 8))

    f.__name__ = name
    MODELS[name] = f


halves = dict(vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
              max_position_embeddings=64, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
encoder_decoder("bart", "BartForConditionalGeneration", "BartConfig", **halves)
encoder_decoder("pegasus", "PegasusForConditionalGeneration", "PegasusConfig", **halves)


def seen(name, cls, config, size=32, channels=3, **kw):
    def f():
        import transformers

        return getattr(transformers, cls)(getattr(transformers, config)(**kw)), (torch.randn(2, channels, size, size),)

    f.__name__ = name
    MODELS[name] = f


patches = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8)
seen("deit", "DeiTForImageClassification", "DeiTConfig", **patches, **off)
seen("beit", "BeitForImageClassification", "BeitConfig", drop_path_rate=0.0, **patches, **off)
seen("clip_vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", projection_dim=16, **patches)
seen("dinov2", "Dinov2ForImageClassification", "Dinov2Config", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, **off)
seen("segformer", "SegformerForImageClassification", "SegformerConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], drop_path_rate=0.0, classifier_dropout_prob=0.0, **off)
seen("mobilevit", "MobileViTForImageClassification", "MobileViTConfig", 64, image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64], num_attention_heads=2, classifier_dropout_prob=0.0, **off)


@model
def wav2vec2():
    import transformers

    c = transformers.Wav2Vec2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
                                    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
                                    layerdrop=0.0, apply_spec_augment=False, mask_time_prob=0.0)
    m = transformers.Wav2Vec2Model(c)
    torch.nn.utils.parametrize.remove_parametrizations(m.encoder.pos_conv_embed.conv, "weight")  # weight normalisation
    return m, (torch.randn(2, 1600),)


vision("regnet_x_400mf")
vision("efficientnet_v2_s")
vision("convnext_small")
vision("swin_v2_t", 64)


@model
def maxvit():
    import torchvision

    return torchvision.models.MaxVit(input_size=(64, 64), stem_channels=16, partition_size=2, block_channels=[16, 32], block_layers=[1, 2], head_dim=8, stochastic_depth_prob=0.0, num_classes=10), (torch.randn(2, 3, 64, 64),)


@model
def hf_vit():
    import transformers

    c = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8, **off)
    return transformers.ViTForImageClassification(c), (torch.randn(2, 3, 32, 32),)


@model
def whisper_encoder():
    import transformers

    c = transformers.WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48, max_source_positions=50, num_mel_bins=16, dropout=0.0)
    return transformers.models.whisper.modeling_whisper.WhisperEncoder(c), (torch.randn(2, 16, 100),)


@model
def t5():
    import transformers

    c = transformers.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0, use_cache=False)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.t5 = transformers.T5ForConditionalGeneration(c)

        def forward(self, a, b):
            return self.t5(input_ids=a, decoder_input_ids=b).logits

    return Both(), (ids(99, 2, 12), ids(99, 2, 8))


for n in ["squeezenet1_0", "resnet34", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_800mf", "efficientnet_b1", "densenet169"]:
    vision(n)
vision("mnasnet1_3", 64)
vision("vit_b_32", 64, image_size=64)


long = dict(**small, max_position_embeddings=64)
hf("phi3", "Phi3ForCausalLM", "Phi3Config", resid_pdrop=0.0, embd_pdrop=0.0, pad_token_id=0, num_key_value_heads=2, **long)
hf("gemma2", "Gemma2ForCausalLM", "Gemma2Config", num_key_value_heads=2, head_dim=8, sliding_window=8, **long)
hf("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", num_key_value_heads=2, head_dim=8, sliding_window=8, **long)
hf("qwen3", "Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=2, head_dim=8, **long)
hf("olmo", "OlmoForCausalLM", "OlmoConfig", **long)
hf("olmo2", "Olmo2ForCausalLM", "Olmo2Config", **long)
hf("stablelm", "StableLmForCausalLM", "StableLmConfig", num_key_value_heads=2, **long)
hf("starcoder2", "Starcoder2ForCausalLM", "Starcoder2Config", num_key_value_heads=2, residual_dropout=0.0, embedding_dropout=0.0, **long)
hf("cohere", "CohereForCausalLM", "CohereConfig", num_key_value_heads=2, **long)
hf("granite", "GraniteForCausalLM", "GraniteConfig", num_key_value_heads=2, **long)
hf("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", num_key_value_heads=2, pad_token_id=0, **long)
hf("glm", "GlmForCausalLM", "GlmConfig", num_key_value_heads=2, head_dim=8, pad_token_id=0, **long)
hf("nemotron", "NemotronForCausalLM", "NemotronConfig", num_key_value_heads=2, **long)
hf("helium", "HeliumForCausalLM", "HeliumConfig", num_key_value_heads=2, head_dim=8, **long)
hf("persimmon", "PersimmonForCausalLM", "PersimmonConfig", **long)
hf("mixtral", "MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=2, **long)
hf("mixtral_batched", "MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=4, experts_implementation="batched_mm", **long)
hf("qwen2_moe", "Qwen2MoeForCausalLM", "Qwen2MoeConfig", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24, experts_implementation="batched_mm", **long)
hf("gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig", vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=8, max_position_embeddings=64, resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0)
hf("codegen", "CodeGenForCausalLM", "CodeGenConfig", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
hf("ctrl", "CTRLLMHeadModel", "CTRLConfig", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, dff=48, resid_pdrop=0.0, embd_pdrop=0.0)
hf("openai_gpt", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
hf("xglm", "XGLMForCausalLM", "XGLMConfig", vocab_size=99, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48, max_position_embeddings=64, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
hf("mpt", "MptForCausalLM", "MptConfig", vocab_size=99, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)
hf("biogpt", "BioGptForCausalLM", "BioGptConfig", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layerdrop=0.0, **long)
hf("mamba", "MambaForCausalLM", "MambaConfig", vocab_size=99, hidden_size=32, state_size=4, num_hidden_layers=2)
hf("mamba2", "Mamba2ForCausalLM", "Mamba2Config", vocab_size=99, hidden_size=32, state_size=4, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=1, chunk_size=8)
hf("rwkv", "RwkvForCausalLM", "RwkvConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, context_length=32)
hf("falcon_new", "FalconForCausalLM", "FalconConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True, hidden_dropout=0.0, attention_dropout=0.0)

gpt2 = dict(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
hf("gpt2_tokens", "GPT2ForTokenClassification", "GPT2Config", classifier_dropout=0.0, **gpt2)
hf("gpt2_answers", "GPT2ForQuestionAnswering", "GPT2Config", **gpt2)
hf("bert_answers", "BertForQuestionAnswering", "BertConfig", **small, **off)
hf("bert_tokens", "BertForTokenClassification", "BertConfig", **small, **off)
hf("bert_pretraining", "BertForPreTraining", "BertConfig", **small, **off)
hf("llama_classes", "LlamaForSequenceClassification", "LlamaConfig", num_key_value_heads=2, pad_token_id=0, **long)
hf("deberta", "DebertaForSequenceClassification", "DebertaConfig", **small, **off)
hf("camembert", "CamembertForMaskedLM", "CamembertConfig", **small, **off)
hf("modernbert", "ModernBertForMaskedLM", "ModernBertConfig", pad_token_id=0, global_attn_every_n_layers=2, local_attention=8, reference_compile=False, **long)
hf("funnel", "FunnelForSequenceClassification", "FunnelConfig", vocab_size=99, block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=48, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
hf("squeezebert", "SqueezeBertForSequenceClassification", "SqueezeBertConfig", embedding_size=32, **small, **off)
hf("convbert", "ConvBertForSequenceClassification", "ConvBertConfig", embedding_size=32, head_ratio=2, **small, **off)
hf("longformer", "LongformerForSequenceClassification", "LongformerConfig", attention_window=8, **small, **off)
hf("big_bird", "BigBirdForSequenceClassification", "BigBirdConfig", attention_type="original_full", **small, **off)
hf("roformer", "RoFormerForSequenceClassification", "RoFormerConfig", **small, **off)
hf("ibert", "IBertForSequenceClassification", "IBertConfig", **small, **off)
hf("ernie", "ErnieForSequenceClassification", "ErnieConfig", **small, **off)
hf("esm", "EsmForMaskedLM", "EsmConfig", pad_token_id=1, mask_token_id=2, position_embedding_type="rotary", **small, **off)
hf("canine", "CanineForSequenceClassification", "CanineConfig", 99, 32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, num_hash_buckets=64, local_transformer_stride=8, downsampling_rate=4, **off)
hf("data2vec_text", "Data2VecTextForSequenceClassification", "Data2VecTextConfig", **small, **off)
hf("megatron_bert", "MegatronBertForSequenceClassification", "MegatronBertConfig", **small, **off)
hf("rembert", "RemBertForSequenceClassification", "RemBertConfig", input_embedding_size=16, output_embedding_size=16, classifier_dropout_prob=0.0, **small, **off)
hf("roberta_prenorm", "RobertaPreLayerNormForSequenceClassification", "RobertaPreLayerNormConfig", **small, **off)
hf("fnet", "FNetForSequenceClassification", "FNetConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, intermediate_size=48, hidden_dropout_prob=0.0)
hf("xlm", "XLMForSequenceClassification", "XLMConfig", vocab_size=99, emb_dim=32, n_layers=2, n_heads=4, dropout=0.0, attention_dropout=0.0, max_position_embeddings=64)
hf("layoutlm", "LayoutLMForSequenceClassification", "LayoutLMConfig", max_2d_position_embeddings=64, **small, **off)
hf("splinter", "SplinterForQuestionAnswering", "SplinterConfig", **small, **off)
hf("siglip_text", "SiglipTextModel", "SiglipTextConfig", 99, 16, max_position_embeddings=16, **small)
hf("mra", "MraForSequenceClassification", "MraConfig", **small, **off)
hf("xmod", "XmodForSequenceClassification", "XmodConfig", default_language="en_XX", **small, **off)

encoder_decoder("mbart", "MBartForConditionalGeneration", "MBartConfig", **halves)
encoder_decoder("marian", "MarianMTModel", "MarianConfig", pad_token_id=0, decoder_start_token_id=0, **halves)
encoder_decoder("m2m100", "M2M100ForConditionalGeneration", "M2M100Config", encoder_layerdrop=0.0, decoder_layerdrop=0.0, **halves)
encoder_decoder("blenderbot", "BlenderbotForConditionalGeneration", "BlenderbotConfig", **halves)
encoder_decoder("plbart", "PLBartForConditionalGeneration", "PLBartConfig", **halves)
encoder_decoder("led", "LEDForConditionalGeneration", "LEDConfig", attention_window=8, vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
halves_t5 = dict(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0)
encoder_decoder("mt5", "MT5ForConditionalGeneration", "MT5Config", **halves_t5)
encoder_decoder("umt5", "UMT5ForConditionalGeneration", "UMT5Config", **halves_t5)
encoder_decoder("pegasus_x", "PegasusXForConditionalGeneration", "PegasusXConfig", block_size=4, num_global_tokens=4, **halves)
encoder_decoder("prophetnet", "ProphetNetForConditionalGeneration", "ProphetNetConfig", vocab_size=99, hidden_size=32, encoder_ffn_dim=48, num_encoder_layers=2, num_encoder_attention_heads=4, decoder_ffn_dim=48, num_decoder_layers=2, num_decoder_attention_heads=4, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, max_position_embeddings=64)

seen("swin", "SwinForImageClassification", "SwinConfig", 32, image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, drop_path_rate=0.0, **off)
seen("swinv2", "Swinv2ForImageClassification", "Swinv2Config", 32, image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, drop_path_rate=0.0, **off)
seen("hf_convnext", "ConvNextForImageClassification", "ConvNextConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], drop_path_rate=0.0)
seen("convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], drop_path_rate=0.0)
seen("dinov2_registers", "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", num_register_tokens=2, **{k: v for k, v in patches.items() if k != "intermediate_size"}, **off)
seen("dinov3_vit", "DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=2, **patches)
seen("dinov3_convnext", "DINOv3ConvNextModel", "DINOv3ConvNextConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
seen("hf_efficientnet", "EfficientNetForImageClassification", "EfficientNetConfig", 64, image_size=64, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=320, dropout_rate=0.0, drop_connect_rate=0.0)
seen("focalnet", "FocalNetForImageClassification", "FocalNetConfig", 32, image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], hidden_sizes=[16, 32], focal_levels=[2, 2], focal_windows=[3, 3], hidden_dropout_prob=0.0, drop_path_rate=0.0)
seen("levit", "LevitForImageClassification", "LevitConfig", 64, image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 4, 6], depths=[1, 1, 1], key_dim=[8, 8, 8], drop_path_rate=0.0)
seen("mobilenet_v1", "MobileNetV1ForImageClassification", "MobileNetV1Config", 64, depth_multiplier=0.25, classifier_dropout_prob=0.0)
seen("hf_mobilenet_v2", "MobileNetV2ForImageClassification", "MobileNetV2Config", 64, depth_multiplier=0.35, classifier_dropout_prob=0.0)
seen("mobilevitv2", "MobileViTV2ForImageClassification", "MobileViTV2Config", 64, image_size=64, width_multiplier=0.25, classifier_dropout_prob=0.0, ffn_dropout=0.0, attn_dropout=0.0)
seen("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], drop_path_rate=0.0)
seen("pvt", "PvtForImageClassification", "PvtConfig", 64, image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], drop_path_rate=0.0, **off)
seen("pvt_v2", "PvtV2ForImageClassification", "PvtV2Config", 64, image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], drop_path_rate=0.0, **off)
seen("hf_regnet", "RegNetForImageClassification", "RegNetConfig", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], groups_width=8, embedding_size=16)
seen("hf_resnet", "ResNetForImageClassification", "ResNetConfig", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], embedding_size=16)
seen("bit", "BitForImageClassification", "BitConfig", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], embedding_size=16, num_groups=4)
seen("van", "VanForImageClassification", "VanConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], drop_path_rate=0.0)
seen("vit_msn", "ViTMSNForImageClassification", "ViTMSNConfig", **patches, **off)
seen("yolos", "YolosForObjectDetection", "YolosConfig", 32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=[32, 32], patch_size=8, num_detection_tokens=5, **off)
seen("hiera", "HieraForImageClassification", "HieraConfig", 64, image_size=[64, 64], embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], drop_path_rate=0.0)
seen("ijepa", "IJepaForImageClassification", "IJepaConfig", **patches, **off)
seen("siglip_vision", "SiglipForImageClassification", "SiglipConfig", vision_config=dict(**patches))
seen("data2vec_vision", "Data2VecVisionForImageClassification", "Data2VecVisionConfig", drop_path_rate=0.0, **patches, **off)
seen("dpt", "DPTForDepthEstimation", "DPTConfig", 32, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 16, 16, 16], fusion_hidden_size=16, is_hybrid=False, **off)
seen("glpn", "GLPNForDepthEstimation", "GLPNConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16, drop_path_rate=0.0, **off)
seen("segformer_pixels", "SegformerForSemanticSegmentation", "SegformerConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16, drop_path_rate=0.0, classifier_dropout_prob=0.0, **off)
seen("swiftformer", "SwiftFormerForImageClassification", "SwiftFormerConfig", 64, depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32], drop_path_rate=0.0, drop_mlp_rate=0.0, drop_conv_encoder_rate=0.0)
seen("textnet", "TextNetForImageClassification", "TextNetConfig", 64, hidden_sizes=[8, 16, 24, 32, 40], conv_layer_kernel_sizes=[[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]], conv_layer_strides=[[2], [2], [2], [2]])
seen("perceiver", "PerceiverForImageClassificationLearned", "PerceiverConfig", 32, image_size=32, num_latents=8, d_latents=32, num_blocks=1, num_self_attends_per_block=1, num_self_attention_heads=4, num_cross_attention_heads=1, attention_probs_dropout_prob=0.0)
seen("vit_mae", "ViTMAEForPreTraining", "ViTMAEConfig", decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=48, **patches, **off)
seen("donut_swin", "DonutSwinForImageClassification", "DonutSwinConfig", 32, image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, drop_path_rate=0.0, **off)
seen("mobilevit_pixels", "MobileViTForSemanticSegmentation", "MobileViTConfig", 64, image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64], num_attention_heads=2, classifier_dropout_prob=0.0, aspp_out_channels=16, aspp_dropout_prob=0.0, **off)
seen("swin2sr", "Swin2SRForImageSuperResolution", "Swin2SRConfig", 16, image_size=16, embed_dim=16, depths=[2], num_heads=[2], window_size=4, num_channels=3, upscale=2, drop_path_rate=0.0, **off)


speech = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_conv_pos_embeddings=8,
              num_conv_pos_embedding_groups=4, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0, apply_spec_augment=False, mask_time_prob=0.0, vocab_size=32)


def heard(name, cls, config, **kw):
    def f():
        import transformers

        return getattr(transformers, cls)(getattr(transformers, config)(**kw)), (torch.randn(2, 1600),)

    f.__name__ = name
    MODELS[name] = f


heard("wav2vec2_ctc", "Wav2Vec2ForCTC", "Wav2Vec2Config", **speech)
heard("wav2vec2_classes", "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", classifier_proj_size=16, **speech)
heard("hubert", "HubertModel", "HubertConfig", **speech)
heard("wavlm", "WavLMModel", "WavLMConfig", num_buckets=16, max_bucket_distance=32, **speech)
heard("unispeech", "UniSpeechForCTC", "UniSpeechConfig", **speech)
heard("unispeech_sat", "UniSpeechSatForCTC", "UniSpeechSatConfig", **speech)
heard("sew", "SEWForCTC", "SEWConfig", squeeze_factor=2, **speech)
heard("sew_d", "SEWDForCTC", "SEWDConfig", squeeze_factor=2, position_buckets=16, max_position_embeddings=64, **speech)
heard("data2vec_audio", "Data2VecAudioForCTC", "Data2VecAudioConfig", **{**speech, "num_conv_pos_embeddings": 2})
heard("wav2vec2_conformer", "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig", conv_depthwise_kernel_size=5, position_embeddings_type="rotary", conformer_conv_dropout=0.0, **speech)
heard("wav2vec2_conformer_relative", "Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig", conv_depthwise_kernel_size=5, position_embeddings_type="relative", max_source_positions=400, conformer_conv_dropout=0.0, **speech)


@model
def audio_spectrogram():
    import transformers

    c = transformers.ASTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, patch_size=8, frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16, **off)
    return transformers.ASTForAudioClassification(c), (torch.randn(2, 32, 16),)


@model
def whisper():
    import transformers

    c = transformers.WhisperConfig(vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=50,
                                   max_target_positions=32, num_mel_bins=16, dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, use_cache=False)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = transformers.WhisperForConditionalGeneration(c)

        def forward(self, a, b):
            return self.net(input_features=a, decoder_input_ids=b).logits

    return Both(), (torch.randn(2, 16, 100), ids(99, 2, 8))


@model
def speech_to_text():
    import transformers

    c = transformers.Speech2TextConfig(vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=100,
                                       max_target_positions=32, input_feat_per_channel=16, conv_channels=16, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, encoder_layerdrop=0.0, decoder_layerdrop=0.0, use_cache=False)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = transformers.Speech2TextForConditionalGeneration(c)

        def forward(self, a, b):
            return self.net(input_features=a, decoder_input_ids=b).logits

    return Both(), (torch.randn(2, 64, 16), ids(99, 2, 8))


@model
def decision_transformer():
    import transformers

    c = transformers.DecisionTransformerConfig(state_dim=6, act_dim=3, hidden_size=32, max_ep_len=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = transformers.DecisionTransformerModel(c)

        def forward(self, s, a, r, t):
            return self.net(states=s, actions=a, returns_to_go=r, timesteps=t)[1]

    return Net(), (torch.randn(2, 5, 6), torch.randn(2, 5, 3), torch.randn(2, 5, 1), torch.randint(0, 64, (2, 5)))


@model
def patchtst():
    import transformers

    c = transformers.PatchTSTConfig(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, attention_dropout=0.0, ff_dropout=0.0, num_targets=4, scaling=None, head_dropout=0.0)
    return transformers.PatchTSTForClassification(c), (torch.randn(2, 32, 3),)


@model
def patchtsmixer():
    import transformers

    c = transformers.PatchTSMixerConfig(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16, num_layers=2, num_targets=4, scaling=None, dropout=0.0, head_dropout=0.0)
    return transformers.PatchTSMixerForTimeSeriesClassification(c), (torch.randn(2, 32, 3),)


@model
def bert_masked():
    import transformers

    m = transformers.BertForSequenceClassification(transformers.BertConfig(**small, **off))
    mask = torch.tensor([[1] * 16, [1] * 9 + [0] * 7])
    return m, (ids(99, 2, 16), mask, torch.tensor([[0] * 8 + [1] * 8] * 2))


@model
def bert_choice():
    import transformers

    return transformers.BertForMultipleChoice(transformers.BertConfig(**small, **off)), (ids(99, 2, 3, 8),)


@model
def clip_pairs():
    import transformers

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = transformers.CLIPModel(transformers.CLIPConfig(text_config=dict(max_position_embeddings=32, eos_token_id=98, projection_dim=16, **small), vision_config=dict(projection_dim=16, **patches), projection_dim=16))

        def forward(self, i, p):
            o = self.net(input_ids=i, pixel_values=p)
            return o.text_embeds * o.image_embeds

    return Net(), (ids(99, 2, 16), torch.randn(2, 3, 32, 32))


def segmenter(name, size=64, **kw):
    def f():
        import torchvision

        class Main(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=4, **kw)

            def forward(self, x):
                return self.net(x)["out"]

        return Main(), (torch.randn(2, 3, size, size),)

    f.__name__ = name
    MODELS[name] = f


segmenter("lraspp_mobilenet_v3_large")
segmenter("deeplabv3_mobilenet_v3_large", aux_loss=False)
segmenter("fcn_resnet50", aux_loss=False)
segmenter("deeplabv3_resnet50", aux_loss=False)

# Experts in the form that sorts no tokens.
few = dict(num_key_value_heads=2, max_position_embeddings=64, experts_implementation="batched_mm", **small)
hf("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8, **few)
hf("olmoe", "OlmoeForCausalLM", "OlmoeConfig", num_experts=4, num_experts_per_tok=2, **few)
hf("deepseek_v3", "DeepseekV3ForCausalLM", "DeepseekV3Config", n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, moe_intermediate_size=24, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
   v_head_dim=8, qk_nope_head_dim=8, experts_implementation="batched_mm", max_position_embeddings=64, vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=48)
hf("gpt_oss", "GptOssForCausalLM", "GptOssConfig", num_local_experts=4, num_experts_per_tok=2, head_dim=8, **few)
hf("jamba", "JambaForCausalLM", "JambaConfig", num_experts=2, num_experts_per_tok=1, use_mamba_kernels=False, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4, **small)
hf("llama4_text", "Llama4ForCausalLM", "Llama4TextConfig", num_local_experts=2, num_key_value_heads=2, head_dim=8, intermediate_size_mlp=48, max_position_embeddings=64, **small)
hf("exaone4", "Exaone4ForCausalLM", "Exaone4Config", num_key_value_heads=2, sliding_window=8, max_position_embeddings=64, **small)
hf("cohere2", "Cohere2ForCausalLM", "Cohere2Config", num_key_value_heads=2, max_position_embeddings=64, **small)
hf("glm4", "Glm4ForCausalLM", "Glm4Config", num_key_value_heads=2, head_dim=8, pad_token_id=0, max_position_embeddings=64, **small)
hf("ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5Config", num_key_value_heads=2, head_dim=8, max_position_embeddings=64, **small)
hf("hunyuan", "HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", num_key_value_heads=2, head_dim=8, max_position_embeddings=64, **small)
hf("seed_oss", "SeedOssForCausalLM", "SeedOssConfig", num_key_value_heads=2, head_dim=8, attention_dropout=0.0, residual_dropout=0.0, max_position_embeddings=64, **small)
hf("arcee", "ArceeForCausalLM", "ArceeConfig", num_key_value_heads=2, max_position_embeddings=64, **small)
hf("lfm2", "Lfm2ForCausalLM", "Lfm2Config", num_key_value_heads=2, layer_types=["conv", "full_attention"], max_position_embeddings=64, **small)
hf("falcon_mamba", "FalconMambaForCausalLM", "FalconMambaConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4, use_mambapy=False)
hf("recurrent_gemma", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, intermediate_size=48, lru_width=32, attention_window_size=8)
hf("canine", "CanineForSequenceClassification", "CanineConfig", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64, num_hash_buckets=64, local_transformer_stride=8, **off)
hf("fnet", "FNetForSequenceClassification", "FNetConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, intermediate_size=48, hidden_dropout_prob=0.0)
hf("luke", "LukeForSequenceClassification", "LukeConfig", entity_vocab_size=11, entity_emb_size=8, **small, **off)
encoder_decoder("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration", "BigBirdPegasusConfig", attention_type="original_full", **halves)
seen("mobilenet_v2_pixels", "MobileNetV2ForSemanticSegmentation", "MobileNetV2Config", 64, depth_multiplier=0.35, classifier_dropout_prob=0.0)
seen("vit_det", "VitDetModel", "VitDetConfig", 32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, window_block_indices=[0], window_size=2)


def video(name, *shape, **kw):
    def f():
        import torchvision

        return getattr(torchvision.models.video, name)(weights=None, num_classes=5, **kw), (torch.randn(2, 3, *shape),)

    f.__name__ = name
    MODELS[name] = f


video("r3d_18", 4, 32, 32)
video("mc3_18", 4, 32, 32)
video("r2plus1d_18", 4, 32, 32)
video("s3d", 16, 64, 64)
video("swin3d_t", 4, 32, 32)


@model
def mvit():
    from torchvision.models.video import mvit as parts

    blocks = [parts.MSBlockConfig(num_heads=1, input_channels=16, output_channels=32, kernel_q=[3, 3, 3], kernel_kv=[3, 3, 3], stride_q=[1, 1, 1], stride_kv=[1, 2, 2]),
              parts.MSBlockConfig(num_heads=2, input_channels=32, output_channels=32, kernel_q=[3, 3, 3], kernel_kv=[3, 3, 3], stride_q=[1, 2, 2], stride_kv=[1, 1, 1])]
    return parts.MViT((32, 32), 4, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=True, dropout=0.0, attention_dropout=0.0, stochastic_depth_prob=0.0, num_classes=5), (torch.randn(2, 3, 4, 32, 32),)


@model
def raft_features():
    import torchvision

    return torchvision.models.optical_flow.raft.FeatureEncoder(norm_layer=nn.InstanceNorm2d), (torch.randn(2, 3, 64, 64),)


@model
def fpn():
    import torchvision

    class Net(nn.Module):
        """torchvision's pyramid over a ResNet whose batch norms are frozen."""

        def __init__(self):
            super().__init__()
            self.net = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)

        def forward(self, x):
            return torch.cat([v.flatten(2) for v in self.net(x).values()], 2)

    return Net(), (torch.randn(2, 3, 64, 64),)


hf("longformer", "LongformerForSequenceClassification", "LongformerConfig", attention_window=8, max_position_embeddings=66, **small, **off)
hf("bigbird_sparse", "BigBirdForSequenceClassification", "BigBirdConfig", length=96, attention_type="block_sparse", block_size=8, num_random_blocks=1, max_position_embeddings=128, **small, **off)
hf("gemma3n_text", "Gemma3nForCausalLM", "Gemma3nTextConfig", num_key_value_heads=2, head_dim=8, sliding_window=8, max_position_embeddings=64, **small)
hf("minimax", "MiniMaxForCausalLM", "MiniMaxConfig", num_key_value_heads=2, num_local_experts=2, experts_implementation="batched_mm", max_position_embeddings=64, **small)
hf("zamba2", "Zamba2ForCausalLM", "Zamba2Config", num_key_value_heads=2, max_position_embeddings=64, **small)
hf("bamba", "BambaForCausalLM", "BambaConfig", num_key_value_heads=2, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4, mamba_n_groups=1, mamba_chunk_size=8, max_position_embeddings=64, **small)
hf("nystromformer", "NystromformerForSequenceClassification", "NystromformerConfig", num_landmarks=4, segment_means_seq_len=16, max_position_embeddings=64, **small, **off)
hf("yoso", "YosoForSequenceClassification", "YosoConfig", use_expectation=True, max_position_embeddings=64, **small, **off)
hf("mra", "MraForSequenceClassification", "MraConfig", length=64, block_per_row=2, max_position_embeddings=64, **small, **off)
hf("mpnet_mlm", "MPNetForMaskedLM", "MPNetConfig", **small, **off)
hf("deberta_v2_disentangled", "DebertaV2ForMaskedLM", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, max_position_embeddings=64, **small, **off)
hf("ibert", "IBertForSequenceClassification", "IBertConfig", quant_mode=False, **small, **off)
hf("flaubert", "FlaubertForSequenceClassification", "FlaubertConfig", n_words=None, vocab_size=99, emb_dim=32, n_layers=2, n_heads=4, dropout=0.0, attention_dropout=0.0)
hf("roc_bert", "RoCBertForSequenceClassification", "RoCBertConfig", shape_vocab_size=20, pronunciation_vocab_size=20, shape_embed_dim=8, pronunciation_embed_dim=8, **small, **off)
hf("xlm_roberta_xl", "XLMRobertaXLForSequenceClassification", "XLMRobertaXLConfig", **small, **off)
hf("jetmoe", "JetMoeForCausalLM", "JetMoeConfig", num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, kv_channels=8, experts_implementation="batched_mm", max_position_embeddings=64, **small)
hf("olmo3", "Olmo3ForCausalLM", "Olmo3Config", num_key_value_heads=2, sliding_window=8, max_position_embeddings=64, **small)
hf("dots1", "Dots1ForCausalLM", "Dots1Config", num_key_value_heads=2, head_dim=8, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, n_group=1, topk_group=1, experts_implementation="batched_mm", max_position_embeddings=64, **small)
hf("t5_encoder", "T5EncoderModel", "T5Config", vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0, feed_forward_proj="gated-gelu")
encoder_decoder("led", "LEDForConditionalGeneration", "LEDConfig", attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64, **{k: v for k, v in halves.items() if k != "max_position_embeddings"})
seen("cvt", "CvtForImageClassification", "CvtConfig", 32, embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 1, 1], drop_path_rate=[0.0, 0.0, 0.0])
seen("levit_hf", "LevitForImageClassification", "LevitConfig", 64, image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 2, 2], depths=[1, 1, 1], key_dim=[4, 4, 4], drop_path_rate=0)
seen("efficientnet_hf", "EfficientNetForImageClassification", "EfficientNetConfig", 64, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=64, drop_connect_rate=0.0, dropout_rate=0.0)
seen("textnet", "TextNetForImageClassification", "TextNetConfig", 64)
seen("dinov2_registers", "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, num_register_tokens=2, **off)
seen("siglip_classes", "SiglipForImageClassification", "SiglipConfig", 32, vision_config=patches)
seen("vit_masked_images", "ViTForMaskedImageModeling", "ViTConfig", 32, encoder_stride=8, num_channels=3, **patches, **off)
seen("hgnet_v2", "HGNetV2ForImageClassification", "HGNetV2Config", 64)
seen("timesformer", "TimesformerForVideoClassification", "TimesformerConfig", 32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8, num_frames=2, **off)
