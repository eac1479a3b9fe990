// Package tokenizer turns text into tokens by a tokenizer.json, the format of Hugging Face's
// tokenizers: BPE (byte-level as for GPT-2 and Llama 3, or with byte fallback as for Llama 2),
// WordPiece (as for BERT) and Unigram (SentencePiece's, as for T5, ALBERT and XLM-R). Special tokens within a text are recognised; Row adds those around it.
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
	pre    []preTokenizer
	model  model
	cache  map[string][]int32
	form   template
	pad    int32 // fills rows
	end    int32 // ends a text; -1: nothing does
	cuts   cuts
}

// cuts says how a text can be cut at a line break.
type cuts uint8

const (
	cutAfter cuts = iota // behind it
	cutOut               // the break is a space to the model: it is left out, and the rest is a text of its own
	cutNever
)

// model is a BPE, a WordPiece or a Unigram.
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
	if t.pad < 0 {
		t.pad = max(0, t.named("[PAD]", "<pad>", "<|finetune_right_pad_id|>", "<|endoftext|>", "</s>"))
	}
	t.end = t.named("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<eos>")
	t.cuts = t.cutting()
	return t, nil
}

// cutting finds out how texts can be cut.
func (t *Tokenizer) cutting() cuts {
	joined := func(s string) string { return strings.Join(t.split(t.normalise(s, true), true, true), "") }
	if m, ok := t.model.(*unigram); ok && m.crosses {
		return cutNever
	}
	if whole := t.normalise("a\nb", true); whole != t.normalise("a b", true) {
		if whole != t.normalise("a\n", true)+t.normalise("b", false) {
			return cutNever
		}
		return cutAfter
	}
	if joined("a\nb") == joined("a")+joined("b") {
		return cutOut
	}
	return cutNever
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
	s, _ = t.normalised(s, begins)
	return s
}

// normalised also tells whether spaces were removed at the beginning.
func (t *Tokenizer) normalised(s string, begins bool) (string, bool) {
	stripped := false
	for _, n := range t.normal {
		if n.prepends && !begins {
			continue
		}
		before := s
		s = n.do(s)
		if r, size := utf8.DecodeRuneInString(before); n.strips && space(r) {
			stripped = stripped || !strings.HasPrefix(s, before[:size])
		}
	}
	return s, stripped
}

// Encode appends the tokens of text to ids. begins says that it is the beginning of a text, not
// the continuation of one that was cut; see Cut.
func (t *Tokenizer) Encode(ids []int32, text string, begins bool) ([]int32, error) {
	if !utf8.ValidString(text) {
		return ids, fmt.Errorf("%w: the text is not UTF-8", ErrText)
	}
	begins = begins || t.cuts == cutOut
	var err error
	t.added[0].find(text, func(piece string, id int32, first bool) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		// For normalizers that prepend, the text after a token is a new beginning.
		opens := begins || !first
		normal, stripped := t.normalised(piece, opens)
		first = first && begins && !stripped
		t.added[1].find(normal, func(piece string, id int32, head bool) {
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

// split splits a piece of text into words.
func (t *Tokenizer) split(piece string, first, begins bool) []string {
	words := []string{piece}
	for _, p := range t.pre {
		var next []string
		for i, w := range words {
			next = p.split(next, w, place{first: first && i == 0, begins: begins || i > 0})
		}
		words, begins = next, begins || p.spaces
	}
	return words
}

// words splits a piece of text and encodes its words.
func (t *Tokenizer) words(ids []int32, piece string, first, begins bool) ([]int32, error) {
	words := t.split(piece, first, begins)
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

// Cut returns the last place within most bytes where text can be cut so that the tokens of
// text[:end] and of text[next:] are those of the whole: at a single line break between two letters or
// the like. Both are 0 if there is none.
func (t *Tokenizer) Cut(text string, most int) (end, next int) {
	if t.cuts == cutNever {
		return 0, 0
	}
	for i := min(most, len(text)-1); i > 1; i-- {
		if text[i-1] != '\n' {
			continue
		}
		before, _ := utf8.DecodeLastRuneInString(text[:i-1])
		after, _ := utf8.DecodeRuneInString(text[i:])
		if space(before) || !isLetter(after) {
			continue
		}
		if t.cuts == cutOut {
			return i - 1, i
		}
		return i, i
	}
	return 0, 0
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
