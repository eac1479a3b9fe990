package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var kinds = []Kind{FP32, FP16, BF16, INT8}

func TestKindNames(t *testing.T) {
	for i, name := range []string{"fp32", "fp16", "bf16", "int8"} {
		k, err := ParseKind(name)
		if err != nil || k != kinds[i] || k.String() != name {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
	for _, name := range []string{"", "FP32", "int4", "kind(0)"} {
		if _, err := ParseKind(name); err == nil {
			t.Errorf("%q has been accepted", name)
		}
	}
}

// fills are the contents that every kind has to carry at every length. They use
// integers only, so they are the same on every platform.
var fills = map[string]func(r *rand.Rand, x []float32){
	"zero":  func(_ *rand.Rand, x []float32) { clear(x) },
	"const": func(_ *rand.Rand, x []float32) { fill(x, func(int) uint32 { return 0x3f8ccccd }) },
	"noise": func(r *rand.Rand, x []float32) { fill(x, func(int) uint32 { return number(r) }) },
	"bits":  func(r *rand.Rand, x []float32) { fill(x, func(int) uint32 { return r.Uint32() }) },
	"relu": func(r *rand.Rand, x []float32) {
		fill(x, func(int) uint32 {
			if r.IntN(10) < 7 {
				return 0
			}
			return number(r) &^ (1 << 31)
		})
	},
	"rows": func(r *rand.Rand, x []float32) {
		var base [32]uint32
		for i := range base {
			base[i] = number(r)
		}
		fill(x, func(i int) uint32 {
			if r.IntN(10) < 7 {
				return base[i%32]
			}
			return number(r)
		})
	},
	"special": func(r *rand.Rand, x []float32) {
		odd := []uint32{0, 1 << 31, 1, 0x80000001, 0x7fffff, infBits, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff, 0x7f7fffff, 0x00800000}
		fill(x, func(int) uint32 { return odd[r.IntN(len(odd))] })
	},
	"lonely": func(r *rand.Rand, x []float32) { // zeros, one NaN
		clear(x)
		if len(x) > 0 {
			x[r.IntN(len(x))] = float32(math.NaN())
		}
	},
	"negzero": func(r *rand.Rand, x []float32) {
		fill(x, func(int) uint32 { return uint32(r.IntN(10)/9) << 31 })
	},
}

func fill(x []float32, f func(i int) uint32) {
	for i := range x {
		x[i] = math.Float32frombits(f(i))
	}
}

// number gives the bits of a float whose exponent is distributed like a trained
// tensor's: few large, many small.
func number(r *rand.Rand) uint32 {
	b := r.Uint64()
	e := uint32(126 - bits.TrailingZeros64(b|1<<40))
	return uint32(b>>32)&0x807fffff | e<<23
}

var lengths = []int{0, 1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127, 1009, 2048, 4095, 4096, 4097, 8191, 12289, 16383, 16384, 16385, 20479, 33333}

func eachInput(f func(name string, x []float32)) {
	names := make([]string, 0, len(fills))
	for name := range fills {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, n := range lengths {
			x := make([]float32, n)
			fills[name](rand.New(rand.NewPCG(uint64(n), 7)), x)
			f(name, x)
		}
	}
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if g, w := math.Float32bits(got[i]), math.Float32bits(want[i]); g != w {
			t.Fatalf("%s: element %d of %d is %#08x, want %#08x", what, i, len(want), g, w)
		}
	}
}

// What comes out is what roundTrip says, for fp32 what went in, to the bit; the
// message keeps within MaxSize; and neither side remembers the message before.
func TestEncodeDecode(t *testing.T) {
	d := NewDecoder()
	for _, k := range kinds {
		e := NewEncoder(k)
		var buf []byte
		shorter := 0 // bytes that squeezing has saved
		eachInput(func(name string, x []float32) {
			what := k.String() + " " + name
			want := make([]float32, len(x))
			roundTrip(k, want, x)
			if k == FP32 {
				sameBits(t, what+" round trip", want, x)
			}
			in := slices.Clone(x)
			prefix := "kept"
			var err error
			buf, err = e.Encode(append(buf[:0], prefix...), x)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			sameBits(t, what+" input", x, in)
			msg, ok := bytes.CutPrefix(buf, []byte(prefix))
			if !ok {
				t.Fatalf("%s: what was before the message is lost", what)
			}
			if len(msg) > MaxSize(k, len(x)) {
				t.Fatalf("%s: %d bytes of %d elements, MaxSize says %d", what, len(msg), len(x), MaxSize(k, len(x)))
			}
			got := make([]float32, len(x))
			if err := d.Decode(got, msg); err != nil {
				t.Fatalf("%s, %d elements: %v", what, len(x), err)
			}
			sameBits(t, what, got, want)
			fresh, err := NewEncoder(k).Encode(nil, x)
			if err != nil || !bytes.Equal(fresh, msg) {
				t.Fatalf("%s, %d elements: a used encoder's bytes differ from a new one's", what, len(x))
			}
			e.Plain(true)
			plain, err := e.Encode(nil, x)
			e.Plain(false)
			if err != nil || len(plain) < len(msg) || len(plain) > MaxSize(k, len(x)) {
				t.Fatalf("%s, %d elements: plain %d bytes, %v, squeezed %d", what, len(x), len(plain), err, len(msg))
			}
			shorter += len(plain) - len(msg)
			if err := d.Decode(got, plain); err != nil {
				t.Fatalf("%s, %d elements, plain: %v", what, len(x), err)
			}
			sameBits(t, what+", plain", got, want)
		})
		if shorter == 0 {
			t.Errorf("%s: nothing was squeezed: the test has not tested", k)
		}
	}
}

// The bytes are the same on every platform. They change with the wire format,
// with what the encoder chooses and possibly with a new version of the huff0
// package (which decoders do not notice); only then may this sum change.
func TestGoldenBytes(t *testing.T) {
	h := fnv.New64a()
	for _, k := range kinds {
		e := NewEncoder(k)
		eachInput(func(_ string, x []float32) {
			b, err := e.Encode(nil, x)
			if err != nil {
				t.Fatal(err)
			}
			h.Write(b)
		})
	}
	if got := h.Sum64(); got != goldenBytes {
		t.Errorf("the messages' sum is %#016x, want %#016x", got, uint64(goldenBytes))
	}
}

const goldenBytes = 0x07b86709c101837f

// Messages as version 1 has them: these have to decode for ever, whatever an
// encoder makes of the same tensor one day.
func TestGoldenMessages(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		name, msg string
		want      []float32
	}{
		{"empty", "01 01 00000000", nil},
		{"fp32 dense", "01 01 02000000  00  3fc0 8000 0000 0001", []float32{1, math.Float32frombits(0xc0000001)}},
		{"fp32 sparse", "01 01 09000000  01  0101  3f40 8000 0000 0000", []float32{1, 0, 0, 0, 0, 0, 0, 0, 2}},
		{"fp32 rows", "01 01 05000000  02  0200  08  3f4040 800040 000000 000000", []float32{1, 2, 1, 3, 1}},
		{"fp16", "01 02 03000000  00  3cfc7e 000000", []float32{1, float32(math.Inf(-1)), nan}},
		{"bf16", "01 03 02000000  00  3f7f 8080", []float32{1, float32(math.Inf(1))}},
		{"int8", "01 04 03000000  0000fe42  00  7f01ff", []float32{127, 1, -1}},
		{"int8 zero", "01 04 03000000  00000000  00", []float32{0, 0, 0}},
		{"int8 escape", "01 04 02000000  0000c07f  00  0000c07f 0000803f", []float32{nan, 1}},
		{
			"fp16 squeezed", "01 02 c8000000  18" + // two frames of one run-length block each
				"0a00 28b52ffd 20 c8 430600 3c" + "0a00 28b52ffd 20 c8 430600 00",
			slices.Repeat([]float32{1}, 200),
		},
	} {
		msg, err := hex.DecodeString(strings.ReplaceAll(c.msg, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(c.want))
		if err := NewDecoder().Decode(got, msg); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		sameBits(t, c.name, got, c.want)
	}
}

// TestFrames: what the encoder writes are frames that any zstd reads, whatever their sizes.
func TestFrames(t *testing.T) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r := rand.New(rand.NewPCG(7, 8))
	e := NewEncoder(FP32)
	for _, n := range []int{12, 64, 255, 256, 257, 1023, 1024, 1025, 5000, 16383, blockElems} {
		for _, symbols := range []int{1, 2, 3, 20, 128} {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.ExpFloat64() * float64(symbols-1) / 4)
			}
			b := e.frame([]byte("before"), p)
			frame, ok := bytes.CutPrefix(b, []byte("before"))
			if !ok || len(frame) == 0 && n >= 1000 {
				t.Fatalf("%d bytes of about %d symbols: a frame of %d", n, symbols, len(frame))
			}
			if len(frame) == 0 {
				continue
			}
			got, err := z.DecodeAll(frame, nil)
			if err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%d bytes of about %d symbols: %v", n, symbols, err)
			}
		}
	}
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	if b := e.frame(nil, noise); len(b) > 0 && len(b) < len(noise) {
		t.Errorf("noise of %d bytes became %d", len(noise), len(b))
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, k := range []Kind{0, 5, 255} {
		if b, err := NewEncoder(k).Encode([]byte("x"), []float32{1}); err == nil || string(b) != "x" {
			t.Errorf("%s: %q, %v", k, b, err)
		}
	}
	var e Encoder
	if _, err := e.Encode(nil, []float32{1}); err == nil {
		t.Error("the zero Encoder has no kind, and encoded")
	}
}

