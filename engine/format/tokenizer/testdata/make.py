"""Makes the tokenizers of the tests and what Hugging Face's library makes of odd texts.

pip install tokenizers; python make.py. tokenizers 0.23.3 made what is committed.
"""
import json
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from texts import CORPUS, TEXTS


def bpe(special, **kw):
    t = Tokenizer(models.BPE(**kw))
    return t, trainers.BpeTrainer(vocab_size=520, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)


def gpt2():
    t, tr = bpe(["<|endoftext|>"])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS, tr)
    return t


def roberta():
    t, tr = bpe(["<s>", "</s>", "<pad>"])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.train_from_iterator(CORPUS, tr)
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True, special=True)])
    return t


def llama3():
    t, tr = bpe(["<|endoftext|>"], ignore_merges=True)
    p = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(CORPUS, tr)
    return t


def llama2():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    t.train_from_iterator([w for line in CORPUS for w in line.split(" ")], trainers.BpeTrainer(vocab_size=480, special_tokens=special, limit_alphabet=60, show_progress=False))
    j = json.loads(t.to_str())  # the bytes are no tokens that are found in a text
    j["added_tokens"] = j["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(j))


def metaspace():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation("merged_with_previous")])
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<pad>"], show_progress=False))
    return t


def suffix():
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False))
    return t


def bert(lower):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(lowercase=lower)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    return t


golden = {"texts": TEXTS, "ids": {}}
for name, t in {"gpt2": gpt2(), "roberta": roberta(), "llama3": llama3(), "llama2": llama2(), "metaspace": metaspace(), "suffix": suffix(), "bert": bert(True), "bert-cased": bert(False)}.items():
    with open(name + ".json", "w") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=True, separators=(",", ":"))
    golden["ids"][name] = [t.encode(x, add_special_tokens=False).ids for x in TEXTS]
with open("golden.json", "w") as f:
    json.dump(golden, f, ensure_ascii=True, separators=(",", ":"))

# Rows of one text and of two, cut and padded.
ROWS = [["Hello world", None], ["", None], ["", ""], ["the dog", "isn't lazy"], ["a", "tokenization of unbelievable newest tokens " * 3], ["tokenization of unbelievable newest tokens " * 3, "a b"],
        ["the quick brown fox jumps over the lazy dog", "believable believing believe lower lowest newer newest"], ["the quick brown fox jumps over the lazy dog " * 3, None]]
SPECIAL = {
    "bert": (processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), "[PAD]"),
    "bert-cased": (processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]), "[PAD]"),
    "roberta": (processors.RobertaProcessing(("</s>", 1), ("<s>", 0)), "<pad>"),
    "llama3": (processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|>:1 $B:1", special_tokens=[("<|endoftext|>", 0)])]), None),
    "gpt2": (None, None),
}
rows = []
for name, (post, pad) in SPECIAL.items():
    t = Tokenizer.from_file(name + ".json")
    if post is not None:
        t.post_processor = post
    form = json.loads(t.to_str())["post_processor"]
    for n in (8, 9, 24):
        t.enable_truncation(n)
        t.enable_padding(length=n, pad_id=t.token_to_id(pad) if pad else 0, pad_token=pad or "<|endoftext|>")
        for pair in ROWS:
            e = t.encode(*[x for x in pair if x is not None])
            rows.append({"tokenizer": name, "post": form, "texts": [x for x in pair if x is not None], "ids": e.ids, "mask": e.attention_mask, "kinds": e.type_ids})
with open("rows.json", "w") as f:
    json.dump(rows, f, ensure_ascii=True, separators=(",", ":"))
