// Package tokenizer turns text into tokens by a tokenizer.json, the format of Hugging Face's
// tokenizers: BPE (byte-level as for GPT-2 and Llama 3, or with byte fallback as for Llama 2) and
// WordPiece (as for BERT). Special tokens within a text are recognised; Row adds those around it.
//
// Parse refuses a file that asks for something unsupported, and names it.
package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrFormat is wrapped by every error about a tokenizer.json.
var ErrFormat = errors.New("invalid tokenizer.json")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits of a file.
const (
	MaxBytes  = 64 << 20
	maxTokens = 1 << 22
	maxID     = 1<<24 - 1 // tokens travel as float32
	maxToken  = 1 << 12   // bytes of a token
	maxParts  = 32        // steps in a sequence of normalizers or pre-tokenizers
)

// Tokenizer turns text into token numbers. It is for one goroutine.
type Tokenizer struct {
	size   int // the largest number plus one
	names  map[int32]string
	added  [2]added // tokens that are found in the text as it is, and in the normalised text
	normal []normalizer
	pre    []splitter
	model  model
	cache  map[string][]int32
	form   template
	pad    int32 // -1: the file does not say
}

// model is a BPE or a WordPiece.
type model interface {
	// word appends the tokens of a word.
	word(ids []int32, w string) ([]int32, error)
}

// Size returns the largest token number plus one.
func (t *Tokenizer) Size() int { return t.size }

// Name returns the text of a token in the file, "" if there is no such token.
func (t *Tokenizer) Name(id int32) string { return t.names[id] }

