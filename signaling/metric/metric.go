// Package metric writes figures in Prometheus' text format, version 0.0.4, for the host and for
// providers alike. Whoever has figures hands them to a Sink, so that they can go elsewhere too.
package metric

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ContentType is the media type of what a Writer writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Sink takes figures. Labels are pairs of a name and a value.
type Sink interface {
	// Gauge takes a sample of something that goes up and down.
	Gauge(name, help string, v float64, labels ...string)
	// Counter takes a sample of something that only grows, or begins anew.
	Counter(name, help string, v float64, labels ...string)
}

// Writer is a Sink that writes metrics: each name's help and type once, before its first sample. All samples
// of a name have to be written one after the other.
type Writer struct {
	w    io.Writer
	seen map[string]bool
}

// New returns a Writer to w, whose errors it ignores.
func New(w io.Writer) *Writer { return &Writer{w, map[string]bool{}} }

// Gauge implements Sink.
func (e *Writer) Gauge(name, help string, v float64, labels ...string) {
	e.add("gauge", name, help, v, labels)
}

// Counter implements Sink.
func (e *Writer) Counter(name, help string, v float64, labels ...string) {
	e.add("counter", name, help, v, labels)
}

func (e *Writer) add(kind, name, help string, value float64, labels []string) {
	if !e.seen[name] {
		e.seen[name] = true
		fmt.Fprintf(e.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	var b strings.Builder
	for i := 0; i+1 < len(labels); i += 2 {
		fmt.Fprintf(&b, `,%s="%s"`, labels[i], escape(labels[i+1]))
	}
	l := b.String()
	if l != "" {
		l = "{" + l[1:] + "}"
	}
	fmt.Fprintf(e.w, "%s%s %s\n", name, l, strconv.FormatFloat(value, 'g', -1, 64))
}

func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

// Bool is 1 for true and 0 for false.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
