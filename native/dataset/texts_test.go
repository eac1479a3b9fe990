package dataset_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/tokenizer"
	"github.com/ravnest/ravnest/native/dataset"
)

// said is a pair of texts and its class.
type said struct {
	A string `json:"premise" parquet:"premise"`
	B string `json:"hypothesis" parquet:"hypothesis"`
	N int64  `json:"n" parquet:"n"`
	K string `json:"label" parquet:"label"`
}

func pairsOfTexts() (rows []said) {
	for i := range 30 {
		rows = append(rows, said{
			A: strings.Repeat("the dog, \"lazy\"\nand ", i%4) + fmt.Sprint("fox ", i), B: fmt.Sprint("newest ", i), N: int64(i),
			K: []string{"neutral", "yes", "no"}[i%3],
		})
	}
	return rows
}

// written writes rows in the format that ext says.
func written(t *testing.T, rows []said, ext string) []byte {
	t.Helper()
	var b bytes.Buffer
	switch ext {
	case ".parquet":
		if err := parquet.Write(&b, rows); err != nil {
			t.Fatal(err)
		}
	case ".jsonl":
		for _, r := range rows {
			if err := json.NewEncoder(&b).Encode(r); err != nil {
				t.Fatal(err)
			}
		}
	default:
		comma := map[string]string{".csv": ",", ".tsv": "\t"}[ext]
		b.WriteString("\ufeff" + strings.Join([]string{"n", "premise", "label", "hypothesis"}, comma) + "\n")
		for _, r := range rows {
			fmt.Fprintf(&b, "%d%s\"%s\"%s%s%s%s\n", r.N, comma, strings.ReplaceAll(r.A, `"`, `""`), comma, r.K, comma, r.B)
		}
	}
	return b.Bytes()
}

// paired is a tokenizer with BERT's special tokens.
func paired(t *testing.T, dir string) (string, *tokenizer.Tokenizer) {
	t.Helper()
	b, err := os.ReadFile("../../engine/format/tokenizer/testdata/bert.json")
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`"post_processor":null`), []byte(`"post_processor":{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]}`), 1)
	k, err := tokenizer.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, b, dir, "tokenizer.json"), k
}

