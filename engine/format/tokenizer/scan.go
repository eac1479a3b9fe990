// Hand-written scanners for the patterns of most tokenizers: Go's regular expressions are twenty
// times slower.

package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// scanners holds, by pattern, functions that return the end of the match that begins at place i.
var scanners = map[string]func(s string, i int) int{
	gpt2: scanGPT2,
	// That of GPT-4, which Llama 3 uses, and that of Qwen 2, which separates all digits.
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: func(s string, i int) int { return scanGPT4(s, i, 3) },
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:      func(s string, i int) int { return scanGPT4(s, i, 1) },
}

func digit(r rune) bool  { return unicode.Is(unicode.N, r) }
func other(r rune) bool  { return !space(r) && !isLetter(r) && !digit(r) }
func breaks(r rune) bool { return r == '\r' || r == '\n' }

// run returns the end of a run of at most most characters of a kind that begins at place i.
func run(s string, i, most int, is func(rune) bool) int {
	for ; i < len(s) && most > 0; most-- {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !is(r) {
			break
		}
		i += n
	}
	return i
}

// blanks returns the end of the spaces at place i. If a word follows several spaces, the last
// belongs to the word.
func blanks(s string, i int) int {
	end := run(s, i, len(s), space)
	if end < len(s) {
		if _, n := utf8.DecodeLastRuneInString(s[i:end]); end-n > i {
			end -= n
		}
	}
	return end
}

// apostrophe returns the end of an English ending such as 's at place i, or i.
func apostrophe(s string, i int) int {
	for _, e := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if strings.HasPrefix(s[i:], e) {
			return i + len(e)
		}
	}
	return i
}

func scanGPT2(s string, i int) int {
	if s[i] == '\'' {
		if end := apostrophe(s, i); end > i {
			return end
		}
	}
	from := i
	if s[i] == ' ' {
		from++
	}
	for _, is := range []func(rune) bool{isLetter, digit, other} {
		if end := run(s, from, len(s), is); end > from {
			return end
		}
	}
	return blanks(s, i)
}

func scanGPT4(s string, i, digits int) int {
	if s[i] == '\'' {
		if strings.HasPrefix(s[i:], "'ſ") { // the long s is an s
			return i + len("'ſ")
		}
		if end := apostrophe(strings.ToLower(s[i:min(len(s), i+3)]), 0); end > 0 {
			return i + end
		}
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	from := i
	if !isLetter(r) && !digit(r) && !breaks(r) {
		from += n
	}
	if end := run(s, from, len(s), isLetter); end > from {
		return end
	}
	if digit(r) {
		return run(s, i, digits, digit)
	}
	from = i
	if r == ' ' {
		from++
	}
	if end := run(s, from, len(s), other); end > from {
		return run(s, end, len(s), breaks)
	}
	spaces := run(s, i, len(s), space)
	if k := strings.LastIndexAny(s[i:spaces], "\r\n"); k >= 0 {
		return i + k + 1
	}
	return blanks(s, i)
}
