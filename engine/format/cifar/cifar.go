// Package cifar reads the binary files of CIFAR-10 and CIFAR-100: records of the labels, a
// byte each, and an image of 3 channels of 32x32 bytes.
package cifar

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// ErrFormat is wrapped by every error that says a file is not what the format allows.
var ErrFormat = errors.New("invalid CIFAR file")

// Shape is that of an image.
var Shape = []int{3, 32, 32}

const pixels = 3 * 32 * 32

// Each reads a file whose records have so many labels (CIFAR-10: 1; CIFAR-100: 2, the coarse and
// the fine one, of which the last is taken) and calls give with the pixels of each image, [3,32,32]
// bytes that it must not keep, and its label.
func Each(r io.Reader, labels int, give func(pixels []uint8, label int) error) error {
	if labels < 1 || labels > 2 {
		return fmt.Errorf("%w: records of %d labels, want 1 or 2", ErrFormat, labels)
	}
	b, record := bufio.NewReaderSize(r, 1<<16), make([]byte, labels+pixels)
	for row := 0; ; row++ {
		switch _, err := io.ReadFull(b, record); {
		case err == io.EOF && row == 0:
			return fmt.Errorf("%w: it is empty", ErrFormat)
		case err == io.EOF:
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%w: it ends within record %d of %d bytes", ErrFormat, row, len(record))
		case err != nil:
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		label := int(record[labels-1])
		if most := map[int]int{1: 9, 2: 99}[labels]; label > most {
			return fmt.Errorf("%w: record %d has label %d, the greatest is %d", ErrFormat, row, label, most)
		}
		if err := give(record[labels:], label); err != nil {
			return err
		}
	}
}
