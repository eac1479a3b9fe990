//go:build !linux

package native

import "os"

// Network names this machine's network, for comparison only: two processes of which it is
// the same share a loopback interface. "" if that is not known.
func Network() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
