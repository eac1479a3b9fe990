// The models, which split a word into tokens.

package tokenizer

import (
	"container/heap"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

func (t *Tokenizer) readModel(raw json.RawMessage) error {
	var m struct {
		Type         string            `json:"type"`
		Vocab        json.RawMessage   `json:"vocab"`
		Merges       []json.RawMessage `json:"merges"`
		Unk          *string           `json:"unk_token"`
		Prefix       *string           `json:"continuing_subword_prefix"`
		Suffix       *string           `json:"end_of_word_suffix"`
		FuseUnk      bool              `json:"fuse_unk"`
		ByteFallback bool              `json:"byte_fallback"`
		IgnoreMerges bool              `json:"ignore_merges"`
		Dropout      *float64          `json:"dropout"`
		MaxChars     *int              `json:"max_input_chars_per_word"`
		UnkID        *int64            `json:"unk_id"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return bad("its model: %w", err)
	}
	if m.Type == "" { // older files do not say
		m.Type = "BPE"
		if m.Merges == nil && m.MaxChars != nil {
			m.Type = "WordPiece"
		}
	}
	switch m.Type {
	case "BPE", "WordPiece":
	case "Unigram":
		return t.readUnigram(m.Vocab, m.UnkID, m.ByteFallback)
	default:
		return bad("a model of type %.40q; BPE, WordPiece and Unigram are read", m.Type)
	}
	ids, err := t.readVocabulary(m.Vocab)
	if err != nil {
		return err
	}
	unk := int32(-1)
	if m.Unk != nil {
		id, ok := ids[*m.Unk]
		if !ok {
			return bad("the unknown token %.40q is not in the vocabulary", *m.Unk)
		}
		unk = id
	}
	if m.Type == "WordPiece" {
		if unk < 0 {
			return bad("a WordPiece without an unknown token")
		}
		w := &wordPiece{ids: ids, unk: unk, prefix: "##", most: 100}
		if m.Prefix != nil {
			w.prefix = *m.Prefix
		}
		if m.MaxChars != nil {
			w.most = *m.MaxChars
		}
		for s := range ids {
			w.longest = max(w.longest, len(s))
		}
		t.model = w
		return nil
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return bad("a BPE with dropout %v: its tokens would not be the same twice", *m.Dropout)
	}
	b := &bpe{ids: ids, unk: unk, fuse: m.FuseUnk, fallback: m.ByteFallback, whole: m.IgnoreMerges}
	if m.Prefix != nil {
		b.prefix = *m.Prefix
	}
	if m.Suffix != nil {
		b.suffix = *m.Suffix
	}
	t.model = b
	return b.readMerges(m.Merges)
}

// readVocabulary reads the tokens of BPE and WordPiece with their numbers.
func (t *Tokenizer) readVocabulary(raw json.RawMessage) (map[string]int32, error) {
	var vocab map[string]int64
	if err := json.Unmarshal(raw, &vocab); err != nil {
		return nil, bad("its vocabulary: %w", err)
	}
	if len(vocab) == 0 || len(vocab) > maxTokens {
		return nil, bad("a vocabulary of %d tokens, want 1 to %d", len(vocab), maxTokens)
	}
	ids := make(map[string]int32, len(vocab))
	for s, id := range vocab {
		ids[s] = int32(id)
		if other, ok := t.names[int32(id)]; ok && other < s {
			continue // of tokens with one number the first by the alphabet is its name
		}
		if err := t.name(s, id); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// bpe joins neighbouring tokens, always the pair that was learned first, until there is none.
type bpe struct {
	ids                   map[string]int32
	merges                map[[2]int32]merge
	unk                   int32 // -1: unknown characters are left out
	prefix, suffix        string
	fuse, fallback, whole bool
	syms                  []symbol // room
	queue                 queue
}

type merge struct{ rank, id int32 }

func (b *bpe) readMerges(raw []json.RawMessage) error {
	if len(raw) > maxTokens {
		return bad("%d merges, at most %d are read", len(raw), maxTokens)
	}
	b.merges = make(map[[2]int32]merge, len(raw))
	for i, r := range raw {
		var pair []string
		var line string
		if json.Unmarshal(r, &line) == nil {
			pair = strings.Split(line, " ")
		} else if err := json.Unmarshal(r, &pair); err != nil {
			return bad("merge %d is neither a text nor two: %w", i, err)
		}
		if len(pair) != 2 {
			return bad("merge %d joins %d tokens, want 2", i, len(pair))
		}
		right := pair[1]
		if b.prefix != "" {
			if len(right) < len(b.prefix) {
				return bad("merge %d: %.40q does not begin with %.40q", i, right, b.prefix)
			}
			right = right[len(b.prefix):]
		}
		x, ok1 := b.ids[pair[0]]
		y, ok2 := b.ids[pair[1]]
		z, ok3 := b.ids[pair[0]+right]
		if !ok1 || !ok2 || !ok3 {
			return bad("merge %d joins %.40q and %.40q; one of them, or what they make, is not in the vocabulary", i, pair[0], pair[1])
		}
		b.merges[[2]int32{x, y}] = merge{int32(i), z} // of duplicates the last counts, as in the original
	}
	return nil
}

// symbol is a token of a word and its neighbours. The id -1 marks one that was joined to another.
type symbol struct {
	id         int32
	prev, next int32
}

// candidate is a pair that can be joined.
type candidate struct {
	merge
	at   int32 // place of its left half
	pair [2]int32
}

// queue is a heap of pairs; the next to be joined is first.
type queue []candidate

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].rank < q[j].rank || q[i].rank == q[j].rank && q[i].at < q[j].at
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(candidate)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

func (b *bpe) word(ids []int32, w string) ([]int32, error) {
	if b.whole {
		if id, ok := b.ids[w]; ok {
			return append(ids, id), nil
		}
	}
	b.syms = b.syms[:0]
	if err := b.split(w); err != nil {
		return ids, err
	}
	s := b.syms
	for i := range s {
		s[i].prev, s[i].next = int32(i-1), int32(i+1)
	}
	if len(s) > 0 {
		s[len(s)-1].next = -1
	}
	b.queue = b.queue[:0]
	for i := range len(s) - 1 {
		b.consider(int32(i))
	}
	for len(b.queue) > 0 {
		c := heap.Pop(&b.queue).(candidate)
		l := &s[c.at]
		if l.id != c.pair[0] || l.next < 0 || s[l.next].id != c.pair[1] {
			continue // one of the two was joined to another
		}
		r := &s[l.next]
		l.id, l.next, r.id = c.id, r.next, -1
		if l.next >= 0 {
			s[l.next].prev = c.at
			b.consider(c.at)
		}
		if l.prev >= 0 {
			b.consider(l.prev)
		}
	}
	for _, x := range s {
		if x.id >= 0 {
			ids = append(ids, x.id)
		}
	}
	return ids, nil
}

// consider queues the pair with the left half at place i, if it can be joined.
func (b *bpe) consider(i int32) {
	pair := [2]int32{b.syms[i].id, b.syms[b.syms[i].next].id}
	if m, ok := b.merges[pair]; ok {
		heap.Push(&b.queue, candidate{m, i, pair})
	}
}

// split splits a word into characters.
func (b *bpe) split(w string) error {
	unknown := false // whether the character before is
	for i, c := range w {
		n := utf8.RuneLen(c)
		s := w[i : i+n]
		if b.prefix != "" && i > 0 {
			s = b.prefix + s
		}
		if b.suffix != "" && i+n == len(w) {
			s += b.suffix
		}
		if id, ok := b.ids[s]; ok {
			b.syms = append(b.syms, symbol{id: id})
			unknown = false
			continue
		}
		if b.fallback && b.bytes(s) {
			unknown = false
			continue
		}
		if b.unk < 0 || unknown && b.fuse {
			continue
		}
		b.syms = append(b.syms, symbol{id: b.unk})
		unknown = true
	}
	return nil
}

// bytes appends the tokens of the bytes of s, if all of them exist.
func (b *bpe) bytes(s string) bool {
	n := len(b.syms)
	for i := range len(s) {
		id, ok := b.ids[byteToken(s[i])]
		if !ok {
			b.syms = b.syms[:n]
			return false
		}
		b.syms = append(b.syms, symbol{id: id})
	}
	return true
}

// wordPiece repeatedly takes the longest token that the rest of a word begins with.
type wordPiece struct {
	ids     map[string]int32
	unk     int32
	prefix  string // of tokens that continue a word
	most    int    // words with more characters are unknown
	longest int    // bytes of the longest token
}

func (m *wordPiece) word(ids []int32, w string) ([]int32, error) {
	if utf8.RuneCountInString(w) > m.most {
		return append(ids, m.unk), nil
	}
	n := len(ids)
	for from := 0; from < len(w); {
		end := min(len(w), from+m.longest)
		for end < len(w) && !utf8.RuneStart(w[end]) {
			end--
		}
		found := false
		for ; end > from; end-- {
			if end < len(w) && !utf8.RuneStart(w[end]) {
				continue
			}
			s := w[from:end]
			if from > 0 {
				s = m.prefix + s
			}
			if id, ok := m.ids[s]; ok {
				ids, from, found = append(ids, id), end, true
				break
			}
		}
		if !found {
			return append(ids[:n], m.unk), nil
		}
	}
	return ids, nil
}
