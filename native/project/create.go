// Writing a new job: an example, or a model and data of the user's.

package project

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native"
)

// dataFile is the name of the data file that Create writes.
const dataFile = "data.safetensors"

// Source provides the data set for a model, and the names of its classes by number, or nil if
// they have none. It is implemented by dataset.Source.
type Source interface {
	Set(in []int, want *data.Want) (*data.Set, error)
	Names() []string
}

// RawSource is a Source of a data set that may be too large for memory.
type RawSource interface {
	Source
	// Raw gives it without reading it; false: it is not too large.
	Raw() (RawSet, bool)
}

// Tokenized is a Source whose tokens a tokenizer.json has made; nil: none has.
type Tokenized interface{ TokenizerJSON() []byte }

// Tabular is a Source that read a table with named columns; nil: it is another.
type Tabular interface{ Columns() []data.Column }

// Init writes an example job into dir: job, model and the walkthrough's pool of n
// nodes. Existing files are not overwritten.
func Init(dir, example string, n int, change func(*job.Spec)) error {
	e, err := zoo.Find(example)
	if err != nil {
		return err
	}
	j := e.Job
	if change != nil {
		change(&j)
	}
	return Create(dir, j, e.Graph, n, nil, nil, nil)
}

// Create writes a job into dir: job, model, the walkthrough's pool of n nodes and, unless they
// are nil, the data and the initial weights as safetensors files that the job names, and the
// rest of PyTorch's state dict. An invalid job is refused before anything is written; existing
// files are not overwritten.
func Create(dir string, j job.Spec, g *graph.Graph, n int, src Source, begin *Begin, progress Progress) (err error) {
	if Exists(dir) {
		return fmt.Errorf("%s already holds a job: choose another directory or remove %s", dir, JobFile)
	}
	raw, large := rawOf(src)
	switch {
	case large:
		if j.Data = ShardsDir; !j.Shards.On() {
			j.Shards.Bytes = job.DefaultShard
		}
	case src != nil:
		j.Data = dataFile
	}
	if begin != nil {
		j.Weights = InitialFile
	}
	if err := j.Check(); err != nil {
		return err
	}
	model, err := g.JSON()
	if err != nil {
		return err
	}
	p := &Project{Dir: dir, Job: j, Graph: g}
	if err := p.learn(); err != nil {
		return err
	}
	switch {
	case large:
		if _, err := os.Lstat(filepath.Join(dir, ShardsDir)); err == nil {
			return fmt.Errorf("%s already holds %s: choose another directory or remove it", dir, ShardsDir)
		}
		defer func() { // those that were made here
			if err != nil {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, ShardsDir)))
			}
		}()
		err = p.createShards(raw, progress)
	case src == nil:
		err = p.load(nil)
	default:
		p.Data, err = src.Set(inputShape(g), p.want())
	}
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "node_data"), 0o755); err != nil {
		return fmt.Errorf("creating the job's directory: %w", err)
	}
	if src != nil {
		if err := p.writeSource(src, large); err != nil {
			return err
		}
	}
	if begin != nil {
		if err := p.saveBegin(begin); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{j.Model, model}, {ConfigsFile, configs(n)}, {JobFile, p.Job.JSON()}} { // the job last: it makes the directory a project
		if err := p.write(f.name, f.data); err != nil {
			return err
		}
	}
	return nil
}

// writeSource writes what a source has brought beside the shards of a large one: the data, the names
// of classes and columns, and the tokenizer.
func (p *Project) writeSource(src Source, large bool) error {
	if !large {
		if err := p.Inside(dataFile); err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(p.Dir, dataFile)); err == nil {
			return fmt.Errorf("%s already holds %s: choose another directory or remove it", p.Dir, dataFile)
		}
		if err := native.Save(filepath.Join(p.Dir, dataFile), 0o644, func(w io.Writer) error { return p.Data.WriteSafetensors(w, p.want()) }); err != nil {
			return err
		}
	}
	if err := p.writeClasses(src.Names()); err != nil {
		return err
	}
	if t, ok := src.(Tabular); ok && t.Columns() != nil {
		if err := p.writeJSON(ColumnsFile, t.Columns()); err != nil {
			return err
		}
	}
	if t, ok := src.(Tokenized); ok && t.TokenizerJSON() != nil {
		return p.write(TokenizerFile, t.TokenizerJSON())
	}
	return nil
}
