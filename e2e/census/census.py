"""Exports models with PyTorch and writes what one training step of each must give.

    python census.py DIR [NAME...]
    python census.py answers DIR [NAME...]

For every model: NAME.pt2, and NAME.safetensors with the inputs, the weights of the loss
(loss = sum(output * weights)), the output, and the gradient of every parameter. Dropout is
off. Nothing is downloaded: weights are random.
"""

import copy
import io
import json
import os
import struct
import sys
import time
import warnings
import zipfile

import torch
from torch import nn

torch.set_num_threads(1)
MODELS = {}


def model(f):
    MODELS[f.__name__] = f
    return f


def save(path, tensors):
    """The safetensors format, so that no library is needed."""
    head, at, parts = {}, 0, []
    for name, t in tensors.items():
        b = t.detach().contiguous().float().numpy().tobytes()
        head[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + len(b)]}
        at += len(b)
        parts.append(b)
    h = json.dumps(head).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(parts))


def export(ep, path):
    """torch.export.save without the example inputs and where this machine keeps its files."""
    b = io.BytesIO()
    torch.export.save(ep, b)
    lib = os.path.dirname(os.path.dirname(torch.__file__))
    here = os.path.dirname(os.path.abspath(__file__))
    with zipfile.ZipFile(b) as old, zipfile.ZipFile(path, "w") as new:
        for f in old.infolist():
            data = old.read(f)
            if f.filename.endswith(".json"):
                data = data.replace(lib.encode(), b"/lib").replace(here.encode(), b"/src")
            if "sample_inputs" not in f.filename:
                new.writestr(zipfile.ZipInfo("model/" + f.filename.split("/", 1)[1]), data)


def onnx(m, inputs, fixed, path, how):
    """The model by torch.onnx.export: how is dynamo, script (the exporter before) or eval."""
    warnings.filterwarnings("ignore")
    if how == "script":
        kw = {} if fixed else {"input_names": ["x%d" % i for i in range(len(inputs))], "dynamic_axes": {"x%d" % i: {0: "N"} for i in range(len(inputs))}}
        torch.onnx.export(m, inputs, path, dynamo=False, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False, **kw)
        return
    kw = {} if fixed else {"dynamic_shapes": tuple({0: torch.export.Dim.AUTO} for _ in inputs)}
    # Its optimiser folds batch normalisation into the convolution before it.
    torch.onnx.export(m, inputs, path, dynamo=True, verbose=False, optimize=how != "plain", **kw)


def first(out):
    """The tensor that the graph's first output is."""
    if isinstance(out, torch.Tensor):
        return out
    if isinstance(out, dict):
        out = list(out.values())
    return first(out[0])


def step(m, inputs, seed=None):
    m.zero_grad(set_to_none=True)
    out = first(m(*inputs))
    if seed is None:
        seed = torch.randn(out.shape) / out.numel()
    loss = (out * seed.to(out.dtype)).sum()
    loss.backward()
    return out, seed, loss, {k: p.grad.clone() for k, p in m.named_parameters() if p.grad is not None}


# Those that engine/importer keeps as test data: python census.py DIR small.
SMALL = ["cnn", "autoencoder", "unet", "lstm_unrolled", "resmlp", "conv1d_audio", "encoder", "encoder_seq_first", "two_heads",
         "einsum_mix", "upsampler", "padding_modes", "lstm_both_ways", "gru_rnn", "detached", "tied_decoder", "masked_pair", "argmax_pool", "written_part"]


