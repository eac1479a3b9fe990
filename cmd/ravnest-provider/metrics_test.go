package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	lent "github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/metric"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestMetrics: counters grow over attempts, and a page elsewhere cannot read them.
func TestMetrics(t *testing.T) {
	m := &meter{ram: 1 << 30}
	at, stop, err := m.listen("0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if !strings.HasPrefix(at, "http://127.0.0.1:") {
		t.Errorf("a port alone listens at %s", at)
	}
	get := func(host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", at, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
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
	has := func(line string) {
		t.Helper()
		if _, s := get("localhost"); !strings.Contains(s, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, s)
		}
	}
	train := func(samples int64) {
		m.watch(lent.Update{State: machine.Training, Peak: 5e6, Progress: proto.Progress{Samples: samples, Out: samples, FLOPs: float64(samples), Busy: 0.5}})
	}
	m.joined("node_1", lent.Bench{GEMM: 80})
	has("ravnest_lend_samples_total 0")
	train(10)
	train(64)
	has("ravnest_lend_samples_total 64")
	has(`ravnest_lend_state{state="training"} 1`)
	has("ravnest_lend_promised_bytes 5e+06")
	m.watch(lent.Update{State: machine.Waiting})
	has("ravnest_lend_samples_total 64")
	has("ravnest_lend_promised_bytes 0")
	has(`ravnest_lend_state{state="waiting"} 1`)
	train(0)
	train(20)
	has("ravnest_lend_samples_total 84")
	has("ravnest_lend_flops_total 84")
	for host, want := range map[string]int{"localhost:99": 200, "127.0.0.1": 200, "[::1]:80": 200, "rebound.example": 403, "192.0.2.1:80": 403} {
		if got, _ := get(host); got != want {
			t.Errorf("a request to %s: status %d, want %d", host, got, want)
		}
	}
	if _, _, err := m.listen(strings.TrimSuffix(strings.TrimPrefix(at, "http://"), "/metrics")); err == nil {
		t.Error("a second listener at the same address")
	}
}

// TestBoard: the example board of providers shows all that a provider tells, and nothing else.
func TestBoard(t *testing.T) {
	board, err := os.ReadFile("../../native/deploy/grafana-provider.json")
	if err != nil || !json.Valid(board) {
		t.Fatal("not a board: ", err)
	}
	var b bytes.Buffer
	new(meter).figures(metric.New(&b))
	name := regexp.MustCompile(`ravnest_lend_[a-z_]+`)
	shown, told := name.FindAllString(string(board), -1), name.FindAllString(b.String(), -1)
	for _, n := range shown {
		if !slices.Contains(told, n) {
			t.Errorf("the board shows %s, which no provider tells", n)
		}
	}
	for _, n := range told {
		if !slices.Contains(shown, n) {
			t.Errorf("the board does not show %s", n)
		}
	}
}
