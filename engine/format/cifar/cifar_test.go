package cifar

import (
	"bytes"
	"strings"
	"testing"
)

func record(labels ...byte) []byte {
	b := append([]byte{}, labels...)
	for i := range pixels {
		b = append(b, byte(i))
	}
	return b
}

func TestRead(t *testing.T) {
	x, y, err := Read(bytes.NewReader(append(record(3), record(9)...)), 1, nil, nil)
	if err == nil {
		x, y, err = Read(bytes.NewReader(record(0)), 1, x, y)
	}
	if err != nil || x.Rows != 3 || y.Rows != 3 || y.U8[1] != 9 || x.U8[pixels+5] != 5 {
		t.Errorf("%v", err)
	}
	if _, y, err := Read(bytes.NewReader(record(19, 99)), 2, nil, nil); err != nil || y.U8[0] != 99 {
		t.Errorf("CIFAR-100: %v", err)
	}
	for _, c := range []struct {
		file []byte
		says string
	}{{nil, "empty"}, {record(1)[:100], "ends within record 0"}, {record(10), "label 10"}} {
		if _, _, err := Read(bytes.NewReader(c.file), 1, nil, nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(record(1), 1)
	f.Add(record(1, 2), 2)
	f.Fuzz(func(t *testing.T, b []byte, labels int) {
		if x, y, err := Read(bytes.NewReader(b), labels, nil, nil); err == nil && (x.Check() != nil || y.Check() != nil) {
			t.Fatal(x.Check(), y.Check())
		}
	})
}
