package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/simulate"
)

func TestFlagsFirst(t *testing.T) {
	for in, want := range map[string]string{
		"ravnest":                               "ravnest",
		"ravnest serve dir":                     "ravnest serve dir",
		"ravnest serve dir --listen a:1 --json": "ravnest serve --listen a:1 --json dir",
		"ravnest serve --json dir --token=x":    "ravnest serve --json --token=x dir",
		"ravnest train dir --local":             "ravnest train --local dir",
		"ravnest fuse dir -cluster 1":           "ravnest fuse -cluster 1 dir",
		"ravnest fuse -- --cluster":             "ravnest fuse -- --cluster",
		"ravnest --version":                     "ravnest --version",
		"ravnest frobnicate a --b":              "ravnest frobnicate a --b",
	} {
		if got := flagsFirst(app(), strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: got %v, want %s", in, got, want)
		}
	}
}

// TestWrongFlags: flags that are wrong, or mean nothing, are told as they are written, and nothing is
// done.
func TestWrongFlags(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job")
	for in, want := range map[string]string{
		"init --epochs x":         `invalid value "x" for flag --epochs`,
		"init --replicas x":       "for flag --replicas",
		"init --nosuch":           "unknown flag --nosuch",
		"init --seed":             "--seed needs a value",
		"init --target y":         "--target says how data are read: name them with --data PATH",
		"init --val 0.5 --size 8": "name them with --data PATH",
	} {
		a := app()
		a.Writer = io.Discard
		args := append([]string{"ravnest"}, strings.Fields(in)...)
		if !strings.HasSuffix(in, "--seed") {
			args = append(args, dir)
		}
		err := a.RunContext(t.Context(), args)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "---") {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Fatalf("%s made a job", in)
		}
	}
}

// said is what a command prints.
func said(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	a := app()
	a.Writer = &out
	err := a.RunContext(t.Context(), append([]string{"ravnest"}, args...))
	return out.String(), err
}

// TestPlainResults: what others call things does not move the terminal's cursor, and is as it is in
// JSON.
func TestPlainResults(t *testing.T) {
	const name = "\x1b[2Jnode\u202e"
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(server.Status{Phase: "training", Job: name, Members: []run.MemberStatus{{Name: name}}})
	}))
	defer host.Close()
	out, err := said(t, "status", host.URL)
	if err != nil || strings.ContainsAny(out, "\x1b\u202e") || strings.Count(out, "[2Jnode") != 2 {
		t.Errorf("%q, %v", out, err)
	}
	out, err = said(t, "status", "--json", host.URL)
	var s server.Status
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil || s.Job != name {
		t.Errorf("%q, %v", out, err)
	}
}

// TestStatusBeside: the shards of a job that is being trained stay as they are, though its data have
// changed, when somebody asks how far it is.
func TestStatusBeside(t *testing.T) {
	tmp := t.TempDir()
	dir, table := filepath.Join(tmp, "job"), "a,b,y\n"+strings.Repeat("1,2,0\n3,1,1\n", 40)
	if err := os.WriteFile(filepath.Join(tmp, "t.csv"), []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := said(t, "init", "--data", filepath.Join(tmp, "t.csv"), dir); err != nil {
		t.Fatal(err)
	}
	job, err := os.ReadFile(filepath.Join(dir, "job.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "job.json"), bytes.Replace(job, []byte("{"), []byte(`{"shards": {"bytes": 128},`), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := said(t, "status", dir); err != nil { // makes the shards, since nobody else is there
		t.Fatal(err)
	}
	index := filepath.Join(dir, "node_data", "shards", "index.json")
	before, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	changed := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "data.safetensors"), changed, changed); err != nil {
		t.Fatal(err)
	}
	unlock, err := project.Lock(dir, "ravnest serve")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"status", "eval"} {
		if _, err := said(t, command, dir); !errors.Is(err, native.ErrLocked) || !strings.Contains(err.Error(), "have changed since") {
			t.Errorf("%s: %v", command, err)
		}
		if now, err := os.ReadFile(index); err != nil || !bytes.Equal(now, before) {
			t.Fatalf("%s changed the shards: %v", command, err)
		}
	}
	unlock()
	if _, err := said(t, "status", dir); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(index); err != nil || bytes.Equal(now, before) {
		t.Errorf("the shards are still those of the older data: %v", err)
	}
}

