package e2e

// Firefox, driven by WebDriver BiDi. On a machine that has loopback only, Firefox finds no
// path to its peers, so this test puts it into a network namespace.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// firefox finds the browser; "" if there is none.
func firefox() string {
	for _, name := range []string{os.Getenv("RAVNEST_FIREFOX"), "firefox-esr", "firefox"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	return ""
}

// fox is a tab of headless Firefox, as seen by a client of WebDriver BiDi
// (https://w3c.github.io/webdriver-bidi/).
type fox struct {
	s    *scene
	conn *websocket.Conn
	tab  string // the browsing context
	last int    // the identifier of the last command

	says, bad []string // lines of the console, and its errors
}

// message is a command's answer or an event.
type message struct {
	ID      int             `json:"id"`
	Type    string          `json:"type"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   string          `json:"error"`
	Message string          `json:"message"`
}

// fox opens a page in a Firefox with a new profile. The scripts, functions, run before those
// of the page.
func (s *scene) fox(url string, scripts ...string) *fox {
	s.Helper()
	profile := s.TempDir()
	prefs := `user_pref("app.update.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
`
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(prefs), 0o644); err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(firefox(), "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0")
	// Firefox refuses to run as root in the home of somebody else.
	cmd.Env = append(os.Environ(), "HOME="+profile)
	p := s.begin(cmd)
	var at struct {
		Host string `json:"ws_host"`
		Port int    `json:"ws_port"`
	}
	eventually(s, "Firefox listens", limit, func() bool {
		b, err := os.ReadFile(filepath.Join(profile, "WebDriverBiDiServer.json"))
		return err == nil && json.Unmarshal(b, &at) == nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, fmt.Sprintf("ws://%s:%d/session", at.Host, at.Port), nil)
	if err != nil {
		s.Fatalf("driving Firefox: %v", err)
	}
	conn.SetReadLimit(64 << 20) // screenshots
	f := &fox{s: s, conn: conn}
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("page %s: %s\nconsole:\n%s", url, f.text("body"), tail(strings.Join(f.says, "\n")))
		}
		_ = f.call("browser.close", map[string]any{}, nil) // its children end with it
		_ = conn.CloseNow()
		p.wait(patience)
	})
	f.do("session.new", map[string]any{"capabilities": map[string]any{}}, nil)
	f.do("session.subscribe", map[string]any{"events": []string{"log.entryAdded"}}, nil)
	for _, js := range scripts {
		f.do("script.addPreloadScript", map[string]any{"functionDeclaration": js}, nil)
	}
	var created struct{ Context string }
	f.do("browsingContext.create", map[string]any{"type": "tab"}, &created)
	f.tab = created.Context
	f.do("browsingContext.navigate", map[string]any{"url": url, "wait": "complete"}, nil)
	return f
}

// call sends a command, about the tab if there is one, waits for its result and notes the
// events before it.
func (f *fox) call(method string, params map[string]any, result any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if f.tab != "" && !strings.HasPrefix(method, "browser.") {
		params = maps.Clone(params)
		params["context"] = f.tab
	}
	f.last++
	if err := wsjson.Write(ctx, f.conn, map[string]any{"id": f.last, "method": method, "params": params}); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	for {
		var m message
		if err := wsjson.Read(ctx, f.conn, &m); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		switch {
		case m.Type == "event" && m.Method == "log.entryAdded":
			var e struct{ Level, Text string }
			if err := json.Unmarshal(m.Params, &e); err != nil {
				return fmt.Errorf("an entry of the console: %w", err)
			}
			f.says = append(f.says, e.Level+": "+e.Text)
			if e.Level == "error" {
				f.bad = append(f.bad, e.Text)
			}
		case m.ID != f.last: // another event
		case m.Type == "error":
			return fmt.Errorf("%s: %s: %s", method, m.Error, m.Message)
		case result != nil:
			return json.Unmarshal(m.Result, result)
		default:
			return nil
		}
	}
}

func (f *fox) do(method string, params map[string]any, result any) {
	f.s.Helper()
	if err := f.call(method, params, result); err != nil {
		f.s.Fatal(err)
	}
}

// foxEval evaluates an expression in the page.
func foxEval[T any](f *fox, js string) (v T, err error) {
	var got struct {
		Result           struct{ Value string }
		ExceptionDetails *struct{ Text string }
	}
	target := map[string]any{"context": f.tab}
	err = f.call("script.evaluate", map[string]any{"expression": "(async () => JSON.stringify(await (" + js + ")))()", "target": target, "awaitPromise": true}, &got)
	if err == nil && got.ExceptionDetails != nil {
		err = fmt.Errorf("%s: %s", js, got.ExceptionDetails.Text)
	}
	if err == nil {
		err = json.Unmarshal([]byte(got.Result.Value), &v)
	}
	return v, err
}

// text returns the text of an element, "" if there is no such element.
func (f *fox) text(selector string) string {
	s, _ := foxEval[string](f, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
	return s
}

// shows waits until the text of an element contains one of what.
func (f *fox) shows(limit time.Duration, selector string, what ...string) {
	f.s.Helper()
	var last string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		last = f.text(selector)
		for _, w := range what {
			if strings.Contains(last, w) {
				return
			}
		}
	}
	f.s.Fatalf("%s does not show %q within %v, but %q", selector, what, limit, last)
}

// click moves the mouse to an element and clicks it.
func (f *fox) click(selector string) {
	f.s.Helper()
	var found struct {
		Nodes []struct{ SharedID string }
	}
	f.do("browsingContext.locateNodes", map[string]any{"locator": map[string]any{"type": "css", "value": selector}}, &found)
	if len(found.Nodes) != 1 {
		f.s.Fatalf("%d elements are %s", len(found.Nodes), selector)
	}
	at := map[string]any{"type": "element", "element": map[string]any{"sharedId": found.Nodes[0].SharedID}}
	f.do("input.performActions", map[string]any{"actions": []any{map[string]any{"type": "pointer", "id": "mouse", "actions": []any{
		map[string]any{"type": "pointerMove", "x": 0, "y": 0, "origin": at},
		map[string]any{"type": "pointerDown", "button": 0},
		map[string]any{"type": "pointerUp", "button": 0},
	}}}}, nil)
}

// shoot takes screenshots of the page, wide and as on a phone, and checks that its text fits
// and can be read.
func (f *fox) shoot(name string) {
	f.s.Helper()
	if err := os.MkdirAll("out", 0o755); err != nil {
		f.s.Fatal(err)
	}
	for _, l := range looks {
		if l.dark {
			continue // Firefox 153 has no command for it
		}
		what := name + "-" + l.name
		f.do("browsingContext.setViewport", map[string]any{"viewport": map[string]any{"width": l.width, "height": l.height}}, nil)
		if over, err := foxEval[int](f, wider); err != nil || over > 0 {
			f.s.Errorf("%s: %d pixels wider than the window (%v)", what, over, err)
		}
		if bad, err := foxEval[[]string](f, faint); err != nil || len(bad) > 0 {
			f.s.Errorf("%s: not enough contrast: %v %v", what, bad, err)
		}
		var shot struct{ Data string }
		f.do("browsingContext.captureScreenshot", map[string]any{"origin": "document"}, &shot)
		png, err := base64.StdEncoding.DecodeString(shot.Data)
		if err == nil {
			err = os.WriteFile(filepath.Join("out", what+".png"), png, 0o644)
		}
		if err != nil {
			f.s.Fatal(err)
		}
	}
}

// foxVar is the environment variable that gives TestInsideFirefox the URL of the page.
const foxVar = "RAVNEST_E2E_FIREFOX"

// TestInsideFirefox is not a test of its own: TestFirefox runs it inside a namespace to lend a
// tab to its host until the run is over.
func TestInsideFirefox(t *testing.T) {
	url := os.Getenv(foxVar)
	if url == "" {
		t.Skip("run by TestFirefox in a network namespace")
	}
	f := newScene(t).fox(url)
	f.shows(limit, "#state", "Not taking part")
	f.click("#go")
	f.shows(limit, "#state", "Training", "Not taking part")
	f.shows(limit, "#lacks", "memory this device has") // no navigator.deviceMemory
	if strings.Contains(f.text("#lacks"), "fused") {
		t.Log("Firefox computes without fused multiply-add here")
	}
	eventually(t, "the page shows its rate", limit, func() bool { return f.text("#f-rate") != "–" })
	f.shoot("firefox")
	f.shows(limit, "#detail", "Thank you")
	if len(f.bad) > 0 {
		t.Errorf("errors in the page:\n%s", strings.Join(f.bad, "\n"))
	}
}

// TestFirefox: a tab of Firefox, at another home than two native providers, is the middle of
// the walkthrough's model, and the results are those of one process.
func TestFirefox(t *testing.T) {
	if firefox() == "" {
		t.Skip("no Firefox here: install one (Debian: apt-get install firefox-esr), or name it in RAVNEST_FIREFOX")
	}
	s := newScene(t)
	h := newHomes(s, "masquerade")
	tmp := t.TempDir()
	one, dir := filepath.Join(tmp, "local"), filepath.Join(tmp, "job")
	s.local(one, "--epochs", "10")
	s.job(dir, "--epochs", "10")
	host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--json", "--listen", "0.0.0.0:8090", "--token", "t", dir)
	host.says(`serving at`, limit)
	for _, name := range []string{"node_0", "node_2"} {
		h.begin("a", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[0]+":8090", "--token", "t", "--name", name, "--once")
		host.says(name+" joined", limit)
	}
	tab := h.inside("b", "TestInsideFirefox", foxVar, "http://"+hostAt[1]+":8090/#token=t")
	host.says("node_1 joined", limit)
	if code := host.wait(limit); code != 0 {
		t.Fatalf("serve: code %d", code)
	}
	if code := tab.wait(limit); code != 0 {
		t.Errorf("the tab:\n%s", tail(tab.out.String()))
	}
	s.ok("ravnest", "fuse", dir)
	kept(t, results(t, one), dir)
	t.Logf("%.0f samples/s", parse[summary](t, host.out.String()).SamplesPerS)
}

// TestFirefoxAddressChanges: the address of a native provider that trains with a tab of Firefox is
// replaced by another one, and the link moves; or the tab's, where Firefox ends its channels at once
// and the link is made anew. Training goes on to the bits of one process.
func TestFirefoxAddressChanges(t *testing.T) {
	if firefox() == "" {
		t.Skip("no Firefox here: install one (Debian: apt-get install firefox-esr), or name it in RAVNEST_FIREFOX")
	}
	for k, name := range []string{"native", "the tab"} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			s := newScene(t)
			h := newHomes(s, "masquerade")
			dir := s.endlessJob("--nodes", "2")
			host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--listen", "0.0.0.0:8090", "--token", "t", dir)
			host.says(`serving at`, limit)
			h.begin("a", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[0]+":8090", "--token", "t")
			host.says("node_0 joined", limit)
			h.inside("b", "TestInsideFirefox", foxVar, "http://"+hostAt[1]+":8090/#token=t")
			host.says("node_1 joined", limit)
			host.says(`(?m)^training`, limit)
			s.saved(dir, 20)
			h.moves(k)
			changed := time.Now()
			host.says(fmt.Sprintf(`node_%d lost its connection .* has another one`, k), limit)
			s.more(dir, 300)
			t.Logf("300 steps more %.1f s after the change", time.Since(changed).Seconds())
			s.ends(host, dir, "--nodes", "2")
			bad := `goes on from step|is gone|resumes`
			if k == 1 {
				bad = `not ready within|is stuck` // a request that waits for a connection of the old network
			}
			if said := host.err.String(); regexp.MustCompile(bad).MatchString(said) {
				t.Errorf("the run says %s:\n%s", bad, tail(said))
			}
		})
	}
}
