package lend

import (
	"fmt"
	"strings"

	"golang.org/x/mod/semver"
)

// older says what to do if this program is of an older release than the host's. Both are agents,
// such as "ravnest/v1.2.3"; of programs that are none of a release nothing is said.
func older(own, host string) string {
	a, b := release(own), release(host)
	if a == "" || b == "" || semver.Compare(a, b) >= 0 {
		return ""
	}
	return fmt.Sprintf("the host runs release %s, and this provider is of %s: it still works; get %s from where you got this one, or reload the page", b, a, b)
}

// release returns the release of an agent, without what git describe adds to one; "": none.
func release(agent string) string {
	_, v, _ := strings.Cut(agent, "/")
	v = semver.Canonical(v)
	return strings.TrimSuffix(strings.TrimSuffix(v, semver.Build(v)), semver.Prerelease(v))
}
