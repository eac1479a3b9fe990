package strict_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/ravnest/ravnest/engine/strict"
)

type inner struct {
	LR    float64    `json:"lr"`
	Betas [2]float64 `json:"betas"`
}

type outer struct {
	Epochs int              `json:"epochs"`
	Seed   uint64           `json:"seed"`
	Name   string           `json:"name"`
	Fast   bool             `json:"fast"`
	Rule   inner            `json:"optimizer"`
	List   []string         `json:"list"`
	ByName map[string]inner `json:"by_name"`
	Free   json.RawMessage  `json:"free"`
	Maybe  *int             `json:"maybe"`
}

func TestDecode(t *testing.T) {
	text := `{"epochs": 3, "optimizer": {"lr": 0}, "by_name": {"a b": {"betas": [1, 2]}}, "free": {"x": [null]}, "maybe": null}`
	u16 := func(order binary.AppendByteOrder) string {
		var b []byte
		for _, u := range utf16.Encode([]rune("\ufeff" + text)) {
			b = order.AppendUint16(b, u)
		}
		return string(b)
	}
	for name, data := range map[string]string{
		"plain": text, "byte order mark": "\xef\xbb\xbf" + text, "Windows": strings.ReplaceAll(text, ",", ",\r\n") + "\r\n",
		"UTF-16LE": u16(binary.LittleEndian), "UTF-16BE": u16(binary.BigEndian),
	} {
		v := outer{Seed: 7, Rule: inner{LR: 5}}
		has, err := strict.Decode([]byte(data), &v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if v.Epochs != 3 || v.Seed != 7 || v.Rule.LR != 0 || v.ByName["a b"].Betas != [2]float64{1, 2} {
			t.Errorf("%s: %+v", name, v)
		}
		if !has["optimizer.lr"] || has["optimizer.betas"] || has["seed"] || !has["by_name.a b.betas"] {
			t.Errorf("%s: fields %v", name, has)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range [][2]string{
		{`{"epoch": 1}`, `unknown field "epoch": the nearest is "epochs"`},
		{`{"Epochs": 1}`, `unknown field "Epochs": the nearest is "epochs"`},
		{`{"optimizer": {"learning_rate": 1}}`, `unknown field "learning_rate" in optimizer`},
		{`{"optimizer": {"beta": 1}}`, `the nearest is "betas"`},
		{`{"epochs": 1, "epochs": 2}`, `"epochs" stands twice`},
		{`{"epochs": null}`, `epochs is null, want a whole number`},
		{`{"epochs": "3"}`, `line 1, column 12: epochs is a string, want a whole number`},
		{`{"epochs": 1.5}`, `epochs 1.5 is not a whole number`},
		{`{"epochs": 1e30}`, `epochs 1e30 is`},
		{`{"epochs": 99999999999999999999}`, `epochs 99999999999999999999 is larger`},
		{`{"seed": -1}`, `seed -1 is not`},
		{`{"optimizer": {"lr": 1e999}}`, `optimizer.lr 1e999 is larger`},
		{`{"optimizer": {"betas": [0.9]}}`, `optimizer.betas has 1 values, want 2`},
		{`{"optimizer": {"betas": [0.9, 0.99, 1]}}`, `optimizer.betas has 3 values, want 2`},
		{`{"optimizer": []}`, `optimizer is an array, want an object`},
		{`{"fast": 1}`, `fast is a number, want true or false`},
		{`{"list": ["a", 2]}`, `list[1] is a number, want a string`},
		{"{\n \"epochs\": 1,\n}", `line 3`},
		{`{"epochs": 1} x`, `follows the end`},
		{`{"epochs": 1`, `ends too early`},
		{``, `ends too early`},
		{`{"name": "` + "\xff" + `"}`, `not UTF-8`},
		{`{"list": ` + strings.Repeat("[", 1000), `want a string`},
	} {
		var v outer
		if _, err := strict.Decode([]byte(c[0]), &v); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: got %v, want %q", c[0], err, c[1])
		}
	}
}

// FuzzDecode: what is accepted is what encoding/json reads of it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"epochs": 3, "optimizer": {"lr": 0}, "by_name": {"a": {"betas": [1, 2]}}, "free": 1, "maybe": 2}`))
	f.Add([]byte("\xff\xfe{\x00}\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v, w outer
		has, err := strict.Decode(data, &v)
		if err != nil {
			return
		}
		text, err := strict.Text(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &w); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		a, _ := json.Marshal(v)
		b, _ := json.Marshal(w)
		if !bytes.Equal(a, b) {
			t.Fatalf("%s is not %s", a, b)
		}
		if v.Epochs != 0 && !has["epochs"] {
			t.Fatal("a field that is there is not listed")
		}
	})
}
