"""The models of the zoo in plain PyTorch, with the parameter names that their users know:
minGPT's, torchvision's, Hugging Face's. Written here, so that neither need be installed.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# ---- GPT: minGPT ----


class NewGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class CausalSelfAttention(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_dropout, self.resid_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.heads = heads

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = (y.view(n, t, self.heads, c // self.heads).transpose(1, 2) for y in self.c_attn(x).split(c, dim=2))
        att = (q @ k.transpose(-2, -1)) * (1 / math.sqrt(k.size(-1)))
        att = att.masked_fill(torch.ones(t, t).tril() == 0, float("-inf"))
        y = self.attn_dropout(F.softmax(att, dim=-1)) @ v
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(n, t, c)))


class GPTBlock(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), CausalSelfAttention(width, heads, dropout), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({
            "c_fc": nn.Linear(width, 4 * width), "act": NewGELU(), "c_proj": nn.Linear(4 * width, width), "dropout": nn.Dropout(dropout),
        })

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        m = self.mlp
        return x + m.dropout(m.c_proj(m.act(m.c_fc(self.ln_2(x)))))


class GPT(nn.Module):
    def __init__(self, layers, heads, width, tokens, vocab, dropout=0.0):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocab, width), "wpe": nn.Embedding(tokens, width), "drop": nn.Dropout(dropout),
            "h": nn.ModuleList([GPTBlock(width, heads, dropout) for _ in range(layers)]), "ln_f": nn.LayerNorm(width),
        })
        self.lm_head = nn.Linear(width, vocab, bias=False)

    def forward(self, x):
        t = self.transformer
        x = t.drop(t.wte(x) + t.wpe(torch.arange(x.shape[1])))
        for block in t.h:
            x = block(x)
        return self.lm_head(t.ln_f(x))


# ---- ResNet: torchvision ----


def conv(cin, cout, k, stride=1):
    return nn.Conv2d(cin, cout, k, stride, k // 2, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, cin, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or cin != width:
            self.downsample = nn.Sequential(conv(cin, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    def __init__(self, cin, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or cin != 4 * width:
            self.downsample = nn.Sequential(conv(cin, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, blocks, bottleneck, width, classes):
        super().__init__()
        block, self.cin = Bottleneck if bottleneck else BasicBlock, width
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, n in enumerate(blocks):
            layer = []
            for j in range(n):
                layer.append(block(self.cin, width << i, 2 if i > 0 and j == 0 else 1))
                self.cin = (4 if bottleneck else 1) * (width << i)
            setattr(self, "layer%d" % (i + 1), nn.Sequential(*layer))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.cin, classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


# ---- BERT: Hugging Face's BertForSequenceClassification ----


class Named(nn.Module):
    """A module that only holds others."""

    def __init__(module, /, **children):  # one child is called self
        super().__init__()
        for name, m in children.items():
            module.add_module(name, m)


class BertLayer(nn.Module):
    def __init__(self, heads, width, inner, dropout):
        super().__init__()
        lin, norm = nn.Linear, lambda: nn.LayerNorm(width, eps=1e-12)
        self.attention = Named(
            self=Named(query=lin(width, width), key=lin(width, width), value=lin(width, width)),
            output=Named(dense=lin(width, width), LayerNorm=norm()),
        )
        self.intermediate = Named(dense=lin(width, inner))
        self.output = Named(dense=lin(inner, width), LayerNorm=norm())
        self.heads, self.drop = heads, nn.Dropout(dropout)

    def forward(self, x, mask):
        n, t, c = x.shape
        s, o = self.attention.get_submodule("self"), self.attention.output
        q, k, v = (m(x).view(n, t, self.heads, c // self.heads).transpose(1, 2) for m in (s.query, s.key, s.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(c // self.heads) + mask
        y = (self.drop(F.softmax(scores, dim=-1)) @ v).transpose(1, 2).reshape(n, t, c)
        x = o.LayerNorm(self.drop(o.dense(y)) + x)
        y = self.output.dense(F.gelu(self.intermediate.dense(x)))
        return self.output.LayerNorm(self.drop(y) + x)


class BERT(nn.Module):
    def __init__(self, layers, heads, width, inner, positions, vocab, classes, dropout=0.0):
        super().__init__()
        self.bert = Named(
            embeddings=Named(
                word_embeddings=nn.Embedding(vocab, width), position_embeddings=nn.Embedding(positions, width),
                token_type_embeddings=nn.Embedding(2, width), LayerNorm=nn.LayerNorm(width, eps=1e-12),
            ),
            encoder=Named(layer=nn.ModuleList([BertLayer(heads, width, inner, dropout) for _ in range(layers)])),
            pooler=Named(dense=nn.Linear(width, width)),
        )
        self.classifier, self.drop = nn.Linear(width, classes), nn.Dropout(dropout)

    def forward(self, tokens):
        e = self.bert.embeddings
        mask = (tokens == 0)[:, None, None, :].float() * torch.finfo(torch.float32).min
        x = e.word_embeddings(tokens) + e.token_type_embeddings.weight[0]
        x = self.drop(e.LayerNorm(x + e.position_embeddings(torch.arange(tokens.shape[1]))))
        for layer in self.bert.encoder.layer:
            x = layer(x, mask)
        return self.classifier(self.drop(torch.tanh(self.bert.pooler.dense(x[:, 0]))))


# ---- small ones, whose answers are committed, and the real ones ----

SMALL = {
    "gpt": lambda: GPT(2, 2, 16, 11, 3),
    "gpt_long": lambda: GPT(1, 2, 12, 70, 5),
    "resnet": lambda: ResNet([1, 1, 1, 1], False, 8, 7),
    "resnet_bottleneck": lambda: ResNet([1, 2, 1, 1], True, 4, 5),
    "bert": lambda: BERT(2, 2, 16, 32, 20, 40, 3),
}

FULL = {
    "gpt-sorter": lambda: GPT(3, 3, 48, 11, 3, 0.1),
    "char-gpt": lambda: GPT(6, 6, 384, 256, 29, 0.1),
    "resnet18": lambda: ResNet([2, 2, 2, 2], False, 64, 10),
    "resnet50": lambda: ResNet([3, 4, 6, 3], True, 64, 10),
    "bert": lambda: BERT(12, 12, 768, 3072, 512, 30522, 2, 0.1),
}
