package server

// Certificates in files.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Certificate is a TLS certificate in files, which are read again when they change.
type Certificate struct {
	certFile, keyFile string

	mu     sync.Mutex
	looked time.Time
	stamp  [2]time.Time
	cert   *tls.Certificate
}

// LoadCertificate reads a certificate and its key from PEM files.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificate) load() error {
	var stamp [2]time.Time
	for i, f := range []string{c.certFile, c.keyFile} {
		st, err := os.Stat(f)
		if err != nil {
			return fmt.Errorf("the TLS certificate: %w", err)
		}
		stamp[i] = st.ModTime()
	}
	if c.cert != nil && stamp == c.stamp {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("the TLS certificate %s with its key %s: %w", c.certFile, c.keyFile, err)
	}
	c.cert, c.stamp = &cert, stamp
	return nil
}

// certEvery is the shortest interval between checks for new files.
const certEvery = time.Second

// TLS returns a configuration that serves the certificate. If changed files cannot be read,
// the previous certificate stays in use.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if now := time.Now(); now.Sub(c.looked) >= certEvery {
				c.looked = now
				_ = c.load()
			}
			if c.cert == nil {
				return nil, errors.New("no certificate")
			}
			return c.cert, nil
		},
	}
}
