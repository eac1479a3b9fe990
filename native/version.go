// What a program is, for people who report a fault.

package native

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Version says what matters of a program: its version, the protocol that it speaks, the numeric
// class of this machine, and what it was built by and for.
func Version(program, version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", program, version)
	fmt.Fprintf(&b, "protocol   %d (host and providers must speak the same)\n", proto.Version)
	fmt.Fprintf(&b, "numeric    %s (providers of one run are of the same class)\n", kernel.Class())
	fmt.Fprintf(&b, "built for  %s/%s by %s\n", runtime.GOOS, runtime.GOARCH, runtime.Version())
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b.String()
	}
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	if rev := set["vcs.revision"]; rev != "" {
		dirty := ""
		if set["vcs.modified"] == "true" {
			dirty = ", with changes"
		}
		fmt.Fprintf(&b, "revision   %.12s of %s%s\n", rev, set["vcs.time"], dirty)
	}
	return b.String()
}
