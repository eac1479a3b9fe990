package stage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"testing"

	"github.com/ravnest/ravnest/engine/kernel"
)

// counted is n bytes, all different from their neighbours.
func counted(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func compressed(key string, bs ...[]byte) []byte {
	h, c := sha256.New(), newCompressor([]byte(key))
	for _, b := range bs {
		c.write(h, b)
	}
	return h.Sum(nil)
}

// slowly is what compressed says, with big integers and a block at a time.
func slowly(key string, b []byte) []byte {
	c, h := newCompressor([]byte(key)), sha256.New()
	n := len(b)
	for len(b) > 0 {
		block := make([]byte, blockBytes)
		b = b[copy(block, b):]
		word := func(i int) *big.Int {
			return new(big.Int).SetUint64(binary.LittleEndian.Uint64(block[8*i:]) + c.key[i])
		}
		sum := new(big.Int)
		for i := 0; i < blockWords; i += 2 {
			sum.Add(sum, new(big.Int).Mul(word(i), word(i+1)))
		}
		low := sum.Mod(sum, new(big.Int).Lsh(big.NewInt(1), 128)).FillBytes(make([]byte, 16))
		for i := range low[:8] {
			low[i], low[15-i] = low[15-i], low[i]
		}
		h.Write(low)
	}
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
	return h.Sum(nil)
}

func TestCompressor(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 1023, 1024, 1025, 4096, 100_000} {
		if got, want := compressed("key", counted(n)), slowly("key", counted(n)); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
	// What all machines have to agree on.
	const want = "fe8ac71ae514d35c8896e8ee4c636d26b957a91ab8b9cef0e013f1458dffa903"
	if got := hex.EncodeToString(compressed("key", counted(5000)[:4999])); got != want {
		t.Errorf("4999 bytes have the digest %s, want %s", got, want)
	}
	x := make([]float32, 777)
	kernel.Normal(x, kernel.NewStream(1, kernel.DomainTest, 0, 0))
	var b []byte
	for _, v := range x {
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	h := sha256.New()
	newCompressor([]byte("key")).tensor(h, x)
	if !bytes.Equal(h.Sum(nil), compressed("key", b)) {
		t.Error("a tensor is not hashed as little-endian float32")
	}
}

// TestCompressorTells: what differs has another digest, be it in one bit, in its length or in where
// one message ends and the next begins.
func TestCompressorTells(t *testing.T) {
	seen := map[string]string{}
	tell := func(what string, sum []byte) {
		if had, ok := seen[string(sum)]; ok {
			t.Errorf("%s and %s have the same digest", had, what)
		}
		seen[string(sum)] = what
	}
	b := counted(3000)
	tell("it", compressed("key", b))
	tell("it under another key", compressed("kez", b))
	for i := range 8 * len(b) {
		b[i/8] ^= 1 << (i % 8)
		tell(fmt.Sprintf("it with bit %d changed", i), compressed("key", b))
		b[i/8] ^= 1 << (i % 8)
	}
	zeros := make([]byte, 2100)
	for n := range zeros {
		tell(fmt.Sprintf("%d zeros", n), compressed("key", zeros[:n]))
	}
	for n := 1; n < 50; n++ {
		tell(fmt.Sprintf("two messages, the first of %d bytes", n), compressed("key", b[:n], b[n:]))
	}
}

// TestForgery: who knows a key makes two messages with one digest. Under a key that it does not know
// they are told apart, which is why every stage has its own.
func TestForgery(t *testing.T) {
	c := newCompressor([]byte("known"))
	right := make([]byte, blockBytes)
	binary.LittleEndian.PutUint64(right, -c.key[0]) // what it is multiplied by does not matter
	wrong := bytes.Clone(right)
	binary.LittleEndian.PutUint64(wrong[8:], 12345)
	if !bytes.Equal(compressed("known", right), compressed("known", wrong)) {
		t.Error("the forgery does not succeed under the key that it is made for: what is known of NH is not true of this")
	}
	if bytes.Equal(compressed("secret", right), compressed("secret", wrong)) {
		t.Error("a forgery succeeds under another key")
	}
}

// BenchmarkCompressor hashes a tensor of 32 KiB, as a stage does at each end of a link.
func BenchmarkCompressor(b *testing.B) {
	x := make([]float32, 8192)
	kernel.Normal(x, kernel.NewStream(1, kernel.DomainTest, 0, 0))
	h, c := sha256.New(), newCompressor(nil)
	b.SetBytes(4 * 8192)
	for b.Loop() {
		c.tensor(h, x)
	}
}
