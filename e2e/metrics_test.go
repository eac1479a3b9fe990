// A run as programs see it: metrics and logs.

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
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
	host.interrupt()
	if code := host.wait(limit); code != 130 {
		t.Errorf("the host: code %d", code)
	}
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