def census(name, dir):
    torch.manual_seed(1)
    m, inputs, *rest = MODELS[name]()
    fixed = bool(rest and rest[0] == "fixed") or os.environ.get("FIXED") == "1"
    m.train()
    for x in m.modules():
        if isinstance(x, (nn.Dropout, nn.Dropout2d)):
            x.p = 0.0
        if isinstance(x, nn.MultiheadAttention):
            x.dropout = 0.0
        if type(x).__name__ == "StochasticDepth":
            x.p = 0.0
    # A head of zeros has no gradients below it, and scales of one hide who is scaled.
    with torch.no_grad():
        for p in m.parameters():
            if p.min() == p.max():
                p += 0.1 * torch.randn_like(p)
    state = copy.deepcopy(m.state_dict())
    kw = {}
    if not fixed:
        kw["dynamic_shapes"] = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    ep = torch.export.export(m, inputs, strict=False, **kw)
    export(ep, os.path.join(dir, name + ".pt2"))
    if os.environ.get("ONNX"):
        m.load_state_dict(state)
        onnx(m, inputs, fixed, os.path.join(dir, name + ".onnx"), os.environ["ONNX"])
    m.load_state_dict(state)
    out, seed, loss, grads = step(m, inputs)
    t = {"input.%d" % i: x for i, x in enumerate(inputs)}
    t.update(seed=seed, output=out, loss=loss)
    t.update({"grad." + k: g for k, g in grads.items()})
    if name not in SMALL:
        # What rounding alone does: the same step with twice the digits.
        m.load_state_dict(state)
        m.double()
        torch.set_default_dtype(torch.float64)
        try:
            out, _, _, grads = step(m, [x.double() if x.is_floating_point() else x for x in inputs], seed)
            t["exact"] = out
            t.update({"exact." + k: g for k, g in grads.items()})
        finally:
            torch.set_default_dtype(torch.float32)
    save(os.path.join(dir, name + ".safetensors"), t)


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


def ids(vocab, *shape):
    return torch.randint(3, vocab, shape)


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
def mlp_mixer():
    class Block(nn.Module):
        def __init__(self, t, c):
            super().__init__()
            self.a, self.b = nn.LayerNorm(c), nn.LayerNorm(c)
            self.tokens = nn.Sequential(nn.Linear(t, 2 * t), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * t, t))
            self.channels = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * c, c))

        def forward(self, x):
            x = x + self.tokens(self.a(x).permute(0, 2, 1)).permute(0, 2, 1)
            return x + self.channels(self.b(x))

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks, self.norm, self.head = nn.Conv2d(3, 24, 8, 8), nn.Sequential(Block(16, 24), Block(16, 24)), nn.LayerNorm(24), nn.Linear(24, 10)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.stem(x).flatten(2).transpose(1, 2))).mean(1))

    return Mixer(), (torch.randn(2, 3, 32, 32),)


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


@model
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)), (torch.randn(4, 1, 8, 8),)


@model
def mlp_fixed():
    return *mlp(), "fixed"


@model
def cnn():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.LeakyReLU(0.1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)), (torch.randn(4, 1, 8, 8),)


@model
def autoencoder():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ELU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SiLU(),
                         nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Softplus(), nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid()), (torch.randn(2, 1, 16, 16),)


@model
def unet():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            def block(i, o):
                return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.SiLU())
            self.a, self.b, self.c = block(3, 8), block(8, 16), block(16, 8)
            self.up, self.head, self.pool = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 2, 1), nn.AvgPool2d(2)

        def forward(self, x):
            a = self.a(x)
            b = self.up(self.b(self.pool(a)))
            return self.head(self.c(torch.cat([a, b], 1)))

    return UNet(), (torch.randn(2, 3, 16, 16),)


@model
def lstm_unrolled():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.h, self.head = nn.Linear(6, 32), nn.Linear(8, 32, bias=False), nn.Linear(8, 3)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 8)
            c = torch.zeros(x.shape[0], 8)
            for t in range(x.shape[1]):
                i, f, g, o = (self.x(x[:, t]) + self.h(h)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            return self.head(h)

    return Cell(), (torch.randn(3, 5, 6),)


@model
def siamese():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8))
            self.head = nn.Linear(8, 1)

        def forward(self, a, b):
            return self.head(torch.abs(self.body(a) - self.body(b)))

    return Siamese(), (torch.randn(3, 10), torch.randn(3, 10))


@model
def vae():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.mu, self.lv, self.dec = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4), nn.Linear(4, 20)

        def forward(self, x, eps):
            h = torch.relu(self.enc(x))
            return torch.sigmoid(self.dec(self.mu(h) + torch.exp(0.5 * self.lv(h)) * eps))

    return VAE(), (torch.randn(3, 20), torch.randn(3, 4))


@model
def resmlp():
    class Block(nn.Module):
        def __init__(self, t, c):
            super().__init__()
            self.alpha, self.beta = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(1, 1, c))
            self.mix, self.fc, self.norm = nn.Linear(t, t), nn.Linear(c, c), nn.LayerNorm(c)

        def forward(self, x):
            x = x + self.alpha * self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)
            return x + self.beta * nn.functional.gelu(self.fc(x))

    return nn.Sequential(Block(9, 12), Block(9, 12), nn.Flatten(), nn.Linear(108, 5)), (torch.randn(2, 9, 12),)


