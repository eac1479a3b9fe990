package provider_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/signaling/proto"
)

// raw is a table as it would lie in a file.
func raw(t *data.Table) *data.Raw {
	r := &data.Raw{Rows: t.Rows, Shape: t.Shape, DType: state.U8}
	b := t.U8
	if t.F32 != nil {
		r.DType = state.F32
		for _, v := range t.F32 {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	r.R = bytes.NewReader(b)
	return r
}

// newSharded is newWorld with the data in shards of 2000 bytes.
func newSharded(t *testing.T, change func(j *job.Spec, set *data.Set)) *world {
	t.Helper()
	w := newWorld(t, nil)
	set, err := data.Digits()
	if err != nil {
		t.Fatal(err)
	}
	blobs := w.hosts[0].blobs
	put := func(sum [sha256.Size]byte, b []byte) error {
		blobs[hex.EncodeToString(sum[:])] = b
		return nil
	}
	train, err := data.Pack(raw(set.Train.X()), raw(set.Train.Y()), 2000, true, put, nil)
	if err != nil {
		t.Fatal(err)
	}
	val, err := data.Pack(raw(set.Val.X()), raw(set.Val.Y()), 2000, false, put, nil)
	if err != nil {
		t.Fatal(err)
	}
	j := job.Default()
	j.Epochs, j.Steps, j.Shards = 1, 5, job.Shards{Bytes: 2000, Group: 3}
	set, err = data.FromShards("digits", train, val, 3, []int{1, 8, 8}, &data.Want{Output: []int{10}})
	if err != nil {
		t.Fatal(err)
	}
	j.Shards.Inputs, j.Shards.Targets = set.LeastBytes(j.BatchSize)
	if change != nil {
		change(&j, set)
	}
	for kind, h := range map[string]*data.Table{provider.TrainX: set.Train.X(), provider.TrainY: set.Train.Y(), provider.ValX: set.Val.X(), provider.ValY: set.Val.Y()} {
		b := h.Index.Encode()
		blobs[kind], w.assigns[0].Data[kind] = b, proto.Ref{SHA256: kind, Size: int64(len(b))}
	}
	for _, a := range w.assigns {
		a.Job = j.JSON()
	}
	return w
}

// TestShards: two providers train on shards; what is lent beyond the promise holds more of them
// and is announced.
func TestShards(t *testing.T) {
	var peaks [2]int64
	for i, ram := range []int64{0, 1 << 30} {
		w := newSharded(t, nil)
		var mu sync.Mutex
		losses, vals := 0, 0
		errs := w.play(t, func(_ int, c *provider.Config) { c.RAM = ram }, func(k int, m proto.Message) {
			mu.Lock()
			defer mu.Unlock()
			switch m := m.(type) {
			case *proto.Progress:
				losses, vals = losses+len(m.Losses), vals+len(m.Vals)
			case *proto.Ready:
				if k == 0 {
					peaks[i] = m.Peak
				}
			}
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if losses != 5 || vals != 1 {
			t.Errorf("%d losses, %d validations", losses, vals)
		}
	}
	// The root's 1078 + 719 rows of 64 bytes, less what is held anyway.
	if more := peaks[1] - peaks[0]; more < 60e3 || more > 115e3 {
		t.Errorf("peaks of %d and %d bytes", peaks[0], peaks[1])
	}
}

// TestShardsRefused: what does not fit together, or is not what it says, ends the attempt.
func TestShardsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(j *job.Spec, set *data.Set)
		spoil  func(w *world)
		ram    int64
		want   string
		kind   proto.Kind
	}{
		"not said": {func(j *job.Spec, _ *data.Set) { j.Shards = job.Shards{} }, nil, 0, "which the job does not say", proto.FailedOther},
		"larger":   {func(j *job.Spec, _ *data.Set) { j.Shards.Inputs, j.Shards.Targets = 10, 10 }, nil, 0, "the job says 20", proto.FailedOther},
		"no shards": {nil, func(w *world) {
			w.assigns[0].Data, w.hosts[0].blobs = newWorld(t, nil).assigns[0].Data, newWorld(t, nil).hosts[0].blobs
		}, 0, "is not in shards", proto.FailedOther},
		"other rows":    {func(_ *job.Spec, set *data.Set) { set.Train.X().Index.Layout.Rows-- }, nil, 0, "the plan says", proto.FailedOther},
		"little memory": {nil, nil, 500e3, "are offered", proto.FailedMemory},
		"other bytes": {nil, func(w *world) {
			for k, b := range w.hosts[0].blobs {
				if len(k) == 64 {
					b = bytes.Clone(b)
					b[len(b)-1] ^= 1
					w.hosts[0].blobs[k] = b
				}
			}
		}, 0, "SHA-256", proto.FailedBlob},
	} {
		w := newSharded(t, c.change)
		if c.spoil != nil {
			c.spoil(w)
		}
		var mu sync.Mutex
		var failed proto.Failed
		errs := w.play(t, func(_ int, cfg *provider.Config) { cfg.RAM = c.ram }, func(k int, m proto.Message) {
			if f, ok := m.(*proto.Failed); ok && k == 0 {
				mu.Lock()
				failed = *f
				mu.Unlock()
			}
		})
		if errs[0] == nil || !strings.Contains(errs[0].Error(), c.want) || failed.Kind != c.kind {
			t.Errorf("%s: got %v of kind %q, want %q of kind %q", name, errs[0], failed.Kind, c.want, c.kind)
		}
	}
}
