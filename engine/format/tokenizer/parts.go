// What happens to a text before the model sees its words: normalizers change it, pre-tokenizers
// split it.

package tokenizer

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalizer changes a text.
type normalizer struct {
	do       func(string) string
	prepends bool // it adds something at the beginning of a text
	strips   bool // it removes spaces there
	grows    int  // how many times as long a text becomes at most, where it is a replacement; 0: about as long
}

// maxGrowth bounds how many times as long all replacements together make a text. Real ones make it
// three times as long where every character is a space.
const maxGrowth = 4096

// growth is how many times as long a text becomes whose pieces of so many bytes are replaced.
func growth(old int, content string) int {
	if old == 0 { // between all bytes
		return 1 + len(content)
	}
	return max(1, (len(content)+old-1)/old)
}

// metaspaceRune stands for a space in the vocabularies of SentencePiece.
const metaspaceRune = "\u2581"

// place says where a piece of text is.
type place struct {
	first  bool // at the beginning of the text
	begins bool // it does not continue a text that was cut
}

// splitter appends the pieces of s to dst.
type splitter func(dst []string, s string, at place) []string

// preTokenizer is a step of splitting a text into words.
type preTokenizer struct {
	split  splitter
	spaces bool // at spaces, which it removes: what it gives continues nothing
}

// space is Unicode's White_Space.
func space(r rune) bool { return unicode.Is(unicode.White_Space, r) }

func isLetter(r rune) bool { return unicode.IsLetter(r) }

// wordRune is \w of Unicode's regular expressions.
func wordRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.Is(unicode.M, r) || unicode.Is(unicode.Nd, r) || unicode.Is(unicode.Nl, r) || unicode.Is(unicode.Pc, r) ||
		unicode.Is(unicode.Other_Alphabetic, r) || unicode.Is(unicode.Join_Control, r)
}

// punctuation is what BERT takes for punctuation.
func punctuation(r rune) bool {
	return r < 128 && r > 32 && r != 127 && !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') || unicode.IsPunct(r)
}

// pattern is what Replace and Split search for.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

