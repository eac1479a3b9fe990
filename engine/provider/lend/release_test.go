package lend

import (
	"strings"
	"testing"
)

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		own, host string
		told      bool
	}{
		{"ravnest-provider/v1.2.3", "ravnest/v1.3.0", true},
		{"ravnest-provider/v1.2.3", "ravnest/v1.10.0", true},
		{"ravnest-provider/v1.2.3-4-gabcdef0", "ravnest/v1.2.4", true},
		{"ravnest-provider/v1.2.3", "ravnest/v1.2.3-4-gabcdef0", false},
		{"ravnest-provider/v1.2.3", "ravnest/v1.2.3", false},
		{"ravnest-provider/v1.3.0", "ravnest/v1.2.9", false},
		{"ravnest-provider/dev", "ravnest/v1.2.3", false},
		{"ravnest-provider/v1.2.3", "ravnest/dev", false},
		{"ravnest-provider/v1.2.3", "", false},
		{"ravnest-tab/v1.2.3", "ravnest/v9;\n", false},
	} {
		s := older(c.own, c.host)
		if (s != "") != c.told {
			t.Errorf("%s at %s: %q", c.own, c.host, s)
		}
		if c.told && !strings.Contains(s, strings.TrimPrefix(c.host, "ravnest/")) {
			t.Errorf("%q does not name the host's release", s)
		}
	}
}
