package form

import (
	"testing"

	"github.com/ravnest/ravnest/engine/data"
)

// TestOrderBytes: who reads rows holds their order, 4 bytes for each; of shards that of a group.
func TestOrderBytes(t *testing.T) {
	if n := orderBytes(&data.Table{Rows: 1 << 28}); n != 1<<30 {
		t.Errorf("%d bytes", n)
	}
	x := &data.Table{Rows: 1 << 28, Index: &data.Index{Layout: data.Layout{Rows: 1 << 28, Per: 1 << 10, Group: 16}}}
	if n := orderBytes(x); n != 12*(1<<18+1<<14) {
		t.Errorf("%d bytes", n)
	}
}
