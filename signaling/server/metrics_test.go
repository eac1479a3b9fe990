package server

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

var sample = regexp.MustCompile(`^([a-z_]+)(\{(?:[a-z]+="(?:[^"\\]|\\["\\n])*",?)*\})? (\S+)$`)

// TestMetrics reads /metrics as a scraper does: samples of a name together, behind its one
// type, none twice, all of them numbers; and only with the token.
func TestMetrics(t *testing.T) {
	s, err := New(Config{Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	for range 2 {
		c, err := client.Dial(t.Context(), web.URL, client.Options{Token: "secret", Hello: proto.Hello{
			Agent: `a "quoted" \ agent`, Platform: "p", Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1, Bench: proto.Bench{GEMM: 12.5},
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close("")
	}
	get := func(token string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", web.URL+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, _ := get("wrong"); code != http.StatusUnauthorized {
		t.Errorf("without the token: %d", code)
	}
	code, text := get("secret")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, text)
	}
	typ, last := map[string]bool{}, ""
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			if typ[name] {
				t.Errorf("%s has its type twice", name)
			}
			typ[name], last = true, name
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("%q is no sample", line)
			continue
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if _, twice := values[m[1]+m[2]]; err != nil || m[1] != last || twice {
			t.Errorf("%q: %v, behind %s, twice: %v", line, err, last, twice)
		}
		values[m[1]+m[2]] = v
	}
	for name, want := range map[string]float64{
		"ravnest_providers": 2, `ravnest_run_phase{phase="idle"}`: 1, `ravnest_run_phase{phase="running"}`: 0,
		`ravnest_provider_gemm_gflops{provider="node_0"}`: 12.5, `ravnest_provider_lent_bytes{provider="node_1"}`: 1 << 30,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	if !strings.Contains(text, `agent="a \"quoted\" \\ agent"`) {
		t.Error("a label is not escaped")
	}
}
