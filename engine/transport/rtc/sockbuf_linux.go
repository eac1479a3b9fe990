package rtc

import (
	"net"
	"syscall"
)

// granted returns the size of the read buffer that the kernel gave a socket, by its own
// accounting: Linux doubles what is requested.
func granted(c *net.UDPConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if err := raw.Control(func(fd uintptr) {
		n, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
	}); err != nil {
		return 0
	}
	return n / 2
}
