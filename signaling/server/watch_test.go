package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// A dashboard that connects late gets everything; one that stays connected gets news when it
// happens, including the last before the host ends.
func TestWatch(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.watchEvery = time.Hour // whatever comes is news
	host := httptest.NewServer(s.Handler())
	defer host.Close()
	ask := func(query string) *http.Response {
		t.Helper()
		r, err := host.Client().Get(host.URL + proto.WatchPath + query)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Body.Close() })
		return r
	}
	happen := func(n int) {
		s.call(func(now time.Time) {
			for range n {
				s.past.take(now, Started{Run: "r"})
			}
		})
	}
	// notes reads lines until there are notes in one.
	notes := func(d *json.Decoder) []Note {
		t.Helper()
		for {
			var v View
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if v.History.Losses == nil || v.History.Vals == nil || v.History.Notes == nil || v.Status.Members == nil {
				t.Fatalf("a View with nulls: %+v", v)
			}
			if len(v.History.Notes) > 0 {
				return v.History.Notes
			}
		}
	}

	early := json.NewDecoder(ask("").Body)
	happen(3)
	told := notes(early)
	late := json.NewDecoder(ask("").Body)
	if n := notes(late); len(told) != 3 || len(n) != 3 || told[2] != n[2] {
		t.Fatalf("early %+v, late %+v", told, n)
	}
	if n := notes(json.NewDecoder(ask(fmt.Sprintf("?after=%d", told[1].At)).Body)); len(n) != 1 || n[0] != told[2] {
		t.Errorf("after the second of three: %+v", n)
	}
	if r := ask("?after=x"); r.StatusCode != http.StatusBadRequest {
		t.Errorf("after nothing: %s", r.Status)
	}
	happen(1)
	if n := notes(early); len(n) != 1 || n[0].At <= told[2].At {
		t.Errorf("then: %+v", n)
	}
	notes(late)
	// Events right before the end are delivered.
	happen(1)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*json.Decoder{early, late} {
		if n := notes(d); len(n) != 1 {
			t.Errorf("at the end: %+v", n)
		}
		if err := d.Decode(&View{}); err != io.EOF {
			t.Errorf("behind the end: %v", err)
		}
	}
	if r := ask(""); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("of a host that has ended: %s", r.Status)
	}
}
