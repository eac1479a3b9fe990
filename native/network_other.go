//go:build !linux

package native

import "os"

// Processor returns an identifier of this machine's processors: two processes with the same one
// share them. "" means unknown.
func Processor() string { return Network() }

// Network returns an identifier of this machine's network: two processes with the same one
// share a loopback interface. "" means unknown.
func Network() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