func null(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func readNormalizer(raw json.RawMessage, depth int) ([]normalizer, error) {
	if null(raw) {
		return nil, nil
	}
	var n struct {
		Type        string            `json:"type"`
		Normalizers []json.RawMessage `json:"normalizers"`
		Clean       bool              `json:"clean_text"`
		Chinese     bool              `json:"handle_chinese_chars"`
		Accents     *bool             `json:"strip_accents"`
		Lower       bool              `json:"lowercase"`
		Prepend     string            `json:"prepend"`
		Pattern     pattern           `json:"pattern"`
		Content     string            `json:"content"`
		Left        bool              `json:"strip_left"`
		Right       bool              `json:"strip_right"`
		Charsmap    string            `json:"precompiled_charsmap"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, bad("its normalizer: %w", err)
	}
	one := func(f func(string) string) ([]normalizer, error) { return []normalizer{{do: f}}, nil }
	switch n.Type {
	case "Sequence":
		return readNormalizers(n.Normalizers, depth)
	case "NFC":
		return one(norm.NFC.String)
	case "NFD":
		return one(norm.NFD.String)
	case "NFKC":
		return one(norm.NFKC.String)
	case "NFKD":
		return one(norm.NFKD.String)
	case "Lowercase":
		return one(lower)
	case "StripAccents":
		return one(func(s string) string { return without(unicode.M, s) })
	case "Precompiled":
		if n.Charsmap == "" { // as SentencePiece's identity
			return nil, nil
		}
		m, err := readCharsmap(n.Charsmap)
		if err != nil {
			return nil, err
		}
		return one(m.normalise)
	case "Nmt":
		return one(nmt)
	case "BertNormalizer":
		return one(bert(n.Clean, n.Chinese, n.Accents != nil && *n.Accents || n.Accents == nil && n.Lower, n.Lower))
	case "Prepend":
		return []normalizer{{prepends: true, do: func(s string) string {
			if s == "" {
				return s
			}
			return n.Prepend + s
		}}}, nil
	case "Strip":
		return []normalizer{{strips: n.Left, do: func(s string) string {
			if n.Left {
				s = strings.TrimLeftFunc(s, space)
			}
			if n.Right {
				s = strings.TrimRightFunc(s, space)
			}
			return s
		}}}, nil
	case "Replace":
		return replacement(&n.Pattern, n.Content)
	}
	return nil, bad("a normalizer of type %.40q, which is not supported", n.Type)
}

// readNormalizers reads a sequence, which is so deep in others.
func readNormalizers(raw []json.RawMessage, depth int) ([]normalizer, error) {
	if len(raw) > maxParts || depth > 2 {
		return nil, bad("a sequence of %d normalizers", len(raw))
	}
	var all []normalizer
	for _, r := range raw {
		f, err := readNormalizer(r, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, f...)
	}
	times := 1
	for _, f := range all {
		if times *= max(f.grows, 1); times > maxGrowth {
			return nil, bad("its normalizers may make a text %d times as long, at most %d times is read", times, maxGrowth)
		}
	}
	return all, nil
}

// replacement is a normalizer that replaces what a pattern finds.
func replacement(p *pattern, content string) ([]normalizer, error) {
	grows := growth(0, content) // what an expression finds may be empty
	if p.String != nil {
		grows = growth(len(*p.String), content)
	}
	if grows > maxGrowth {
		return nil, bad("a normalizer may make a text %d times as long, at most %d times is read", grows, maxGrowth)
	}
	if p.String != nil {
		return []normalizer{{grows: grows, do: func(s string) string { return strings.ReplaceAll(s, *p.String, content) }}}, nil
	}
	if p.Regex != nil {
		re, err := compile(*p.Regex)
		if err != nil {
			return nil, err
		}
		anchored := strings.HasPrefix(*p.Regex, `\A`) || strings.HasPrefix(*p.Regex, "^")
		return []normalizer{{strips: content == "" && anchored, grows: grows, do: func(s string) string { return re.replace(s, content) }}}, nil
	}
	return nil, bad("a normalizer that replaces nothing")
}

// lower lowers each character like to_lowercase of Rust.
func lower(s string) string {
	return strings.Map(unicode.ToLower, strings.ReplaceAll(s, "İ", "i̇"))
}

// nmt removes control characters, and makes other marks of spaces and lines spaces.
func nmt(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 1 && r <= 8, r == 0x0b, r >= 0x0e && r <= 0x1f, r == 0x7f, r == 0x8f, r == 0x9f:
			return -1
		case r == '\t', r == '\n', r == '\f', r == '\r', r == 0x1680, r >= 0x200b && r <= 0x200f, r == 0x2028, r == 0x2029, r == 0x2581, r == 0xfeff, r == 0xfffd:
			return ' '
		}
		return r
	}, s)
}

// without removes characters.
func without(table *unicode.RangeTable, s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(table, r) {
			return -1
		}
		return r
	}, s)
}

// bert is BERT's normalizer.
func bert(clean, chinese, accents, low bool) func(string) string {
	return func(s string) string {
		if clean {
			s = strings.Map(func(r rune) rune {
				switch {
				case r == '\t' || r == '\n' || r == '\r' || space(r):
					return ' '
				case r == 0 || r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co):
					return -1
				}
				return r
			}, s)
		}
		if chinese {
			var b strings.Builder
			for _, r := range s {
				if ideograph(r) {
					b.WriteByte(' ')
					b.WriteRune(r)
					b.WriteByte(' ')
				} else {
					b.WriteRune(r)
				}
			}
			s = b.String()
		}
		if accents {
			s = without(unicode.Mn, norm.NFD.String(s))
		}
		if low {
			s = lower(s)
		}
		return s
	}
}

// ideograph reports whether BERT takes r for a Chinese character.
func ideograph(r rune) bool {
	for _, b := range [][2]rune{{0x4E00, 0x9FFF}, {0x3400, 0x4DBF}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF}, {0x2F800, 0x2FA1F}} {
		if r >= b[0] && r <= b[1] {
			return true
		}
	}
	return false
}

func readPre(raw json.RawMessage, depth int) ([]preTokenizer, error) {
	if null(raw) {
		return nil, nil
	}
	var p struct {
		Type        string            `json:"type"`
		Parts       []json.RawMessage `json:"pretokenizers"`
		Prefix      *bool             `json:"add_prefix_space"`
		Regex       *bool             `json:"use_regex"`
		Pattern     pattern           `json:"pattern"`
		Behavior    string            `json:"behavior"`
		Invert      bool              `json:"invert"`
		Each        bool              `json:"individual_digits"`
		Replacement string            `json:"replacement"`
		Scheme      string            `json:"prepend_scheme"`
		Split       *bool             `json:"split"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, bad("its pre-tokenizer: %w", err)
	}
	one := func(f splitter) ([]preTokenizer, error) { return []preTokenizer{{split: f}}, nil }
	spaces := func(f splitter) ([]preTokenizer, error) { return []preTokenizer{{f, true}}, nil }
	switch p.Type {
	case "Sequence":
		if len(p.Parts) > maxParts || depth > 2 {
			return nil, bad("a sequence of %d pre-tokenizers", len(p.Parts))
		}
		var all []preTokenizer
		for _, r := range p.Parts {
			f, err := readPre(r, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, f...)
		}
		return all, nil
	case "ByteLevel":
		return one(byteLevel(p.Prefix == nil || *p.Prefix, p.Regex == nil || *p.Regex))
	case "BertPreTokenizer":
		return spaces(runes(space, "Removed", runes(punctuation, "Isolated", nil)))
	case "WhitespaceSplit":
		return spaces(runes(space, "Removed", nil))
	case "Whitespace":
		return spaces(whitespace)
	case "Punctuation":
		if p.Behavior == "" {
			p.Behavior = "Isolated"
		}
		return one(runes(punctuation, p.Behavior, nil))
	case "Digits":
		behavior := "Contiguous"
		if p.Each {
			behavior = "Isolated"
		}
		return one(runes(unicode.IsNumber, behavior, nil))
	case "Metaspace":
		if p.Replacement == "" {
			p.Replacement = metaspaceRune
		}
		if p.Scheme == "" {
			if p.Scheme = "always"; p.Prefix != nil && !*p.Prefix {
				p.Scheme = "never"
			}
		}
		return one(metaspace(p.Replacement, p.Scheme, p.Split == nil || *p.Split))
	case "Split":
		re, err := splitPattern(p.Pattern)
		if err != nil {
			return nil, err
		}
		switch p.Behavior {
		case "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous":
		default:
			return nil, bad("a split with the behavior %.40q", p.Behavior)
		}
		return one(func(dst []string, s string, _ place) []string { return cut(dst, s, re.find(s), p.Behavior, p.Invert) })
	}
	return nil, bad("a pre-tokenizer of type %.40q, which is not supported", p.Type)
}

func splitPattern(p pattern) (*expression, error) {
	switch {
	case p.Regex != nil:
		return compile(*p.Regex)
	case p.String != nil && *p.String != "":
		return compile(regexp.QuoteMeta(*p.String))
	}
	return nil, bad("a split without a pattern")
}

// cut splits s at matches, which are in ascending order.
func cut(dst []string, s string, matches [][2]int, behavior string, invert bool) []string {
	type part struct {
		from, to int
		match    bool
	}
	var parts []part
	at := 0
	for _, m := range matches {
		if m[0] > at {
			parts = append(parts, part{at, m[0], invert})
		}
		if m[1] > m[0] {
			parts = append(parts, part{m[0], m[1], !invert})
		}
		at = m[1]
	}
	if at < len(s) {
		parts = append(parts, part{at, len(s), invert})
	}
	was := false // whether the piece before ends with a match or, for Contiguous, is one
	from := len(dst)
	for i, p := range parts {
		joins := false
		switch behavior {
		case "Removed":
			if p.match {
				continue
			}
		case "MergedWithPrevious":
			joins = p.match && i > 0 && !was
		case "MergedWithNext":
			joins = !p.match && was
		case "Contiguous":
			joins = i > 0 && p.match == was
		}
		if was = p.match; joins && len(dst) > from {
			dst[len(dst)-1] = s[p.from-len(dst[len(dst)-1]) : p.to]
		} else {
			dst = append(dst, s[p.from:p.to])
		}
	}
	return dst
}

// runes splits at characters, and the remaining pieces by then unless that is nil.
func runes(is func(rune) bool, behavior string, then splitter) splitter {
	return func(dst []string, s string, at place) []string {
		var matches [][2]int
		for i, r := range s {
			if is(r) {
				matches = append(matches, [2]int{i, i + utf8.RuneLen(r)})
			}
		}
		if then == nil {
			return cut(dst, s, matches, behavior, false)
		}
		for _, piece := range cut(nil, s, matches, behavior, false) {
			dst = then(dst, piece, at)
		}
		return dst
	}
}

// whitespace splits by \w+|[^\w\s]+.
func whitespace(dst []string, s string, _ place) []string {
	class := func(r rune) int {
		switch {
		case space(r):
			return 0
		case wordRune(r):
			return 1
		}
		return 2
	}
	from, was := 0, 0
	for i, r := range s {
		if c := class(r); c != was {
			if was != 0 {
				dst = append(dst, s[from:i])
			}
			from, was = i, c
		}
	}
	if was != 0 {
		dst = append(dst, s[from:])
	}
	return dst
}

// metaspace replaces spaces by a character that begins words.
func metaspace(to, scheme string, split bool) splitter {
	return func(dst []string, s string, at place) []string {
		s = strings.ReplaceAll(s, " ", to)
		if (scheme == "always" && at.begins || scheme == "first" && at.first && at.begins) && !strings.HasPrefix(s, to) {
			s = to + s
		}
		if !split {
			return append(dst, s)
		}
		var matches [][2]int
		for i := 0; ; {
			k := strings.Index(s[i:], to)
			if k < 0 {
				break
			}
			matches = append(matches, [2]int{i + k, i + k + len(to)})
			i += k + len(to)
		}
		return cut(dst, s, matches, "MergedWithNext", false)
	}
}

// gpt2 is the pattern by which GPT-2 splits a text into words.
const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// byteRunes are the characters that stand for bytes. Printable ones stand for themselves.
var byteRunes = func() (to [256]string) {
	n := rune(256)
	for b := range rune(256) {
		r := b
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE && b <= 0xFF) {
			r, n = n, n+1
		}
		to[b] = string(r)
	}
	return to
}()

