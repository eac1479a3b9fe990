package fuse

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/state"
)

func shard(names ...string) (d state.Dict) {
	for _, n := range names {
		d = append(d, state.Tensor{Name: n, Shape: []int{1}, F32: []float32{float32(len(n))}})
	}
	return d
}

func TestFuse(t *testing.T) {
	order := []string{"a.weight", "a.bias", "b.0.weight", "c"}
	// The second stage owns nothing, and shards need not come in the model's order.
	got, err := Fuse(order, []state.Dict{shard("c", "a.bias"), nil, shard("b.0.weight", "a.weight")})
	if err != nil {
		t.Fatal(err)
	}
	if want := shard(order...); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Tied weights are in two shards.
	if got, err := Fuse(order, []state.Dict{shard("a.weight", "a.bias"), shard("a.weight", "b.0.weight", "c")}); err != nil || !got.Equal(shard(order...)) {
		t.Errorf("tied weights fused to %v, %v", got, err)
	}
	if got, err := Fuse(nil, nil); err != nil || len(got) != 0 {
		t.Errorf("nothing fused to %v, %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	order := []string{"a", "b", "c"}
	for _, c := range []struct {
		order  []string
		shards []state.Dict
		want   []string
	}{
		{order, []state.Dict{shard("a"), shard("c")}, []string{`no shard has "b"`, "before it is from shard 0"}},
		{order, []state.Dict{shard("a", "b"), {{Name: "b", Shape: []int{1}, F32: []float32{7}}}, shard("c")}, []string{`shard 1 has "b" with other numbers than shard 0`}},
		{order, []state.Dict{shard("a", "b", "a"), shard("c")}, []string{`shard 0 has "a" twice`}},
		{order, []state.Dict{shard("a", "b"), shard("c", "d")}, []string{`shard 1 has "d", which the model does not have`}},
		{order, []state.Dict{shard("a", "x"), shard("a")}, []string{`"x"`, `no shard has "b"`, `no shard has "c"`}},
		{[]string{"a", "a"}, []state.Dict{shard("a")}, []string{`"a" stands twice`}},
		{nil, []state.Dict{shard("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")}, []string{`"7"`, "and 2 more"}},
	} {
		d, err := Fuse(c.order, c.shards)
		if d != nil || !errors.Is(err, ErrKeys) {
			t.Errorf("got %v, %v, want an error", d, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
	}
	bad := shard("a")
	bad[0].Shape = []int{2}
	if _, err := Fuse([]string{"z", "a"}, []state.Dict{shard("z"), bad}); !errors.Is(err, state.ErrInvalid) || !strings.Contains(err.Error(), "shard 1") {
		t.Errorf("a tensor that is not well formed: %v", err)
	}
}

func ExampleFuse() {
	stage0 := state.Dict{{Name: "conv.weight", Shape: []int{1}, F32: []float32{0.5}}}
	stage1 := state.Dict{{Name: "bn.num_batches_tracked", I64: []int64{17}}}
	d, err := Fuse([]string{"conv.weight", "bn.num_batches_tracked"}, []state.Dict{stage0, stage1})
	fmt.Println(d.Names(), err)
	_, err = Fuse([]string{"conv.weight", "conv.bias"}, []state.Dict{stage0})
	fmt.Println(err)
	// Output:
	// [conv.weight bn.num_batches_tracked] <nil>
	// the stages' weights do not make up the model: no shard has "conv.bias" (the key before it is from shard 0)
}
