//go:build !linux

package server

import "net"

// answering leaves it to the system from which of its addresses a socket answers.
func answering(c *net.UDPConn) net.PacketConn { return c }