// Byte is the byte that a character of byte-level BPE stands for.
func Byte(r rune) (byte, bool) {
	i := slices.Index(byteRunes[:], string(r))
	return byte(max(i, 0)), i >= 0
}

// byteLevel splits like GPT-2 and replaces every byte by its character.
func byteLevel(prefix, split bool) splitter {
	re, err := compile(gpt2)
	if err != nil {
		panic(err) // a constant
	}
	return func(dst []string, s string, at place) []string {
		if prefix && at.begins && !strings.HasPrefix(s, " ") {
			s = " " + s
		}
		from := len(dst)
		if split {
			dst = cut(dst, s, re.find(s), "Isolated", false)
		} else {
			dst = append(dst, s)
		}
		for i := from; i < len(dst); i++ {
			var b strings.Builder
			for k := range len(dst[i]) {
				b.WriteString(byteRunes[dst[i][k]])
			}
			dst[i] = b.String()
		}
		return dst
	}
}

// expression is a regular expression of Hugging Face's library, as far as Go's package can
// express it: without lookaround, except for \s+(?!\S), by which GPT's patterns leave the last of
// several spaces to the word after them.
type expression struct {
	re    *regexp.Regexp
	blank int                       // the group of spaces whose last may be left to the next match; 0: none
	scan  func(s string, i int) int // does the same faster; nil: the expression is used
}

