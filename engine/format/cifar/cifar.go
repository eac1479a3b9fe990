// Package cifar reads the binary files of CIFAR-10 and CIFAR-100: records of the labels, a
// byte each, and an image of 3 channels of 32x32 bytes.
package cifar

import (
	"errors"
	"fmt"
	"io"

	"github.com/ravnest/ravnest/engine/data"
)

// ErrFormat is wrapped by every error that says a file is not what the format allows.
var ErrFormat = errors.New("invalid CIFAR file")

const pixels = 3 * 32 * 32

// Read appends the images and labels of a file whose records have so many labels (CIFAR-10: 1;
// CIFAR-100: 2, the coarse and the fine one, of which the last is taken) to x and y, nil at
// first, and returns them: bytes, in rows of [3,32,32] and of [].
func Read(r io.Reader, labels int, x, y *data.Table) (*data.Table, *data.Table, error) {
	if labels < 1 || labels > 2 {
		return nil, nil, fmt.Errorf("%w: records of %d labels, want 1 or 2", ErrFormat, labels)
	}
	if x == nil {
		x = &data.Table{Kind: data.Inputs, Shape: []int{3, 32, 32}, U8: []uint8{}}
		y = &data.Table{Kind: data.Targets, Shape: []int{}, U8: []uint8{}}
	}
	record := make([]byte, labels+pixels)
	for {
		switch _, err := io.ReadFull(r, record); {
		case err == io.EOF:
			if x.Rows == 0 {
				return nil, nil, fmt.Errorf("%w: it is empty", ErrFormat)
			}
			return x, y, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, nil, fmt.Errorf("%w: it ends within record %d of %d bytes", ErrFormat, x.Rows, len(record))
		case err != nil:
			return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if len(x.U8)+pixels > data.MaxBytes {
			return nil, nil, fmt.Errorf("%w: more than %d bytes", ErrFormat, data.MaxBytes)
		}
		label := record[labels-1]
		if most := map[int]byte{1: 9, 2: 99}[labels]; label > most {
			return nil, nil, fmt.Errorf("%w: record %d has label %d, the greatest is %d", ErrFormat, x.Rows, label, most)
		}
		x.U8, y.U8 = append(x.U8, record[labels:]...), append(y.U8, label)
		x.Rows, y.Rows = x.Rows+1, y.Rows+1
	}
}
