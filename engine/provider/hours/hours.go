// Package hours is the time of day in which a provider may be used: 22:00-07:00. It reads
// no clock.
package hours

import (
	"fmt"
	"strings"
	"time"
)

// Hours are spans of the day by the local clock. The zero Hours are the whole day.
type Hours struct{ spans []span }

// span is from one minute of the day up to another, past midnight where that is earlier.
type span struct{ from, to int }

const day = 24 * 60

// maxSpans bounds a schedule.
const maxSpans = 16

// Parse reads spans such as 22:00-07:00, several with commas between: 22:00-07:00,12:30-13:30.
func Parse(s string) (Hours, error) {
	var h Hours
	for part := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(part), "-")
		a, ok1 := minute(from)
		b, ok2 := minute(to)
		switch {
		case !ok || !ok1 || !ok2 || a == day:
			return Hours{}, fmt.Errorf("%q is no span of the day: write it like 22:00-07:00", part)
		case a == b:
			return Hours{}, fmt.Errorf("%q is empty: leave it out for the whole day", part)
		case len(h.spans) == maxSpans:
			return Hours{}, fmt.Errorf("more than %d spans", maxSpans)
		}
		h.spans = append(h.spans, span{a, b})
	}
	return h, nil
}

// minute reads H:MM, HH:MM or H; 24:00 is the end of the day.
func minute(s string) (int, bool) {
	hh, mm, colon := strings.Cut(strings.TrimSpace(s), ":")
	h, ok := number(hh, 1, 2)
	m := 0
	if ok && colon {
		m, ok = number(mm, 2, 2)
	}
	n := h*60 + m
	return n, ok && m < 60 && n <= day
}

func number(s string, least, most int) (n int, ok bool) {
	if len(s) < least || len(s) > most {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

// String is what Parse reads.
func (h Hours) String() string {
	var parts []string
	for _, s := range h.spans {
		parts = append(parts, fmt.Sprintf("%02d:%02d-%02d:%02d", s.from/60, s.from%60, s.to/60, s.to%60))
	}
	return strings.Join(parts, ",")
}

// in tells whether a minute of the day lies in one of the spans.
func (h Hours) in(m int) bool {
	for _, s := range h.spans {
		if s.from < s.to && m >= s.from && m < s.to || s.from > s.to && (m >= s.from || m < s.to) {
			return true
		}
	}
	return len(h.spans) == 0
}

// At tells whether t lies within the hours, by the clock of t's location, and when that
// changes next: never for the whole day, as the zero time.
func (h Hours) At(t time.Time) (open bool, change time.Time) {
	open = h.in(t.Hour()*60 + t.Minute())
	for _, s := range h.spans {
		for _, m := range []int{s.from, s.to} {
			for d := range 3 {
				at := time.Date(t.Year(), t.Month(), t.Day()+d, m/60, m%60, 0, 0, t.Location())
				if !at.After(t) || h.in(at.Hour()*60+at.Minute()) == open {
					continue
				}
				if change.IsZero() || at.Before(change) {
					change = at
				}
				break
			}
		}
	}
	return open, change
}

// May tells whether t lies within the hours, and if not, in words until when.
func (h Hours) May(t time.Time) (why string, ok bool) {
	open, change := h.At(t)
	if open {
		return "", true
	}
	return fmt.Sprintf("until %s (lent %s)", change.Format("15:04"), h), false
}
