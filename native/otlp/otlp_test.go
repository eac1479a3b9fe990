package otlp

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/metric"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

func env(pairs map[string]string) func(string) string {
	return func(k string) string { return pairs[k] }
}

func silent(string, ...any) {}

// flat is a list of attributes.
func flat(kvs []*common.KeyValue) map[string]any {
	all := map[string]any{}
	for _, kv := range kvs {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			all[kv.Key] = v.StringValue
		case *common.AnyValue_BoolValue:
			all[kv.Key] = v.BoolValue
		case *common.AnyValue_IntValue:
			all[kv.Key] = v.IntValue
		case *common.AnyValue_DoubleValue:
			all[kv.Key] = v.DoubleValue
		}
	}
	return all
}

// TestMessages: OpenTelemetry's own decoder reads what is sent, and each field is what was said.
func TestMessages(t *testing.T) {
	var mu sync.Mutex
	got := map[string][]byte{}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Api-Key") != "a b" {
			t.Errorf("%s %v %v", r.Method, r.Header, err)
		}
		mu.Lock()
		got[r.URL.Path] = b
		mu.Unlock()
	}))
	defer srv.Close()
	e, err := New("ravnest", "v1", env(map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": srv.URL + "/base/", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b", "OTEL_RESOURCE_ATTRIBUTES": "site=home",
	}), silent)
	if err != nil || e == nil {
		t.Fatal(e, err)
	}
	samples := 7.0
	e.Collect(func(s metric.Sink) {
		s.Gauge("ravnest_loss", "Loss.", 0.5)
		for _, p := range []string{"a", "b"} {
			s.Counter("ravnest_sent_bytes_total", "Bytes.", samples, "provider", p)
		}
	})
	start := time.Unix(100, 5)
	parent := Span{Trace: NewTrace(), ID: NewID(), Name: "run", Start: start, End: start.Add(time.Second)}
	child := Span{
		Trace: parent.Trace, ID: NewID(), Parent: parent.ID, Name: "attempt", Start: start, End: start.Add(time.Millisecond), Fault: "it \xff broke",
		Attributes: map[string]any{"s": "x", "b": true, "i": int64(-3), "f": 2.5},
	}
	e.Add(parent, child)
	e.sendFigures() // as the loop does
	samples = 3     // began anew
	e.Close()

	var m metrics.MetricsData
	var tr traces.TracesData
	if err := proto.Unmarshal(got["/base/v1/metrics"], &m); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(got["/base/v1/traces"], &tr); err != nil {
		t.Fatal(err)
	}
	if n := len(m.ProtoReflect().GetUnknown()) + len(tr.ProtoReflect().GetUnknown()); n != 0 {
		t.Errorf("%d bytes are of unknown fields", n)
	}
	resource := map[string]any{"service.name": "ravnest", "service.version": "v1", "site": "home"}
	if r := flat(m.ResourceMetrics[0].Resource.Attributes); !maps.Equal(r, resource) {
		t.Errorf("the resource is %v", r)
	}
	all := m.ResourceMetrics[0].ScopeMetrics[0].Metrics
	if len(all) != 2 || all[0].Name != "ravnest_loss" || all[0].GetGauge().DataPoints[0].GetAsDouble() != 0.5 {
		t.Errorf("metrics %v", all)
	}
	sent := all[1]
	c := sent.GetSum()
	if sent.Unit != "By" || !c.IsMonotonic || c.AggregationTemporality != metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE || len(c.DataPoints) != 2 {
		t.Errorf("the counter %v", sent)
	}
	for i, p := range c.DataPoints {
		if p.GetAsDouble() != 3 || flat(p.Attributes)["provider"] != string("ab"[i]) || p.StartTimeUnixNano != p.TimeUnixNano {
			t.Errorf("a counter that began anew: %v", p)
		}
	}
	spans := tr.ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	r, a := spans[0], spans[1]
	if r.Name != "run" || len(r.ParentSpanId) != 0 || r.Status != nil || r.StartTimeUnixNano != 100e9+5 || r.EndTimeUnixNano != 101e9+5 {
		t.Errorf("the run %v", r)
	}
	if string(a.TraceId) != string(parent.Trace[:]) || string(a.ParentSpanId) != string(r.SpanId) || a.Status.Code != traces.Status_STATUS_CODE_ERROR || a.Status.Message != "it \uFFFD broke" ||
		!maps.Equal(flat(a.Attributes), child.Attributes) {
		t.Errorf("the attempt %v", a)
	}
}

