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

func read(b []byte, labels int) (images [][]byte, all []int, err error) {
	err = Each(bytes.NewReader(b), labels, func(p []byte, label int) error {
		images, all = append(images, bytes.Clone(p)), append(all, label)
		return nil
	})
	return images, all, err
}

func TestEach(t *testing.T) {
	x, y, err := read(append(record(3), record(9)...), 1)
	if err != nil || len(x) != 2 || len(x[1]) != pixels || x[1][5] != 5 || y[0] != 3 || y[1] != 9 {
		t.Errorf("%v, labels %v", err, y)
	}
	if _, y, err := read(record(19, 99), 2); err != nil || y[0] != 99 {
		t.Errorf("CIFAR-100: %v", err)
	}
	for _, c := range []struct {
		file []byte
		says string
	}{{nil, "empty"}, {record(1)[:100], "ends within record 0"}, {record(10), "label 10"}} {
		if _, _, err := read(c.file, 1); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}

func FuzzEach(f *testing.F) {
	f.Add(record(1), 1)
	f.Add(record(1, 2), 2)
	f.Fuzz(func(t *testing.T, b []byte, labels int) {
		x, y, err := read(b, labels)
		if err == nil && (len(x) != len(y) || len(x)*(pixels+labels) != len(b)) {
			t.Fatalf("%d images and %d labels of %d bytes", len(x), len(y), len(b))
		}
	})
}
