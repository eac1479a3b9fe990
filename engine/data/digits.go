// The walkthrough's data: 1,797 handwritten digits of 8x8 pixels with values 0..16, the
// test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak,
// UCI Machine Learning Repository, 1998, doi 10.24432/C50P49, CC BY 4.0.

package data

import (
	"bytes"
	"compress/gzip"
	_ "embed" // digits.gz
	"fmt"
	"io"
)

const (
	digitsTrain = 1078
	digitsVal   = 719
	digitsRow   = 64
)

// digitsGz is made by digits.py: the pixels of all rows, then their labels, a byte each.
//
//go:embed digits.gz
var digitsGz []byte

// Digits is the walkthrough's data set: inputs [1,8,8] not scaled, ten classes, in the
// split and order of scikit-learn's train_test_split(test_size=0.4, random_state=1).
func Digits() (*Set, error) {
	z, err := gzip.NewReader(bytes.NewReader(digitsGz))
	if err != nil {
		return nil, fmt.Errorf("digits: %w", err)
	}
	const rows = digitsTrain + digitsVal
	raw := make([]byte, rows*(digitsRow+1))
	if _, err := io.ReadFull(z, raw); err != nil {
		return nil, fmt.Errorf("digits: %w", err)
	}
	labels := raw[rows*digitsRow:]
	part := func(from, n int) (Part, error) {
		return NewPart(
			&Table{Kind: Inputs, Rows: n, Shape: []int{1, 8, 8}, U8: raw[from*digitsRow:][:n*digitsRow]},
			&Table{Kind: Targets, Rows: n, Shape: []int{}, Classes: 10, U8: labels[from:][:n]},
		)
	}
	train, err := part(0, digitsTrain)
	if err != nil {
		return nil, err
	}
	val, err := part(digitsTrain, digitsVal)
	if err != nil {
		return nil, err
	}
	return NewSet("digits", train, val)
}
