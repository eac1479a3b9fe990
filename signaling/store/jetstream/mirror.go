package jetstream

// The copy of the job's state that every host has.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
)

// Mirror makes the cache of a host that does not lead yet what NATS has. parts: large objects
// too, which are fetched otherwise when they are asked for.
func (s *Store) Mirror(ctx context.Context, parts bool) error {
	all, err := s.entries(ctx)
	if err != nil {
		return err
	}
	have, err := s.opt.Cache.List(ctx, "")
	if err != nil {
		return err
	}
	for _, name := range have {
		if _, ok := all[name]; !ok {
			if err := s.opt.Cache.Delete(ctx, name); err != nil {
				return err
			}
		}
	}
	// Large objects first: whoever reads the cache finds no manifest without its parts.
	for _, e := range all {
		if !parts || e.Part == "" {
			continue
		}
		if r, err := s.opt.Cache.Get(ctx, e.Name); err == nil {
			_ = r.Close()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		} else if err := s.fetch(ctx, e); err != nil {
			return err
		}
	}
	for _, e := range all {
		if e.Part != "" || s.holds(ctx, e) {
			continue
		}
		if err := s.opt.Cache.Put(ctx, e.Name, bytes.NewReader(e.Data)); err != nil {
			return err
		}
	}
	return nil
}

// holds tells whether the cache has a small object.
func (s *Store) holds(ctx context.Context, e entry) bool {
	r, err := s.opt.Cache.Get(ctx, e.Name)
	if err != nil {
		return false
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, e.Size+1))
	return err == nil && bytes.Equal(b, e.Data)
}

// copier copies checkpoints in the background while a host stands by, so that it can lead at
// once, and so that there is one copy more.
type copier struct {
	s    *Store
	seq  uint64 // of the manifest copied last
	busy chan struct{}
	end  context.CancelFunc
}

// look begins a copy if there is a checkpoint that is not here.
func (c *copier) look(ctx context.Context) {
	if c.busy != nil {
		select {
		case <-c.busy:
			c.busy = nil
		default:
			return
		}
	}
	var e entry
	tctx, stop := context.WithTimeout(ctx, oneTry)
	seq, err := c.s.last(tctx, "obj."+token(c.s.opt.Manifest), &e)
	stop()
	if err != nil || seq == 0 || seq == c.seq {
		return
	}
	cctx, end := context.WithCancel(ctx)
	busy := make(chan struct{})
	c.busy, c.end, c.seq = busy, end, seq
	go func() {
		defer close(busy)
		defer end()
		_ = c.s.Mirror(cctx, true) // what fails now is copied with the next one, or when it is needed
	}()
}

// stop ends a copy that is under way.
func (c *copier) stop() {
	if c.busy != nil {
		c.end()
		<-c.busy
		c.busy = nil
	}
}
