// Package otlp sends figures and spans to a collector by OpenTelemetry's protocol: OTLP 1.x over
// HTTP, as protobuf. Where is said by the standard environment (OTEL_EXPORTER_OTLP_ENDPOINT and
// others); without it nothing is sent. The messages are written field by field, as OpenTelemetry's
// own SDK would make each program 9 MB larger.
package otlp

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ravnest/ravnest/signaling/metric"
)

const (
	// spansEvery is how long a span waits at most, as in OpenTelemetry's SDKs.
	spansEvery = 5 * time.Second
	// maxSpans may wait; more are dropped, as when the collector is away for long.
	maxSpans = 2048
)

// Trace and ID name a trace and a span in it.
type (
	Trace [16]byte
	ID    [8]byte
)

// NewTrace and NewID return random names.
func NewTrace() (t Trace) { _, _ = rand.Read(t[:]); return t }

// NewID returns a random name of a span.
func NewID() (i ID) { _, _ = rand.Read(i[:]); return i }

// Span is something that has happened and took its time.
type Span struct {
	Trace      Trace
	ID, Parent ID // a zero Parent: none
	Name       string
	Start, End time.Time
	Attributes map[string]any // string, bool, int64 or float64
	Fault      string         // why it failed; "": it did not
}

// Exporter sends in the background. A nil one does nothing.
type Exporter struct {
	cfg   settings
	say   func(format string, a ...any)
	began time.Time
	http  *http.Client

	mu      sync.Mutex
	spans   []Span
	collect func(metric.Sink)
	sums    map[string]*sum // by name and labels

	failing bool // of the loop
	stop    chan struct{}
	done    chan struct{}
}

// sum is a counter's last value, and since when it counts.
type sum struct {
	since time.Time
	last  float64
}

// New returns an exporter as the environment says, nil if it does not ask for one. Errors name
// the variable. say is told when the collector cannot be reached, and when it can again.
func New(service, version string, getenv func(string) string, say func(format string, a ...any)) (*Exporter, error) {
	cfg, err := fromEnvironment(service, version, getenv)
	if err != nil || cfg.metrics == "" && cfg.traces == "" {
		return nil, err
	}
	e := &Exporter{
		cfg: cfg, say: say, began: time.Now(), sums: map[string]*sum{}, stop: make(chan struct{}), done: make(chan struct{}),
		http: &http.Client{Timeout: cfg.timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	go e.loop()
	return e, nil
}

// Collect sets where figures come from.
func (e *Exporter) Collect(f func(metric.Sink)) {
	if e != nil {
		e.mu.Lock()
		e.collect = f
		e.mu.Unlock()
	}
}

// Add sends spans.
func (e *Exporter) Add(spans ...Span) {
	if e == nil || e.cfg.traces == "" {
		return
	}
	e.mu.Lock()
	e.spans = append(e.spans, spans[:min(len(spans), maxSpans-len(e.spans))]...)
	e.mu.Unlock()
}

// Close sends what is left, within the time that one request may take.
func (e *Exporter) Close() {
	if e != nil {
		close(e.stop)
		<-e.done
	}
}

func (e *Exporter) loop() {
	defer close(e.done)
	spans, figures := time.NewTicker(spansEvery), time.NewTicker(e.cfg.every)
	defer spans.Stop()
	defer figures.Stop()
	for {
		select {
		case <-spans.C:
			e.sendSpans()
		case <-figures.C:
			e.sendFigures()
		case <-e.stop:
			e.sendSpans()
			e.sendFigures()
			return
		}
	}
}

func (e *Exporter) sendFigures() {
	e.mu.Lock()
	collect := e.collect
	e.mu.Unlock()
	if e.cfg.metrics == "" || collect == nil {
		return
	}
	f := figures{e: e, now: time.Now(), at: map[string]int{}}
	collect(&f)
	if len(f.all) > 0 {
		e.post(e.cfg.metrics, e.cfg.metricsHeaders, f.encode())
	}
}

func (e *Exporter) sendSpans() {
	e.mu.Lock()
	spans := e.spans
	e.spans = nil
	e.mu.Unlock()
	if len(spans) == 0 || e.post(e.cfg.traces, e.cfg.tracesHeaders, encodeSpans(e.cfg, spans)) {
		return
	}
	e.mu.Lock()
	e.spans = append(spans, e.spans...)
	e.spans = e.spans[:min(len(e.spans), maxSpans)]
	e.mu.Unlock()
}

// post sends a message, and reports whether it need not be sent again.
func (e *Exporter) post(to string, header map[string]string, body []byte) bool {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return true // fromEnvironment has parsed the address
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := e.http.Do(req)
	again := err != nil
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		_ = resp.Body.Close()
		switch resp.StatusCode { // OTLP/HTTP, Failures: these are to be tried again
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			again = true
		}
		if resp.StatusCode/100 != 2 {
			err = fmt.Errorf("%s answers %s", to, resp.Status)
		}
	}
	switch {
	case err != nil && !e.failing:
		e.say("warning: telemetry cannot be sent: %v", err)
	case err == nil && e.failing:
		e.say("telemetry can be sent again")
	}
	e.failing = err != nil
	return !again
}
