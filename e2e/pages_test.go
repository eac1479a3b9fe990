// The pages as people see them. Screenshots are written to e2e/out for people to look at.

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// looks are the window sizes and colour schemes that pages are checked in.
var looks = []struct {
	name          string
	width, height int64
	dark, phone   bool
}{
	{"wide-light", 1280, 900, false, false},
	{"wide-dark", 1280, 900, true, false},
	{"phone-light", 320, 693, false, true}, // the width of WCAG 2.2, 1.4.10
	{"phone-dark", 390, 844, true, true},
}

// wider is an expression for the number of pixels by which a page exceeds the window's width.
const wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

// cut is an expression for the texts that stick out of their place, over what is beside them.
const cut = `[...document.querySelectorAll("h1, h2, h3, p, dt, dd, li, a, button")]
  .filter((e) => e.checkVisibility() && getComputedStyle(e).display !== "inline" && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.tagName + " " + e.innerText.slice(0, 40))`

// faint is an expression for the texts that contrast with their background by less than 4.5
// to 1 (WCAG 2.2, 1.4.3).
const faint = `(() => {
  const parse = (c) => c.match(/[\d.]+/g).map(Number);
  const light = (c) => { const f = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.5) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll("h1, h2, h3, p, dt, dd, a, li, label, output, button, summary, figcaption, strong, span")) {
    if (!e.checkVisibility() || e.disabled || !e.innerText?.trim() || e.closest(".locked, .u-legend") || e.closest("[disabled]")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(ratio.toFixed(2) + " " + e.tagName + " " + e.innerText.slice(0, 40));
  }
  return bad;
})()`

// shoot takes screenshots of a page in every look and checks what holds for every page.
func (p *page) shoot(t *testing.T, name string) {
	t.Helper()
	dir := filepath.Join("out")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, l := range looks {
		scheme := "light"
		if l.dark {
			scheme = "dark"
		}
		_, err := chromedp.Call(p.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: l.width, Height: l.height, DeviceScaleFactor: 1, Mobile: l.phone})
		if err == nil {
			_, err = chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // charts adapt to the size
		if over, err := eval[int](p, wider); err != nil || over > 0 {
			t.Errorf("%s, %s: %d pixels wider than the window (%v)", name, l.name, over, err)
		}
		if out, err := eval[[]string](p, cut); err != nil || len(out) > 0 {
			t.Errorf("%s, %s: texts stick out of their place: %q (%v)", name, l.name, out, err)
		}
		shot, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+"-"+l.name+".png"), shot, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.readable(t, name+", "+l.name)
	}
	foreign, err := eval[[]string](p, `performance.getEntriesByType("resource").map((e) => e.name).filter((u) => !u.startsWith(location.origin) && !u.startsWith("data:"))`)
	if err != nil || len(foreign) > 0 {
		t.Errorf("%s loads from other hosts: %v %v", name, foreign, err)
	}
	nameless, err := eval[[]string](p, `[...document.querySelectorAll("button, input, a, select, [role=img], svg:not([aria-hidden])")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.innerText?.trim() || e.labels?.length || e.querySelector?.("img[alt]:not([alt=''])")))
  .map((e) => e.outerHTML.slice(0, 120))`)
	if err != nil || len(nameless) > 0 {
		t.Errorf("%s: controls without a name: %v %v", name, nameless, err)
	}
}

// readable checks that text contrasts with its background.
func (p *page) readable(t *testing.T, what string) {
	t.Helper()
	bad, err := eval[[]string](p, faint)
	if err != nil || len(bad) > 0 {
		t.Errorf("%s: not enough contrast: %v %v", what, bad, err)
	}
}

