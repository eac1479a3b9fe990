// Data sets that are computed where they are needed: the same rows on every machine,
// without a file. They are small tasks that a model of their kind learns in minutes.

package data

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/kernel"
)

// builtin returns the data sets that come with the program. It is a function so that who asks
// for none, such as a tab, does not carry them: a variable would be initialised, and kept.
func builtin() map[string]func() (*Set, error) {
	return map[string]func() (*Set, error){
		"digits": Digits, "sorter": Sorter, "sums": Sums, "topics": Topics, "shapes": Shapes, "days": Days,
	}
}

// Builtin finds a data set that comes with the program; ok tells whether there is one of
// that name.
func Builtin(name string) (s *Set, ok bool, err error) {
	mk, ok := builtin()[name]
	if !ok {
		return nil, false, nil
	}
	s, err = mk()
	return s, true, err
}

// BuiltinNames lists the data sets that come with the program, sorted.
func BuiltinNames() []string { return slices.Sorted(maps.Keys(builtin())) }

// draws gives one random number after another.
type draws struct {
	s kernel.Stream
	e uint64
}

// newDraws is the numbers of row of a part of a set.
func newDraws(set uint32, val bool, row int) *draws {
	step := uint64(row) << 1
	if val {
		step |= 1
	}
	return &draws{s: kernel.NewStream(1, kernel.DomainData, step, set)}
}

// below is a number from 0 to n-1.
func (d *draws) below(n int) int {
	d.e++
	return int(uint64(d.s.Uint32(d.e-1)) * uint64(n) >> 32)
}

// The sets' numbers in the address of their draws.
const (
	setSums uint32 = iota + 1
	setTopics
	setShapes
	setDays
)

// made builds a set of train and val rows from a function of a part.
func made(name string, train, val int, part func(val bool, rows int) (Part, error)) (*Set, error) {
	t, err := part(false, train)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	v, err := part(true, val)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return NewSet(name, t, v)
}

// Sorter is minGPT's sorting task: all rows of six digits below three, each followed by
// the same in order. Input and target are the eleven tokens but the last and but the
// first; the digits to be sorted are no targets. Every fourth row is for validation.
func Sorter() (*Set, error) {
	const digits, kinds, all = 6, 3, 729
	return made("sorter", all-(all+3)/4, (all+3)/4, func(val bool, rows int) (Part, error) {
		x := &Table{Kind: Inputs, Rows: rows, Shape: []int{2*digits - 1}}
		y := &Table{Kind: Targets, Rows: rows, Shape: x.Shape, Classes: kinds}
		for n := range all {
			if (n%4 == 0) != val {
				continue
			}
			row := make([]uint8, digits)
			for i, v := 0, n; i < digits; i, v = i+1, v/kinds {
				row[i] = uint8(v % kinds)
			}
			row = append(row, slices.Sorted(slices.Values(row))...)
			x.U8 = append(x.U8, row[:len(row)-1]...)
			for i, v := range row[1:] {
				if i < digits-1 {
					y.I32 = append(y.I32, NoClass)
				} else {
					y.I32 = append(y.I32, int32(v))
				}
			}
		}
		return NewPart(x, y)
	})
}

// SumsAlphabet are the characters of Sums, by token.
const SumsAlphabet = "\n .abcdefghijklmnopqrstuvwxyz"

// Sums is text to be continued, 256 characters a row: additions and subtractions in
// words, "forty two plus nine is fifty one." in a line each. The target of a character is
// the one after it.
func Sums() (*Set, error) {
	const chars = 256
	return made("sums", 1024, 64, func(val bool, rows int) (Part, error) {
		x := &Table{Kind: Inputs, Rows: rows, Shape: []int{chars}}
		y := &Table{Kind: Targets, Rows: rows, Shape: x.Shape, Classes: len(SumsAlphabet)}
		for r := range rows {
			d := newDraws(setSums, val, r)
			var text strings.Builder
			for text.Len() <= chars {
				a, b := d.below(100), d.below(100)
				if d.below(2) == 0 {
					fmt.Fprintf(&text, "%s plus %s is %s.\n", inWords(a), inWords(b), inWords(a+b))
				} else {
					a, b = max(a, b), min(a, b)
					fmt.Fprintf(&text, "%s minus %s is %s.\n", inWords(a), inWords(b), inWords(a-b))
				}
			}
			var row []uint8
			for _, c := range text.String()[:chars+1] {
				row = append(row, uint8(strings.IndexRune(SumsAlphabet, c)))
			}
			x.U8, y.U8 = append(x.U8, row[:chars]...), append(y.U8, row[1:]...)
		}
		return NewPart(x, y)
	})
}

