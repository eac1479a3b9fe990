package host

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestOfClass checks that members of one class are chosen if there are enough, preferring the
// run's own class.
func TestOfClass(t *testing.T) {
	pool := func(s string) (ms []server.Member) {
		for _, c := range s {
			ms = append(ms, server.Member{Name: string(c), Hello: proto.Hello{Class: map[bool]string{true: proto.ClassFMA, false: proto.ClassNoFMA}[c < 'n']}})
		}
		return ms
	}
	names := func(ms []server.Member) (s string) {
		for _, m := range ms {
			s += m.Name
		}
		return s
	}
	for _, c := range []struct {
		pool, class      string
		want             int
		members, waiting string
	}{
		{"abc", "", 3, "abc", ""},
		{"abxy", "", 2, "ab", "xy"},
		{"xyab", "", 2, "xy", "ab"},
		{"axyz", "", 2, "xyz", "a"},
		{"abx", "", 3, "abx", ""}, // neither is enough
		{"axyz", proto.ClassFMA, 3, "a", "xyz"},
		{"xyz", proto.ClassFMA, 3, "xyz", ""}, // none is left
	} {
		m, o := ofClass(pool(c.pool), c.class, c.want)
		if names(m) != c.members || names(o) != c.waiting {
			t.Errorf("%+v: %s and %s", c, names(m), names(o))
		}
	}
	var said bytes.Buffer
	r := newRoster(&project.Project{Job: job.Spec{Schedule: "sync"}}, &Options{Console: console.New(&said)})
	r.noteClass(pool("ab"))
	if r.class != proto.ClassFMA || said.Len() > 0 {
		t.Errorf("class %q, said %q", r.class, said.String())
	}
	r.noteClass(pool("ax"))
	if !strings.Contains(said.String(), "a (fma), x (nofma)") || !strings.Contains(said.String(), "bf16") {
		t.Errorf("said %q", said.String())
	}
	said.Reset()
	r.p.Job.Precision = "bf16"
	if r.noteClass(pool("ax")); said.Len() > 0 {
		t.Errorf("a bf16 job is one class, said %q", said.String())
	}
}
