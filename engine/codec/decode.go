// This file exists for the receiving half: one message, from whoever sent it, to
// a tensor.
package codec

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Decoder reads messages of every kind. It keeps its scratch, which does not
// grow with a message; it is not for concurrent use. It has nothing to close. Only
// NewDecoder makes one.
type Decoder struct {
	zstd   *zstd.Decoder
	words  [blockElems]uint32
	planes [blockElems * maxPlanes]byte
	bitmap [blockElems / 8]byte
	rows   columns
	steps  [256]float32
}

// NewDecoder returns a decoder.
func NewDecoder() *Decoder {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		// A section's length is known: more than that is never made room for.
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(blockElems),
		zstd.WithDecoderMaxWindow(blockElems),
	)
	if err != nil {
		panic("codec: zstd refuses our options: " + err.Error())
	}
	return &Decoder{zstd: z}
}

// Decode writes the tensor of the message src to dst, whose length is the number
// of elements that the caller waits for. Every error wraps ErrCorrupt. A message
// is checked and written in blocks of 16384 elements, each checked in full
// before it is written: after an error dst holds a part of the tensor, or
// nothing of it, and is not to be used.
func (d *Decoder) Decode(dst []float32, src []byte) error {
	k, src, err := header(src, len(dst))
	if err != nil {
		return err
	}
	for len(dst) > 0 {
		n := min(len(dst), blockElems)
		if src, err = d.block(dst[:n], src, k); err != nil {
			return err
		}
		dst = dst[n:]
	}
	if len(src) > 0 {
		return corrupt("%d bytes after the last block", len(src))
	}
	return nil
}

// block decodes one block to dst and gives what follows it.
func (d *Decoder) block(dst []float32, src []byte, k Kind) ([]byte, error) {
	if k == INT8 {
		return d.block8(dst, src)
	}
	w := d.words[:len(dst)]
	src, err := d.body(w, src, k)
	if err != nil {
		return nil, err
	}
	switch k {
	case FP32:
		kernel.FromBits(dst, w)
	case FP16:
		kernel.FromHalf(dst, w)
	case BF16:
		kernel.FromBFloat16(dst, w)
	}
	return src, nil
}

func (d *Decoder) block8(dst []float32, src []byte) ([]byte, error) {
	nq := (len(dst) + quantBlock - 1) / quantBlock
	if len(src) < 4*nq {
		return nil, corrupt("ends within the scales")
	}
	scales, src := src[:4*nq], src[4*nq:]
	m, escaped := 0, 0
	for i := range nq {
		n := min(quantBlock, len(dst)-i*quantBlock)
		switch s := binary.LittleEndian.Uint32(scales[4*i:]); {
		case !validScale(s):
			return nil, corrupt("scale %#08x", s)
		case s == scaleEscape:
			escaped += n
		case s != 0:
			m += n
		}
	}
	w := d.words[:m]
	src, err := d.body(w, src, INT8)
	if err != nil {
		return nil, err
	}
	if len(src) < 4*escaped {
		return nil, corrupt("ends within an unquantised block")
	}
	raw, src := src[:4*escaped], src[4*escaped:]
	for i := range nq {
		part := dst[i*quantBlock : min((i+1)*quantBlock, len(dst))]
		switch s := binary.LittleEndian.Uint32(scales[4*i:]); s {
		case 0:
			clear(part)
		case scaleEscape:
			for j := range part {
				part[j] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*j:]))
			}
			raw = raw[4*len(part):]
		default:
			steps(&d.steps, s)
			lookUp(part, w, &d.steps)
			w = w[len(part):]
		}
	}
	return src, nil
}

// body decodes the body of len(w) words and gives what follows it.
func (d *Decoder) body(w []uint32, src []byte, k Kind) ([]byte, error) {
	if len(src) == 0 {
		return nil, corrupt("ends before a block")
	}
	layout, src := src[0], src[1:]
	width := k.width()
	form := layout & formMask
	if form > formRows || layout>>(3+width) != 0 || form == formDense && layout&4 != 0 {
		return nil, corrupt("layout %#02x of %s", layout, k)
	}
	n, p := len(w), 0
	var bitmap []byte
	var err error
	if form == formRows {
		if len(src) < 2 {
			return nil, corrupt("ends before the period")
		}
		p = int(binary.LittleEndian.Uint16(src))
		src = src[2:]
		if p == 0 || p > maxPeriod {
			return nil, corrupt("period %d, may be 1 to %d", p, maxPeriod)
		}
	}
	if form != formDense {
		if bitmap, src, err = d.section(d.bitmap[:(n+7)/8], src, layout, 0); err != nil {
			return nil, err
		}
		if n = popcount(bitmap, n); n < 0 {
			return nil, corrupt("bitmap goes on after its %d words", len(w))
		}
		if n += p; n > len(w) {
			return nil, corrupt("%d words sent for %d", n, len(w))
		}
	}
	var planes [maxPlanes][]byte
	for i := range width {
		if planes[i], src, err = d.section(d.planes[i*n:][:n], src, layout, i+1); err != nil {
			return nil, err
		}
	}
	if k == INT8 && bytes.IndexByte(planes[0], 0x80) >= 0 {
		return nil, corrupt("element -128")
	}
	merge(w[:n], &planes, width)
	switch form {
	case formSparse:
		d.rows.zeros()
		unpack(w, bitmap, n, &d.rows)
	case formRows:
		copy(d.rows.words[:p], w)
		d.rows.repeat(p)
		copy(w, w[p:n])
		unpack(w, bitmap, n-p, &d.rows)
	}
	return src, nil
}

// section gives the len(buf) bytes of a section, in src or squeezed out into
// buf, and what follows it.
func (d *Decoder) section(buf, src []byte, layout byte, index int) (p, rest []byte, err error) {
	if layout&(4<<index) == 0 {
		if len(src) < len(buf) {
			return nil, nil, corrupt("ends within section %d", index)
		}
		return src[:len(buf)], src[len(buf):], nil
	}
	if len(src) < 2 {
		return nil, nil, corrupt("ends before section %d", index)
	}
	n := int(binary.LittleEndian.Uint16(src))
	src = src[2:]
	if n == 0 || n >= len(buf) || n > len(src) {
		return nil, nil, corrupt("section %d of %d bytes says it has %d, %d are left", index, len(buf), n, len(src))
	}
	out, err := d.zstd.DecodeAll(src[:n], buf[:0:len(buf)])
	if err != nil {
		return nil, nil, corrupt("section %d: %w", index, err)
	}
	if len(out) != len(buf) {
		return nil, nil, corrupt("section %d has %d bytes, want %d", index, len(out), len(buf))
	}
	return out, src[n:], nil
}
