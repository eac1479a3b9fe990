// Package codec turns a float32 tensor into bytes and back: what stages send
// one another (activations, gradients) and what rings and checkpoints carry
// (parameters).
//
// Encoding has two independent halves:
//
//	quantise  float32 -> words of 4, 2, 2 or 1 bytes (fp32, fp16, bf16, int8);
//	          the only half that may lose anything
//	squeeze   words -> bytes, without loss: what repeats (zeros, or one value
//	          per column) becomes a bitmap, bytes of equal significance are laid
//	          together, and a plane that a Huffman code makes smaller is sent so
//
// The second half exists because a byte on a data channel costs more processor
// time than squeezing it does. Where it does not, that code is left out (Encoder.Plain). What
// is chosen is otherwise a function of the tensor alone, so the same tensor always gives
// the same bytes, and every message says how it was made: nothing has to be remembered
// between two messages.
//
// The package knows no shapes: a tensor is its elements in order, and the
// receiver knows how many it waits for.
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what a tensor's elements become on the wire.
type Kind uint8

// The kinds are wire constants: a number, once released, keeps its meaning.
// Zero is left invalid so that a zeroed header is not a message. 5 is meant for
// INT4 and 6 for top-k; a decoder that does not know a kind refuses it.
//
//	FP32  4 bytes an element: the bits as they are, NaN payloads, -0 and
//	      subnormals included.
//	FP16  2 bytes, IEEE 754 binary16, round to nearest even; 65520 and more
//	      becomes infinity, below 2^-25 zero (the sign stays), NaN stays NaN.
//	BF16  2 bytes, the upper half of a float32, round to nearest even; overflows
//	      to infinity, NaN stays NaN.
//	INT8  1 byte, and 4 bytes for each quantBlock elements: see quant.go.
const (
	FP32 Kind = 1
	FP16 Kind = 2
	BF16 Kind = 3
	INT8 Kind = 4
)

// String gives the name that users write, "fp32" for instance.
func (k Kind) String() string {
	switch k {
	case FP32:
		return "fp32"
	case FP16:
		return "fp16"
	case BF16:
		return "bf16"
	case INT8:
		return "int8"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of String.
func ParseKind(s string) (Kind, error) {
	for k := FP32; k <= INT8; k++ {
		if s == k.String() {
			return k, nil
		}
	}
	return 0, fmt.Errorf("codec: unknown wire format %q: use fp32, fp16, bf16 or int8", s)
}

// width is the number of bytes of one word, and so of planes; 0: unknown kind.
func (k Kind) width() int {
	switch k {
	case FP32:
		return 4
	case FP16, BF16:
		return 2
	case INT8:
		return 1
	}
	return 0
}

// A message, version 1. Numbers are little endian.
//
//	0  1  version
//	1  1  kind
//	2  4  n, the number of elements, at most MaxElems
//	6     ceil(n/blockElems) blocks; all hold blockElems elements, the last the rest
//
// A block of FP32, FP16 or BF16 is a body of one word an element. A block of
// INT8, with q = ceil(elements/quantBlock):
//
//	0     4*q  scales, see quant.go
//	4*q        a body of one word for each element whose scale is a number above 0
//	...        4 bytes for each element whose scale is scaleEscape, as they are
//
// A body of m words:
//
//	0  1  layout: bits 0-1 form, bits 2-6 "section i is squeezed", bit 7 zero
//	1  2  formRows only: the period p, 1..maxPeriod
//	      the sections:
//	        0     formSparse, formRows: a bit for each word, least significant
//	              first, spare bits zero; 1 says that the word is among the
//	              planes. (formDense has no section 0 and its bit 2 is zero.)
//	        1..   byte planes, most significant byte first: byte i of each of
//	              the words sent, which in formRows the p words of the base row
//	              precede (both together are at most m)
//
// A word whose bit is 0 is zero in formSparse, and word (index mod p) of the
// base row in formRows. A section's length l follows from what came before it.
// Unsqueezed it is those l bytes; squeezed it is a 2-byte length, 1 to l-1,
// and one zstd frame (RFC 8878) of l bytes of content.
//
// Version history: 1, the first.
const (
	version    = 1
	headerSize = 6

	// blockElems bounds the scratch of both sides whatever the tensor's size,
	// and keeps a block's planes in a second-level cache. It is a multiple of
	// quantBlock, and it and every section length fit 16 bits.
	blockElems = 1 << 14

	formDense  = 0
	formSparse = 1
	formRows   = 2
	formMask   = 3

	maxPlanes = 4
	maxPeriod = 2048
)

// MaxElems is the largest tensor of one message, in elements (1 GiB of float32).
const MaxElems = 1 << 28

// ErrCorrupt is wrapped by every error of Decode that is the message's fault:
// cut short, too long, or saying what cannot be.
var ErrCorrupt = errors.New("corrupt tensor message")

// MaxSize is the largest message that Encode makes of n elements, in bytes: what
// a receiver may cap its buffer at before it believes a sender's length.
func MaxSize(k Kind, n int) int {
	blocks := (n + blockElems - 1) / blockElems
	size := headerSize + blocks + n*k.width()
	if k == INT8 { // an escaped block is 4 bytes an element, and no word
		size += 3*n + 4*((n+quantBlock-1)/quantBlock)
	}
	return size
}

// putHeader appends a message's header.
func putHeader(dst []byte, k Kind, n int) []byte {
	dst = append(dst, version, byte(k))
	return binary.LittleEndian.AppendUint32(dst, uint32(n))
}

// header takes the header of a message for n elements off src.
func header(src []byte, n int) (Kind, []byte, error) {
	if len(src) < headerSize {
		return 0, nil, corrupt("%d bytes are no header of %d", len(src), headerSize)
	}
	if src[0] != version {
		return 0, nil, corrupt("version %d, this build reads %d", src[0], version)
	}
	k := Kind(src[1])
	if k.width() == 0 {
		return 0, nil, corrupt("unknown kind %d", src[1])
	}
	if got := binary.LittleEndian.Uint32(src[2:]); n > MaxElems || got != uint32(n) {
		return 0, nil, corrupt("holds %d elements, want %d", got, n)
	}
	return k, src[headerSize:], nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("codec: %w: "+format, append([]any{ErrCorrupt}, args...)...)
}