// TestAway: spans wait for a collector that is away, within a bound, and what a collector refuses
// is not sent again.
func TestAway(t *testing.T) {
	status, posts := http.StatusServiceUnavailable, 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		posts++
		w.WriteHeader(status)
	}))
	defer srv.Close()
	var said []string
	e, err := New("s", "v", env(map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": srv.URL}), func(f string, _ ...any) { said = append(said, f) })
	if err != nil {
		t.Fatal(err)
	}
	close(e.stop) // the test is the loop
	<-e.done
	for range maxSpans + 10 {
		e.Add(Span{Name: "x"})
	}
	e.sendSpans()
	e.sendSpans()
	if len(e.spans) != maxSpans || posts != 2 || len(said) != 1 {
		t.Errorf("%d spans wait after %d posts, said %q", len(e.spans), posts, said)
	}
	status = http.StatusBadRequest
	e.sendSpans()
	if len(e.spans) != 0 {
		t.Errorf("%d spans wait that were refused", len(e.spans))
	}
	status = http.StatusOK
	e.Add(Span{Name: "x"})
	e.sendSpans()
	if posts != 4 || len(said) != 2 || !strings.Contains(said[1], "again") {
		t.Errorf("%d posts, said %q", posts, said)
	}
}

// TestEnvironment: nothing is sent unless the environment names a collector, and what cannot be
// done is said by the name of its variable.
func TestEnvironment(t *testing.T) {
	const base, at = "OTEL_EXPORTER_OTLP_ENDPOINT", "http://192.0.2.1:4318"
	for _, c := range []struct {
		env             map[string]string
		metrics, traces string
		err             string
	}{
		{nil, "", "", ""},
		{map[string]string{"OTEL_SERVICE_NAME": "x"}, "", "", ""},
		{map[string]string{base: at}, at + "/v1/metrics", at + "/v1/traces", ""},
		{map[string]string{base: at, "OTEL_SDK_DISABLED": "TRUE"}, "", "", ""},
		{map[string]string{base: at, "OTEL_METRICS_EXPORTER": "none"}, "", at + "/v1/traces", ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": at + "/x"}, at + "/x", "", ""},
		{map[string]string{base: at, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "", "OTEL_EXPORTER_OTLP_PROTOCOL"},
		{map[string]string{base: at, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf", "OTEL_TRACES_EXPORTER": "none"}, at + "/v1/metrics", "", ""},
		{map[string]string{base: "192.0.2.1:4318"}, "", "", base},
		{map[string]string{base: at, "OTEL_TRACES_EXPORTER": "zipkin"}, "", "", "OTEL_TRACES_EXPORTER"},
		{map[string]string{base: at, "OTEL_EXPORTER_OTLP_HEADERS": "secret"}, "", "", "OTEL_EXPORTER_OTLP_HEADERS"},
		{map[string]string{base: at, "OTEL_METRIC_EXPORT_INTERVAL": "soon"}, "", "", "OTEL_METRIC_EXPORT_INTERVAL"},
	} {
		s, err := fromEnvironment("s", "v", env(c.env))
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret")):
			t.Errorf("%v: error %v, want one about %s", c.env, err, c.err)
		case c.err == "" && (err != nil || s.metrics != c.metrics || s.traces != c.traces):
			t.Errorf("%v: %+v, %v", c.env, s, err)
		}
	}
	var none *Exporter
	none.Add(Span{})
	none.Collect(nil)
	none.Close()
}
