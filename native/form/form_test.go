package form

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/native/project"
)

// TestOrderBytes: who reads rows holds their order, 4 bytes for each; of shards that of a group.
func TestOrderBytes(t *testing.T) {
	if n := orderBytes(&data.Table{Rows: 1 << 28}); n != 1<<30 {
		t.Errorf("%d bytes", n)
	}
	x := &data.Table{Rows: 1 << 28, Index: &data.Index{Layout: data.Layout{Rows: 1 << 28, Per: 1 << 10, Group: 16}}}
	if n := orderBytes(x); n != 12*(1<<18+1<<14) {
		t.Errorf("%d bytes", n)
	}
}

// TestThreads: a pool file may say how many threads compute. Steps that are too small for several are
// then forecast on one.
func TestThreads(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "cnn", 2, nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, project.ConfigsFile)
	pool, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plan := func(more string) *project.Stored {
		if err := os.WriteFile(file, bytes.ReplaceAll(pool, []byte(`"bandwidth": 10`), []byte(`"bandwidth": 1000, "compute": 100`+more)), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := project.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Plan(p, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, eight := plan(""), plan(`, "threads": 8`)
	for k, s := range eight.Clusters[0].Stages {
		if !s.Small || one.Clusters[0].Stages[k].Small {
			t.Errorf("stage %d is small with 8 threads: %v, with one: %v", k, s.Small, one.Clusters[0].Stages[k].Small)
		}
	}
	if one.Rate < 2*eight.Rate {
		t.Errorf("%.0f samples/s are forecast where one of 8 threads computes, %.0f where all do", eight.Rate, one.Rate)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(pool, []byte(`"bandwidth": 10`), []byte(`"bandwidth": 10, "threads": -1`)), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Pool(); err == nil || !strings.Contains(err.Error(), "-1 threads") {
		t.Errorf("a pool of nodes of -1 threads: %v", err)
	}
}
