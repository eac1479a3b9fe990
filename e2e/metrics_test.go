// A run as programs see it: metrics and logs.

package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestSeen: a run's metrics can be scraped while it trains, and what host and provider say
// with --log-json is JSON to the last line.
func TestSeen(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--nodes", "1")
	host := s.start("ravnest", "serve", "--listen", "127.0.0.1:0", "--log-json", dir)
	url := host.says(`serving at (http://[^ :]+:[0-9]+):`, limit)[1]
	p := s.start("ravnest-provider", "--join", url, "--log-json", "--metrics", "0")
	own := p.says(`metrics at (http://127[^ "]+)`, limit)[1]
	s.more(dir, 20)
	get := func(url string) string {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	eventually(t, "the provider's metrics of training", limit, func() bool {
		text := get(own)
		return strings.Contains(text, `ravnest_lend_state{state="training"} 1`) && !strings.Contains(text, "\nravnest_lend_samples_total 0\n")
	})
	eventually(t, "metrics of training", limit, func() bool {
		text := get(url + "/metrics")
		return strings.Contains(text, "\nravnest_loss ") && strings.Contains(text, `ravnest_run_phase{phase="running"} 1`) && !strings.Contains(text, `ravnest_provider_samples_total{provider="node_0"} 0`)
	})
	host.stops()
	p.interrupt()
	p.wait(limit)
	s.bad([]string{`^\{.*"level":"ERROR".*cannot reach`}, "ravnest-provider", "--join", url, "--log-json", "--wait", "0s")
	for _, q := range []*proc{host, p} {
		n := 0
		for line := range strings.Lines(q.err.String()) {
			var r struct{ Time, Level, Msg, Program string }
			if err := json.Unmarshal([]byte(line), &r); err != nil || r.Time == "" || r.Level == "" || r.Msg == "" || r.Program != filepath.Base(q.cmd.Path) {
				t.Errorf("%s says %q: %v", filepath.Base(q.cmd.Path), line, err)
			}
			n++
		}
		if n < 2 {
			t.Errorf("%s says only %d lines", filepath.Base(q.cmd.Path), n)
		}
	}
}

// TestTelemetry: host and providers send their figures, and spans of what happens in a run, to the
// collector that the environment names: here a run of two replicas whose leaf is killed.
func TestTelemetry(t *testing.T) {
	posix(t)
	var mu sync.Mutex
	spans, figures := map[string]int{}, map[string]float64{} // by service and name
	faults := 0
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var m metrics.MetricsData
		var tr traces.TracesData
		if r.URL.Path == "/v1/metrics" {
			err = errors.Join(err, proto.Unmarshal(b, &m))
		} else {
			err = errors.Join(err, proto.Unmarshal(b, &tr))
		}
		if err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, x := range m.ResourceMetrics {
			for _, f := range x.ScopeMetrics[0].Metrics {
				v := f.GetGauge().GetDataPoints()
				if s := f.GetSum(); s != nil {
					v = s.DataPoints
				}
				figures[service(x.Resource)+" "+f.Name] = v[0].GetAsDouble()
			}
		}
		for _, x := range tr.ResourceSpans {
			for _, p := range x.ScopeSpans[0].Spans {
				spans[service(x.Resource)+" "+p.Name]++
				if p.Status != nil && strings.Contains(p.Status.Message, "node_1") {
					faults++
				}
			}
		}
	}))
	defer collector.Close()
	for k, v := range map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_METRIC_EXPORT_INTERVAL": "500"} {
		t.Setenv(k, v)
	}
	s := newScene(t)
	dir := s.endlessJob("--nodes", "2", "--replicas", "2")
	host, url := s.serve(dir)
	ps := s.provide(url, "node_0", "node_1")
	host.says("training", limit)
	s.saved(dir, 20)
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.provide(url, "node_1")
	host.says("training resumes", limit)
	s.more(dir, 20)
	has := func(want ...string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return !slices.ContainsFunc(want, func(w string) bool { return spans[w] == 0 && figures[w] == 0 })
		}
	}
	eventually(t, "figures and spans of a run that goes on", limit, has(
		"ravnest ravnest_loss", "ravnest ravnest_providers", "ravnest-provider ravnest_lend_samples_total",
		"ravnest attempt", "ravnest recovery", "ravnest save", "ravnest round", "ravnest-provider training"))
	host.stops()
	if !has("ravnest run")() {
		t.Error("a host that has ended has not sent the run's span")
	}
	if faults == 0 {
		t.Errorf("no span says that node_1 was lost: %v", spans)
	}
}

// service is the name that a program gives itself.
func service(r *resource.Resource) string {
	for _, a := range r.GetAttributes() {
		if a.Key == "service.name" {
			return a.Value.GetStringValue()
		}
	}
	return ""
}
