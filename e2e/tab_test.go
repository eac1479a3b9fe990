// Browser tabs as providers: the page, its button, and real WebRTC to native providers
// and to other tabs.

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// job makes a job and plans it for three providers.
func (s *scene) job(dir string, args ...string) {
	s.Helper()
	s.ok("ravnest", append(append([]string{"init"}, args...), dir)...)
	s.ok("ravnest", "clusterize", dir)
}

// local makes a job, trains it in one process and returns its losses, which those of all other
// runs must equal.
func (s *scene) local(dir string, args ...string) []byte {
	s.Helper()
	s.ok("ravnest", append(append([]string{"init"}, args...), dir)...)
	s.ok("ravnest", "train", "--local", dir)
	return read(s, dir, "losses.txt")
}

// TestTabsAlone: one tab and three tabs give the results of one process, bit for bit.
func TestTabsAlone(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "2")
	b := s.browser()
	for _, n := range []int{1, 3} {
		dir := filepath.Join(tmp, fmt.Sprint(n))
		host := s.start("ravnest", "demo", "--json", "--epochs", "2", "--providers", fmt.Sprint(n), "--tabs", fmt.Sprint(n), "--dir", dir)
		url := host.says(`(?m)^contribute: (http://\S+)$`, limit)[1]
		var pages []*page
		for range n {
			p := b.open(url)
			begin := time.Now()
			p.lend()
			p.shows(limit, "#state", "Waiting", "Ready", "Connecting", "Training", "Not taking")
			t.Logf("ready %.2f s after the button", time.Since(begin).Seconds())
			pages = append(pages, p)
		}
		if code := host.wait(limit); code != 0 {
			t.Fatalf("demo: code %d", code)
		}
		for _, p := range pages {
			p.shows(limit, "#state", "Not taking part")
			p.clean(t)
		}
		if !bytes.Equal(read(t, dir, "losses.txt"), want) {
			t.Errorf("%d tabs: losses.txt differs from that of one process", n)
		}
		t.Logf("%d tabs: %.0f samples/s", n, parse[summary](t, host.out.String()).SamplesPerS)
	}
}

// TestTabCores: a tab that uses two cores gives the same results, and reports two threads.
func TestTabCores(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	// A width of 2048 makes the matrix products large enough to be shared.
	dirs := []string{filepath.Join(tmp, "local"), filepath.Join(tmp, "tab")}
	for _, dir := range dirs {
		s.ok("ravnest", "init", "--steps", "12", dir)
		wide(t, dir, 2048)
	}
	s.ok("ravnest", "train", "--local", dirs[0])
	b := s.browser()
	host := s.start("ravnest", "demo", "--providers", "1", "--tabs", "1", "--steps", "12", "--dir", dirs[1])
	p := b.open(host.says(`(?m)^contribute: (http://\S+)$`, limit)[1])
	if cores, err := eval[int](p, "navigator.hardwareConcurrency"); err != nil || cores < 2 {
		t.Skipf("%d cores here (%v)", cores, err)
	}
	p.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
	if _, err := eval[string](p, `cores.value = 2, cores.dispatchEvent(new Event("input", { bubbles: true })), cores.value`); err != nil {
		t.Fatal(err)
	}
	p.lend()
	if code := host.wait(limit); code != 0 {
		t.Fatalf("demo: code %d", code)
	}
	p.clean(t)
	if log := p.text("#log"); !strings.Contains(log, "2 thread(s)") {
		if whole, err := eval[string](p, `document.getElementById("log").textContent`); err != nil || !strings.Contains(whole, "2 thread(s)") {
			t.Errorf("the tab joined with: %q (%v)", whole, err)
		}
	}
	if !bytes.Equal(read(t, dirs[1], "losses.txt"), read(t, dirs[0], "losses.txt")) {
		t.Error("two cores: losses.txt differs from that of one process")
	}
}

