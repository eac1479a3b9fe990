package main

// What this provider does, for Prometheus: GET /metrics at the address of --metrics. The owner
// of the machine asks for it, so it listens on loopback unless told otherwise.

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	lent "github.com/ravnest/ravnest/engine/provider"
	lender "github.com/ravnest/ravnest/engine/provider/lend"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/metric"
)

// meter keeps the newest figures. Those of an attempt begin at zero; the meter's only grow.
type meter struct {
	mu     sync.Mutex
	name   string
	bench  lent.Bench
	ram    int64
	state  machine.State
	last   lent.Update // with an attempt's progress
	before totals      // of earlier attempts
	joins  int
}

// totals are counters of an attempt, or of several.
type totals struct{ samples, out, in, flops float64 }

func (t *totals) add(u *lent.Update) {
	p := &u.Progress
	t.samples += float64(p.Samples)
	t.out += float64(p.Out)
	t.in += float64(p.In)
	t.flops += p.FLOPs
}

func (m *meter) joined(name string, b lent.Bench) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.name, m.bench = name, b
	m.joins++
}

// watch takes a status of the provider. A progress that fell behind is a new attempt's.
func (m *meter) watch(u lent.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = u.State
	if u.State != machine.Training {
		return
	}
	if u.Progress.Samples < m.last.Progress.Samples || u.Progress.FLOPs < m.last.Progress.FLOPs {
		m.before.add(&m.last)
	}
	m.last = u
}

// states are those in which a provider can be.
var states = []machine.State{
	machine.Seeking, machine.Waiting, machine.Fetching, machine.Connecting, machine.Training, machine.Leaving, lender.Benchmarking, lender.Resting,
}

func (m *meter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", metric.ContentType)
	w.Header().Set("Cache-Control", "no-store")
	m.figures(metric.New(w))
}

// figures hands the newest to a sink.
func (m *meter) figures(e metric.Sink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Gauge("ravnest_lend_info", "This provider; always 1.", 1, "name", m.name, "version", version)
	for _, s := range states {
		e.Gauge("ravnest_lend_state", "1 for the state of this provider, else 0.", metric.Bool(s == m.state), "state", string(s))
	}
	e.Gauge("ravnest_lend_lent_bytes", "Memory that it lends.", float64(m.ram))
	e.Gauge("ravnest_lend_gemm_gflops", "Its measured speed.", m.bench.GEMM)
	e.Counter("ravnest_lend_joins_total", "How often it has joined a host, or got another name there.", float64(m.joins))
	training := m.state == machine.Training
	u := m.last
	if !training {
		u.Progress.Busy, u.Peak = 0, 0
	}
	e.Gauge("ravnest_lend_busy_ratio", "Share of the time spent computing, 0 to 1.", u.Progress.Busy)
	e.Gauge("ravnest_lend_promised_bytes", "The most memory that its stage needs; 0: it has none.", float64(u.Peak))
	e.Gauge("ravnest_lend_resident_bytes", "Memory of this process, when it last trained.", float64(u.Progress.RSS))
	sum := m.before
	sum.add(&m.last)
	e.Counter("ravnest_lend_samples_total", "Samples it has trained on.", sum.samples)
	e.Counter("ravnest_lend_sent_bytes_total", "Bytes sent to other providers.", sum.out)
	e.Counter("ravnest_lend_received_bytes_total", "Bytes received from them.", sum.in)
	e.Counter("ravnest_lend_flops_total", "Floating-point operations.", sum.flops)
}

// listen serves the meter at an address, a port alone being loopback's, until stop is called.
func (m *meter) listen(address string) (at string, stop func(), err error) {
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("--metrics %s: %w: give a free port, or an address of this machine with one", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m)
	srv := &http.Server{
		Handler: sameMachine(ln.Addr(), mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // until it is closed
	}()
	return "http://" + ln.Addr().String() + "/metrics", func() {
		_ = srv.Close()
		<-done
	}, nil
}

// sameMachine refuses requests to a loopback listener that name another host: a page whose name
// was made to point here would send them.
func sameMachine(at net.Addr, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		own := strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
		if tcp, ok := at.(*net.TCPAddr); ok && tcp.IP.IsLoopback() && !own {
			http.Error(w, "these metrics are for this machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
