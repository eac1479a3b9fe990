// This file exists for the sending half: a tensor to one message.
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/huff0"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Encoder makes messages of one kind. It keeps its scratch, so that in steady
// state it allocates nothing; it is not for concurrent use. It has nothing to
// close.
type Encoder struct {
	kind   Kind
	plain  bool
	huff   huff0.Scratch
	words  [blockElems]uint32
	planes [blockElems * maxPlanes]byte
	bitmap [blockElems / 8]byte
	finder finder
	rows   columns
}

// NewEncoder returns an encoder for k; an unknown k is reported by Encode.
func NewEncoder(k Kind) *Encoder {
	return &Encoder{kind: k, huff: huff0.Scratch{Reuse: huff0.ReusePolicyNone}}
}

// Plain sets whether no section is squeezed from now on: for a channel whose bytes cost less
// than making them fewer. What repeats becomes a bitmap all the same.
func (e *Encoder) Plain(yes bool) { e.plain = yes }

// Encode appends the message of x to dst and returns it. It fails, appending
// nothing, if x has more than MaxElems elements or the encoder's kind is none.
func (e *Encoder) Encode(dst []byte, x []float32) ([]byte, error) {
	if e.kind.width() == 0 {
		return dst, fmt.Errorf("codec: cannot encode as unknown %s", e.kind)
	}
	if len(x) > MaxElems {
		return dst, fmt.Errorf("codec: tensor of %d elements, a message holds %d: send it in parts", len(x), MaxElems)
	}
	dst = putHeader(dst, e.kind, len(x))
	for len(x) > 0 {
		n := min(len(x), blockElems)
		dst = e.block(dst, x[:n])
		x = x[n:]
	}
	return dst, nil
}

func (e *Encoder) block(dst []byte, x []float32) []byte {
	w := e.words[:len(x)]
	switch e.kind {
	case FP32:
		kernel.ToBits(w, x)
	case FP16:
		kernel.ToHalf(w, x)
	case BF16:
		kernel.ToBFloat16(w, x)
	case INT8:
		return e.block8(dst, x)
	}
	return e.body(dst, w, x)
}

func (e *Encoder) block8(dst []byte, x []float32) []byte {
	scales := len(dst)
	m := 0
	for i := 0; i < len(x); i += quantBlock {
		part := x[i:min(i+quantBlock, len(x))]
		scale := scaleOf(part)
		dst = binary.LittleEndian.AppendUint32(dst, scale)
		if scale == 0 || scale == scaleEscape {
			continue
		}
		inv := 127 / math.Float32frombits(scale)
		kernel.Quantise8(e.words[m:], part, inv)
		m += len(part)
	}
	end := len(dst)
	dst = e.body(dst, e.words[:m], x)
	for i := 0; i < len(x); i += quantBlock {
		if binary.LittleEndian.Uint32(dst[scales:end][i/quantBlock*4:]) == scaleEscape {
			for _, v := range x[i:min(i+quantBlock, len(x))] {
				dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
			}
		}
	}
	return dst
}

// body appends the body of w and spoils w; x is the block that w comes from.
func (e *Encoder) body(dst []byte, w []uint32, x []float32) []byte {
	width := e.kind.width()
	at := len(dst)
	dst = append(dst, formDense)
	// A bitmap costs an eighth of a byte a word and spares width bytes a word:
	// a clear gain, or the planes stay as long as they are.
	pays := func(spared int) bool { return spared*width >= len(w)/4+4 }
	bitmap := e.bitmap[:(len(w)+7)/8]
	if pays(kernel.CountZeros(w)) {
		dst[at] = formSparse
		e.rows.zeros()
		w = w[:pack(bitmap, w, &e.rows)]
		dst = e.section(dst, at, 0, bitmap)
	} else if p := e.finder.period(x); p > 0 && p < len(w) {
		base := e.rows.words[:p]
		if pays(baseRow(base, w) - p) {
			dst[at] = formRows
			dst = binary.LittleEndian.AppendUint16(dst, uint16(p))
			e.rows.repeat(p)
			n := pack(bitmap, w, &e.rows)
			dst = e.section(dst, at, 0, bitmap)
			w = w[:p+n]
			copy(w[p:], w[:n])
			copy(w, base)
		}
	}
	n := len(w)
	split(e.planes[:n*width], w, width)
	for i := range width {
		dst = e.section(dst, at, i+1, e.planes[i*n:][:n])
	}
	return dst
}

// section appends p, squeezed if that may be and is shorter, and notes it in the layout
// byte at dst[at].
func (e *Encoder) section(dst []byte, at, index int, p []byte) []byte {
	if !e.plain && worth(p) {
		start := len(dst)
		z := e.frame(append(dst, 0, 0), p)
		if n := len(z) - start - 2; n > 0 && n+2 < len(p) {
			binary.LittleEndian.PutUint16(z[start:], uint16(n))
			z[at] |= 4 << index
			return z
		}
		dst = z[:start]
	}
	return append(dst, p...)
}

// frame appends a zstd frame (RFC 8878) of p, at most blockElems bytes, or nothing if p does not get
// shorter. Its one block has a Huffman code and no sequences: to look for what repeats took up to nine times
// as long, and made planes no smaller.
func (e *Encoder) frame(dst, p []byte) []byte {
	code, _, err := huff0.Compress4X(p, &e.huff)
	same := errors.Is(err, huff0.ErrUseRLE)
	if err != nil && !same {
		return dst
	}
	dst = binary.LittleEndian.AppendUint32(dst, 0xfd2fb528)
	if n := len(p); n < 256 { // one segment of so many bytes
		dst = append(dst, 1<<5, byte(n))
	} else {
		dst = binary.LittleEndian.AppendUint16(append(dst, 1<<6|1<<5), uint16(n-256))
	}
	if same {
		return append(append24(dst, 1|1<<1|len(p)<<3), p[0]) // the last block, which repeats a byte
	}
	// Literals in four streams: both sizes have as many bits as they need.
	bits, format := 10, 1
	for len(p) >= 1<<bits {
		bits, format = bits+4, format+1
	}
	literals := 2 | uint64(format)<<2 | uint64(len(p))<<4 | uint64(len(code))<<(4+bits)
	head := (4 + 2*bits + 7) / 8
	dst = append24(dst, 1|2<<1|(head+len(code)+1)<<3) // the last block, which is compressed
	for i := range head {
		dst = append(dst, byte(literals>>(8*i)))
	}
	return append(append(dst, code...), 0) // no sequences
}

// append24 appends a number of three bytes.
func append24(dst []byte, v int) []byte { return append(dst, byte(v), byte(v>>8), byte(v>>16)) }
