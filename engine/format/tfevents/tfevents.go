// Package tfevents writes TensorBoard's event files, so that a run's curves show in the tool
// that people have open already.
//
// A file is a row of records: the length of an event as 8 bytes, little-endian, a checksum of
// those, the event, and a checksum of it. An event is a small protobuf message (tensorflow's
// event.proto), of which scalars need five fields; they are written here by hand.
package tfevents

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"
)

// Scalar is one point of a curve.
type Scalar struct {
	Tag   string // the curve's name; what stands before a slash groups curves
	Value float32
}

// Fields of the messages, by the numbers of event.proto and summary.proto.
const (
	eventTime    = 1 // double, seconds since 1970
	eventStep    = 2 // int64
	eventVersion = 3 // string
	eventSummary = 5 // Summary
	eventSession = 7 // SessionLog

	summaryValue = 1 // Value, repeated
	valueTag     = 1 // string
	valueSimple  = 2 // float

	sessionStatus = 1 // enum
	sessionStart  = 1 // START: what came before with this step or a later one does not count
)

// Wire types of protobuf.
const (
	varint  = 0
	fixed64 = 1
	text    = 2
	fixed32 = 5
)

// Writer writes events. Errors are those of the writer below.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter begins a file with the event that names its version.
func NewWriter(w io.Writer, now time.Time) (*Writer, error) {
	t := &Writer{w: w}
	return t, t.record(bytes(event(now, 0), eventVersion, []byte("brain.Event:2")))
}

// Restart tells that the run goes on from a step: points of it and of later ones come again.
func (t *Writer) Restart(now time.Time, step int64) error {
	return t.record(bytes(event(now, step), eventSession, number(nil, sessionStatus, sessionStart)))
}

// Write adds a point to each of the curves.
func (t *Writer) Write(now time.Time, step int64, points ...Scalar) error {
	var s []byte
	for _, p := range points {
		v := bytes(nil, valueTag, []byte(p.Tag))
		v = binary.LittleEndian.AppendUint32(key(v, valueSimple, fixed32), math.Float32bits(p.Value))
		s = bytes(s, summaryValue, v)
	}
	return t.record(bytes(event(now, step), eventSummary, s))
}

// record frames an event.
func (t *Writer) record(event []byte) error {
	b := binary.LittleEndian.AppendUint64(t.buf[:0], uint64(len(event)))
	b = binary.LittleEndian.AppendUint32(b, Checksum(b))
	b = append(b, event...)
	t.buf = binary.LittleEndian.AppendUint32(b, Checksum(event))
	if _, err := t.w.Write(t.buf); err != nil {
		return fmt.Errorf("writing an event: %w", err)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of b, masked as in TFRecord files, so that the checksum of data that
// hold checksums stays good.
func Checksum(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// event begins an event.
func event(now time.Time, step int64) []byte {
	b := key(nil, eventTime, fixed64)
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(now.UnixMicro())/1e6))
	if step != 0 {
		b = number(b, eventStep, uint64(step))
	}
	return b
}

func key(b []byte, field, wire uint64) []byte { return binary.AppendUvarint(b, field<<3|wire) }

func number(b []byte, field, v uint64) []byte { return binary.AppendUvarint(key(b, field, varint), v) }

func bytes(b []byte, field uint64, v []byte) []byte {
	return append(binary.AppendUvarint(key(b, field, text), uint64(len(v))), v...)
}
