package runtest

import (
	"strings"

	"github.com/ravnest/ravnest/signaling/proto"
)

// sums is a digest's text. What it says does not matter to the machine.
var sums = strings.Repeat("0123456789abcdef", 4)

// sayOften is how many digests a provider keeps before it tells the host, so that some are lost
// with it.
const sayOften = 4

// says adds the digest of an update, or of a round's average, if the job asks for them.
func (p *Provider) says(step int64, round bool) {
	if !p.w.audit {
		return
	}
	p.said = append(p.said, proto.Digest{Step: step, Round: round, Sums: sums})
	if len(p.said) >= sayOften {
		p.tell()
	}
}

// tell tells the host the digests that it has not been told. It comes before a state.
func (p *Provider) tell() {
	if len(p.said) == 0 {
		return
	}
	m := &proto.Progress{Run: p.a.Run, Stage: p.a.Stage, Step: int64(p.at), Digests: p.said}
	p.said = nil
	p.toHost(m)
}
