package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func load(t testing.TB, name string) *Tokenizer {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := Parse(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return k
}

type goldens struct {
	Texts []string             `json:"texts"`
	IDs   map[string][][]int32 `json:"ids"`
}

func golden(t testing.TB) goldens { return goldensOf(t, "golden") }

func goldensOf(t testing.TB, name string) (g goldens) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGolden: the tokens are those of Hugging Face's library (testdata/make.py, unigram.py).
func TestGolden(t *testing.T) {
	for file, least := range map[string]int{"golden": 8, "golden-unigram": 4} {
		g := goldensOf(t, file)
		if len(g.IDs) < least || len(g.Texts) < 30 {
			t.Fatalf("%s: %d tokenizers, %d texts", file, len(g.IDs), len(g.Texts))
		}
		for name, want := range g.IDs {
			k := load(t, name)
			for range 2 { // and from the cache
				for i, text := range g.Texts {
					got, err := k.Encode(nil, text, true)
					if err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(got, want[i]) {
						t.Errorf("%s: %q is %v %q, want %v %q", name, text, got, names(k, got), want[i], names(k, want[i]))
					}
				}
			}
		}
	}
}

func names(k *Tokenizer, ids []int32) (s []string) {
	for _, id := range ids {
		s = append(s, k.Name(id))
	}
	return s
}

// TestCut: a text that is cut where Cut says has the tokens of the whole.
func TestCut(t *testing.T) {
	g := golden(t)
	text := strings.Join(g.Texts, "\n") + "end.\nNext line\n  indented\n\nparagraph\nlast"
	whole := map[string]bool{"metaspace": true} // it strips the ends of a text
	for _, name := range slices.Concat(slices.Collect(maps.Keys(g.IDs)), slices.Collect(maps.Keys(goldensOf(t, "golden-unigram").IDs))) {
		k := load(t, name)
		want, err := k.Encode(nil, text, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, most := range []int{30, 100, 1000} {
			var got []int32
			pieces := 0
			for rest, begins := text, true; rest != ""; begins = false {
				end, next := k.Cut(rest, most)
				if end == 0 {
					end, next = k.Cut(rest, len(rest))
				}
				if end == 0 {
					end, next = len(rest), len(rest)
				}
				if got, err = k.Encode(got, rest[:end], begins); err != nil {
					t.Fatal(err)
				}
				rest = rest[next:]
				pieces++
			}
			if !slices.Equal(got, want) || (pieces == 1) != whole[name] {
				t.Errorf("%s in %d pieces of %d bytes: other tokens", name, pieces, most)
			}
		}
	}
}

// TestScanners: what is done by hand is what the regular expressions do.
func TestScanners(t *testing.T) {
	g := golden(t)
	for pattern := range scanners {
		e, err := compile(pattern)
		if err != nil || e.scan == nil {
			t.Fatal(err)
		}
		slow := *e
		slow.scan = nil
		for _, text := range append(g.Texts, "I'LL we'Re 'ſo 'S'", strings.Join(g.Texts, ""), strings.Join(g.Texts, "\n \r")) {
			if got, want := e.find(text), slow.find(text); !slices.Equal(got, want) {
				t.Errorf("%s: %q is split at %v, want %v", pattern, text, got, want)
			}
		}
	}
}

// FuzzScanners is TestScanners of any text.
func FuzzScanners(f *testing.F) {
	for _, text := range golden(f).Texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) || len(text) > 1000 {
			return
		}
		for pattern := range scanners {
			e, err := compile(pattern)
			if err != nil {
				t.Fatal(err)
			}
			slow := *e
			slow.scan = nil
			if got, want := e.find(text), slow.find(text); !slices.Equal(got, want) {
				t.Errorf("%s: %q is split at %v, want %v", pattern, text, got, want)
			}
		}
	})
}

