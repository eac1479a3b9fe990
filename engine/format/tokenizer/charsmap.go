// The table by which SentencePiece normalises characters: a double array (Aoe 1989, in the form of
// the library Darts-clone) from texts to places in a list of replacements.

package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// charsmap is such a table.
type charsmap struct {
	units []uint32
	texts string      // each ends with a zero byte
	ascii [128]string // replacements of single ASCII characters, themselves where there is none
}

// Bits of a unit: of an inner node a label in the low byte, whether it has a leaf, and the offset to
// its children; of a leaf the place in the texts.
const (
	unitLeaf  = 1 << 8
	unitLabel = 1<<31 | 0xff
	unitValue = 1<<31 - 1
)

// maxReplacement bounds a replacement, so that no text grows much; real ones have up to 33 bytes.
const maxReplacement = 256

func unitOffset(u uint32) uint32 { return u >> 10 << (u & (1 << 9) >> 6) }

func readCharsmap(encoded string) (*charsmap, error) {
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, bad("precompiled_charsmap: %w", err)
	}
	if len(b) < 8 {
		return nil, bad("precompiled_charsmap has %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[4:]; n < 4 || n%4 != 0 || int64(n) > int64(len(b)) {
		return nil, bad("precompiled_charsmap: a table of %d bytes, of which %d are there", n, len(b))
	}
	m := &charsmap{texts: string(b[n:])}
	if !utf8.ValidString(m.texts) {
		return nil, bad("precompiled_charsmap: its texts are not UTF-8")
	}
	for text := range strings.SplitSeq(m.texts, "\x00") {
		if len(text) > maxReplacement {
			return nil, bad("precompiled_charsmap: a replacement of %d bytes, at most %d are read", len(text), maxReplacement)
		}
	}
	for i := 0; i < int(n); i += 4 {
		m.units = append(m.units, binary.LittleEndian.Uint32(b[i:]))
	}
	for c := range m.ascii {
		s := string(rune(c))
		if m.ascii[c] = s; c > 0 {
			if to, ok := m.find(s); ok {
				m.ascii[c] = to
			}
		}
	}
	return m, nil
}

// find returns the replacement of the shortest text in the table that s begins with.
func (m *charsmap) find(s string) (string, bool) {
	at := unitOffset(m.units[0])
	for i := range len(s) {
		if at ^= uint32(s[i]); s[i] == 0 || int(at) >= len(m.units) {
			return "", false
		}
		u := m.units[at]
		if u&unitLabel != uint32(s[i]) {
			return "", false
		}
		if at ^= unitOffset(u); u&unitLeaf == 0 {
			continue
		}
		if int(at) >= len(m.units) || int(m.units[at]&unitValue) > len(m.texts) {
			return "", false
		}
		to, _, _ := strings.Cut(m.texts[m.units[at]&unitValue:], "\x00")
		return to, utf8.ValidString(to)
	}
	return "", false
}

// longest is the most bytes that characters have which are looked up together.
const longest = 5

// normalise replaces what a person takes for a character, where it has few bytes and the table knows
// it, and else each code point. The replacement is that of the beginning alone: so does Hugging
// Face's library, by which models were trained.
func (m *charsmap) normalise(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	state := -1
	for s != "" {
		// Between two ASCII characters there is always a boundary, except in CR LF.
		if s[0] < utf8.RuneSelf && (len(s) == 1 || s[1] < utf8.RuneSelf) && s[0] != '\r' {
			b.WriteString(m.ascii[s[0]])
			s, state = s[1:], -1
			continue
		}
		var c string
		c, s, _, state = uniseg.FirstGraphemeClusterInString(s, state)
		if len(c) <= longest {
			if to, ok := m.find(c); ok {
				b.WriteString(to)
				continue
			}
		}
		for i, r := range c {
			if to, ok := m.find(c[i : i+utf8.RuneLen(r)]); ok {
				b.WriteString(to)
			} else {
				b.WriteRune(r)
			}
		}
	}
	return b.String()
}
