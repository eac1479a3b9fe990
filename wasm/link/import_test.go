package main

import (
	"bytes"
	"errors"
	"testing"
)

// module returns a module with these sections.
func module(ss ...section) []byte {
	b := []byte("\x00asm\x01\x00\x00\x00")
	for _, s := range ss {
		b = append(appendU32(append(b, s.id), uint32(len(s.body))), s.body...)
	}
	return b
}

var (
	custom  = section{0, []byte("\x01xabc")}
	imports = section{sectionImport, []byte("\x01\x01a\x01b\x00\x00")}
	code    = section{10, bytes.Repeat([]byte{7}, 300)}
)

func memory(body string) section { return section{sectionMemory, []byte(body)} }

func TestImport(t *testing.T) {
	for _, shared := range []bool{false, true} {
		got, err := Import(module(custom, imports, memory("\x01\x00\x90\x03"), code), shared)
		if err != nil {
			t.Fatal(err)
		}
		flags := "\x01"
		if shared {
			flags = "\x03"
		}
		// 400 pages, at most 65536.
		want := module(custom, section{sectionImport, []byte("\x02\x01a\x01b\x00\x00\x03env\x06memory\x02" + flags + "\x90\x03\x80\x80\x04")}, code)
		if !bytes.Equal(got, want) {
			t.Errorf("shared %v:\n%q\nwant\n%q", shared, got, want)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	whole := module(imports, memory("\x01\x00\x01"), code)
	for what, b := range map[string][]byte{
		"nothing":        nil,
		"another file":   []byte("\x7fELF...."),
		"another format": []byte("\x00asm\x0d\x00\x01\x00"),
		"no memory":      module(imports, code),
		"no imports":     module(memory("\x01\x00\x01")),
		"two memories":   module(imports, memory("\x02\x00\x01\x00\x01")),
		"twice":          module(imports, memory("\x01\x00\x01"), memory("\x01\x00\x01")),
		"huge memory":    module(imports, memory("\x01\x00\x81\x80\x04")),
		"endless number": module(imports, memory("\x01\x00\xff\xff\xff\xff\xff\xff")),
		"empty memory":   module(imports, memory("")),
		"cut off":        whole[:len(whole)-1],
		"too long":       append(module(imports), 5, 0xff, 0xff, 0xff, 0xff, 0x0f),
	} {
		if got, err := Import(b, false); !errors.Is(err, errModule) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add(module(custom, imports, memory("\x01\x00\x90\x03"), code), true)
	f.Add(module(imports, memory("\x01\x01\x01\x02")), false)
	f.Fuzz(func(t *testing.T, b []byte, shared bool) {
		got, err := Import(b, shared)
		if err != nil {
			if !errors.Is(err, errModule) {
				t.Errorf("%v is no errModule", err)
			}
			return
		}
		ss, err := split(got)
		if err != nil {
			t.Fatalf("what it wrote cannot be read: %v", err)
		}
		for _, s := range ss {
			if s.id == sectionMemory {
				t.Error("the memory is still there")
			}
		}
	})
}
