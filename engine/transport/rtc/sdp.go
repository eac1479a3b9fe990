//go:build !js

// The session description of a connection that carries one data channel and nothing
// else (RFC 8866, RFC 8841): a dozen lines, written and read here because that leaves
// the size of a packet to us. Whatever we do not know in a peer's description we skip,
// as section 5.13 of RFC 8866 asks.

package rtc

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/wire"
)

const (
	// sctpPort is the only one that any implementation offers.
	sctpPort = 5000
	// defaultMaxMessage stands where max-message-size is missing (RFC 8841, 6.1).
	defaultMaxMessage = 64 << 10
	// packetAttr says the largest SCTP packet that this side can take out of one UDP
	// datagram. It counts only where both ends have one and sit on one machine.
	packetAttr = "x-ravnest-packet"
)

// setup says who begins the DTLS handshake (RFC 8842).
type setup string

const (
	actpass setup = "actpass"
	active  setup = "active"
	passive setup = "passive"
)

// description is what matters in an SDP.
type description struct {
	ufrag, pwd  string
	fingerprint [32]byte // SHA-256 of the certificate
	setup       setup
	mid         string
	maxMessage  int      // 0: no limit
	packet      int      // 0: not said
	candidates  []string // that came along
}

// String writes the description as SDP.
func (d *description) String() string {
	var fp strings.Builder
	for i, b := range d.fingerprint {
		if i > 0 {
			fp.WriteByte(':')
		}
		fmt.Fprintf(&fp, "%02X", b)
	}
	return strings.Join([]string{
		"v=0",
		"o=- 1 1 IN IP4 0.0.0.0",
		"s=-",
		"t=0 0",
		"a=group:BUNDLE " + d.mid,
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
		"c=IN IP4 0.0.0.0",
		"a=mid:" + d.mid,
		"a=sendrecv",
		"a=ice-ufrag:" + d.ufrag,
		"a=ice-pwd:" + d.pwd,
		"a=ice-options:trickle",
		"a=fingerprint:sha-256 " + fp.String(),
		"a=setup:" + string(d.setup),
		"a=sctp-port:" + strconv.Itoa(sctpPort),
		"a=max-message-size:" + strconv.Itoa(d.maxMessage),
		"a=" + packetAttr + ":" + strconv.Itoa(d.packet),
		"",
	}, "\r\n")
}

// parseDescription reads a peer's SDP. Errors wrap ErrSignal.
func parseDescription(sdp string) (description, error) {
	d := description{maxMessage: defaultMaxMessage}
	bad := func(format string, a ...any) (description, error) {
		return description{}, fmt.Errorf("%w: the description %s", ErrSignal, fmt.Sprintf(format, a...))
	}
	if len(sdp) > MaxSDP {
		return bad("has %d bytes, the limit is %d", len(sdp), MaxSDP)
	}
	media, printed := false, false
	for line := range strings.SplitSeq(sdp, "\n") {
		line = strings.TrimRight(line, "\r")
		if rest, ok := strings.CutPrefix(line, "m="); ok {
			f := strings.Fields(rest)
			if media || len(f) < 4 || f[0] != "application" || f[1] == "0" || !strings.HasSuffix(f[2], "DTLS/SCTP") || f[3] != "webrtc-datachannel" {
				return bad("is not of one data channel: %.80q", line)
			}
			media = true
			continue
		}
		attr, ok := strings.CutPrefix(line, "a=")
		if !ok {
			continue
		}
		key, value, _ := strings.Cut(attr, ":")
		var err error
		switch key {
		case "ice-ufrag":
			d.ufrag = value
		case "ice-pwd":
			d.pwd = value
		case "fingerprint":
			hash, hexes, _ := strings.Cut(value, " ")
			if !strings.EqualFold(hash, "sha-256") {
				continue // another one may follow
			}
			var sum []byte
			if sum, err = hex.DecodeString(strings.ReplaceAll(hexes, ":", "")); err != nil || len(sum) != len(d.fingerprint) || len(hexes) != 3*len(d.fingerprint)-1 {
				return bad("has a fingerprint that is no SHA-256: %.100q", value)
			}
			copy(d.fingerprint[:], sum)
			printed = true
		case "setup":
			d.setup = setup(value)
		case "mid":
			d.mid = value
		case "sctp-port":
			if value != strconv.Itoa(sctpPort) {
				return bad("asks for SCTP port %.16q, this program speaks on %d", value, sctpPort)
			}
		case "max-message-size":
			if d.maxMessage, err = count(value); err != nil {
				return bad("has a max-message-size of %.32q", value)
			}
		case packetAttr:
			if d.packet, err = count(value); err != nil {
				return bad("has a packet size of %.32q", value)
			}
		case "candidate":
			if len(value) > MaxCandidate || len(d.candidates) == MaxCandidates {
				return bad("has too many or too long candidates")
			}
			d.candidates = append(d.candidates, value)
		}
	}
	switch {
	case !media:
		return bad("has no data channel")
	case !iceChars(d.ufrag, 4) || !iceChars(d.pwd, 22):
		return bad("has no valid ICE credentials")
	case !printed:
		return bad("has no SHA-256 fingerprint")
	case d.setup != actpass && d.setup != active && d.setup != passive:
		return bad("has a DTLS setup of %.32q", d.setup)
	case len(d.mid) > 32 || strings.ContainsAny(d.mid, " \t"):
		return bad("has a mid of %.40q", d.mid)
	case d.maxMessage != 0 && d.maxMessage < wire.MaxFrame:
		return bad("takes messages of %d bytes, a frame may have %d", d.maxMessage, wire.MaxFrame)
	}
	return d, nil
}

// count reads a number of bytes.
func count(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int(n), err
}

// iceChars checks a credential (RFC 8839, 5.4): min..256 letters, digits, + and /.
func iceChars(s string, least int) bool {
	if len(s) < least || len(s) > 256 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '/':
		default:
			return false
		}
	}
	return true
}
