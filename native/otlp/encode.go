package otlp

// The messages of opentelemetry-proto, by the numbers of their fields. A list of one resource is
// the same in an export request and in MetricsData or TracesData.

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// scope names us in every message.
const scope = "github.com/ravnest/ravnest"

// maxText bounds a text: a reason may be long.
const maxText = 4096

func text(b []byte, num protowire.Number, s string) []byte {
	s = strings.ToValidUTF8(s, "\uFFFD")
	for len(s) > maxText {
		_, n := utf8.DecodeLastRuneInString(s[:maxText])
		s = s[:maxText-n]
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func message(b []byte, num protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
}

func number(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func fixed(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

func instant(b []byte, num protowire.Number, t time.Time) []byte {
	return fixed(b, num, uint64(t.UnixNano()))
}

// attribute is a KeyValue.
func attribute(b []byte, num protowire.Number, key string, value any) []byte {
	var v []byte
	switch x := value.(type) {
	case string:
		v = text(nil, 1, x)
	case bool:
		v = number(nil, 2, protowire.EncodeBool(x))
	case int64:
		v = number(nil, 3, uint64(x))
	case float64:
		v = fixed(nil, 4, math.Float64bits(x))
	}
	return message(b, num, message(text(nil, 1, key), 2, v))
}

func attributes(b []byte, num protowire.Number, all map[string]any) []byte {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		b = attribute(b, num, k, all[k])
	}
	return b
}

// of wraps the items of one resource and scope, which are fields 2 of a ScopeMetrics or ScopeSpans.
func of(cfg settings, items []byte) []byte {
	scoped := append(message(nil, 1, text(nil, 1, scope)), items...)
	return message(nil, 1, message(message(nil, 1, attributes(nil, 1, cfg.resource)), 2, scoped))
}

func encodeSpans(cfg settings, spans []Span) []byte {
	var items []byte
	for _, s := range spans {
		b := message(message(nil, 1, s.Trace[:]), 2, s.ID[:])
		if s.Parent != (ID{}) {
			b = message(b, 4, s.Parent[:])
		}
		b = number(text(b, 5, s.Name), 6, 1) // SPAN_KIND_INTERNAL
		b = attributes(instant(instant(b, 7, s.Start), 8, s.End), 9, s.Attributes)
		if s.Fault != "" {
			b = message(b, 15, number(text(nil, 2, s.Fault), 3, 2)) // STATUS_CODE_ERROR
		}
		items = message(items, 2, b)
	}
	return of(cfg, items)
}

// figures collects metrics for one message.
type figures struct {
	e   *Exporter
	now time.Time
	at  map[string]int // where a name's figures are in all
	all []figure
}

type figure struct {
	name, help string
	counts     bool
	points     []byte // NumberDataPoints, each in field 1
}

// Gauge implements metric.Sink.
func (f *figures) Gauge(name, help string, v float64, labels ...string) {
	f.add(name, help, false, nil, v, labels)
}

// Counter implements metric.Sink. One that has become less began anew.
func (f *figures) Counter(name, help string, v float64, labels ...string) {
	key := name + "\x00" + strings.Join(labels, "\x00")
	s := f.e.sums[key]
	if s == nil {
		s = &sum{since: f.e.began}
		f.e.sums[key] = s
	}
	if v < s.last {
		s.since = f.now
	}
	s.last = v
	f.add(name, help, true, instant(nil, 2, s.since), v, labels)
}

func (f *figures) add(name, help string, counts bool, point []byte, v float64, labels []string) {
	i, ok := f.at[name]
	if !ok {
		i = len(f.all)
		f.at[name] = i
		f.all = append(f.all, figure{name: name, help: help, counts: counts})
	}
	point = fixed(instant(point, 3, f.now), 4, math.Float64bits(v))
	for k := 0; k+1 < len(labels); k += 2 {
		point = attribute(point, 7, labels[k], labels[k+1])
	}
	f.all[i].points = message(f.all[i].points, 1, point)
}

// units are those of UCUM by the endings of names.
var units = [][2]string{{"_bytes", "By"}, {"_seconds", "s"}, {"_ratio", "1"}}

func (f *figures) encode() []byte {
	var items []byte
	for _, x := range f.all {
		b := text(text(nil, 1, x.name), 2, x.help)
		for _, u := range units {
			if strings.HasSuffix(strings.TrimSuffix(x.name, "_total"), u[0]) {
				b = text(b, 3, u[1])
			}
		}
		if x.counts {
			b = message(b, 7, number(number(x.points, 2, 2), 3, 1)) // cumulative, and only grows
		} else {
			b = message(b, 5, x.points)
		}
		items = message(items, 2, b)
	}
	return of(f.e.cfg, items)
}
