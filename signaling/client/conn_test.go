//go:build !js

package client

import (
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// at is a connection from an address.
type at struct {
	net.Conn
	ip   net.IP
	gone chan struct{}
}

func (c at) LocalAddr() net.Addr { return &net.TCPAddr{IP: c.ip, Port: 1} }

func (c at) Close() error {
	close(c.gone)
	return nil
}

// TestKept checks that a connection is closed soon after its address has gone, and neither
// before nor because the system does not tell.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var now []net.Addr
		var err error
		become := func(addrs []net.Addr, e error) {
			mu.Lock()
			defer mu.Unlock()
			now, err = addrs, e
		}
		c := at{ip: net.IPv4(192, 0, 2, 7), gone: make(chan struct{})}
		k := &kept{Conn: c, closed: make(chan struct{}), addresses: func() ([]net.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			return now, err
		}}
		here := &net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}
		other := &net.IPNet{IP: net.ParseIP("192.0.2.8"), Mask: net.CIDRMask(24, 32)}
		closed := func() bool {
			time.Sleep(2 * lookout)
			synctest.Wait()
			select {
			case <-c.gone:
				return true
			default:
				return false
			}
		}
		become([]net.Addr{other, here}, nil)
		go k.watch()
		if closed() {
			t.Fatal("closed while its address is there")
		}
		become(nil, errors.New("the system is busy"))
		if closed() {
			t.Fatal("closed because the system does not tell")
		}
		become([]net.Addr{other}, nil)
		if !closed() {
			t.Error("still open without its address")
		}
	})
}