// white is what \s stands for inside a class: Go's \s is ASCII only.
const white = `\t\n\v\f\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}`

func compile(pattern string) (*expression, error) {
	if len(pattern) > 1<<12 {
		return nil, bad("a pattern of %d bytes", len(pattern))
	}
	// The alternative and the one after it, which takes a single space.
	const mark = "\x00"
	p := strings.ReplaceAll(pattern, `\s+(?!\S)|\s+`, mark)
	p = strings.ReplaceAll(p, `\s+(?!\S)|\s`, mark) // alone, the first takes a single space, too
	if strings.Contains(p, "(?!") || strings.Contains(p, "(?=") || strings.Contains(p, "(?<") {
		return nil, bad("the pattern %.80q has lookaround of a kind that is not supported", pattern)
	}
	p = spaces(p)
	p = strings.ReplaceAll(p, mark, `(?P<blank>[`+white+`]+)`)
	re, err := regexp.Compile(p)
	if err != nil {
		return nil, bad("the pattern %.80q: %w", pattern, err)
	}
	return &expression{re: re, blank: max(re.SubexpIndex("blank"), 0), scan: scanners[pattern]}, nil
}

// spaces replaces \s and \S by explicit classes.
func spaces(p string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\' && i+1 < len(p):
			i++
			switch e := p[i]; {
			case e == 's' && class:
				b.WriteString(white)
			case e == 's':
				b.WriteString("[" + white + "]")
			case e == 'S' && !class:
				b.WriteString("[^" + white + "]")
			default:
				b.WriteByte('\\')
				b.WriteByte(e)
			}
			continue
		case c == '[':
			class = true
		case c == ']':
			class = false
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

// find returns the places of all matches.
func (e *expression) find(s string) [][2]int {
	var out [][2]int
	if e.scan != nil {
		for at := 0; at < len(s); {
			to := e.scan(s, at)
			out = append(out, [2]int{at, to})
			at = to
		}
		return out
	}
	if e.blank == 0 {
		for _, m := range e.re.FindAllStringIndex(s, -1) {
			if m[0] < m[1] {
				out = append(out, [2]int{m[0], m[1]})
			}
		}
		return out
	}
	for at := 0; at < len(s); {
		m := e.re.FindStringSubmatchIndex(s[at:])
		if m == nil {
			break
		}
		from, to := at+m[0], at+m[1]
		if g := 2 * e.blank; m[g] >= 0 && to < len(s) {
			if _, n := utf8.DecodeLastRuneInString(s[from:to]); to-n > from {
				to -= n
			}
		}
		if to == from {
			_, n := utf8.DecodeRuneInString(s[at:])
			at += n
			continue
		}
		out = append(out, [2]int{from, to})
		at = to
	}
	return out
}

func (e *expression) replace(s, to string) string {
	var b strings.Builder
	at := 0
	for _, m := range e.find(s) {
		b.WriteString(s[at:m[0]])
		b.WriteString(to)
		at = m[1]
	}
	return b.String() + s[at:]
}