// TestTabLarge: a tab trains 50 million parameters within the memory that it announced, most of
// the time in the background. On demand: make test-large.
func TestTabLarge(t *testing.T) {
	posix(t)
	if os.Getenv("RAVNEST_LARGE") == "" {
		t.Skip("on demand: make test-large")
	}
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--steps", "100", dir)
	wide(t, dir, 7000)
	b := s.browser()
	host := s.start("ravnest", "demo", "--json", "--providers", "1", "--tabs", "1", "--steps", "100", "--dir", dir)
	p := b.open(host.says(`(?m)^contribute: (http://\S+)$`, limit)[1])
	p.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
	if _, err := eval[string](p, `memory.value = memory.max, memory.dispatchEvent(new Event("input", { bubbles: true })), memory.value`); err != nil {
		t.Fatal(err)
	}
	p.lend()
	p.shows(limit, "#state", "Training")
	b.open("about:blank")
	begin := time.Now()
	if code := host.wait(8 * time.Minute); code != 0 {
		t.Fatalf("demo: code %d", code)
	}
	sum := parse[summary](t, host.out.String())
	said := host.says(`node_0 joined \(js/wasm, ([0-9.]+) GB RAM`, limit)[1]
	t.Logf("%d steps in %.0f s while hidden, %.2f GB of %s GB", sum.Steps, time.Since(begin).Seconds(), float64(sum.PeakRSS[0])/1e9, said)
	if lent, err := strconv.ParseFloat(said, 64); err != nil || float64(sum.PeakRSS[0]) > 1.05e9*lent {
		t.Errorf("the tab used %d bytes and lent %s GB (%v)", sum.PeakRSS[0], said, err)
	}
	checkLosses(t, dir, 100)
	p.clean(t)
}

// TestTabsLearn: a cluster of tabs trains the example of the walkthrough to 97 %.
func TestTabsLearn(t *testing.T) {
	posix(t)
	s := newScene(t)
	b := s.browser()
	host := s.start("ravnest", "demo", "--json", "--providers", "3", "--tabs", "3", "--dir", filepath.Join(t.TempDir(), "job"))
	url := host.says(`(?m)^contribute: (http://\S+)$`, limit)[1]
	for range 3 {
		b.open(url).lend()
	}
	if code := host.wait(5 * time.Minute); code != 0 {
		t.Fatalf("demo: code %d", code)
	}
	sum := parse[summary](t, host.out.String())
	t.Logf("100 epochs over three tabs: %.2f %%, %.0f samples/s", sum.ValAccuracy, sum.SamplesPerS)
	if sum.ValAccuracy < 97 {
		t.Errorf("%.2f %% after 100 epochs, want 97", sum.ValAccuracy)
	}
}

