package server

// The status as figures, for GET /metrics (Prometheus' text format) and other takers.

import (
	"net/http"
	"strconv"

	"github.com/ravnest/ravnest/signaling/metric"
)

// metrics answers GET /metrics.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", metric.ContentType)
	w.Header().Set("Cache-Control", "no-store")
	s.Figures(s.Status(), metric.New(w))
}

// Figures hands a status to a sink. Counters of a provider begin anew with every attempt.
func (s *Server) Figures(st Status, e metric.Sink) {
	e.Gauge("ravnest_run_info", "The run; always 1.", 1, "run", st.Run, "job", st.Job)
	for _, phase := range []string{"idle", "gathering", "planning", "connecting", "running", "draining"} {
		e.Gauge("ravnest_run_phase", "1 for the phase of the run, else 0.", metric.Bool(st.Phase == phase), "phase", phase)
	}
	e.Gauge("ravnest_run_running_seconds", "How long the run has been training.", float64(st.RunningMS)/1e3)
	e.Gauge("ravnest_providers", "Providers that have joined.", float64(len(st.Members)))
	e.Gauge("ravnest_providers_wanted", "Providers that the run waits for.", float64(st.Want))
	e.Gauge("ravnest_forecast_samples_per_second", "What the planner expects of all clusters; 0: not known.", st.Forecast)
	if st.Loss != nil {
		e.Gauge("ravnest_loss", "Loss of the last batch.", float64(st.Loss.Loss))
		e.Gauge("ravnest_step", "Step of that batch.", float64(st.Loss.Step))
		e.Gauge("ravnest_epoch", "Its epoch.", float64(st.Loss.Epoch))
	}
	if st.Val != nil {
		e.Gauge("ravnest_val_loss", "Loss of the last validation.", float64(st.Val.Loss))
		if st.Val.Total > 0 {
			e.Gauge("ravnest_val_accuracy", "Share of right answers in the last validation, 0 to 1.", float64(st.Val.Correct)/float64(st.Val.Total))
		}
	}
	if st.Checkpoint != nil {
		e.Gauge("ravnest_checkpoint_step", "Step of the newest checkpoint.", float64(st.Checkpoint.Step))
	}
	e.Counter("ravnest_refused_requests_total", "Requests refused since their address had used up its share, or a member what it may fetch.", float64(s.guests.turnedAway()))
	s.providerMetrics(e, st)
	if r := s.Relayed(); r != nil {
		e.Gauge("ravnest_relay_allocations", "Allocations of the relay.", float64(r.Allocations))
		e.Counter("ravnest_relay_bytes_total", "Bytes that the relay has forwarded.", float64(r.Bytes))
		e.Counter("ravnest_relay_packets_total", "Packets that it has forwarded.", float64(r.Packets))
		e.Counter("ravnest_relay_dropped_packets_total", "Packets that it has dropped: over a quota, or to nobody.", float64(r.Dropped))
	}
}

func (s *Server) providerMetrics(e metric.Sink, st Status) {
	// All samples of a name stand together.
	each := func(f func(l []string, m int)) {
		for i, m := range st.Members {
			f([]string{"provider", m.Name}, i)
		}
	}
	each(func(l []string, i int) {
		m := st.Members[i]
		e.Gauge("ravnest_provider_info", "A provider; always 1.", 1, append(l, "platform", m.Platform, "agent", m.Agent, "state", m.State, "cluster", strconv.Itoa(m.Cluster), "stage", strconv.Itoa(m.Stage))...)
	})
	for _, g := range []struct {
		name, help string
		value      func(i int) float64
	}{
		{"ravnest_provider_rtt_seconds", "Round trip from the host.", func(i int) float64 { return float64(st.Members[i].RTT) / 1e6 }},
		{"ravnest_provider_busy_ratio", "Share of the time spent computing, 0 to 1.", func(i int) float64 { return st.Members[i].Busy }},
		{"ravnest_provider_resident_bytes", "Memory of the provider's process.", func(i int) float64 { return float64(st.Members[i].RSS) }},
		{"ravnest_provider_lent_bytes", "Memory that it lends.", func(i int) float64 { return float64(st.Members[i].RAM) }},
		{"ravnest_provider_gemm_gflops", "Its measured speed.", func(i int) float64 { return st.Members[i].Bench.GEMM }},
	} {
		each(func(l []string, i int) { e.Gauge(g.name, g.help, g.value(i), l...) })
	}
	for _, c := range []struct {
		name, help string
		value      func(i int) float64
	}{
		{"ravnest_provider_samples_total", "Samples it has trained on since its attempt began.", func(i int) float64 { return float64(st.Members[i].Samples) }},
		{"ravnest_provider_sent_bytes_total", "Bytes sent to other providers, likewise.", func(i int) float64 { return float64(st.Members[i].Out) }},
		{"ravnest_provider_received_bytes_total", "Bytes received from them.", func(i int) float64 { return float64(st.Members[i].In) }},
		{"ravnest_provider_flops_total", "Floating-point operations.", func(i int) float64 { return st.Members[i].FLOPs }},
	} {
		each(func(l []string, i int) { e.Counter(c.name, c.help, c.value(i), l...) })
	}
}
