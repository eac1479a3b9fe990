package server_test

// Whole runs, with a host and real clients over loopback.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

func TestWholeRun(t *testing.T) {
	st := &store.Mem{}
	s, addr := start(t, server.Config{Token: "open sesame", Store: st, Once: true})
	var ev events
	done := run(t, s, testJob(blobs{}, 3), &ev)
	var wg sync.WaitGroup
	begin := time.Now()
	var joined time.Time
	for i := range 3 {
		c := dial(t, []string{addr, "http://" + addr, "ws://" + addr + "/"}[i], client.Options{Token: "open sesame", Hello: hello("")})
		joined = time.Now()
		wg.Go(func() {
			if err := provider(t.Context(), c, 20); err != nil {
				t.Error(err)
			}
			for { // the host says bye
				if _, err := c.Recv(t.Context()); err != nil {
					if !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "the run is over") {
						t.Errorf("after the run: %v", err)
					}
					return
				}
			}
		})
	}
	await[server.Started](t, &ev)
	t.Logf("three joins in %v, last join to start %v", joined.Sub(begin), time.Since(joined))
	r := <-done
	wg.Wait()
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.Run != "digits-1" || r.Interrupted || r.Checkpoint == nil || r.Checkpoint.Position.Step != 20 {
		t.Errorf("result %+v", r.Result)
	}
	for i, stage := range r.Checkpoint.Parts {
		rc, err := st.Get(t.Context(), stage.Object)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(rc)
		if want := fmt.Sprintf("weights of stage %d after 20", i); string(b) != want || stage.Provider != fmt.Sprintf("node_%d", i) {
			t.Errorf("%s holds %q, want %q", stage.Object, b, want)
		}
	}
	rc, err := st.Get(t.Context(), "digits/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(rc)
	if saved, err := snapshot.ParseManifest(b); err != nil || saved.Position.Step != 20 || len(saved.Parts) != 3 {
		t.Errorf("manifest.json: %+v, %v", saved, err)
	}
	if rc, err := st.Get(t.Context(), "digits/job.json"); err != nil {
		t.Error(err)
	} else if b, _ := io.ReadAll(rc); !json.Valid(b) || strings.Contains(string(b), "sesame") {
		t.Errorf("job.json: %s", b)
	}
	if n := bytes.Count(st.Log("digits/metrics"), []byte("\n")); n != 3 {
		t.Errorf("%d lines of metrics, want 3", n)
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	counts := map[string]int{}
	for _, e := range ev.all {
		counts[strings.TrimPrefix(fmt.Sprintf("%T", e), "run.")]++
		if l, ok := e.(server.Loss); ok && float32(l.Loss.Loss) != float32(1)/float32(l.Step+1) {
			t.Errorf("the loss of step %d changed its bits on the way", l.Step)
		}
	}
	for name, want := range map[string]int{
		"Joined": 3, "Planned": 1, "Ready": 3, "Started": 1, "Loss": 20, "Progress": 3, "Saved": 3, "Checkpointed": 1, "StageDone": 3, "Done": 1,
	} {
		if counts[name] != want {
			t.Errorf("%d events %s, want %d", counts[name], name, want)
		}
	}
	if _, ok := ev.all[len(ev.all)-1].(server.Left); ok {
		t.Error("an event after the run's end")
	}
}

func TestProvidersStayForTheNextRun(t *testing.T) {
	s, addr := start(t, server.Config{})
	var cs []*client.Conn
	for range 2 {
		cs = append(cs, dial(t, addr, client.Options{Hello: hello("")}))
	}
	for range 2 {
		var ev events
		done := run(t, s, testJob(blobs{}, 2), &ev)
		var wg sync.WaitGroup
		for _, c := range cs {
			wg.Go(func() {
				if err := provider(t.Context(), c, 5); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if r := <-done; r.err != nil {
			t.Fatal(r.err)
		}
		if _, n := has[server.Joined](&ev); n != 2 {
			t.Errorf("%d joined events, want 2", n)
		}
	}
}

func TestGracefulStopOverTheWire(t *testing.T) {
	s, addr := start(t, server.Config{})
	var ev events
	done := run(t, s, testJob(blobs{}, 2), &ev)
	var wg sync.WaitGroup
	for range 2 {
		c := dial(t, addr, client.Options{Hello: hello("")})
		wg.Go(func() {
			if err := provider(t.Context(), c, 1<<10); err != nil {
				t.Error(err)
			}
		})
	}
	await[server.Progress](t, &ev)
	if _, err := s.Run(t.Context(), testJob(blobs{}, 2), nil); !errors.Is(err, server.ErrBusy) {
		t.Errorf("a second run: %v", err)
	}
	s.Stop("Ctrl-C")
	r := <-done
	wg.Wait()
	if r.err != nil || !r.Interrupted || r.Checkpoint == nil {
		t.Errorf("got %+v, %v", r.Result, r.err)
	}
}

// TestStopBeforeTheRun: who asks to stop while the run is still being set up is heard.
func TestStopBeforeTheRun(t *testing.T) {
	s, _ := start(t, server.Config{})
	job, stop := testJob(blobs{}, 1), make(chan string, 1)
	job.Stop = stop
	stop <- "Ctrl-C"
	if _, err := s.Run(t.Context(), job, nil); !errors.Is(err, server.ErrStopped) || !strings.Contains(err.Error(), "Ctrl-C") {
		t.Errorf("got %v, want a run that was stopped", err)
	}
}

func TestCancelledRun(t *testing.T) {
	s, addr := start(t, server.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var ev events
	done := make(chan error, 1)
	go func() {
		_, err := s.Run(ctx, testJob(blobs{}, 1), ev.on)
		done <- err
	}()
	c := dial(t, addr, client.Options{Hello: hello("")})
	stopped := make(chan error, 1)
	go func() { stopped <- provider(t.Context(), c, 1<<10) }()
	await[server.Progress](t, &ev)
	cancel()
	if err := <-done; !errors.Is(err, server.ErrStopped) {
		t.Errorf("got %v", err)
	}
	if err := <-stopped; err == nil || !strings.Contains(err.Error(), "stopped by the requester") {
		t.Errorf("the provider: %v", err)
	}
}

func TestShutdownLeavesNothing(t *testing.T) {
	leaks(t)
	s, err := server.New(server.Config{HelloTimeout: time.Hour}) // nobody waits for that
	if err != nil {
		t.Fatal(err)
	}
	ln, err := server.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	addr := ln.Addr().String()
	var ev events
	done := run(t, s, testJob(blobs{}, 3), &ev)
	a := dial(t, addr, client.Options{Hello: hello("")})
	ws := raw(t, addr) // one that never says hello
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if r := <-done; !errors.Is(r.err, server.ErrStopped) {
		t.Errorf("the run: %v", r.err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	_, err = a.Recv(t.Context())
	for err == nil {
		_, err = a.Recv(t.Context())
	}
	if !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the provider: %v", err)
	}
	if _, err := s.Run(t.Context(), testJob(blobs{}, 1), nil); !errors.Is(err, server.ErrStopped) {
		t.Errorf("a run afterwards: %v", err)
	}
	_ = ws.CloseNow()
}

// BenchmarkJoinToStart measures the time from the last join to the start with providers that
// answer at once: the delay that the host itself adds.
func BenchmarkJoinToStart(b *testing.B) {
	for b.Loop() {
		s, err := server.New(server.Config{Once: true})
		if err != nil {
			b.Fatal(err)
		}
		ln, err := server.Listen("127.0.0.1:0", "")
		if err != nil {
			b.Fatal(err)
		}
		go s.Serve(ln)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Run(b.Context(), testJob(blobs{}, 3), nil); err != nil {
				b.Error(err)
			}
		})
		for range 3 {
			c, err := client.Dial(b.Context(), ln.Addr().String(), client.Options{Hello: hello("")})
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				if err := provider(b.Context(), c, 1); err != nil {
					b.Error(err)
				}
				c.Close("")
			})
		}
		wg.Wait()
		if err := s.Shutdown(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
