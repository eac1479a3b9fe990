package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// with is the tokenizer of a test with another post_processor.
func with(t testing.TB, name string, post json.RawMessage) ([]byte, error) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	m["post_processor"] = post
	return json.Marshal(m)
}

// TestRows: rows of one text and of two are those of Hugging Face's library (testdata/make.py).
func TestRows(t *testing.T) {
	b, err := os.ReadFile("testdata/rows.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Tokenizer        string
		Post             json.RawMessage
		Texts            []string
		IDs, Mask, Kinds []int32
	}
	if err := json.Unmarshal(b, &rows); err != nil || len(rows) < 100 {
		t.Fatal(len(rows), err)
	}
	for _, r := range rows {
		file, err := with(t, r.Tokenizer, r.Post)
		if err != nil {
			t.Fatal(err)
		}
		k, err := Parse(file)
		if err != nil {
			t.Fatalf("%s: %v", r.Tokenizer, err)
		}
		ids, mask, kinds, err := k.Row(len(r.IDs), r.Texts...)
		if err != nil || !slices.Equal(ids, r.IDs) || !slices.Equal(mask, r.Mask) || !slices.Equal(kinds, r.Kinds) {
			t.Errorf("%s: %d tokens of %q are %v %v %v (%v), want %v %v %v", r.Tokenizer, len(r.IDs), r.Texts, ids, mask, kinds, err, r.IDs, r.Mask, r.Kinds)
		}
	}
}

// TestAnswer: targets are the tokens of the continuation and its end, each at the place of the
// token before.
func TestAnswer(t *testing.T) {
	k := load(t, "gpt2") // its end is token 0
	q, err := k.Encode(nil, "the dog\n", true)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Encode(nil, "lazy", false)
	if err != nil {
		t.Fatal(err)
	}
	whole := slices.Concat(q, a, []int32{0})
	for n := 1; n < len(whole)+3; n++ {
		ids, mask, next, err := k.Answer(n, "the dog\n", "lazy")
		if err != nil || len(ids) != n || len(next) != n || len(mask) != n {
			t.Fatal(n, ids, mask, next, err)
		}
		cut := whole[max(0, min(len(whole)-n-1, len(q))):]
		for i, v := range next {
			want := int32(noClass)
			if at := i + 1 + len(whole) - len(cut); at >= len(q) && at < len(whole) {
				want = whole[at]
			}
			if v != want {
				t.Errorf("%d tokens: target %d is %d, want %d", n, i, v, want)
			}
			if i < len(cut) && (ids[i] != cut[i] || mask[i] != 1) || i >= len(cut) && (ids[i] != k.Pad() || mask[i] != 0) {
				t.Errorf("%d tokens: %v of %v", n, ids, cut)
			}
		}
	}
	if _, _, next, err := k.Answer(6, "", "the lazy dog"); err != nil || next[0] == noClass {
		t.Errorf("a text without a question: %v, %v", next, err)
	}
}

// TestPostMistakes: what cannot be done is refused.
func TestPostMistakes(t *testing.T) {
	for _, post := range []string{
		`{"type":"Other"}`, `{"type":"BertProcessing","sep":["[SEP]"],"cls":["[CLS]",2]}`, `{"type":"BertProcessing","sep":["[SEP]",-3],"cls":["[CLS]",2]}`,
		`{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"pair":[]}`,
		`{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}}]}`,
		`{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":-1}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":0}}]}`,
		`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}`,
		`{"type":"TemplateProcessing","single":[{}],"pair":[]}`, `{"type":"Sequence","processors":[{"type":"Sequence","processors":[]}]}`,
		`{"type":"Sequence","processors":[{"type":"BertProcessing","sep":["s",3],"cls":["c",2]},{"type":"BertProcessing","sep":["s",3],"cls":["c",2]}]}`, `[]`,
	} {
		file, err := with(t, "bert", json.RawMessage(post))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(file); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", post, err)
		}
	}
	k := load(t, "bert")
	if ids, _, _, err := k.Row(3, strings.Repeat("dog ", 9)); err != nil || len(ids) != 3 {
		t.Error(ids, err)
	}
}

func FuzzRow(f *testing.F) {
	f.Add([]byte(`{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]}`), "the dog", "is lazy", 9)
	f.Add([]byte(`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":1}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"x":{"ids":[4]}}}`), "", "x", 3)
	f.Fuzz(func(t *testing.T, post []byte, a, b string, n int) {
		file, err := with(t, "bert", post)
		if err != nil || n < 1 || n > 64 {
			return
		}
		k, err := Parse(file)
		if err != nil {
			return
		}
		for _, texts := range [][]string{{a}, {a, b}} {
			ids, mask, kinds, err := k.Row(n, texts...)
			if err == nil && (len(ids) != n || len(mask) != n || len(kinds) != n) {
				t.Fatalf("%d, %d and %d of %d", len(ids), len(mask), len(kinds), n)
			}
		}
		if ids, _, next, err := k.Answer(n, a, b); err == nil && (len(ids) != n || len(next) != n) {
			t.Fatalf("%d and %d of %d", len(ids), len(next), n)
		}
	})
}