// TestInitTexts: folders of classes of texts are a job without further flags, and what is missing is
// named.
func TestInitTexts(t *testing.T) {
	const tokenizer = "../../engine/format/tokenizer/testdata/bert.json"
	tmp := t.TempDir()
	for _, class := range []string{"good", "bad"} {
		for _, name := range []string{"1.txt", "2.txt", "3.txt"} {
			path := filepath.Join(tmp, "texts", class, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("the quick "+class+" fox "+name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	data := filepath.Join(tmp, "texts")
	if _, err := said(t, "init", "--data", data, "--tokenizer", "nosuch.json", filepath.Join(tmp, "none")); err == nil || !strings.Contains(err.Error(), "no tokenizer at nosuch.json") {
		t.Error(err)
	}
	if out, err := said(t, "init", "--data", data, "--tokenizer", tokenizer, filepath.Join(tmp, "job")); err != nil || !strings.Contains(out, "job.json") {
		t.Fatal(out, err)
	}
	p, err := project.OpenModel(filepath.Join(tmp, "job"))
	if err != nil || !slices.Equal(p.Graph.Inputs[0].Shape, []int{128}) {
		t.Errorf("%v, %v", p, err)
	}
}

// TestWithdraw: the command tells what it has done.
func TestWithdraw(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "job.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--json"}} {
		var made struct{ ID string }
		out, err := said(t, "members", "--json", dir, "invite")
		if err == nil {
			err = json.Unmarshal([]byte(out), &made)
		}
		if err != nil {
			t.Fatal(out, err)
		}
		out, err = said(t, append(append([]string{"members"}, flags...), dir, "withdraw", made.ID[:12])...)
		if err != nil || !strings.Contains(out, made.ID[:12]) || (len(flags) > 0) != json.Valid([]byte(out)) {
			t.Errorf("%q, %v", out, err)
		}
	}
}

// TestSimulate runs the command as a user does.
func TestSimulate(t *testing.T) {
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		a := app()
		a.Writer = &out
		err := a.RunContext(t.Context(), append([]string{"ravnest", "simulate"}, args...))
		return out.String(), err
	}
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	small := []string{"--providers", "20", "--hours", "0.5", "--session", "0.2", "--seed", "5"}
	first, err := run(append(small, "--json", "--trace", trace)...)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Steps, Joined int
		Exact         bool
	}
	if err := json.Unmarshal([]byte(first), &r); err != nil || !r.Exact || r.Steps == 0 || r.Joined <= 20 {
		t.Errorf("%v: %s", err, first)
	}
	if again, err := run(append(small, "--json")...); err != nil || again != first {
		t.Errorf("the same seed gives another result (%v):\n%s%s", err, first, again)
	}
	if text, err := run(small...); err != nil || !strings.Contains(text, "the weights are those of an undisturbed run") {
		t.Errorf("%v: %s", err, text)
	}
	if text, err := run("--providers", "3", "--hours", "0.0001"); err == nil || !strings.Contains(text, "the run failed") || !strings.Contains(err.Error(), "the simulated run failed") {
		t.Errorf("%v: %s", err, text)
	}
	if b, err := os.ReadFile(trace); err != nil || bytes.Count(b, []byte{'\n'}) < 100 {
		t.Errorf("the trace has %d bytes: %v", len(b), err)
	}
	if fault(simulate.Result{Exact: true}) != nil || fault(simulate.Result{}) != nil || fault(simulate.Result{Steps: 1}) == nil || fault(simulate.Result{Exact: true, Error: "nobody came"}) == nil {
		t.Error("a run that failed ends as one that did not, or the reverse")
	}
	for _, bad := range [][]string{{"--hours", "-1"}, {"--providers", "0"}, {"--session", "-2"}, {"dir"}} {
		if _, err := run(bad...); err == nil {
			t.Errorf("simulate %v is accepted", bad)
		}
	}
}
