package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dataOf is a data section of bytes at addresses.
func dataOf(ss ...segment) section { return section{sectionData, appendSegments(nil, ss)} }

// image is what a module's memory begins with, as far as it is not 0.
func image(t *testing.T, b []byte) map[uint64]byte {
	t.Helper()
	ss, err := split(b)
	if err != nil {
		t.Fatal(err)
	}
	m := map[uint64]byte{}
	for _, s := range ss {
		if s.id != sectionData {
			continue
		}
		data, err := segments(s.body)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range data {
			for i, c := range d.b {
				if c != 0 {
					m[uint64(d.at)+uint64(i)] = c
				}
			}
		}
	}
	return m
}

func same(a, b map[uint64]byte) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

func TestCompact(t *testing.T) {
	in := module(custom, section{sectionDataCount, []byte{4}}, code, dataOf(
		segment{100, []byte("one")}, segment{4096, []byte("three")}, segment{110, []byte("two")}, segment{1 << 31, []byte("far")}))
	got, err := Compact(in, true)
	if err != nil {
		t.Fatal(err)
	}
	want := module(custom, section{sectionDataCount, []byte{2}}, code, dataOf(
		segment{100, []byte("one\x00\x00\x00\x00\x00\x00\x00two" + strings.Repeat("\x00", 4096-113) + "three")}, segment{1 << 31, []byte("far")}))
	if !bytes.Equal(got, want) {
		t.Errorf("%.80q\nwant\n%.80q", got, want)
	}
	if !same(image(t, got), image(t, in)) {
		t.Error("the memory begins with something else")
	}
}

func TestCompactRefuses(t *testing.T) {
	whole := module(dataOf(segment{1, []byte("ab")}))
	for what, b := range map[string][]byte{
		"nothing":          nil,
		"overlap":          module(dataOf(segment{1, []byte("ab")}, segment{2, []byte("c")})),
		"passive":          module(section{sectionData, []byte("\x01\x01\x02ab")}),
		"computed address": module(section{sectionData, []byte("\x01\x00\x23\x00\x0b\x02ab")}),
		"no end":           module(section{sectionData, []byte("\x01\x00\x41\x01\x0c\x02ab")}),
		"too short":        module(section{sectionData, []byte("\x01\x00\x41\x01\x0b\x03ab")}),
		"too long":         module(section{sectionData, []byte("\x01\x00\x41\x01\x0b\x01ab")}),
		"endless number":   module(section{sectionData, []byte("\x01\x00\x41\xff\xff\xff\xff\xff\xff")}),
		"cut off":          whole[:len(whole)-1],
	} {
		if got, err := Compact(b, true); !errors.Is(err, errModule) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	if _, err := Compact(whole, false); !errors.Is(err, errTable) {
		t.Errorf("no program of Go: %v", err)
	}
	if got, err := compact(whole, false); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("no program of Go: %q, %v, want it as it is", got, err)
	}
}

// aTable is a table of two functions, which share a table by instruction that is of lines for one
// and of the stack for the other.
func aTable() []byte {
	const names, units, files, tables, points = 72, 76, 80, 84, 100
	b := append([]byte(nil), tableMagic...)
	for _, v := range []uint64{2, 1, 0, names, units, files, tables, points} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, "f\x00g\x00unitfile"...)
	b = append(b, 0,
		2, 9, 0, // 1: stack of f, lines of g
		4, 0x81, 1, 6, 7, 0, // 4: lines of f
		0, 8, 0, // 10: files of both
		8, 3, 0) // 13: data of f
	entry := func(b []byte, stack, file, line uint32, datas ...uint32) []byte {
		for _, v := range []uint32{0, 0, 0, 0, stack, file, line, uint32(len(datas)), 0, 77} {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		b = append(b, 0, 0, 0, 0)
		for _, v := range datas {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		return b
	}
	for _, v := range []uint32{0, 16, 20, 64} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return entry(entry(b, 1, 10, 4, 13), 0, 10, 1)
}

func TestDropLines(t *testing.T) {
	b := aTable()
	data := []segment{{0, []byte("another")}, {1000, append([]byte("before, and a false \xf1\xff\xff\xff\x00\x00\x01\x08"), b...)}}
	if err := dropLines(data); err != nil {
		t.Fatal(err)
	}
	got := data[1].b[len(data[1].b)-len(b):]
	want := aTable()
	clear(want[76:84]) // files
	clear(want[88:97]) // lines of f, and files
	for _, f := range []int{116, 164} {
		clear(want[f+20 : f+28])
		clear(want[f+36 : f+40])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}

func FuzzCompact(f *testing.F) {
	f.Add(module(custom, dataOf(segment{9, []byte("ab")}, segment{99, []byte("cd")})), true)
	f.Add(module(dataOf(segment{9, aTable()})), false)
	f.Fuzz(func(t *testing.T, b []byte, lines bool) {
		got, err := Compact(b, lines)
		if err != nil {
			if !errors.Is(err, errModule) && !errors.Is(err, errTable) {
				t.Errorf("%v is not of this program", err)
			}
			return
		}
		if was, is := image(t, b), image(t, got); lines && !same(was, is) {
			t.Error("the memory begins with something else")
		}
	})
}

// TestCompactRuns: a program without its tables of lines does what others do, and does not know
// where it is.
func TestCompactRuns(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no Node here: ", err)
	}
	prog := filepath.Join(t.TempDir(), "program.wasm")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", prog, "./testdata/trace")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	if whole, err = Import(whole, false); err != nil {
		t.Fatal(err)
	}
	for _, lines := range []bool{true, false} {
		b, err := Compact(whole, lines)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(prog, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd, err := inNode(t.Context(), filepath.Join("..", "node.mjs"), prog)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		want := map[bool]string{true: "main.main at main.go\n", false: "main.main at ?\n"}[lines]
		if err != nil || string(out) != want {
			t.Errorf("with lines %v: %q, %v, want %q", lines, out, err, want)
		}
	}
}