// wide replaces the model of a job by one with two hidden layers of that many units.
func wide(t *testing.T, dir string, units int) {
	t.Helper()
	model := fmt.Sprintf(`{"version":1,"name":"wide","inputs":[{"name":"x","shape":[1,8,8]}],"output":"soft","nodes":[
{"name":"flat","op":"flatten","in":["x"]},
{"name":"fc1","op":"linear","in":["flat"],"attrs":{"in_features":64,"out_features":%[1]d}},
{"name":"act1","op":"relu","in":["fc1"]},
{"name":"fc2","op":"linear","in":["act1"],"attrs":{"in_features":%[1]d,"out_features":%[1]d}},
{"name":"act2","op":"relu","in":["fc2"]},
{"name":"fc3","op":"linear","in":["act2"],"attrs":{"in_features":%[1]d,"out_features":10}},
{"name":"soft","op":"softmax","in":["fc3"]}]}`, units)
	if err := os.WriteFile(filepath.Join(dir, "model.json"), []byte(model), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTabMemory: the host reports a tab that lends too little memory for its stage, and the run
// begins once the tab lends more.
func TestTabMemory(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--steps", "1", dir)
	wide(t, dir, 4000) // 16 million parameters: 260 MB with Adam's moments and gradients
	b := s.browser()
	host := s.start("ravnest", "demo", "--providers", "1", "--tabs", "1", "--steps", "1", "--dir", dir)
	p := b.open(host.says(`(?m)^contribute: (http://\S+)$`, limit)[1])
	p.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
	if _, err := eval[string](p, `memory.value = 0, memory.dispatchEvent(new Event("input", { bubbles: true })), memory.value`); err != nil {
		t.Fatal(err)
	}
	p.lend()
	host.says("the model needs .* short.*waiting for another provider", limit)
	p.do(chromedp.Click(chromedp.CSS("#go")))
	host.says("left", limit)
	p.shows(limit, "#state", "Not taking part")
	if _, err := eval[string](p, `memory.value = memory.max, memory.dispatchEvent(new Event("input", { bubbles: true })), memory.value`); err != nil {
		t.Fatal(err)
	}
	p.lend()
	if code := host.wait(limit); code != 0 {
		t.Errorf("the demo ends with code %d", code)
	}
}

// mixed serves a clusterized job to three providers, one of which is a tab and the others
// native.
func (s *scene) mixed(b *browser, dir string, tab int, flags ...string) (host *proc, url string, p *page) {
	s.Helper()
	host, url = s.serve(append(flags, dir)...)
	for k := range 3 {
		if k != tab {
			s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once")
			host.says(fmt.Sprintf("node_%d joined", k), limit)
		}
	}
	p = b.open(url)
	p.lend()
	return host, url, p
}

// TestTabRoles: a tab is root, stem and leaf among native providers. The same page takes part
// in all three jobs, one after the other, each with a host of its own.
func TestTabRoles(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "2")
	b := s.browser()
	var p *page
	address := freePort(t)
	for k, role := range []string{"root", "stem", "leaf"} {
		dir := filepath.Join(tmp, role)
		s.job(dir, "--epochs", "2")
		if p == nil {
			var host *proc
			host, _, p = s.mixed(b, dir, k, "--listen", address)
			s.trained(host, p, role)
		} else {
			host, url := s.serve("--listen", address, dir)
			for i := range 3 {
				if i != k {
					s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", i), "--once")
				}
			}
			p.lend()
			s.trained(host, p, role)
		}
		if !bytes.Equal(read(t, dir, "losses.txt"), want) {
			t.Errorf("a tab as %s: losses.txt differs from that of one process", role)
		}
	}
	p.clean(t)
}

// unfused has a page's engine run as in a browser without fused multiply-add: the worker does not
// know relaxed SIMD.
const unfused = `const Plain = Worker;
globalThis.Worker = class extends Plain {
  constructor(url, options) {
    const code = "import " + JSON.stringify(String(url)) + "; const known = WebAssembly.validate; " +
      "WebAssembly.validate = (bytes) => !bytes.includes(128) && known(bytes);";
    super(options?.name === "ravnest" ? URL.createObjectURL(new Blob([code], { type: "text/javascript" })) : url, options);
  }
};`

// TestTabOneClass: in bf16 a tab with or without fused multiply-add, among native providers of which
// one has no instructions for bf16, trains to the bytes of one process.
func TestTabOneClass(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	local := filepath.Join(tmp, "local")
	s.local(local, "--epochs", "2", "--precision", "bf16")
	b := s.browser()
	for class, scripts := range map[string][]string{"fma": nil, "nofma": {unfused}} {
		dir := filepath.Join(tmp, class)
		s.job(dir, "--epochs", "2", "--precision", "bf16")
		host, url := s.serve(dir)
		for k, hidden := range map[int]string{0: "", 2: "cpu.avx512bf16=off"} {
			cmd := exec.Command(filepath.Join(bin, "ravnest-provider"), "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once")
			cmd.Env = append(os.Environ(), "RAVNEST_NICE=0", "GODEBUG="+hidden)
			s.begin(cmd)
			host.says(fmt.Sprintf("node_%d joined", k), limit)
		}
		p := b.open("about:blank", scripts...)
		// The page's policy allows no such worker.
		if _, err := chromedp.Call(p.ctx, cdppage.SetBypassCSP, cdppage.SetBypassCSPParams{Enabled: true}); err != nil {
			t.Fatal(err)
		}
		p.do(chromedp.Navigate(url))
		p.lend()
		s.trained(host, p, "stem")
		records, _ := filepath.Glob(filepath.Join(dir, "node_data", "store", "*", "job.json"))
		if len(records) != 1 || !bytes.Contains(read(t, records[0]), []byte(`"class": "`+class+`"`)) {
			t.Errorf("no provider was of class %s: %q", class, records)
		}
		s.ok("ravnest", "fuse", dir)
		for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
			if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
				t.Errorf("a tab of class %s: %s differs from that of one process", class, f)
			}
		}
		p.cancel()
	}
}