// file is the JSON form.
type file struct {
	Added []struct {
		ID         int64  `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
	} `json:"added_tokens"`
	Normalizer   json.RawMessage `json:"normalizer"`
	PreTokenizer json.RawMessage `json:"pre_tokenizer"`
	Model        json.RawMessage `json:"model"`
	Post         json.RawMessage `json:"post_processor"`
	Padding      *struct {
		ID int64 `json:"pad_id"`
	} `json:"padding"`
}

// Parse reads a tokenizer.json.
func Parse(b []byte) (*Tokenizer, error) {
	if len(b) > MaxBytes {
		return nil, bad("%d bytes, at most %d are read", len(b), MaxBytes)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, bad("%w", err)
	}
	if len(f.Model) == 0 || string(f.Model) == "null" {
		return nil, bad("it has no model")
	}
	t := &Tokenizer{names: map[int32]string{}, cache: map[string][]int32{}, form: plain(), pad: -1}
	if err := t.readModel(f.Model); err != nil {
		return nil, err
	}
	var err error
	if t.normal, err = readNormalizer(f.Normalizer, 0); err != nil {
		return nil, err
	}
	if t.pre, err = readPre(f.PreTokenizer, 0); err != nil {
		return nil, err
	}
	if len(f.Added) > maxTokens {
		return nil, bad("%d added tokens, at most %d are read", len(f.Added), maxTokens)
	}
	for _, a := range f.Added {
		if err := t.name(a.Content, a.ID); err != nil {
			return nil, err
		}
		if a.Content == "" {
			continue
		}
		k := 0
		if a.Normalized {
			k = 1
		}
		content := a.Content
		if a.Normalized {
			content = t.normalise(content, true)
		}
		t.added[k].add(content, addedToken{id: int32(a.ID), word: a.SingleWord, left: a.LStrip, right: a.RStrip})
	}
	if p := f.Padding; p != nil {
		if p.ID < 0 || p.ID > maxID {
			return nil, bad("the token of padding is %d, at most %d", p.ID, maxID)
		}
		t.pad, t.size = int32(p.ID), max(t.size, int(p.ID)+1)
	}
	if _, err := t.readPost(f.Post, 0); err != nil {
		return nil, err
	}
	return t, nil
}

// name records a token.
func (t *Tokenizer) name(s string, id int64) error {
	if id < 0 || id > maxID || len(s) > maxToken {
		return bad("token %.40q of %d bytes has the number %d; it may have %d, and numbers up to %d", s, len(s), id, maxToken, maxID)
	}
	t.names[int32(id)] = s
	t.size = max(t.size, int(id)+1)
	return nil
}

// normalise normalises a piece of text. begins says that it does not continue a text that was
// cut.
func (t *Tokenizer) normalise(s string, begins bool) string {
	for _, n := range t.normal {
		if begins || !n.prepends {
			s = n.do(s)
		}
	}
	return s
}

// stripped reports whether the beginning of a piece of text is removed.
func (t *Tokenizer) stripped(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return space(r) && slices.ContainsFunc(t.normal, func(n normalizer) bool { return n.strips })
}

// Encode appends the tokens of text to ids. begins says that it is the beginning of a text, not
// the continuation of one that was cut; see Cut.
func (t *Tokenizer) Encode(ids []int32, text string, begins bool) ([]int32, error) {
	if !utf8.ValidString(text) {
		return ids, fmt.Errorf("%w: the text is not UTF-8", ErrText)
	}
	var err error
	t.added[0].find(text, func(piece string, id int32, first bool) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		// For normalizers that prepend, the text after a token is a new beginning.
		opens := begins || !first
		first = first && begins && !t.stripped(piece)
		t.added[1].find(t.normalise(piece, opens), func(piece string, id int32, head bool) {
			switch {
			case err != nil:
			case id >= 0:
				ids = append(ids, id)
			default:
				ids, err = t.words(ids, piece, first && head, opens || !head)
			}
		})
	})
	return ids, err
}

// ErrText is wrapped by errors about a text.
var ErrText = errors.New("invalid text")

// words splits a piece of text and encodes its words.
func (t *Tokenizer) words(ids []int32, piece string, first, begins bool) ([]int32, error) {
	words := []string{piece}
	for _, p := range t.pre {
		var next []string
		for i, w := range words {
			next = p(next, w, place{first: first && i == 0, begins: begins || i > 0})
		}
		words = next
	}
	var err error
	for _, w := range words {
		if w == "" {
			continue
		}
		if c, ok := t.cache[w]; ok {
			ids = append(ids, c...)
			continue
		}
		n := len(ids)
		if ids, err = t.model.word(ids, w); err != nil {
			return ids, err
		}
		if len(w) <= 64 {
			if len(t.cache) > 1<<17 {
				clear(t.cache)
			}
			t.cache[strings.Clone(w)] = slices.Clone(ids[n:])
		}
	}
	return ids, nil
}

// Cut returns the last place within max bytes at which text can be cut so that the tokens of the
// two pieces are those of the whole: after a single line break between two letters or the like.
// It returns 0 if there is none.
func Cut(text string, most int) int {
	for i := min(most, len(text)-1); i > 1; i-- {
		if text[i-1] != '\n' {
			continue
		}
		before, _ := utf8.DecodeLastRuneInString(text[:i-1])
		after, _ := utf8.DecodeRuneInString(text[i:])
		if !space(before) && isLetter(after) {
			return i
		}
	}
	return 0
}

// addedToken is a token that is found before the text is split.
type addedToken struct {
	id                int32
	word, left, right bool
}

type added struct {
	of     map[string]addedToken
	first  [256]bool // first bytes of such tokens
	length []int     // their lengths, longest first
}

func (a *added) add(s string, t addedToken) {
	if s == "" {
		return
	}
	if a.of == nil {
		a.of = map[string]addedToken{}
	}
	a.of[s] = t
	a.first[s[0]] = true
	if !slices.Contains(a.length, len(s)) {
		a.length = append(a.length, len(s))
		slices.SortFunc(a.length, func(x, y int) int { return y - x })
	}
}

// find returns the pieces of text in order: tokens and, with the id -1, the text between them.
// first says that a piece is at the beginning.
func (a *added) find(text string, give func(piece string, id int32, first bool)) {
	from := 0
	for i := 0; i < len(text); {
		s, t, ok := a.at(text, i)
		if !ok {
			i++
			continue
		}
		begin, end := i, i+len(s)
		if t.left {
			begin = from + len(strings.TrimRightFunc(text[from:begin], space))
		}
		if t.right {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], space))
		}
		if begin > from {
			give(text[from:begin], -1, from == 0)
		}
		give(s, t.id, begin == 0)
		from, i = end, end
	}
	if from < len(text) {
		give(text[from:], -1, from == 0)
	}
}

// at returns the longest token at place i.
func (a *added) at(text string, i int) (string, addedToken, bool) {
	if a.of == nil || !a.first[text[i]] {
		return "", addedToken{}, false
	}
	for _, n := range a.length {
		if i+n > len(text) {
			continue
		}
		s := text[i : i+n]
		t, ok := a.of[s]
		if !ok {
			continue
		}
		if t.word {
			before, nb := utf8.DecodeLastRuneInString(text[:i])
			after, na := utf8.DecodeRuneInString(text[i+n:])
			if nb > 0 && wordRune(before) || na > 0 && wordRune(after) {
				continue
			}
		}
		return s, t, true
	}
	return "", addedToken{}, false
}