@model
def conv1d_audio():
    return nn.Sequential(nn.Conv1d(1, 8, 9, stride=4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 16, 3, dilation=2, groups=2), nn.Hardswish(),
                         nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(64, 5)), (torch.randn(2, 1, 256),)


@model
def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.enc(x).mean(1))

    return Encoder(), (torch.randn(2, 7, 16),)


@model
def encoder_seq_first():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.head = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0), 1), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.enc(x.transpose(0, 1)).transpose(0, 1).mean(1))

    return Encoder(), (torch.randn(3, 7, 16),), "fixed"


@model
def two_heads():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gate, self.a, self.b = nn.Linear(8, 16), nn.Linear(8, 2), nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x):
            h = nn.functional.softplus(self.body(x))
            g = torch.softmax(self.gate(x), -1)
            return (g.unsqueeze(-1) * torch.stack([self.a(h), self.b(h)], 1)).sum(1)

    return Mix(), (torch.randn(3, 8),)


@model
def einsum_mix():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.qk, self.v, self.o = nn.Parameter(torch.randn(2, 8, 2, 4) / 3), nn.Linear(8, 8), nn.Parameter(torch.randn(2, 4, 8) / 3)

        def forward(self, x):
            q = torch.einsum("btc,chd->bthd", x, self.qk[0])
            k = torch.einsum("btc,chd->bhtd", x, self.qk[1])
            a = torch.softmax(torch.einsum("bthd,bhsd->bhts", q, k) / 2, -1)
            v = self.v(x).view(x.shape[0], -1, 2, 4)
            y = torch.einsum("bhts,bshd,hdc->btc", a, v, self.o)
            return y + torch.einsum("bij,bkj->bi", x, x).unsqueeze(-1)

    return Mix(), (torch.randn(3, 5, 8),)


@model
def upsampler():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
            self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)

        def forward(self, x):
            f = nn.functional
            y = f.interpolate(self.pool(self.a(x)), scale_factor=2, mode="bilinear")
            y = f.interpolate(self.b(y), scale_factor=2, mode="nearest")
            z = f.interpolate(y, size=(7, 5), mode="bilinear", align_corners=True) + f.interpolate(y, size=(7, 5), mode="nearest-exact")
            return self.c(f.interpolate(z, size=(9, 6), mode="bicubic") + f.interpolate(y, size=(9, 6), mode="nearest"))

    return Up(), (torch.randn(2, 2, 7, 6),)


@model
def padding_modes():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh(), nn.Conv2d(4, 4, 5, padding=2, padding_mode="replicate"), nn.Tanh(),
                         nn.Conv2d(4, 3, 3, padding=(1, 0), padding_mode="circular"), nn.ReflectionPad2d((2, 1, 0, 3)), nn.Conv2d(3, 1, 2)), (torch.randn(2, 2, 6, 5),)


@model
def lstm_both_ways():
    class LSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), nn.Linear(10, 3)

        def forward(self, x):
            y, (h, c) = self.lstm(x)
            return self.head(y.mean(1)) + self.head(torch.cat([h[-1], c[-2]], 1))

    return LSTM(), (torch.randn(3, 4, 6),)