// tabTo moves the focus to a control with the Tab key.
func (p *page) tabTo(id string) {
	p.s.Helper()
	var at string
	for range 20 {
		p.do(chromedp.KeyEvent("\t"))
		if at, _ = eval[string](p, "document.activeElement.id"); at == id {
			if ring, _ := eval[string](p, "getComputedStyle(document.activeElement).outlineStyle"); ring != "solid" {
				p.s.Errorf("#%s does not show the focus: outline %q", id, ring)
			}
			return
		}
	}
	p.s.Fatalf("the Tab key does not reach #%s; it ended at %q", id, at)
}

// TestPages checks both pages before, during and after a run.
func TestPages(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", endless)
	b := s.browser()
	host, url := s.serve(dir)
	lend, dash := b.open(url), b.open(url+"/dashboard")
	dash.shows(limit, "#phase", "Waiting for providers")
	lend.shows(limit, "#state", "Not taking part")
	lend.front()
	lend.shoot(t, "contribute-idle")
	dash.front()
	dash.shoot(t, "dashboard-waiting")
	for k := range 2 {
		s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", 2*k), "--once")
		host.says(fmt.Sprintf("node_%d joined", 2*k), limit)
	}
	lend.front()
	lend.lend()
	lend.shows(limit, "#state", "Training")
	dash.front()
	dash.shows(limit, "#phase", "Training")
	for _, want := range []string{"node_0", "node_1", "node_2", "root", "stem", "leaf", "tab"} {
		dash.shows(limit, "#clusters", want)
	}
	time.Sleep(3 * time.Second) // so that the charts have some points
	for _, id := range []string{"#rate", "#loss", "#val", "#sent", "#flops"} {
		eventually(t, "the dashboard shows "+id, limit, func() bool { return strings.Trim(dash.text(id), "– ") != "" })
	}
	dash.shows(limit, "#events", "training has begun")
	dash.shoot(t, "dashboard-training")
	lend.front()
	time.Sleep(time.Second)
	lend.shoot(t, "contribute-training")
	lend.clean(t)
	dash.clean(t)
	lend.do(chromedp.Click(chromedp.CSS("#go")))
	lend.shows(limit, "#go", "Take part again")
	// The run waits for the provider that has left, or for another.
	dash.front()
	dash.shows(limit, "#phase", "Waiting for providers")
	dash.shows(limit, "#events", "node_1")
	dash.shoot(t, "dashboard-left")
	host.interrupt()
	host.wait(limit)
	dash.shows(limit, "#phase", "Failed", "Done")
	dash.shoot(t, "dashboard-stopped")
	lend.front()
	lend.do(chromedp.Click(chromedp.CSS("#go")))
	lend.shows(limit, "#problems", "host")
	lend.shoot(t, "contribute-failed")
}

// TestPagesAfterwards: both pages say how a run went, though its host is gone. It is
// started from the keyboard.
func TestPagesAfterwards(t *testing.T) {
	s := newScene(t)
	b := s.browser()
	host := s.start("ravnest", "demo", "--json", "--epochs", "20", "--tabs", "1", "--dir", filepath.Join(t.TempDir(), "job"))
	url := host.says(`(?m)^dashboard: (http://\S+)$`, limit)[1]
	dash, lend := b.open(url), b.open(strings.TrimSuffix(url, "dashboard"))
	lend.front()
	lend.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
	lend.tabTo("go")
	lend.do(chromedp.KeyEvent("\r"))
	if code := host.wait(limit); code != 0 {
		t.Fatalf("demo: code %d", code)
	}
	dash.shows(limit, "#phase", "Done")
	sum := parse[summary](t, host.out.String())
	dash.shows(limit, "#ending-text", fmt.Sprintf("%.2f %% of the validation data right", sum.ValAccuracy))
	// It includes what providers report as they leave.
	dash.shows(limit, "#sent", fmt.Sprintf("%.3g MB", sum.WireBytes*float64(sum.Steps)/1e6))
	dash.front()
	dash.shoot(t, "dashboard-done")
	lend.shows(limit, "#detail", "Thank you")
	lend.front()
	lend.shoot(t, "contribute-done")
	lend.clean(t)
}