var (
	ones = strings.Fields("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
	tens = strings.Fields("twenty thirty forty fifty sixty seventy eighty ninety")
)

// inWords is n, below 200, in English.
func inWords(n int) string {
	switch {
	case n < 20:
		return ones[n]
	case n >= 100 && n%100 == 0:
		return "one hundred"
	case n >= 100:
		return "one hundred " + inWords(n%100)
	case n%10 == 0:
		return tens[n/10-2]
	}
	return tens[n/10-2] + " " + ones[n%10]
}

// Topics is texts to be told apart, in the numbers of BERT's vocabulary: 101, words, 102,
// then 0 to the end of 128 tokens. Three words in ten are of the text's topic, one of two,
// one in ten of the other, the rest of neither; a topic has ten words.
func Topics() (*Set, error) {
	const (
		tokens           = 128
		begin, end       = 101, 102
		neutral, topical = 2000, 1000 // words from neutral on, topics from 3000 and 4000
		topicWords       = 10
	)
	return made("topics", 256, 64, func(val bool, rows int) (Part, error) {
		x := &Table{Kind: Inputs, Rows: rows, Shape: []int{tokens}, I32: make([]int32, rows*tokens)}
		y := &Table{Kind: Targets, Rows: rows, Shape: []int{}, Classes: 2, U8: make([]uint8, rows)}
		for r := range rows {
			d, row := newDraws(setTopics, val, r), x.I32[r*tokens:][:tokens]
			topic := d.below(2)
			y.U8[r] = uint8(topic)
			words := 20 + d.below(tokens-2-20+1)
			row[0], row[words+1] = begin, end
			for i := range words {
				switch kind := d.below(10); {
				case kind < 3:
					row[i+1] = int32(neutral + topical*(1+topic) + d.below(topicWords))
				case kind < 4:
					row[i+1] = int32(neutral + topical*(2-topic) + d.below(topicWords))
				default:
					row[i+1] = int32(neutral + d.below(topical))
				}
			}
		}
		return NewPart(x, y)
	})
}

// Shapes is images of ten shapes, [3,64,64] with values 0..255: a shape of some colour,
// size and place on a ground of another, under noise.
func Shapes() (*Set, error) {
	const side = 64
	return made("shapes", 640, 160, func(val bool, rows int) (Part, error) {
		x := &Table{Kind: Inputs, Rows: rows, Shape: []int{3, side, side}, U8: make([]uint8, rows*3*side*side)}
		y := &Table{Kind: Targets, Rows: rows, Shape: []int{}, Classes: len(shapes), U8: make([]uint8, rows)}
		for r := range rows {
			d, image := newDraws(setShapes, val, r), x.U8[r*3*side*side:][:3*side*side]
			k := d.below(len(shapes))
			y.U8[r] = uint8(k)
			size := 12 + d.below(17)
			cx, cy := size+d.below(side-2*size), size+d.below(side-2*size)
			var ink, ground [3]int
			for c := range 3 {
				ink[c], ground[c] = 128+d.below(96), 16+d.below(80)
			}
			for i := range side * side {
				colour := &ground
				if dx, dy := i%side-cx, i/side-cy; max(dx, -dx, dy, -dy) <= size && shapes[k](dx, dy, size) {
					colour = &ink
				}
				noise := d.below(1 << 15)
				for c := range 3 {
					image[c*side*side+i] = uint8(colour[c] + noise>>(5*c)&31 - 15)
				}
			}
		}
		return NewPart(x, y)
	})
}

// shapes tell whether the point (x, y) from a shape's middle is in it, size being half its
// width.
var shapes = []func(x, y, size int) bool{
	func(x, y, s int) bool { return x*x+y*y <= s*s },                       // disc
	func(x, y, s int) bool { return x*x+y*y <= s*s && 2*(x*x+y*y) >= s*s }, // ring
	func(x, y, s int) bool { return true },                                 // square
	func(x, y, s int) bool { return max(x, -x, y, -y) >= 2*s/3 },           // frame
	func(x, y, s int) bool { return 2*max(x, -x) <= s+y },                  // triangle
	func(x, y, s int) bool { return 3*min(max(x, -x), max(y, -y)) <= s },   // cross
	func(x, y, s int) bool { return max(x, -x)+max(y, -y) <= s },           // diamond
	func(x, y, s int) bool { return (y+s)/4%2 == 0 },                       // lines
	func(x, y, s int) bool { return (x+s)/4%2 == 0 },                       // columns
	func(x, y, s int) bool { return ((x+s)/6+(y+s)/6)%2 == 0 },             // board
}
