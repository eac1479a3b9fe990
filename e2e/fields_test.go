package e2e

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// pairsFile writes rows for masked_pair.pt2: pairs of texts of at most six tokens, filled up.
func pairsFile(t *testing.T, file string) {
	t.Helper()
	const rows, length = 96, 6
	ids := state.Tensor{Name: "input_ids", Shape: []int{rows, length}}
	mask, types, words := ids, ids, ids
	mask.Name, types.Name, words.Name = "attention_mask", "segments", "words"
	order := state.Tensor{Name: "order", Shape: []int{rows}}
	for r := range rows {
		full := 3 + r*r%4 // tokens that count
		for k := range length {
			id, m, word := int64(3+(r*r+7*k*r)%10), int64(1), int64(-100)
			if k >= full {
				id, m = 0, 0
			} else if (r+k)%3 == 0 {
				word = id
			}
			ids.I64, mask.I64, types.I64, words.I64 = append(ids.I64, id), append(mask.I64, m), append(types.I64, int64(k/3)), append(words.I64, word)
		}
		order.I64 = append(order.I64, int64(r*r%7%2))
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, state.Dict{ids, mask, types, words, order}, nil); err != nil {
		t.Fatal(err)
	}
	write(t, file, b.Bytes())
}

// TestImportLoss: a model that returns the mean loss of its batch trains on that, on two providers
// to the bytes of one process; another loss beside it is refused, and a class that does not count
// ends the run with a word.
func TestImportLoss(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	rows := func(file string, y state.Tensor) string {
		x := state.Tensor{Name: "x", Shape: []int{64, 8}}
		for i := range 64 * 8 {
			x.F32 = append(x.F32, float32(i*i%13)/13-0.5)
		}
		var b bytes.Buffer
		if err := safetensors.Write(&b, state.Dict{x, y}, nil); err != nil {
			t.Fatal(err)
		}
		file = filepath.Join(tmp, file)
		write(t, file, b.Bytes())
		return file
	}
	y, labels := state.Tensor{Name: "y", Shape: []int{64, 8}}, state.Tensor{Name: "y", Shape: []int{64}}
	for i := range 64 * 8 {
		y.F32 = append(y.F32, float32(i%5)/5)
	}
	for i := range 64 {
		labels.I64 = append(labels.I64, int64(i%4))
	}
	values := rows("values.safetensors", y)
	local, cut := filepath.Join(tmp, "local"), filepath.Join(tmp, "cut")
	for _, dir := range []string{local, cut} {
		s.ok("ravnest", "import", archives+"more_ownloss.pt2", dir, "--data", values, "--epochs", "3", "--lr", "0.02", "--batch-size", "16")
	}
	s.ok("ravnest", "train", "--local", local)
	s.demo("--providers", "2", "--clusters", "1", "--dir", cut)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
			t.Errorf("%s of two providers differs from that of one process", f)
		}
	}
	losses := numbers(string(read(t, local, "losses.txt")), `([0-9.e+-]+)`)
	if n := len(losses); n < 9 || !(losses[n-1] < losses[0]) {
		t.Errorf("the losses are %v", losses)
	}
	s.bad([]string{"returns the loss of its batch itself"}, "ravnest", "import", archives+"more_ownloss.pt2", filepath.Join(tmp, "mse"), "--data", values, "--loss", "mse")

	labels.I64[17] = -100
	dir := filepath.Join(tmp, "ignored")
	s.ok("ravnest", "import", archives+"more_owncrossentropy.pt2", dir, "--data", rows("classes.safetensors", labels), "--batch-size", "16")
	s.bad([]string{"the loss is NaN"}, "ravnest", "train", "--local", dir)
}

