//go:build !js

package rtc

import (
	"crypto"
	"strings"
	"testing"
)

// firefox's description of a data channel, shortened: its attributes belong to the session.
const firefox = "v=0\r\no=mozilla...THIS_IS_SDPARTA-99.0 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=sendrecv\r\n" +
	"a=fingerprint:sha-256 AB:CD\r\na=group:BUNDLE 0\r\na=ice-options:trickle\r\na=msid-semantic:WMS *\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=sendrecv\r\na=ice-pwd:0123456789012345678901\r\n" +
	"a=ice-ufrag:abcd\r\na=mid:0\r\na=setup:actpass\r\na=sctp-port:5000\r\na=max-message-size:1073741823\r\n"

func TestDescription(t *testing.T) {
	d, err := parseDescription(firefox)
	want := description{"abcd", "0123456789012345678901", crypto.SHA256, "AB:CD", "actpass", 1073741823}
	if err != nil || d != want {
		t.Errorf("got %+v, %v; want %+v", d, err, want)
	}
	if again, err := parseDescription(d.String()); err != nil || again != want {
		t.Errorf("written and read: %+v, %v", again, err)
	}
	for name, change := range map[string][2]string{
		"small messages":   {"max-message-size:1073741823", "max-message-size:1000"},
		"negative size":    {"max-message-size:1073741823", "max-message-size:-1"},
		"weak fingerprint": {"sha-256", "sha-1"},
		"unknown hash":     {"sha-256", "sha-42"},
		"no user":          {"a=ice-ufrag", "a=x"},
		"media":            {"m=application", "m=video"},
	} {
		if _, err := parseDescription(strings.Replace(firefox, change[0], change[1], 1)); err == nil {
			t.Errorf("%s: read without an error", name)
		}
	}
	if err := d.certifies(nil); err == nil {
		t.Error("no certificate is accepted")
	}
}

func FuzzDescription(f *testing.F) {
	f.Add(firefox)
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDescription(s)
		if err != nil {
			return
		}
		again, err := parseDescription(d.String())
		if strings.ContainsAny(d.ufrag+d.pwd+d.setup+d.print, "\r\n ") {
			return // SDP has no way to write such values
		}
		d.print = strings.ToUpper(d.print)
		if err != nil || again != d {
			t.Fatalf("%+v came back as %+v, %v", d, again, err)
		}
	})
}
