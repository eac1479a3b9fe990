// Package tfevents writes the event files of TensorBoard, so that people can see the curves of
// a run in the tool that they use already.
//
// A file is a sequence of records: the length of an event (8 bytes, little-endian), a checksum
// of the length, the event, and a checksum of the event. An event is a small protobuf message
// (TensorFlow's event.proto). Scalars need only five of its fields, which are encoded by hand.
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
	Tag   string // the name of the curve; a prefix that ends in a slash groups curves
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
	sessionStart  = 1 // START: earlier events of this step or later ones are discarded
)

// Wire types of protobuf.
const (
	varint  = 0
	fixed64 = 1
	text    = 2
	fixed32 = 5
)

// Writer writes events. It returns the errors of the underlying writer.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter starts a file with the event that gives its version.
func NewWriter(w io.Writer, now time.Time) (*Writer, error) {
	t := &Writer{w: w}
	return t, t.record(bytes(event(now, 0), eventVersion, []byte("brain.Event:2")))
}

// Restart records that the run resumes at a step: points from it on will be written again.
func (t *Writer) Restart(now time.Time, step int64) error {
	return t.record(bytes(event(now, step), eventSession, number(nil, sessionStatus, sessionStart)))
}

// Write adds a point to each curve.
func (t *Writer) Write(now time.Time, step int64, points ...Scalar) error {
	var s []byte
	for _, p := range points {
		v := bytes(nil, valueTag, []byte(p.Tag))
		v = binary.LittleEndian.AppendUint32(key(v, valueSimple, fixed32), math.Float32bits(p.Value))
		s = bytes(s, summaryValue, v)
	}
	return t.record(bytes(event(now, step), eventSummary, s))
}

// record writes an event as a record.
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

// Checksum returns the CRC-32C of b, masked as in TFRecord files because the CRC of data that
// contain CRCs is weak.
func Checksum(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// event starts an event.
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