// TestImportFields: a model of three inputs and two outputs trains on named fields, in memory and
// in shards, on two and three providers to the bytes of one process; what comes out of it answers
// for both outputs.
func TestImportFields(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	file := filepath.Join(tmp, "pairs.safetensors")
	pairsFile(t, file)
	model := archives + "masked_pair.pt2"
	job := func(name string, more ...string) string {
		dir := filepath.Join(tmp, name)
		args := append([]string{"import", model, dir, "--data", file, "--input", "token_type_ids=segments", "--losses", "0=order,1=words*0.5", "--epochs", "2", "--lr", "0.01", "--batch-size", "16"}, more...)
		out, _ := s.ok("ravnest", args...)
		if want := "3 inputs: input_ids [N,6] attention_mask [N,6] token_type_ids [N,6]"; !strings.Contains(out, want) {
			t.Errorf("import does not say %q:\n%s", want, out)
		}
		return dir
	}
	for _, c := range []struct {
		name, providers string
		more            []string
	}{{"memory", "3", nil}, {"shards", "2", []string{"--shards", "0"}}} {
		local, cut := job(c.name, c.more...), job(c.name+"cut", c.more...)
		s.ok("ravnest", "train", "--local", local)
		s.demo("--providers", c.providers, "--clusters", "1", "--dir", cut)
		for _, f := range []string{"losses.txt", "metrics.csv", "trained/trained_state_dict.safetensors"} {
			if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
				t.Errorf("%s on %s providers: %s differs from that of one process", c.name, c.providers, f)
			}
		}
	}
	local := filepath.Join(tmp, "memory")
	out, _ := s.ok("ravnest", "predict", local, file, "--input", "token_type_ids=segments", "--json")
	var answer struct {
		Rows []struct {
			Output string
			Class  *int
			Others []struct {
				Output  string
				Classes []int
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Rows) != 96 || answer.Rows[0].Class == nil || answer.Rows[0].Output != "order" || len(answer.Rows[0].Others) != 1 || len(answer.Rows[0].Others[0].Classes) != 6 {
		t.Errorf("the predictions are %.300s", out)
	}
	// The exported model has both outputs again.
	onnx := filepath.Join(tmp, "pairs.onnx")
	s.ok("ravnest", "export", local, "--to", onnx)
	again := filepath.Join(tmp, "again")
	s.ok("ravnest", "import", onnx, again, "--data", file, "--input", "token_type_ids=segments", "--losses", "0=order,1=words*0.5")
	out2, _ := s.ok("ravnest", "predict", again, file, "--input", "token_type_ids=segments", "--json")
	if a, b := classesOf(t, out), classesOf(t, out2); !bytes.Equal(a, b) {
		t.Error("the exported model answers otherwise")
	}

	dir := filepath.Join(tmp, "bad")
	s.bad([]string{"token_type_ids", "--input token_type_ids=FIELD", "segments"}, "ravnest", "import", model, dir, "--data", file, "--losses", "0=order,1=words")
	s.bad([]string{`no "nothing"`}, "ravnest", "import", model, dir, "--data", file, "--input", "token_type_ids=segments", "--losses", "0=nothing,1=words")
	s.bad([]string{"there is no output 7"}, "ravnest", "import", model, "--losses", "0=order,7=words")
	s.bad([]string{"not the index of an output"}, "ravnest", "import", model, "--losses", "order")
	s.bad([]string{"NAME is one of input_ids, attention_mask, token_type_ids"}, "ravnest", "import", model, dir, "--data", file, "--input", "types=segments")
}

// classesOf are the classes of a prediction's JSON, without names and probabilities.
func classesOf(t *testing.T, out string) []byte {
	t.Helper()
	type answer struct {
		Class   *int
		Classes []int
		Others  []struct{ Classes []int }
	}
	var v struct{ Rows []answer }
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPretraining: a BERT learns hidden words and the order of sentences by LAMB, with a warm-up
// and sixteen batches an update, on two providers as in one process.
func TestPretraining(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	local, cut := filepath.Join(tmp, "local"), filepath.Join(tmp, "cut")
	for _, dir := range []string{local, cut} {
		s.ok("ravnest", "init", dir, "--example", "bert-pretrain", "--steps", "64", "--epochs", "1")
		edit(t, filepath.Join(dir, "job.json"), `"warmup": 32`, `"warmup": 2`)
	}
	s.ok("ravnest", "train", "--local", local)
	s.demo("--providers", "2", "--clusters", "1", "--dir", cut)
	for _, f := range []string{"losses.txt", "metrics.csv", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
			t.Errorf("%s differs from that of one process", f)
		}
	}
	job := string(read(t, local, "job.json"))
	for _, want := range []string{`"name": "lamb"`, `"update_frequency": 16`, `"name": "warmup_linear"`, `"target": "order"`} {
		if !strings.Contains(job, want) {
			t.Errorf("the job has no %s:\n%s", want, job)
		}
	}
	head, _, _ := strings.Cut(string(read(t, local, "metrics.csv")), "\n")
	if want := "perplexity,accuracy_order"; !strings.HasSuffix(head, want) {
		t.Errorf("the table of metrics begins with %q, want %q", head, want)
	}
}
