package lend

import (
	"runtime/debug"
	"testing"

	"github.com/ravnest/ravnest/engine/provider"
)

func TestGCPercent(t *testing.T) {
	const mb = 1 << 20
	for _, tc := range []struct {
		promised, lent int64
		want           int
	}{
		{0, 1 << 30, 50},         // no stage yet
		{4 * mb, 1 << 30, 400},   // 32 MB beside 8
		{28 * mb, 1 << 30, 100},  // beside 32
		{400 * mb, 1 << 30, 50},  // a large stage
		{4 * mb, 72 * mb, 200},   // a quarter of the 64 MB that are left
		{30 * mb, 64 * mb, 50},   // little is left
		{100 * mb, 64 * mb, 50},  // more than is lent
		{1 << 62, 1<<63 - 1, 50}, // no plan has that
	} {
		if got := GCPercent(tc.promised, tc.lent); got != tc.want {
			t.Errorf("promised %d of %d bytes: %d %%, want %d", tc.promised, tc.lent, got, tc.want)
		}
		// Neither garbage takes more than is lent, unless the stage nearly does by itself.
		live := tc.promised + program
		if n := int64(GCPercent(tc.promised, tc.lent)); n > leastPercent && live+live/100*n > tc.lent {
			t.Errorf("promised %d of %d bytes: %d %% is more than is lent", tc.promised, tc.lent, n)
		}
	}
}

func TestCollector(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	is := func(want int) {
		t.Helper()
		got := debug.SetGCPercent(77)
		debug.SetGCPercent(got)
		if got != want {
			t.Errorf("%d %%, want %d", got, want)
		}
	}
	watch := Collector(1 << 30)
	is(50)
	watch(provider.Update{Stages: 2})
	is(50)
	watch(provider.Update{Stages: 2, Peak: 4 << 20})
	is(400)
	watch(provider.Update{})
	is(50)
}
