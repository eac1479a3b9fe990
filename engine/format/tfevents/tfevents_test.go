package tfevents_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/format/tfevents"
)

// field is one field of a protobuf message, decoded by its wire type.
type field struct {
	n     uint64
	value uint64
	bytes []byte
}

// message decodes a protobuf message.
func message(t *testing.T, b []byte) map[uint64][]field {
	t.Helper()
	fs := map[uint64][]field{}
	for len(b) > 0 {
		k, n := binary.Uvarint(b)
		if n <= 0 {
			t.Fatal("a key is cut off")
		}
		b = b[n:]
		f := field{n: k >> 3}
		switch k & 7 {
		case 0:
			v, n := binary.Uvarint(b)
			f.value, b = v, b[n:]
		case 1:
			f.value, b = binary.LittleEndian.Uint64(b), b[8:]
		case 2:
			size, n := binary.Uvarint(b)
			f.bytes, b = b[n:][:size], b[n+int(size):]
		case 5:
			f.value, b = uint64(binary.LittleEndian.Uint32(b)), b[4:]
		default:
			t.Fatalf("wire type %d", k&7)
		}
		fs[f.n] = append(fs[f.n], f)
	}
	return fs
}

// records takes a file apart and checks every checksum.
func records(t *testing.T, b []byte) (events []map[uint64][]field) {
	t.Helper()
	for len(b) > 0 {
		n := binary.LittleEndian.Uint64(b)
		if got, want := binary.LittleEndian.Uint32(b[8:]), tfevents.Checksum(b[:8]); got != want {
			t.Fatalf("record %d: the length's checksum is %#x, want %#x", len(events), got, want)
		}
		ev := b[12:][:n]
		if got, want := binary.LittleEndian.Uint32(b[12+n:]), tfevents.Checksum(ev); got != want {
			t.Fatalf("record %d: the checksum is %#x, want %#x", len(events), got, want)
		}
		events = append(events, message(t, ev))
		b = b[16+n:]
	}
	return events
}

func TestEvents(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1700000000, 500000000)
	w, err := tfevents.NewWriter(&b, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(now, 300, tfevents.Scalar{Tag: "loss/train", Value: 0.5}, tfevents.Scalar{Tag: "lr", Value: 1e-3}); err != nil {
		t.Fatal(err)
	}
	if err := w.Restart(now, 200); err != nil {
		t.Fatal(err)
	}
	es := records(t, b.Bytes())
	if len(es) != 3 {
		t.Fatalf("%d events", len(es))
	}
	if v := string(es[0][3][0].bytes); v != "brain.Event:2" {
		t.Errorf("version %q", v)
	}
	for i, e := range es {
		if at := math.Float64frombits(e[1][0].value); at != 1700000000.5 {
			t.Errorf("event %d is of %v", i, at)
		}
	}
	if s := es[1][2][0].value; s != 300 {
		t.Errorf("step %d", s)
	}
	values := message(t, es[1][5][0].bytes)[1]
	if len(values) != 2 {
		t.Fatalf("%d values", len(values))
	}
	v := message(t, values[0].bytes)
	if tag, x := string(v[1][0].bytes), math.Float32frombits(uint32(v[2][0].value)); tag != "loss/train" || x != 0.5 {
		t.Errorf("%s is %v", tag, x)
	}
	if s := es[2][2][0].value; s != 200 || message(t, es[2][7][0].bytes)[1][0].value != 1 {
		t.Errorf("no restart at step 200 but %v", es[2])
	}
}

// TestChecksum holds the masked checksum against the first record of the files that
// TensorBoard's own writer makes, which is 24 bytes long.
func TestChecksum(t *testing.T) {
	if got := tfevents.Checksum(binary.LittleEndian.AppendUint64(nil, 24)); got != 0x224b7fa3 {
		t.Errorf("%#x", got)
	}
}
