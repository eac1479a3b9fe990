"""The texts of make.py and unigram.py: what tokenizers are trained on, and odd ones to encode."""

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's the dog's day, isn't it? We'll see; they've said I'm late.",
    "In 2024 there were 1,234,567 words and 89% of them were short: a, of, in, on, to, the.\n\n\tIndented   text  with spaces.",
    "Straße, naïve café, Ångström, œuvre, İstanbul, ΑΣΣΟΣ, Привет мир, 你好世界, こんにちは, 안녕하세요, مرحبا, שלום, हिन्दी",
    "def f(x):\n    return x**2 + 3*x - 1  # comment\n\nclass A:\n    pass\n",
    "tokenization tokenizer tokens token unbelievable believable believe believing lower lowest newer newest wide wider widest",
] * 4

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "a", " a", "a ", "Hello world", "hello  world", "hello   world  ", "Hello\nworld\n\n  again\t\ttabs",
    "It's they've I'm we'll can't 'tis o'clock IT'S", "x=1;y=22;z=333+4444", "3.14159 1,234,567 ½ ² Ⅷ ٣٤ 一二三",
    "Straße naïve café ÅNGSTRÖM œuvre İstanbul ΑΣΣΟΣ", "cafe\u0301 a\u030a \u0041\u0300\u0301 e\u0301\u0327", "Привет, мир! 你好,世界。こんにちは 안녕",
    "مرحبا بالعالم שלום עולם हिन्दी भाषा ไทย", "👍🏽 👨‍👩‍👧‍👦 🇫🇷 😀😀 x👍y", "zero\u200bwidth \u00a0nbsp \u2003em \u3000ideographic \ufeffbom \u00adsoft",
    "ctrl\x00\x01\x07\x7f\x85 end", "\u2028line\u2029para", "ﬁ ﬂ ﬀ Ǆ ㎏ ① Å Ω", "a_b-c.d/e\\f|g~h`i^j", "$5 €6 £7 + < = > | ~ ^", "«quoted» “quotes” ‘single’ — – … ¿¡",
    "supercalifragilisticexpialidocious" * 4, "the" * 60, " " * 20 + "x" + " " * 7, "\r\n\r\nwin\r\n", "[CLS] text [SEP] <s> </s> <|endoftext|>more<|endoftext|>", "<|endoftext|> <pad> x<pad>y [MASK] z",
    "\U0001f9ff\U0010ffff\ufffd\ue000", "ʼn ẞ ß ſ K İi ı", "tokenization of unbelievable newest tokens", "a\u0338b \u0301start", "𝕳𝖊𝖑𝖑𝖔 𝓦𝓸𝓻𝓵𝓭 x²+y²", "日本語テキスト漢字かな交じり文", "𠀀𪜀豈 CJK-ext",
]
