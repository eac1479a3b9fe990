package jsonl

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestTexts(t *testing.T) {
	file := "\ufeff{\"b\":\"x\\ny\",\"a\":1.50,\"c\":[{}]}\n\n {\"a\":true,\"b\":\"\"}"
	if names, err := Names(strings.NewReader(file)); err != nil || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("%q, %v", names, err)
	}
	var got []string
	err := Texts(strings.NewReader(file), []string{"b", "a"}, func(line int, cells []string) error {
		got = append(got, string(rune('0'+line))+strings.Join(cells, "|"))
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"1x\ny|1.50", "3|true"}) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"[1]", "{", `{"a":null}`, `{"a":{}}`, `{"b":1}`, "{\"a\":1}\nx", strings.Repeat(" ", maxLine+1)} {
		if err := Texts(strings.NewReader(bad), []string{"a"}, func(int, []string) error { return nil }); !errors.Is(err, ErrFormat) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	err = Texts(strings.NewReader("{}"+strings.Repeat(" ", maxLine+1)), nil, func(int, []string) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "line 1 has more than 16777216 bytes: does every line hold an object of its own?") {
		t.Error(err)
	}
	mine := errors.New("mine")
	if err := Texts(strings.NewReader(file), []string{"a"}, func(int, []string) error { return mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("{\"a\":\"x\",\"b\":2}\n{\"a\":\"\\ud800\",\"b\":null}\n")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Names(strings.NewReader(s)); err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
		if err := Texts(strings.NewReader(s), []string{"a", "b"}, func(int, []string) error { return nil }); err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
}
