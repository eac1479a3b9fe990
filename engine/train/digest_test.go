package train_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/zoo"
)

// losses keeps the loss of every batch.
type losses []float32

func (l *losses) Loss(x stage.Loss)        { *l = append(*l, x.Value) }
func (*losses) Batch(int)                  {}
func (*losses) Validated(stage.Validation) {}
func (*losses) Keep(stage.Saved) error     { return nil }

// TestDigests holds the bits of three short runs against those of the day they were
// recorded: every loss, weight and running statistic. They may change only where the
// numerical contract of an operation changes, which the commit then says.
func TestDigests(t *testing.T) {
	for _, c := range []struct {
		g     *graph.Graph
		batch int
		want  string
	}{
		{zoo.CNN(), 64, "1ae0bb1589c7378d"},
		{zoo.GPT(zoo.GPTSorter), 64, "7ee865cf2419e6c6"},
		{zoo.ResNet(zoo.ResNetConfig{Name: "resnet", Blocks: [4]int{1, 1, 1, 1}, Width: 8, Image: 64, Classes: 10}), 8, "e3cdbe6bdf58ad29"},
	} {
		t.Run(c.g.Name, func(t *testing.T) {
			tr := newTrainer(t, c.g, c.batch, 12, 1, nil)
			var l losses
			if err := tr.Run(context.Background(), nil, &l); err != nil {
				t.Fatal(err)
			}
			if len(l) != 12 {
				t.Fatalf("%d losses, want 12", len(l))
			}
			h := sha256.New()
			write := func(v []float32) {
				b := make([]byte, 0, 4*len(v))
				for _, x := range v {
					b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
				}
				h.Write(b)
			}
			write(l)
			d := tr.State()
			for _, e := range d {
				h.Write([]byte(e.Name))
				write(e.F32)
			}
			if got := hex.EncodeToString(h.Sum(nil)[:8]); got != c.want {
				t.Errorf("digest %s, recorded %s", got, c.want)
			}
		})
	}
}
