package server

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

func TestBucket(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	b := newBucket(t0, 10, 20)
	for range 20 {
		if !b.take(t0, 1) {
			t.Fatal("the burst is not there")
		}
	}
	if b.take(t0, 1) {
		t.Error("more than the burst")
	}
	if !b.take(t0.Add(100*time.Millisecond), 1) || b.take(t0.Add(100*time.Millisecond), 1) {
		t.Error("the rate is not 10 a second")
	}
	if b.take(t0.Add(time.Hour), 21) {
		t.Error("it fills over its burst")
	}
	if c := proto.Cost(proto.MaxMessage); c != 257 {
		t.Errorf("a full message costs %g", c)
	}
}

func TestCheckJob(t *testing.T) {
	plan := func(context.Context, Ask) ([]Assignment, error) { return nil, nil }
	if err := checkJob(&Job{Job: run.Job{Raw: json.RawMessage(`{}`)}}); err == nil {
		t.Error("no plan: accepted")
	}
	if err := checkJob(&Job{Job: run.Job{Raw: json.RawMessage(`{}`)}, Plan: plan}); err != nil {
		t.Errorf("the least that a job can say: %v", err)
	}
	for name, j := range map[string]run.Job{
		"raw":         {Raw: json.RawMessage(`{`)},
		"id":          {ID: "../x", Raw: json.RawMessage(`{}`)},
		"long id":     {ID: strings.Repeat("x", 60), Raw: json.RawMessage(`{}`)},
		"names":       {Names: []string{"a", "a"}, Raw: json.RawMessage(`{}`)},
		"name":        {Names: []string{"a b"}, Raw: json.RawMessage(`{}`)},
		"want":        {Names: []string{"a"}, Want: 2, Raw: json.RawMessage(`{}`)},
		"negative":    {Want: -1, Raw: json.RawMessage(`{}`)},
		"no raw form": {},
	} {
		if err := checkJob(&Job{Job: j, Plan: plan}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
