// Rows of tokens of one text or two: the special tokens that a tokenizer.json's post_processor
// puts around them, cut and padded to one length.

package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
)

// piece is a part of a row: special tokens, or the tokens of a text.
type piece struct {
	text int // 0: the first, 1: the second, -1: special tokens
	ids  []int32
	kind int32
}

// template says how one text, and two, become a row.
type template struct{ one, two []piece }

// plain is what Hugging Face's library does where there is no post_processor.
func plain() template {
	return template{one: []piece{{text: 0}}, two: []piece{{text: 0}, {text: 1, kind: 1}}}
}

const maxPieces = 64 // of a template

// special is a token of a post_processor, ["[SEP]", 102].
type special struct{ id int32 }

// UnmarshalJSON implements json.Unmarshaler.
func (s *special) UnmarshalJSON(b []byte) error {
	var name string
	pair := []any{&name, &s.id}
	if err := json.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
		return bad("a special token of the post_processor is %.60s, want a name and a number", b)
	}
	return nil
}

// templatePiece is a piece of a TemplateProcessing.
type templatePiece struct {
	Special *struct {
		ID   string `json:"id"`
		Type int32  `json:"type_id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID   string `json:"id"`
		Type int32  `json:"type_id"`
	} `json:"Sequence"`
}

// readPost reads a post_processor into form. It reports whether it adds tokens.
func (t *Tokenizer) readPost(raw json.RawMessage, depth int) (adds bool, err error) {
	if null(raw) {
		return false, nil
	}
	var p struct {
		Type       string            `json:"type"`
		Sep        special           `json:"sep"`
		Cls        special           `json:"cls"`
		Single     []templatePiece   `json:"single"`
		Pair       []templatePiece   `json:"pair"`
		Processors []json.RawMessage `json:"processors"`
		Specials   map[string]struct {
			IDs []int32 `json:"ids"`
		} `json:"special_tokens"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return false, bad("post_processor: %w", err)
	}
	sep, cls := []int32{p.Sep.id}, []int32{p.Cls.id}
	switch p.Type {
	case "ByteLevel": // it moves offsets only
		return false, nil
	case "BertProcessing":
		one := []piece{{text: -1, ids: cls}, {text: 0}, {text: -1, ids: sep}}
		t.form = template{one, append(slices.Clone(one), piece{text: 1, kind: 1}, piece{text: -1, ids: sep, kind: 1})}
	case "RobertaProcessing":
		one := []piece{{text: -1, ids: cls}, {text: 0}, {text: -1, ids: sep}}
		t.form = template{one, append(slices.Clone(one), piece{text: -1, ids: sep}, piece{text: 1}, piece{text: -1, ids: sep})}
	case "TemplateProcessing":
		ids := map[string][]int32{}
		for name, s := range p.Specials {
			ids[name] = s.IDs
		}
		if t.form.one, err = pieces(p.Single, ids, 1); err == nil {
			t.form.two, err = pieces(p.Pair, ids, 2)
		}
		if err != nil {
			return false, err
		}
	case "Sequence":
		if depth > 0 || len(p.Processors) > maxParts {
			return false, bad("post_processor: a sequence of %d in another, or of more than %d", len(p.Processors), maxParts)
		}
		for _, r := range p.Processors {
			a, err := t.readPost(r, depth+1)
			if err == nil && a && adds {
				err = bad("post_processor: two of a sequence add tokens")
			}
			if err != nil {
				return false, err
			}
			adds = adds || a
		}
		return adds, nil
	default:
		return false, bad("post_processor of type %.40q is not supported", p.Type)
	}
	return true, t.checkForm()
}

func pieces(ps []templatePiece, ids map[string][]int32, texts int) (form []piece, err error) {
	seen := [2]bool{}
	for _, p := range ps {
		switch {
		case len(ps) > maxPieces:
			return nil, bad("post_processor: %d pieces, at most %d are read", len(ps), maxPieces)
		case p.Special != nil:
			own, ok := ids[p.Special.ID]
			if !ok || len(own) > maxPieces {
				return nil, bad("post_processor: nothing says which token %.40q is", p.Special.ID)
			}
			form = append(form, piece{text: -1, ids: own, kind: p.Special.Type})
		case p.Sequence != nil:
			k := slices.Index([]string{"A", "B"}, p.Sequence.ID)
			if k < 0 || k >= texts || seen[k] {
				return nil, bad("post_processor: a template of %d texts has the text %.40q", texts, p.Sequence.ID)
			}
			seen[k] = true
			form = append(form, piece{text: k, kind: p.Sequence.Type})
		default:
			return nil, bad("post_processor: a piece that is neither a token nor a text")
		}
	}
	if !seen[0] || texts == 2 && !seen[1] {
		return nil, bad("post_processor: a template of %d texts lacks one", texts)
	}
	return form, nil
}

