package lend

// Several hosts may serve one job: one leads, the others stand by and say who does. A
// provider knows some of them from its user and learns the rest from the host that welcomes
// it. It tries one after the other.

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

// maxHosts bounds what a provider remembers.
const maxHosts = 2 * proto.MaxHosts

// hosts are the addresses at which a job's hosts may be found, the best first.
type hosts struct {
	mu  sync.Mutex
	all []string
}

// list returns a copy of the addresses.
func (h *hosts) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// front puts an address first.
func (h *hosts) front(at string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = slices.DeleteFunc(h.all, func(s string) bool { return s == at })
	h.all = slices.Insert(h.all, 0, at)
	h.all = h.all[:min(len(h.all), maxHosts)]
}

// learn adds the addresses that the host at from has told. The join token will be sent there,
// so what came over TLS leads to no host without.
func (h *hosts) learn(from string, told ...string) {
	secure := func(s string) bool {
		u, err := client.ParseURL(s)
		return err == nil && u.Scheme == "https"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range told {
		u, err := client.ParseURL(s)
		if err != nil || secure(from) && !secure(s) || len(h.all) >= maxHosts {
			continue
		}
		if s = u.String(); !slices.ContainsFunc(h.all, func(o string) bool { return same(o, s) }) {
			h.all = append(h.all, s)
		}
	}
}

// same tells whether two addresses are those of one host.
func same(a, b string) bool {
	u, err := client.ParseURL(a)
	v, err2 := client.ParseURL(b)
	return err == nil && err2 == nil && *u == *v
}

// first calls try for one host after the other, until one is found that answers with more
// than that it cannot be reached or that another leads.
func (h *hosts) first(try func(at string) error) error {
	var errs []error
	tried := map[string]bool{}
	for {
		at := ""
		for _, s := range h.list() {
			if !tried[s] {
				at = s
				break
			}
		}
		if at == "" {
			return none(errs)
		}
		tried[at] = true
		err := try(at)
		var pe *proto.Error
		switch {
		case err == nil:
			h.front(at)
			return nil
		case errors.As(err, &pe) && pe.Code == proto.Elsewhere:
			h.learn(at, pe.Host)
			for _, s := range h.list() {
				if pe.Host != "" && same(s, pe.Host) {
					h.front(s)
				}
			}
		case errors.As(err, &pe) || !errors.Is(err, client.ErrUnreachable) && !errors.Is(err, client.ErrLost):
			return err
		}
		errs = append(errs, err)
	}
}

// none is why no host could be joined.
func none(errs []error) error {
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}
