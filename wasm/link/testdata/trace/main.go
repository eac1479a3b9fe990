// Command trace does what Go's runtime reads its tables of functions for, and prints where its last
// call was made.
package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// deep needs a stack that is copied again and again.
func deep(n int) int {
	var room [64]int
	room[n%64] = n
	if n == 0 {
		panic("at the bottom")
	}
	return deep(n-1) + room[n%64]
}

func recovered(n int) (why any) {
	defer func() { why = recover() }()
	return deep(n)
}

func where() string {
	pcs := make([]uintptr, 8)
	f, _ := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)]).Next()
	return fmt.Sprintf("%s at %s", f.Function, filepath.Base(f.File))
}

func main() {
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			if why := recovered(10 * n); why != "at the bottom" {
				panic(why)
			}
			runtime.Gosched()
		})
	}
	runtime.GC()
	wg.Wait()
	b := make([]byte, 1<<16)
	if s := string(b[:runtime.Stack(b, true)]); !strings.Contains(s, "main.main()") {
		panic("a trace without names: " + s)
	}
	fmt.Println(where())
}
