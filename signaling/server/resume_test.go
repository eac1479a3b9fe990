package server_test

// What a host finds in a store that has lost something.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// checkpointed is a store with a checkpoint of one part, and the record of the job's third
// attempt.
func checkpointed(t *testing.T) (st *store.Mem, c *snapshot.Manifest) {
	t.Helper()
	st = &store.Mem{}
	part := strings.Repeat("state", 100)
	sum := sha256.Sum256([]byte(part))
	c = &snapshot.Manifest{
		Version: snapshot.Version, Run: "j-2", Generation: 2, Position: order.Position{Step: 7, Batch: 7, Seq: 7},
		Parts: []snapshot.Entry{{
			Segment: snapshot.Segment{To: 3}, Object: "j-2/cluster_0/stage_0/part", SHA256: hex.EncodeToString(sum[:]),
			Size: int64(len(part)), Holds: []string{snapshot.Weights},
		}},
	}
	b, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	put(t, st, "j-2/cluster_0/stage_0/part", part)
	put(t, st, machine.ManifestObject("j"), string(b))
	put(t, st, "j/job.json", `{"run": "j-3", "job": {"a": 1}}`)
	return st, c
}

func put(t *testing.T, st *store.Mem, name, text string) {
	t.Helper()
	if err := st.Put(context.Background(), name, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

// TestEarlierWithoutState: where the run's state cannot be read, its record tells the attempt and
// the manifest the rest; that of another job does not.
func TestEarlierWithoutState(t *testing.T) {
	for record, want := range map[string]int{
		`{"run": "j-3", "job": {"a": 1}}`:  3,
		`{"run": "j-3", "job": {"a": 2}}`:  0,
		`{"run": "j-x", "job": {"a": 1}}`:  0,
		`{"run": "j--3", "job": {"a": 1}}`: 0,
		`{"run": "j-3", "jo`:               0,
	} {
		st, c := checkpointed(t)
		put(t, st, machine.StateObject("j"), `{"Version": 1, "Memb`)
		put(t, st, "j/job.json", record)
		e, err := server.Earlier(t.Context(), st, "j", json.RawMessage(`{"a": 1}`))
		switch {
		case want == 0 && err == nil:
			t.Errorf("%s: no error", record)
		case want > 0 && (err != nil || e.Attempt != want || e.Checkpoint.Position != c.Position):
			t.Errorf("%s: %+v, %v", record, e, err)
		}
	}
}

// TestIntact: a part that is gone, cut off or changed is found.
func TestIntact(t *testing.T) {
	st, c := checkpointed(t)
	if err := server.Intact(t.Context(), st, c); err != nil {
		t.Error(err)
	}
	whole := strings.Repeat("state", 100)
	for name, text := range map[string]string{"cut off": whole[:77], "longer": whole + "x", "changed": "S" + whole[1:], "empty": ""} {
		put(t, st, c.Parts[0].Object, text)
		if err := server.Intact(t.Context(), st, c); !errors.Is(err, snapshot.ErrFormat) || !strings.Contains(err.Error(), c.Parts[0].Object) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := st.Delete(t.Context(), c.Parts[0].Object); err != nil {
		t.Fatal(err)
	}
	if err := server.Intact(t.Context(), st, c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
}
