// Command _gen writes the files z_* of package kernel and of wasm/kernel: all of them, or
// without a name those of avo one process each.
package main

//go:generate go run .

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/kernel/_gen/avo"
	"github.com/ravnest/ravnest/engine/kernel/_gen/loop"
	"github.com/ravnest/ravnest/engine/kernel/_gen/neon"
)

// dir is package kernel: go generate and go run start here.
const dir = ".."

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 {
		for _, f := range avo.Files {
			if f.Name == os.Args[1] {
				f.Write(dir)
				return
			}
		}
		log.Fatalf("no file of this name: %s", os.Args[1])
	}
	self, err := os.Executable()
	check(err)
	for _, f := range avo.Files {
		cmd := exec.Command(self, f.Name)
		cmd.Stderr = os.Stderr
		check(cmd.Run())
	}
	code, stubs := neon.Gemm()
	files := loop.Files()
	files["z_gemm_arm64.s"], files["z_gemm_arm64.go"] = string(code), string(stubs)
	for name, text := range files {
		check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