// The two transforms and the planes do what they are there for.
func TestSizes(t *testing.T) {
	tensors := makeTensors()
	limit := map[string][4]float64{ // largest ratio to float32, by kind
		"act": {0.30, 0.16, 0.14, 0.10}, "norm": {0.31, 0.17, 0.15, 0.16},
		"grad": {0.87, 0.42, 0.37, 0.18}, "small": {0.40, 0.22, 0.19, 0.14},
	}
	for i, k := range kinds {
		e := NewEncoder(k)
		tensors.each(func(name string, x []float32) {
			b, err := e.Encode(nil, x)
			if err != nil {
				t.Fatal(err)
			}
			if got := float64(len(b)) / float64(4*len(x)); got > limit[name][i] {
				t.Errorf("%s %s: ratio %.3f, want %.3f or less", k, name, got, limit[name][i])
			}
		})
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool, which zstd uses, forget at random")
	}
	d := NewDecoder()
	for _, k := range kinds {
		e := NewEncoder(k)
		makeTensors().each(func(name string, x []float32) {
			buf := make([]byte, 0, MaxSize(k, len(x))+64)
			dst := make([]float32, len(x))
			run := func() {
				b, err := e.Encode(buf, x)
				if err == nil {
					err = d.Decode(dst, b)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			run()
			if n := testing.AllocsPerRun(20, run); n >= 1 {
				t.Errorf("%s %s: %v allocations", k, name, n)
			}
		})
	}
}

// Three providers share a small machine: one encoder and one decoder together
// stay below 2 MB of heap, after use.
func TestHeap(t *testing.T) {
	x := make([]float32, 3*blockElems)
	fills["rows"](rand.New(rand.NewPCG(5, 6)), x)
	dst := make([]float32, len(x))
	buf := make([]byte, 0, MaxSize(FP32, len(x)))
	var before, after runtime.MemStats
	runtime.GC() // twice: pools give up what they hold at the second
	runtime.GC()
	runtime.ReadMemStats(&before)
	e, d := NewEncoder(FP32), NewDecoder()
	for range 3 {
		b, err := e.Encode(buf, x)
		if err == nil {
			err = d.Decode(dst, b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for _, v := range []any{e, d, x, dst, buf} {
		runtime.KeepAlive(v)
	}
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("an encoder and a decoder hold %d kB", used>>10)
	if used > 2<<20 {
		t.Errorf("an encoder and a decoder hold %d bytes, want 2 MB or less", used)
	}
}

// mustFail decodes a bad message and checks that it says so, within bounds.
func mustFail(t *testing.T, d *Decoder, what string, n int, msg []byte) {
	t.Helper()
	if err := d.Decode(make([]float32, n), msg); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%s: error is %v", what, err)
	}
}

func TestDecodeTruncated(t *testing.T) {
	d := NewDecoder()
	for _, k := range kinds {
		e := NewEncoder(k)
		for name := range fills {
			x := make([]float32, 1009)
			fills[name](rand.New(rand.NewPCG(8, 9)), x)
			msg, err := e.Encode(nil, x)
			if err != nil {
				t.Fatal(err)
			}
			for n := range msg {
				mustFail(t, d, k.String()+" "+name+" cut short", len(x), msg[:n])
			}
			mustFail(t, d, "too long", len(x), append(slices.Clone(msg), 0))
			mustFail(t, d, "one element more", len(x)+1, msg)
			mustFail(t, d, "one element less", len(x)-1, msg)
			if err := d.Decode(x, msg); err != nil { // and none of that has hurt the decoder
				t.Errorf("%s %s: %v", k, name, err)
			}
		}
	}
}

func TestDecodeFlipped(t *testing.T) {
	// A flipped bit of a raw plane is another tensor; integrity is the
	// channel's. Here: no panic, no wild allocation, the decoder stays usable.
	d := NewDecoder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	decodes := uint64(0)
	for _, k := range kinds {
		for _, name := range []string{"relu", "rows", "noise", "lonely"} {
			x := make([]float32, 300)
			fills[name](rand.New(rand.NewPCG(10, 11)), x)
			dst := make([]float32, len(x))
			msg, err := NewEncoder(k).Encode(nil, x)
			if err != nil {
				t.Fatal(err)
			}
			for i := range msg {
				for bit := range 8 {
					msg[i] ^= 1 << bit
					if err := d.Decode(dst, msg); err != nil && !errors.Is(err, ErrCorrupt) {
						t.Fatalf("error does not wrap ErrCorrupt: %v", err)
					}
					msg[i] ^= 1 << bit
					decodes++
				}
			}
			if err := d.Decode(dst, msg); err != nil {
				t.Fatalf("%s %s: the decoder is spoilt: %v", k, name, err)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / decodes; got > 8<<10 {
		t.Errorf("%d bytes allocated per message, in the mean", got)
	}
}

// decodeWithin decodes what may be anything and fails if that panics, gives an
// error that is not ErrCorrupt, or allocates more than the decoder's scratch.
func decodeWithin(t *testing.T, d *Decoder, n int, msg []byte) {
	t.Helper()
	dst := make([]float32, n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := d.Decode(dst, msg)
	runtime.ReadMemStats(&after)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatalf("error does not wrap ErrCorrupt: %v", err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Fatalf("decoding %d bytes allocated %d", len(msg), got)
	}
}

func TestDecodeHostile(t *testing.T) {
	d := NewDecoder()
	h := func(k Kind, n int, rest ...byte) []byte { return append(putHeader(nil, k, n), rest...) }
	with := func(i int, v byte, msg []byte) []byte { msg[i] = v; return msg }
	// A frame of 64 bytes of content, made longer by a frame to be skipped.
	padded := func(size int) []byte {
		f := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 64, 3, 2, 0, 0} // one run-length block
		f = append(f, 0x50, 0x2a, 0x4d, 0x18, byte(size-len(f)-8), 0, 0, 0)
		return append(f, make([]byte, size-len(f))...)
	}
	squeezed := func(size int) []byte {
		return slices.Concat(h(FP16, 64, 8, byte(size), 0), padded(size), make([]byte, 64))
	}
	if err := d.Decode(make([]float32, 64), squeezed(63)); err != nil {
		t.Errorf("a section one byte shorter for being squeezed: %v", err)
	}
	for name, c := range map[string]struct {
		n   int
		msg []byte
	}{
		"squeezed, but as long":   {64, squeezed(64)},
		"squeezed, but longer":    {64, squeezed(65)},
		"period above its limit":  {6000, append(h(FP16, 6000, 2, 1, 8), make([]byte, 750+2*2049)...)},
		"nothing":                 {0, nil},
		"version 0":               {0, with(0, 0, h(FP32, 0))},
		"version 2":               {0, with(0, 2, h(FP32, 0))},
		"kind 0":                  {0, h(0, 0)},
		"kind 5":                  {0, h(5, 0)},
		"4 Gi elements":           {1, h(FP32, -1, 0, 0, 0, 0, 0)},
		"form 3":                  {1, h(FP32, 1, 3, 0, 0, 0, 0)},
		"bit 7":                   {1, h(FP32, 1, 0x80, 0, 0, 0, 0)},
		"plane that int8 has not": {1, h(INT8, 1, 0, 0, 0x80, 0x3f, 0x10, 1)},
		"dense with a bitmap":     {1, h(FP32, 1, 4, 0, 0, 0, 0)},
		"spare bits of a bitmap":  {1, h(FP32, 1, 1, 2, 0, 0, 0, 0)},
		"period 0":                {2, h(INT8, 2, 0, 0, 0x80, 0x3f, 2, 0, 0, 0, 1, 1)},
		"period above the words":  {2, h(INT8, 2, 0, 0, 0x80, 0x3f, 2, 3, 0, 0, 1, 1, 1)},
		"more words than fit":     {2, h(INT8, 2, 0, 0, 0x80, 0x3f, 2, 1, 0, 3, 1, 1, 1)},
		"largest period":          {2, h(INT8, 2, 0, 0, 0x80, 0x3f, 2, 255, 255, 0, 1, 1, 1)},
		"negative scale":          {1, h(INT8, 1, 0, 0, 0x80, 0xbf, 0, 1)},
		"infinite scale":          {1, h(INT8, 1, 0, 0, 0x80, 0x7f, 0, 1)},
		"tiny scale":              {1, h(INT8, 1, 1, 0, 0, 0, 0, 1)},
		"another NaN as scale":    {1, h(INT8, 1, 1, 0, 0xc0, 0x7f, 0, 1)},
		"element -128":            {1, h(INT8, 1, 0, 0, 0x80, 0x3f, 0, 0x80)},
		"words of a zero block":   {1, h(INT8, 1, 0, 0, 0, 0, 0, 1)},
		"squeezed to nothing":     {64, h(FP16, 64, 8, 0, 0)},
		"squeezed to more":        {64, h(FP16, 64, 8, 200, 0)},
		"not a frame":             {64, append(h(FP16, 64, 8, 20, 0), make([]byte, 84)...)},
	} {
		mustFail(t, d, name, c.n, c.msg)
	}
}

// A section's frame says how much it holds, or does not; it may be many frames,
// or none. Whatever it says, there is room for the section and no more.
func TestDecodeBomb(t *testing.T) {
	const n = 1000
	pack := func(size int, stream bool) []byte {
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(16<<10))
		if err != nil {
			t.Fatal(err)
		}
		if !stream {
			return z.EncodeAll(make([]byte, size), nil)
		}
		for range size >> 10 {
			if _, err := z.Write(make([]byte, 1<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	skip := append(binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, 100), make([]byte, 100)...)
	for name, frame := range map[string][]byte{
		"a byte more":       pack(n+1, false),
		"a byte less":       pack(n-1, false),
		"megabytes":         pack(16<<20, false),
		"megabytes, silent": pack(8<<20, true),
		"two frames":        append(pack(n, false), pack(n, false)...),
		"only skippable":    skip,
		"frame cut short":   pack(n, false)[:6],
		"frame with a tail": append(pack(n, false), 1, 2, 3, 4, 5),
		// Single segment, content size 2^60, one RLE block.
		"claims an exabyte": {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x43, 0x1f, 0, 0},
		// Content of n bytes, a dictionary that nobody has.
		"wants a dictionary": {0x28, 0xb5, 0x2f, 0xfd, 0x61, 7, 0xe8, 2, 0x43, 0x1f, 0, 0},
	} {
		if len(frame) >= n {
			frame = frame[:n-1] // "megabytes": the beginning is bad enough
		}
		msg := putHeader(nil, BF16, n)
		msg = append(msg, 8) // plane 0 is squeezed
		msg = binary.LittleEndian.AppendUint16(msg, uint16(len(frame)))
		msg = append(append(msg, frame...), make([]byte, n)...)
		d := NewDecoder()
		mustFail(t, d, name, n, msg)
		decodeWithin(t, d, n, msg)
		// The decoder is as good as before.
		x := make([]float32, n)
		good, err := NewEncoder(BF16).Encode(nil, x)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Decode(x, good); err != nil {
			t.Errorf("after %q: %v", name, err)
		}
	}
}

// A block that is bad is not written, not even in part.
func TestDecodeWritesNothingBad(t *testing.T) {
	x := make([]float32, blockElems+100)
	fills["noise"](rand.New(rand.NewPCG(1, 1)), x)
	for _, k := range kinds {
		msg, err := NewEncoder(k).Encode(nil, x)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, len(x))
		fill(dst, func(int) uint32 { return 0x12345678 })
		mustFail(t, NewDecoder(), k.String(), len(x), msg[:len(msg)-1])
		if err := NewDecoder().Decode(dst, msg[:len(msg)-1]); err == nil {
			t.Fatal("no error")
		}
		for i, v := range dst[blockElems:] {
			if math.Float32bits(v) != 0x12345678 {
				t.Fatalf("%s: element %d of the bad block has been written", k, i)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, k := range kinds {
		e := NewEncoder(k)
		for _, fill := range fills {
			for _, n := range []int{0, 1, 70, 600} {
				x := make([]float32, n)
				fill(rand.New(rand.NewPCG(12, 13)), x)
				msg, err := e.Encode(nil, x)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(uint16(n), msg)
			}
		}
	}
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, n uint16, msg []byte) {
		decodeWithin(t, d, int(n), msg)
	})
}

func FuzzEncode(f *testing.F) {
	for _, k := range kinds {
		for _, fill := range fills {
			x := make([]float32, 500)
			fill(rand.New(rand.NewPCG(14, 15)), x)
			b, err := binary.Append(nil, binary.LittleEndian, x)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(k), uint16(0), b)
		}
	}
	encoders := map[Kind]*Encoder{}
	for _, k := range kinds {
		encoders[k] = NewEncoder(k)
	}
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, k uint8, repeat uint16, b []byte) {
		e := encoders[Kind(k)]
		if e == nil {
			return
		}
		x := make([]float32, len(b)/4)
		if _, err := binary.Decode(b, binary.LittleEndian, x); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		// Repeating the input reaches the later blocks without long inputs.
		for n := len(x); n > 0 && len(x) < int(repeat); {
			x = append(x, x[:n]...)
		}
		msg, err := e.Encode(nil, x)
		if err != nil {
			t.Fatal(err)
		}
		if len(msg) > MaxSize(e.kind, len(x)) {
			t.Fatalf("%d bytes, MaxSize says %d", len(msg), MaxSize(e.kind, len(x)))
		}
		got, want := make([]float32, len(x)), make([]float32, len(x))
		if err := d.Decode(got, msg); err != nil {
			t.Fatal(err)
		}
		roundTrip(e.kind, want, x)
		sameBits(t, "decoded", got, want)
	})
}
