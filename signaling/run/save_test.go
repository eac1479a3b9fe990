package run

// Uploads, and what of them is a checkpoint.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

func TestCheckpointsAreAskedForByTime(t *testing.T) {
	r := started(t, func(s *Settings) { s.Checkpoint, s.Stall = 10*time.Second, time.Hour })
	asked := func() (n int) {
		for _, m := range r.sent["p0"] {
			if _, ok := m.(*proto.Checkpoint); ok {
				n++
			}
		}
		return n
	}
	r.silence(9*time.Second, "p0", "p1", "p2")
	if asked() != 0 {
		t.Error("too early")
	}
	r.silence(12*time.Second, "p0", "p1", "p2")
	if asked() != 1 {
		t.Errorf("asked %d times before the first was brought", asked())
	}
	// The upload took two seconds, so the next one is due after forty.
	r.slow = 2 * time.Second
	r.saveAt(5, 0, 1, 2)
	r.commit(nil)
	r.slow = 0
	r.silence(38*time.Second, "p0", "p1", "p2")
	if asked() != 1 {
		t.Error("uploads take more than a twentieth of the time")
	}
	r.silence(4*time.Second, "p0", "p1", "p2")
	if asked() != 2 {
		t.Errorf("asked %d times", asked())
	}
	for _, id := range []string{"p1", "p2"} {
		if _, ok := r.last(id).(*proto.Checkpoint); ok {
			t.Errorf("%s is no root and was asked", id)
		}
	}
}

func TestCheckpoints(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1)
	if _, ok := find[PutManifest](r); ok {
		t.Fatal("committed without stage 2")
	}
	r.saveAt(20, 0) // stage 0 is ahead
	r.saveAt(10, 2)
	c, ok := find[PutManifest](r)
	if !ok || c.Object != "j/manifest.json" {
		t.Fatalf("committed %+v", c)
	}
	back, err := snapshot.ParseManifest(c.Data)
	if err != nil || back.Position.Step != 10 || back.Generation != 1 || len(back.Parts) != 3 || back.Check(3) != nil {
		t.Errorf("its record: %v, %+v", err, back)
	}
	if _, ok := find[Discard](r); ok {
		t.Error("something was discarded before the record was stored")
	}
	r.commit(nil)
	if e, ok := event[Checkpointed](r); !ok || e.Manifest.Position.Step != 10 {
		t.Errorf("event %+v", e)
	}
	r.saveAt(20, 1, 2)
	r.commit(nil)
	d, ok := find[Discard](r)
	if !ok || len(d.Objects) != 3 || !strings.HasPrefix(d.Objects[0], "j-1/cluster_0/stage_0/") {
		t.Errorf("discarded %v, want the three objects of step 10", d.Objects)
	}
	// A provider is lost, and the run goes on from there.
	r.step(Leave{ID: "p0", Reason: "gone"})
	if e := r.recovering("node_0", "gone"); e.Step != 20 {
		t.Errorf("it goes on from step %d", e.Step)
	}
}

// The position in the state itself counts, not the one in the message.
func TestPositionsMustAgree(t *testing.T) {
	r := started(t, nil)
	object, perr := r.grant("p0", "j-1", 0, sumA)
	if perr != nil {
		t.Fatal(perr)
	}
	ref := proto.Ref{SHA256: sumA, Size: 1}
	r.step(Upload{ID: "p0", Run: "j-1", Object: object, Blob: ref, Position: &position{Step: 7}})
	r.step(Message{ID: "p0", Msg: &proto.Saved{Run: "j-1", Blob: ref, Position: json.RawMessage(`{"epoch":0,"batch":0,"step":8,"seq":0}`)}})
	r.recovering("step 8", "says step 7")
}

func TestUploadGrants(t *testing.T) {
	r := started(t, nil)
	tests := []struct {
		name, id, run string
		stage         int
		code          proto.Code
	}{
		{"no session", "nobody", "j-1", 1, proto.Forbidden},
		{"another's stage", "p0", "j-1", 1, proto.Forbidden},
		{"another run", "p0", "j-7", 0, proto.Stopped},
	}
	for _, tt := range tests {
		if _, err := r.grant(tt.id, tt.run, tt.stage, sumA); err == nil || err.Code != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
	if _, err := r.grant("p0", "j-1", 0, sumA); err != nil {
		t.Error(err)
	}
	if _, err := r.grant("p0", "j-1", 0, sumA); err == nil {
		t.Error("two uploads at a time")
	}
	r.step(UploadEnd{ID: "p0"})
	r.step(Message{ID: "p0", Msg: &proto.Done{Run: "j-1", Stage: 0}})
	if _, err := r.grant("p0", "j-1", 0, sumA); err == nil || err.Code != proto.Stopped {
		t.Errorf("after done: %v", err)
	}
}

func TestUploadsThatNobodyNamesDoNotPileUp(t *testing.T) {
	r := started(t, nil)
	for i := range 100 {
		object, err := r.grant("p0", "j-1", 0, fmt.Sprintf("%064x", i))
		if err != nil {
			t.Fatal(err)
		}
		r.step(Upload{ID: "p0", Run: "j-1", Object: object, Blob: proto.Ref{SHA256: fmt.Sprintf("%064x", i), Size: 1}})
		r.step(UploadEnd{ID: "p0"})
	}
	if n := len(r.l.Objects); n > maxUploads {
		t.Errorf("%d objects are kept", n)
	}
	for i := range 100 { // and steps that the others never save
		r.saveAt(int64(1000+i), 1)
	}
	if n := len(r.l.Objects); n > maxSaves+maxUploads {
		t.Errorf("%d objects are kept", n)
	}
}
