package hours_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/provider/hours"
)

func TestAt(t *testing.T) {
	for _, c := range []struct {
		hours, now string
		open       bool
		change     string // "": never
	}{
		{"22:00-07:00", "21:59", false, "22:00"},
		{"22:00-07:00", "22:00", true, "07:00 +1"},
		{"22:00-07:00", "00:00", true, "07:00"},
		{"22:00-07:00", "07:00", false, "22:00"},
		{"9-17", "08:00", false, "09:00"},
		{"9-17", "12:00", true, "17:00"},
		{"9-17", "17:30", false, "09:00 +1"},
		{"22:00-24:00", "23:30", true, "00:00 +1"},
		{"22:00-07:00, 12:30-13:30", "12:00", false, "12:30"},
		{"10:00-12:00,11:00-13:00", "11:30", true, "13:00"}, // overlapping
		{"10:00-12:00,12:00-13:00", "11:30", true, "13:00"}, // touching
		{"0:00-12:00,12:00-24:00", "11:30", true, ""},
	} {
		h, err := hours.Parse(c.hours)
		if err != nil {
			t.Errorf("%s: %v", c.hours, err)
			continue
		}
		if again, err := hours.Parse(h.String()); err != nil || again.String() != h.String() {
			t.Errorf("%s is written %s (%v)", c.hours, h, err)
		}
		now, err := time.Parse("2006-01-02 15:04", "2026-03-31 "+c.now)
		if err != nil {
			t.Fatal(err)
		}
		open, change := h.At(now)
		got := ""
		if !change.IsZero() {
			if got = change.Format("15:04"); change.YearDay() != now.YearDay() {
				got += " +1"
			}
		}
		if open != c.open || got != c.change {
			t.Errorf("%s at %s: %v until %q, want %v until %q", c.hours, c.now, open, got, c.open, c.change)
		}
	}
	if open, change := (hours.Hours{}).At(time.Now()); !open || !change.IsZero() {
		t.Error("the whole day is not open for ever")
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"", "22", "22:00", "22:00-", "-07:00", "25:00-07:00", "22:60-07:00", "22:0-07:00", "7-7", "24:00-03:00", "a-b", "22:00-07:00,", "+2:00-07:00", strings.Repeat("1-2,", 16) + "3-4"} {
		if h, err := hours.Parse(bad); err == nil {
			t.Errorf("%q was read as %s", bad, h)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("22:00-07:00,12:30-13:30", int64(0))
	f.Fuzz(func(t *testing.T, s string, at int64) {
		h, err := hours.Parse(s)
		if err != nil {
			return
		}
		now := time.Unix(at%(1<<40), 0).UTC()
		open, change := h.At(now)
		if change.IsZero() {
			return
		}
		if d := change.Sub(now); d <= 0 || d > 48*time.Hour {
			t.Fatalf("%s at %v changes at %v", h, now, change)
		}
		if then, _ := h.At(change); then == open {
			t.Fatalf("%s at %v: no change at %v", h, now, change)
		}
	})
}
