// A data set in shards: made once, read by whoever trains.

package project

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native"
)

const (
	// ShardsDir is where Create puts a data set that is too large for one file.
	ShardsDir = "data.shards"
	// madeDir is where the shards of a data file are put that a job names.
	madeDir    = "node_data/shards"
	shardsFile = "index.json"
	maxIndex   = 256 << 20 // bytes of an index file: some millions of shards
)

// Progress is told how far a data set in the making is: rows read and to read, of both parts and
// over all passes. An error ends it; one of the first call, before any row is read, leaves what was there
// as it is.
type Progress func(done, total int) error

// shardIndex is shardsFile.
type shardIndex struct {
	Version int          `json:"version"`
	Bytes   int          `json:"bytes"` // of a shard, at most
	Source  shardSource  `json:"source,omitzero"`
	Train   *data.Packed `json:"train"`
	Val     *data.Packed `json:"val,omitempty"`
}

// shardSource is the file that shards were made of; one that has changed has others.
type shardSource struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Time int64  `json:"time"` // of its last change, nanoseconds
}

// Shards is a directory of shards.
type Shards struct {
	dir  string
	size map[string]int64 // by digest
	ix   shardIndex
}

// path is the file of a shard.
func (s *Shards) path(sum string) string { return filepath.Join(s.dir, sum[:2], sum) }

// Open opens a shard by its digest; fs.ErrNotExist where it is not of this data set.
func (s *Shards) Open(sum string) (*os.File, int64, error) {
	size, ok := s.size[sum]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	f, err := os.Open(s.path(sum))
	return f, size, err
}

// Len is the number of shards.
func (s *Shards) Len() int {
	if s == nil {
		return 0
	}
	return len(s.size)
}

// Bytes is the size of all shards.
func (s *Shards) Bytes() (n int64) {
	if s == nil {
		return 0
	}
	for _, size := range s.size {
		n += size
	}
	return n
}

// Fetch reads a shard: data.Fetch.
func (s *Shards) Fetch(_ context.Context, sh data.Shard) ([]byte, error) {
	b, err := read(s.path(hex.EncodeToString(sh.SHA256[:])), "shard", data.MaxShard*2)
	if err != nil {
		return nil, fmt.Errorf("%w: remove %s, and it will be made again", err, s.dir)
	}
	return b, nil
}

