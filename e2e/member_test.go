// Who may join: keys, invitations, bans; and that no secret is where others can read it.

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// volunteer starts a provider of its own person, with a configuration in home.
func (s *scene) volunteer(home string, args ...string) *proc {
	s.Helper()
	cmd := exec.Command(filepath.Join(bin, "ravnest-provider"), args...)
	cmd.Env = append(os.Environ(), "RAVNEST_NICE=0", "RAVNEST_IDENTITY=", "XDG_CONFIG_HOME="+home, "HOME="+home)
	return s.begin(cmd)
}

// TestMembers: an invitation is for one provider, who needs nothing else from then on; whom
// the requester bans is gone at once, whatever it shows; and no secret can be read off
// anybody's command line or log.
func TestMembers(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	home := func(name string) string { return filepath.Join(tmp, name) }
	dir := s.endlessJob("--nodes", "1")
	const secret = "the requester's own secret"
	host, url := s.serve("--token", secret, "--members-only", dir)
	members := func(args ...string) string {
		t.Helper()
		out, _ := s.ok("ravnest", append([]string{"members", dir}, args...)...)
		return strings.TrimSpace(out)
	}
	// The token alone is not enough here, with a key or without.
	p := s.volunteer(home("mallory"), "--join", url, "--token", secret, "--wait", "0s")
	p.failed(limit, "takes members only", "ask the requester for an invitation")
	p = s.volunteer(home("mallory"), "--join", url, "--token", secret, "--wait", "0s", "--identity", "none")
	p.failed(limit, "keeps no key")

	link := members("invite", "--note", "for Ada", "--for", "1h")
	if !strings.HasPrefix(link, url+"/#token=invite.") {
		t.Fatalf("the invitation is %q", link)
	}
	invitation := link[strings.Index(link, "invite."):]
	ada := s.volunteer(home("ada"), "--join", link)
	ada.says("this provider's key is", limit)
	ada.says("(?m)^joined", limit)
	s.more(dir, 20)
	for _, q := range []*proc{host, ada} {
		cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(q.cmd.Process.Pid) + "/cmdline")
		if err != nil {
			t.Skip(err)
		}
		if strings.Contains(string(cmdline), invitation) || strings.Contains(string(cmdline), secret) {
			t.Errorf("a secret on a command line: %q", cmdline)
		}
	}
	if list := members(); !strings.Contains(list, "allowed") || !strings.Contains(list, "for Ada") {
		t.Errorf("the list says:\n%s", list)
	}
	// Single use: the same link is nobody else's.
	s.volunteer(home("bob"), "--join", link, "--wait", "0s").failed(limit, "has been used by another provider")
	// The same person may come again, without the link.
	ada.interrupt()
	ada.wait(limit)
	ada = s.volunteer(home("ada"), "--join", url)
	ada.says("(?m)^joined", limit)
	s.more(dir, 20)

	// Banned while it trains.
	label := members("list")
	key := strings.Fields(strings.Split(label, "\n")[1])[0]
	members("ban", key)
	ada.failed(limit, "the requester of this host has banned this provider")
	host.says("left: the requester has banned it", limit)
	s.volunteer(home("ada"), "--join", url, "--wait", "0s").failed(limit, "join token is missing or wrong|banned")
	s.volunteer(home("ada"), "--join", url, "--token", secret, "--wait", "0s").failed(limit, "has banned this provider")

	// Allowed again by its key alone, it goes on with the pass it gets; revoked, that is void.
	members("allow", key)
	ada = s.volunteer(home("ada"), "--join", url)
	ada.says("(?m)^joined", limit)
	s.more(dir, 20)
	ada.interrupt()
	ada.wait(limit)
	members("revoke", key)
	s.volunteer(home("ada"), "--join", url, "--wait", "0s").failed(limit, "join token is missing or wrong")
	s.volunteer(home("ada"), "--join", link, "--wait", "0s").failed(limit, "invitation has expired, was withdrawn or is none")

	old := members("invite", "--for", "1ms")
	time.Sleep(5 * time.Millisecond)
	s.volunteer(home("bob"), "--join", old, "--wait", "0s").failed(limit, "invitation has expired")

	for _, q := range []*proc{host, ada} {
		if all := q.out.String() + q.err.String(); strings.Contains(all, invitation) || strings.Contains(all, secret) || strings.Contains(all, "pass.") {
			t.Errorf("a secret in what it says:\n%s", all)
		}
	}
	host.stops()
}

// TestTabMember: a tab is invited by a link, proves a key that its browser keeps, and comes
// back by the page's plain address.
func TestTabMember(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--nodes", "1")
	host, url := s.serve("--members-only", dir)
	b := s.browser()
	p := b.open(url)
	p.lend()
	p.shows(limit, "#state", "Not taking part")
	p.shows(limit, "#who", "The host knows this browser by its key")
	p.shows(limit, "#problems", "members only")
	out, _ := s.ok("ravnest", "members", dir, "invite")
	link := strings.TrimSpace(out)
	p = b.open(link)
	p.lend()
	p.shows(limit, "#state", "Training")
	s.more(dir, 20)
	list, _ := s.ok("ravnest", "members", dir)
	key := strings.Fields(strings.Split(list, "\n")[1])[0]
	p.shows(limit, "#who", "The host knows this browser by its key "+key)
	p.clean(t)
	p.do(chromedp.Click(chromedp.CSS("#go")))
	p.shows(limit, "#state", "Not taking part")

	p = b.open(url)
	p.lend()
	p.shows(limit, "#state", "Training")
	s.more(dir, 20)
	p.clean(t)
	s.ok("ravnest", "members", dir, "ban", key)
	p.shows(limit, "#state", "Not taking part")
	p.shows(limit, "#problems", "has banned this provider")
	host.stops()
}
