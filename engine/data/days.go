// Pairs of sentences to pre-train a BERT on: which words were there, and which sentence came
// first.

package data

import (
	"slices"
	"strings"
)

// The tokens of Days beside its words, and the length of a row.
const (
	daysPad = iota
	daysBegin
	daysEnd
	daysMask
	daysWord // the first word

	DaysLength = 32
)

// A day has these times; what somebody does follows from the time and the place.
var (
	days  = []string{"in the morning", "at noon", "in the afternoon", "in the evening", "at night"}
	names = strings.Fields("anna ben clara david emma felix greta hugo ida jonas")
	// places are those of each time, with what is done there.
	places = [][][2]string{
		{{"in the kitchen", "drinks tea"}, {"in the kitchen", "eats bread"}, {"on the train", "reads the news"}},
		{{"at the office", "writes a letter"}, {"at the market", "buys apples"}, {"at the school", "eats soup"}},
		{{"in the garden", "waters the roses"}, {"at the lake", "feeds the ducks"}, {"at the office", "calls a friend"}},
		{{"in the kitchen", "cooks rice"}, {"at the theatre", "sings a song"}, {"in the garden", "plays the violin"}},
		{{"in bed", "reads a book"}, {"in bed", "dreams of the sea"}, {"on the roof", "counts the stars"}},
	}
	asides = []string{"", "", "with a smile", "alone", "in the rain"}
)

// DaysWords are the words of Days and the full stop, sorted; word i is token 4+i. The tokens before
// are padding, the beginning of a row, the end of a sentence, and a hidden word.
var DaysWords = func() []string {
	all := append(append(append([]string{"."}, names...), days...), asides...)
	for _, ps := range places {
		for _, p := range ps {
			all = append(all, p[0], p[1])
		}
	}
	words := strings.Fields(strings.Join(all, " "))
	slices.Sort(words)
	return slices.Compact(words)
}()

// DaysTokens is the number of tokens of Days.
var DaysTokens = daysWord + len(DaysWords)

// sentence is what a person does at a time of the day.
func (d *draws) sentence(name, time int) []int {
	p := places[time][d.below(len(places[time]))]
	var ids []int
	for _, w := range strings.Fields(days[time] + " " + names[name] + " " + p[1] + " " + p[0] + " " + asides[d.below(len(asides))] + " .") {
		at, _ := slices.BinarySearch(DaysWords, w)
		ids = append(ids, daysWord+at)
	}
	return ids
}

// Days is pairs of sentences, of which the second follows the first in half of the rows and comes
// before it in the others, as BERT is pre-trained (Devlin et al., arXiv 1810.04805; sentence order
// instead of the next sentence: Lan et al., arXiv 1909.11942). A row of inputs is DaysLength tokens
// and, for each, 0 in the first sentence and 1 in the second. 15 % of the tokens are to be guessed:
// 80 % of them are hidden, 10 % are some other word, 10 % are as they were. A row of targets is the
// words that are to be guessed, NoClass for all others, and 0 if the sentences are in order, 1 if
// not.
func Days() (*Set, error) {
	const hidden = 15 // in a hundred
	return made("days", 2048, 256, func(val bool, rows int) (Part, error) {
		x := &Table{Kind: Inputs, Rows: rows, Shape: []int{2 * DaysLength}, U8: make([]uint8, rows*2*DaysLength)}
		y := &Table{Kind: Targets, Rows: rows, Shape: []int{DaysLength + 1}, I32: make([]int32, rows*(DaysLength+1))}
		for r := range rows {
			d := newDraws(setDays, val, r)
			name, time := d.below(len(names)), d.below(len(days)-1)
			pair := [2][]int{d.sentence(name, time), d.sentence(name, time+1)}
			swapped := d.below(2)
			if swapped == 1 {
				pair[0], pair[1] = pair[1], pair[0]
			}
			in, out := x.U8[r*2*DaysLength:][:2*DaysLength], y.I32[r*(DaysLength+1):][:DaysLength+1]
			for i := range out {
				out[i] = NoClass
			}
			out[DaysLength], in[0] = int32(swapped), daysBegin
			at := 1
			for s, ids := range pair {
				for _, id := range ids {
					in[at], in[DaysLength+at] = uint8(id), uint8(s)
					if d.below(100) < hidden {
						out[at] = int32(id)
						switch kind := d.below(10); {
						case kind < 8:
							in[at] = daysMask
						case kind < 9:
							in[at] = uint8(daysWord + d.below(len(DaysWords)))
						}
					}
					at++
				}
				in[at], in[DaysLength+at] = daysEnd, uint8(s)
				at++
			}
		}
		return NewPart(x, y)
	})
}