// checkForm checks the numbers of special tokens and kinds.
func (t *Tokenizer) checkForm() error {
	for _, p := range slices.Concat(t.form.one, t.form.two) {
		if p.kind < 0 || p.kind > 255 {
			return bad("post_processor: the type %d of a text is outside 0..255", p.kind)
		}
		for _, id := range p.ids {
			if id < 0 || id > maxID {
				return bad("post_processor: token %d is outside 0..%d", id, maxID)
			}
			t.size = max(t.size, int(id)+1)
		}
	}
	return nil
}

// named is the number of the first of names that is a token, or -1.
func (t *Tokenizer) named(names ...string) int32 {
	for _, n := range names {
		best := int32(-1)
		for id, name := range t.names {
			if name == n && (best < 0 || id < best) {
				best = id
			}
		}
		if best >= 0 {
			return best
		}
	}
	return -1
}

// Pad is the token that fills rows: what the file says, or else one that is called so; 0 where
// there is none.
func (t *Tokenizer) Pad() int32 { return t.pad }

// End is the token that ends a text, by its usual names; -1 where there is none.
func (t *Tokenizer) End() int32 { return t.end }

// Row is a row of so many tokens of one text, or of two: ids, 1 for those that are not padding,
// and the type of each, as BERT's segments. Texts that are too long lose their ends, the longer
// one first, as with Hugging Face's longest_first.
func (t *Tokenizer) Row(n int, texts ...string) (ids, mask, kinds []int32, err error) {
	form := t.form.one
	if len(texts) == 2 {
		form = t.form.two
	}
	var own [2][]int32
	for i, s := range texts {
		if own[i], err = t.Encode(nil, s, true); err != nil {
			return nil, nil, nil, err
		}
	}
	room := n
	for _, p := range form {
		room -= len(p.ids)
	}
	if room < 0 {
		return nil, nil, nil, fmt.Errorf("%w: a row of %d tokens has no room for the special tokens of the tokenizer", ErrText, n)
	}
	a, b := shorten(len(own[0]), len(own[1]), room)
	own[0], own[1] = own[0][:a], own[1][:b]
	for _, p := range form {
		add := p.ids
		if p.text >= 0 {
			add = own[p.text]
		}
		ids = append(ids, add...)
		kinds = append(kinds, slices.Repeat([]int32{p.kind}, len(add))...)
	}
	mask = slices.Repeat([]int32{1}, len(ids))
	ids = append(ids, slices.Repeat([]int32{t.Pad()}, n-len(ids))...)
	return ids, append(mask, make([]int32, n-len(mask))...), append(kinds, make([]int32, n-len(kinds))...), nil
}

// shorten is what is left of two texts of a and b tokens where there is room for so many.
func shorten(a, b, room int) (int, int) {
	if a+b <= room {
		return a, b
	}
	short := min(a, b)
	long := max(short, room-short)
	if short+long > room {
		short, long = room/2, room/2+room%2
	}
	if a > b {
		return long, short
	}
	return short, long
}

// around are the tokens that stand before one text, and those behind it; nil: none do.
func (t *Tokenizer) around() (before, after []int32) {
	for _, p := range t.form.one {
		if p.text == 0 {
			after = []int32{}
		} else if after == nil {
			before = append(before, p.ids...)
		} else {
			after = append(after, p.ids...)
		}
	}
	return before, after
}

// Before is the tokens that stand before a text.
func (t *Tokenizer) Before() []int32 {
	before, _ := t.around()
	return before
}

// Answer is a row of n tokens of a text and its continuation, for a decoder: ids, 1 for those
// that are not padding, and for each the token that follows where that is one of the continuation or its end, else -100. What
// stands before a text in the file's template stands here, too. A text that is too long loses
// its beginning, then a continuation its end.
func (t *Tokenizer) Answer(n int, text, answer string) (ids, mask, next []int32, err error) {
	before, after := t.around()
	if end := t.End(); len(after) == 0 && end >= 0 {
		after = []int32{end}
	}
	var a []int32
	if text != "" {
		if a, err = t.Encode(nil, text, true); err != nil {
			return nil, nil, nil, err
		}
	}
	b, err := t.Encode(nil, answer, text == "")
	if err != nil {
		return nil, nil, nil, err
	}
	b = append(b, after...)
	b = b[:min(len(b), max(n+1-len(before), 1))]
	if room := n + 1 - len(before) - len(b); len(a) > room {
		a = a[len(a)-max(room, 0):]
	}
	all := slices.Concat(before, a, b)
	from := len(before) + len(a)
	next = slices.Repeat([]int32{noClass}, n)
	for i := max(from, 1); i < min(len(all), n+1); i++ {
		next[i-1] = all[i]
	}
	ids = all[:min(len(all), n)]
	mask = append(slices.Repeat([]int32{1}, len(ids)), make([]int32, n-len(ids))...)
	return append(ids, slices.Repeat([]int32{t.Pad()}, n-len(ids))...), mask, next, nil
}

// noClass marks a position that takes part in no loss.
const noClass = -100