func TestRefuses(t *testing.T) {
	const bpe = `"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`
	for _, c := range [][2]string{
		{`{`, "unexpected end"},
		{`{}`, "no model"},
		{`{"model":{"type":"WordLevel","vocab":{}}}`, "WordLevel"},
		{`{"model":{"type":"Unigram","vocab":[]}}`, "0 tokens"},
		{`{"model":{"type":"Unigram","vocab":[["a"]]}}`, "want a token and a score"},
		{`{"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":1}}`, "unknown token is 1 of 1"},
		{`{"model":{"type":"BPE","vocab":{}}}`, "0 tokens"},
		{`{"model":{"type":"BPE","vocab":{"a":-1}}}`, "number -1"},
		{`{"model":{"type":"BPE","vocab":{"a":16777216}}}`, "number 16777216"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, "merge 0"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[3]}}`, "neither"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}}`, "joins 3"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}}`, "dropout"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"u"}}`, "unknown"},
		{`{"model":{"type":"WordPiece","vocab":{"a":0}}}`, "unknown"},
		{`{` + bpe + `,"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}}`, "has 3 bytes"},
		{`{` + bpe + `,"normalizer":{"type":"Precompiled","precompiled_charsmap":"/wAAAAAAAAA="}}`, "a table of 255 bytes"},
		{`{` + bpe + `,"normalizer":{"type":"Bytes"}}`, "Bytes"},
		{`{` + bpe + `,"pre_tokenizer":{"type":"UnicodeScripts"}}`, "UnicodeScripts"},
		{`{` + bpe + `,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a(?=b)"},"behavior":"Isolated"}}`, "has lookaround"},
		{`{` + bpe + `,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}}`, "missing"},
		{`{` + bpe + `,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"},"behavior":"Swallowed"}}`, "Swallowed"},
	} {
		if _, err := Parse([]byte(c[0])); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %q", c[0], err, c[1])
		}
	}
	k, err := Parse([]byte(`{` + bpe + `}`))
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := k.Encode(nil, "abxba", true); err != nil || !slices.Equal(ids, []int32{2, 1, 0}) || k.Size() != 3 {
		t.Errorf("%v %v", ids, err)
	}
	if _, err := k.Encode(nil, "a\xff", true); !errors.Is(err, ErrText) {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: whatever the file, a text has tokens below Size, or is refused.
func FuzzParse(f *testing.F) {
	names, _ := filepath.Glob("testdata/*.json")
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "Hello  wörld 12\n\nx")
	}
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\s+"},"behavior":"MergedWithNext"}}`), "ab  ab")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		k, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		ids, err := k.Encode(nil, text, true)
		if err != nil && !errors.Is(err, ErrText) {
			t.Error(err)
		}
		for _, id := range ids {
			if id < 0 || int(id) >= k.Size() {
				t.Errorf("token %d of %d", id, k.Size())
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	k := load(b, "gpt2")
	text := strings.Repeat("The quick brown fox jumps over 12 lazy dogs, isn't it? It's believable.\n", 1000)
	b.SetBytes(int64(len(text)))
	var ids []int32
	for b.Loop() {
		ids, _ = k.Encode(ids[:0], text, true)
	}
}

// TestUnassigned: code points that stand for nothing yet are kept by BERT's normalizer, private ones
// are not.
func TestUnassigned(t *testing.T) {
	if got := bert(true, false, false, false)("a\u0378b\U0010ffffc\ue000d\u200be"); got != "a\u0378b\U0010ffffcde" {
		t.Errorf("%q", got)
	}
}

// TestUnigram: an unknown character is a token or an error, and tokens of bytes are known.
func TestUnigram(t *testing.T) {
	const vocab = `"vocab":[["<unk>",0],["a",-1],["b",-1],["ab",-1.5],["<0xC3>",-9],["<0xA9>",-9]]`
	for extra, want := range map[string][]int32{`,"unk_id":0`: {3, 0, 1}, `,"unk_id":0,"byte_fallback":true`: {3, 4, 5, 1}, ``: nil} {
		k, err := Parse([]byte(`{"model":{"type":"Unigram",` + vocab + extra + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		ids, err := k.Encode(nil, "ab\u00e9a", true)
		if want == nil && (!errors.Is(err, ErrText) || !strings.Contains(err.Error(), "is unknown")) || want != nil && (err != nil || !slices.Equal(ids, want)) {
			t.Errorf("%s: %v %v, want %v", extra, ids, err, want)
		}
	}
	for name, want := range map[string]int{"<0xA9>": 0xa9, "<0x0a>": 10, "<0xZZ>": -1, "<unk>": -1, "": -1} {
		if b, ok := ByteOf(name); ok != (want >= 0) || ok && int(b) != want {
			t.Errorf("%q: %v %v", name, b, ok)
		}
	}
}

// FuzzCharsmap: whatever the table, texts stay UTF-8 and do not grow without bounds.
func FuzzCharsmap(f *testing.F) {
	var file struct {
		Normalizer struct {
			Map string `json:"precompiled_charsmap"`
		} `json:"normalizer"`
	}
	b, err := os.ReadFile("testdata/t5.json")
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err == nil {
		b, err = base64.StdEncoding.DecodeString(file.Normalizer.Map)
	}
	if err != nil || len(b) < 100 {
		f.Fatal(len(b), err)
	}
	f.Add(b, "\uff21\ufb01e\u0301\r\n\t x")
	f.Add([]byte{4, 0, 0, 0, 0, 0, 0, 0}, "a")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		m, err := readCharsmap(base64.StdEncoding.EncodeToString(b))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		text = strings.ToValidUTF8(text, "")
		if out := m.normalise(text); !utf8.ValidString(out) || len(out) > (maxReplacement+1)*len(text) {
			t.Errorf("%q becomes %q", text, out)
		}
	})
}

// TestGrowth: replacements that together make a text very long are refused, those of real tokenizers
// are not.
func TestGrowth(t *testing.T) {
	replace := func(pattern, content string) string {
		return `{"type":"Replace","pattern":` + pattern + `,"content":"` + content + `"}`
	}
	long := strings.Repeat("a", 60)
	for normalizer, ok := range map[string]bool{
		replace(`{"String":" "}`, "\u2581"):                 true,
		replace(`{"String":"a"}`, strings.Repeat(long, 90)): false,
		`{"type":"Sequence","normalizers":[` + strings.Repeat(replace(`{"Regex":" {2,}"}`, " ")+",", 9) + replace(`{"String":"\n"}`, " ") + `]}`: true,
		`{"type":"Sequence","normalizers":[` + strings.Repeat(replace(`{"String":"a"}`, long)+",", 2) + replace(`{"String":"a"}`, long) + `]}`:   false,
		`{"type":"Sequence","normalizers":[` + strings.Repeat(replace(`{"String":""}`, long)+",", 2) + replace(`{"String":"a"}`, long) + `]}`:    false,
	} {
		_, err := Parse([]byte(`{"normalizer":` + normalizer + `,"model":{"type":"Unigram","vocab":[["<unk>",0],["a",-1]],"unk_id":0}}`))
		if grown := err != nil && strings.Contains(err.Error(), "times as long"); grown == ok || ok && err != nil {
			t.Errorf("%.80s: %v", normalizer, err)
		}
	}
}

// TestNames: of several tokens with one number the name is always the same.
func TestNames(t *testing.T) {
	for range 20 {
		k, err := Parse([]byte(`{"model":{"type":"BPE","vocab":{"d":0,"b":0,"c":0,"a":0,"e":0},"merges":[]}}`))
		if err != nil || k.Name(0) != "a" {
			t.Fatalf("%q, %v", k.Name(0), err)
		}
	}
}