// trained waits for the end of a run in which the tab has this role.
func (s *scene) trained(host *proc, p *page, role string) {
	s.Helper()
	p.shows(limit, "#f-stage", role)
	if code := host.wait(limit); code != 0 {
		s.Fatalf("a tab as %s: code %d", role, code)
	}
	p.shows(limit, "#state", "Not taking part")
	if given := p.text("#f-samples"); given == "0" {
		s.Errorf("a tab as %s reports %s samples", role, given)
	}
}

// freePort returns an address for a host that is started again, or later than its providers. The
// system gives ports below those to nobody by itself, so that it is still free then.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(20_000)))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// TestTabGone: the host notices when a tab is closed, stopped or suspended, or crashes, and
// names it; on an idle machine within five seconds (the log has the time). A tab that comes
// back knows what happened.
func TestTabGone(t *testing.T) {
	posix(t)
	for _, c := range []struct {
		how  string
		lose func(*browser, *page)
	}{
		{"stopped", func(_ *browser, p *page) { p.do(chromedp.Click(chromedp.CSS("#go"))) }},
		{"closed", func(_ *browser, p *page) { p.cancel() }},
		{"reloaded", func(_ *browser, p *page) { p.do(chromedp.Reload()) }},
		{"crashed", func(_ *browser, p *page) { go chromedp.Call(p.ctx, cdppage.Crash, cdp.Empty{}) }},
		{"asleep", func(b *browser, _ *page) {
			b.signal(syscall.SIGSTOP)
			b.s.Cleanup(func() { b.signal(syscall.SIGCONT) })
		}},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			dir := filepath.Join(t.TempDir(), "job")
			s.job(dir, "--epochs", endless)
			b := s.browser()
			host, _, p := s.mixed(b, dir, 1)
			p.shows(limit, "#state", "Training")
			begin := time.Now()
			c.lose(b, p)
			// The peers of a suspended tab may be the first to report it.
			host.says("node_1.*the run goes on", limit)
			t.Logf("%s: the host noticed %.2f s later", c.how, time.Since(begin).Seconds())
			switch c.how {
			case "reloaded":
				p.shows(limit, "#go", "Take part again")
			case "asleep":
				time.Sleep(time.Until(begin.Add(11 * time.Second)))
				b.signal(syscall.SIGCONT)
				eventually(t, "the tab says that it was suspended", limit, func() bool {
					said, err := eval[string](p, `document.getElementById("log").textContent`)
					return err == nil && strings.Contains(said, "was asleep")
				})
			}
		})
	}
}

