// The manifest: which parts make a checkpoint, and where they are. It is what fuse, eval
// and a run that is resumed read; a part that no manifest names does not count.

package snapshot

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// Limits of a manifest.
const (
	MaxManifest = 8 << 20 // bytes of JSON
	maxParts    = 1 << 16
	maxText     = 1024 // bytes of a name
)

// What a part holds.
const (
	Weights    = "weights"
	Statistics = "statistics" // running ones, of batch norm
	Optimiser  = "optimizer"  // the optimiser's state
)

// Segment is the nodes [From, To) of the whole graph.
type Segment struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Entry names one part.
type Entry struct {
	Cluster  int      `json:"cluster"`
	Stage    int      `json:"stage"`
	Segment  Segment  `json:"segment"`
	Object   string   `json:"object"` // where the store has it
	SHA256   string   `json:"sha256"`
	Size     int64    `json:"size"`
	Holds    []string `json:"holds"`
	Provider string   `json:"provider"` // who made it, for people
}

// Manifest is a checkpoint.
type Manifest struct {
	Version    int            `json:"version"`
	Run        string         `json:"run"`
	Generation int            `json:"generation"` // of the assignment that it was made in
	Position   order.Position `json:"position"`
	// Record says how many replicas the run had from which step on, where that is the host's
	// choice.
	Record []order.Period `json:"record,omitempty"`
	Parts  []Entry        `json:"parts"` // by cluster, then by stage
}

// Check validates the manifest: every cluster that is in it has all nodes once, in stages
// that follow one another. nodes is the number of nodes of the model, 0 if not known. The
// errors wrap ErrFormat.
func (m *Manifest) Check(nodes int) error {
	switch p := m.Position; {
	case m.Version != Version:
		return bad("manifest version %d, this program reads version %d", m.Version, Version)
	case !plain(m.Run):
		return bad("run %.80q", m.Run)
	case m.Generation < 0:
		return bad("generation %d", m.Generation)
	case p.Epoch < 0 || p.Batch < 0:
		return bad("epoch %d, batch %d", p.Epoch, p.Batch)
	case len(m.Parts) == 0 || len(m.Parts) > maxParts:
		return bad("%d parts", len(m.Parts))
	}
	if err := order.CheckRecord(m.Record); err != nil {
		return bad("%w", err)
	}
	if n := len(m.Record); n > 0 && m.Record[n-1].Step > m.Position.Step {
		return bad("its record goes on to step %d, it is of step %d", m.Record[n-1].Step, m.Position.Step)
	}
	for i := range m.Parts {
		if err := m.Parts[i].check(); err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		}
	}
	for i, e := range m.Parts {
		begins := i == 0 || m.Parts[i-1].Cluster != e.Cluster
		ends := i+1 == len(m.Parts) || m.Parts[i+1].Cluster != e.Cluster
		switch {
		case i > 0 && e.Cluster < m.Parts[i-1].Cluster:
			return bad("part %d is of cluster %d, the one before it of cluster %d", i, e.Cluster, m.Parts[i-1].Cluster)
		case begins && (e.Stage != 0 || e.Segment.From != 0):
			return bad("cluster %d begins with stage %d at node %d", e.Cluster, e.Stage, e.Segment.From)
		case !begins && (e.Stage != m.Parts[i-1].Stage+1 || e.Segment.From != m.Parts[i-1].Segment.To):
			return bad("cluster %d: stage %d at node %d follows stage %d, which ends at node %d", e.Cluster, e.Stage, e.Segment.From, m.Parts[i-1].Stage, m.Parts[i-1].Segment.To)
		}
		if nodes == 0 {
			nodes = m.last(i)
		}
		if ends && e.Segment.To != nodes {
			return bad("cluster %d ends at node %d of %d", e.Cluster, e.Segment.To, nodes)
		}
	}
	return nil
}

// last is the end of the cluster that part i is of.
func (m *Manifest) last(i int) int {
	n := 0
	for _, e := range m.Parts[i:] {
		if e.Cluster == m.Parts[i].Cluster {
			n = max(n, e.Segment.To)
		}
	}
	return n
}

func (e *Entry) check() error {
	sum, err := hex.DecodeString(e.SHA256)
	switch {
	case e.Cluster < 0 || e.Stage < 0:
		return bad("stage %d of cluster %d", e.Stage, e.Cluster)
	case e.Segment.From < 0 || e.Segment.To <= e.Segment.From:
		return bad("nodes %d to %d", e.Segment.From, e.Segment.To)
	case !plain(e.Object):
		return bad("object %.80q", e.Object)
	case err != nil || len(sum) != sha256.Size || hex.EncodeToString(sum) != e.SHA256:
		return bad("digest %.80q", e.SHA256)
	case e.Size <= 0:
		return bad("%d bytes", e.Size)
	case e.Provider != "" && !plain(e.Provider):
		return bad("provider %.80q", e.Provider)
	case !slices.Contains(e.Holds, Weights):
		return bad("it holds no weights")
	}
	for i, h := range e.Holds {
		if (h != Weights && h != Statistics && h != Optimiser) || slices.Contains(e.Holds[:i], h) {
			return bad("it holds %.80q", h)
		}
	}
	return nil
}

// plain tells whether a name is short, not empty and can be shown as it is.
func plain(s string) bool {
	if s == "" || len(s) > maxText || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Sort puts the parts into their order.
func (m *Manifest) Sort() {
	slices.SortFunc(m.Parts, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Stage, b.Stage))
	})
}

// JSON is the manifest's file. It fails if the manifest does not stand its own Check.
func (m *Manifest) JSON() ([]byte, error) {
	if err := m.Check(0); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// ParseManifest decodes and checks a manifest.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, bad("a manifest of %d bytes, at most %d are read", len(b), MaxManifest)
	}
	m := &Manifest{}
	if err := decode(b, m); err != nil {
		return nil, err
	}
	return m, m.Check(0)
}

// Overlapping is the parts of a cluster that hold something of the segment.
func (m *Manifest) Overlapping(cluster int, s Segment) []Entry {
	var es []Entry
	for _, e := range m.Parts {
		if e.Cluster == cluster && e.Segment.From < s.To && s.From < e.Segment.To {
			es = append(es, e)
		}
	}
	return es
}

// Open reads the part from r, which must have the digest and size that the manifest says,
// and must be of the manifest's position.
func (m *Manifest) Open(e Entry, r io.Reader) (*Part, error) {
	h := sha256.New()
	var b bytes.Buffer
	var all io.Writer = io.MultiWriter(h, &b)
	file, again := r.(io.ReaderAt)
	if again { // it need not be held beside the part
		all = h
	}
	n, err := io.Copy(all, io.LimitReader(r, e.Size+1))
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", e.Object, err)
	}
	if n != e.Size {
		return nil, bad("object %s has %d bytes or more, the manifest says %d", e.Object, n, e.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != e.SHA256 {
		return nil, bad("object %s has digest %s, the manifest says %s", e.Object, got, e.SHA256)
	}
	if !again {
		file = bytes.NewReader(b.Bytes())
	}
	p, err := Read(file, n)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", e.Object, err)
	}
	if p.Position != m.Position {
		return nil, bad("object %s is of step %d, the manifest of step %d", e.Object, p.Position.Step, m.Position.Step)
	}
	return p, nil
}
