package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// record is the contents of a rounds.json.
type record struct {
	Version int `json:"version"`
	Periods []struct {
		Step     int `json:"step"`
		Replicas int `json:"replicas"`
	} `json:"periods"`
}

func readRecord(t testing.TB, dir string) (r record) {
	t.Helper()
	if err := json.Unmarshal(read(t, dir, "rounds.json"), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAuto: with replicas auto the host begins with the providers that are there, goes on with
// more when more come, with fewer when one is killed, and, started again, with what it was; one
// process that is given the record has the same losses and trained bytes.
func TestAuto(t *testing.T) {
	posix(t)
	s := newScene(t)
	flags := []string{"--epochs", endless, "--replicas", "auto", "--reduce-factor", "2"}
	dir := filepath.Join(t.TempDir(), "served")
	s.ok("ravnest", append(append([]string{"init"}, flags...), dir)...)
	host, url := s.serve("--providers", "2", "--clusters", "2", dir)
	ps := s.provide(url, "node_0", "node_1")
	host.says("replicas auto: 2 from step 0 on", limit)
	host.says("training", limit)
	s.provide(url, "node_2", "node_3")
	host.says(`\d more providers? (is|are) here: the run goes on from step \d+`, limit) // both, or one after the other
	host.says(`replicas auto: 4 from step \d+ on`, limit)
	host.says(`training resumes from step \d+, \d+\.\d s later`, limit)
	s.more(dir, 200) // so that what 4 replicas did is most likely held somewhere when one is lost
	out, _ := s.ok("ravnest", "status", url)
	if !regexp.MustCompile(`replicas: 2 from step 0 on,.* 4 from step`).MatchString(out) || !strings.Contains(out, "of 4 replicas") {
		t.Errorf("status does not tell how many replicas there are:\n%s", out)
	}
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says(`node_1.*the run goes on from step \d+`, limit)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	host.stops()
	before := readRecord(t, dir)
	// Where no state of the 4 replicas was complete, the run goes on from before there were 4.
	if n := len(before.Periods); n < 2 || before.Periods[n-1].Replicas >= 4 {
		t.Errorf("the record is %+v", before)
	}

	// Another host goes on with the record.
	host, url = s.serve("--providers", "2", "--clusters", "2", dir)
	s.provide(url, "node_0", "node_1")
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.endsAs(host, dir, func(local string, steps ...string) {
		s.ok("ravnest", append(append(append([]string{"init"}, flags...), steps...), local)...)
	}, "--rounds", filepath.Join(dir, "rounds.json"))
	if after := readRecord(t, dir); len(after.Periods) <= len(before.Periods) && before.Periods[len(before.Periods)-1].Replicas != 2 {
		t.Errorf("the record is %+v, it was %+v", after, before)
	}
}

// TestBadRecords: a record that is torn, of another run or without a use is refused, and says why.
func TestBadRecords(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	auto, fixed := filepath.Join(tmp, "auto"), filepath.Join(tmp, "fixed")
	s.ok("ravnest", "init", "--replicas", "auto", "--reduce-factor", "2", "--epochs", "2", auto)
	s.ok("ravnest", "init", "--replicas", "2", "--epochs", "1", fixed)
	file := filepath.Join(tmp, "rounds.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		`{"version": 1, "periods": [{"step": 0, "repl`:                                                           "not a record of this job's replicas",
		`{"version": 2, "periods": [{"step": 0, "replicas": 2}]}`:                                                "version 2, this program reads version 1",
		`{"version": 1, "periods": []}`:                                                                          "it has no periods",
		`{"version": 1, "periods": [{"step": 4, "replicas": 2}]}`:                                                "nothing says how many replicas there are before step 4",
		`{"version": 1, "periods": [{"step": 0, "replicas": 2}, {"step": 5, "replicas": 3}]}`:                    "changes at step 5, inside a round of 4 batches",
		`{"version": 1, "periods": [{"step": 0, "replicas": 2}, {"step": 4000, "replicas": 3}]}`:                 "changes at step 4000 of a run of 34",
		`{"version": 1, "periods": [{"step": 0, "replicas": 65}]}`:                                               "65 replicas from step 0 on, want 1 to 64",
		`{"version": 1, "periods": [{"step": 0, "replicas": 2, "clusters": 1}]}`:                                 "clusters",
		`{"version": 1, "periods": [{"step": 0, "replicas": 2}, {"step": 1e99, "replicas": 3}]}`:                 "not a record",
		`{"version": 1, "periods": [{"step": 0, "replicas": 2}, {"step": 18446744073709551615, "replicas": 3}]}`: "of a run of 34",
	} {
		write(text)
		s.bad([]string{want}, "ravnest", "train", "--local", "--rounds", file, auto)
	}
	write(`{"version": 1, "periods": [{"step": 0, "replicas": 2}]}`)
	s.bad([]string{"this one has 2 of them, and needs none"}, "ravnest", "train", "--local", "--rounds", file, fixed)
	s.bad([]string{"missing.json"}, "ravnest", "train", "--local", "--rounds", filepath.Join(tmp, "missing.json"), auto)
	s.bad([]string{`want a number from 1 to 64, or auto`}, "ravnest", "init", "--replicas", "many", filepath.Join(tmp, "many"))
	s.bad([]string{`want a number from 1 to 64, or auto`}, "ravnest", "init", "--replicas", "0", filepath.Join(tmp, "many"))
	edit(t, filepath.Join(fixed, "job.json"), `"replicas": 2`, `"replicas": "some"`)
	s.bad([]string{`replicas "some": want a number from 1 to 64, or "auto"`}, "ravnest", "train", "--local", fixed)
	if _, err := os.Stat(filepath.Join(auto, "losses.txt")); err == nil {
		t.Error("something was trained by a bad record")
	}
	// Without a record one process trains one replica, and says so.
	_, stderr := s.ok("ravnest", "train", "--local", auto)
	if !strings.Contains(stderr, "one process trains one replica") {
		t.Errorf("a run without a record does not say what it trains:\n%s", stderr)
	}
	if r := readRecord(t, auto); len(r.Periods) != 1 || r.Periods[0].Replicas != 1 {
		t.Errorf("the record is %+v", r)
	}
}