// TestTabLeaves: a tab whose button is clicked again leaves once its state is saved, another
// provider takes over its stage, and the results are those of one process.
func TestTabLeaves(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 2`, `"save_every": 1000`) // so that only its leaving causes a save
	b := s.browser()
	host, url, p := s.mixed(b, dir, 1)
	p.shows(limit, "#state", "Training")
	s.provide(url, "")
	host.says("node_3 joined", limit)
	s.more(dir, 5)
	p.do(chromedp.Click(chromedp.CSS("#go")))
	p.shows(limit, "#state", "Not taking part")
	host.says("node_1 wants to leave", limit)
	host.says(`the run goes on from step \d+`, limit)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
	p.clean(t)
}

// TestHostGone: a tab whose host falls silent says so, tries to reach it again, and takes part
// as soon as there is a host.
func TestHostGone(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", endless)
	b := s.browser()
	address := freePort(t)
	host, _, p := s.mixed(b, dir, 1, "--listen", address)
	p.shows(limit, "#state", "Training")
	_ = syscall.Kill(host.cmd.Process.Pid, syscall.SIGSTOP)
	p.shows(limit, "#state", "Looking for it")
	p.shows(limit, "#detail", "Lost the signaling host")
	_ = syscall.Kill(host.cmd.Process.Pid, syscall.SIGKILL)
	<-host.done
	host, _ = s.serve("--listen", address, dir)
	host.says(`js/wasm`, limit)
	p.shows(limit, "#go", "Stop")
}

// TestTabThroughHostLoss: the host of a tab in training is killed and started again, twice. The tab
// comes back by itself, and no bit is lost.
func TestTabThroughHostLoss(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	b := s.browser()
	address := freePort(t)
	host, _, p := s.mixed(b, dir, 1, "--listen", address)
	for range 2 {
		p.shows(limit, "#state", "Training")
		s.saved(dir, 5)
		if err := host.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-host.done
		p.shows(limit, "#state", "Looking for it")
		host, _ = s.serve("--listen", address, dir)
		host.says(`resuming the run that ended at step \d+`, limit)
		host.says(`js/wasm`, limit)
		host.says(`training resumes from step \d+`, limit)
		s.more(dir, 20)
	}
	p.shows(limit, "#state", "Training")
	s.ends(host, dir)
}

// TestTabPauses: a paused tab delays the run, and nothing is lost.
func TestTabPauses(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	b := s.browser()
	host, url, p := s.mixed(b, dir, 1)
	p.shows(limit, "#state", "Training")
	p.do(chromedp.Click(chromedp.CSS("#when-hidden")))
	other := b.open(url + "/dashboard") // covers the first
	p.shows(limit, "#state", "Paused")
	var held int64
	eventually(t, "the batches in flight are done", limit, func() bool {
		held = size(dir, "losses.txt")
		time.Sleep(time.Second)
		return size(dir, "losses.txt") == held
	})
	time.Sleep(6 * time.Second) // longer than the host waits for a lost provider
	if now := size(dir, "losses.txt"); now != held {
		t.Errorf("losses.txt grew from %d to %d bytes during a pause", held, now)
	}
	other.cancel()
	p.front()
	s.more(dir, 20)
	s.ends(host, dir)
}

// front brings a page to the front.
func (p *page) front() {
	p.s.Helper()
	id := chromedp.FromContext(p.ctx).Target.TargetID
	if _, err := chromedp.CallBrowser(p.ctx, target.ActivateTarget, target.ActivateTargetParams{TargetID: id}); err != nil {
		p.s.Fatal(err)
	}
}

// TestTabHidden: a tab behind another one keeps training.
func TestTabHidden(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", endless)
	b := s.browser()
	host, _, p := s.mixed(b, dir, 1)
	p.shows(limit, "#state", "Training")
	b.open("about:blank")
	hidden, err := eval[string](p, "document.visibilityState")
	if err != nil || hidden != "hidden" {
		t.Fatalf("a page behind another one is %q, %v", hidden, err)
	}
	for range 2 {
		time.Sleep(2 * time.Second)
		s.more(dir, 1)
	}
	host.stops()
}

// TestBridge: a browser that cannot transfer data channels to workers trains over a message port.
func TestBridge(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "2")
	dir := filepath.Join(tmp, "job")
	s.job(dir, "--epochs", "2")
	b := s.browser()
	host, url := s.serve(dir)
	for k := range 2 {
		s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once")
		host.says(fmt.Sprintf("node_%d joined", k), limit)
	}
	// Make the transfer of a channel fail as in browsers that do not support it.
	p := b.open(url, `const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (m, transfer) {
  if ([].concat(transfer ?? []).some((t) => t instanceof RTCDataChannel)) throw new DOMException("not transferable", "DataCloneError");
  return post.call(this, m, transfer);
};`)
	p.lend()
	s.trained(host, p, "leaf")
	if !bytes.Equal(read(t, dir, "losses.txt"), want) {
		t.Error("over a port: losses.txt differs from that of one process")
	}
	p.clean(t)
}

// TestTabRefused: the page says what is wrong.
func TestTabRefused(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", "1")
	b := s.browser()
	host, url := s.serve("--token", "right", dir)

	for what, script := range map[string]string{
		"no WebRTC":           "delete globalThis.RTCPeerConnection",
		"no WebAssembly SIMD": "WebAssembly.validate = () => false",
		"no WebAssembly":      "delete globalThis.WebAssembly",
	} {
		p := b.open(url, script)
		p.shows(limit, "#problems", what)
		p.shows(limit, "#state", "cannot take part")
		if can, err := eval[bool](p, `!document.getElementById("go").disabled`); err != nil || can {
			t.Errorf("%s: the button is enabled (%v)", what, err)
		}
	}

	p := b.open(url + "/#token=wrong")
	p.lend()
	p.shows(limit, "#problems", "token")
	p.shows(limit, "#state", "Not taking part")
	// With the token that the page asks for, it works.
	p.do(chromedp.SetValue(chromedp.CSS("#token"), "right"))
	p.lend()
	p.shows(limit, "#state", "Waiting")
	host.says("node_0 joined", limit)

	// The host is updated, so that the assets of an open page are gone.
	old := b.open(url)
	host.interrupt()
	host.wait(limit)
	p.shows(limit, "#state", "Not taking part")
	stop := gone(t, strings.TrimPrefix(url, "http://"))
	defer stop()
	old.lend()
	old.shows(limit, "#problems", "eload the page")
}

// gone serves like a host of another build, which does not have the assets of an older page.
func gone(t *testing.T, address string) (stop func()) {
	t.Helper()
	var ln net.Listener
	eventually(t, "the port is free", limit, func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", address)
		return err == nil
	})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this host has been updated", http.StatusGone)
	})}
	go srv.Serve(ln)
	return func() { _ = srv.Close() }
}

// TestTabOtherOrigin: a page of another site cannot use the host.
func TestTabOtherOrigin(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", "1")
	host, url := s.serve(dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<p id=state>elsewhere</p>")
	})}
	go srv.Serve(ln)
	defer srv.Close()
	b := s.browser()
	p := b.open("http://" + ln.Addr().String())
	for _, js := range []string{
		fmt.Sprintf(`new Promise((r) => { const w = new WebSocket(%q); w.onopen = () => r("open"); w.onerror = () => r("refused"); })`, "ws"+strings.TrimPrefix(url, "http")+"/v1/join"),
		fmt.Sprintf(`fetch(%q).then(() => "open", () => "refused")`, url+"/v1/status"),
		fmt.Sprintf(`fetch(%q, {method: "POST", body: "x"}).then(() => "open", () => "refused")`, url+"/v1/speed"),
		fmt.Sprintf(`import(%q).then(() => "open", () => "refused")`, url+"/"),
	} {
		got, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](js, chromedp.EvalAwaitPromise))
		if err != nil || got != "refused" {
			t.Errorf("%s: %q, %v", js, got, err)
		}
	}
	if strings.Contains(host.err.String(), "joined") {
		t.Error("a page of another site joined")
	}
	host.interrupt()
	host.wait(limit)
}
