// A real browser for the tests: headless Chromium, used as a person would use it.

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/systeminfo"
	"github.com/chromedp/chromedp"
)

// chromium finds the browser. The tests fail without it: see make need-chromium.
func chromium() (string, error) {
	if path := os.Getenv("RAVNEST_CHROMIUM"); path != "" {
		return path, nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("neither Chromium nor Chrome is here: install one (Debian: apt-get install chromium), or name it in RAVNEST_CHROMIUM")
}

// browser is a Chromium of a scene. Its tabs share a temporary profile.
type browser struct {
	s   *scene
	ctx context.Context
}

// pages tells what is wrong with the binary's pages: a host without them serves no tab, which tests
// would wait for.
var pages = sync.OnceValue(func() error {
	// There is no such directory, so that nothing starts.
	out, err := exec.Command(filepath.Join(bin, "ravnest"), "demo", "--providers", "1", "--tabs", "1", "--dir", filepath.Join(os.DevNull, "job")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the job's directory") {
		return fmt.Errorf("%s\nmake build makes the pages (it needs npm); give the tests RAVNEST_BIN=$PWD/bin then", bytes.TrimSpace(out))
	}
	return nil
})

func (s *scene) browser(flags ...string) *browser {
	s.Helper()
	if err := pages(); err != nil {
		s.Fatal(err)
	}
	path, err := chromium()
	if err != nil {
		s.Fatal(err)
	}
	opts := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-extensions", true), chromedp.Flag("disable-gpu", true),
		// Peers connect over loopback: that needs real addresses instead of mDNS names.
		chromedp.Flag("allow-loopback-in-peer-connection", true),
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable"),
		// Some tests cover one tab by another on purpose; the others must not be affected.
		chromedp.Flag("disable-backgrounding-occluded-windows", true), chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.WindowSize(1280, 900), chromedp.Env(s.mark),
	}
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	for _, f := range flags {
		name, value, _ := strings.Cut(f, "=")
		opts = append(opts, chromedp.Flag(name, value))
	}
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(alloc)
	b := &browser{s, ctx}
	s.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for the browser
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		s.Fatalf("starting %s: %v", path, err)
	}
	return b
}

// page is an open tab.
type page struct {
	s      *scene
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	says []string // lines of the console
	bad  []string // errors: of the console, and uncaught
}

// open opens a page and records its console. The scripts run before those of the page.
func (b *browser) open(url string, scripts ...string) *page {
	b.s.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewWindow(false))
	p := &page{s: b.s, ctx: ctx, cancel: cancel}
	b.s.Cleanup(func() {
		if b.s.Failed() {
			b.s.Logf("page %s: %s\nconsole:\n%s\nerrors:\n%s", url, p.text("#state"), tail(strings.Join(p.says, "\n")), tail(strings.Join(p.bad, "\n")))
		}
		cancel()
	})
	err := chromedp.Listen(ctx, p.hear)
	for _, js := range scripts {
		_, e := chromedp.Call(ctx, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: js})
		err = errors.Join(err, e)
	}
	if err := errors.Join(err, p.run(chromedp.Navigate(url))); err != nil {
		b.s.Fatalf("opening %s: %v", url, err)
	}
	return p
}

// hear records what the page writes to the console, and its errors.
func (p *page) hear(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventConsoleAPICalled:
		var words []string
		for _, a := range ev.Args {
			words = append(words, string(a.Value)+a.Description)
		}
		line := strings.Join(words, " ")
		p.says = append(p.says, line)
		if ev.Type == runtime.ConsoleAPICalledTypeError {
			p.bad = append(p.bad, line)
		}
	case *runtime.EventExceptionThrown:
		line := ev.ExceptionDetails.Text
		if e := ev.ExceptionDetails.Exception; e != nil {
			line += " " + e.Description
		}
		p.bad = append(p.bad, line)
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError {
			p.bad = append(p.bad, ev.Entry.Text+" "+ev.Entry.URL)
		}
	}
}

// patience is how long a browser may take to answer.
const patience = 90 * time.Second

func (p *page) run(actions ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, actions...)
}

func (p *page) do(actions ...chromedp.Action[chromedp.Void]) {
	p.s.Helper()
	if err := p.run(actions...); err != nil {
		p.s.Fatalf("in the page: %v", err)
	}
}

// eval evaluates an expression in the page.
func eval[T any](p *page, js string) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](js))
}

// text returns the text of an element, "" if there is no such element.
func (p *page) text(selector string) string {
	s, _ := eval[string](p, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
	return s
}

// shows waits until the text of an element contains one of what, and returns it.
func (p *page) shows(limit time.Duration, selector string, what ...string) string {
	p.s.Helper()
	var last string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		last = p.text(selector)
		for _, w := range what {
			if strings.Contains(last, w) {
				return last
			}
		}
	}
	p.s.Fatalf("%s does not show %q within %v, but %q", selector, what, limit, last)
	return ""
}

// lend clicks the button that starts lending, once the page has enabled it.
func (p *page) lend() {
	p.s.Helper()
	p.do(chromedp.WaitEnabled(chromedp.CSS("#go")), chromedp.Click(chromedp.CSS("#go")))
}

// signal sends a signal to the processes of the browser's pages.
func (b *browser) signal(sig syscall.Signal) {
	b.s.Helper()
	info, err := chromedp.CallBrowser(b.ctx, systeminfo.GetProcessInfo, cdp.Empty{})
	if err != nil {
		b.s.Fatal(err)
	}
	for _, p := range info.ProcessInfo {
		if p.Type == "renderer" {
			_ = syscall.Kill(int(p.ID), sig)
		}
	}
}

// clean checks that there were no errors in the page.
func (p *page) clean(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.bad) > 0 {
		t.Errorf("errors in the page:\n%s", strings.Join(p.bad, "\n"))
	}
}
