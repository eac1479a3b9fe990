//go:build unix

package native

import (
	"slices"
	"strings"
	"testing"
)

func TestScrub(t *testing.T) {
	for _, c := range []struct{ in, args, env string }{
		{"p --join http://h", "p --join http://h", ""},
		{"p --join http://h --token s --once", "p --join http://h --once", "RAVNEST_TOKEN=s"},
		{"p --token=s=t -token u", "p", "RAVNEST_TOKEN=s=t RAVNEST_TOKEN=u"},
		{"p --join https://h/#token=s doctor", "p doctor", "RAVNEST_JOIN=https://h/#token=s"},
		{"p --join=https://h/#token=s", "p", "RAVNEST_JOIN=https://h/#token=s"},
		{"p --join http://a --once --join https://h/#token=s", "p --once", "RAVNEST_JOIN=http://a,https://h/#token=s"},
		{"p --nats nats://h", "p --nats nats://h", ""},
		{"p --nats nats://u:p@h d", "p d", "RAVNEST_NATS=nats://u:p@h"},
		{"p doctor -- --token s", "p doctor -- --token s", ""},
		{"p --token", "p --token", ""},
		{"p --tokens s --token-file f", "p --tokens s --token-file f", ""},
	} {
		args, env := scrub(strings.Fields(c.in))
		if !slices.Equal(args, strings.Fields(c.args)) || !slices.Equal(env, strings.Fields(c.env)) {
			t.Errorf("%s: %q %q", c.in, args, env)
		}
	}
}
