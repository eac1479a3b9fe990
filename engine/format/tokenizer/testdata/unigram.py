"""Makes the unigram tokenizers of the tests and what Hugging Face's library makes of odd texts.

pip install tokenizers sentencepiece protobuf; python unigram.py. sentencepiece 0.2.3 and tokenizers
0.23.3 made what is committed.
"""
import json, pathlib, tempfile
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from texts import CORPUS, TEXTS

TEXTS = TEXTS + [
    "ﬁ\u0301 ﬁ\u0302x が か\u3099 ｶﾞ ①② \r\n\r\n a\r\nb", "Ａｂｃ１２３　ｶﾞｷﾞ", "e\u0301\u0327\u0328 x\u0301", "▁low▁line ▁ ▁▁", " leading and trailing  ", "a\u200bb\u200fc\ufeffd",
]
# SentencePiece's own table has 240 kB; this one has what is odd about it.
RULES = [("\t", " "), ("\n", " "), ("\r", " "), ("\u00a0", " "), ("\u3000", " "), ("\u200b", " "), ("ﬁ", "fi"), ("e\u0301", "\u00e9"), ("\u304b\u3099", "\u304c"), ("\u212b", "\u00c5"),
         ("½", "1⁄2"), ("\u00ad", ""), ("x\u0301", "[x]"), ("👍", "up"), ("🇫🇷", "FR"), *[(chr(0xFF21 + i), chr(65 + i)) for i in range(26)]]


def sentencepiece(**more):
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        (d / "rules.tsv").write_text("".join(" ".join("%X" % ord(c) for c in a) + "\t" + " ".join("%X" % ord(c) for c in b) + "\n" for a, b in RULES))
        (d / "corpus.txt").write_text("\n".join(s for c in CORPUS for s in c.split("\n") if s.strip()))
        spm.SentencePieceTrainer.train(input=str(d / "corpus.txt"), model_prefix=str(d / "m"), vocab_size=420, model_type="unigram", normalization_rule_tsv=str(d / "rules.tsv"),
                                       hard_vocab_limit=False, minloglevel=2, **more)
        m = pb.ModelProto()
        m.ParseFromString((d / "m.model").read_bytes())
    return [(p.piece, p.score) for p in m.pieces], normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap)


def t5():
    vocab, table = sentencepiece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    t = Tokenizer(models.Unigram(vocab, unk_id=2))
    t.normalizer = table
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    t.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return t


def albert():
    vocab, table = sentencepiece()
    t = Tokenizer(models.Unigram(vocab, unk_id=0))
    t.normalizer = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                         table, normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    return t


def bytes_():
    """As transformers converts a model of SentencePiece."""
    vocab, table = sentencepiece(byte_fallback=True, split_by_number=False)
    t = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    t.normalizer = normalizers.Sequence([table, normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(" ", "▁"), normalizers.Replace(Regex(r"\A▁"), "▁▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    return t


def nmt():
    """As SentencePieceUnigramTokenizer of the tokenizers library."""
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False))
    return t


golden = {"texts": TEXTS, "ids": {}}
for name, t in {"t5": t5(), "albert": albert(), "unigram-bytes": bytes_(), "nmt": nmt()}.items():
    with open(name + ".json", "w") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=True, separators=(",", ":"))
    golden["ids"][name] = [t.encode(x, add_special_tokens=False).ids for x in TEXTS]
with open("golden-unigram.json", "w") as f:
    json.dump(golden, f, ensure_ascii=True, separators=(",", ":"))
