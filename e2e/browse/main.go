// Command browse runs a js/wasm test binary, or a script, in a worker of headless Chromium, on
// a cross-origin isolated page: go test -exec "browse -threads 2". It prints the program's
// output and exits with its exit code.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// end begins the line by which the page reports that the program has ended.
const end = "browse: exit code "

const page = `<!doctype html><meta charset="utf-8"><script type="module" src="/browse.js"></script>`

// script runs the program in a worker and forwards its output to the console of the page.
const script = `const w = new Worker("/browse-worker.js", { type: "module" });
w.onmessage = ({ data }) => console.log(data);
w.onerror = (ev) => console.log("browse: " + ev.message + "\n` + end + `1");`

const worker = `console.log = (...words) => postMessage(words.join(" "));
import "./shared.js";
import "./wasm_exec.js";
import { load } from "./load.js";
const go = new Go();
go.argv = %s;
go.env = %s;
let code = 0;
go.exit = (c) => (code = c);
const compile = async (name) => WebAssembly.compileStreaming(fetch("/" + name));
try {
  await (await load({ go, compile, threads: %d, fuse: %t })).run();
} catch (err) {
  console.log(String(err.stack ?? err));
  code = 1;
}
console.log("` + end + `" + code);`

const scripted = `console.log = (...words) => postMessage(words.join(" "));
globalThis.options = %s;
let code = 0;
try {
  await import("/%s");
} catch (err) {
  console.log(String(err.stack ?? err));
  code = 1;
}
console.log("` + end + `" + code);`

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "browse:", err)
		code = 1
	}
	os.Exit(code)
}

func run() (int, error) {
	threads := flag.Int("threads", 1, "run the kernels on `N` workers")
	dir := flag.String("wasm", "", "the `DIR` of load.js and the kernels' modules")
	module := flag.String("script", "", "run this `MODULE` of the directory given by -wasm instead of a program")
	options := flag.String("options", "{}", "the `JSON` that the script finds in globalThis.options")
	limit := flag.Duration("limit", 10*time.Minute, "the longest that the program may take")
	flag.Parse()
	if (flag.NArg() < 1) != (*module != "") || *dir == "" {
		return 1, errors.New("usage: browse -wasm DIR [-threads N] PROGRAM ARGS, or browse -wasm DIR -script MODULE")
	}
	if *module != "" {
		return serve(*dir, "", "", fmt.Sprintf(scripted, *options, *module), *limit)
	}
	tmp, err := os.MkdirTemp("", "browse-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(tmp)
	for _, kind := range []string{"", "-shared"} {
		args := []string{"run", "./link"}
		if kind != "" {
			args = append(args, kind)
		}
		cmd := exec.Command("go", append(args, "-o", filepath.Join(tmp, "ravnest"+kind+".wasm"), abs(flag.Arg(0)))...)
		cmd.Dir = *dir
		cmd.Env = append(os.Environ(), "GOOS=", "GOARCH=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("linking: %w: %s", err, out)
		}
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return 1, err
	}
	goexec := filepath.Join(strings.TrimSpace(string(root)), "lib/wasm/wasm_exec.js")
	return serve(*dir, tmp, goexec, fmt.Sprintf(worker, list(flag.Args()), env(), *threads, os.Getenv("NOFMA") == ""), *limit)
}

// serve serves the files to a browser until the program in the worker has ended.
func serve(dir, tmp, goexec, worker string, limit time.Duration) (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1, err
	}
	srv := &http.Server{Handler: handler(dir, tmp, goexec, worker)}
	go srv.Serve(ln)
	defer srv.Close()
	return browse("http://"+ln.Addr().String()+"/", limit)
}

func abs(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

// list formats a JavaScript array of strings.
func list(args []string) string {
	var q []string
	for _, a := range args {
		q = append(q, strconv.Quote(a))
	}
	return "[" + strings.Join(q, ",") + "]"
}

// env formats the environment of the program, as a JavaScript object.
func env() string {
	return fmt.Sprintf("{GODEBUG: %q}", os.Getenv("GODEBUG"))
}

func handler(dir, tmp, goexec, worker string) http.Handler {
	text := func(w http.ResponseWriter, kind, s string) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, s)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		w.Header().Set("Cross-Origin-Embedder-Policy", "require-corp")
		name := filepath.Base(r.URL.Path)
		switch {
		case r.URL.Path == "/":
			text(w, "text/html", page)
		case name == "browse.js":
			text(w, "text/javascript", script)
		case name == "browse-worker.js":
			text(w, "text/javascript", worker)
		case name == "wasm_exec.js" && goexec != "":
			http.ServeFile(w, r, goexec)
		case strings.HasPrefix(name, "ravnest") && tmp != "":
			http.ServeFile(w, r, filepath.Join(tmp, name))
		default:
			http.ServeFile(w, r, filepath.Join(dir, name))
		}
	})
}

// browse opens the page and prints the output of the program until it has ended.
func browse(url string, limit time.Duration) (int, error) {
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.Flag("disable-gpu", true))
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ctx, stop := chromedp.NewExecAllocator(ctx, opts...)
	defer stop()
	ctx, closeTab := chromedp.NewContext(ctx)
	defer closeTab()
	ended := make(chan int, 1)
	err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			for _, a := range ev.Args {
				s, err := strconv.Unquote(string(a.Value))
				if err != nil {
					s = string(a.Value)
				}
				if said, code, ok := strings.Cut(s, end); ok {
					fmt.Print(said)
					n, err := strconv.Atoi(code)
					if err != nil {
						n = 1
					}
					select {
					case ended <- n:
					default:
					}
					continue
				}
				fmt.Println(s)
			}
		case *runtime.EventExceptionThrown:
			fmt.Println(ev.ExceptionDetails.Text)
		}
	})
	if err != nil {
		return 1, fmt.Errorf("starting the browser: %w", err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		return 1, err
	}
	select {
	case code := <-ended:
		return code, nil
	case <-ctx.Done():
		return 1, fmt.Errorf("the program is still running after %v", limit)
	}
}
