// The unigram model of SentencePiece (Kudo 2018): of all ways to divide a word into tokens it takes
// the likeliest, by the logarithms of their probabilities.

package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// unknownPenalty is how much less likely an unknown character is than the least likely token, as in
// SentencePiece.
const unknownPenalty = 10

type unigram struct {
	ids      map[string]int32
	scores   []float64
	tokens   trie
	unk      int32   // -1: unknown characters are an error
	unkScore float64 // of an unknown character
	fallback bool
	crosses  bool // a token goes on behind a space
	best     []step
}

// step is the best way to a place in a word.
type step struct {
	score float64
	from  int32 // where its last token begins; -1: there is no way yet
	unk   bool  // that token is an unknown character
}

// scored is a token and its score, which JSON holds as a list of two.
type scored struct {
	token string
	score float64
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *scored) UnmarshalJSON(b []byte) error {
	pair := []any{&s.token, &s.score}
	if err := json.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
		return bad("an entry of the vocabulary is %.60s, want a token and a score", b)
	}
	return nil
}

func (t *Tokenizer) readUnigram(vocab json.RawMessage, unk *int64, fallback bool) error {
	var list []scored
	if err := json.Unmarshal(vocab, &list); err != nil {
		return bad("its vocabulary: %w", err)
	}
	if len(list) == 0 || len(list) > maxTokens {
		return bad("a vocabulary of %d tokens, want 1 to %d", len(list), maxTokens)
	}
	m := &unigram{ids: make(map[string]int32, len(list)), unk: -1, fallback: fallback}
	least := list[0].score
	for id, s := range list {
		if err := t.name(s.token, int64(id)); err != nil {
			return err
		}
		// Of equal tokens the last counts, as in the original.
		m.ids[s.token], m.scores, least = int32(id), append(m.scores, s.score), min(least, s.score)
		begun := strings.TrimLeft(s.token, metaspaceRune)
		m.crosses = m.crosses || strings.Contains(begun, metaspaceRune)
	}
	if unk != nil {
		if *unk < 0 || *unk >= int64(len(list)) {
			return bad("the unknown token is %d of %d", *unk, len(list))
		}
		m.unk = int32(*unk)
	}
	m.unkScore, m.tokens = least-unknownPenalty, newTrie(m.ids)
	t.model = m
	return nil
}

// word implements model. The steps are those of the original, so that equal scores end equally.
func (m *unigram) word(ids []int32, w string) ([]int32, error) {
	m.best = slices.Grow(m.best[:0], len(w)+1)[:len(w)+1]
	for i := range m.best {
		m.best[i] = step{from: -1}
	}
	for i := 0; i < len(w); {
		_, n := utf8.DecodeRuneInString(w[i:])
		here, whole := m.best[i].score, false
		reach := func(end int, score float64, unk bool) {
			if to := &m.best[end]; to.from < 0 || here+score > to.score {
				*to = step{here + score, int32(i), unk}
			}
		}
		m.tokens.prefixes(w[i:], func(length int, id int32) {
			reach(i+length, m.scores[id], id == m.unk)
			whole = whole || length == n
		})
		if !whole {
			if m.unk < 0 {
				return ids, fmt.Errorf("%w: %q is unknown, and the tokenizer has no token for what is", ErrText, w[i:i+n])
			}
			reach(i+n, m.unkScore, true)
		}
		i += n
	}
	return m.trace(ids, w)
}

// trace appends the tokens of the best way through w. Neighbouring unknown characters are one token.
func (m *unigram) trace(ids []int32, w string) ([]int32, error) {
	at := len(ids)
	for end := len(w); end > 0; {
		from := int(m.best[end].from)
		for m.best[end].unk && from > 0 && m.best[from].unk {
			from = int(m.best[from].from)
		}
		ids = m.backwards(ids, w[from:end])
		end = from
	}
	slices.Reverse(ids[at:])
	return ids, nil
}

// backwards appends the tokens of s, which is one token or unknown, last first.
func (m *unigram) backwards(ids []int32, s string) []int32 {
	if id, ok := m.ids[s]; ok {
		return append(ids, id)
	}
	if m.fallback {
		n := len(ids)
		for i := len(s) - 1; i >= 0; i-- {
			id, ok := m.ids[byteToken(s[i])]
			if !ok {
				ids = ids[:n]
				return append(ids, m.unk)
			}
			ids = append(ids, id)
		}
		return ids
	}
	return append(ids, m.unk)
}

// byteToken names the token of a byte, where a vocabulary has them.
func byteToken(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

// ByteOf is the byte that a token named like <0x0A> stands for.
func ByteOf(name string) (byte, bool) {
	if len(name) != len("<0x0A>") || !strings.HasPrefix(name, "<0x") || name[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(name[3:5], 16, 8)
	return byte(b), err == nil
}

// trie finds the keys that a text begins with. The nodes of a level follow one another, and the
// edges of a node lie in the order of their labels.
type trie struct {
	nodes []trieNode
	label []byte  // of edges
	to    []int32 // their nodes
}

type trieNode struct {
	edge, end int32 // its edges
	value     int32 // -1: no key ends here
}

func newTrie(values map[string]int32) trie {
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	t := trie{nodes: []trieNode{{value: -1}}}
	type group struct{ from, to, depth int } // the keys that share the text to a node
	groups := []group{{0, len(keys), 0}}
	for n := 0; n < len(groups); n++ {
		g := groups[n]
		if g.from < g.to && len(keys[g.from]) == g.depth {
			t.nodes[n].value = values[keys[g.from]]
			g.from++
		}
		t.nodes[n].edge = int32(len(t.to))
		for i := g.from; i < g.to; {
			c, k := keys[i][g.depth], i
			for i < g.to && keys[i][g.depth] == c {
				i++
			}
			t.label, t.to = append(t.label, c), append(t.to, int32(len(t.nodes)))
			t.nodes, groups = append(t.nodes, trieNode{value: -1}), append(groups, group{k, i, g.depth + 1})
		}
		t.nodes[n].end = int32(len(t.to))
	}
	return t
}

// prefixes calls give for each key that s begins with, the shortest first.
func (t *trie) prefixes(s string, give func(length int, value int32)) {
	at := int32(0)
	for i := range len(s) {
		n := t.nodes[at]
		k, ok := slices.BinarySearch(t.label[n.edge:n.end], s[i])
		if !ok {
			return
		}
		at = t.to[int(n.edge)+k]
		if v := t.nodes[at].value; v >= 0 {
			give(i+1, v)
		}
	}
}
