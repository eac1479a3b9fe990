package server

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
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
	if c := cost(1 << 20); c != 257 {
		t.Errorf("a full message costs %g", c)
	}
}

func TestCheckJob(t *testing.T) {
	plan := func(context.Context, []Member, bool) ([]Assignment, error) { return nil, nil }
	for name, j := range map[string]Job{
		"no plan":     {Raw: json.RawMessage(`{}`)},
		"raw":         {Raw: json.RawMessage(`{`), Plan: plan},
		"id":          {ID: "../x", Raw: json.RawMessage(`{}`), Plan: plan},
		"long id":     {ID: strings.Repeat("x", 60), Raw: json.RawMessage(`{}`), Plan: plan},
		"names":       {Names: []string{"a", "a"}, Raw: json.RawMessage(`{}`), Plan: plan},
		"name":        {Names: []string{"a b"}, Raw: json.RawMessage(`{}`), Plan: plan},
		"want":        {Names: []string{"a"}, Want: 2, Raw: json.RawMessage(`{}`), Plan: plan},
		"negative":    {Want: -1, Raw: json.RawMessage(`{}`), Plan: plan},
		"no raw form": {Plan: plan},
	} {
		if err := checkJob(&j); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
