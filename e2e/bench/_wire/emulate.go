package main

// An emulated network between two namespaces, since not every kernel has netem.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// emulated is a network that is up.
type emulated struct {
	names [2]string
	tuns  [2]*os.File
	wg    sync.WaitGroup
}

// address returns the address of an end.
func address(k int) string { return fmt.Sprintf("10.213.7.%d", k+1) }

// emulate makes two namespaces, with a TUN device each, and carries packets between them.
func emulate(n network) (*emulated, error) {
	e := &emulated{}
	for k := range e.names {
		e.names[k] = fmt.Sprintf("wire%d-%d", k, os.Getpid())
		if out, err := exec.Command("ip", "netns", "add", e.names[k]).CombinedOutput(); err != nil {
			e.close()
			return nil, fmt.Errorf("making a network namespace: %w: %s", err, out)
		}
		var err error
		if e.tuns[k], err = tun(e.names[k]); err != nil {
			e.close()
			return nil, fmt.Errorf("making a TUN device: %w", err)
		}
		for _, args := range [][]string{{"addr", "add", address(k) + "/24", "dev", "wire"}, {"link", "set", "wire", "up", "txqueuelen", "2000"}, {"link", "set", "lo", "up"}} {
			if out, err := exec.Command("ip", append([]string{"-n", e.names[k]}, args...)...).CombinedOutput(); err != nil {
				e.close()
				return nil, fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
	}
	for k := range e.tuns {
		e.wg.Go(func() { carry(n, e.tuns[k], e.tuns[1-k], uint64(k)) })
	}
	return e, nil
}

func (e *emulated) close() {
	for k, name := range e.names {
		if e.tuns[k] != nil {
			_ = e.tuns[k].Close()
		}
		if name != "" {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	}
	e.wg.Wait()
}

// tun makes a device in a namespace.
func tun(ns string) (*os.File, error) {
	type made struct {
		f   *os.File
		err error
	}
	c := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f, err := func() (*os.File, error) {
			at, err := os.Open("/var/run/netns/" + ns)
			if err != nil {
				return nil, err
			}
			defer at.Close()
			if err := unix.Setns(int(at.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			req, err := unix.NewIfreq("wire")
			if err != nil {
				return nil, err
			}
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
				_ = unix.Close(fd)
				return nil, err
			}
			return os.NewFile(uintptr(fd), "tun"), nil
		}()
		c <- made{f, err}
	}()
	m := <-c
	return m.f, m.err
}

// carry takes packets from one device to the other until one is closed.
func carry(n network, from, to *os.File, seed uint64) {
	type packet struct {
		at time.Time
		b  []byte
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	way := make(chan packet, 1<<14)
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.b); errors.Is(err, os.ErrClosed) {
				return
			}
		}
	})
	var free time.Time // when the queue will be empty
	buf := make([]byte, 1<<16)
	for {
		k, err := from.Read(buf)
		if err != nil {
			break
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if free.Sub(now).Seconds()*n.Rate > float64(n.Queue) {
			continue
		}
		free = free.Add(time.Duration(float64(k) / n.Rate * 1e9))
		if rng.Float64() >= n.Loss {
			select {
			case way <- packet{free.Add(n.Delay), append([]byte(nil), buf[:k]...)}:
			default:
			}
		}
	}
	close(way)
	wg.Wait()
}
