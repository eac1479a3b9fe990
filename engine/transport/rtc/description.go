//go:build !js

// Session descriptions of one data channel (RFC 8841), as browsers write and read them.

package rtc

import (
	"crypto"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/pion/dtls/v3/pkg/crypto/fingerprint"
	"github.com/pion/sdp/v3"
	"github.com/ravnest/ravnest/engine/wire"
)

// description is what one side says about itself.
type description struct {
	ufrag, pwd string // of ICE
	hash       crypto.Hash
	print      string // the certificate's fingerprint
	setup      string // which side begins DTLS: actpass (the other may choose), active or passive
	message    int    // the size limit of messages; 0: none
}

// String returns the description as SDP.
func (d description) String() string {
	name, err := fingerprint.StringFromHash(d.hash)
	if err != nil {
		panic(err) // ours is SHA-256
	}
	return strings.Join([]string{
		"v=0",
		fmt.Sprintf("o=- %d 1 IN IP4 0.0.0.0", rand.Uint64()>>1),
		"s=-",
		"t=0 0",
		"a=fingerprint:" + name + " " + strings.ToUpper(d.print),
		"a=group:BUNDLE 0",
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
		"c=IN IP4 0.0.0.0",
		"a=setup:" + d.setup,
		"a=mid:0",
		"a=sendrecv",
		"a=sctp-port:5000",
		fmt.Sprintf("a=max-message-size:%d", d.message),
		"a=ice-ufrag:" + d.ufrag,
		"a=ice-pwd:" + d.pwd,
		"a=ice-options:trickle",
		"",
	}, "\r\n")
}

// parseDescription reads a peer's description. Attributes of the only medium win over those of
// the session.
func parseDescription(s string) (description, error) {
	d := description{message: 64 << 10} // RFC 8841, section 6.1
	var sd sdp.SessionDescription
	if err := sd.UnmarshalString(s); err != nil {
		return d, fmt.Errorf("malformed SDP: %w", err)
	}
	if len(sd.MediaDescriptions) != 1 || sd.MediaDescriptions[0].MediaName.Media != "application" {
		return d, errors.New("it must describe a data channel and nothing else")
	}
	m := sd.MediaDescriptions[0]
	value := func(key string) string {
		if v, ok := m.Attribute(key); ok {
			return v
		}
		v, _ := sd.Attribute(key)
		return v
	}
	d.ufrag, d.pwd, d.setup = value("ice-ufrag"), value("ice-pwd"), value("setup")
	if d.ufrag == "" || d.pwd == "" {
		return d, errors.New("it has no credentials for ICE")
	}
	if v := value("max-message-size"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > 0 && n < wire.MaxFrame {
			return d, fmt.Errorf("its limit for messages is %.20q, want at least %d", v, wire.MaxFrame)
		}
		d.message = n
	}
	name, print, ok := strings.Cut(value("fingerprint"), " ")
	if !ok {
		return d, errors.New("it has no fingerprint of a certificate")
	}
	hash, err := fingerprint.HashFromString(name)
	if err != nil || hash == crypto.MD5 || hash == crypto.SHA1 || !hash.Available() {
		return d, fmt.Errorf("a fingerprint by %.20q, want sha-256", name)
	}
	d.hash, d.print = hash, print
	return d, nil
}

// certifies checks that a certificate is the one that the description promised.
func (d description) certifies(chain [][]byte) error {
	if len(chain) == 0 {
		return errors.New("the peer has no certificate")
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("the peer's certificate: %w", err)
	}
	got, err := fingerprint.Fingerprint(cert, d.hash)
	if err != nil {
		return fmt.Errorf("the peer's certificate: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(strings.ToLower(got)), []byte(strings.ToLower(d.print))) != 1 {
		return errors.New("the peer's certificate is not the one that its description promised")
	}
	return nil
}
