package main

// The two ends of a flow, each a process of its own. They talk to each other, line by line,
// over the parent's standard input and output until they are connected.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/rtc"
	"github.com/ravnest/ravnest/engine/wire"
)

var transports = []string{"link", "tls", "quic"}

// report is what an end says last.
type report struct {
	Seconds float64 `json:"s"`
	CPU     float64 `json:"cpu_s"`   // from the moment it was connected
	First   float64 `json:"first_s"` // median
}

func end(args []string) error {
	f := flag.NewFlagSet("end", flag.ExitOnError)
	role, over, at := f.String("role", "", ""), f.String("over", "", ""), f.String("at", "", "")
	total, message := f.Int("bytes", 0, ""), f.Int("message", 0, "")
	_ = f.Parse(args)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	lines := make(chan json.RawMessage, 64)
	go func() {
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			lines <- json.RawMessage(bytes.Clone(s.Bytes()))
		}
		close(lines)
	}()
	sends := *role == "send"
	var r report
	var err error
	if *over == "link" {
		r, err = overLink(ctx, sends, *at, *message, *total, lines)
	} else {
		var s io.ReadWriter
		if s, err = stream(ctx, *over, sends, *at, lines); err == nil {
			r, err = overStream(s, sends, *message, *total)
		}
	}
	for !sends && err == nil { // until the sender has left
		if _, ok := <-lines; !ok {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s over %s: %w", *role, *over, err)
	}
	b, _ := json.Marshal(r)
	fmt.Printf("report %s\n", b)
	return nil
}

// processor returns the processor time of this process in seconds.
func processor() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// since returns the report of what began at a time.
func since(began time.Time, cpu float64) report {
	return report{Seconds: time.Since(began).Seconds(), CPU: processor() - cpu}
}

func overLink(ctx context.Context, sends bool, at string, message, total int, lines <-chan json.RawMessage) (report, error) {
	e, err := rtc.NewEndpoint(rtc.Config{Loopback: at == "127.0.0.1", Machine: "here"})
	if err != nil {
		return report{}, err
	}
	defer e.Close()
	fmt.Printf("%s\n", e.Here())
	p, err := e.Connect(ctx, sends, <-lines, func(m json.RawMessage) error {
		_, err := fmt.Printf("%s\n", m)
		return err
	}, lines)
	if err != nil {
		return report{}, err
	}
	l := transport.NewLink(p, transport.Options{})
	defer l.Close()
	payload := make([]byte, message)
	take := func() error {
		m, err := l.Recv(ctx)
		if err == nil {
			m.Release()
		}
		return err
	}
	var first []float64 // what single messages take, and a byte back
	for range 5 {
		asked := time.Now()
		if sends {
			err = l.Send(ctx, wire.Header{Kind: wire.Activation}, payload)
		}
		if err == nil {
			err = take()
		}
		if err == nil && !sends {
			err = l.Send(ctx, wire.Header{Kind: wire.Activation}, payload[:1])
		}
		if err != nil {
			return report{}, err
		}
		first = append(first, time.Since(asked).Seconds())
	}
	slices.Sort(first)
	began, cpu := time.Now(), processor()
	if sends {
		for n := 0; n < total; n += message {
			if err := l.Send(ctx, wire.Header{Kind: wire.Activation}, payload); err != nil {
				return report{}, err
			}
		}
		if err := take(); err != nil {
			return report{}, err
		}
		r := since(began, cpu)
		r.First = first[len(first)/2]
		return r, nil
	}
	for n := 0; n < total; n += message {
		if err := take(); err != nil {
			return report{}, err
		}
	}
	if err := l.Send(ctx, wire.Header{Kind: wire.Activation}, payload[:1]); err != nil {
		return report{}, err
	}
	r := since(began, cpu)
	_, _ = l.Recv(ctx) // the sender leaves first
	return r, nil
}

func overStream(s io.ReadWriter, sends bool, message, total int) (report, error) {
	buf := make([]byte, message)
	if sends { // a byte first, so that the other side has the stream
		if _, err := s.Write(buf[:1]); err != nil {
			return report{}, err
		}
	} else if _, err := io.ReadFull(s, buf[:1]); err != nil {
		return report{}, err
	}
	began, cpu := time.Now(), processor()
	if sends {
		for n := 0; n < total; n += message {
			if _, err := s.Write(buf); err != nil {
				return report{}, err
			}
		}
		_, err := io.ReadFull(s, buf[:1])
		return since(began, cpu), err
	}
	for n := 0; n < total; n += message {
		if _, err := io.ReadFull(s, buf); err != nil {
			return report{}, err
		}
	}
	_, err := s.Write(buf[:1])
	return since(began, cpu), err
}

// stream connects over TLS or QUIC.
func stream(ctx context.Context, over string, sends bool, at string, lines <-chan json.RawMessage) (io.ReadWriter, error) {
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"wire"}, MinVersion: tls.VersionTLS13}
	if !sends {
		cert, err := certificate()
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	windows := &quic.Config{InitialStreamReceiveWindow: 8 << 20, MaxStreamReceiveWindow: 8 << 20, InitialConnectionReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 16 << 20}
	switch {
	case over == "tls" && sends:
		return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", string(<-lines))
	case over == "tls":
		l, err := tls.Listen("tcp", at+":0", conf)
		if err != nil {
			return nil, err
		}
		fmt.Println(l.Addr())
		return l.Accept()
	case over == "quic" && sends:
		c, err := quic.DialAddr(ctx, string(<-lines), conf, windows)
		if err != nil {
			return nil, err
		}
		return c.OpenStreamSync(ctx)
	case over == "quic":
		u, err := net.ListenPacket("udp", at+":0")
		if err != nil {
			return nil, err
		}
		l, err := quic.Listen(u, conf, windows)
		if err != nil {
			return nil, err
		}
		fmt.Println(l.Addr())
		c, err := l.Accept(ctx)
		if err != nil {
			return nil, err
		}
		return c.AcceptStream(ctx)
	}
	return nil, errors.New("no such transport")
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
