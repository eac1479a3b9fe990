package metric

import (
	"math"
	"strings"
	"testing"
)

func TestWriter(t *testing.T) {
	var b strings.Builder
	w := New(&b)
	w.Gauge("a", "What a is.", 1.5)
	w.Counter("b_total", "Of each.", 1e9, "name", "x\"y\\z\n", "kind", "k")
	w.Counter("b_total", "Of each.", math.NaN())
	w.Gauge("c", "Truth.", Bool(true)+Bool(false))
	want := "# HELP a What a is.\n# TYPE a gauge\na 1.5\n" +
		"# HELP b_total Of each.\n# TYPE b_total counter\n" + `b_total{name="x\"y\\z\n",kind="k"} 1e+09` + "\nb_total NaN\n" +
		"# HELP c Truth.\n# TYPE c gauge\nc 1\n"
	if b.String() != want {
		t.Errorf("wrote\n%s\nwant\n%s", b.String(), want)
	}
}
