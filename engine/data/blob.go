// The blob: one table as bytes that describe themselves. Its SHA-256 is its address.

package data

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/klauspost/compress/zstd"
)

// Layout of a blob, little-endian:
//
//	 0  4  magic "RVND"
//	 4  1  version
//	 5  1  kind: 0 inputs, 1 targets
//	 6  1  type of the elements: 1 uint8, 2 float32, 3 int32, 4 uint16
//	 7  1  coding of the payload: 0 none, 1 zstd
//	 8  4  classes, 0: values
//	12  4  rows
//	16  1  rank of a row
//	17  3  zero
//	20  4  each axis of a row
//	..     payload, to the end: rows * axes elements
//
// Version history: 1, first form.
const (
	blobMagic   = "RVND"
	blobVersion = 1
	blobHead    = 20
)

const (
	typeU8 = iota + 1
	typeF32
	typeI32
	typeU16
)

const (
	codingNone = iota
	codingZstd
)

// Encode is t as a blob. The payload is compressed where that saves a sixteenth or more.
func (t *Table) Encode() ([]byte, error) {
	enc, err := newEncoder(zstd.SpeedBetterCompression)
	if err != nil {
		return nil, err
	}
	b, err := t.encode(enc)
	return b, errors.Join(err, enc.Close())
}

// newEncoder returns an encoder that uses one goroutine, so that it gives the same bytes on every
// machine.
func newEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level), zstd.WithLowerEncoderMem(true))
}

func (t *Table) encode(enc *zstd.Encoder) ([]byte, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	if t.Bytes() > MaxBytes {
		return nil, bad("%v of %d bytes, at most %d are sent", t.Kind, t.Bytes(), MaxBytes)
	}
	dtype, raw := t.raw()
	coding, payload := byte(codingZstd), enc.EncodeAll(raw, nil)
	if len(payload) > len(raw)-len(raw)/16 {
		coding, payload = codingNone, raw
	}
	le := binary.LittleEndian
	b := make([]byte, 0, blobHead+4*len(t.Shape)+len(payload))
	b = append(b, blobMagic...)
	b = append(b, blobVersion, byte(t.Kind), dtype, coding)
	b = le.AppendUint32(b, uint32(t.Classes))
	b = le.AppendUint32(b, uint32(t.Rows))
	b = append(b, byte(len(t.Shape)), 0, 0, 0)
	for _, d := range t.Shape {
		b = le.AppendUint32(b, uint32(d))
	}
	return append(b, payload...), nil
}

// raw returns the elements as they are stored, and their type.
func (t *Table) raw() (dtype byte, raw []byte) {
	le := binary.LittleEndian
	switch {
	case t.F32 != nil:
		dtype, raw = typeF32, make([]byte, 0, t.Bytes())
		for _, v := range t.F32 {
			raw = le.AppendUint32(raw, math.Float32bits(v))
		}
	case t.U16 != nil:
		dtype, raw = typeU16, make([]byte, 0, t.Bytes())
		for _, v := range t.U16 {
			raw = le.AppendUint16(raw, v)
		}
	case t.I32 != nil:
		dtype, raw = typeI32, make([]byte, 0, t.Bytes())
		for _, v := range t.I32 {
			raw = le.AppendUint32(raw, uint32(v))
		}
	default:
		dtype, raw = typeU8, t.U8
	}
	return dtype, raw
}

// width returns the number of bytes of an element.
func width(dtype byte) int { return [...]int{typeU8: 1, typeF32: 4, typeI32: 4, typeU16: 2}[dtype] }

// Peek reads a blob's header: a Table without elements, and the bytes that its elements
// will take in memory. A provider can refuse a blob by it before anything is unpacked.
func Peek(blob []byte) (*Table, int, error) {
	t, h, err := head(blob)
	return t, h.size, err
}

type header struct {
	dtype, coding byte
	payload       []byte
	size          int // of the elements
}

func head(b []byte) (*Table, header, error) {
	if len(b) < blobHead || string(b[:4]) != blobMagic {
		return nil, header{}, bad("%d bytes that are not a data blob", len(b))
	}
	if b[4] != blobVersion {
		return nil, header{}, bad("a data blob of version %d, this program reads version %d", b[4], blobVersion)
	}
	le := binary.LittleEndian
	t := &Table{Kind: Kind(b[5])}
	h := header{dtype: b[6], coding: b[7]}
	classes, rows, rank := le.Uint32(b[8:]), le.Uint32(b[12:]), int(b[16])
	if b[5] > byte(Targets) || h.dtype < typeU8 || h.dtype > typeU16 || h.coding > codingZstd || b[17]|b[18]|b[19] != 0 {
		return nil, header{}, bad("a data blob of kind %d, type %d, coding %d, reserved %x", b[5], b[6], b[7], b[17:20])
	}
	if rank > maxRank || len(b) < blobHead+4*rank || rows > MaxRows || classes > MaxElems {
		return nil, header{}, bad("a data blob of %d rows of %d axes with %d classes in %d bytes", rows, rank, classes, len(b))
	}
	t.Rows, t.Classes, t.Shape = int(rows), int(classes), make([]int, rank)
	for i := range t.Shape {
		d := le.Uint32(b[blobHead+4*i:])
		if d > MaxElems {
			return nil, header{}, bad("a data blob with an axis of %d", d)
		}
		t.Shape[i] = int(d)
	}
	if err := t.checkShape(); err != nil {
		return nil, header{}, err
	}
	h.payload = b[blobHead+4*rank:]
	size := int64(t.Rows) * int64(t.stored()) * int64(width(h.dtype))
	if size > MaxBytes {
		return nil, header{}, bad("a data blob of %d bytes, at most %d are read", size, MaxBytes)
	}
	h.size = int(size)
	return t, h, nil
}

// unpack appends the stored elements to dst[:0], or returns them in place if they are not
// compressed.
func (h header) unpack(dst []byte) ([]byte, error) {
	raw := h.payload
	if h.coding == codingZstd {
		// The limit also bounds the window, which the encoder may round up.
		limit := uint64(h.size) + 1<<20
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		raw, err = dec.DecodeAll(h.payload, dst[:0])
		dec.Close()
		if err != nil {
			return nil, bad("the payload does not unpack: %w", err)
		}
	}
	if len(raw) != h.size {
		return nil, bad("a payload of %d bytes, its rows have %d", len(raw), h.size)
	}
	return raw, nil
}

// Decode reads a blob. The table may share the blob's memory.
func Decode(blob []byte) (*Table, error) {
	t, h, err := head(blob)
	if err != nil {
		return nil, err
	}
	raw, err := h.unpack(nil)
	if err != nil {
		return nil, err
	}
	t.fill(h.dtype, raw)
	return t, t.Check()
}

// fill sets the elements of t from stored ones.
func (t *Table) fill(dtype byte, raw []byte) {
	le := binary.LittleEndian
	switch dtype {
	case typeU8:
		if t.U8 = raw[:len(raw):len(raw)]; raw == nil {
			t.U8 = []uint8{}
		}
	case typeF32:
		t.F32 = make([]float32, len(raw)/4)
		for i := range t.F32 {
			t.F32[i] = math.Float32frombits(le.Uint32(raw[4*i:]))
		}
	case typeU16:
		t.U16 = make([]uint16, len(raw)/2)
		for i := range t.U16 {
			t.U16[i] = le.Uint16(raw[2*i:])
		}
	case typeI32:
		t.I32 = make([]int32, len(raw)/4)
		for i := range t.I32 {
			t.I32[i] = int32(le.Uint32(raw[4*i:]))
		}
	}
}