// openShards reads the shards in dir. A shard that is missing, or not whole, is ErrMissing.
func openShards(dir string) (*Shards, error) {
	path := filepath.Join(dir, shardsFile)
	b, err := read(path, "index of the data", maxIndex)
	if err != nil {
		return nil, err
	}
	s := &Shards{dir: dir, size: map[string]int64{}}
	if err := json.Unmarshal(b, &s.ix); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.ix.Version != 1 || s.ix.Train == nil || s.ix.Bytes < 1 {
		return nil, fmt.Errorf("%s: version %d, shards of %d bytes; this program reads version 1", path, s.ix.Version, s.ix.Bytes)
	}
	for _, p := range []*data.Packed{s.ix.Train, s.ix.Val} {
		if p == nil {
			continue
		}
		for _, t := range []data.PackedTable{p.X, p.Y} {
			if len(t.SHA256) != len(t.Size) {
				return nil, fmt.Errorf("%s: %d digests of %d shards", path, len(t.SHA256), len(t.Size))
			}
			for k, sum := range t.SHA256 {
				if len(sum) != sha256.Size {
					return nil, fmt.Errorf("%s: shard %d has a digest of %d bytes", path, k, len(sum))
				}
				s.size[hex.EncodeToString(sum)] = int64(t.Size[k])
			}
		}
	}
	for sum, size := range s.size {
		info, err := os.Stat(s.path(sum))
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() != size {
			return nil, fmt.Errorf("%w: shard %.12s in %s is not there, or not whole", ErrMissing, sum, dir)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// RawSet is a data set that is not in memory: its training part and, if it has one, that for
// validation.
type RawSet struct {
	TrainX, TrainY, ValX, ValY *data.Raw
}

// makeShards makes the shards of r in dir. Shards of another data set that lie there are removed.
func (p *Project) makeShards(rel string, r RawSet, size int, from shardSource, progress Progress) (*Shards, error) {
	if err := p.Inside(rel); err != nil {
		return nil, err
	}
	dir := filepath.Join(p.Dir, rel)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of the shards: %w", err)
	}
	s := &Shards{dir: dir, size: map[string]int64{}}
	put := func(sum [sha256.Size]byte, b []byte) error {
		name := hex.EncodeToString(sum[:])
		s.size[name] = int64(len(b))
		return s.put(name, b)
	}
	total, before := 3*r.TrainX.Rows, 0
	if r.ValX != nil {
		total += 3 * r.ValX.Rows
	}
	done := func(n int) error {
		if progress == nil {
			return nil
		}
		return progress(before+n, total)
	}
	if err := done(0); err != nil { // before anything is changed
		return nil, err
	}
	// Without an index, what is there is nothing: so it is while shards change.
	if err := os.Remove(filepath.Join(dir, shardsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ix := shardIndex{Version: 1, Bytes: size, Source: from}
	var err error
	if ix.Train, err = data.Pack(r.TrainX, r.TrainY, size, true, put, done); err != nil {
		return nil, err
	}
	if before = 3 * r.TrainX.Rows; r.ValX != nil {
		if ix.Val, err = data.Pack(r.ValX, r.ValY, size, false, put, done); err != nil {
			return nil, fmt.Errorf("validation: %w", err)
		}
	}
	b, err := json.Marshal(ix)
	if err != nil {
		return nil, err
	}
	if err := s.sweep(); err != nil {
		return nil, err
	}
	if err := native.WriteFile(filepath.Join(dir, shardsFile), b, 0o644); err != nil {
		return nil, err
	}
	s.ix = ix
	return s, nil
}

// put writes a shard. It is whole once it has its name; the index, which comes last, is what says
// that it is there.
func (s *Shards) put(name string, b []byte) error {
	path := s.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return fmt.Errorf("writing a shard: %w", err)
	}
	return os.Rename(tmp, path)
}

// sweep removes the shards that are not of s.
func (s *Shards) sweep() error {
	names, err := fs.Glob(os.DirFS(s.dir), "[0-9a-f][0-9a-f]/*")
	for _, n := range names {
		if _, ok := s.size[filepath.Base(n)]; !ok && err == nil {
			err = os.Remove(filepath.Join(s.dir, filepath.FromSlash(n)))
		}
	}
	return err
}

// loadShards opens the shards in the directory that the job names as its data.
func (p *Project) loadShards(path string) error {
	s, err := openShards(path)
	if err != nil {
		return err
	}
	if p.Job.Shards.On() && p.Job.Shards.Bytes != s.ix.Bytes {
		return fmt.Errorf("the shards in %s are of %d bytes, the job says %d: they are what the order of the rows follows from", path, s.ix.Bytes, p.Job.Shards.Bytes)
	}
	p.Job.Shards.Bytes = s.ix.Bytes
	return p.useShards(s)
}

// useShards makes s the data set.
func (p *Project) useShards(s *Shards) (err error) {
	sh := &p.Job.Shards
	sh.Group = sh.Shuffled()
	if p.Data, err = data.FromShards(p.Job.Data, s.ix.Train, s.ix.Val, sh.Group, inputShape(p.Graph), p.want()); err != nil {
		return err
	}
	sh.Inputs, sh.Targets = p.Data.LeastBytes(p.Job.BatchSize)
	p.Shards = s
	return nil
}

// inShards tells whether the file's tables are read by shards: the job says so, or they are
// larger than a table in memory may be. Those are given shards.
func (p *Project) inShards(f *safetensors.File) bool {
	for _, e := range f.Entries {
		if n := int64(e.Elems) * int64(data.Held(e.DType)); n > data.MaxBytes && !p.Job.Shards.On() {
			p.Job.Shards.Bytes = job.DefaultShard
		}
	}
	return p.Job.Shards.On()
}

// shard opens the shards of a data file, which are made where they are not there yet.
func (p *Project) shard(f *safetensors.File, file *os.File, progress Progress) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	from := shardSource{Name: p.Job.Data, Size: info.Size(), Time: info.ModTime().UnixNano()}
	s, err := openShards(filepath.Join(p.Dir, madeDir))
	if err == nil && s.ix.Source == from && s.ix.Bytes == p.Job.Shards.Bytes {
		return p.useShards(s)
	}
	r, err := RawSafetensors(f, p.want())
	if err == nil {
		s, err = p.makeShards(madeDir, r, p.Job.Shards.Bytes, from, progress)
	}
	if err != nil {
		return fmt.Errorf("data set %s: %w", p.Job.Data, err)
	}
	return p.useShards(s)
}

// RawSafetensors is the data set in a safetensors file, without reading it, in the fields that want
// asks for.
func RawSafetensors(f *safetensors.File, want *data.Want) (RawSet, error) {
	m := map[string]*data.Raw{}
	for _, e := range f.Entries {
		if len(e.Shape) == 0 {
			return RawSet{}, fmt.Errorf("%w: tensor %q is a scalar, which has no rows", data.ErrInvalid, e.Name)
		}
		m[e.Name] = &data.Raw{Rows: e.Shape[0], Shape: e.Shape[1:], DType: e.DType, R: f.Raw(e)}
	}
	t, err := data.JoinRaws(m, want)
	if err != nil {
		return RawSet{}, err
	}
	r := RawSet{TrainX: t[0], TrainY: t[1], ValX: t[2], ValY: t[3]}
	if r.TrainX == nil || r.TrainY == nil || r.TrainX.Rows == 0 || (r.ValX == nil) != (r.ValY == nil) {
		return r, fmt.Errorf("%w: train_x and train_y with at least one row are needed, val_x and val_y together or not at all", data.ErrInvalid)
	}
	return r, nil
}

// rawOf is the data set of a source that is too large for memory.
func rawOf(src Source) (RawSet, bool) {
	if r, ok := src.(RawSource); ok {
		return r.Raw()
	}
	return RawSet{}, false
}

// createShards makes the shards of a new job's data.
func (p *Project) createShards(r RawSet, progress Progress) error {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return fmt.Errorf("making the job's directory: %w", err)
	}
	s, err := p.makeShards(ShardsDir, r, p.Job.Shards.Bytes, shardSource{}, progress)
	if err != nil {
		return err
	}
	return p.useShards(s)
}