// TestTexts: pairs of texts of every format become the rows that the tokenizer makes of them,
// in memory and in files, for a model with several inputs and for one with one; and the same rows
// are predicted.
func TestTexts(t *testing.T) {
	const block = 12
	rows := pairsOfTexts()
	for _, ext := range []string{".csv", ".tsv", ".jsonl", ".parquet"} {
		dir := t.TempDir()
		file, k := paired(t, dir)
		path := write(t, written(t, rows, ext), dir, "data"+ext)
		var fields []data.Field
		for _, n := range []string{"mask", "input_ids", "token_type_ids"} {
			fields = append(fields, data.Field{Name: n, Shape: []int{block}})
		}
		for _, above := range []int64{1 << 40, 0} {
			o := dataset.Options{Texts: []string{"premise", "hypothesis"}, Tokenizer: file, Block: block, Scratch: dir, Above: &above}
			o.Fields = dataset.Fields{Inputs: fields, From: map[string]string{"mask": "attention_mask"}}
			s, err := dataset.Open(path, o)
			if err != nil {
				t.Fatalf("%s: %v", ext, err)
			}
			if n, m := s.Rows(); n != len(rows) || m != 0 || !slices.Equal(s.Shape(), []int{3 * block}) || !slices.Equal(s.Names(), []string{"neutral", "no", "yes"}) || s.TokenizerJSON() == nil {
				t.Errorf("%s: %d and %d rows of %v, classes %q", ext, n, m, s.Shape(), s.Names())
			}
			if n, classes := s.Outputs(); n != 3 || !classes {
				t.Errorf("%s: %d outputs, classes: %v", ext, n, classes)
			}
			if above > 0 {
				set, err := s.Set([]int{3 * block}, nil)
				if err != nil {
					t.Fatal(err)
				}
				sameRows(t, ext, set.Train.X(), rows, k, block)
				class := make([]int32, 1)
				for i, r := range rows {
					if set.Train.Y().Labels(class, []int32{int32(i)}); s.Names()[class[0]] != r.K {
						t.Errorf("%s: row %d is of class %d", ext, i, class[0])
					}
				}
			}
			x, err := inputFields(t, path, o)
			if err != nil {
				t.Fatal(err)
			}
			sameRows(t, ext, x, rows, k, block)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		o := dataset.Options{Texts: []string{"hypothesis"}, Target: []string{"n"}, Tokenizer: file, Block: block, Val: 0.5}
		s, err := dataset.Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if cs := s.Columns(); len(cs) != 1 || !cs[0].Text || cs[0].Name != "hypothesis" || s.Words != k.Size() || s.Tokens != 0 {
			t.Errorf("%s: the columns are %v, %d words", ext, cs, s.Words)
		}
		n, m := s.Rows()
		if outputs, classes := s.Outputs(); n != 15 || m != 15 || !slices.Equal(s.Shape(), []int{block}) || outputs != 30 || !classes {
			t.Errorf("%s: %d and %d rows of %v, %d outputs", ext, n, m, s.Shape(), outputs)
		}
		x, _, err := inputs(t, path, []int{block}, o)
		if want, _, _, werr := k.Row(block, rows[3].B); err != nil || werr != nil || x.Rows != 30 || !slices.Equal(gathered(x, 3), floats(want)) {
			t.Errorf("%s: %v, %v", ext, x, err)
		}
	}
}

func floats(v []int32) (f []float32) {
	for _, x := range v {
		f = append(f, float32(x))
	}
	return f
}

func gathered(x *data.Table, row int) []float32 {
	v := make([]float32, x.Elems())
	x.Gather(v, []int32{int32(row)})
	return v
}

// sameRows holds a table of masks, tokens and types against the tokenizer's.
func sameRows(t *testing.T, what string, x *data.Table, rows []said, k *tokenizer.Tokenizer, block int) {
	t.Helper()
	for i, r := range rows {
		ids, mask, kinds, err := k.Row(block, r.A, r.B)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := gathered(x, i), floats(slices.Concat(mask, ids, kinds)); !slices.Equal(got, want) {
			t.Fatalf("%s: row %d is %v, want %v", what, i, got, want)
		}
	}
}

// TestAnswers: where the target is one of the texts, only its tokens count.
func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	file := "../../engine/format/tokenizer/testdata/gpt2.json"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k, err := tokenizer.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	write(t, []byte(`{"q":"the dog?","a":"lazy"}`+"\n\n"+`{"a":"fox","q":"and the \n"}`+"\n"), dir, "d", "train.jsonl")
	write(t, []byte(`{"q":"one","a":"two"}`), dir, "d", "val.jsonl")
	s, err := dataset.Open(filepath.Join(dir, "d"), dataset.Options{Texts: []string{"q", "a"}, Target: []string{"a"}, Tokenizer: file, Block: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, m := s.Rows(); n != 2 || m != 1 || s.Tokens != k.Size() {
		t.Fatalf("%d and %d rows of %d tokens", n, m, s.Tokens)
	}
	set, err := s.Set([]int{16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range [][2]string{{"the dog?\n", "lazy"}, {"and the \n", "fox"}} {
		ids, _, next, err := k.Answer(16, r[0], r[1])
		if err != nil {
			t.Fatal(err)
		}
		got := make([]int32, 16)
		if set.Train.Y().Labels(got, []int32{int32(i)}); !slices.Equal(got, next) || !slices.Equal(gathered(set.Train.X(), i), floats(ids)) {
			t.Errorf("row %d: %v, want %v", i, got, next)
		}
	}
}

// TestTextMistakes: what is wrong is said with its place.
func TestTextMistakes(t *testing.T) {
	dir := t.TempDir()
	file, _ := paired(t, dir)
	for name, c := range map[string]struct {
		file, text string
		o          dataset.Options
		says       string
	}{
		"no tokenizer":  {"a.csv", "a,y\nx,1\n", dataset.Options{Texts: []string{"a"}}, "need a tokenizer"},
		"a column":      {"b.csv", "a,y\nx,1\n", dataset.Options{Texts: []string{"b"}, Target: []string{"y"}, Tokenizer: file, Block: 4}, `no column "b"`},
		"no target":     {"c.jsonl", `{"a":"x","z":1}`, dataset.Options{Texts: []string{"a"}, Tokenizer: file, Block: 4}, `name one of ["a" "z"]`},
		"an empty cell": {"d.csv", "a,y\nx,1\ny,\n", dataset.Options{Texts: []string{"a"}, Target: []string{"y"}, Tokenizer: file, Block: 4}, "d.csv: line 3: the target is empty: fill it, or remove the row"},
		"a list":        {"e.jsonl", "{\"a\":\"x\",\"y\":1}\n{\"a\":[1],\"y\":2}\n", dataset.Options{Texts: []string{"a"}, Tokenizer: file, Block: 4}, `line 2, field "a" is [1]`},
		"a short row":   {"f.csv", "a,y\nx,1\n", dataset.Options{Texts: []string{"a"}, Target: []string{"y"}, Tokenizer: file, Block: 1}, "no room for the special tokens"},
		"not finite":    {"i.jsonl", "{\"a\":\"x\",\"y\":0.5}\n{\"a\":\"x\",\"y\":\"nan\"}\n", dataset.Options{Texts: []string{"a"}, Tokenizer: file, Block: 4}, `the target "nan" is not finite`},
		"an image":      {"g.png", "", dataset.Options{Texts: []string{"a"}, Tokenizer: file, Block: 4}, ".jsonl"},
		"three":         {"h.csv", "a\n", dataset.Options{Texts: []string{"a", "b", "c"}, Tokenizer: file, Block: 4}, "one or two"},
		"bytes":         {"i.csv", "a,y\n\xff,1\n", dataset.Options{Texts: []string{"a"}, Target: []string{"y"}, Tokenizer: file, Block: 4}, "i.csv: line 2: invalid text"},
	} {
		_, err := dataset.Open(write(t, []byte(c.text), dir, c.file), c.o)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTextClasses: folders of classes of texts give the rows of a table of the same texts, with and
// without parts; names that are numbers are names.
func TestTextClasses(t *testing.T) {
	const block = 12
	dir := t.TempDir()
	file, k := paired(t, dir)
	texts := map[string][]string{"1": {"the dog", "lazy fox 3"}, "2": {"newest fox", "", "the lazy dog and the fox"}}
	parted, plain := filepath.Join(dir, "parted"), filepath.Join(dir, "plain")
	for _, root := range []string{plain, filepath.Join(parted, "train"), filepath.Join(parted, "test")} {
		for class, all := range texts {
			if err := os.MkdirAll(filepath.Join(root, class), 0o755); err != nil {
				t.Fatal(err)
			}
			for i, s := range all {
				write(t, []byte(s), filepath.Join(root, class), fmt.Sprint(i, ".txt"))
			}
		}
	}
	o := dataset.Options{Tokenizer: file, Block: block, Scratch: dir}
	row := func(text string) []float32 {
		ids, _, _, err := k.Row(block, text)
		if err != nil {
			t.Fatal(err)
		}
		return floats(ids)
	}
	all := slices.Concat(texts["1"], texts["2"])
	for path, val := range map[string]int{plain: 0, parted: 5} {
		s, err := dataset.Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		if n, m := s.Rows(); n != 5 || m != val || !slices.Equal(s.Names(), []string{"1", "2"}) {
			t.Errorf("%s: %d and %d rows, classes %q", path, n, m, s.Names())
		}
		set, err := s.Set([]int{block}, nil)
		if err != nil {
			t.Fatal(err)
		}
		class := make([]int32, 1)
		for i, text := range all {
			set.Train.Y().Labels(class, []int32{int32(i)})
			if got := gathered(set.Train.X(), i); !slices.Equal(got, row(text)) || class[0] != int32(min(i/2, 1)) {
				t.Errorf("%s: row %d is %v of class %d", path, i, got, class[0])
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	o.Texts = []string{"text"}
	x, _, err := inputs(t, filepath.Join(plain, "2", "2.txt"), []int{block}, o)
	if err != nil || x.Rows != 1 || !slices.Equal(gathered(x, 0), row(all[4])) {
		t.Errorf("a text to predict: %v, %v", x, err)
	}
	if x, _, err = inputs(t, filepath.Join(plain, "2"), []int{block}, o); err != nil || x.Rows != 3 {
		t.Errorf("texts to predict: %v, %v", x, err)
	}
	if _, err := dataset.Open(plain, dataset.Options{Block: block}); err == nil || !strings.Contains(err.Error(), "give --tokenizer tokenizer.json") {
		t.Errorf("without a tokenizer: %v", err)
	}
	write(t, []byte("fox"), parted, "test", "3", "0.txt")
	o.Texts = nil
	if _, err := dataset.Open(parted, o); err == nil || !strings.Contains(err.Error(), `test has texts of the class "3", train has none`) {
		t.Errorf("a class for validation alone: %v", err)
	}
}