@model
def gru_rnn():
    class GRU(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.rnn, self.head = nn.GRU(6, 5), nn.RNN(5, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x):
            y, h = self.gru(x.transpose(0, 1))
            y, _ = self.rnn(y, h[..., :4])
            return self.head(y[-1])

    return GRU(), (torch.randn(3, 4, 6),)


@model
def detached():
    class Stop(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return self.b(h.detach()) + self.c(h) * torch.sigmoid(self.b.bias.detach())

    return Stop(), (torch.randn(3, 6),)


@model
def tied_decoder():
    class Decoder(nn.Module):
        """A block that is used twice, and a head that is the embedding."""

        def __init__(self):
            super().__init__()
            self.wte, self.norm, self.block = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            self.mix, self.head = nn.Linear(5, 5), nn.Linear(8, 11, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, x):
            h = self.wte(x)
            for _ in range(2):
                h = h + self.block(self.norm(h))
                h = self.mix(h.transpose(1, 2)).transpose(1, 2)
            return self.head(h)

    return Decoder(), (ids(11, 3, 5),)


@model
def written_part():
    class Part(nn.Module):
        """A bias of which a copy's part is set to numbers, and vectors of length 1, of which one is zeros: as in Swin v2."""

        def __init__(self):
            super().__init__()
            self.a, self.head, self.scale = nn.Linear(6, 9), nn.Linear(9, 3), nn.Parameter(torch.rand(6) + 0.5)

        def forward(self, x):
            x = nn.functional.normalize(self.scale * x, dim=-1)
            b = self.a.bias.clone()
            b[3:6].zero_()
            h = nn.functional.linear(x, self.a.weight, b)
            c = self.head.bias.clone()
            c[1].fill_(0.5)
            return nn.functional.linear(torch.tanh(h), self.head.weight, c)

    return Part(), (torch.randn(3, 6) * torch.tensor([[1.0], [0.0], [1.0]]),)


@model
def argmax_pool():
    class Pool(nn.Module):
        """Vectors at positions that the tokens tell: of the greatest token, of the first 4, and of the last before the padding."""

        def __init__(self):
            super().__init__()
            self.words, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            h, n = torch.tanh(self.mix(self.words(x))), torch.arange(x.shape[0])
            greatest = h[n, x.to(torch.int).argmax(dim=-1)]
            four = h[n, (x == 4).int().argmax(dim=-1)]
            at = (torch.arange(x.shape[1]) * (x != 0).int()).argmax(-1, keepdim=True)
            return self.head(greatest + 2 * four) * h[n, at[:, 0]][:, :3] + at * 0.1

    return Pool(), (torch.tensor([[3, 9, 4, 9, 4, 0], [1, 2, 2, 10, 0, 0], [4, 5, 6, 7, 8, 9]]),)


@model
def masked_pair():
    class Pair(nn.Module):
        """Three inputs, of which later layers read the mask, and two outputs."""

        def __init__(self):
            super().__init__()
            self.words, self.types = nn.Embedding(13, 8), nn.Embedding(13, 8)
            self.a = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.b = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.words_head, self.mid, self.order = nn.Linear(8, 13), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, input_ids, attention_mask, token_type_ids):
            x = self.words(input_ids) + self.types(token_type_ids)
            pad = -9.0 * (attention_mask == 0).float()  # a row of padding alone stays finite
            x = self.a(x, src_key_padding_mask=pad)
            words = self.words_head(x)
            x = torch.tanh(self.mid(self.b(x, src_key_padding_mask=pad)))
            m = attention_mask.unsqueeze(-1).float()
            return self.order((x * m).sum(1) / (m.sum(1) + 1)), words

    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    return Pair(), (ids(13, 3, 6) * mask, mask, torch.tensor([[0, 0, 0, 1, 1, 1]] * 3))


def load(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    return {k: torch.frombuffer(bytearray(data[v["data_offsets"][0]:v["data_offsets"][1]]), dtype=torch.float32).reshape(v["shape"]) for k, v in head.items() if k != "__metadata__"}


def answers(dir, names):
    """Holds onnxruntime's answers of what was exported against the engine's."""
    import onnxruntime

    wrong = 0
    for path in sorted(os.listdir(dir)):
        name = path[:-len(".out.onnx")]
        if not path.endswith(".out.onnx") or names and name not in names:
            continue
        try:
            t = load(os.path.join(dir, name + ".out.safetensors"))
            s = onnxruntime.InferenceSession(os.path.join(dir, path), providers=["CPUExecutionProvider"])
            x = {i.name: (t[i.name].long() if "int64" in i.type else t[i.name]).numpy() for i in s.get_inputs()}
            y, want = torch.from_numpy(s.run(None, x)[0]), t["answer"]
            d = float((y - want).norm() / want.norm())
        except Exception as e:
            d = str(e).strip().split("\n")[0][:200]
        wrong += not (isinstance(d, float) and d < 1e-4)
        print("onnxruntime %-22s %s" % (name, d if isinstance(d, str) else "%.1e" % d), flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    if sys.argv[1] == "answers":
        answers(sys.argv[2], sys.argv[3:])
    dir = sys.argv[1]
    os.makedirs(dir, exist_ok=True)
    names = SMALL if sys.argv[2:] == ["small"] else sys.argv[2:]
    for name in names or MODELS:
        t = time.time()
        try:
            census(name, dir)
            print("exported %-22s %5.1f s" % (name, time.time() - t), file=sys.stderr, flush=True)
        except Exception as e:  # a model that this PyTorch cannot export
            print("%s: %s" % (name, str(e).strip().split("\n")[0][:300]), file=sys.stderr, flush=True)
            with open(os.path.join(dir, name + ".failed"), "w") as f:
                f.write(str(e))
