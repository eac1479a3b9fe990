// The limits that volunteers set: hours, rates, priority.

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// clock writes a time zone file (RFC 8536) for TZ in which the time of day is now.
func clock(t *testing.T, now string) string {
	t.Helper()
	want, err := time.Parse("15:04:05", now)
	if err != nil {
		t.Fatal(err)
	}
	is := time.Now().UTC()
	offset := int32(want.Hour()*3600+want.Minute()*60+want.Second()) - int32(is.Hour()*3600+is.Minute()*60+is.Second())
	b := append([]byte("TZif"), make([]byte, 16)...)
	for _, count := range []uint32{0, 0, 0, 0, 1, 4} {
		b = binary.BigEndian.AppendUint32(b, count)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(offset))
	b = append(b, 0, 0, 'T', 'S', 'T', 0)
	path := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSchedule: the hours of one provider end while it trains, and those of another begin: the
// work of the first is saved, the second continues from there, and the results are those of
// one process.
func TestSchedule(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--nodes", "1")
	host, url := s.serve(dir)
	at := func(now, schedule string) *proc {
		cmd := exec.Command(filepath.Join(bin, "ravnest-provider"), "--join", url, "--schedule", schedule)
		cmd.Env = append(os.Environ(), "TZ="+clock(t, now))
		return s.begin(cmd)
	}
	day := at("16:59:52", "09:00-17:00")
	night := at("21:59:52", "22:00-07:00,12:00-13:00")
	night.says(`(?m)^resting: until 22:00 \(lent 22:00-07:00,12:00-13:00\)$`, limit)
	host.says(`(?m)^training`, limit)
	day.says(`(?m)^leaving once the trained state is saved`, limit)
	day.says(`(?m)^resting: until 09:00 \(lent 09:00-17:00\)$`, limit)
	night.says(`(?m)^joined `, limit)
	s.more(dir, 50)
	s.ends(host, dir, "--nodes", "1")
	if n := strings.Count(day.err.String(), "joined "); n != 1 {
		t.Errorf("it joined %d times, want 1:\n%s", n, day.err.String())
	}
}

// TestGivesWay: a provider runs at a low priority unless --nice says otherwise.
func TestGivesWay(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", endless)
	_, url := s.serve(dir)
	own := nice(t, "self")
	for _, c := range []struct {
		args []string
		nice int
	}{{nil, 10}, {[]string{"--nice", "15"}, 15}, {[]string{"--nice", "0"}, 0}} {
		cmd := exec.Command(filepath.Join(bin, "ravnest-provider"), append([]string{"--join", url}, c.args...)...)
		cmd.Env = os.Environ()
		p := s.begin(cmd)
		p.says("joined", limit)
		if got, want := nice(t, strconv.Itoa(p.cmd.Process.Pid)), max(own, c.nice); got != want {
			t.Errorf("%v: nice %d, want %d", c.args, got, want)
		}
	}
}

// nice returns the nice value of a process from /proc.
func nice(t *testing.T, pid string) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Skip(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	n, err := strconv.Atoi(f[16])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTabLimits: a tab keeps to its hours, and trains with limits on its rates.
func TestTabLimits(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--nodes", "1")
	host, url := s.serve(dir)
	fill := func(p *page, values string) {
		t.Helper()
		p.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
		if _, err := eval[string](p, `for (const [id, value] of Object.entries(`+values+`)) document.getElementById(id).value = value; ""`); err != nil {
			t.Fatal(err)
		}
	}
	at := func(d time.Duration) string { return time.Now().Add(d).Format("15:04") }
	b := s.browser()
	p := b.open(url)
	p.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
	fill(p, `{from: "09:00"}`)
	p.lend()
	if state := p.text("#state"); !strings.Contains(state, "Not taking part") {
		t.Errorf("with only one of the two times: %q", state)
	}
	from, to := at(2*time.Hour), at(3*time.Hour)
	fill(p, fmt.Sprintf(`{from: %q, to: %q}`, from, to))
	p.lend()
	p.shows(limit, "#state", "Resting")
	p.shows(limit, "#detail", fmt.Sprintf("Until %s (lent %s-%s)", from, from, to))
	p.lend() // the same button stops it
	p.shows(limit, "#state", "Not taking part")

	fill(p, fmt.Sprintf(`{from: %q, to: %q, up: "5", down: "5"}`, at(-time.Hour), at(time.Hour)))
	p.lend()
	p.shows(limit, "#state", "Training")
	s.more(dir, 20)
	p.clean(t)
	host.stops()
}
