package tokenizer

import (
	"encoding/json"
	"errors"
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

func golden(t testing.TB) (g goldens) {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGolden: the tokens are those of Hugging Face's library (testdata/make.py).
func TestGolden(t *testing.T) {
	g := golden(t)
	if len(g.IDs) < 8 || len(g.Texts) < 30 {
		t.Fatalf("%d tokenizers, %d texts", len(g.IDs), len(g.Texts))
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
	for name := range g.IDs {
		k := load(t, name)
		if name == "metaspace" {
			continue // it strips the ends of every piece of a text
		}
		want, err := k.Encode(nil, text, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, most := range []int{30, 100, 1000} {
			var got []int32
			pieces := 0
			for rest, begins := text, true; rest != ""; begins = false {
				n := Cut(rest, most)
				if n == 0 {
					n = Cut(rest, len(rest))
				}
				if n == 0 {
					n = len(rest)
				}
				if got, err = k.Encode(got, rest[:n], begins); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
				pieces++
			}
			if !slices.Equal(got, want) || pieces < 3 {
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
		{`{"model":{"type":"Unigram","vocab":[]}}`, "Unigram"},
		{`{"model":{"type":"BPE","vocab":{}}}`, "0 tokens"},
		{`{"model":{"type":"BPE","vocab":{"a":-1}}}`, "number -1"},
		{`{"model":{"type":"BPE","vocab":{"a":16777216}}}`, "number 16777216"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, "merge 0"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[3]}}`, "neither"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}}`, "joins 3"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}}`, "dropout"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"u"}}`, "unknown"},
		{`{"model":{"type":"WordPiece","vocab":{"a":0}}}`, "unknown"},
		{`{` + bpe + `,"normalizer":{"type":"Precompiled"}}`, "Precompiled"},
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
